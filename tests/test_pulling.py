"""An agent without a daemon: it claims, renews and ends tasks through the CLI, and loses them as a daemon would."""

import asyncio
import json
import signal
import stat
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from agentq.cli import claim as command
from agentq.engine import Engine
from agentq.engines.sqlite import SQLiteEngine
from agentq.errors import EngineUnavailable
from tests.daemons.harness import until
from tests.desk import Desk, Done

AGENT = "implementation-worker"
LEASE = ("--lease", "1")


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leases may be as short as a test likes."""
    monkeypatch.setattr(command, "SHORTEST_LEASE", 0.1)


def profile(desk: Desk, text: str = "", limits: str = "") -> None:
    """Give the agent a profile of the desk's own, which looks again at a silent attempt after a moment."""
    folder = desk.project / "workers" / AGENT
    folder.mkdir(parents=True, exist_ok=True)
    limits = f"[limits]\nrenew_seconds = 0.1\nlease_seconds = 1\nlook_seconds = 0.1\n{limits}"
    (folder / "worker.toml").write_text(f'agent = "{AGENT}"\n{text}\n{limits}')
    (folder / "prompt.md").write_text("You are a scripted agent.")


def claim(desk: Desk, *flags: str) -> Any:
    """What a claim that gets a task prints as JSON."""
    return desk.json("claim", "--as", AGENT, *flags)


def claimed(desk: Desk, *flags: str) -> str:
    """The id of the task that a claim gets."""
    return str(claim(desk, *flags)["task"]["task_id"])


def nothing(desk: Desk, *flags: str) -> None:
    """A claim gets nothing."""
    done = desk.run("claim", "--as", AGENT, *flags)
    assert (done.code, done.out, done.err) == (12, "", f"nothing to do for {AGENT}\n")


def written(desk: Desk, name: str, text: str) -> str:
    (desk.project / name).write_text(text)
    return name


def complete(desk: Desk, task_id: str, *flags: str, **environment: str) -> Done:
    return desk.run("complete", task_id, "--from", AGENT, "--summary", "Did it.", *flags, **environment)


def lost(done: Done) -> bool:
    return done.code == 5 and "is no longer yours: it ended or was taken over" in done.err


def settings(desk: Desk, text: str) -> None:
    (desk.project / "agentq.toml").write_text(text)


# ---------------------------------------------------------------------- taking and ending


@pytest.mark.promise("pulled")
def test_a_task_is_claimed_renewed_and_completed_without_a_daemon(any_desk: Desk) -> None:
    desk = any_desk
    context = desk.shared / "tasks" / "fix-1.md"
    context.write_text("Mend the clock.\nIt is late.\n")
    task_id = desk.task("--file", str(context), "--expect", "patch")
    done = desk.run("claim", "--as", AGENT)
    assert done.code == 0
    assert done.out.splitlines() == [
        "fix-1  attempt 1  implementation from coordinator  yours for 15m",
        "| Do it.",
        f"context file://{context}:",
        "| Mend the clock.",
        "| It is late.",
        "|",
        "expected: patch",
    ]
    complete_it = "agentq complete fix-1 --from implementation-worker --result-file PATH --summary TEXT"
    assert f"{complete_it} --artifact NAME=PATH\n" in done.err
    assert desk.ok("status", task_id) == f"{task_id}  processing  {AGENT}, attempt 1, started 0s ago"
    assert desk.ok("renew", task_id).startswith("fix-1  yours until ")
    nothing(desk)

    report, patch = written(desk, "report.md", "# Mended\n"), written(desk, "fix.diff", "+ tick\n")
    ended = complete(desk, task_id, "--result-file", report, "--artifact", f"patch={patch}")
    assert (ended.code, ended.out) == (0, "fix-1  completed, unverified\n")
    result = desk.json("result", task_id)
    assert (result["attempt"], result["from"], result["verified"], result["summary"]) == (1, AGENT, False, "Did it.")
    assert {one["name"] for one in result["artifacts"]} == {"report", "patch", "summary"}
    assert desk.ok("result", task_id, "--artifact", "patch") == "+ tick"
    assert desk.ok("inbox").startswith("fix-1  completed  unverified")
    assert list(desk.records.marks.unsettled()) == []
    again = complete(desk, task_id)
    assert again.code == 5
    assert f"fix-1 was already completed by {AGENT} (attempt 1)" in again.err


def test_a_task_that_cannot_be_done_fails_with_its_reason(desk: Desk) -> None:
    task_id = desk.task()
    claim(desk)
    assert desk.ok("fail", task_id, "--from", AGENT, "--reason", "No such clock.") == f"{task_id}  failed"
    assert (desk.json("status", task_id)["state"], desk.json("status", task_id)["reason"]) == (
        "failed",
        "No such clock.",
    )


def test_the_next_one_is_told_what_came_before_and_what_the_task_needed(desk: Desk) -> None:
    first = desk.task()
    desk.finish(first, summary="It was the spring.")
    task_id = desk.task("--after", first)
    assert claim(desk)["needs"][0]["manifest"]["summary"] == "It was the spring."
    desk.ok("release", task_id, "--reason", "Not my\nclock.")
    said = desk.ok("claim", "--as", AGENT)
    assert "attempt 1 brought nothing: Not my clock." in said
    assert f"it needed {first}, which is completed: {desk.store.ref(f'results/{first}.md')}\n" in said
    assert "| It was the spring.\n" in said


def test_a_claim_takes_what_waits_without_any_patience(any_desk: Desk) -> None:
    """One receive each, and what was cancelled meanwhile does not stand in the way of what follows."""
    gone = [any_desk.task() for _ in range(3)]
    tasks = [any_desk.task() for _ in range(3)]
    for task_id in gone:
        any_desk.ok("cancel", task_id)
    assert [claimed(any_desk) for _ in tasks] == tasks
    nothing(any_desk)


@pytest.mark.promise("pulled")
def test_of_many_who_claim_at_once_no_two_get_the_same_task(any_desk: Desk) -> None:
    tasks = {any_desk.task() for _ in range(5)}

    def pull(_: int) -> str | None:
        taken = asyncio.run(any_desk.app().puller.claim(AGENT, 0.0, 60.0))
        return taken.start.papers.envelope.task_id if taken else None

    any_desk.project.joinpath("workers").mkdir()
    with ThreadPoolExecutor(8) as hands:
        found = list(hands.map(pull, range(8)))
    assert sorted(one for one in found if one) == sorted(tasks)
    assert all(len(any_desk.records.attempts(task_id)) == 1 for task_id in tasks)


def test_a_claim_that_waits_wakes_when_a_task_is_submitted(any_desk: Desk) -> None:
    waiting = any_desk.start("claim", "--as", AGENT, "--wait", "10m", "--json")
    with ended(waiting):
        until(lambda: any_desk.with_engine(lambda engine: engine.listeners(AGENT)), "the claim to wait")
        task_id = any_desk.task()
        out, err = waiting.communicate(timeout=60)
    assert waiting.returncode == 0, err
    assert json.loads(out)["task"]["task_id"] == task_id


def test_a_claim_that_waits_can_be_interrupted_and_takes_nothing_with_it(any_desk: Desk) -> None:
    waiting = any_desk.start("claim", "--as", AGENT, "--wait", "10m")
    with ended(waiting):
        until(lambda: any_desk.with_engine(lambda engine: engine.listeners(AGENT)), "the claim to wait")
        waiting.send_signal(signal.SIGINT)
        assert (waiting.wait(60), waiting.communicate()) == (130, (b"", b""))
    assert any_desk.task() == claimed(any_desk)


@contextmanager
def ended(process: "subprocess.Popen[bytes]") -> Iterator[None]:
    """The process is dead afterwards, whatever happened."""
    try:
        yield
    finally:
        process.kill()
        process.communicate()


# ---------------------------------------------------------------------- what is believed


@pytest.mark.parametrize(
    ("pieces", "missing"),
    [((), "patch, risks"), (("patch=empty", "risks=full"), "patch"), (("patch=full", "more=empty"), "risks, more")],
)
def test_what_the_task_asks_for_must_be_there(desk: Desk, pieces: tuple[str, ...], missing: str) -> None:
    task_id = desk.task("--expect", "summary", "--expect", "patch", "--expect", "risks")
    claim(desk)
    written(desk, "empty", "")
    written(desk, "full", "x")
    before = desk.files()
    done = complete(desk, task_id, *(part for piece in pieces for part in ("--artifact", piece)))
    assert done.code == 3
    assert f"{task_id} must bring what is missing or empty: {missing}\n" in done.err
    assert "--artifact NAME=PATH" in done.err
    assert desk.files() == before


@pytest.mark.parametrize("piece", ["patch", "=full", "patch=", "../x=full", "patch=nowhere"])
def test_a_piece_of_evidence_that_is_none_is_refused(desk: Desk, piece: str) -> None:
    task_id = desk.task()
    claim(desk)
    written(desk, "full", "x")
    before = desk.files()
    assert complete(desk, task_id, "--artifact", piece).code == 3
    assert desk.files() == before


def test_evidence_is_for_those_who_claimed_the_task(desk: Desk) -> None:
    task_id = desk.task()
    before = desk.files()
    done = complete(desk, task_id, "--artifact", f"patch={written(desk, 'full', 'x')}")
    assert done.code == 3
    assert "agentq claim --as NAME" in done.err
    assert desk.files() == before


# ---------------------------------------------------------------------- losing it


@pytest.mark.promise("pulled")
def test_an_abandoned_claim_goes_to_the_next_one_by_the_engines_own_timer(any_desk: Desk, short: None) -> None:
    desk = any_desk
    profile(desk)
    task_id = desk.task()
    first = claim(desk, *LEASE)
    token = {"AGENTQ_TASK_ID": task_id, "AGENTQ_ATTEMPT": "1", "AGENTQ_TOKEN": first["token"]}
    second = claim(desk, "--wait", "30")
    assert (second["task"]["task_id"], second["attempt"]) == (task_id, 2)
    assert second["earlier"] == [{"attempt": 1, "reason": "its worker was silent for over 1 s"}]
    assert desk.json("status", task_id)["attempts_counted"] == 1

    before = desk.files()
    assert lost(desk.run("renew", task_id, **token))
    assert lost(desk.run("release", task_id, **token))
    assert desk.files() == before
    late = complete(desk, task_id, "--result-file", written(desk, "late.md", "# Late\n"), **token)
    assert lost(late)
    assert f"agentq status {task_id}" in late.err
    kept = [data for key, data in desk.files().items() if key.startswith(f"artifacts/{task_id}/hand-")]
    assert sorted(kept) == [b"# Late\n", b"Did it.\n"]
    assert complete(desk, task_id).code == 0
    assert desk.json("result", task_id)["attempt"] == 2
    assert f"more below artifacts/{task_id}/, of other attempts: 2" in desk.ok("result", task_id)


def test_a_claim_that_is_renewed_stays(any_desk: Desk, short: None) -> None:
    profile(any_desk)
    task_id = any_desk.task()
    claim(any_desk, "--lease", "2")
    with ThreadPoolExecutor(1) as rival:
        taking = rival.submit(lambda: asyncio.run(any_desk.app().puller.claim(AGENT, 5.0, 60.0)))
        while not taking.done():
            renewed = asyncio.run(_renew(any_desk, task_id))
    assert renewed
    assert taking.result() is None
    assert complete(any_desk, task_id).code == 0


async def _renew(desk: Desk, task_id: str) -> bool:
    holder = desk.app().puller.holder(task_id)
    assert holder
    await asyncio.sleep(0.2)
    return bool(await asyncio.to_thread(holder.renew))


@pytest.mark.promise("bounded-attempts")
def test_abandoned_claims_use_up_the_attempts(any_desk: Desk, short: None) -> None:
    profile(any_desk)
    task_id = any_desk.task("--max-attempts", "2")
    claim(any_desk, *LEASE)
    assert claim(any_desk, *LEASE, "--wait", "30")["attempt"] == 2
    nothing(any_desk, *LEASE, "--wait", "5")
    status = any_desk.json("status", task_id)
    assert (status["state"], status["attempts_counted"]) == ("failed", 2)
    reason = "tried 2 times, the last time: its worker was silent for over 1 s"
    assert any_desk.ok("why", task_id) == f"{task_id}  failed: dead-lettered, because {reason}"
    assert task_id in any_desk.ok("dlq")


def test_a_task_that_is_given_back_may_be_taken_again_and_the_attempt_does_not_count(any_desk: Desk) -> None:
    task_id = any_desk.task("--max-attempts", "1")
    for number in (1, 2, 3):
        assert claim(any_desk)["attempt"] == number
        assert any_desk.ok("release", task_id) == f"{task_id}  released"
    assert any_desk.json("status", task_id)["attempts_counted"] == 0
    done = any_desk.run("release", task_id)
    assert done.code == 5
    assert f"{task_id} was not claimed here: it is pending" in done.err


def test_a_task_that_is_given_back_for_later_waits_until_then(any_desk: Desk) -> None:
    task_id = any_desk.task()
    claim(any_desk)
    found = any_desk.json("release", task_id, "--delay", "1h", "--reason", "The limit is used up.")
    assert (found["state"], found["waits_for"], found["reason"]) == ("pending", "delayed", "The limit is used up.")
    nothing(any_desk)
    any_desk.ok("cancel", task_id)
    other = any_desk.task()
    claim(any_desk)
    any_desk.ok("release", other, "--delay", "1")
    assert claimed(any_desk, "--wait", "30") == other


@pytest.mark.promise("cancel")
@pytest.mark.parametrize("act", ["renew", "complete", "fail", "release"])
def test_whoever_holds_a_cancelled_task_is_told_and_ends_it(desk: Desk, act: str) -> None:
    task_id = desk.task()
    claim(desk)
    assert desk.ok("cancel", task_id, "--reason", "no need") == f"{task_id}  is being stopped by its worker"
    flags = {
        "renew": (),
        "release": (),
        "complete": ("--from", AGENT, "--result-file", written(desk, "half.md", "half\n")),
        "fail": ("--from", AGENT, "--reason", "Broke."),
    }[act]
    done = desk.run(act, task_id, *flags)
    assert done.code == 9
    assert done.out.startswith(f"{task_id}  cancelled")
    status = desk.json("status", task_id)
    assert (status["state"], status["reason"]) == ("cancelled", "cancelled by coordinator: no need")
    names = [one["name"] for one in json.loads(desk.run("result", task_id, "--json").out)["artifacts"]]
    assert names == (["report"] if act == "complete" else [])
    assert list(desk.records.marks.unsettled()) == []
    assert desk.run("renew", task_id).code == 5


def test_a_renewal_in_json(desk: Desk) -> None:
    task_id = desk.task()
    until_then = claim(desk, "--lease", "1m")["lease_until"]
    found = desk.json("renew", task_id)
    assert (found["task_id"], found["state"], found["lease_until"] > until_then) == (task_id, "processing", True)
    desk.ok("cancel", task_id)
    done = desk.run("renew", task_id, "--json")
    assert (done.code, done.json) == (9, {"task_id": task_id, "state": "cancelled", "lease_until": None})


# ---------------------------------------------------------------------- what proves it


def test_claims_are_for_their_owners_eyes_only(desk: Desk) -> None:
    task_id = desk.task()
    shown = desk.run("claim", "--as", AGENT)
    folder = desk.home / ".local/share/agentq/claims"
    (file,) = folder.iterdir()
    assert [stat.S_IMODE(path.stat().st_mode) for path in (folder, file)] == [0o700, 0o600]
    token = json.loads(file.read_text())["token"]
    said = [shown, *(desk.run(act, task_id, *more) for act in ("renew", "status", "why") for more in ((), ("--json",)))]
    said += [desk.run("release", task_id, "--json"), desk.run("claim", "--as", "review-worker")]
    assert not [done for done in said if token in done.out + done.err]
    assert list(folder.iterdir()) == []
    assert claim(desk)["token"] == json.loads(file.read_text())["token"]


def test_another_account_needs_the_token_and_no_more(any_desk: Desk) -> None:
    task_id = any_desk.task()
    taken = claim(any_desk)
    other = {"HOME": str(any_desk.project)}
    stranger = any_desk.run("renew", task_id, **other)
    assert stranger.code == 5
    assert f"{task_id} was not claimed here: it is processing" in stranger.err
    assert complete(any_desk, task_id, **other).code == 5
    proof = other | {"AGENTQ_TASK_ID": task_id, "AGENTQ_ATTEMPT": "1", "AGENTQ_TOKEN": taken["token"]}
    assert lost(any_desk.run("renew", task_id, **proof | {"AGENTQ_TOKEN": "forged"}))
    assert any_desk.run("renew", task_id, **proof | {"AGENTQ_ATTEMPT": "one"}).code == 3
    assert any_desk.run("renew", task_id, **proof).code == 0
    assert complete(any_desk, task_id, **proof).out == f"{task_id}  completed, unverified\n"
    assert any_desk.json("result", task_id)["from"] == AGENT


def test_an_agent_that_lost_its_output_folder_does_not_go_behind_its_worker(desk: Desk) -> None:
    task_id = desk.task()
    held = desk.claim(task_id)
    proof = {"AGENTQ_TASK_ID": task_id, "AGENTQ_ATTEMPT": "1", "AGENTQ_TOKEN": held.token}
    before = desk.files()
    done = complete(desk, task_id, **proof)
    assert done.code == 3
    assert "AGENTQ_OUTPUT is not set" in done.err
    assert desk.files() == before


# ---------------------------------------------------------------------- who may take what


def test_where_profiles_are_required_nobody_else_takes_tasks(desk: Desk) -> None:
    settings(desk, 'agents = ["stranger"]\n')
    assert desk.run("claim", "--as", "stranger").code == 12
    settings(desk, 'agents = ["stranger"]\nrequire_profiles = true\n')
    before = desk.files()
    done = desk.run("claim", "--as", "stranger")
    assert done.code == 3
    assert "there is no profile for stranger" in done.err
    assert "Known: implementation-worker, mention-worker, review-worker." in done.err
    assert desk.run("claim", "--as", AGENT).code == 12
    assert desk.files() == before


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--as", "nobody"), "there is no agent nobody"),
        (("--as", "no body"), "'no body' is no name"),
        (("--as", AGENT, "--lease", "5"), "--lease '5' is too short"),
        (("--as", AGENT, "--wait", "soon"), "--wait 'soon' is no duration"),
    ],
)
def test_a_claim_that_cannot_be_meant(desk: Desk, flags: tuple[str, ...], words: str) -> None:
    desk.task()
    before = desk.files()
    done = desk.run("claim", *flags)
    assert done.code == 3
    assert words in done.err
    assert desk.files() == before


@pytest.mark.promise("gates")
def test_a_task_with_a_shut_gate_is_not_handed_out(any_desk: Desk) -> None:
    first = any_desk.task()
    second = any_desk.task("--after", first)
    third = any_desk.task("--requires-approval")
    assert claimed(any_desk) == first
    forge = any_desk.envelope(second), any_desk.envelope(third)

    async def publish(engine: Engine) -> None:
        for envelope in forge:
            await engine.publish(envelope)

    any_desk.with_engine(publish)
    nothing(any_desk)
    assert complete(any_desk, first).code == 0
    assert claimed(any_desk) == second
    nothing(any_desk)
    any_desk.ok("approve", third, "--by", "alice")
    assert claimed(any_desk) == third


@pytest.mark.promise("approval")
def test_what_the_agents_profile_takes_for_irreversible_is_not_handed_out_either(desk: Desk) -> None:
    task_id = desk.task()
    profile(desk, 'irreversible = ["implementation"]')
    nothing(desk)
    assert desk.json("status", task_id)["waits_for"] == "approval"
    desk.ok("approve", task_id, "--by", "alice")
    assert claimed(desk) == task_id


def test_a_context_that_was_altered_is_not_handed_out(desk: Desk) -> None:
    context = desk.shared / "tasks" / "notes.md"
    context.write_text("Old.\n")
    task_id = desk.task("--file", str(context))
    context.write_text("New.\n")
    nothing(desk)
    assert "was altered after the task was submitted" in desk.json("status", task_id)["reason"]


# ---------------------------------------------------------------------- the engine is away


def test_a_claim_without_an_engine_takes_nothing(desk: Desk) -> None:
    desk.task()
    before = desk.files()
    done = desk.run("claim", "--as", AGENT, AGENTQ_BROKER="amqp://127.0.0.1:1/")
    assert done.code == 6
    assert desk.files() == before


def test_a_claim_whose_engine_goes_away_does_not_count(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    task_id = desk.task()

    async def publish(*_: object, **__: object) -> None:
        raise EngineUnavailable("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(SQLiteEngine, "publish", publish)
        assert desk.run("claim", "--as", AGENT).code == 6
    assert not list((desk.home / ".local/share/agentq/claims").iterdir())
    found = claim(desk)
    assert (found["task"]["task_id"], found["attempt"]) == (task_id, 2)
    assert found["earlier"] == [{"attempt": 1, "reason": "it could not be handed out: the disk is full"}]
    assert desk.json("status", task_id)["attempts_counted"] == 0


# ---------------------------------------------------------------------- beside a daemon


@pytest.mark.promise("pulled")
def test_a_daemon_and_those_who_pull_share_a_queue(any_desk: Desk) -> None:
    desk = any_desk
    profile(desk, limits="sweep_seconds = 0.2\n")
    tasks = [desk.task() for _ in range(8)]
    held = [claimed(desk)]
    runner = f"sh -c {json.dumps('echo done > $AGENTQ_OUTPUT/report.md')}"
    log = desk.folder / "worker.log"
    with log.open("wb") as stream:
        worker = desk.start("worker", "run", AGENT, "--runner", runner, stdout=stream, stderr=stream)
    with ended(worker):
        until(lambda: b": ready" in log.read_bytes(), "the worker to be ready")
        while (done := desk.run("claim", "--as", AGENT, "--json")).code == 0:
            held.append(done.json["task"]["task_id"])
        until(_ended(desk, [task_id for task_id in tasks if task_id not in held]), "the daemon's tasks")
        assert all(desk.run("renew", task_id).code == 0 for task_id in held)
        assert all(complete(desk, task_id).code == 0 for task_id in held)
        assert desk.run("wait", *tasks, "--timeout", "60").code == 0
    attempts = [len(desk.records.attempts(task_id)) for task_id in tasks]
    assert attempts == [1] * len(tasks)
    assert {task_id for task_id in tasks if not desk.json("result", task_id)["verified"]} == set(held)


def _ended(desk: Desk, tasks: list[str]) -> Callable[[], bool]:
    return lambda: all(desk.records.manifest(task_id) for task_id in tasks)


@pytest.mark.promise("idempotency-key")
def test_whoever_takes_a_retry_is_told_what_it_is_again_for(desk: Desk) -> None:
    desk.ok("init")
    first = desk.task()
    assert desk.json("claim", "--as", AGENT)["idempotency_key"] == first
    desk.ok("fail", first, "--from", AGENT, "--reason", "no")
    desk.ok("retry", first)
    assert f"again for {first}" in desk.ok("claim", "--as", AGENT)
