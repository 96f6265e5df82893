"""The file store: every object is a file below one folder, which several machines may share."""

import errno
import hashlib
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, NoReturn, TypeVar
from urllib.parse import unquote

from agentq.errors import Invalid, StoreUnavailable
from agentq.store import Stored, is_segment, segments, unwatched
from agentq.stores.source import open_source, read_source

_FOLDER_RACES = 100
_TEMPORARY = ".tmp-"
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_ABSENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError)

_WHY = {
    errno.ENOSPC: ("the store's disk is full", "free some space (`agentq store gc` removes old evidence), then repeat"),
    errno.EDQUOT: ("the store's disk quota is used up", "free some space (`agentq store gc`), then repeat"),
    errno.EFBIG: ("the file is larger than this process or disk allows", "look at `ulimit -f`"),
    errno.EROFS: ("the store's disk is read-only", "remount it writable, or choose another store"),
    errno.EACCES: ("this user may not do that", "look at the owner and the permissions of the store's folder"),
    errno.EPERM: ("this user may not do that", "look at the owner and the permissions of the store's folder"),
    errno.ENOENT: ("its folder does not exist or vanished", "create the folder above the store, or mount its disk"),
    errno.ENOTDIR: ("a file stands where a folder should be", "choose a folder as the store"),
    errno.EMFILE: ("too many files are open", "raise `ulimit -n`"),
}
_NO_HARD_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS)

T = TypeVar("T")


class FileStore:
    """A store in a folder, `file:///abs/root`; the folder is created when the first object is, its parent is not."""

    def __init__(self, root: Path) -> None:
        self.root = Path(os.path.normpath(root.absolute()))
        self.url = self.root.as_uri().removesuffix("/")
        self._resolved = os.path.realpath(self.root)
        self._stood = False

    @property
    def address(self) -> str:
        """Its URL."""
        return self.url

    @property
    def place(self) -> str:
        """Its URL."""
        return self.url

    def get(self, key: str) -> bytes | None:
        """The whole object, None when there is none."""
        with self._words("read", key):
            stream = self._open(key)
            if stream is None:
                return None
            with stream:
                return stream.read()

    def open(self, key: str) -> BinaryIO | None:
        """A stream over the object, None when there is none; the caller closes it."""
        with self._words("read", key):
            return self._open(key)

    def put_new(self, key: str, data: bytes) -> bool:
        """Create the object durably if the key is free; False, changing nothing, when it is taken."""
        with self._words("write", key):
            path = self._path(key)
            with self._temporary(path, (data,), durable=True) as temporary:
                created = self._link(temporary, path)
            # Also when it is taken: whoever is told so must be able to rely on it, and the winner may have died.
            _sync_folder(path.parent)
            return created

    def put(self, key: str, data: bytes, *, durable: bool = True) -> None:
        """Write the object whole, replacing what is there; without `durable` a power cut may undo or empty it."""
        with self._words("write", key):
            self._replace(self._path(key), (data,), durable=durable)

    def put_file(self, key: str, path: Path, *, progress: Callable[[int], None] = unwatched) -> Stored:
        """Copy a local file in, streaming and durable; raises Invalid when it is not a readable regular file."""
        digest = hashlib.sha256()
        size = 0

        def counted(source: BinaryIO) -> Iterator[bytes]:
            nonlocal size
            while chunk := read_source(source, path):
                digest.update(chunk)
                size += len(chunk)
                yield chunk
                progress(len(chunk))

        with open_source(path) as source, self._words("write", key):
            self._replace(self._path(key), counted(source), durable=True)
        return Stored(digest.hexdigest(), size)

    def delete(self, key: str) -> None:
        """Remove the object and the folders this leaves empty; nothing happens when there is none."""
        with self._words("delete", key):
            path = self._path(key)
            try:
                path.unlink()
            except _ABSENT:
                self._must_stand()
            self._prune(path.parent)

    def keys(self, prefix: str) -> Iterator[str]:
        """The keys that begin with the prefix (which ends in '/'), in order; what comes and goes meanwhile may show."""
        if not prefix.endswith("/"):
            raise Invalid(f"the prefix {prefix!r} does not end in '/'")
        return self._walk(self._folder(segments(prefix[:-1]), prefix), prefix)

    def ref(self, key: str) -> str:
        """The ref of a key."""
        segments(key)
        return f"{self.url}/{key}"

    def key(self, ref: str) -> str | None:
        """The key of a ref, None when it is not below this store; raises Invalid when it is, but is no key."""
        if not ref.startswith("file://"):
            return None
        path = unquote(ref.removeprefix("file://").removeprefix("localhost"))
        top = str(self.root).rstrip("/") + "/"
        if not path.startswith(top):
            return None
        key = path.removeprefix(top)
        segments(key)
        return key

    def stale_temporaries(self, older_than_seconds: float) -> list[Path]:
        """What writers that died left behind: temporary files not touched for so long."""
        with self._words("list", ""):
            return list(_stale(self.root, time.time() - older_than_seconds))

    def remove_temporaries(self, older_than_seconds: float) -> int:
        """Remove the stale temporaries and answer how many there were; a living writer's younger ones stay."""
        stale = self.stale_temporaries(older_than_seconds)
        with self._words("tidy", ""):
            for path in stale:
                path.unlink(missing_ok=True)
        return len(stale)

    def _path(self, key: str) -> Path:
        *folders, name = segments(key)
        return self._folder(folders, key) / name

    def _folder(self, segments: list[str], key: str) -> Path:
        folder = self.root.joinpath(*segments)
        resolved = os.path.realpath(folder)
        if resolved != self._resolved and not resolved.startswith(self._resolved.rstrip("/") + "/"):
            raise Invalid(f"the key {key!r} leaves the store {self.url} through a symbolic link")
        return folder

    def _open(self, key: str) -> BinaryIO | None:
        try:
            descriptor = os.open(self._path(key), _READ)
        except (FileNotFoundError, NotADirectoryError):
            self._must_stand()
            return None
        self._stood = True
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return os.fdopen(descriptor, "rb")
        os.close(descriptor)
        return None

    def _must_stand(self) -> None:
        """Raise when the root is gone that was there, or cannot be made: a store that is away is not an empty one."""
        stood = self._stood
        try:
            mode = self.root.stat().st_mode
        except FileNotFoundError:
            if stood or not self.root.parent.is_dir():
                raise
        else:
            if not stat.S_ISDIR(mode):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
            self._stood = True

    @contextmanager
    def _temporary(self, path: Path, chunks: Iterable[bytes], *, durable: bool) -> Iterator[Path]:
        """A finished file beside `path`, which is gone afterwards whatever happens."""
        temporary = path.parent / f"{_TEMPORARY}{secrets.token_hex(8)}"
        descriptor = self._in_folder(path.parent, lambda: os.open(temporary, _CREATE, 0o666))
        self._stood = True
        try:
            try:
                _pour(chunks, descriptor)
                if durable:
                    os.fsync(descriptor)
            finally:
                os.close(descriptor)
            yield temporary
        finally:
            with suppress(OSError):
                temporary.unlink()

    def _in_folder(self, folder: Path, act: Callable[[], T]) -> T:
        """Act, creating the folder as often as a deleter removes it first."""
        for _ in range(_FOLDER_RACES):
            with suppress(FileNotFoundError):
                return act()
            self._must_stand()
            with suppress(FileNotFoundError):
                self._make_folder(folder)
        return act()

    def _make_folder(self, folder: Path) -> None:
        """Create the folder and those above it, down from the root, each durable before the next."""
        if folder != self.root and not folder.parent.exists():
            self._make_folder(folder.parent)
        with suppress(FileExistsError):
            folder.mkdir()
        _sync_folder(folder.parent)

    def _link(self, temporary: Path, path: Path) -> bool:
        try:
            os.link(temporary, path, follow_symlinks=False)
        except FileExistsError:
            if path.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR)) from None
            return False
        except OSError as error:
            if error.errno in _NO_HARD_LINKS:
                raise StoreUnavailable(
                    f"the store {self.url} is on a file system without hard links",
                    hint="choose a folder on another file system: creating a paper once only needs hard links",
                ) from error
            raise
        return True

    def _replace(self, path: Path, chunks: Iterable[bytes], *, durable: bool) -> None:
        with self._temporary(path, chunks, durable=durable) as temporary:
            temporary.replace(path)
        if durable:
            _sync_folder(path.parent)

    def _prune(self, folder: Path) -> None:
        """Remove empty folders upwards, but none directly below the root; writers recreate what they miss."""
        while folder != self.root and folder.parent != self.root:
            try:
                folder.rmdir()
            except OSError:
                return
            folder = folder.parent

    def _walk(self, folder: Path, prefix: str) -> Iterator[str]:
        with self._words("list", prefix):
            names = sorted(_names(folder))
            if not names:
                self._must_stand()
        for name in names:
            if name.endswith("/"):
                yield from self._walk(folder / name, prefix + name)
            else:
                yield prefix + name

    @contextmanager
    def _words(self, doing: str, key: str) -> Iterator[None]:
        """The one place where an OSError becomes words."""
        try:
            yield
        except OSError as error:
            self._explain(doing, key, error)

    def _explain(self, doing: str, key: str, error: OSError) -> NoReturn:
        if error.errno == errno.ELOOP:
            raise Invalid(f"the key {key!r} leaves the store {self.url}: it is a symbolic link") from error
        if error.errno in (errno.EISDIR, errno.ENOTEMPTY) or (error.errno == errno.ENOTDIR and self.root.is_dir()):
            raise Invalid(f"the key {key!r} of the store {self.url} names a folder, or lies below a file") from error
        if error.errno == errno.ENAMETOOLONG:
            raise Invalid(f"the key {key!r} is too long for the store {self.url}") from error
        why, hint = _WHY.get(error.errno or 0, (error.strerror or str(error), ""))
        what = f"{key!r} in the store {self.url}" if key else f"the store {self.url}"
        raise StoreUnavailable(f"cannot {doing} {what}: {why}", hint=hint) from error


def _pour(chunks: Iterable[bytes], descriptor: int) -> None:
    for chunk in chunks:
        rest = memoryview(chunk)
        while rest:
            rest = rest[os.write(descriptor, rest) :]


def _sync_folder(folder: Path) -> None:
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return  # someone deleted what was written, and the empty folder with it
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _names(folder: Path) -> Iterator[str]:
    """What keys go through in a folder; folders end in '/', so that sorting puts whole keys in order."""
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
        for entry in entries:
            if not is_segment(entry.name):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield entry.name + "/"
            elif entry.is_file(follow_symlinks=False):
                yield entry.name


def _stale(folder: Path, before: float) -> Iterator[Path]:
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _stale(Path(entry.path), before)
            elif entry.name.startswith(_TEMPORARY):
                with suppress(FileNotFoundError):
                    if entry.stat(follow_symlinks=False).st_mtime < before:
                        yield Path(entry.path)
