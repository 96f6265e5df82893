"""What a watcher sees: what was and then what happens, each once, in an order that reads well, in harmless lines."""

import contextlib
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentq.cli.lines import line, lines, what
from agentq.events import TASK_KINDS, WORKER_KINDS, Event
from agentq.observing.watching import HOLD, Watch
from tests.daemons.harness import until
from tests.desk import Desk
from tests.test_top import Terminal

NOW = datetime(2026, 11, 29, 12, 0, tzinfo=UTC)
HOSTILE = "a\x1b[2Jb\r\n09:00:00 task-1  completed\x07‮"


def an_event(kind: str, task_id: str | None = "task-1", which: str = "", at: float = 0, **more: Any) -> Event:
    attempt = more.get("attempt", "")
    name = f"{task_id or more.get('worker')}/{kind}/{attempt}/{which}"
    return Event(id=name, kind=kind, task_id=task_id, at=NOW + timedelta(seconds=at), **more)


def claimed(attempt: int = 1, at: float = 0, **more: Any) -> Event:
    return an_event("claimed", attempt=attempt, by="w", worker="w@h:1", host="h", at=at, **more)


def printed(text: str, offset: int = 0, attempt: int = 1, **more: Any) -> Event:
    return an_event("output", which=str(offset), attempt=attempt, data={"text": text, "offset": offset, **more})


def whole(attempt: int = 1, size: int = 10) -> Event:
    return an_event("output", which="whole", attempt=attempt, data={"whole": True, "bytes": size})


def completed(attempt: int | None = 1, at: float = 9, task_id: str = "task-1") -> Event:
    return an_event("completed", task_id, attempt=attempt, at=at, by="w", data={"verified": True, "summary": "Did it."})


class TestWatch:
    def test_what_was_comes_oldest_first_and_nothing_of_it_comes_again(self) -> None:
        watch = Watch(["task-1"])
        was = [claimed(at=2), an_event("submitted", at=1), claimed(at=2)]
        assert [event.kind for event in watch.history(was)] == ["submitted", "claimed"]
        assert watch.take(was, 0.0) == []
        assert watch.take([printed("a")], 0.0) == [printed("a")]
        assert watch.take([printed("a")], 0.0) == []

    def test_only_named_tasks_and_their_members_are_shown(self) -> None:
        watch = Watch(["plan"], ["plan.a"])
        seen = watch.take([an_event("submitted", name) for name in ("plan", "plan.a", "plan.b", "other")], 0.0)
        assert [event.task_id for event in seen] == ["plan", "plan.a"]
        watch.take([completed(None, task_id="plan.a")], 0.0)
        assert not watch.is_over
        watch.take([completed(None, task_id="plan")], 0.0)
        assert watch.is_over

    def test_an_end_waits_for_the_last_words(self) -> None:
        watch = Watch(["task-1"])
        watch.history([claimed()])
        assert watch.take([completed(), an_event("settled")], 0.0) == []
        assert not watch.is_over
        assert watch.left == []
        assert watch.take([printed("last\n"), whole()], 1.0) == [
            printed("last\n"),
            whole(),
            completed(),
            an_event("settled"),
        ]
        assert watch.is_over

    def test_last_words_that_do_not_come_are_not_waited_for_forever(self) -> None:
        watch = Watch(["task-1"])
        watch.history([claimed()])
        watch.take([completed()], 0.0)
        assert watch.due(HOLD - 0.1) == []
        watch.is_behind = True
        assert watch.due(HOLD + 0.1) == []
        watch.is_behind = False
        assert watch.due(HOLD + 0.1) == [completed()]
        assert watch.is_over

    @pytest.mark.parametrize("was", [[], [an_event("claimed", attempt=1, by="pulled")]], ids=["never", "pulled"])
    def test_who_has_no_last_words_is_not_waited_for(self, was: list[Event]) -> None:
        watch = Watch(["task-1"])
        watch.history(was)
        assert watch.take([completed()], 0.0) == [completed()]

    def test_without_output_nothing_is_waited_for_and_none_is_shown(self) -> None:
        watch = Watch(["task-1"], with_output=False)
        watch.history([claimed()])
        assert watch.take([printed("a"), completed()], 0.0) == [completed()]

    def test_what_an_earlier_attempt_printed_is_not_shown_to_who_comes_later(self) -> None:
        watch = Watch(["task-1"])
        watch.history([claimed(1), an_event("attempt_ended", attempt=1, at=1), claimed(2, at=2)])
        assert watch.talking_since == NOW + timedelta(seconds=2)
        new = printed("new\n", attempt=2)
        assert watch.take([printed("old\n", attempt=1), whole(1), new], 0.0) == [new]

    def test_an_agents_tasks_are_found_also_by_events_that_do_not_name_it(self) -> None:
        watch = Watch(agent="w", agent_of={"task-1": "w", "task-2": "other"}.get)
        mine, worker = an_event("released"), an_event("worker_up", None, worker="w@h:1", agent="w")
        assert watch.take([mine, an_event("released", "task-2"), worker], 0.0) == [mine, worker]
        assert not watch.is_over

    @given(st.permutations([claimed(), printed("a\n"), printed("b\n", 2), whole(), completed()]), st.integers(0, 5))
    def test_in_whatever_order_they_come_all_are_shown_once(self, events: list[Event], seam: int) -> None:
        watch = Watch(["task-1"])
        shown = watch.history(event for event in events[:seam] if event.kind != "output")
        shown += watch.take(events, 0.0)
        shown += watch.take(events, 0.0) + watch.due(HOLD)
        assert sorted(event.id for event in shown if event.kind != "output") == [
            "task-1/claimed/1/",
            "task-1/completed/1/",
        ]
        outputs = [event.id for event in shown if event.kind == "output"]
        assert len(outputs) == len(set(outputs))
        assert watch.is_over


class TestLines:
    def test_a_line_tells_when_whose_and_what(self) -> None:
        assert line(completed(), NOW) == "12:00:09 task-1  completed by w, verified: Did it."
        assert line(completed(), NOW + timedelta(days=1)).startswith("2026-11-29 12:00:09 task-1  completed")

    def test_an_agents_words_have_a_bar_before_each_line(self) -> None:
        assert list(lines(printed("one\ntwo\n\nthree"), NOW)) == [
            "task-1| one",
            "task-1| two",
            "task-1| ",
            "task-1| three",
        ]

    def test_what_is_left_out_is_said(self) -> None:
        assert list(lines(printed("x", left_out=2048), NOW)) == [
            "12:00:00 task-1  2.0 KiB of attempt 1's output are not shown",
            "task-1| x",
        ]

    def test_the_whole_is_told_with_its_place(self) -> None:
        assert (
            what(whole(size=1536))
            == "attempt 1 printed 1.5 KiB; the whole in the store: artifacts/task-1/1/transcript.log"
        )

    def test_an_unknown_cost_is_not_told_and_a_known_one_is(self) -> None:
        event = completed()
        assert "$" not in what(event)
        event.data["usage"] = {"seconds": 75.0, "cost_usd": 0.5}
        assert "1m, $0.50" in what(event)

    @pytest.mark.promise("untrusted-words")
    @pytest.mark.parametrize("kind", [*TASK_KINDS, *WORKER_KINDS, "from_a_later_agentq"])
    def test_whatever_an_event_says_it_is_one_harmless_line_of_its_own(self, kind: str) -> None:
        names = ("title", "reason", "summary", "text", "until", "type", "priority", "retry_of", "stopped")
        data = {**dict.fromkeys(names, HOSTILE), "depends_on": [HOSTILE], "usage": HOSTILE, "counts": HOSTILE}
        event = an_event(kind, attempt=1, by=HOSTILE, host=HOSTILE, data=data)
        shown = "\n".join(lines(event, NOW)).split("\n")
        for each in shown:
            assert each.startswith(("task-1| ", "12:00:00 task-1  "))
            assert each.isprintable()
        assert len(shown) == (2 if kind == "output" else 1)

    @given(
        st.sampled_from([*TASK_KINDS, *WORKER_KINDS]), st.dictionaries(st.text(max_size=12), st.integers() | st.text())
    )
    def test_an_event_may_hold_anything(self, kind: str, data: dict[str, Any]) -> None:
        names = ("left_out", "bytes", "tasks", "until", "usage", "depends_on", "text")
        for shuffled in (data, dict(zip(names, data.values(), strict=False))):
            for each in lines(an_event(kind, data=shuffled), NOW):
                assert "\n" not in each


# ---------------------------------------------------------------------- the command


@pytest.fixture
def watcher(desk: Desk) -> Iterator[Any]:
    """Starts `agentq watch`; what it prints goes to files."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str) -> "Watcher":
        process = Watcher(desk, len(started), *arguments)
        started.append(process.process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


class Watcher:
    """`agentq watch` at work."""

    def __init__(self, desk: Desk, number: int, *arguments: str) -> None:
        self._out, self._err = desk.folder / f"watch-{number}.out", desk.folder / f"watch-{number}.err"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = desk.start("watch", *arguments, stdout=out, stderr=err)

    @property
    def out(self) -> str:
        return self._out.read_text()

    @property
    def err(self) -> str:
        return self._err.read_text()

    def prints(self, words: str) -> None:
        until(lambda: words in self.out, f"{words!r}\n{self.out}{self.err}")

    def says(self, words: str) -> None:
        until(lambda: words in self.err, f"{words!r}\n{self.out}{self.err}")

    def ends(self) -> int:
        return self.process.wait(15)


@pytest.mark.promise("watched")
def test_a_task_that_has_ended_is_told_whole_and_the_command_ends(desk: Desk) -> None:
    task = desk.task()
    desk.ok("complete", task, "--from", "me", "--summary", "Did it by hand.")
    told = desk.ok("watch", task).splitlines()
    assert [each.split("  ", 1)[1].partition(" ")[0] for each in told] == ["submitted", "completed", "completed"]
    assert told[-1] == f"{task}  completed  unverified  → agentq result {task}"


def test_a_failure_is_an_outcome_as_any_other(desk: Desk) -> None:
    task = desk.task()
    desk.ok("fail", task, "--from", "me", "--reason", "It cannot be done.")
    assert desk.ok("watch", task).splitlines()[-1] == f"{task}  failed  → agentq result {task}"


@pytest.mark.promise("watched")
def test_what_the_log_lost_is_told_by_the_papers(desk: Desk) -> None:
    task = desk.task()
    desk.finish(task)  # tells no log
    assert "completed  verified" in desk.ok("watch", task)


@pytest.mark.promise("watched")
def test_it_ends_when_the_log_does_not_tell_the_end(desk: Desk, watcher: Any) -> None:
    task = desk.task()
    watching = watcher(task)
    watching.prints("submitted")
    desk.finish(task)  # tells no log
    assert watching.ends() == 0
    assert watching.out.splitlines()[-1] == f"{task}  completed  verified  → agentq result {task}"


def test_two_watchers_see_the_same(desk: Desk, watcher: Any) -> None:
    task = desk.task()
    both = [watcher(task), watcher(task)]
    for one in both:
        one.prints("submitted")
    desk.ok("complete", task, "--from", "me", "--summary", "Did it.")
    assert [one.ends() for one in both] == [0, 0]
    assert both[0].out == both[1].out


def test_a_plan_is_watched_with_its_tasks(desk: Desk, watcher: Any) -> None:
    (desk.project / "plan.yaml").write_text(
        "tasks:\n"
        "  first: {to: implementation-worker, type: implementation, instructions: Do it.}\n"
        "  second: {to: review-worker, type: review, instructions: Look., needs: [first]}\n"
    )
    desk.ok("plan", "submit", "plan.yaml", "--id", "plan-1")
    watching = watcher("plan-1")
    watching.prints("plan-1.second  submitted")
    for name in ("first", "second"):
        desk.ok("complete", f"plan-1.{name}", "--from", "me", "--summary", "Did it.")
    assert watching.ends() == 0
    assert "plan-1.second  released" in watching.out
    assert watching.out.splitlines()[-1].startswith("plan-1  completed")


def test_what_is_overdue_ends_with_no_worker_up(desk: Desk, watcher: Any) -> None:
    task = desk.task("--ttl", "1")
    watching = watcher(task)
    assert watching.ends() == 0
    assert f"{task}  expired" in watching.out


def test_json_is_an_event_a_line_and_nothing_else(desk: Desk) -> None:
    task = desk.task()
    desk.ok("complete", task, "--from", "me", "--summary", "Did\x1b[2J it.")
    told = [Event.model_validate_json(each) for each in desk.ok("watch", task, "--json").splitlines()]
    assert [event.kind for event in told][:2] == ["submitted", "completed"]
    assert "\x1b" not in desk.ok("watch", task, "--json")


@pytest.mark.promise("watched")
def test_all_is_watched_until_interrupted(desk: Desk, watcher: Any) -> None:
    before = desk.task()
    everything, theirs = watcher("--all"), watcher("--agent", "review-worker", "--json")
    for one in (everything, theirs):
        one.says("watching")
    task, review = desk.task(), desk.task(to=("--to", "review-worker", "--type", "review"))
    desk.ok("cancel", task)
    desk.ok("cancel", review)
    everything.prints(f"{review}  cancelled")
    theirs.prints(f'"id":"{review}/settled"')
    for one in (everything, theirs):
        one.process.send_signal(signal.SIGINT)
        assert one.ends() == 130
    assert f"{task}  cancelled" in everything.out
    assert before not in everything.out
    assert task not in theirs.out


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((), 3, "--all"),
        (("--all", "--agent", "x"), 3, "say what to watch"),
        (("task-1", "--all"), 3, "say what to watch"),
        (("no/id",), 3, "is no task id"),
        (("--agent", "no/name"), 3, "is no name"),
        (("task-1",), 4, "there is no task task-1"),
        (("--agent", "nobody"), 4, "Known: implementation-worker"),
    ],
)
def test_what_cannot_be_watched_is_said_at_once(desk: Desk, arguments: tuple[str, ...], code: int, words: str) -> None:
    done = desk.run("watch", *arguments)
    assert (done.code, done.out) == (code, "")
    assert words in done.err


def test_it_ends_quietly_when_nobody_reads_it_any_more(desk: Desk) -> None:
    task = desk.task()
    command = [sys.executable, "-m", "agentq", "watch", task]
    first = subprocess.Popen(
        command, cwd=desk.project, env=desk.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert first.stdout is not None
    assert b"submitted" in first.stdout.readline()
    first.stdout.close()
    assert first.wait(10) in (0, 1)
    assert first.stderr is not None
    with first.stderr as stderr:
        assert stderr.read() == b""


@pytest.mark.promise("watched")
def test_what_the_log_lost_before_it_was_read_is_said(desk: Desk, watcher: Any) -> None:
    watching = watcher("--all")
    watching.says("watching")
    watching.process.send_signal(signal.SIGSTOP)
    lost, kept = desk.task(), desk.task()
    with contextlib.closing(sqlite3.connect(desk.home / ".local/share/agentq/queue.db")) as db, db:
        db.execute("DELETE FROM events WHERE row <= (SELECT max(row) FROM events WHERE task_id = ?)", (lost,))
    watching.process.send_signal(signal.SIGCONT)
    watching.prints(f"{kept}  submitted")
    watching.says("part of the events was gone")
    assert lost not in watching.out


def test_who_comes_later_is_told_what_an_attempt_does(desk: Desk, watcher: Any) -> None:
    task = desk.task()
    desk.ok("claim", "--as", "implementation-worker")
    note = an_event("progress", task, attempt=1, data={"text": "running the tests"})
    desk.with_engine(lambda engine: engine.append([note]))
    watching = watcher(task)
    watching.prints(f"{task}  attempt 1 says: running the tests")


def test_it_goes_on_while_the_ledger_is_made_anew(desk: Desk, watcher: Any) -> None:
    watching = watcher("--agent", "implementation-worker")
    watching.says("watching")
    desk.ok("ledger", "rebuild")
    task = desk.task()
    desk.ok("cancel", task)
    watching.prints(f"{task}  cancelled")


def test_it_watches_in_a_terminal_until_interrupted(desk: Desk) -> None:
    desk.task("--id", "first")
    terminal = Terminal(["watch", "first"], desk.environment, desk.project)
    try:
        terminal.shows("first  submitted")
        terminal.press(b"\x03")
        assert terminal.process.wait(10) == 130
        assert terminal.after() == terminal.before
    finally:
        terminal.close()
