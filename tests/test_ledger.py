"""The ledger: what filters find, and what becomes of its file."""

import itertools
import json
import os
import random
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from signal import SIGKILL
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentq.engine import Page
from agentq.errors import Invalid, NotFound, Unavailable
from agentq.events import TASK_KINDS, WORKER_KINDS, Event
from agentq.ledger import Damaged, Filter, Ledger, Shelf, TaskRow
from agentq.ledger.finding import bounds, queries
from agentq.ledger.rows import ENDED, OPEN, STATES, WAITS
from agentq.messages import utc_now
from tests.tales import START, at, attempt_ended, claimed, ended, event, life, submitted

NOBODY = 65534
WORKER = "worker@host:1"
KILLED = """
import itertools, sys
from pathlib import Path
from agentq.engine import Page
from agentq.ledger import Ledger, Shelf
from tests.tales import life
ledger = Ledger.on(Shelf(Path(sys.argv[1]), "log"))
for number in itertools.count():
    tasks = [f"task-{number}-{n}" for n in range(50)]
    ledger.apply(Page(tuple(event for task in tasks for event in life(task, number, number, number)), str(number)))
    print(number, flush=True)
"""


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "ledgers", "log")


@pytest.fixture
def ledger(shelf: Shelf) -> Iterator[Ledger]:
    with Ledger.on(shelf) as one:
        yield one


def page(*events: Event, position: str = "1") -> Page:
    return Page(events, position, caught_up=True)


def ids(rows: list[TaskRow]) -> list[str]:
    return [row.task_id for row in rows]


# ---------------------------------------------------------------------- what is found


def anything(task_id: str, rng: random.Random, known: list[str]) -> Iterator[Event]:
    """A task with something of all that can be filtered by, in any state."""
    agent, start = rng.choice(("coder", "reviewer")), rng.uniform(-1e6, 1e6)
    labels = {key: rng.choice(("red", "blue")) for key in ("team", "run") if rng.random() < 0.5}
    said: dict[str, Any] = {
        "labels": labels,
        "title": f"{rng.choice(('Mend', 'Test', 'Review'))} the {rng.choice('ab')}-part",
    }
    said |= {"requires_approval": True} if rng.random() < 0.2 else {}
    said |= {"depends_on": [rng.choice(known)]} if known and rng.random() < 0.2 else {}
    said |= {"group": rng.choice(known)} if known and rng.random() < 0.2 else {}
    said |= {"not_before": rng.choice((-1e8, 1e8))} if rng.random() < 0.2 else {}
    yield submitted(task_id, start, agent=agent, type=rng.choice(("fix", "docs")), **said)
    fate = rng.random()
    if fate < 0.7:
        yield claimed(task_id, start + 1)
    if 0.5 < fate < 0.7:
        yield from attempt_ended(task_id, start + 2, retry_at=rng.choice((None, -1e8, 1e8)))
    elif fate < 0.4:
        yield ended(task_id, start + 2, rng.choice(ENDED), agent=agent)


def holds(asked: Filter, row: TaskRow) -> bool:
    """The same as the ledger's SQL, said plainly."""
    words = asked.words
    texts = " ".join(text.lower() for text in (row.task_id, row.title, row.summary, row.reason) if text).replace(
        "-", " "
    )
    labels = {*row.labels, *(f"{key}={value}" for key, value in row.labels.items())}
    return (
        (not words or row.state in words or row.waits_for in words)
        and asked.agent in (None, row.agent)
        and asked.type in (None, row.type)
        and asked.group in (None, row.group)
        and labels >= set(asked.labels)
        and (asked.since is None or (row.created_at or 0) >= asked.since)
        and (asked.until is None or (row.created_at or 0) < asked.until)
        and all(any(word.startswith(part) for word in texts.split()) for part in (asked.text or "").lower().split())
    )


def filters(rng: random.Random) -> Filter:
    def maybe(*values: Any) -> Any:
        return rng.choice(values) if rng.random() < 0.3 else None

    return Filter(
        states=tuple(rng.sample((*STATES, *WAITS, "open", "ended"), rng.choice((0, 0, 1, 1, 2, 3)))),
        agent=maybe("coder", "reviewer", "nobody"),
        type=maybe("fix", "docs"),
        group=maybe("task-1", "task-2"),
        labels=tuple(rng.sample(("team", "team=red", "run=blue", "no=label"), rng.choice((0, 0, 0, 1, 2)))),
        since=maybe(START, START - 5e5),
        until=maybe(START + 1e5),
        text=maybe("mend", "test part", "review", "task"),
    )


@pytest.mark.promise("list-exact")
def test_every_filter_finds_exactly_what_it_says_newest_first_and_pages_leave_nothing_out(ledger: Ledger) -> None:
    rng = random.Random(5)
    known: list[str] = []
    for number in range(120):
        ledger.apply(page(*anything(f"task-{number}", rng, known)))
        known.append(f"task-{number}")
    ledger.apply(page(event("ghost", "dead_lettered", 1)))  # nobody ever submitted it
    everything = ledger.tasks(Filter(), 1000)
    assert len(everything) == 120
    assert {row.state for row in everything} == set(STATES)
    assert {row.waits_for for row in everything} == {None, *WAITS} - {"lease"}
    assert everything == sorted(everything, key=lambda row: row.created_at or 0, reverse=True)
    found_some = 0
    for asked in (filters(rng) for _ in range(1500)):
        expected = [row.task_id for row in everything if holds(asked, row)]
        assert ids(ledger.tasks(asked, 1000)) == expected, asked
        found_some += bool(expected)
        first = ids(ledger.tasks(asked, 7))
        rest = ids(ledger.tasks(asked, 1000, before=first[-1])) if first else []
        assert first + rest == expected
    assert found_some > 300


@pytest.mark.promise("list-fast")
@pytest.mark.parametrize(
    "asked",
    [
        Filter(),
        *(Filter(states=(state,)) for state in (*STATES, *WAITS, "open", "ended")),
        Filter(states=("failed", "pending", "lease")),
        Filter(agent="coder"),
        Filter(agent="coder", type="fix", states=("failed",), labels=("team=red", "run")),
        Filter(text="mend the part", sender="coordinator", since=1.0, until=2.0),
        Filter(group="plan", needs="task-1", plans=True),
    ],
    ids=str,
)
def test_every_filter_is_answered_from_an_index_in_the_order_of_the_list(ledger: Ledger, asked: Filter) -> None:
    for query in queries(asked):
        values = query.arguments | bounds(asked) | {"now": 0.0, "limit": 20}
        steps = [row["detail"] for row in ledger.query(f"EXPLAIN QUERY PLAN {query.sql}", values)]
        assert not [step for step in steps if "TEMP B-TREE" in step or step.startswith("SCAN t")], steps
        assert any("INDEX by_state" in s or "VIRTUAL TABLE INDEX" in s or "PRIMARY KEY (rowid>" in s for s in steps), (
            steps
        )


@pytest.mark.parametrize("text", ["", "  ", "--", '"', "*"])
def test_a_text_without_a_word_is_refused(text: str) -> None:
    with pytest.raises(Invalid):
        Filter(text=text)


@pytest.mark.parametrize(
    "text", ['"mend', "mend*", "mend OR", "NEAR(mend", "(mend", "mend^2", "-mend", "words:mend", "mend'--", "MEND"]
)
def test_what_people_search_for_is_words_and_no_language(ledger: Ledger, text: str) -> None:
    ledger.apply(page(submitted("one", title="Mend near words or 2")))
    assert ids(ledger.tasks(Filter(text=text))) == ["one"]


def test_an_unknown_state_a_time_backwards_and_an_unknown_place_are_refused(ledger: Ledger) -> None:
    with pytest.raises(Invalid, match="'done' is no state") as refused:
        Filter(states=("done",))
    assert "completed" in refused.value.hint
    with pytest.raises(Invalid):
        Filter(since=2.0, until=1.0)
    with pytest.raises(NotFound):
        ledger.tasks(Filter(), 20, before="nosuch")


def test_ideographs_that_people_write_are_not_taken_for_marks(ledger: Ledger) -> None:
    ledger.apply(page(submitted("one", title="修复登录页面的错误"), submitted("two", title="Mend it")))
    assert ids(ledger.tasks(Filter(text="修复"))) == ["one"]
    assert ids(ledger.tasks(Filter(text="错"))) == []


# ---------------------------------------------------------------------- workers


def heartbeat(number: int, ago: float, **data: Any) -> Event:
    moment = at(utc_now().timestamp() - START - ago)
    return Event(
        id=f"{WORKER}/heartbeat/1/{number}",
        kind="worker_heartbeat",
        at=moment,
        agent="worker",
        worker=WORKER,
        host="host",
        data={"heartbeat_seconds": 10.0, "running": [{"task_id": "one"}], **data},
    )


@pytest.mark.parametrize(
    ("said", "waits_for"),
    [
        (lambda: [], None),  # nothing is known of a worker: it is not taken for dead
        (lambda: [heartbeat(1, ago=5)], None),
        (lambda: [heartbeat(1, ago=35)], "lease"),
        (lambda: [heartbeat(2, ago=5), heartbeat(1, ago=35)], None),
        (lambda: [heartbeat(1, ago=5), heartbeat(2, ago=1).model_copy(update={"kind": "worker_down"})], "lease"),
        (lambda: [heartbeat(1, ago=5, heartbeat_seconds=0.1)], "lease"),
        (lambda: [heartbeat(1, ago=5, draining=True)], None),
    ],
)
def test_a_task_whose_worker_is_silent_or_down_waits_for_its_lease(
    ledger: Ledger, said: Callable[[], list[Event]], waits_for: str | None
) -> None:
    ledger.apply(page(submitted("one"), claimed("one", 1), *said()))
    row = ledger.task("one")
    assert row
    assert (row.state, row.waits_for) == ("pending" if waits_for else "processing", waits_for)
    for word, expected in (
        ("lease", waits_for),
        ("processing", not waits_for),
        ("pending", waits_for),
        ("queued", False),
    ):
        assert bool(ledger.tasks(Filter(states=(word,)))) == bool(expected), word
    assert ids(ledger.tasks(Filter(states=("open",)))) == ["one"]


def test_a_worker_is_as_it_said_last(ledger: Ledger) -> None:
    up = Event(
        id=f"{WORKER}/up/1", kind="worker_up", at=at(0), agent="worker", worker=WORKER, data={"pid": 7, "version": "1"}
    )
    ledger.apply(page(heartbeat(2, ago=5, parallel=3), up, heartbeat(1, ago=15)))
    (worker,) = ledger.workers()
    assert (worker.state, worker.pid, worker.version, worker.parallel, worker.silent) == ("up", 7, "1", 3, False)
    assert worker.running == [{"task_id": "one"}]


# ---------------------------------------------------------------------- what others say


_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=5)
    | st.just("2030-01-31T18:00Z"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=4,
)
NAMES = """type title labels group tasks depends_on not_before ttl_seconds until usage summary reason running parallel
counts heartbeat_seconds requires_approval retry_of text created_at verified result_ref draining pid"""


@pytest.mark.promise("no-crash")
@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from((*TASK_KINDS, *WORKER_KINDS, "strange")),
    st.dictionaries(st.sampled_from(NAMES.split()), _json),
    st.integers(-(2**70), 2**70),
)
def test_whatever_an_event_says_the_ledger_goes_on(
    tmp_path_factory: pytest.TempPathFactory, kind: str, data: dict[str, Any], attempt: int
) -> None:
    with Ledger.on(Shelf(tmp_path_factory.getbasetemp() / "any", "log")) as ledger:
        name = f"one/{kind}/{attempt}/{json.dumps(data)}"[:500]
        strange = Event(id=name, kind=kind, at=utc_now(), task_id="one", attempt=attempt, worker="w", data=data)
        ledger.apply(page(strange, submitted("two")))
        rows = ledger.tasks(Filter(), 20)
        assert "two" in ids(rows)
        assert ledger.events("one") is not None
        assert all(ledger.workers())


@pytest.mark.promise("clock-jumps")
def test_clocks_that_jump_break_neither_the_list_nor_its_filters(ledger: Ledger) -> None:
    long_ago, far_off = -START - 3600, 250_000_000_000.0
    ledger.apply(page(*life("past", long_ago, 5, long_ago), *life("future", far_off, -5, 7), *life("now", 0, -9, 5)))
    ledger.apply(page(*life("later", 1, 2, 3)))
    assert ids(ledger.tasks(Filter(), 20)) == ["future", "later", "now", "past"]
    assert ids(ledger.tasks(Filter(since=START, until=START + 10), 20)) == ["later", "now"]
    assert ids(ledger.tasks(Filter(states=("completed",)), 20, before="later")) == ["now", "past"]


# ---------------------------------------------------------------------- the file


def overwritten(path: Path) -> None:
    path.write_bytes(b"no database at all" * 100)


def cut_short(path: Path) -> None:
    os.truncate(path, 100)


def emptied(path: Path) -> None:
    os.truncate(path, 0)


def of_version(number: int) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        with closing(sqlite3.connect(path)) as db:
            db.execute(f"PRAGMA user_version = {number}")

    return change


def anothers(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE positions (a)")


@pytest.mark.promise("ledger-disposable")
@pytest.mark.parametrize("spoil", [overwritten, cut_short, emptied, anothers, of_version(0), of_version(99)])
def test_a_file_that_is_damaged_or_another_versions_is_made_anew_and_says_so(
    shelf: Shelf, spoil: Callable[[Path], None]
) -> None:
    with Ledger.on(shelf) as before:
        before.apply(page(submitted("one")))
        path = before.path
    spoil(path)
    with Ledger.on(shelf) as ledger:
        assert ledger.renewed
        assert (ledger.position, ledger.tasks(Filter())) == (None, [])
        ledger.apply(page(submitted("two")))
    with Ledger.on(shelf) as again:
        assert again.renewed is None
        assert ids(again.tasks(Filter())) == ["two"]
    assert [path.name for path in shelf.folder.iterdir()] == ["log.2.db"]


@pytest.mark.promise("ledger-disposable")
def test_who_has_the_old_file_open_goes_on_with_it_and_disturbs_nobody(shelf: Shelf) -> None:
    with Ledger.on(shelf) as old:
        old.apply(page(submitted("one")))
        with Ledger.anew(shelf, "it was damaged") as new:
            old.apply(page(submitted("old")))
            new.apply(page(submitted("two")))
            old.close()
            new.apply(page(submitted("three")))
    with Ledger.on(shelf) as again:
        assert sorted(ids(again.tasks(Filter()))) == ["three", "two"]


def spoil_table(path: Path, table: str) -> None:
    """Overwrite the first page of a table."""
    with closing(sqlite3.connect(path)) as db:
        (page_size,) = db.execute("PRAGMA page_size").fetchone()
        (root,) = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (table,)).fetchone()
    with path.open("r+b") as file:
        file.seek((root - 1) * page_size)
        file.write(b"\xff" * page_size)


def test_damage_in_the_middle_is_told_where_it_is_met(shelf: Shelf) -> None:
    with Ledger.on(shelf) as before:
        before.apply(page(submitted("one")))
    spoil_table(before.path, "tasks")
    with Ledger.on(shelf) as ledger:
        with pytest.raises(Damaged, match="is damaged") as told:
            ledger.apply(page(submitted("two")))
        assert "agentq ledger rebuild" in told.value.hint
        with pytest.raises(Damaged):
            ledger.tasks(Filter())


@pytest.mark.promise("words-not-tracebacks")
def test_a_home_that_cannot_be_written_to_is_told_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(Unavailable) as told:
        Ledger.on(Shelf(tmp_path / "file" / "ledgers", "log"))
    assert "AGENTQ_DATA" in told.value.hint


@pytest.mark.promise("words-not-tracebacks")
@pytest.mark.parametrize("there", [True, False])
def test_so_is_one_that_another_user_owns(tmp_path_factory: pytest.TempPathFactory, there: bool) -> None:
    folder = Path("/tmp") / f"agentq-{os.getpid()}-{there}"
    folder.mkdir(mode=0o755)
    try:
        if there:
            Ledger.on(Shelf(folder, "log")).close()
            (folder / "log.1.db").chmod(0o644)
        folder.chmod(0o555)
        with as_nobody(), pytest.raises(Unavailable) as told, Ledger.on(Shelf(folder, "log")) as ledger:
            ledger.apply(page(submitted("one")))
        assert "AGENTQ_DATA" in told.value.hint
    finally:
        folder.chmod(0o755)
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()


class as_nobody:
    """Root is refused nothing: whoever runs the tests as root does this as nobody."""

    def __enter__(self) -> None:
        self._user = os.geteuid()
        if self._user == 0:
            os.seteuid(NOBODY)

    def __exit__(self, *_: object) -> None:
        os.seteuid(self._user)


@pytest.mark.promise("words-not-tracebacks")
def test_a_full_disk_is_told_and_leaves_what_was_there(ledger: Ledger) -> None:
    ledger.apply(page(submitted("one")))
    ledger._db.execute(f"PRAGMA max_page_count = {ledger.query('PRAGMA page_count')[0][0]}")
    many = tuple(itertools.chain.from_iterable(life(f"task-{n}", n, n, n) for n in range(500)))
    with pytest.raises(Unavailable, match="the disk is full"):
        ledger.apply(page(*many, position="2"))
    assert (ledger.position, ids(ledger.tasks(Filter()))) == ("1", ["one"])


@pytest.mark.promise("ledger-disposable")
def test_a_page_is_there_whole_with_its_position_or_not_at_all_whenever_its_process_is_killed(shelf: Shelf) -> None:
    for _ in range(3):
        with subprocess.Popen(
            [sys.executable, "-c", KILLED, str(shelf.folder)], stdout=subprocess.PIPE, cwd=Path(__file__).parents[1]
        ) as child:
            assert child.stdout
            said = [int(child.stdout.readline()) for _ in range(3)]
            child.send_signal(SIGKILL)
        with Ledger.on(shelf) as ledger:
            assert ledger.renewed is None
            position = int(ledger.position or -1)
            assert position >= said[-1]
            assert ledger.query("SELECT count(*) AS n FROM tasks")[0]["n"] >= 50 * (position + 1)
            assert len(ids(ledger.tasks(Filter(states=("completed",)), 10_000))) % 50 == 0
            assert ledger.query("PRAGMA integrity_check")[0][0] == "ok"


def test_a_long_reading_keeps_the_journal_short(ledger: Ledger) -> None:
    for number in range(12):
        events = itertools.chain.from_iterable(life(f"task-{number}-{n}", n, n, n) for n in range(3000))
        ledger.apply(page(*events, position=str(number)))
    wal = ledger.path.with_name(f"{ledger.path.name}-wal")
    assert wal.stat().st_size < 40 * 1024 * 1024
    assert ids(ledger.tasks(Filter(text="task-3-7"), 1))


def test_what_was_told_of_open_and_ended_adds_up() -> None:
    assert {*OPEN, *ENDED} == set(STATES)
