"""A task's context: which documents are used where they lie, which are brought in, which are refused."""

from pathlib import Path

import pytest

from agentq.context import CONTEXT_LIMIT, Context, check_text, context_at, read_context, task_id_of
from agentq.errors import Invalid
from agentq.messages import sha256_hex
from agentq.stores.file import FileStore


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "shared"
    (folder / "tasks").mkdir(parents=True)
    return folder


def put(path: Path, text: str = "Mend it.\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_a_document_in_the_store_is_named_by_its_ref(root: Path) -> None:
    context = read_context(FileStore(root), put(root / "tasks" / "fix.md"))
    assert context == Context(b"Mend it.\n", f"file://{root}/tasks/fix.md")
    assert context.sha256 == sha256_hex(b"Mend it.\n")


@pytest.mark.parametrize("name", ["größe.md", ".hidden.md", "a b.md"])
def test_a_document_in_the_store_under_a_name_that_is_no_key_is_brought_in(root: Path, name: str) -> None:
    assert read_context(FileStore(root), put(root / "tasks" / name)).ref is None


def test_a_document_elsewhere_is_brought_in(root: Path) -> None:
    assert read_context(FileStore(root), put(root.parent / "fix.md")).ref is None
    assert read_context(FileStore(root), put(root.parent / "shared-too" / "fix.md")).ref is None


def test_a_relative_path_into_the_store_is_found(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(root / "tasks" / "fix.md")
    monkeypatch.chdir(root / "tasks")
    for path in ("fix.md", "../tasks/fix.md", "./fix.md"):
        assert read_context(FileStore(root), Path(path)).ref == f"file://{root}/tasks/fix.md"


def test_a_store_behind_a_link_is_the_same_store(root: Path) -> None:
    alias = root.parent / "alias"
    alias.symlink_to(root)
    path = put(root / "tasks" / "fix.md")
    assert read_context(FileStore(root), alias / "tasks" / "fix.md").ref == f"file://{root}/tasks/fix.md"
    assert read_context(FileStore(alias), path).ref == f"file://{alias}/tasks/fix.md"
    assert read_context(FileStore(alias), alias / "tasks" / "fix.md").ref == f"file://{alias}/tasks/fix.md"


def test_a_link_into_the_store_from_elsewhere_is_its_target(root: Path) -> None:
    link = root.parent / "link.md"
    link.symlink_to(put(root / "tasks" / "fix.md"))
    assert read_context(FileStore(root), link).ref == f"file://{root}/tasks/fix.md"


def test_a_link_within_the_store_is_its_target(root: Path) -> None:
    (root / "tasks" / "link.md").symlink_to(put(root / "tasks" / "fix.md"))
    assert read_context(FileStore(root), root / "tasks" / "link.md").ref == f"file://{root}/tasks/fix.md"


@pytest.mark.parametrize("path", ["tasks/../../secret", "../secret", "tasks/link", "tasks/away/secret"])
def test_a_path_that_names_the_store_must_not_leave_it(root: Path, path: str) -> None:
    put(root.parent / "secret")
    (root / "tasks" / "link").symlink_to(root.parent / "secret")
    (root / "tasks" / "away").symlink_to(root.parent)
    with pytest.raises(Invalid, match="leaves the store"):
        read_context(FileStore(root), root / path)


def test_a_path_that_goes_out_and_comes_back_is_fine(root: Path) -> None:
    put(root / "tasks" / "fix.md")
    back = root / ".." / "shared" / "tasks" / "fix.md"
    assert read_context(FileStore(root), back).ref == f"file://{root}/tasks/fix.md"


def test_a_ref_must_be_something_in_this_store(root: Path) -> None:
    put(root / "artifacts" / "patch.diff")
    store = FileStore(root)
    assert context_at(store, f"file://{root}/artifacts/patch.diff").data == b"Mend it.\n"
    for ref in ("file:///etc/hosts", f"file://{root}/nope", f"file://{root}/artifacts", "s3://b/k", ""):
        with pytest.raises(Invalid) as caught:
            context_at(store, ref)
        assert caught.value.hint


@pytest.mark.parametrize(
    ("data", "words"),
    [(b"", "is empty"), (b"\n\t ", "is empty"), (b"ok\xff", "is not UTF-8 (byte 2)"), (b"x", None)],
)
def test_a_text_must_say_something_in_utf_8(data: bytes, words: str | None) -> None:
    if words is None:
        assert check_text(data, "it") == data
        return
    with pytest.raises(Invalid) as caught:
        check_text(data, "it")
    assert str(caught.value) == f"it {words}"


def test_a_text_has_a_greatest_size() -> None:
    assert check_text(b"x" * CONTEXT_LIMIT, "it")
    with pytest.raises(Invalid, match="it is larger than 16 MiB"):
        check_text(b"x" * (CONTEXT_LIMIT + 1), "it")


@pytest.mark.parametrize(
    ("path", "task_id"),
    [
        ("/shared/tasks/task-123.md", "task-123"),
        ("tasks/fix.1.md", "fix.1"),
        ("/shared/tasks/task-123.txt", None),
        ("/shared/tasks/größe.md", None),
        ("/shared/notes/task-123.md", None),
        ("task-123.md", None),
    ],
)
def test_a_file_in_a_tasks_folder_names_its_task(path: str, task_id: str | None) -> None:
    assert task_id_of(Path(path)) == task_id
