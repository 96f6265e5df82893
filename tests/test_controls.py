"""Cancelling, approving, waiting, gates and reasons, as a coordinator meets them on the command line."""

import json
import re
import secrets
import shlex
import signal
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from agentq.cli import claim as claim_command
from agentq.commit import commit, completion_of
from agentq.messages import LONGEST_SECONDS, Outcome, utc_now
from agentq.papers import Claim
from agentq.settle import settle_in_store
from tests.brokers.node import Node
from tests.daemons.harness import until
from tests.desk import IMPLEMENT, Desk, Done, on

AGENT = "implementation-worker"
DEAD_ENGINE = {"AGENTQ_BROKER": "amqp://127.0.0.1:1/"}
GONE = {"pid": 2**22 + 1}
"""The owner of an attempt whose process this host knows to be gone: no process has such a number."""
DOCUMENT = Path(__file__).parents[1] / "docs" / "coordinators.md"


@contextmanager
def meanwhile(act: Callable[[], object]) -> Iterator[None]:
    """Something that another process does at the same time; it must have worked."""
    with ThreadPoolExecutor(1) as thread:
        doing = thread.submit(act)
        yield
        doing.result(60)


def stop(desk: Desk, task_id: str, claim: Claim, status: Outcome = "cancelled") -> None:
    """Play the worker that is asked to cancel its attempt, and ends it."""
    until(lambda: desk.records.cancel(task_id), "the cancel")
    papers = desk.records.known(task_id)
    done = completion_of(
        papers, status, by=AGENT, attempt=claim.attempt, reason="as asked", stopped="proven", finished_at=utc_now()
    )
    settle_in_store(desk.records, commit(desk.records, done.model_copy(update={"stop_seconds": 1.25})))


def refused(desk: Desk, code: int, *arguments: str, **environment: str) -> str:
    """What is said of a command that ends with that code, prints nothing, and writes nothing."""
    before = desk.files()
    done = desk.run(*arguments, **environment)
    assert (done.code, done.out) == (code, ""), done
    assert "\n  → " in done.err, "the next thing to do"
    assert desk.files() == before
    return done.err


# ---------------------------------------------------------------------- what is not there

UNKNOWN = {
    "cancel": (),
    "approve": ("--by", "me"),
    "reject": ("--reason", "no"),
    "why": (),
    "wait": (),
    "status": (),
    "renew": (),
    "release": (),
    "retry": (),
    "complete": ("--from", "me", "--summary", "Done."),
    "fail": ("--from", "me", "--reason", "No."),
}


@pytest.mark.promise("refused-before-written")
@pytest.mark.parametrize("command", UNKNOWN)
def test_an_unknown_id_is_not_found(desk: Desk, command: str) -> None:
    desk.task()
    assert "there is no task nope in file://" in refused(desk, 4, command, "nope", *UNKNOWN[command])
    assert refused(desk, 3, command, "../x", *UNKNOWN[command])


# ---------------------------------------------------------------------- cancel


@pytest.mark.promise("cancel")
def test_a_task_that_has_not_started_is_cancelled_at_once_with_those_that_wait_for_it(any_desk: Desk) -> None:
    task_id = any_desk.task()
    after, always = any_desk.task("--after", task_id), any_desk.task("--after", task_id, "--run-if", "always")
    said = any_desk.run("cancel", task_id, "--by", "alice", "--reason", "no need")
    assert said == Done(0, f"{task_id}  cancelled\n", "")
    assert any_desk.ok("status", task_id) == f"{task_id}  cancelled  by agentq: cancelled by alice: no need"
    follower = any_desk.json("status", after)
    reason = f"it needs {task_id}, which was cancelled: cancelled by alice: no need"
    assert (follower["state"], follower["reason"]) == ("cancelled", reason)
    assert any_desk.waiting() == 2, "its own message, and that of the one that runs whatever became of it"
    assert any_desk.json("claim", "--as", AGENT)["task"]["task_id"] == always
    assert any_desk.run("wait", task_id, after, "--timeout", "0").code == 9


def test_cancelling_twice_is_the_same_cancel(desk: Desk) -> None:
    task_id = desk.task()
    first = desk.json("cancel", task_id, "--by", "alice", "--reason", "no need")
    assert desk.json("cancel", task_id, "--by", "bob") == first
    assert (first["state"], first["reason"]) == ("cancelled", "cancelled by alice: no need")


@pytest.mark.parametrize("wait", [(), ("--wait",)])
def test_a_cancel_after_the_end_is_a_conflict(desk: Desk, wait: tuple[str, ...]) -> None:
    task_id = desk.task()
    desk.finish(task_id)
    said = refused(desk, 5, "cancel", task_id, *wait)
    assert f"the cancel came too late: {task_id} was completed by {AGENT}" in said
    assert f"agentq result {task_id}" in said


def test_a_cancel_needs_no_engine(desk: Desk) -> None:
    task_id = desk.task()
    desk.task("--after", task_id, "--run-if", "always")
    done = desk.run("cancel", task_id, **DEAD_ENGINE)
    assert (done.code, done.out) == (0, f"{task_id}  cancelled\n")
    assert "what may start now is not in its queue yet (" in done.err
    assert done.err.endswith("; workers publish it by themselves\n")


@pytest.mark.promise("cancel")
def test_a_running_task_is_stopped_by_its_worker_and_waited_for(desk: Desk) -> None:
    task_id = desk.task()
    claim = desk.claim(task_id)
    assert desk.ok("cancel", task_id) == f"{task_id}  is being stopped by its worker"
    assert desk.ok("status", task_id).endswith("; is being cancelled")
    assert "it is being cancelled: " in desk.ok("why", task_id)
    found = desk.json("cancel", task_id)
    assert (found["state"], found["cancel_asked"], found["stopped"]) == ("processing", True, None)
    with meanwhile(lambda: stop(desk, task_id, claim)):
        done = desk.run("cancel", task_id, "--wait")
    assert done == Done(0, f"{task_id}  cancelled  stopped in 1.2 s, proven\n", "")
    found = desk.json("cancel", task_id)
    assert (found["state"], found["stopped"], found["stop_seconds"]) == ("cancelled", "proven", 1.25)


def test_a_cancel_that_its_worker_overtook_says_so(desk: Desk) -> None:
    task_id = desk.task()
    claim = desk.claim(task_id)
    with meanwhile(lambda: stop(desk, task_id, claim, "completed")):
        done = desk.run("cancel", task_id, "--wait")
    assert done.code == 5
    assert "the cancel came too late" in done.err


@pytest.mark.promise("cancel")
def test_a_worker_that_died_on_this_host_keeps_nothing_alive(desk: Desk) -> None:
    task_id = desk.task()
    desk.claim(task_id, **GONE)
    found = desk.json("cancel", task_id)
    assert (found["state"], found["stopped"]) == ("cancelled", "presumed")


@pytest.mark.promise("cancel")
def test_a_worker_that_is_silent_is_not_waited_for_without_end(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claim_command, "SHORTEST_LEASE", 0.1)
    task_id = desk.task()
    desk.ok("claim", "--as", AGENT, "--lease", "0.2")
    done = desk.run("cancel", task_id, "--wait", "--timeout", "1m")
    assert (done.code, done.out) == (0, f"{task_id}  cancelled\n")
    assert desk.json("cancel", task_id)["stopped"] == "presumed"


@pytest.mark.parametrize("flags", [("--wait", "--timeout", "0.2"), ("--timeout", "0.2")])
def test_a_wait_for_a_cancel_has_an_end(desk: Desk, flags: tuple[str, ...]) -> None:
    task_id = desk.task()
    desk.claim(task_id)
    done = desk.run("cancel", task_id, *flags)
    assert (done.code, done.out) == (7, "")
    assert f"{task_id} is still being stopped after 0.2 s" in done.err


# ---------------------------------------------------------------------- approve and reject


def digest_of(desk: Desk, task_id: str) -> str:
    return str(desk.json("status", task_id)["digest"])


@pytest.mark.promise("approval")
def test_the_command_that_why_prints_approves_the_task(any_desk: Desk) -> None:
    task_id = any_desk.task("--requires-approval")
    assert any_desk.waiting() == 0
    why = any_desk.run("why", task_id)
    assert why.out == f"{task_id}  pending: it is ready, and nobody has approved it\n"
    hint = why.err.removeprefix("  → ").strip()
    assert hint == f"agentq approve {task_id} --by YOU --digest {digest_of(any_desk, task_id)[:12]}"
    assert hint in any_desk.ok("status", task_id)
    done = any_desk.ok(*shlex.split(hint)[1:])
    assert done == f"{task_id}  approved by YOU  {digest_of_approval(any_desk, task_id)[:12]}"
    assert any_desk.waiting() == 1
    assert any_desk.json("status", task_id)["approved_by"] == "YOU"


def digest_of_approval(desk: Desk, task_id: str) -> str:
    papers = desk.records.known(task_id)
    assert papers.approved
    return papers.approved.digest


def test_the_first_of_two_approvals_holds(desk: Desk) -> None:
    task_id = desk.task("--requires-approval")
    first = desk.json("approve", task_id, "--by", "alice")
    assert desk.json("approve", task_id, "--by", "bob") == first
    assert (first["by"], "token" in first) == ("alice", False)
    assert desk.waiting() == 1


def test_what_needs_no_approval_is_neither_approved_nor_rejected(desk: Desk) -> None:
    task_id = desk.task()
    for command in (("approve", task_id, "--by", "me"), ("reject", task_id, "--reason", "no")):
        assert f"{task_id} needs no approval" in refused(desk, 3, *command)


@pytest.mark.promise("approval")
def test_an_approval_is_for_what_was_seen(desk: Desk) -> None:
    context = desk.shared / "tasks" / "notes.md"
    context.write_text("Delete the old files.\n")
    first = desk.task()
    ref = desk.store.ref("tasks/notes.md")
    task_id = desk.task("--context-ref", ref, "--after", first, "--requires-approval")
    said = refused(desk, 5, "approve", task_id, "--by", "me")
    assert f"{task_id} still waits for {first}: an approval covers their results too" in said
    assert f"agentq wait {first}" in said
    desk.finish(first)
    seen = digest_of(desk, task_id)
    context.write_text("Delete all files.\n")
    said = refused(desk, 5, "approve", task_id, "--by", "me", "--digest", seen)
    assert f"{task_id} is not what you saw: its digest is {digest_of(desk, task_id)[:12]} now" in said
    assert f"agentq why {task_id}" in said


def test_what_has_ended_is_neither_approved_nor_rejected(desk: Desk) -> None:
    task_id = desk.task("--requires-approval")
    desk.ok("cancel", task_id)
    for command in (("approve", task_id, "--by", "me"), ("reject", task_id, "--reason", "no")):
        assert f"{task_id} has ended: cancelled" in refused(desk, 5, *command)


def test_a_rejected_task_ends_as_cancelled_with_the_reason(desk: Desk) -> None:
    task_id = desk.task("--requires-approval")
    after = desk.task("--after", task_id)
    assert "a rejection needs a reason" in refused(desk, 3, "reject", task_id, "--reason", " ")
    said = desk.ok("reject", task_id, "--by", "alice", "--reason", "too risky")
    assert said == f"{task_id}  cancelled: rejected by alice: too risky"
    assert desk.run("wait", task_id, after, "--timeout", "0").code == 9
    assert f"{task_id}  cancelled" in desk.ok("inbox")


def test_a_task_that_runs_is_not_rejected_any_more(desk: Desk) -> None:
    task_id = desk.task("--requires-approval")
    desk.ok("approve", task_id, "--by", "alice")
    desk.claim(task_id)
    said = refused(desk, 5, "reject", task_id, "--reason", "no")
    assert f"{task_id} was approved and is running" in said
    assert f"agentq cancel {task_id}" in said


@pytest.mark.promise("approval")
def test_a_type_that_the_profile_takes_for_irreversible_waits_for_an_approval(desk: Desk) -> None:
    folder = desk.project / "workers" / AGENT
    folder.mkdir(parents=True)
    (folder / "worker.toml").write_text(f'agent = "{AGENT}"\nirreversible = ["deploy"]\n')
    assert desk.envelope(desk.ok("submit", "--to", AGENT, "--type", "deploy", "-i", "Ship it.")).requires_approval
    assert not desk.envelope(desk.task()).requires_approval
    assert desk.waiting() == 1


class Outage:
    """A desk whose engine can be taken away and brought back."""

    def __init__(self, desk: Desk, node: Node | None) -> None:
        self.desk, self._node = desk, node
        self._file = desk.home / ".local/share/agentq/queue.db"

    def begin(self) -> None:
        if self._node:
            self._node.stop()
        else:
            self._file.rename(self._file.with_name("away"))
            self._file.mkdir()

    def end(self) -> None:
        if self._node:
            self._node.start()
        else:
            self._file.rmdir()
            self._file.with_name("away").rename(self._file)


@pytest.fixture(params=["sqlite", "rabbitmq"])
def outage(request: pytest.FixtureRequest, tmp_path: Path) -> Outage:
    node = request.getfixturevalue("broker_of_my_own")() if request.param == "rabbitmq" else None
    desk = Desk(tmp_path, on(node) if node else None)
    desk.ok("init")
    return Outage(desk, node)


@pytest.mark.promise("approval")
def test_an_approval_while_the_engine_is_away_holds_and_a_worker_publishes_it(outage: Outage) -> None:
    desk = outage.desk
    task_id = desk.task("--requires-approval")
    outage.begin()
    done = desk.run("approve", task_id, "--by", "alice")
    assert done.code == 0
    assert done.out.startswith(f"{task_id}  approved by alice  ")
    assert "is not in its queue yet" in done.err
    assert "a worker publishes it soon" in desk.ok("why", task_id)
    outage.end()
    assert desk.waiting() == 0
    log = desk.folder / "worker.log"
    with (
        log.open("wb") as stream,
        running(desk.start("worker", "run", AGENT, "--runner", "false", stdout=stream, stderr=stream)),
    ):
        until(lambda: desk.records.attempts(task_id), "the worker to start it")
    assert list(desk.records.marks.unpublished()) == []


@contextmanager
def running(process: "subprocess.Popen[bytes]") -> "Iterator[subprocess.Popen[bytes]]":
    """The process is dead afterwards, whatever happened."""
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


# ---------------------------------------------------------------------- wait


@pytest.mark.promise("waiting")
def test_a_wait_tells_one_line_for_each_task_and_the_worst_of_them(desk: Desk) -> None:
    done, failed = desk.task(), desk.task()
    desk.finish(done)
    assert desk.run("wait", done, **DEAD_ENGINE) == Done(0, f"{done}  completed  verified\n", "")
    desk.finish(failed, "failed", reason="no\nluck")
    cancelled = desk.task()
    desk.ok("cancel", cancelled)
    expected = [
        f"{cancelled}  cancelled  cancelled by coordinator",
        f"{done}  completed  verified",
        f"{failed}  failed  no luck",
    ]
    said = desk.run("wait", cancelled, done, failed, **DEAD_ENGINE)
    assert (said.code, said.out.splitlines(), said.err) == (8, expected, "")
    found = desk.run("wait", cancelled, done, failed, "--json")
    assert (found.code, [one["task_id"] for one in found.json]) == (8, [cancelled, done, failed])


@pytest.mark.promise("waiting")
def test_a_wait_ends_with_its_task(desk: Desk) -> None:
    task_id, other = desk.task(), desk.task()
    with running(desk.start("wait", task_id, other, "--any")) as waiting:
        desk.finish(task_id, "failed", reason="no luck")
        out, err = waiting.communicate(timeout=60)
    assert (waiting.returncode, out.decode(), err) == (8, f"{task_id}  failed  no luck\n", b"")


def test_any_returns_with_the_first_and_all_with_the_last(desk: Desk) -> None:
    first, second = desk.task(), desk.task()
    desk.finish(first)
    assert desk.run("wait", second, first, "--any") == Done(0, f"{first}  completed  verified\n", "")
    for flags in ((), ("--all",)):
        done = desk.run("wait", second, first, "--timeout", "0.2", *flags)
        assert (done.code, done.out) == (7, f"{first}  completed  verified\n")
        assert f"not ended after 0.2 s: {second}  pending  waits for: {AGENT}, queued" in done.err
    assert "--any and --all exclude each other" in refused(desk, 3, "wait", first, "--any", "--all")


def test_fifty_tasks_are_waited_for_at_once(desk: Desk) -> None:
    tasks = [f"t-{number}" for number in range(50)]
    for task_id in tasks:
        desk.app().coordinator.register(_request(task_id))
    with meanwhile(lambda: [desk.finish(task_id) for task_id in tasks]):
        done = desk.run("wait", *tasks, "--timeout", "60")
    assert (done.code, len(done.out.splitlines())) == (0, 50)


def _request(task_id: str) -> Any:
    from tests.samples import request

    return request(task_id=task_id)


def test_many_that_have_not_ended_are_not_all_named(desk: Desk) -> None:
    tasks = [desk.task() for _ in range(7)]
    done = desk.run("wait", *tasks, "--timeout", "0")
    assert done.code == 7
    assert "and 2 more\n" in done.err


@pytest.mark.promise("waiting")
def test_a_task_expires_while_it_is_waited_for_and_no_worker_is_up(desk: Desk) -> None:
    task_id = desk.task("--ttl", "0.5")
    done = desk.run("wait", task_id, "--timeout", "60", **DEAD_ENGINE)
    assert (done.code, done.out) == (10, f"{task_id}  expired  not started within 0.5 s\n")
    assert done.err.startswith("the log does not know of this, the papers do (")


def test_a_wait_is_interrupted(desk: Desk) -> None:
    task_id, overdue = desk.task(), desk.task("--ttl", "0.01")
    with running(desk.start("wait", task_id, overdue)) as waiting:
        until(lambda: desk.records.manifest(overdue), "the wait to end it")
        waiting.send_signal(signal.SIGINT)
        assert (waiting.wait(60), waiting.communicate()) == (130, (b"", b""))


def test_an_interrupt_that_a_library_takes_for_its_own_error_is_still_one(desk: Desk) -> None:
    def interrupted(**_: object) -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        except SystemExit as error:
            raise ValueError("a validator broke") from error

    with mock.patch("agentq.app.App.load", interrupted):
        done = desk.run("inbox")
    assert (done.code, done.out, done.err) == (130, "", "")


def test_a_submit_that_waits_is_interrupted_and_its_task_stays(desk: Desk) -> None:
    with running(desk.start("submit", *IMPLEMENT, "-i", "Do it.", "--id", "mine", "--wait")) as waiting:
        assert waiting.stderr
        assert waiting.stderr.readline() == b"mine is submitted\n"
        waiting.send_signal(signal.SIGINT)
        assert (waiting.wait(60), waiting.communicate()) == (130, (b"", b""))
    assert desk.json("status", "mine")["waits_for"] == "queued"


# ---------------------------------------------------------------------- the inbox


@pytest.mark.promise("waiting")
def test_the_inbox_ends_what_expired_of_its_coordinator_alone(desk: Desk) -> None:
    mine, others = desk.task("--ttl", "0.1"), desk.task("--ttl", "0.1", "--from", "other")
    until(lambda: mine in desk.ok("inbox", **DEAD_ENGINE), "the inbox to end it")
    assert f"{mine}  expired" in desk.ok("inbox")
    assert desk.records.manifest(others) is None
    assert others not in desk.ok("inbox")
    until(lambda: others in desk.ok("inbox", "--for", "other"))
    assert [key for key in desk.files() if key.startswith("expiring/")] == []


# ---------------------------------------------------------------------- submit: gates and waiting


@pytest.mark.promise("refused-before-written")
@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (("--after", "nope"), 4, "nope, which mine is to wait for, is no task in file://"),
        (("--after", "mine"), 3, "it would wait for itself: mine → mine"),
        (("--run-if", "always"), 3, "--run-if says what becomes of --after, and there is none"),
        (("--after", "first", "--run-if", "never"), 3, "--run-if: it should be 'completed', 'always' or"),
        (("--at", "2020-01-31T18:00Z"), 3, "--at '2020-01-31T18:00Z' is in the past"),
        (("--at", "soon"), 3, "--at 'soon' is no time"),
        (("--delay", f"{LONGEST_SECONDS + 1}"), 3, "is too long"),
        (("--delay", "0"), 3, "--delay: it should be greater than 0"),
        (("--delay", "1m", "--at", "2020-01-31"), 3, "--delay and --at name two times"),
        (("--wait-timeout", "soon"), 3, "--wait-timeout 'soon' is no duration"),
    ],
)
def test_gates_that_cannot_be_meant_are_refused(desk: Desk, flags: tuple[str, ...], code: int, words: str) -> None:
    desk.task("--id", "first")
    said = refused(desk, code, "submit", *IMPLEMENT, "-i", "Do it.", "--id", "mine", *flags)
    assert words in said
    assert desk.waiting() == 1


def test_a_delay_is_counted_once(any_desk: Desk) -> None:
    first = any_desk.json("submit", *IMPLEMENT, "-i", "Do it.", "--id", "mine", "--delay", "1h")
    again = any_desk.run("submit", *IMPLEMENT, "-i", "Do it.", "--id", "mine", "--delay", "1h", "--json")
    assert (again.code, again.json) == (0, first)
    assert "mine was registered before, with the same content" in again.err
    assert any_desk.waiting() == 0
    assert any_desk.run("submit", *IMPLEMENT, "-i", "Do it.", "--id", "mine", "--delay", "2h").code == 5


@pytest.mark.promise("gates")
def test_a_task_starts_when_what_it_needs_was_completed_by_hand(any_desk: Desk) -> None:
    first = any_desk.task()
    second, third = any_desk.task("--after", first), any_desk.task("--after", first)
    both = any_desk.task("--after", second, "--after", third)
    assert any_desk.ok("status", both).endswith(f"waits for: dependencies {second}, {third}")
    any_desk.ok("complete", first, "--from", "me", "--summary", "Done.")
    assert any_desk.waiting() == 3, "the first one's own message, and two"
    any_desk.ok("complete", second, "--from", "me", "--summary", "Done.")
    assert any_desk.ok("status", both).endswith(f"waits for: dependencies {third}")
    any_desk.ok("fail", third, "--from", "me", "--reason", "No.")
    done = any_desk.run("wait", both, "--timeout", "0")
    assert (done.code, done.out) == (8, f"{both}  failed  it needs {third}, which has failed: No.\n")


@pytest.mark.parametrize(("status", "code"), [("completed", 0), ("failed", 8), ("cancelled", 9), ("expired", 10)])
def test_submit_waits_and_ends_as_the_task_does(desk: Desk, status: Outcome, code: int) -> None:
    def work() -> None:
        until(lambda: desk.records.is_registered("mine") and not desk.records.marks.is_unpublished("mine"))
        desk.finish("mine", status)

    with meanwhile(work):
        done = desk.run("submit", *IMPLEMENT, "-i", "Do it.", "--id", "mine", "--wait")
    said = "completed  verified" if status == "completed" else status
    assert done == Done(code, f"mine  {said}\n", "mine is submitted\n")
    again = desk.run("submit", *IMPLEMENT, "-i", "Do it.", "--id", "mine", "--wait", "--json")
    assert (again.code, again.json["status"]) == (code, status)


@pytest.mark.parametrize("flags", [("--wait", "--wait-timeout", "0.2"), ("--wait-timeout", "0.2")])
def test_a_wait_after_a_submit_has_an_end(desk: Desk, flags: tuple[str, ...]) -> None:
    done = desk.run("submit", *IMPLEMENT, "-i", "Do it.", "--id", "mine", *flags)
    assert (done.code, done.out) == (7, "")
    assert done.err.splitlines()[:2] == ["mine is submitted", "agentq: mine has not ended after 0.2 s"]
    assert "agentq wait mine" in done.err


# ---------------------------------------------------------------------- why


@pytest.fixture(params=["up", "down"])
def engine(request: pytest.FixtureRequest) -> dict[str, str]:
    """The environment in which the engine answers, or does not."""
    return DEAD_ENGINE if request.param == "down" else {}


def why(desk: Desk, task_id: str, **environment: str) -> tuple[str, str]:
    """The sentence and the next thing to do."""
    done = desk.run("why", task_id, **environment)
    assert done.code == 0
    assert done.out.startswith(f"{task_id}  ")
    found = desk.json("why", task_id, **environment)
    assert {*found} == {"task_id", "state", "reason", "next"}
    (next_,) = done.err.splitlines()
    return done.out.removeprefix(f"{task_id}  ").rstrip("\n"), next_.removeprefix("  → ")


def test_why_no_worker_is_up_and_how_many_come_before(desk: Desk) -> None:
    first = desk.task()
    assert why(desk, first) == (f"pending: no worker of {AGENT} is up", f"agentq worker run {AGENT}")
    for _ in range(13):
        desk.task()
    desk.task("--priority", "low")
    last = desk.task()
    assert why(desk, last)[0] == f"pending: no worker of {AGENT} is up, behind 14 others"
    assert why(desk, desk.task("--priority", "urgent"))[0] == f"pending: no worker of {AGENT} is up"
    desk.ok("cancel", first)
    assert why(desk, last)[0].endswith(", behind 14 others"), "an urgent one came, and the first one is gone"


def test_why_of_a_queued_task_while_the_engine_is_down(desk: Desk) -> None:
    desk.task()
    said, then = why(desk, desk.task(), **DEAD_ENGINE)
    assert said.startswith(f"pending: it is queued for {AGENT}, behind 1 other; the engine does not answer: ")
    assert then == "agentq doctor"


def test_why_of_a_task_that_somebody_waits_for(any_desk: Desk) -> None:
    task_id = any_desk.task()
    waiting = any_desk.start("claim", "--as", "review-worker", "--wait", "10m")
    with running(waiting):
        until(lambda: any_desk.with_engine(lambda engine: engine.listeners("review-worker")))
        assert why(any_desk, task_id)[0] == f"pending: no worker of {AGENT} is up"
        other = any_desk.app().coordinator.register(_review("r")).envelope.task_id
        any_desk.records.marks.published(other)
        assert why(any_desk, other)[0] == "pending: a worker of review-worker waits and takes it now"


def _review(task_id: str) -> Any:
    from tests.samples import request

    return request(task_id=task_id, to="review-worker", type="review")


def test_why_the_workers_are_busy(desk: Desk) -> None:
    first, second = desk.task(), desk.task()
    desk.claim(first)
    said, then = why(desk, second)
    assert re.fullmatch(rf"pending: the workers of {AGENT} are busy with {first} \(for \d+ s\)", said)
    assert then == f"agentq wait {second}"
    said, then = why(desk, first)
    assert re.fullmatch(
        rf"processing: {AGENT} on \S+ has been working on it for \d+ s \(attempt 1\), last heard of \d+ s ago", said
    )
    assert then == f"agentq wait {first}"


def test_why_a_task_is_delayed(desk: Desk, engine: dict[str, str]) -> None:
    at = (utc_now() + timedelta(hours=1)).replace(microsecond=0)
    task_id = desk.task("--at", at.isoformat())
    said, then = why(desk, task_id, **engine)
    assert re.fullmatch(rf"pending: it is delayed until {at:%Y-%m-%d %H:%M:%SZ} \(in 0:59:\d\d\)", said)
    assert then == f"agentq wait {task_id}"


def test_why_a_task_waits_for_others(desk: Desk, engine: dict[str, str]) -> None:
    first = desk.task("--id", "task-7")
    task_id = desk.task("--after", first)
    assert why(desk, task_id, **engine) == ("pending: it waits for task-7 (pending, queued)", "agentq why task-7")
    others = [desk.task("--delay", "1h") for _ in range(4)]
    many = desk.task(*(part for one in others for part in ("--after", one)))
    assert why(desk, many, **engine)[0].endswith(f"{others[2]} (pending, delayed) and 1 more")


def test_why_a_task_is_not_approved(desk: Desk, engine: dict[str, str]) -> None:
    task_id = desk.task("--requires-approval")
    said, then = why(desk, task_id, **engine)
    assert said == "pending: it is ready, and nobody has approved it"
    assert then.startswith(f"agentq approve {task_id} --by YOU --digest ")


def test_why_a_dead_workers_task_waits(desk: Desk) -> None:
    task_id = desk.task()
    desk.claim(task_id, **GONE)
    said, then = why(desk, task_id)
    assert re.fullmatch(
        rf"pending: {AGENT} on \S+, which worked on it \(attempt 1\), has been silent for \d+ s; "
        rf"its lease ends in (20|1\d) s, and no worker of {AGENT} waits to take it over",
        said,
    )
    assert then == f"agentq worker run {AGENT}"
    said, then = why(desk, task_id, **DEAD_ENGINE)
    assert re.search(r"its lease ends in (20|1\d) s; the engine does not answer: ", said)
    assert then == "agentq doctor"


def test_why_a_task_was_dead_lettered(desk: Desk, engine: dict[str, str]) -> None:
    task_id = desk.task()
    desk.finish(task_id, "failed", reason="tried 3 times, the last time: no luck", given_up=True)
    said, then = why(desk, task_id, **engine)
    assert said == "failed: dead-lettered, because tried 3 times, the last time: no luck"
    desk.bury(desk.envelope(task_id))
    assert desk.run(*shlex.split(then)[1:]).code == 0


@pytest.mark.parametrize(
    ("status", "said", "then"),
    [
        ("completed", f"completed: by {AGENT}, verified", "result"),
        ("failed", "failed: no luck", "retry"),
        ("cancelled", "cancelled: no luck", "retry"),
        ("expired", "expired: no luck", "retry"),
    ],
)
def test_why_a_task_ended(desk: Desk, engine: dict[str, str], status: Outcome, said: str, then: str) -> None:
    task_id = desk.task()
    desk.finish(task_id, status, reason=None if status == "completed" else "no luck")
    assert why(desk, task_id, **engine) == (said, f"agentq {then} {task_id}")


@pytest.mark.parametrize("flag", ["--delay", "--at"])
def test_a_wait_that_ends_before_the_task_may_start_is_refused(desk: Desk, flag: str) -> None:
    later = (flag, "1h" if flag == "--delay" else f"{utc_now() + timedelta(hours=1):%Y-%m-%dT%H:%M:%SZ}")
    before = desk.files()
    done = desk.run("submit", *IMPLEMENT, "-i", "Do it.", *later, "--wait-timeout", "10m")
    assert (done.code, "ends before the task may start" in done.err) == (3, True)
    assert desk.files() == before


def test_why_a_task_ended_with_another_one_leads_to_that_one(desk: Desk) -> None:
    desk.task("--id", "first")
    desk.task("--id", "second", "--after", "first")
    desk.ok("cancel", "first", "--reason", "enough")
    found = desk.json("why", "second")
    assert found["reason"].startswith("it needs first, which was cancelled")
    assert found["next"] == "agentq why first"


def test_why_a_task_is_not_in_its_queue(desk: Desk, engine: dict[str, str]) -> None:
    task_id = desk.task()
    desk.records.marks.unpublish(task_id)
    assert why(desk, task_id, **engine) == (
        "pending: it is not known to be in its queue; a worker publishes it soon",
        "agentq doctor --repair",
    )


# ---------------------------------------------------------------------- shapes


def test_the_document_names_the_keys_of_every_answer(desk: Desk) -> None:
    rows = re.findall(r"^\| `agentq (\w+)[^|]*\| (.*) \|$", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    said = {command: set(re.findall(r"`(\w+)`", keys)) for command, keys in rows}
    task_id = desk.task("--requires-approval", "--id", secrets.token_hex(4))
    found = {"why": desk.json("why", task_id), "approve": desk.json("approve", task_id, "--by", "me")}
    found |= {"claim": desk.json("claim", "--as", AGENT), "renew": desk.json("renew", task_id)}
    status = desk.json("status", task_id)
    found["cancel"] = {key: value for key, value in desk.json("cancel", task_id).items() if key not in status}
    assert {command: set(found[command]) for command in found} == {command: said.get(command) for command in found}
    assert json.loads(desk.run("release", task_id, "--json").out).keys() == status.keys()


def test_a_cancel_without_a_broker_is_final_and_says_that_the_log_does_not_know(desk: Desk) -> None:
    task_id = desk.task("--delay", "1h")
    done = desk.run("cancel", task_id, AGENTQ_BROKER="amqp://127.0.0.1:1/")
    assert done.code == 0
    assert done.out.startswith(f"{task_id}  cancelled")
    assert "the log does not know of this, the papers do" in done.err
    assert desk.json("status", task_id)["state"] == "cancelled"
