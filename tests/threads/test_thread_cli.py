"""`agentq thread`: threads without a gateway, in few words."""

import re
from datetime import timedelta
from typing import Any
from unittest import mock

import pytest

from agentq.messages import utc_now
from agentq.threads import threads as threads_module
from tests.desk import Desk


@pytest.fixture
def desk(desk: Desk) -> Desk:
    """A desk with a thread, and two agents that take anything."""
    return furnished(desk)


@pytest.fixture
def any_desk(any_desk: Desk) -> Desk:
    """The same with each engine in turn."""
    return furnished(any_desk)


def furnished(desk: Desk) -> Desk:
    (desk.project / "agentq.toml").write_text('agents = ["writer", "checker"]\n')
    desk.ok("init")
    desk.ok("thread", "new", "A trip", "--description", "To the sea.", "--id", "trip")
    return desk


def seen(desk: Desk, *arguments: str) -> str:
    """What a command shows, however long that took."""
    return re.sub(r"\d+s ago", "ago", desk.ok("thread", *arguments))


def marks(desk: Desk) -> list[str]:
    return [key for key in desk.files() if key.split("/")[0] in ("asking", "streaming", "accepting", "outbox")]


@pytest.mark.promise("message-asks-once")
def test_a_message_asks_and_nothing_is_left_to_be_done(any_desk: Desk) -> None:
    done = any_desk.run("thread", "post", "trip", "@writer and @checker, where to? @nobody", "--id", "m1")
    assert (done.code, done.out) == (0, "m1 m1.writer m1.checker\n")
    assert done.err == "not asked: nobody: there is no agent nobody\n"
    assert [any_desk.waiting(agent) for agent in ("writer", "checker")] == [1, 1]
    assert marks(any_desk) == []
    assert (
        any_desk.ok("thread", "post", "trip", "@writer and @checker, where to? @nobody", "--id", "m1")
        == done.out.strip()
    )
    assert any_desk.run("thread", "post", "trip", "@writer", "--id", "m1").code == 5
    assert [any_desk.waiting(agent) for agent in ("writer", "checker")] == [1, 1]


@pytest.mark.promise("message-asks-once")
def test_who_cannot_be_asked_because_the_task_is_somebody_elses_is_said(desk: Desk) -> None:
    desk.task("--id", "m1.writer")
    done = desk.run("thread", "post", "trip", "@writer and @checker, where to?", "--id", "m1")
    why = "m1.writer is a task of somebody else: post the message under another id"
    assert (done.code, done.out, done.err) == (0, "m1 m1.checker\n", f"not asked: writer: {why}\n")
    assert desk.waiting("checker") == 1
    assert marks(desk) == []


def test_a_thread_is_shown_in_few_words_and_others_words_behind_a_bar(desk: Desk) -> None:
    desk.ok("thread", "assign", "trip", "writer", "--id", "m1")
    desk.finish("m1.writer", evidence={"answer": b"# Done\nm9  ann  now"}, summary="Done.")
    desk.ok("thread", "post", "trip", "Thanks.", "--from", "ann", "--id", "m2")
    lines = seen(desk, "show", "trip").split("\n")
    assert seen(desk, "list") == "trip  A trip  ann, ago: Thanks."
    assert lines == [
        "trip  A trip",
        "description 0, by coordinator",
        "| To the sea.",
        "m1  coordinator  ago",
        "| Assigned to writer.",
        "m1.writer  writer  ago",
        "| # Done",
        "| m9  ann  now",
        "m2  ann  ago",
        "| Thanks.",
    ]
    assert seen(desk, "show", "trip", "--last", "1").split("\n")[3:] == [
        "2 older messages are not shown",
        "m2  ann  ago",
        "| Thanks.",
    ]
    found = desk.json("thread", "show", "trip")
    assert [one["message_id"] for one in found["messages"]] == ["m1", "m1.writer", "m2"]
    assert desk.json("thread", "list")[0]["last"]["author"] == "ann"


def test_a_list_shows_who_said_the_last_words_an_answer_too(desk: Desk) -> None:
    desk.ok("thread", "assign", "trip", "writer", "--id", "m1")
    said = "trip  A trip  coordinator, ago: Assigned to writer."
    assert seen(desk, "list") == f"{said}  waiting for: writer"
    desk.claim("m1.writer")
    assert seen(desk, "list") == f"{said}  writing: writer"
    desk.finish("m1.writer", evidence={"answer": b"It is\ndone."}, summary="Done.")
    assert seen(desk, "list") == "trip  A trip  writer, ago: It is done."
    desk.ok("thread", "assign", "trip", "checker", "--id", "m2")
    desk.finish("m2.checker", "failed", reason="no disk")
    assert seen(desk, "list") == "trip  A trip  checker, ago: no disk"


def test_a_retry_says_that_its_answer_is_not_in_the_thread(desk: Desk) -> None:
    desk.ok("thread", "assign", "trip", "writer", "--id", "m1")
    desk.finish("m1.writer", "failed", reason="no disk")
    done = desk.run("retry", "m1.writer")
    assert (done.code, "agentq thread post trip '@writer …'" in done.err) == (0, True)


def test_an_agent_writes_under_its_own_name(desk: Desk) -> None:
    desk.ok("thread", "post", "trip", "@writer, look", "--id", "m1", AGENTQ_AGENT="checker")
    [asking, _] = desk.json("thread", "show", "trip")["messages"]
    assert (asking["author"], asking["kind"]) == ("checker", "agent")
    assert desk.envelope("m1.writer").reply_to == "results.checker"


def test_the_description_changes_by_number(desk: Desk) -> None:
    assert desk.ok("thread", "describe", "trip", "To the lake.", "--base", "0") == "1"
    assert desk.ok("thread", "describe", "trip", "To the lake.", "--base", "0") == "1", "a repeat"
    done = desk.run("thread", "describe", "trip", "To the hills.", "--base", "0")
    assert (done.code, "version 1 is there already" in done.err) == (5, True)
    assert desk.json("thread", "show", "trip")["description"]["text"] == "To the lake."


def test_what_only_looks_like_a_credential_is_let_through(desk: Desk) -> None:
    said = ("thread", "describe", "trip", "ghp_a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8", "--base", "0")
    done = desk.run(*said)
    assert (done.code, "If it is none: --allow-secrets" in done.err) == (3, True)
    assert desk.ok(*said, "--allow-secrets") == "1"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("show", "nope"), 4),
        (("show", "../x"), 3),
        (("post", "trip", "  "), 3),
        (("post", "trip", "x" * 70_000), 3),
        (("post", "nope", "hi"), 4),
        (("post", "trip", "hi", "--id", "a.b"), 3),
        (("new", "x" * 300), 3),
        (("new", " "), 3),
        (("new", "Another", "--id", "trip"), 5),
        (("assign", "trip", "nobody"), 3),
        (("accept", "trip", "m1.writer"), 4),
        (("accept", "trip", "../../x"), 3),
        (("decline", "trip", "m1.writer"), 4),
        (("describe", "trip", "x", "--base", "3"), 5),
        (("post", "trip", "ghp_a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8"), 3),
        (("post", "trip", "half \udc80"), 3),
        (("new", "half \udc80"), 3),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_written(desk: Desk, arguments: tuple[str, ...], code: int) -> None:
    before = desk.files()
    done = desk.run("thread", *arguments)
    assert (done.code, done.out) == (code, "")
    assert "agentq: " in done.err
    assert desk.files() == before


def test_doctor_knows_what_nobody_looks_after(desk: Desk) -> None:
    def earlier(**_: Any) -> Any:
        return utc_now() - timedelta(hours=1)

    with mock.patch.object(threads_module, "utc_now", earlier):
        threads = desk.app().threads
        threads.post("trip", "ann", "@writer", message_id="m1")
        threads.post("trip", "ann", "", message_id="m2", state="generating")
    found = {one["kind"]: one for one in desk.run("doctor", "--json").json["ailments"]}
    assert "m1 in trip was written 1 h ago" in found["unasked"]["what"]
    assert "m2 in trip was begun 1 h ago" in found["unended"]["what"]
    assert found["unasked"]["remedy"] == "a gateway does it: agentq serve"
    assert "unended" not in {one["kind"] for one in desk.run("doctor", "--json", "--stuck", "2h").json["ailments"]}


def test_gc_leaves_threads_and_the_summaries_of_answers(desk: Desk) -> None:
    desk.ok("thread", "assign", "trip", "writer", "--id", "m1")
    desk.finish("m1.writer", evidence={"answer": b"It is the cache, and more."}, summary="It is the cache.")
    before = {key: data for key, data in desk.files().items() if key.startswith(("threads/", "talk/"))}
    desk.ok("inbox", "--ack")
    desk.ok("store", "gc", "--older-than", "0")
    assert {key: data for key, data in desk.files().items() if key.startswith(("threads/", "talk/"))} == before
    [_, answer] = desk.json("thread", "show", "trip")["messages"]
    assert (answer["state"], answer["text"]) == ("completed", "It is the cache.")
    assert "was collected" in answer["reason"]
