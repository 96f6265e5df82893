"""An answer as it grows: every character is told once and in order, whoever writes it and however, and no more."""

import asyncio
import os
import random
import socket
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentq.credentials import masked
from agentq.errors import Conflict, Invalid
from agentq.profile import LimitsSection
from agentq.telling import answer
from agentq.telling import output as live
from agentq.telling.answer import CHUNK, KEPT, append, words_of
from agentq.telling.reply import Reply
from tests.daemons.harness import until
from tests.desk import Desk

KEY = "ghp_" + "".join(random.Random(7).choices("abcdefghijkmnopqrstuvwxyzABCDEFGHIJKLMNPQRSTUVWXYZ0123456789", k=36))
PASSWORD = "password=hunter2Stapler!"
MARKS = "".join(map(chr, (*range(0x3000, 0x3040), *(0xFF00 + mark for mark in b"\x01\x08\x09\x0c\x0e\x1a\x1b\x1f"))))
"""No credential goes on behind one."""
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters=MARKS), max_size=300)
PIECES = st.lists(st.one_of(TEXTS, st.sampled_from([KEY, PASSWORD, "\n", " ", "缓存"])), max_size=12)


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """An agent's output folder."""
    folder = tmp_path / "output"
    folder.mkdir()
    return folder


class Heard:
    """What a reply told, and its pieces as they came."""

    def __init__(self, output: Path, *, expected: bool = True, **limits: float) -> None:
        bounds = LimitsSection(look_seconds=0.05, **limits)  # type: ignore[arg-type]
        self.pieces: list[tuple[int, str]] = []
        self.reply = Reply(output, bounds, self.pieces.extend, expected=expected)
        self._looked = 0

    def look(self, said: str = "") -> str:
        """What is told at a look."""
        new = self.reply._look(said)
        self.pieces += new
        return "".join(text for _, text in new)

    def finish(self) -> str:
        """What is told at the end."""
        new = self.reply._finish("")
        self.pieces += new
        return "".join(text for _, text in new)

    @property
    def text(self) -> str:
        """All of it; the offsets leave no gap."""
        offset = 0
        for place, text in self.pieces:
            assert place == offset
            assert text
            offset += len(text)
        return "".join(text for _, text in self.pieces)


def written(output: Path, text: str | bytes) -> None:
    append(output, text.encode() if isinstance(text, str) else text)


# ---------------------------------------------------------------------- whole and in order


@pytest.mark.promise("answer-streamed")
@given(pieces=PIECES, cuts=st.lists(st.integers(0, 4000), max_size=20))
@settings(deadline=None)
def test_wherever_the_writes_are_cut_what_is_told_is_the_masked_text(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[str], cuts: list[int]
) -> None:
    text = "".join(pieces)
    output, data = tmp_path_factory.mktemp("output"), text.encode()
    heard = Heard(output)
    for begin, end in pairwise(sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})):
        written(output, data[begin:end])
        heard.look()
    heard.finish()
    assert heard.text == masked(text)


@given(data=st.binary(max_size=600), cuts=st.lists(st.integers(0, 600), max_size=10))
@settings(deadline=None)
def test_what_is_no_text_becomes_one(tmp_path_factory: pytest.TempPathFactory, data: bytes, cuts: list[int]) -> None:
    output = tmp_path_factory.mktemp("output")
    heard = Heard(output)
    for begin, end in pairwise(sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})):
        written(output, data[begin:end])
        heard.look()
    heard.finish()
    assert heard.text == masked(data.decode(errors="replace"))


@pytest.mark.promise("answer-streamed")
def test_each_word_is_told_when_it_has_ended(output: Path) -> None:
    heard = Heard(output)
    for chunk, ended in (
        ("It ", "It "),
        ("is th", "is "),
        ("e ca", "the "),
        ("che.\n缓", "cache.\n缓"),
        ("存就", "存就"),
    ):
        written(output, chunk)
        assert heard.look() == ended


def test_a_last_word_is_told_when_nothing_follows(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer, "HOLD", 0.0)
    heard = Heard(output)
    written(output, "Because")
    assert heard.look() == "Because"


def test_an_answer_that_was_written_at_once_is_told_at_once(output: Path) -> None:
    text = "".join(f"{number} is a line of a long answer. €\n" for number in range(5000))
    (output / "answer.md").write_text(text)
    heard = Heard(output, live_bytes_per_second=10**7)
    heard.finish()
    assert heard.text == text
    assert all(len(piece.encode()) <= 8 * 1024 for _, piece in heard.pieces)


# ---------------------------------------------------------------------- files that are not only appended to


@pytest.mark.promise("answer-streamed")
def test_a_file_that_is_written_anew_with_more_goes_on(output: Path) -> None:
    heard, path = Heard(output), output / "answer.md"
    path.write_text("One. ")
    assert heard.look() == "One. "
    path.write_text("")
    assert heard.look() == ""
    path.write_text("One. Two. ")
    assert heard.look() == "Two. "
    other = output / "other"
    other.write_text("One. Two. Three. ")
    other.replace(path)
    assert heard.look() == "Three. "
    assert heard.text == "One. Two. Three. "


@pytest.mark.promise("answer-streamed")
@pytest.mark.parametrize("text", ["Not so. And more of it than before. ", "One, no", "", "One, not"])
def test_of_a_file_that_is_another_text_now_nothing_more_is_told(output: Path, text: str) -> None:
    heard, path = Heard(output), output / "answer.md"
    path.write_text("One. Two. ")
    assert heard.look() == "One. Two. "
    path.write_text(text)
    heard.look()
    path.write_text(f"{text} another. And another. ")
    heard.finish()
    assert heard.text == "One. Two. "


def test_of_a_long_answer_the_last_of_what_was_told_must_stand(output: Path) -> None:
    heard, path, line = Heard(output, live_bytes_per_second=10**7), output / "answer.md", "x" * 99 + "\n"
    path.write_text(line * (3 * CHUNK // 100))
    while heard.look():
        pass
    with path.open("ab") as file:
        file.write(b"more\n")
    assert heard.look() == "more\n"
    with path.open("r+b") as file:
        file.seek(-KEPT // 2, os.SEEK_END)
        file.write(b"changed")
        file.seek(0, os.SEEK_END)
        file.write(b"and more\n")
    assert heard.look() == ""


@pytest.mark.promise("answer-safe")
@pytest.mark.parametrize("trap", ["link", "fifo", "folder", "folder link", "nothing", "socket"])
def test_what_is_no_file_is_neither_followed_nor_waited_for(tmp_path: Path, output: Path, trap: str) -> None:
    secret, path = tmp_path / "secret", output / "answer.md"
    secret.write_text("not for you\n")
    _set(trap, tmp_path, output)
    heard = Heard(output)
    assert heard.look() + heard.finish() == ""
    if trap not in ("nothing", "folder link"):
        with pytest.raises(Invalid):
            append(output, b"words")
    assert secret.read_text() == "not for you\n"
    if trap in ("link", "fifo"):
        path.unlink()
        written(output, "After all. ")
        assert heard.look() == "After all. "


def _set(trap: str, folder: Path, output: Path) -> None:
    path = output / "answer.md"
    match trap:
        case "link":
            path.symlink_to(folder / "secret")
        case "fifo":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case "folder link":
            (folder / "elsewhere").mkdir()
            (folder / "elsewhere/answer.md").write_text("not for you\n")
            output.rmdir()
            output.symlink_to(folder / "elsewhere")
        case "socket":
            with socket.socket(socket.AF_UNIX) as bound:
                bound.bind(str(path))


# ---------------------------------------------------------------------- credentials and floods


@pytest.mark.promise("answer-safe")
@pytest.mark.parametrize("secret", [KEY, PASSWORD.partition("=")[2]])
def test_a_credential_is_masked_wherever_it_is_cut(tmp_path: Path, secret: str) -> None:
    text = f"Use password={secret} now. "
    for cut in range(len(text)):
        output = tmp_path / str(cut)
        output.mkdir()
        heard = Heard(output)
        for part in (text[:cut], text[cut:]):
            written(output, part)
            heard.look()
        heard.finish()
        assert heard.text == masked(text)
        assert "withheld" in heard.text


@pytest.mark.promise("answer-safe")
def test_a_flood_is_told_at_its_rate_and_up_to_its_bound(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(1000))
    monkeypatch.setattr(live, "time", SimpleNamespace(monotonic=lambda: float(next(clock))))
    line = "0123456789" * 9 + "abcdefghi\n"
    (output / "answer.md").write_text(line * 1000)
    heard = Heard(output, live_bytes_per_second=1000, live_bytes=5000)
    told = [heard.look() for _ in range(10)]
    assert told[0] == line * 10
    assert max(map(len, told)) <= 1000
    heard.finish()
    assert heard.text == line * 50


def test_a_hole_is_no_endless_work(output: Path) -> None:
    with (output / "answer.md").open("wb") as file:
        file.truncate(1 << 40)
    heard = Heard(output, live_bytes=10_000)
    heard.finish()
    assert len(heard.text) == 10_000


# ---------------------------------------------------------------------- what a model says


DECIDED = '{"decision": "answer", "why": "it was asked"}'


@pytest.mark.promise("answer-streamed")
def test_words_of_a_model_are_its_answer_once_it_has_decided(output: Path) -> None:
    heard = Heard(output)
    assert heard.look("Let me look. ") == ""
    (output / "decision.json").write_text(DECIDED)
    assert [heard.look(said) for said in ("\n\nIt is ", "the ca", "che. ")] == ["It is ", "the ", "cache. "]
    written(output, "No: the disk. ")
    assert heard.look("I wrote it down. ") == "\n\nNo: the disk. "
    assert heard.look("Done. ") == ""
    heard.finish()
    assert heard.text == "It is the cache. \n\nNo: the disk. "


def test_what_only_links_to_a_decision_is_none(tmp_path: Path, output: Path) -> None:
    (tmp_path / "decision.json").write_text(DECIDED)
    (output / "decision.json").symlink_to(tmp_path / "decision.json")
    assert Heard(output).look("It is so. ") == ""


# ---------------------------------------------------------------------- as it runs


@pytest.mark.promise("answer-streamed")
@pytest.mark.parametrize("expected", [True, False])
async def test_it_is_told_while_it_is_written_and_the_rest_in_the_end(output: Path, expected: bool) -> None:
    heard = Heard(output, expected=expected)
    running = asyncio.create_task(heard.reply.run())
    async with asyncio.timeout(60):
        for number in range(3):
            written(output, f"Part {number}. ")
            await asyncio.to_thread(until, lambda part=f"Part {number}. ": heard.text.endswith(part))
        written(output, "Rest")
        heard.reply.end()
        await running
    assert heard.text == "Part 0. Part 1. Part 2. Rest"


# ---------------------------------------------------------------------- agentq say


def test_say_adds_paragraphs(desk: Desk, output: Path) -> None:
    for paragraph in ("It is the cache.", "- clear it\n- restart"):
        desk.ok("say", paragraph, AGENTQ_OUTPUT=str(output))
    assert (output / "answer.md").read_text() == "It is the cache.\n\n- clear it\n- restart\n\n"


@pytest.mark.promise("answer-streamed")
def test_say_adds_what_comes_from_standard_input_as_it_comes(desk: Desk, output: Path) -> None:
    command = [sys.executable, "-m", "agentq", "say", "-"]
    path = output / "answer.md"
    environment = {**os.environ, "AGENTQ_OUTPUT": str(output)}
    with subprocess.Popen(command, stdin=subprocess.PIPE, env=environment) as saying:
        assert saying.stdin
        for begun, there in ((b"It is ", "It is "), (b"the cac", "It is the "), (b"he.\n", "It is the cache.\n")):
            saying.stdin.write(begun)
            saying.stdin.flush()
            until(lambda there=there: path.exists() and path.read_text().startswith(there))  # type: ignore[misc]
        saying.stdin.write(b"End")
        saying.stdin.close()
        assert saying.wait(60) == 0
    assert path.read_text() == "It is the cache.\nEnd"


@pytest.mark.promise("answer-safe")
@pytest.mark.parametrize(("argument", "stdin"), [(f"use {KEY}", ""), ("-", f"It is\nuse {KEY} now\n")])
def test_say_refuses_credentials(output: Path, argument: str, stdin: str) -> None:
    def say(*flags: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "agentq", "say", argument, *flags]
        environment = {**os.environ, "AGENTQ_OUTPUT": str(output)}
        return subprocess.run(command, input=stdin, env=environment, text=True, capture_output=True, check=False)

    done, path = say(), output / "answer.md"
    assert done.returncode == 3
    assert "GitHub token" in done.stderr
    assert KEY not in (path.read_text() if path.exists() else "")
    assert say("--allow-secrets").returncode == 0
    assert KEY in path.read_text()


def test_say_is_for_agents_that_run(desk: Desk, tmp_path: Path, output: Path) -> None:
    assert desk.run("say", "words").code == 3
    assert desk.run("say", " ", AGENTQ_OUTPUT=str(output)).code == 3
    assert desk.run("say", "words", AGENTQ_OUTPUT=str(tmp_path / "gone")).code == 5
    with pytest.raises(Conflict, match="over"):
        append(tmp_path / "gone", b"words")


@given(data=st.binary(max_size=3000))
@settings(deadline=None)
def test_what_is_read_is_passed_on_as_it_is(data: bytes) -> None:
    read, write = os.pipe()
    os.write(write, data)
    os.close(write)
    try:
        assert b"".join(words_of(read)) == data
    finally:
        os.close(read)
