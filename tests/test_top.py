"""The dashboard: what it shows of a ledger in how much room, and how it treats a real terminal."""

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pyte
import pytest
from rich.cells import cell_len
from rich.console import Console

from agentq.cli.dashboard import Picture
from agentq.engine import Page
from agentq.events import Event
from agentq.ledger import Ledger, Shelf
from agentq.observing.board import Board, LastWords, Rates
from tests.daemons.harness import until
from tests.desk import Desk

NOW = datetime(2026, 11, 29, 12, 0, tzinfo=UTC)
HOSTILE = "\x1b[2J\x1b[31mred\x07\n[bold]x[/] 日本語の長い言葉 " + "x" * 300


def an_event(kind: str, task_id: str | None, ago: float, **more: Any) -> Event:
    name = f"{task_id or more.get('worker')}/{kind}/{more.get('attempt', '')}"
    return Event(id=name, kind=kind, task_id=task_id, at=NOW - timedelta(seconds=ago), **more)


def submitted(task_id: str, ago: float, agent: str = "w", **data: Any) -> Event:
    return an_event("submitted", task_id, ago, agent=agent, by="coordinator", data={"type": "work", **data})


def claimed(task_id: str, ago: float, worker: str = "w@h:1") -> Event:
    return an_event("claimed", task_id, ago, agent="w", attempt=1, by="w", worker=worker, host="h")


def ended(task_id: str, ago: float, kind: str = "completed", **data: Any) -> Event:
    return an_event(kind, task_id, ago, agent="w", attempt=1, by="w", data=data)


def heard(worker: str, ago: float, *running: str, kind: str = "worker_heartbeat") -> Event:
    tasks = [
        {"task_id": task_id, "attempt": 1, "since": (NOW - timedelta(seconds=200)).isoformat(), "doing": "x"}
        for task_id in running
    ]
    data = {"heartbeat_seconds": 10, "running": tasks}
    return an_event(kind, None, ago, worker=worker, agent="w", host="h", data=data)


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    """A ledger for which it is now NOW."""
    monkeypatch.setattr("time.time", NOW.timestamp)
    with Ledger.on(Shelf(tmp_path, "test")) as ledger:
        yield ledger


def board(ledger: Ledger, *events: Event, words: dict[str, str] | None = None) -> Board:
    ledger.apply(Page(events, "1", caught_up=True))
    now = NOW.timestamp()
    last_words: LastWords = {(task_id, 1): text for task_id, text in (words or {}).items()}
    return Board.of(ledger, Rates.of(ledger, now), now, last_words)


def drawn(board: Board, width: int = 80, height: int | None = 24, notice: str = "") -> list[str]:
    """The lines of a picture."""
    console = Console(file=StringIO(), width=width, height=height or 24, highlight=False, markup=False, emoji=False)
    with console.capture() as shown:
        console.print(Picture(board, "amqp://broker:5672/ agentq", notice, height))
    return [each.rstrip() for each in shown.get().splitlines()]


def many(count: int) -> Iterator[Event]:
    for n in range(count):
        yield submitted(f"waits-{n}", 60, agent=f"agent-{n}")
        yield from (submitted(f"runs-{n}", 60), claimed(f"runs-{n}", 30), heard(f"w@h:{n}", 1))
        yield from (submitted(f"ended-{n}", 60), claimed(f"ended-{n}", 50), ended(f"ended-{n}", 10 + n))


def test_all_of_a_small_place_is_shown(ledger: Ledger) -> None:
    events = (
        heard("w@h:1", 250, kind="worker_up"),
        heard("w@h:1", 5, "task-1"),
        submitted("task-1", 300),
        claimed("task-1", 200),
        submitted("task-2", 100),
        submitted("task-3", 100, depends_on=["task-1"]),
        submitted("task-4", 500),
        claimed("task-4", 400, "w@h:0"),
        ended("task-4", 130, summary="Did it.", usage={"cost_usd": 0.25}),
        submitted("task-5", 500),
        ended("task-5", 120, "failed", reason="No."),
    )
    shown = drawn(board(ledger, *events, words={"task-1": "compiling"}))
    assert [" ".join(each.split()) for each in shown] == [
        "agentq amqp://broker:5672/ agentq 12:00:00Z",
        "ended 0.4/min in 5m, 0.0/min in 60m; 24h: 1 of 2 failed, $0.25",
        "QUEUES waiting oldest held running workers",
        "w 1 1m 1 1 1 1 blocked",
        "WORKERS host up heard for does",
        "w h 4m 5s 3m task-1",
        "RUNNING agent try for last words",
        "task-1 w 1 3m compiling",
        "ENDED agent how ago took what",
        "task-5 w failed 2m - No.",
        "task-4 w completed 2m 4m Did it.",
    ]


@pytest.mark.promise("dashboard")
def test_a_silent_worker_is_never_shown_as_working(ledger: Ledger) -> None:
    events = (heard("w@h:1", 31, "task-1"), submitted("task-1", 300), claimed("task-1", 200))
    shown = drawn(board(ledger, *events, words={"task-1": "compiling"}))
    workers = shown[shown.index(next(each for each in shown if each.startswith("WORKERS"))) + 1 :]
    assert workers[0].split() == ["w", "h", "-", "31s", "-", "silent"]
    assert "its worker is silent" in "\n".join(shown)
    assert "compiling" not in "\n".join(shown)
    assert " ".join(shown[3].split()) == "w - - - - 0 1 with a silent worker"


def test_a_worker_that_is_silent_for_long_is_forgotten_and_one_that_is_down_at_once(ledger: Ledger) -> None:
    assert drawn(board(ledger, heard("w@h:1", 3700), heard("w@h:2", 1, kind="worker_down")))[2:] == [
        "nothing waits, nothing runs, no worker is up"
    ]


def test_a_cost_that_nobody_told_is_unknown(ledger: Ledger) -> None:
    ended_one = (submitted("task-1", 9), claimed("task-1", 8), ended("task-1", 7))
    assert drawn(board(ledger))[1].endswith("no cost")
    assert drawn(board(ledger, *ended_one))[1].endswith("cost unknown")
    paid = (submitted("task-2", 9), claimed("task-2", 8), ended("task-2", 7, usage={"cost_usd": 2}))
    shown = drawn(board(ledger, *paid), width=120)
    assert shown[1].endswith("$2.00 and 1 unknown")
    assert "unknown" in shown[-1] + shown[-2]


@pytest.mark.promise("dashboard")
@pytest.mark.parametrize("size", [(80, 24), (60, 20), (200, 50), (40, 10), (20, 5), (10, 2), (10, 1)])
def test_however_much_there_is_it_fits(ledger: Ledger, size: tuple[int, int]) -> None:
    width, height = size
    shown = drawn(board(ledger, *many(60)), width, height, "the log is away, this is as of 12:00:00Z: " + "x" * 300)
    assert len(shown) <= height
    assert max(map(cell_len, shown)) <= width
    if height >= 20:
        assert len(shown) == height
        for title in ("QUEUES", "WORKERS", "RUNNING", "ENDED"):
            assert any(each.startswith(f"{title} ") for each in shown)
        assert any(" of 60" in each for each in shown)
        assert shown[2].startswith("the log is away")


def test_with_little_room_what_runs_is_shown_first(ledger: Ledger) -> None:
    titles = [each.split()[0] for each in drawn(board(ledger, *many(5)), 60, 6) if each[0].isupper()]
    assert titles == ["QUEUES", "RUNNING"]


@pytest.mark.promise("untrusted-words")
def test_nobodys_words_steer_the_terminal_or_break_the_picture(ledger: Ledger) -> None:
    events = (
        submitted("runs", 300),
        claimed("runs", 200),
        submitted("ended", 300),
        ended("ended", 20, "failed", reason=HOSTILE),
    )
    for width in (60, 80, 200):
        shown = drawn(board(ledger, *events, words={"runs": HOSTILE}), width)
        assert all(each.isprintable() and cell_len(each) <= width for each in shown)
        assert len(shown) == 8
        assert "[bold]" in "".join(shown) or width == 60


# ---------------------------------------------------------------------- in a terminal


class Terminal:
    """A pseudo-terminal with a screen, and `agentq top` in it."""

    def __init__(self, arguments: Sequence[str], environment: dict[str, str], folder: Path) -> None:
        self._ours, theirs = pty.openpty()
        self.screen = pyte.Screen(80, 24)
        self._stream = pyte.ByteStream(self.screen)
        self._lock = threading.Lock()
        self.written = b""
        self.resize(80, 24)
        self.before = termios.tcgetattr(theirs)
        command = [sys.executable, "-m", "agentq", *arguments]
        environment = {**environment, "TERM": "xterm-256color"}
        self._theirs = theirs
        self.process = subprocess.Popen(
            command,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            cwd=folder,
            env=environment,
            preexec_fn=_own_terminal,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self._ours, 1 << 16)
            except OSError:
                return
            with self._lock:
                self.written += data
                self._stream.feed(data)

    def resize(self, width: int, height: int) -> None:
        with self._lock:
            fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
            self.screen.resize(height, width)
            self.screen.reset()

    @property
    def lines(self) -> list[str]:
        with self._lock:
            return [each.rstrip() for each in self.screen.display]

    def shows(self, words: str, seconds: float = 15.0) -> None:
        until(lambda: words in "\n".join(self.lines), f"{words!r}", seconds)

    def press(self, keys: bytes) -> None:
        os.write(self._ours, keys)

    def after(self) -> list[Any]:
        """The terminal's settings."""
        return termios.tcgetattr(self._theirs)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._theirs)
        os.close(self._ours)


def _own_terminal() -> None:
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@pytest.fixture
def terminal(desk: Desk) -> Iterator[Terminal]:
    """`agentq top` in a terminal of 80x24."""
    desk.task("--id", "first")
    shown = Terminal(["top", "--interval", "0.1"], desk.environment, desk.project)
    yield shown
    shown.close()


def drawn_at(terminal: Terminal, width: int) -> bool:
    """Whether the head of a picture of that width is on the screen."""
    head = terminal.lines[0]
    return head.startswith("agentq") and head.endswith("Z") and len(head) == width


@pytest.mark.promise("dashboard")
def test_it_follows_the_size_of_the_terminal_and_leaves_it_as_it_was(desk: Desk, terminal: Terminal) -> None:
    terminal.shows("implementation-worker")
    assert b"\x1b[?1049h" in terminal.written
    assert b"\x1b[?25l" in terminal.written
    for width, height in ((60, 20), (200, 50), (80, 24)):
        terminal.resize(width, height)
        until(lambda w=width: drawn_at(terminal, w), f"a picture of {width}x{height}")  # type: ignore[misc]
        assert "QUEUES" in "\n".join(terminal.lines)
    desk.ok("cancel", "first")
    terminal.shows("cancelled")
    terminal.press(b"\x03")
    assert terminal.process.wait(10) == 0
    until(lambda: terminal.written.endswith(b"\x1b[?25h\x1b[?1049l"), "the cursor and the first screen")
    assert terminal.after() == terminal.before


def test_it_draws_seldom_while_nothing_happens(terminal: Terminal) -> None:
    terminal.shows("implementation-worker")
    begun, count = datetime.now(UTC), terminal.written.count(b"QUEUES")
    until(lambda: terminal.written.count(b"QUEUES") >= count + 3, "three more pictures")
    assert (datetime.now(UTC) - begun).total_seconds() > 1.9


def test_once_and_where_there_is_no_terminal_one_picture_is_printed(desk: Desk) -> None:
    desk.task("--id", "first")
    assert desk.ok("top", "--once").splitlines()[3].split()[:3] == ["implementation-worker", "1", "0s"]
    assert desk.ok("top").splitlines()[2].startswith("QUEUES")
    assert desk.run("top", "--interval", "0.01").code == 3
    assert desk.run("top", "--interval", "soon").code == 3
