"""What of an agent's output goes into the log: every byte once and in order, bounded, without a credential."""

import asyncio
import random
import time
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentq.credentials import finds
from agentq.errors import AgentqError, Conflict, Invalid
from agentq.events import EVENT_LIMIT, Event
from agentq.journal import Journal
from agentq.profile import LimitsSection
from agentq.telling import attempt as telling
from agentq.telling import note
from agentq.telling import output as live
from agentq.telling.attempt import Telling
from agentq.telling.output import Allowance, Output

KEY = "sk-ant-api03-" + "".join(
    random.Random(7).choices("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", k=60)
)


def output(rate: int = 10**9, total: int = 10**9) -> Output:
    return Output(Allowance(rate, total))


def told(out: Output) -> list[tuple[int, str, int]]:
    out.let_go(everything=True)
    return [(piece.offset, piece.text, piece.left_out) for part in out.ready() for piece in part.pieces()]


def text_of(out: Output) -> str:
    return "".join(text for _, text, _ in told(out))


# ---------------------------------------------------------------------- whole and in order


@given(text=st.text(max_size=400), cuts=st.lists(st.integers(0, 1600), max_size=20))
@settings(deadline=None)
def test_wherever_the_chunks_are_cut_the_text_is_the_same(text: str, cuts: list[int]) -> None:
    data, out = text.encode(errors="replace"), output()
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    for begin, end in pairwise(places):
        out.take(1, data[begin:end])
    assert text_of(out) == data.decode()
    assert (out.heard, out.left_out) == (len(data), 0)


@given(lines=st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(max_size=60)), max_size=30))
@settings(deadline=None)
def test_offsets_count_every_byte_of_both_streams_once(lines: list[tuple[int, bytes]]) -> None:
    out = output()
    for stream, line in lines:
        out.take(stream, line)
    pieces, offset = told(out), 0
    for place, text, left_out in pieces:
        assert (place, left_out) == (offset, 0)
        offset += len(text.encode()) if "\ufffd" not in text else 0
        if "\ufffd" in text:
            return  # what is no UTF-8 has another length
    assert offset == out.heard == sum(len(line) for _, line in lines)


def test_a_character_that_is_split_by_the_other_stream_stays_whole() -> None:
    out = output()
    out.take(1, "grü".encode()[:-1])
    out.take(2, b"warning\n")
    out.take(1, "ü".encode()[1:] + b"n\n")
    assert [text for _, text, _ in told(out)] == ["warning\n", "grün\n"]


def test_an_event_is_never_longer_than_the_log_takes() -> None:
    out = output()
    out.take(1, b"\x01" * 300_000 + b"\xff" * 100_000 + "€".encode() * 100_000 + b"\n")
    pieces = told(out)
    assert sum(len(text) for _, text, _ in pieces) == 500_001
    telling = Telling(Journal(), "task-1", 1, "worker", LimitsSection())
    for offset, text, left_out in pieces:
        assert (
            len(telling._event("output", str(offset), text=text, offset=offset, left_out=left_out).to_json())
            < EVENT_LIMIT
        )


def test_pieces_end_with_lines_where_they_can() -> None:
    out = output()
    out.take(1, b"".join(b"%06d %s\n" % (number, b"x" * 90) for number in range(1000)))
    assert all(text.endswith("\n") and len(text) <= live.PIECE for _, text, _ in told(out))


# ---------------------------------------------------------------------- credentials


@pytest.mark.promise("told-masked")
@pytest.mark.parametrize("stream", [1, 2])
def test_a_credential_is_masked_wherever_it_is_cut(stream: int) -> None:
    line = f"using {KEY} now\n".encode()
    for cut in range(1, len(line)):
        out = output()
        out.take(stream, line[:cut])
        out.take(3 - stream, b"noise\n")
        out.take(stream, line[cut:])
        text = text_of(out)
        assert KEY not in text
        assert "using [an API key withheld] now\n" in text


@pytest.mark.promise("told-masked")
def test_a_credential_across_the_end_of_an_event_is_masked() -> None:
    for before in range(live.PIECE - 90, live.PIECE + 2):
        out = output()
        out.take(1, b"x" * before + b" " + KEY.encode() + b" " + b"y" * 100 + b"\n")
        text = text_of(out)
        assert not any(KEY[at : at + 20] in text for at in range(len(KEY) - 20))


def test_of_a_credential_in_a_line_that_was_let_go_the_rest_is_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "HOLD", 0.0)
    out = output()
    out.take(1, KEY[:50].encode())
    out.let_go()
    first = "".join(piece.text for part in out.ready() for piece in part.pieces())
    out.take(1, KEY[50:].encode() + b"\n")
    rest = text_of(out)
    assert KEY[50:] not in rest
    assert "withheld" in rest
    assert finds(KEY.encode())
    assert len(first) <= 50 or "withheld" in first


# ---------------------------------------------------------------------- floods


def flood(out: Output, count: int) -> int:
    total = 0
    for number in range(count):
        chunk = b"".join(b"%08d %s\n" % (number * 100 + line, b"z" * 90) for line in range(100))
        out.take(1 + number % 2, chunk)
        total += len(chunk)
    return total


@pytest.mark.promise("told-bounded")
def test_a_flood_is_bounded_and_says_how_much_is_left_out() -> None:
    out = output(rate=64 * 1024, total=10**9)
    total = flood(out, 1000)
    pieces = told(out)
    assert 60_000 < sum(len(text) for _, text, _ in pieces) < 3 * 64 * 1024
    assert out.heard == total
    assert sum(len(text) + left_out for _, text, left_out in pieces) + out.left_out == total
    assert all(line == "" or len(line) == 99 for _, text, _ in pieces for line in text.split("\n")), "no half lines"


@pytest.mark.promise("told-bounded")
def test_all_that_an_attempt_tells_is_bounded() -> None:
    out = output(total=100_000)
    total = flood(out, 100)
    pieces = told(out)
    assert 99_000 < sum(len(text) for _, text, _ in pieces) <= 100_000
    assert sum(len(text) + left_out for _, text, left_out in pieces) + out.left_out == total


@given(
    chunks=st.lists(st.tuples(st.sampled_from([1, 2]), st.text("ab\n", max_size=30)), max_size=40),
    total=st.integers(0, 300),
)
@settings(deadline=None)
def test_whatever_is_left_out_the_figures_add_up_and_no_line_is_torn(chunks: list[tuple[int, str]], total: int) -> None:
    out = output(total=total)
    for stream, text in chunks:
        out.take(stream, text.encode())
    pieces, offset = told(out), 0
    for place, text, left_out in pieces:
        assert place == offset + left_out
        offset = place + len(text)
    assert offset + out.left_out == out.heard == sum(len(text) for _, text in chunks)
    lines = {line for number in (1, 2) for line in "".join(t for s, t in chunks if s == number).split("\n")}
    assert set("".join(text for _, text, _ in pieces if text.endswith("\n")).split("\n")) <= lines | {""}


def test_nothing_is_told_where_nothing_may_be() -> None:
    out = output(rate=0)
    flood(out, 3)
    assert told(out) == []
    assert out.left_out == out.heard > 0


# ---------------------------------------------------------------------- in time


class Told:
    """A telling that runs, and its events as they come."""

    def __init__(self, **limits: float) -> None:
        self.journal = Journal()
        self.telling = Telling(self.journal, "task-1", 2, "worker", LimitsSection(**limits))
        self.events: list[tuple[float, Event]] = []
        self.journal.on_told = self._take

    def _take(self) -> None:
        self.events += [(time.monotonic(), event) for event in self.journal._take()]

    @property
    def texts(self) -> list[str]:
        return [event.data.get("text", "") for _, event in self.events]

    async def has(self, text: str) -> float:
        async with asyncio.timeout(10):
            while text not in "".join(self.texts):  # noqa: ASYNC110
                await asyncio.sleep(0.002)
        return next(at for at, event in self.events if text in event.data.get("text", ""))


async def test_a_line_is_told_at_once_and_a_storm_of_lines_in_batches() -> None:
    told = Told()
    running = asyncio.create_task(told.telling.run())
    began = time.monotonic()
    told.telling.hear(1, b"first\n")
    assert await told.has("first") - began < telling.OFTEN
    for number in range(200):
        told.telling.hear(1, b"line %d\n" % number)
        await asyncio.sleep(0.002)
    await told.has("line 199")
    assert len(told.events) < 15
    told.telling.end()
    await running
    assert told.events[-1][1].data == {"whole": True, "bytes": 6 + sum(len(f"line {n}\n") for n in range(200))}
    assert told.events[-1][1].id == "task-1/output/2/whole"
    assert [event.id for _, event in told.events[:1]] == ["task-1/output/2/0"]


async def test_a_line_without_an_end_is_told_after_a_while_and_slow_words_as_they_come() -> None:
    told = Told()
    running = asyncio.create_task(told.telling.run())
    began = time.monotonic()
    told.telling.hear(2, "Continue? [y/N] ü".encode()[:-1])
    assert await told.has("[y/N] ") - began >= live.HOLD
    for word in ("slow ", "words ", "come ", "one ", "by ", "one "):
        told.telling.hear(1, word.encode())
        await asyncio.sleep(0.25)
    assert "words" in "".join(told.texts), "before the line has ended"
    told.telling.end()
    await running


async def test_whoever_prints_nothing_costs_nothing_but_its_last_event() -> None:
    told = Told()
    running = asyncio.create_task(told.telling.run())
    await asyncio.sleep(0.05)
    told.telling.end()
    began = time.monotonic()
    await running
    assert time.monotonic() - began < telling.SOON
    assert [event.data for _, event in told.events] == [{"whole": True}]


async def test_the_end_does_not_wait_for_the_next_event_to_be_due(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telling, "OFTEN", 10.0)
    told = Told()
    running = asyncio.create_task(told.telling.run())
    told.telling.hear(1, b"one\n")
    await told.has("one")
    told.telling.hear(1, b"last words without an end")
    told.telling.end()
    began = time.monotonic()
    await running
    assert time.monotonic() - began < telling.OFTEN / 2
    assert told.texts == ["one\n", "last words without an end", ""]


# ---------------------------------------------------------------------- what the agent says


async def test_a_note_is_told_once_as_one_harmless_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telling, "NOTES", 0.0)
    told = Told(look_seconds=0.01)
    watching = asyncio.create_task(told.telling.watch(tmp_path))
    note.leave(tmp_path, "running\nthe \x1b[31mtests")
    await told.has("running the \\x1b[31mtests")
    await asyncio.sleep(0.05)
    assert len(told.events) == 1
    note.leave(tmp_path, "x" * 300)
    await told.has("x" * 199 + "…")
    assert [event.id for _, event in told.events] == ["task-1/progress/2/1", "task-1/progress/2/2"]
    assert told.telling.at_work()["doing"] == "x" * 199 + "…"
    (tmp_path / note.NOTE).write_text(f"using {KEY}")
    await told.has("withheld")
    assert KEY not in "".join(told.texts)
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)


@pytest.mark.promise("untrusted-files")
def test_what_is_no_note_is_none(tmp_path: Path) -> None:
    import os

    place = tmp_path / note.NOTE
    assert note.read(tmp_path) == ""
    os.mkfifo(place)
    assert note.read(tmp_path) == ""
    place.unlink()
    (tmp_path / "secret").write_text("not for a log")
    place.symlink_to(tmp_path / "secret")
    assert note.read(tmp_path) == ""
    place.unlink()
    place.mkdir()
    assert note.read(tmp_path) == ""
    place.rmdir()
    place.write_bytes(b"\xff" * 10**6)
    assert len(note.read(tmp_path)) == note.LIMIT


@pytest.mark.parametrize(("text", "error"), [("", Invalid), ("  \n ", Invalid)])
def test_an_empty_note_is_refused(tmp_path: Path, text: str, error: type[AgentqError]) -> None:
    with pytest.raises(error) as found:
        note.leave(tmp_path, text)
    assert found.value.hint


def test_a_note_of_an_attempt_that_is_over_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Conflict) as found:
        note.leave(tmp_path / "gone", "hello")
    assert found.value.hint
    assert not (tmp_path / "gone").exists()
