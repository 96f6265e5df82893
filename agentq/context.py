"""A task's context document: brought into the store, or used where it lies in it."""

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from agentq.errors import Invalid
from agentq.messages import is_key, sha256_hex
from agentq.store import Store

CONTEXT_LIMIT = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Context:
    """A document: `ref` when it lies in the store already, else only its content, to be put there."""

    data: bytes
    ref: str | None = None

    @property
    def sha256(self) -> str:
        """The digest of its content."""
        return sha256_hex(self.data)


def read_context(store: Store, path: Path) -> Context:
    """Read a document from a file; raises Invalid when it cannot be used or its path leaves the store."""
    _stay_inside(store, path)
    data = read_file(path)
    return Context(data, _ref_of(store, path.resolve(), data))


def context_at(store: Store, ref: str) -> Context:
    """The document behind a ref into the store; raises Invalid when there is none."""
    hint = "Give a ref of this store, or the file with --file."
    try:
        key = store.key(ref)
        data = store.get(key) if key else None
    except Invalid as error:
        raise Invalid(str(error), hint=hint) from error
    if data is None:
        raise Invalid(f"{ref} is nothing in {store.url}", hint=hint)
    return Context(check_text(data, ref), ref)


def read_file(path: Path) -> bytes:
    """The content of a text file; raises Invalid when it is missing, unreadable, too long or not UTF-8."""
    try:
        with path.open("rb") as stream:
            data = stream.read(CONTEXT_LIMIT + 1)
    except OSError as error:
        raise Invalid(f"{path} cannot be read: {error.strerror}", hint="Check the path and its permissions.") from error
    return check_text(data, str(path))


def check_text(data: bytes, name: str) -> bytes:
    """The data itself; raises Invalid unless it is UTF-8 text that says something, of at most 16 MiB."""
    if len(data) > CONTEXT_LIMIT:
        raise Invalid(f"{name} is larger than {CONTEXT_LIMIT >> 20} MiB", hint="Name large inputs in a text.")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise Invalid(f"{name} is not UTF-8 (byte {error.start})", hint="Convert it to UTF-8.") from error
    if not text.strip():
        raise Invalid(f"{name} is empty", hint="Give a text that says something.")
    return data


def task_id_of(path: Path) -> str | None:
    """The id that a file gives its task: `tasks/task-123.md` is task-123, as in the store's own layout."""
    named = path.absolute().parent.name == "tasks" and path.suffix == ".md" and is_key(path.stem, 128)
    return path.stem if named else None


def _stay_inside(store: Store, path: Path) -> None:
    """Refuse a path that names the store and leaves it by `..` or a link."""
    root = _root(store)
    if root is None:
        return
    if path.absolute().parts[: len(root.parts)] == root.parts and not path.resolve().is_relative_to(root.resolve()):
        raise Invalid(f"{path} leaves the store {store.url}", hint="Give the file by its own path.")


def _ref_of(store: Store, path: Path, data: bytes) -> str | None:
    """The ref of a file that lies in the store under a usable key, else None."""
    root = _root(store)
    if root is None or not path.is_relative_to(root.resolve()):
        return None
    try:
        key = path.relative_to(root.resolve()).as_posix()
        return store.ref(key) if store.get(key) == data else None
    except Invalid:
        return None


def _root(store: Store) -> Path | None:
    return Path(unquote(store.url.removeprefix("file://"))) if store.url.startswith("file://") else None
