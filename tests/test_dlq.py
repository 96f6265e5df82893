"""`agentq dlq`: what was refused or given up is listed, shown, tried again and removed, on both engines."""

import json
import time
from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace

import pytest

from agentq.artifacts import evidence_prefix
from agentq.cli.dlq import Filter
from agentq.commit import commit, completion_of
from agentq.dead_letters import next_id
from agentq.engine import DeadLetter, Engine
from agentq.errors import EngineUnavailable
from agentq.messages import Envelope, utc_now
from agentq.papers import End
from tests.conformance.engines import EngineUnderTest, RabbitMQUnderTest, SQLiteUnderTest
from tests.desk import Desk, Done

SUBCOMMANDS = ("list", "show", "retry", "purge")
FILTERED: list[tuple[tuple[str, ...], set[str]]] = [
    (("--agent", "review-worker"), {"review"}),
    (("--reason", "TOO OFTEN"), {"old", "new"}),
    (("--reason", "Ü"), {"new"}),
    (("--reason", "returned", "--agent", "review-worker"), set()),
    (("--older-than", "7d"), {"old"}),
    (("--older-than", "7d", "--reason", "another"), set()),
    (("--older-than", "0"), {"old", "new", "review"}),
]


def a_task(task_id: str, to: str = "implementation-worker", **more: str) -> Envelope:
    return Envelope(task_id=task_id, to=to, type=to.removesuffix("-worker"), instructions="Do it.", **more)


def given_up(desk: Desk, task_id: str = "fix", *, evidence: bytes | None = None) -> str:
    """A task whose two attempts failed, dead-lettered; the last one may have left some evidence."""
    desk.task("--id", task_id)
    for number in (1, 2):
        claim, prefix = desk.claim(task_id), evidence_prefix(task_id, number)
        left = (
            desk.records.artifacts.add(prefix, "log", evidence, suffix=".txt", made_by="daemon") if evidence else None
        )
        end = End(
            attempt=number,
            token=claim.token,
            by="worker",
            at=utc_now(),
            reason=f"broke for the {number}. time\nand badly \x1b[31m",
            counts=number == 2,
            artifacts=(left,) if left else (),
        )
        desk.records.end(task_id, end)
    papers = desk.records.papers(task_id)
    assert papers
    commit(desk.records, completion_of(papers, "failed", by="worker", attempt=3, reason="1 attempt failed"))
    desk.bury(desk.envelope(task_id), reason="1 attempt failed")
    return task_id


def ids_of(letters: list[dict[str, str]]) -> set[str]:
    return {letter["task_id"] for letter in letters}


# ---------------------------------------------------------------------- looking


@pytest.mark.promise("dead-letters-keep")
def test_looking_at_dead_letters_changes_nothing(any_desk: Desk) -> None:
    task_id = given_up(any_desk)
    before = any_desk.files()
    lists = [any_desk.ok("dlq") for _ in range(5)]
    assert {line.split("  ")[0] for line in [*lists, any_desk.ok("dlq", "list")]} == {lists[0].split("  ")[0]}
    assert lists[0].endswith(f"{task_id}  implementation-worker  0s ago  1 attempt failed")
    assert any_desk.json("dlq") == any_desk.json("dlq", "list")
    (letter,) = any_desk.json("dlq")
    (shown,) = any_desk.json("dlq", "show", letter["id"])
    assert shown.items() >= letter.items()
    assert json.loads(letter["body"])["instructions"] == "Do it."
    for command in ("retry", "purge"):
        assert task_id in any_desk.ok("dlq", command, "--all", "--dry-run")
    assert any_desk.json("dlq") == [letter]
    assert any_desk.files() == before


def test_show_tells_what_became_of_the_task(any_desk: Desk) -> None:
    given_up(any_desk, evidence=b"It broke.")
    words = any_desk.ok("dlq", "show", "fix")
    ref = f"file://{any_desk.shared}/artifacts/fix/2/log.txt"
    for line in (
        "reason: 1 attempt failed",
        "state:  failed",
        "tried:  1 counted",
        "        attempt 1: broke for the 1. time and badly \\x1b[31m",
        "        attempt 2: broke for the 2. time and badly \\x1b[31m",
        f"evidence: {ref}",
    ):
        assert line in words.splitlines()
    assert '| {"task_id":"fix"' in words
    (shown,) = any_desk.json("dlq", "show")
    assert (shown["state"], shown["attempts_counted"], shown["evidence"]) == ("failed", 1, [ref])
    assert [reason.split(":")[0] for reason in shown["attempts"]] == ["attempt 1", "attempt 2"]
    assert shown["error"] is None


def test_show_names_the_place_of_evidence_that_no_paper_lists(desk: Desk) -> None:
    given_up(desk)
    assert desk.json("dlq", "show")[0]["evidence"] == [f"file://{desk.shared}/artifacts/fix/2/"]


def test_show_finds_the_evidence_of_a_result(desk: Desk) -> None:
    manifest = desk.finish(desk.task("--id", "fix"), "failed", reason="no luck")
    desk.bury(desk.envelope("fix"))
    assert desk.json("dlq", "show")[0]["evidence"] == [manifest.artifacts[0].ref]


def test_show_writes_nothing_for_a_task_that_is_overdue(desk: Desk) -> None:
    desk.task("--id", "fix", "--ttl", "0.001")
    desk.bury(desk.envelope("fix"), reason="odd")
    before = desk.files()
    assert "state:  pending\ntried:  0 counted\n" in desk.ok("dlq", "show")
    assert desk.files() == before


@pytest.mark.parametrize("body", [b"", b"[1]", a_task("stranger").to_json(), a_task("fix").to_json()], ids=str)
def test_of_what_is_no_task_of_ours_nothing_is_known(any_desk: Desk, body: bytes) -> None:
    any_desk.task("--id", "fix", "--label", "it=differs")
    refuse(any_desk, body)
    assert "state:  unknown\n" in any_desk.ok("dlq", "show")
    assert "tried:" not in any_desk.ok("dlq", "show")
    (shown,) = any_desk.json("dlq", "show")
    unknown = {"state": "unknown", "attempts_counted": None, "attempts": [], "evidence": [], "error": None}
    assert shown.items() >= unknown.items()
    assert shown["body"] == body.decode()


def test_a_damaged_paper_hides_no_dead_letter(desk: Desk) -> None:
    given_up(desk, "damaged")
    given_up(desk, "fix")
    (desk.shared / "attempts/damaged/1.json").write_text("{")
    words = desk.ok("dlq", "show")
    assert "state:  unknown (the paper attempts/damaged/1.json is damaged" in words
    damaged, fix = desk.json("dlq", "show")
    assert (damaged["state"], fix["state"]) == ("unknown", "failed")
    assert "is damaged" in damaged["error"]


@pytest.mark.promise("dead-letters-keep")
def test_a_dead_letter_that_is_no_message_is_shown_and_stays(any_desk: Desk) -> None:
    refuse(any_desk, b'{"task_id": \xff \x1b[31m')
    (letter,) = any_desk.json("dlq")
    assert letter["task_id"] is None
    shown = any_desk.ok("dlq", "show")
    assert "\\xff" in shown
    assert "\x1b" not in shown
    done = any_desk.run("dlq", "retry", letter["id"])
    assert done.code == 3
    assert "not UTF-8" in done.err
    retried = any_desk.run("dlq", "retry", letter["id"], "--json")
    assert retried.code == 3
    assert "not UTF-8" in retried.json[0]["error"]
    assert any_desk.json("dlq", "purge", "--all", "--yes") == {"removed": 1, "ids": [letter["id"]]}


def refuse(desk: Desk, body: bytes) -> None:
    """Publish bytes as any program might, receive them and refuse them."""
    settings = desk.app().settings
    system: EngineUnderTest = SQLiteUnderTest(desk.home / ".local/share/agentq/queue.db")
    if not settings.broker[0].startswith("sqlite"):
        system = RabbitMQUnderTest(settings.broker[0], settings.namespace)

    async def publish_and_refuse(engine: Engine) -> None:
        await system.publish_raw("docs-worker", body)
        await (await engine.receive("docs-worker")).dead_letter("the message is refused")

    desk.ok("init", "--agent", "docs-worker")
    desk.with_engine(publish_and_refuse)


# ---------------------------------------------------------------------- choosing


@pytest.fixture
def three(any_desk: Desk, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """A desk with three dead letters, the first of them eight days old."""
    with monkeypatch.context() as then:
        clock = SimpleNamespace(time=lambda: time.time() - 8 * 86400, monotonic=time.monotonic)
        then.setattr("agentq.engines.sqlite.time", clock)
        then.setattr("agentq.engines.rabbitmq_wire.utc_now", lambda: utc_now() - timedelta(days=8))
        any_desk.bury(a_task("old"), reason="Returned too often")
    any_desk.bury(a_task("new"), reason="returned too OFTEN, ü")
    any_desk.bury(a_task("review", to="review-worker"), reason="another type")
    return any_desk


def test_every_subcommand_takes_the_filters(three: Desk) -> None:
    for flags, chosen in FILTERED:
        listed = three.json("dlq", "list", *flags)
        assert ids_of(listed) == chosen, flags
        assert ids_of(three.json("dlq", *flags)) == chosen
        assert ids_of(three.json("dlq", "show", *flags)) == chosen
        assert ids_of(three.json("dlq", *flags, "show")) == chosen
        assert ids_of(three.json("dlq", "retry", *flags, "--dry-run")) == chosen
        assert three.json("dlq", "purge", *flags, "--dry-run")["ids"] == [letter["id"] for letter in listed]


def test_ids_and_filters_must_all_hold(three: Desk) -> None:
    review = ("--agent", "review-worker")
    assert three.run("dlq", "show", "old", *review) == Done(0, "", "no dead letters\n")
    assert ids_of(three.json("dlq", "retry", "old", "review", *review, "--dry-run")) == {"review"}
    assert ids_of(three.json("dlq", "retry", "--all", *review, "--dry-run")) == {"review"}
    assert ids_of(three.json("dlq", *review, "retry", "--reason", "returned", "--dry-run")) == set()
    assert three.ok("dlq", *review, "purge", "--all", "--yes") == "1 removed", "a filter before the name counts too"
    assert three.ok("dlq", "purge", "new", "--all", "--yes") == "1 removed"
    assert ids_of(three.json("dlq")) == {"old"}
    assert three.ok("dlq", "purge", "--older-than", "1w", "--yes") == "1 removed"
    assert three.json("dlq") == []


@pytest.mark.parametrize("command", SUBCOMMANDS)
def test_a_filter_that_says_nothing_is_refused(desk: Desk, command: str) -> None:
    """Else a variable that is not set would mean all of them."""
    desk.bury(a_task("fix"))
    sure = ("--yes",) if command == "purge" else ()
    for flag, value in (("--reason", ""), ("--agent", " "), ("--older-than", ""), ("--older-than", "soon")):
        for arguments in ((command, flag, value, *sure), (flag, value, command, *sure)):
            done = desk.run("dlq", *arguments)
            assert done.code == 3
            assert flag in done.err
            assert "→" in done.err
    assert len(desk.json("dlq")) == 1


@pytest.mark.parametrize("command", ["show", "retry", "purge"])
def test_an_unknown_dead_letter_is_not_found(desk: Desk, command: str) -> None:
    done = desk.run("dlq", command, "999")
    assert done.code == 4
    assert "there is no dead letter 999" in done.err
    if command != "show":
        assert desk.run("dlq", command).code == 3


def test_a_letter_without_a_time_is_older_than_nothing() -> None:
    letter = DeadLetter("1", "worker", "why", None, b"")
    assert Filter().holds(letter)
    assert not Filter(before=utc_now()).holds(letter)
    assert Filter(before=utc_now()).holds(replace(letter, at=utc_now() - timedelta(days=1)))


# ---------------------------------------------------------------------- trying again


def test_retrying_a_dead_letter_of_a_finished_task_makes_a_new_task(any_desk: Desk) -> None:
    task_id = any_desk.task("--id", "fix")
    any_desk.finish(task_id, "failed", reason="tried 3 times")
    for _ in range(2):
        any_desk.bury(any_desk.envelope(task_id))
    assert any_desk.ok("dlq", "retry", "fix", "--dry-run").count("would be retried: fix") == 2
    assert len(any_desk.json("dlq")) == 2
    retried = any_desk.json("dlq", "retry", "--all")
    assert [each["retried_as"] for each in retried] == ["fix.retry-1"] * 2, "both copies stand for one task"
    assert any_desk.envelope("fix.retry-1").retry_of == "fix"
    assert any_desk.waiting() == 2
    assert any_desk.run("dlq") == Done(0, "", "no dead letters\n")


def test_a_retry_of_a_retry_counts_on() -> None:
    assert [next_id("fix"), next_id("fix.retry-1"), next_id("fix.retry-9")] == [
        "fix.retry-1",
        "fix.retry-2",
        "fix.retry-10",
    ]
    assert next_id("f" * 128) is None


def test_retrying_a_dead_letter_of_a_waiting_task_publishes_it_again(any_desk: Desk) -> None:
    task_id = any_desk.task()
    any_desk.bury(any_desk.envelope(task_id), reason="returned too often")
    assert any_desk.json("dlq", "retry", task_id)[0]["retried_as"] == task_id
    assert any_desk.waiting() == 2
    assert any_desk.json("dlq") == []


def test_a_dead_letter_with_an_unknown_task_is_registered(any_desk: Desk) -> None:
    any_desk.bury(a_task("foreign", to="review-worker"), reason="another type than any worker took")
    assert any_desk.ok("dlq", "retry", "foreign").endswith("retried as foreign")
    assert any_desk.envelope("foreign").request_sha256
    assert any_desk.waiting("review-worker") == 1


def test_a_dead_letter_with_another_content_is_not_retried(desk: Desk) -> None:
    task_id = desk.task()
    desk.bury(desk.envelope(task_id).model_copy(update={"instructions": "Do something else."}))
    done = desk.run("dlq", "retry", task_id)
    assert done.code == 3
    assert f"has another content than the task registered as {task_id}" in done.err
    assert len(desk.json("dlq")) == 1


def test_a_retry_that_fails_stops_no_other(any_desk: Desk) -> None:
    """One line for each; what could be retried is gone, the rest stays; the worst code ends it."""
    given_up(any_desk, "first")
    given_up(any_desk, "damaged")
    any_desk.bury(a_task("nobodys", to="nobody"))
    given_up(any_desk, "last")
    (any_desk.shared / "attempts/damaged/1.json").write_text("{")
    letters = {letter["task_id"]: letter["id"] for letter in any_desk.json("dlq")}
    done = any_desk.run("dlq", "retry", "--all")
    assert done.out.splitlines() == [f"{letters[task]}  retried as {task}.retry-1" for task in ("first", "last")]
    kept = [line for line in done.err.splitlines() if "  not retried: " in line]
    assert [line.split("  ")[0] for line in kept] == [letters["damaged"], letters["nobodys"]]
    assert done.code == 11
    assert ids_of(any_desk.json("dlq")) == {"damaged", "nobodys"}
    again = any_desk.run("dlq", "retry", "--all", "--json")
    assert again.code == 11
    assert all(each["error"] and each["retried_as"] is None for each in again.json)


def test_a_retry_may_be_repeated_when_its_letter_could_not_be_removed(
    any_desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    given_up(any_desk)

    async def fail(*_: object) -> int:
        raise EngineUnavailable("the broker is gone")

    with monkeypatch.context() as broken:
        broken.setattr("agentq.dead_letters.DeadLetters.remove", fail)
        done = any_desk.run("dlq", "retry", "fix")
    assert (done.code, done.err) == (6, "agentq: the broker is gone\n")
    assert done.out.endswith("  retried as fix.retry-1\n")
    assert any_desk.ok("dlq", "retry", "fix") == done.out.rstrip("\n")
    assert any_desk.waiting() == 2, "the first, and the one retry"
    assert any_desk.json("dlq") == []


# ---------------------------------------------------------------------- removing


def test_purge_asks_before_it_removes(desk: Desk) -> None:
    task_id = desk.task()
    desk.bury(desk.envelope(task_id))
    unsure = desk.run("dlq", "purge", "--all")
    assert unsure.code == 3
    assert "--yes" in unsure.err
    assert desk.ok("dlq", "purge", "--all", "--dry-run").endswith(f"would be removed: {task_id}")
    assert len(desk.json("dlq")) == 1
    assert desk.ok("dlq", "purge", task_id, "--yes") == "1 removed"
    assert desk.json("dlq") == []
    assert desk.ok("dlq", "purge", "--all") == "0 removed"
    assert desk.json("status", task_id)["state"] == "pending"
