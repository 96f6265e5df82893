"""`agentq verify`, and what the other commands say of what is not proven: every link, and whatever may break it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentq.artifacts import evidence_prefix
from agentq.groups import conclude
from agentq.keyring import Keyring
from agentq.messages import utc_now
from agentq.papers import Collected
from agentq.records import Records
from agentq.signing import Signer
from tests.desk import IMPLEMENT, Desk, Done
from tests.test_imports import imported

WORKER = "implementation-worker"


@pytest.fixture
def signed(desk: Desk, tmp_path: Path) -> Desk:
    """A desk whose coordinator and approver have keys, and trust the worker's, which is elsewhere."""
    for name in ("coordinator", "alice"):
        desk.ok("keys", "new", name)
    elsewhere = Keyring(tmp_path / "workers-keys")
    for name in (WORKER, "other-worker"):
        desk.ok("keys", "trust", elsewhere.make(name)[0].line)
    desk.records = Records(desk.store, Signer(elsewhere, WORKER))
    return desk


def links(done: Done) -> dict[str, str]:
    """The state of each link by its name."""
    return {line.split()[0]: line.split()[1] for line in done.out.splitlines() if not line.startswith(" ")}


def verify(desk: Desk, task_id: str, **environment: str) -> Done:
    return desk.run("verify", task_id, **environment)


def task(desk: Desk, *flags: str) -> str:
    """A task with a context that needs alice's approval, which it has."""
    context = desk.folder / "brief.md"
    context.write_text("Do it well.\n")
    task_id = desk.ok("submit", *IMPLEMENT, "--file", str(context), "--requires-approval", *flags)
    desk.ok("approve", task_id, "--by", "alice")
    return task_id


# ---------------------------------------------------------------------- a whole chain


@pytest.mark.promise("verify")
def test_every_link_of_a_signed_task_is_told(signed: Desk) -> None:
    task_id = task(signed)
    signed.finish(task_id, evidence={"patch": b"+1\n"})
    done = verify(signed, task_id)
    assert done.code == 0, done
    assert links(done) == dict.fromkeys(
        ("request", "signature", "context", "approval", "attempt", "report", "patch", "copy", "manifest"), "ok"
    )
    assert "coordinator (key " in done.out
    assert "by alice (key " in done.out
    assert f"signed by {WORKER} (key " in done.out
    assert "answers exactly this request" in done.out
    told = signed.json("verify", task_id)
    assert (told["holds"], told["ended"], len(told["links"])) == (True, True, 9)
    assert set(told["links"][0]) == {"name", "state", "what", "next"}


def test_what_is_unsigned_breaks_nothing_unless_signatures_are_required(desk: Desk) -> None:
    task_id = task(desk)
    desk.finish(task_id)
    done = verify(desk, task_id)
    assert (done.code, links(done)["signature"]) == (0, "none")
    assert "unsigned, answers exactly this request" in done.out
    (desk.project / "agentq.toml").write_text("require_signatures = true\n")
    strict = verify(desk, task_id)
    assert strict.code == 11
    assert [name for name, state in links(strict).items() if state == "broken"] == ["signature", "approval", "manifest"]
    assert "agentq keys new NAME" in strict.out


def test_a_task_without_a_result_is_verified_as_far_as_it_is(signed: Desk) -> None:
    task_id = signed.task("--requires-approval")
    done = verify(signed, task_id)
    assert done.code == 12
    assert links(done) == {
        "request": "ok",
        "signature": "ok",
        "approval": "none",
        "attempt": "none",
        "manifest": "none",
    }
    signed.ok("approve", task_id, "--by", "alice")
    signed.claim(task_id)
    assert links(verify(signed, task_id))["attempt"] == "ok"


def test_an_unknown_task_is_not_found(desk: Desk) -> None:
    assert verify(desk, "nobody").code == 4


@pytest.mark.parametrize("by", ["alice", "somebody"])
def test_a_task_that_was_ended_by_hand_is_its_hands(signed: Desk, by: str) -> None:
    task_id = signed.task()
    signed.ok("complete", task_id, "--from", by, "--summary", "Did it.")
    done = verify(signed, task_id)
    assert (done.code, links(done)["attempt"]) == (0, "ok")
    assert f"1 by {by}" in done.out
    assert ("signed by alice (key" in done.out) == (by == "alice")


@pytest.mark.parametrize("how", [("cancel", "--reason", "no"), ("reject", "--reason", "no")])
def test_a_task_that_was_never_run_needs_no_approval_to_hold(signed: Desk, how: tuple[str, ...]) -> None:
    task_id = signed.task("--requires-approval")
    signed.run(how[0], task_id, *how[1:], *(("--by", "alice") if how[0] == "reject" else ()))
    done = verify(signed, task_id)
    assert done.code == 0, done
    assert links(done)["approval"] == "none"
    (signed.project / "agentq.toml").write_text("require_signatures = true\n")
    assert verify(signed, task_id).code == 0


def test_what_was_collected_is_gone_and_breaks_nothing(signed: Desk, done_task: str) -> None:
    signed.records.collect(done_task, Collected(at=utc_now()))
    for key in signed.files():
        if done_task in key and key.startswith(("artifacts/", "attempts/", "controls/")) and "collected" not in key:
            (signed.shared / key).unlink()
    (signed.shared / f"results/{done_task}.md").unlink()
    done = verify(signed, done_task)
    assert done.code == 0, done
    gone = {"context", "approval", "attempt", "report", "patch", "copy"}
    assert {name for name, state in links(done).items() if state == "gone"} == gone
    assert {name for name, state in links(done).items() if state == "ok"} == {"request", "signature", "manifest"}
    another_summary(signed, done_task)
    assert links(verify(signed, done_task))["manifest"] == "broken"


# ---------------------------------------------------------------------- plans


def plan(desk: Desk) -> str:
    text = f"plan: p\ndefaults: {{to: {WORKER}, type: implementation}}\ntasks:\n"
    (desk.project / "plan.yaml").write_text(f"{text}  a: {{instructions: Do a.}}\n  b: {{instructions: Do b.}}\n")
    return desk.ok("plan", "submit", "plan.yaml")


@pytest.mark.promise("verify")
def test_a_plan_holds_when_each_of_its_tasks_does(signed: Desk) -> None:
    plan(signed)
    assert links(verify(signed, "p")) == {
        "request": "ok",
        "signature": "ok",
        "p.a": "none",
        "p.b": "none",
        "manifest": "none",
    }
    for name in ("p.a", "p.b"):
        signed.finish(name)
    (signed.project / "agentq.toml").write_text("require_signatures = true\n")
    done = verify(signed, "p")
    assert done.code == 0, done
    assert {links(done)[name] for name in ("p.a", "p.b", "report", "manifest")} == {"ok"}
    path = signed.shared / "artifacts/p.b/1/report.md"
    path.write_bytes(b"All wrong.\n")
    broken = verify(signed, "p")
    assert (broken.code, links(broken)["p.b"]) == (11, "broken")
    assert "See: agentq verify p.b" in broken.out


def test_a_task_that_the_plan_does_not_name_so_breaks_it(signed: Desk) -> None:
    plan(signed)
    other = signed.task("--id", "other")
    envelope = signed.envelope(other).model_copy(update={"task_id": "p.a", "group": "p", "request_sha256": None})
    forged = envelope.model_copy(update={"request_sha256": envelope.request_digest()})
    (signed.shared / "tasks/p.a.json").write_bytes(forged.to_json())
    for name in ("p.a", "p.b"):
        signed.finish(name)
    assert conclude(signed.records, signed.envelope("p"))
    done = verify(signed, "p")
    assert (done.code, links(done)["p.a"]) == (11, "broken")
    assert "not the task that the plan names" in done.out


# ---------------------------------------------------------------------- with write access to the store, and no key

Attack = Callable[[Desk, str], None]


def rewrite(desk: Desk, key: str, **changes: Any) -> None:
    path = desk.shared / key
    path.write_text(json.dumps(json.loads(path.read_bytes()) | changes))


def asked_otherwise(desk: Desk, task_id: str) -> None:
    rewrite(desk, f"tasks/{task_id}.json", instructions="Do harm.")


def asked_otherwise_with_its_own_digest(desk: Desk, task_id: str) -> None:
    other = desk.envelope(task_id).model_copy(update={"instructions": "Do harm."})
    rewrite(desk, f"tasks/{task_id}.json", instructions="Do harm.", request_sha256=other.request_digest())


def asked_unsigned(desk: Desk, task_id: str) -> None:
    asked_otherwise_with_its_own_digest(desk, task_id)
    rewrite(desk, f"tasks/{task_id}.json", signature=None)


def asked_under_another_id(desk: Desk, task_id: str) -> None:
    other = desk.task()
    (desk.shared / f"tasks/{task_id}.json").write_bytes((desk.shared / f"tasks/{other}.json").read_bytes())


def another_context(desk: Desk, task_id: str) -> None:
    (desk.shared / f"tasks/{task_id}.md").write_text("Do harm.\n")


def no_context(desk: Desk, task_id: str) -> None:
    (desk.shared / f"tasks/{task_id}.md").unlink()


def another_artifact(desk: Desk, task_id: str) -> None:
    (desk.shared / f"artifacts/{task_id}/1/patch.md").write_text("+666\n")


def no_artifact(desk: Desk, task_id: str) -> None:
    (desk.shared / f"artifacts/{task_id}/1/patch.md").unlink()


def another_artifact_and_manifest(desk: Desk, task_id: str) -> None:
    another_artifact(desk, task_id)
    manifest = json.loads((desk.shared / f"results/{task_id}.json").read_bytes())
    store = Records(desk.store)
    piece = store.artifacts.add(evidence_prefix(task_id, 1), "patch", b"+666\n", suffix=".md", made_by="daemon")
    others = [one for one in manifest["artifacts"] if one["name"] != "patch"]
    rewrite(desk, f"results/{task_id}.json", artifacts=[*others, piece.model_dump(mode="json")])


def another_copy(desk: Desk, task_id: str) -> None:
    (desk.shared / f"results/{task_id}.md").write_text("All wrong.\n")


def another_summary(desk: Desk, task_id: str) -> None:
    rewrite(desk, f"results/{task_id}.json", summary="Perfect.")


def another_author(desk: Desk, task_id: str) -> None:
    rewrite(desk, f"results/{task_id}.json", **{"from": "other-worker"})


def another_signers_name(desk: Desk, task_id: str) -> None:
    signature = json.loads((desk.shared / f"results/{task_id}.json").read_bytes())["signature"]
    rewrite(desk, f"results/{task_id}.json", signature=signature | {"by": "other-worker"})


def another_tasks_signature(desk: Desk, task_id: str) -> None:
    other = desk.finish(desk.task())
    assert other.signature
    rewrite(desk, f"results/{task_id}.json", signature=other.signature.model_dump(), summary="Perfect.")


def another_tasks_completion(desk: Desk, task_id: str) -> None:
    other = desk.finish(desk.task())
    (desk.shared / f"results/{task_id}.json").write_bytes(other.to_json())


def another_attempts_completion(desk: Desk, task_id: str) -> None:
    rewrite(desk, f"results/{task_id}.json", attempt=2)


def answer_to_an_earlier_request(desk: Desk, task_id: str) -> None:
    """All of the task is removed and it is asked for anew; then the old answer comes back, untouched."""
    old = {key: data for key, data in desk.files().items() if task_id in key and not key.startswith("tasks/")}
    for key in (f"tasks/{task_id}.json", f"tasks/{task_id}.md", *old):
        (desk.shared / key).unlink()
    task(desk, "--id", task_id, "--priority", "high")
    for key, data in old.items():
        (desk.shared / key).parent.mkdir(parents=True, exist_ok=True)
        (desk.shared / key).write_bytes(data)


def another_worker(desk: Desk, task_id: str) -> None:
    rewrite(desk, f"attempts/{task_id}/1.json", worker="other-worker")


def no_attempt(desk: Desk, task_id: str) -> None:
    (desk.shared / f"attempts/{task_id}/1.json").unlink()


def approved_by_another(desk: Desk, task_id: str) -> None:
    (path,) = (desk.shared / f"controls/{task_id}").glob("approval-*.json")
    rewrite(desk, f"controls/{task_id}/{path.name}", by="bob")


def approved_for_another(desk: Desk, task_id: str) -> None:
    (mine,) = (desk.shared / f"controls/{task_id}").glob("approval-*.json")
    (theirs,) = (desk.shared / f"controls/{task(desk)}").glob("approval-*.json")
    mine.write_bytes(theirs.read_bytes())


def not_approved(desk: Desk, task_id: str) -> None:
    (path,) = (desk.shared / f"controls/{task_id}").glob("approval-*.json")
    path.unlink()


ATTACKS: dict[Attack, str] = {
    asked_otherwise: "request",
    asked_otherwise_with_its_own_digest: "signature",
    asked_unsigned: "manifest",
    asked_under_another_id: "papers",
    another_context: "context",
    no_context: "context",
    another_artifact: "patch",
    no_artifact: "patch",
    another_artifact_and_manifest: "manifest",
    another_copy: "copy",
    another_summary: "manifest",
    another_author: "manifest",
    another_signers_name: "manifest",
    another_tasks_signature: "manifest",
    another_tasks_completion: "papers",
    another_attempts_completion: "manifest",
    answer_to_an_earlier_request: "manifest",
    another_worker: "attempt",
    no_attempt: "attempt",
    approved_by_another: "approval",
    approved_for_another: "approval",
    not_approved: "approval",
}
"""What somebody does to the store, and the link that breaks by it, whatever else does."""
SHOWN = [
    asked_otherwise,
    another_artifact_and_manifest,
    another_summary,
    another_author,
    another_signers_name,
    another_tasks_signature,
    another_attempts_completion,
    answer_to_an_earlier_request,
]
"""Those after which a result is still there to be read, and says that it is not proven."""


@pytest.fixture
def done_task(signed: Desk) -> str:
    task_id = task(signed)
    signed.finish(task_id, evidence={"patch": b"+1\n"})
    return task_id


@pytest.mark.promise("verify")
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_whatever_is_changed_in_the_store_breaks_a_link(signed: Desk, done_task: str, attack: Attack) -> None:
    attack(signed, done_task)
    done = verify(signed, done_task)
    assert done.code == 11, done
    assert links(done)[ATTACKS[attack]] == "broken", done.out
    told = signed.run("verify", done_task, "--json").json
    assert not told["holds"]
    assert all(link["next"] for link in told["links"] if link["state"] == "broken")


@pytest.mark.parametrize("strip", [asked_unsigned, another_summary])
def test_a_stripped_signature_breaks_the_chain_where_signatures_are_required(
    signed: Desk, done_task: str, strip: Attack
) -> None:
    strip(signed, done_task)
    rewrite(signed, f"results/{done_task}.json", signature=None, envelope_sha256=None)
    (signed.project / "agentq.toml").write_text("require_signatures = true\n")
    assert links(verify(signed, done_task))["manifest"] == "broken"
    assert signed.json("status", done_task)["unverified_because"] == "it is not signed"


# ---------------------------------------------------------------------- what the other commands say


@pytest.mark.promise("unproven-told")
@pytest.mark.parametrize("attack", SHOWN, ids=lambda attack: attack.__name__)
def test_what_is_not_proven_is_shown_as_unverified_everywhere(signed: Desk, done_task: str, attack: Attack) -> None:
    attack(signed, done_task)
    plain = signed.run("result", done_task)
    assert plain.code == 0
    assert f"unverified\nunverified: it {plain.out.partition('unverified: it ')[2]}" in plain.out
    assert f"see: agentq verify {done_task}" in plain.out
    shown = {
        "result": signed.json("result", done_task),
        "wait": signed.json("wait", done_task),
        "inbox": next(one for one in signed.json("inbox") if one["task_id"] == done_task),
        "status": signed.json("status", done_task),
    }
    assert {name: one["verified"] for name, one in shown.items()} == dict.fromkeys(shown, False)
    assert len({one["unverified_because"] for one in shown.values()}) == 1
    for command in ("wait", "inbox", "status"):
        assert f"unverified{' (' if command == 'status' else ': '}it " in signed.ok(command, done_task)


@pytest.mark.promise("unproven-told")
def test_a_worker_that_is_not_trusted_is_told_in_every_answer(signed: Desk, done_task: str) -> None:
    assert signed.json("status", done_task)["unverified_because"] is None
    manifest = json.loads((signed.shared / f"results/{done_task}.json").read_bytes())
    assert signed.json("result", done_task).items() >= manifest.items()
    signed.ok("keys", "revoke", WORKER)
    assert "revoked 20" in signed.json("result", done_task)["unverified_because"]
    assert "completed, unverified" not in signed.ok("status", done_task)
    assert ", unverified (it is signed with the key" in signed.ok("status", done_task)
    assert signed.run("result", done_task).code == 0


def test_a_failed_task_that_is_not_proven_says_so_too(signed: Desk) -> None:
    task_id = signed.task()
    signed.finish(task_id, "failed", reason="It broke.")
    rewrite(signed, f"results/{task_id}.json", reason="Give up.")
    assert signed.run("result", task_id).code == 8
    assert "failed  unverified: it " in signed.run("wait", task_id).out


def test_settings_that_are_written_again_still_require_signatures(desk: Desk) -> None:
    (desk.project / "agentq.toml").write_text("require_signatures = true\n")
    desk.ok("init", "--write", "--force")
    assert "require_signatures = true\n" in (desk.project / "agentq.toml").read_text()


# ---------------------------------------------------------------------- costs


@pytest.mark.parametrize("command", ["submit", "status", "result", "inbox", "verify", "keys"])
def test_without_keys_nothing_of_them_is_imported(desk: Desk, command: str) -> None:
    task_id = desk.task()
    desk.finish(task_id)
    given = {"submit": (*IMPLEMENT, "-i", "Do it."), "keys": ("list",)}.get(command, (task_id,))
    assert not imported(desk, command, *given) & {"cryptography", "rfc8785"}


def test_with_a_key_that_is_what_signs(desk: Desk) -> None:
    desk.ok("keys", "new", "coordinator")
    assert {"cryptography", "rfc8785"} <= imported(desk, "submit", *IMPLEMENT, "-i", "Do it.")


def test_a_manifest_of_an_older_agentq_is_read_as_before(desk: Desk) -> None:
    task_id = desk.task()
    desk.finish(task_id)
    path = desk.shared / f"results/{task_id}.json"
    old = {k: v for k, v in json.loads(path.read_bytes()).items() if k not in ("envelope_sha256", "signature")}
    path.write_text(json.dumps(old))
    assert verify(desk, task_id).code == 0
    assert desk.json("result", task_id)["verified"]
