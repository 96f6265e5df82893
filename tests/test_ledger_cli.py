"""`agentq list`, `history`, `tree` and `ledger`: what they print, and what they say when something is wrong."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from signal import SIGKILL

import pytest

from agentq import story
from agentq.cli.list import aligned
from agentq.engine import Engine
from agentq.events import Event
from tests.desk import REVIEW, Desk, Done
from tests.tales import attempt_ended, claimed, ended, event, life, submitted
from tests.test_ledger import spoil_table

PLAN = """
tasks:
  - name: one
    to: implementation-worker
    type: implementation
    instructions: Do the first part.
  - name: two
    to: implementation-worker
    type: implementation
    instructions: Do the second part.
    needs: [one]
"""
NOWHERE = "amqp://127.0.0.1:1/"
HALF_DONE = """
import sys
from agentq.app import App
def progress(what, count):
    if what.startswith("tasks") and count == 2:
        print("half", flush=True)
        sys.stdin.read()
App.load().rebuild_ledger(progress)
"""


def ids(done: str) -> list[str]:
    return [line.split()[0] for line in done.splitlines()]


def append(desk: Desk, *events: Event) -> None:
    async def act(engine: Engine) -> None:
        await engine.append(events)

    desk.with_engine(act)


def ledgers(desk: Desk) -> list[Path]:
    return sorted((desk.home / ".local/share/agentq/ledgers").glob("*.db"))


# ---------------------------------------------------------------------- list


@pytest.mark.promise("list-exact")
def test_the_list_tells_each_task_in_a_line_newest_first(any_desk: Desk) -> None:
    desk = any_desk
    done, failed = desk.task("--label", "team=red"), desk.task()
    delayed, reviewed = desk.task("--delay", "2h"), desk.task("--requires-approval", to=REVIEW)
    desk.ok("complete", done, "--from", "me", "--summary", "did it")
    desk.ok("fail", failed, "--from", "me", "--reason", "no such file")
    listed = desk.ok("list").splitlines()
    assert [line.split("  ")[:3] for line in listed] == [
        [reviewed, "pending/approval", "review-worker"],
        [delayed, "pending/delayed", "implementation-worker"],
        [failed, "failed", "implementation-worker"],
        [done, "completed", "implementation-worker"],
    ]
    assert listed[2].endswith("no such file | Do it.")
    assert all(len(line) < 160 for line in listed)
    assert ids(desk.ok("list", "--state", "open")) == [reviewed, delayed]
    assert ids(desk.ok("list", "--state", "failed,completed")) == [failed, done]
    assert ids(desk.ok("list", "--agent", "review-worker", "--type", "review", "--state", "approval")) == [reviewed]
    assert ids(desk.ok("list", "--label", "team=red")) == ids(desk.ok("list", "--label", "team")) == [done]
    assert ids(desk.ok("list", "--text", "such file")) == [failed]
    assert ids(desk.ok("list", "--since", "1h", "--from", "coordinator")) == ids(desk.ok("list"))
    none = desk.run("list", "--until", "1h")
    assert (none.code, none.out, none.err) == (0, "", "no such tasks\n")


def test_on_a_terminal_the_list_stands_in_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [("a", "pending/queued", "x", "since 1s", "Mend"), ("longer", "failed", "yy", "2h ago", "")]
    assert aligned(lines) == ["a  pending/queued  x  since 1s  Mend", "longer  failed  yy  2h ago"]
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert aligned(lines) == ["a       pending/queued  x   since 1s  Mend", "longer  failed          yy  2h ago"]


def test_the_list_as_json_is_read_page_by_page(desk: Desk) -> None:
    made = [desk.task() for _ in range(5)]
    first = desk.json("list", "--limit", "2")
    assert first["as_of"]
    assert (first["tasks"][0]["state"], first["tasks"][0]["waits_for"]) == ("pending", "queued")
    assert first["tasks"][0]["created_at"].endswith("+00:00")
    pages, last = [first], first
    while last["next"]:
        last = desk.json("list", "--limit", "2", "--before", last["next"])
        pages.append(last)
    assert [task["task_id"] for page in pages for task in page["tasks"]] == made[::-1]
    assert f"--before {made[3]}" in desk.run("list", "--limit", "2").err


@pytest.mark.promise("words-not-tracebacks")
@pytest.mark.parametrize(
    ("flags", "code", "says"),
    [
        (("--state", "done"), 3, "One of: pending, processing"),
        (("--state", ""), 3, "One of: pending, processing"),
        (("--since", "yesterday"), 3, "24h"),
        (("--until", "24h", "--since", "1h"), 3, "ends before it begins"),
        (("--text", "--"), 3, "no word"),
        (("--agent", "a b"), 3, "is no name"),
        (("--before", "nosuch"), 4, "knows no task nosuch"),
        (("--limit", "0"), 2, "--limit"),
    ],
)
def test_what_the_list_cannot_be_asked_is_told(desk: Desk, flags: tuple[str, ...], code: int, says: str) -> None:
    desk.task()
    done = desk.run("list", *flags)
    assert (done.code, done.out) == (code, "")
    assert says in done.err


def test_the_list_of_nothing_says_so(desk: Desk) -> None:
    assert desk.run("list") == Done(0, "", "no tasks\n")


@pytest.mark.promise("untrusted-words")
def test_what_others_say_cannot_steer_the_terminal_nor_pass_for_a_line(desk: Desk) -> None:
    evil = "\x1b[2J\x1b]0;gone\x07\r\nother-task  completed"
    task_id = desk.ok("submit", *REVIEW, "--instructions", "Do it.\x1b[31m")
    desk.ok("fail", task_id, "--from", "me", "--reason", evil)
    for command in (
        ("list",),
        ("list", "--json"),
        ("history", task_id),
        ("history", task_id, "--json"),
        ("tree", task_id),
    ):
        printed = desk.ok(*command)
        assert "\x1b" not in printed
        assert "\x07" not in printed
        assert not [line for line in printed.splitlines() if line.startswith("other-task")]
    assert desk.json("list")["tasks"][0]["reason"] == evil


@pytest.mark.promise("ledger-stale")
def test_with_the_engine_away_the_list_is_as_it_was_and_says_so(desk: Desk) -> None:
    task_id = desk.task()
    desk.ok("list")
    ledger = ledgers(desk)[0]
    desk.environment["AGENTQ_BROKER"] = NOWHERE
    desk.ok("ledger", "show")
    ledger.replace(next(path for path in ledgers(desk) if path != ledger))  # the ledger of a broker that was there
    done = desk.run("list")
    assert (done.code, ids(done.out)) == (0, [task_id])
    assert "this is as of 20" in done.err
    assert desk.run("list", "--cached").err == ""
    assert desk.json("list", "--cached")["as_of"]


@pytest.mark.promise("ledger-stale")
@pytest.mark.parametrize("command", [("list",), ("list", "--json"), ("stats",), ("workers",), ("top", "--once")])
def test_with_the_engine_away_that_was_never_read_nothing_is_told(desk: Desk, command: tuple[str, ...]) -> None:
    done = desk.run(*command, "--broker", NOWHERE)
    assert (done.code, done.out) == (6, "")
    assert "the log cannot be read, and never was: " in done.err
    assert "no tasks" not in done.err


def test_with_the_engine_away_that_was_never_read_a_task_is_told_of_by_its_papers(desk: Desk) -> None:
    task_id = desk.task()
    for command in ("history", "tree"):
        done = desk.run(command, task_id, "--broker", NOWHERE)
        assert (done.code, task_id in done.out) == (0, True)
        assert "the log cannot be read, this is as of an unknown time" in done.err


# ---------------------------------------------------------------------- history and tree


def test_the_history_tells_each_step_and_what_the_time_went_into(any_desk: Desk) -> None:
    desk = any_desk
    append(desk, submitted("one", 0, title="Mend it"), claimed("one", 10), *attempt_ended("one", 40, retry_at=50))
    append(desk, claimed("one", 55, 2), ended("one", 175, attempt=2), event("one", "settled", 176))
    told = desk.ok("history", "one")
    assert told.splitlines()[0].startswith("one  completed  worker")
    day, _, *steps = told.splitlines()[1:-1]
    assert day.strip() == f"{desk.json('history', 'one')['events'][0]['at'][:10]}"
    assert [line.split("  ")[2].strip() for line in steps] == ["+10s", "+30s", "+0s", "+15s", "+2m"]
    assert steps[1].split(maxsplit=2)[1:] == ["+30s", "attempt 1 ended without a result: broke"]
    assert told.endswith("waited 25s, ran 2m (attempt 1 30s, attempt 2 2m), in all 2m")
    asked = desk.json("history", "one")
    assert [(run["outcome"], run["seconds"]) for run in asked["attempts"]] == [
        ("attempt_ended", 30),
        ("completed", 120),
    ]
    assert (asked["waited_seconds"], asked["ran_seconds"], asked["whole_seconds"]) == (25, 150, 175)
    kinds = ["submitted", "claimed", "attempt_ended", "delayed", "claimed", "completed", "settled"]
    assert [told["kind"] for told in asked["events"]] == kinds


def test_what_runs_has_taken_so_long_so_far(desk: Desk) -> None:
    task_id = desk.task()
    append(desk, *claimed_now(desk, task_id))
    told = desk.ok("history", task_id)
    assert "attempt 1 begun by implementation-worker" in told
    assert told.endswith("so far")
    assert desk.json("history", task_id)["attempts"][0]["ended_at"] is None
    assert desk.ok("list").split("  ")[1:4] == ["processing", "implementation-worker", "for 0s"]


def claimed_now(desk: Desk, task_id: str) -> Iterator[Event]:
    """What a worker tells that claims a task."""
    yield story.claimed(task_id, desk.claim(task_id))


@pytest.mark.promise("papers-fill-in")
def test_what_the_log_never_told_is_told_from_the_papers_and_an_unknown_task_is_not_found(desk: Desk) -> None:
    task_id = desk.task()
    queue = desk.home / ".local/share/agentq/queue.db"
    for path in queue.parent.glob("queue.db*"):
        path.unlink()
    for command in ("history", "tree"):
        done = desk.run(command, task_id, "--cached")
        assert (done.code, task_id in done.out) == (0, True)
        assert ("this is from its papers" in done.err) == (command == "history")  # then the ledger knows
        unknown = desk.run(command, "nosuch")
        assert (unknown.code, unknown.out) == (4, "")
        assert "neither the log nor the store" in unknown.err


def test_a_clock_that_jumps_makes_no_time_less_than_nothing(desk: Desk) -> None:
    append(desk, *life("one", 100, -3600, 50))
    told = desk.ok("history", "one")
    assert "in all 0s" in told
    assert "-" not in told.rpartition("waited")[2]


def test_the_tree_shows_the_plan_what_waits_for_what_and_retries(any_desk: Desk) -> None:
    desk = any_desk
    (desk.project / "plan.yaml").write_text(PLAN)
    desk.ok("plan", "submit", "plan.yaml", "--id", "plan")
    after = desk.task("--after", "plan.two", "--id", "after")
    desk.ok("fail", "plan.one", "--from", "me", "--reason", "no")
    again = desk.ok("retry", "plan.one")
    told = desk.ok("tree", "plan").splitlines()
    assert told[0].startswith("plan  failed")
    assert told[1].startswith("├─ plan.one  failed")
    assert told[2].startswith(f"│  └─ retried as: {again}  pending/queued")
    assert told[3].startswith("└─ plan.two  failed")
    assert told[3].endswith("after plan.one")
    assert len(told) == 4
    up = desk.ok("tree", after)
    assert [line.lstrip("├└─│ ").split("  ")[0] for line in up.splitlines()] == [
        "after",
        "after: plan.two",
        "after: plan.one",
    ]
    down = desk.json("tree", "plan.one")
    assert [(n["relation"], n["task_id"]) for n in down["below"]] == [
        ("in plan", "plan"),
        ("before", "plan.two"),
        ("retried as", again),
    ]
    assert down["below"][1]["below"][0]["task_id"] == "after"
    assert desk.json("tree", again)["below"][0] == desk.json("tree", again)["below"][0] | {"relation": "retry of"}


def test_circles_and_wide_plans_are_cut_off(desk: Desk) -> None:
    members = [submitted(f"plan.{n}", 1, group="plan") for n in range(50)]
    append(desk, submitted("plan", tasks=50), *members)
    append(
        desk, submitted("a", depends_on=["b"]), submitted("b", depends_on=["a"]), submitted("c", depends_on=["gone"])
    )
    told = desk.ok("tree", "plan", "--width", "3").splitlines()
    assert [line.split()[1] for line in told[1:-1]] == ["plan.0", "plan.1", "plan.2"]
    assert told[-1] == "└─ and 47 more"
    assert "after: a" in desk.ok("tree", "a")
    assert "(see above)" in desk.ok("tree", "a")
    assert "gone  unknown to the ledger" in desk.ok("tree", "c")
    deep = [submitted(f"d{n}", n, depends_on=[f"d{n - 1}"] if n else []) for n in range(20)]
    append(desk, *deep)
    assert desk.ok("tree", "d19", "--depth", "2").splitlines()[-1].strip() == "└─ and 1 more"


# ---------------------------------------------------------------------- the file


@pytest.mark.promise("ledger-disposable")
@pytest.mark.parametrize("table", [None, "tasks"])
def test_a_damaged_ledger_is_made_anew_and_nothing_is_missing_in_the_list(desk: Desk, table: str | None) -> None:
    first = desk.task()
    desk.ok("list")
    second = desk.task()
    (path,) = ledgers(desk)
    if table:
        spoil_table(path, table)
    else:
        path.write_bytes(b"nonsense")
    done = desk.run("list")
    assert (done.code, ids(done.out)) == (0, [second, first])
    assert done.err == "the ledger was made anew: it was damaged; the log is read from its start\n"
    assert desk.run("list").err == ""


@pytest.mark.promise("words-not-tracebacks")
def test_a_home_that_is_a_file_is_told_with_the_way_out(desk: Desk) -> None:
    desk.ok("init")
    queue = (desk.home / ".local/share/agentq/queue.db").as_uri().replace("file:", "sqlite:")
    (desk.folder / "file").write_text("no folder")
    done = desk.run("list", AGENTQ_DATA=str(desk.folder / "file"), AGENTQ_BROKER=queue)
    assert (done.code, done.out) == (6, "")
    assert "AGENTQ_DATA" in done.err


@pytest.mark.promise("ledger-order")
def test_readers_that_catch_up_at_once_all_see_everything(desk: Desk) -> None:
    tasks = [f"task-{number}" for number in range(3000)]
    append(desk, *(event for number, task in enumerate(tasks) for event in life(task, number, number, number)))
    command = ("list", "--limit", "10000", "--json")
    readers = [desk.start(*command) for _ in range(3)]
    for reader in readers:
        out, err = reader.communicate(timeout=60)
        assert (reader.returncode, err) == (0, b"")
        assert [task["task_id"] for task in json.loads(out)["tasks"]] == tasks[::-1]
    assert desk.json("ledger", "show") | {"path": "", "bytes": 0, "as_of": ""} == {
        "path": "",
        "bytes": 0,
        "tasks": 3000,
        "events": 9000,
        "workers": 0,
        "as_of": "",
        "gap": False,
    }


@pytest.mark.promise("papers-fill-in")
def test_what_retention_took_is_told_and_rebuilt_from_the_papers(desk: Desk) -> None:
    before = desk.task()
    desk.ok("complete", before, "--from", "me", "--summary", "did it")
    desk.ok("list")
    unseen = desk.task()
    for path in (desk.home / ".local/share/agentq").glob("queue.db*"):
        path.unlink()  # the log is another one now
    after = desk.task()
    done = desk.run("list")
    assert (done.code, ids(done.out)) == (0, [after, before])
    assert "agentq ledger rebuild" in done.err
    assert desk.run("list").err == ""
    assert desk.json("ledger", "show")["gap"] is True
    done = desk.run("ledger", "rebuild")
    assert done.out.strip() == "1 events in the log, 3 tasks in the store, 3 told by their papers"
    assert ids(desk.ok("list")) == [after, unseen, before]
    assert desk.json("list", "--state", "completed")["tasks"][0]["summary"] == "did it"
    assert desk.json("ledger", "show")["gap"] is False
    assert len(ledgers(desk)) == 1


def test_a_damaged_paper_is_told_and_the_others_are_brought_in(desk: Desk) -> None:
    good, bad = desk.task(), desk.task()
    (desk.shared / f"tasks/{bad}.json").write_text("{")
    done = desk.run("ledger", "rebuild", "--from-papers")
    assert done.code == 0
    assert f"tasks/{bad}.json is damaged" in done.err
    assert ids(desk.ok("list", "--cached")) == [good]


@pytest.mark.promise("ledger-disposable")
def test_a_rebuild_without_its_engine_or_that_is_killed_leaves_the_ledger_as_it_was(desk: Desk) -> None:
    made = [desk.task() for _ in range(3)]
    desk.ok("list")
    standing = ledgers(desk)
    with subprocess.Popen(
        [sys.executable, "-c", HALF_DONE],
        env=desk.environment,
        cwd=desk.project,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as child:
        assert child.stdout
        assert child.stdout.readline() == b"half\n"
        assert ids(desk.ok("list")) == made[::-1]
        child.send_signal(SIGKILL)
    assert ledgers(desk) == standing
    assert ids(desk.ok("list")) == made[::-1]
    desk.ok("ledger", "rebuild")
    assert len(ledgers(desk)) == 1
    assert ledgers(desk) != standing
    assert ids(desk.ok("list")) == made[::-1]
    done = desk.run("ledger", "rebuild", "--broker", NOWHERE)
    assert done.code == 6
    assert "--from-papers" in done.err
    assert ids(desk.ok("list")) == made[::-1]


def test_a_reader_that_was_open_during_a_rebuild_goes_on(desk: Desk) -> None:
    desk.task()
    with desk.app().caught_up_ledger(print) as old:
        desk.ok("ledger", "rebuild")
        assert old.task("nosuch") is None
        with desk.app().ledger(print) as new:
            assert new.path != old.path


def test_a_long_reading_shows_on_a_terminal(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    from agentq.cli import reading

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(reading, "PATIENCE", 0.0)
    monkeypatch.setattr(sys, "stderr", terminal)
    with reading.counting("reading the log", "events") as progress:
        progress(1234567)
    assert "1,234,567 events" in terminal.getvalue()
