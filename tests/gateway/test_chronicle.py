"""The chronicle: one order of events for every gateway, kept in a file that may be lost."""

import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentq.engine import Page
from agentq.engines.log import Retention, log_of
from agentq.errors import Invalid, StoreUnavailable, Unavailable
from agentq.events import Event
from agentq.gateway.chronicle import Chronicle, Forgotten
from agentq.gateway.entries import Owner
from agentq.gateway.topics import LOGS, START, Cursor, Topic, id_in, part
from agentq.sqlite_errors import Damaged
from tests import tales
from tests.gateway.told import output


@pytest.fixture
def chronicle(tmp_path: Path) -> Iterator[Chronicle]:
    made = Chronicle(tmp_path / "c.db")
    yield made
    made.close()


def page(*events: Event, position: str = "1", gap: bool = False) -> Page:
    return Page(events, position, gap=gap)


def ids(chronicle: Chronicle, topic: str, log: str = "events") -> list[str]:
    return [entry.id for entry in chronicle.after(Topic.parse(topic), log, 0, 1000)]  # type: ignore[arg-type]


# ---------------------------------------------------------------------- topics and cursors


@pytest.mark.parametrize("text", ["/events", "/agents/worker-1/tasks", "/tasks/t.1", "/threads/th_1"])
def test_a_topic_is_what_it_was_written_as(text: str) -> None:
    assert str(Topic.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    ["", "/", "events", "/events/", "/tasks/", "/tasks/a/b", "/tasks/../x", "/tasks/\n", "/tasks/-a", "/tasks/a b"],
)
def test_what_is_no_topic_is_refused(text: str) -> None:
    with pytest.raises(Invalid, match="topic"):
        Topic.parse(text)


@pytest.mark.parametrize("text", ["/agents/w", "/agents//tasks", "/agents/w/x", "/threads/" + "x" * 129, "/nope/x"])
def test_neither_is_this(text: str) -> None:
    with pytest.raises(Invalid, match="topic"):
        Topic.parse(text)


@given(st.text(min_size=1, max_size=512), st.none() | st.text(min_size=1, max_size=512))
def test_a_cursor_is_read_as_it_was_written(events: str, output: str | None) -> None:
    text = Cursor.at(Topic.parse("/tasks/t"), events, output)
    cursor = Cursor.parse(text)
    assert id_in(cursor.of("events")) == events
    assert cursor.events not in ("", START)
    assert (cursor.output == START) if output is None else (id_in(cursor.output) == output)
    assert text.isprintable()
    assert text.isascii()


def test_start_alone_is_the_start_of_both_logs() -> None:
    assert Cursor.parse("start") == Cursor(START, START)
    assert Cursor.parse(None) == Cursor.parse("") == Cursor.parse("~") == Cursor("", "")
    assert part("start") != START


@pytest.mark.parametrize("text", ["a~b~c", "x" * 20_000])
def test_what_is_no_cursor_is_refused(text: str) -> None:
    with pytest.raises(Invalid, match="cursor"):
        Cursor.parse(text)


# ---------------------------------------------------------------------- places


def test_an_event_stands_where_it_first_came(chronicle: Chronicle) -> None:
    first, second = tales.submitted("a"), tales.claimed("a", 1)
    assert [entry.id for entry in chronicle.take("events", page(first, second, first, position="7"))] == [
        first.id,
        second.id,
    ]
    assert chronicle.take("events", page(second, position="8")) == []
    assert ids(chronicle, "/events") == [first.id, second.id]
    assert chronicle.position("events") == "8"
    assert chronicle.place_of("events", first.id) == 1
    assert chronicle.place_of("events", "unknown") is None
    last = chronicle.last("events")
    assert last is not None
    assert (last.place, last.event) == (2, second)


def test_heartbeats_are_not_kept(chronicle: Chronicle) -> None:
    beat = Event(id="b", kind="worker_heartbeat", at=tales.at(0), agent="worker")
    assert chronicle.take("events", page(beat)) == []
    assert chronicle.position("events") == "1"


def test_each_topic_has_its_events(chronicle: Chronicle) -> None:
    answer = tales.submitted("m.w", agent="w", labels={"thread": "th", "message": "m"})
    chronicle.take("events", page(tales.submitted("a", agent="x"), answer, tales.claimed("m.w", 1)))
    chronicle.take("events", page(tales.event("m.w", "released", 2), tales.event("a", "released", 2)))
    chronicle.take("events", page(Event(id="up", kind="worker_up", at=tales.at(0), agent="w")))
    chronicle.take("output", page(output("m.w", 1), output("m.w", 2, "reply"), output("a", 1, "reply", thread="th")))
    assert ids(chronicle, "/agents/w/tasks") == ["m.w/submitted", "m.w/claimed/1", "m.w/released"]
    assert ids(chronicle, "/tasks/a") == ["a/submitted", "a/released"]
    assert ids(chronicle, "/tasks/m.w", "output") == ["m.w/output/1/1", "m.w/reply/1/2"]
    assert ids(chronicle, "/threads/th") == ["m.w/submitted", "m.w/claimed/1"]
    assert ids(chronicle, "/threads/th", "output") == ["m.w/reply/1/2"], "a task says nothing in another's thread"


def test_what_an_author_streams_is_in_its_thread(chronicle: Chronicle) -> None:
    said = {"thread": "th", "message": "m"}
    opened = Event(id="th/thread_opened", kind="thread_opened", at=tales.at(0), data={"thread": "th"})
    piece = Event(id="m/reply/1/0", kind="reply", at=tales.at(0), data={"text": "hi", "offset": 0, **said})
    chronicle.take("events", page(opened))
    chronicle.take("output", page(piece))
    assert ids(chronicle, "/threads/th") == [opened.id]
    assert ids(chronicle, "/threads/th", "output") == [piece.id]
    assert chronicle.texts("m", "reply") == [piece]


def test_all_of_a_tasks_text_is_read_in_its_order(chronicle: Chronicle) -> None:
    pieces = [output("a", number) for number in range(5)]
    chronicle.take("output", page(*pieces[:3], output("b", 0)))
    chronicle.take("output", page(pieces[2], *pieces[3:], output("a", 9, "reply")))
    assert chronicle.texts("a", "output") == pieces


# ---------------------------------------------------------------------- whose a task is


@pytest.mark.parametrize("first", ["submitted", "released", "gone"])
def test_whose_a_task_is_does_not_depend_on_when_it_is_told(tmp_path: Path, first: str) -> None:
    """`submitted` may come by a hair later than what follows it, or be cut off: the papers say the same."""
    submitted = tales.submitted("a", agent="w", labels={"thread": "th"})
    claimed = tales.claimed("a", 2)
    order = {"submitted": (submitted, claimed), "released": (claimed, submitted), "gone": (claimed,)}[first]
    made = Chronicle(tmp_path / "c.db", owner_of={"a": Owner("w", "th")}.get)
    for event in order:
        made.take("events", page(event))
    for topic in ("/agents/w/tasks", "/threads/th"):
        assert ids(made, topic) == [event.id for event in order]
    made.close()


def test_whose_a_task_is_is_no_matter_of_who_tells_it(tmp_path: Path) -> None:
    """Whoever may put events into the log of a broker may put there what is not true."""
    made = Chronicle(tmp_path / "c.db", owner_of={"a": Owner("w", "th")}.get)
    made.take("events", page(tales.submitted("a", agent="eve", labels={"thread": "eves"}), tales.claimed("a", 2)))
    assert ids(made, "/agents/w/tasks") == ids(made, "/threads/th") == ["a/submitted", "a/claimed/1"]
    assert ids(made, "/agents/eve/tasks") == ids(made, "/threads/eves") == []
    made.close()


def test_nothing_is_brought_in_while_nobody_can_tell_whose_it_is(tmp_path: Path) -> None:
    def away(_: str) -> Owner | None:
        raise StoreUnavailable("away")

    made = Chronicle(tmp_path / "c.db", owner_of=away)
    with pytest.raises(StoreUnavailable):
        made.take("events", page(tales.claimed("a", 2)))
    assert made.position("events") is None
    assert made.take("events", page(tales.submitted("b"), tales.claimed("b", 2)))
    made.close()


# ---------------------------------------------------------------------- the file


def test_it_goes_on_where_it_was(tmp_path: Path) -> None:
    made = Chronicle(tmp_path / "c.db")
    made.take("events", page(tales.submitted("a"), position="5"))
    made.close()
    again = Chronicle(tmp_path / "c.db")
    assert again.position("events") == "5"
    assert ids(again, "/events") == ["a/submitted"]
    again.close()


def test_gateways_side_by_side_have_files_of_their_own(tmp_path: Path) -> None:
    one, two = Chronicle.on(tmp_path, "log"), Chronicle.on(tmp_path, "log")
    assert one.path != two.path
    with pytest.raises(Unavailable, match="another gateway"):
        Chronicle(one.path)
    one.take("events", page(tales.submitted("a"), position="5"))
    one.close()
    heir = Chronicle.on(tmp_path, "log")
    assert heir.path == one.path
    assert heir.position("events") == "5"
    two.close()
    heir.close()


def test_a_damaged_file_is_made_anew_when_it_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "c.db"
    path.write_bytes(b"no database at all" * 100)
    made = Chronicle(path)
    assert made.position("events") is None
    made.close()


def test_another_versions_file_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "c.db"
    made = Chronicle(path)
    made.take("events", page(tales.submitted("a"), position="5"))
    made.close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 999")
    db.close()
    again = Chronicle(path)
    assert again.position("events") is None
    again.close()


def test_damage_that_shows_later_is_told_and_mended(tmp_path: Path) -> None:
    path = tmp_path / "c.db"
    made = Chronicle(path)
    made.take("events", page(*(tales.submitted(f"t{n}") for n in range(500))))
    made.close()
    made = Chronicle(path)
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (path.stat().st_size - 4096))
    with pytest.raises(Damaged):
        ids(made, "/events")
    made.renew()
    assert made.take("events", page(tales.submitted("x"), position="2"))
    assert ids(made, "/events") == ["x/submitted"]
    made.close()


def test_a_gap_forgets_what_the_log_has_no_more(chronicle: Chronicle) -> None:
    chronicle.take("events", page(tales.submitted("a"), tales.submitted("b")))
    chronicle.take("output", page(output("a", 1)))
    [entry] = chronicle.take("events", page(tales.submitted("c"), gap=True))
    assert entry.place == 3
    assert chronicle.floor("events") == 2
    assert chronicle.place_of("events", "a/submitted") is None
    with pytest.raises(Forgotten):
        chronicle.after(Topic.parse("/events"), "events", 1, 10)
    assert [e.id for e in chronicle.after(Topic.parse("/events"), "events", 2, 10)] == ["c/submitted"]
    assert ids(chronicle, "/tasks/a", "output") == ["a/output/1/1"]


def test_too_much_is_cut_and_the_newest_stays(tmp_path: Path) -> None:
    made = Chronicle(tmp_path / "c.db", Retention(events_bytes=20_000, output_bytes=1))
    for number in range(40):
        made.take("events", page(*(tales.submitted(f"t{number}-{n}") for n in range(10))))
    made.take("output", page(output("a", 1), output("a", 2)))
    kept = made.after(Topic.parse("/events"), "events", made.floor("events"), 1000)
    assert sum(len(entry.body) for entry in kept) <= 20_000
    assert kept[-1].id == "t39-9/submitted"
    assert [entry.place for entry in kept] == list(range(made.floor("events") + 1, 401))
    assert [event.id for event in made.texts("a", "output")] == ["a/output/1/2"]
    made.close()


def test_what_is_too_old_is_cut(tmp_path: Path) -> None:
    made = Chronicle(tmp_path / "c.db", Retention(events_days=3))
    made.take("events", page(tales.submitted("old")))
    with sqlite3.connect(made.path) as db:
        db.execute("UPDATE events SET taken = taken - 4 * 86400")
    db.close()
    made.take("events", page(tales.submitted("new")))
    assert [e.id for e in made.after(Topic.parse("/events"), "events", 1, 9)] == ["new/submitted"]
    assert made.floor("events") == 1
    made.close()


# ---------------------------------------------------------------------- any log, however it is read

TASKS = st.sampled_from(["a", "b", "c.w"])
EVENTS = st.builds(
    lambda task, kind, number: (
        tales.submitted(task, agent="w" if "." in task else "x", labels={"thread": "th"} if "." in task else {})
        if kind == "submitted"
        else tales.event(task, kind, number, str(number), attempt=number)
    ),
    TASKS,
    st.sampled_from(["submitted", "claimed", "released", "output", "reply", "completed"]),
    st.integers(1, 6),
)
OWNERS = {"a": Owner("x"), "b": Owner("x"), "c.w": Owner("w", "th")}


@settings(max_examples=60, deadline=None)
@given(st.data(), st.lists(EVENTS, max_size=60))
def test_every_gateway_has_the_same_order(data: st.DataObject, log: list[Event]) -> None:
    """Whatever the pages, re-readings, restarts and losses of the file were: each event once, where it first came."""
    topics = [Topic.parse(text) for text in ("/events", "/agents/w/tasks", "/tasks/c.w", "/threads/th")]
    seen = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(2):
            made = _read_somehow(data, Path(folder) / f"{number}.db", log)
            seen.append([[[e.id for e in made.after(t, o, 0, 999)] for o in LOGS] for t in topics])
            assert seen[-1][0][0] == list(dict.fromkeys(e.id for e in log if log_of(e) == "events"))
            made.close()
    assert seen[0] == seen[1]


def _read_somehow(data: st.DataObject, path: Path, log: list[Event]) -> Chronicle:
    made = Chronicle(path, owner_of=OWNERS.get)
    while True:
        at = {of: int(made.position(of) or 0) for of in LOGS}
        logs = {of: [event for event in log if log_of(event) == of] for of in LOGS}
        left = [of for of in LOGS if at[of] < len(logs[of])]
        if not left:
            return made
        match data.draw(st.sampled_from(["read", "read", "read", "again", "restart", "lose"])):
            case "restart":
                made.close()
                made = Chronicle(path, owner_of=OWNERS.get)
            case "lose":
                made.renew()
            case step:
                of = data.draw(st.sampled_from(left))
                begin = data.draw(st.integers(0, at[of])) if step == "again" else at[of]
                end = data.draw(st.integers(at[of] + 1, len(logs[of])))
                made.take(of, Page(tuple(logs[of][begin:end]), str(end)))
