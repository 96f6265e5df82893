"""The API as whoever calls it sees it: the same as the command line, and nothing that the papers do not say."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agentq.errors import Conflict, EngineUnavailable, EvidenceError
from agentq.gateway import blocks, chronicle
from agentq.gateway.blocks import BLOCK
from agentq.gateway.problems import problem_of
from tests import tales
from tests.daemons.harness import until
from tests.desk import Desk
from tests.gateway.serving import Served

TASK = {"to": "implementation-worker", "type": "implementation", "instructions": "Do it."}
PLAN = """plan: report
description: What it would cost.
defaults: {to: review-worker, type: research}
tasks:
  cost: {instructions: Find the costs.}
  sum: {needs: [cost], instructions: Sum it up.}
"""


@pytest.mark.promise("gateway-same")
def test_a_task_that_is_asked_for_is_registered_and_in_its_queue(any_served: Served) -> None:
    made = any_served.post("/api/tasks", TASK | {"id": "fix-17"}).ok(201)

    assert made == {"task_id": "fix-17", "new": True, "state": "pending"}
    assert any_served.desk.waiting() == 1
    assert any_served.get("/api/tasks/fix-17").ok() == any_served.desk.json("status", "fix-17")
    [row] = any_served.get("/api/tasks").ok()["tasks"]
    assert row == any_served.desk.json("list")["tasks"][0]


@pytest.mark.promise("gateway-same")
def test_a_profile_that_was_written_since_it_began_counts(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    late = {"to": "late-worker", "type": "clean", "instructions": "Do it."}
    assert served.post("/api/tasks", late).problem(400)
    profile = tmp_path / "workers" / "late-worker" / "worker.toml"
    profile.parent.mkdir(parents=True)
    profile.write_text('agent = "late-worker"\ntypes = ["clean", "mention"]\n[runner]\ncommand = ["true"]\n')
    (profile.parent / "prompt.md").write_text("You clean.\n")

    assert served.post("/api/tasks", late).ok(201)["state"] == "pending"
    served.post("/api/threads", {"id": "t", "title": "A thread"}).ok(201)
    said = served.post("/api/threads/t/messages", {"text": "@late-worker hello"}).ok(201)
    assert [ask["agent"] for ask in said["message"]["asks"]] == ["late-worker"]

    profile.write_text(profile.read_text().replace("types", 'irreversible = ["clean"]\ntypes'))
    assert served.post("/api/tasks", late).ok(201)["state"] == "pending"
    assert [row["task_id"] for row in served.get("/api/tasks?state=approval").ok()["tasks"]]


@pytest.mark.promise("gateway-same")
def test_a_repeated_request_gets_the_same_task(served: Served) -> None:
    first = served.post("/api/tasks", TASK, Idempotency_Key="abc").ok(201)
    again = served.post("/api/tasks", TASK, Idempotency_Key="abc").ok(200)
    other = served.post("/api/tasks", TASK, Idempotency_Key="abd").ok(201)
    changed = served.post("/api/tasks", TASK | {"instructions": "Do more."}, Idempotency_Key="abc")

    assert (again["task_id"], again["new"]) == (first["task_id"], False)
    assert other["task_id"] != first["task_id"]
    assert changed.problem(409)["type"] == "urn:agentq:conflict"
    assert served.desk.waiting() == 2


def test_a_key_that_made_something_else_is_refused_beside_an_id(served: Served) -> None:
    made = served.post("/api/tasks", TASK, Idempotency_Key="abc").ok(201)["task_id"]
    refused = served.post("/api/tasks", TASK | {"id": "fix-17"}, Idempotency_Key="abc").problem(409)

    assert refused["detail"] == f"this Idempotency-Key has made {made} already, and the id says fix-17"
    assert served.get("/api/tasks/fix-17").problem(404)
    assert served.post("/api/tasks", TASK | {"id": made}, Idempotency_Key="abc").ok(200)["task_id"] == made
    both = served.post("/api/tasks", TASK | {"id": "fix-18"}, Idempotency_Key="abd").ok(201)
    assert both == {"task_id": "fix-18", "new": True, "state": "pending"}
    assert not served.post("/api/tasks", TASK | {"id": "fix-18"}, Idempotency_Key="abd").ok(200)["new"]
    served.post("/api/tasks/fix-18/cancel").ok()
    assert served.post("/api/tasks/fix-18/retry", {"id": "fix-19"}, Idempotency_Key="abc").problem(409)
    assert served.post("/api/tasks", TASK | {"id": "fix-19"}, Idempotency_Key="x" * 257).problem(400)


@pytest.mark.promise("gateway-evidence")
def test_a_result_and_its_evidence(served: Served) -> None:
    served.post("/api/tasks", TASK | {"id": "fix-17"}).ok(201)
    assert served.get("/api/tasks/fix-17/result").problem(409)["type"] == "urn:agentq:nothing-yet"
    report = b"0123456789" * 100_000
    served.desk.finish("fix-17", evidence={"report": report})

    assert served.get("/api/tasks/fix-17/result").ok() == served.desk.json("result", "fix-17")
    [piece] = served.get("/api/tasks/fix-17/artifacts").ok()["artifacts"]
    assert (piece["name"], piece["bytes"]) == ("report", len(report))
    whole = served.get("/api/tasks/fix-17/artifacts/report")
    assert (whole.status, whole.body) == (200, report)
    assert whole.headers["content-type"] == "text/plain; charset=utf-8"
    assert whole.headers["content-disposition"].startswith("attachment;")
    assert "sandbox" in whole.headers["content-security-policy"]


@pytest.mark.promise("gateway-evidence")
@pytest.mark.parametrize(
    ("asked", "status", "part", "said"),
    [
        ("bytes=0-3", 206, slice(0, 4), "bytes 0-3/1000"),
        ("bytes=998-", 206, slice(998, 1000), "bytes 998-999/1000"),
        ("bytes=-5", 206, slice(995, 1000), "bytes 995-999/1000"),
        ("bytes=5-1000000", 206, slice(5, 1000), "bytes 5-999/1000"),
        (f"bytes=5-{10**25}", 206, slice(5, 1000), "bytes 5-999/1000"),
        (f"bytes=-{10**25}", 206, slice(0, 1000), "bytes 0-999/1000"),
        ("bytes=1-2,5-6", 200, slice(0, 1000), None),
        ("bytes=5-3", 200, slice(0, 1000), None),
        ("lines=1-2", 200, slice(0, 1000), None),
    ],
)
def test_a_part_of_a_piece(served: Served, asked: str, status: int, part: slice, said: str | None) -> None:
    data = bytes(range(250)) * 4
    served.desk.finish(served.desk.task("--id", "fix-17"), evidence={"report": data})

    reply = served.get("/api/tasks/fix-17/artifacts/report", Range=asked)

    assert (reply.status, reply.body, reply.headers.get("content-range")) == (status, data[part], said)


@pytest.mark.parametrize("said", ["{tag}", "*", "W/{tag}", '"another", {tag}'])
def test_a_piece_that_is_there_already_is_not_sent_again(served: Served, said: str) -> None:
    served.desk.finish(served.desk.task("--id", "fix-17"), evidence={"report": b"ten bytes!"})
    path = "/api/tasks/fix-17/artifacts/report"
    tag = served.get(path).headers["etag"]

    for method in ("GET", "HEAD"):
        asked = {"If-None-Match": said.format(tag=tag), "Range": "bytes=1-2"}
        reply = served.request(method, path, headers=asked)
        assert (reply.status, reply.body, reply.headers["etag"]) == (304, b"", tag)
    assert served.get(path, If_None_Match='"another"').body == b"ten bytes!"
    assert served.get("/api/tasks/fix-17/artifacts/nothing", If_None_Match="*").problem(404)


def test_where_the_store_is_is_not_told_of_a_task_that_there_is_not(served: Served) -> None:
    for path in ("/api/tasks/nope", "/api/tasks/nope/why", "/api/tasks/nope/result"):
        found = served.get(path).problem(404)
        assert (found["detail"], found["hint"]) == ("there is no task nope", "See: GET /api/tasks")
    found = served.get("/api/plans/nope").problem(404)
    assert (found["detail"], found["hint"]) == ("there is no plan nope", "See: GET /api/tasks?plans=true")
    found = served.post("/api/tasks", TASK | {"id": "fix-17", "after": ["nope"]}).problem(404)
    assert found["detail"] == "nope, which fix-17 is to wait for, is no task"


def test_a_part_that_is_not_there(served: Served) -> None:
    served.desk.finish(served.desk.task("--id", "fix-17"), evidence={"report": b"ten bytes!"})

    reply = served.get("/api/tasks/fix-17/artifacts/report", Range="bytes=10-")

    assert reply.problem(416)
    assert reply.headers["content-range"] == "bytes */10"


@pytest.mark.promise("gateway-evidence")
def test_altered_evidence_is_not_sent(served: Served) -> None:
    manifest = served.desk.finish(served.desk.task("--id", "fix-17"))
    served.desk.path_of(manifest).write_bytes(b"All done?\n")

    assert served.get("/api/tasks/fix-17/artifacts/report").problem(502)["type"] == "urn:agentq:evidence"
    assert served.get("/api/tasks/fix-17/result").problem(502)
    assert served.get("/api/tasks/fix-17/result?check=false").ok()["status"] == "completed"


@pytest.mark.promise("gateway-evidence")
def test_nothing_that_was_altered_after_it_was_checked_is_sent_as_a_part(served: Served) -> None:
    data = bytes(range(256)) * 4096
    manifest = served.desk.finish(served.desk.task("--id", "fix-17"), evidence={"report": data})
    path = "/api/tasks/fix-17/artifacts/report"
    assert served.get(path).body == data
    with served.desk.path_of(manifest).open("r+b") as file:
        file.seek(600_000)
        file.write(b"0123456789")

    assert served.get(path, Range="bytes=1000-1009").body == data[1000:1010]
    for _ in range(2):
        assert served.get(path, Range="bytes=600003-600005").problem(502)
        assert served.request("HEAD", path).status == 502
        assert served.get(path).problem(502)


@pytest.mark.promise("gateway-evidence")
@pytest.mark.parametrize("altered", [b"", b"too short", bytes(600_000)])
def test_what_was_altered_after_it_was_checked_is_not_sent_whole(served: Served, altered: bytes) -> None:
    data = bytes(range(250)) * 2000
    manifest = served.desk.finish(served.desk.task("--id", "fix-17"), evidence={"report": data})
    path = "/api/tasks/fix-17/artifacts/report"
    assert served.request("HEAD", path).status == 200
    served.desk.path_of(manifest).write_bytes(altered)

    assert served.request("HEAD", path).status == 502
    assert served.get(path).problem(502)


@pytest.mark.promise("gateway-evidence")
def test_parts_are_put_together_from_blocks(served: Served) -> None:
    data = os.urandom(2 * BLOCK + 7)
    served.desk.finish(served.desk.task("--id", "fix-17"), evidence={"report": data, "nothing": b""})
    path = "/api/tasks/fix-17/artifacts/report"

    places = (0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK - 1, 2 * BLOCK, 2 * BLOCK + 6)
    for start in places:
        for end in places:
            if start <= end:
                assert served.get(path, Range=f"bytes={start}-{end}").body == data[start : end + 1]
    assert served.get(path.replace("report", "nothing")).body == b""


@pytest.mark.parametrize(("bound", "value"), [("REMEMBERED", 3), ("PIECES", 1)])
def test_what_is_remembered_of_pieces_is_bounded(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, bound: str, value: int
) -> None:
    monkeypatch.setattr(blocks, bound, value)
    artifacts, found = desk.records.artifacts, blocks.Blocks()
    manifest = desk.finish(desk.task(), evidence={name: name.encode() * (BLOCK + 1) for name in "abc"})

    opened = list[str]()
    opening = artifacts.open
    monkeypatch.setattr(artifacts, "open", lambda item: (opened.append(item.name), opening(item))[1])
    for name in ("a", "a", "b", "b", "a"):
        item = manifest.artifact(name)
        assert item
        assert found.known(artifacts, item).size == BLOCK + 1

    assert opened == ["a", "b", "a"]


@pytest.mark.promise("gateway-paths")
@pytest.mark.parametrize("name", ["..%2f..%2f..%2fetc%2fpasswd", "..", "%2fetc%2fpasswd", "report%00", "nothing"])
def test_no_path_is_taken_from_a_client(served: Served, name: str) -> None:
    served.desk.finish(served.desk.task("--id", "fix-17"))

    assert served.get(f"/api/tasks/fix-17/artifacts/{name}").status in (404, 400)
    assert served.get(f"/api/tasks/{name}").status in (404, 400)
    assert served.get(f"/page/{name}").status in (404, 400)


def test_what_is_approved_is_what_was_seen(served: Served) -> None:
    served.post("/api/tasks", TASK | {"id": "risky", "requires_approval": True, "context": "All of it."}).ok(201)
    seen = served.get("/api/tasks/risky/request").ok()

    assert (seen["context"], seen["cut"]) == ("All of it.", False)
    assert seen["envelope"]["instructions"] == "Do it."
    wrong = served.post("/api/tasks/risky/approve", {"digest": "0" * 64})
    assert wrong.problem(409)
    approved = served.post("/api/tasks/risky/approve", {"digest": seen["digest"]}).ok()
    assert approved["by"] == "coordinator"
    assert served.desk.waiting() == 1
    assert served.get("/api/tasks/risky").ok()["waits_for"] == "queued"


def test_a_rejected_task_is_over(served: Served) -> None:
    served.post("/api/tasks", TASK | {"id": "risky", "requires_approval": True}).ok(201)

    rejected = served.post("/api/tasks/risky/reject", {"reason": "Not on a Friday."}).ok()

    assert (rejected["state"], rejected["reason"]) == ("cancelled", "rejected by coordinator: Not on a Friday.")


@pytest.mark.promise("gateway-same")
def test_cancelling_and_asking_again(served: Served) -> None:
    served.post("/api/tasks", TASK | {"id": "fix-17"}).ok(201)

    assert served.post("/api/tasks/fix-17/retry", {}).problem(409)
    assert served.post("/api/tasks/fix-17/cancel", {"reason": "no need"}).ok()["state"] == "cancelled"
    assert served.post("/api/tasks/fix-17/cancel").ok()["state"] == "cancelled"
    assert served.get("/api/tasks/fix-17/why").ok()["state"] == "cancelled"
    again = served.post("/api/tasks/fix-17/retry", {"id": "fix-18"}).ok(201)
    assert (again["task_id"], served.desk.envelope("fix-18").retry_of) == ("fix-18", "fix-17")


def test_a_plan(served: Served) -> None:
    assert served.post("/api/plans", {"plan": PLAN}).ok(201) == {"task_id": "report", "new": True, "state": "pending"}
    assert not served.post("/api/plans", {"plan": PLAN}).ok(200)["new"]
    shown = served.get("/api/plans/report").ok()
    assert shown["description"] == "What it would cost."
    assert [(task["task_id"], task["state"], task["needs"]) for task in shown["tasks"]] == [
        ("report.cost", "pending", []),
        ("report.sum", "pending", ["report.cost"]),
    ]
    assert served.get("/api/tasks?plans=true").ok()["tasks"][0]["members"] == 2


@pytest.mark.promise("gateway-paths")
@pytest.mark.parametrize(
    "part", ["file: {place}", "repo: {folder}/../x", "context_ref: '{store}/access/tokens/x.json'", "repo: ."]
)
def test_a_plan_from_elsewhere_names_no_file_of_this_machine(served: Served, tmp_path: Path, part: str) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("the secret")
    named = part.format(place=secret, folder="..", store=served.desk.store.url)
    text = f"plan: p\ntasks:\n  one: {{to: review-worker, type: research, instructions: Go., {named}}}\n"

    found = served.post("/api/plans", {"plan": text}).problem(400)

    assert "the secret" not in str(found)
    assert not list(served.desk.shared.glob("tasks/*"))


@pytest.mark.promise("gateway-paths")
def test_a_repository_is_named_as_it_is_on_the_workers_machine(served: Served, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc")
    for repo in (f"{tmp_path}/link/x", "/proc/self/cwd", "https://example.org/x.git"):
        made = served.post("/api/tasks", TASK | {"repo": repo, "labels": {"team": "a"}}).ok(201)
        assert served.desk.envelope(made["task_id"]).labels == {"team": "a", "repo": repo}


def test_dead_letters_are_looked_at_retried_and_removed(any_served: Served) -> None:
    desk = any_served.desk
    for name in ("one", "two"):
        desk.task("--id", name)
        desk.bury(desk.envelope(name), "tried 3 times")

    letters = any_served.get("/api/dead-letters").ok()["dead_letters"]
    assert any_served.get("/api/dead-letters?limit=1").ok() == {"dead_letters": letters[:1], "count": 2}
    assert any_served.get("/api/dead-letters?limit=0").ok() == {"dead_letters": [], "count": 2}
    assert sorted(letter["task_id"] for letter in letters) == ["one", "two"]
    first, second = (letter["id"] for letter in letters)
    assert any_served.post(f"/api/dead-letters/{first}/retry").ok()["task_id"] in ("one", "two")
    assert any_served.delete(f"/api/dead-letters/{second}").status == 204
    assert any_served.delete(f"/api/dead-letters/{second}").problem(404)
    assert any_served.get("/api/dead-letters").ok() == {"dead_letters": [], "count": 0}


def test_the_inbox_is_of_whoever_asks(served: Served) -> None:
    ann, bob = served.caller("coordinator", name="ann"), served.caller("coordinator", name="bob")
    ann.post("/api/tasks", TASK | {"id": "fix-17"}).ok(201)
    served.desk.finish("fix-17")

    assert [done["task_id"] for done in ann.get("/api/inbox").ok()] == ["fix-17"]
    assert bob.get("/api/inbox").ok() == []
    assert bob.delete("/api/inbox/fix-17").problem(404)
    assert ann.delete("/api/inbox/fix-17").status == 204
    assert ann.get("/api/inbox").ok() == []


@pytest.mark.promise("gateway-same")
def test_agents_workers_and_figures_are_those_of_the_commands(served: Served) -> None:
    served.desk.task("--id", "fix-17")
    served.desk.task("--id", "fix-18")
    served.desk.ok("complete", "fix-17", "--from", "ann", "--summary", "Did it.")
    served.desk.task("--id", "fix-19")
    served.desk.ok("cancel", "fix-19", "--reason", "No.")

    agents = {one["agent"]: one for one in served.get("/api/agents").ok()["agents"]}
    assert (agents["implementation-worker"]["queued"], agents["implementation-worker"]["up"]) == (1, 0)
    assert "implementation" in agents["implementation-worker"]["types"]
    assert served.get("/api/workers").ok()["workers"] == served.desk.json("workers")["workers"]
    told = served.get("/api/stats?since=1h&by=agent").ok()
    said = served.desk.json("stats", "--since", "1h", "--by", "agent")
    assert told.keys() == said.keys()
    assert told["total"]["completed"] == said["total"]["completed"] == 1
    series = served.get("/api/series?since=1h&points=12").ok()
    ends = ("completed", "failed", "cancelled", "expired")
    assert [sum(series[name]) for name in ends] == [told["total"][name] for name in ends] == [1, 0, 1, 0]
    assert max(series["depth"]) == 2
    assert {len(values) for name, values in series.items() if name != "as_of"} == {12}


def test_what_happened_to_a_task(served: Served) -> None:
    served.post("/api/tasks", TASK | {"id": "fix-17"}).ok(201)
    served.desk.finish("fix-17")

    told = [event["kind"] for event in served.get("/api/tasks/fix-17/events").ok()["events"]]

    assert told[0] == "submitted"
    assert served.get("/api/tasks/nobody/events").problem(404)


def test_what_an_attempt_did_is_told_later_too(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chronicle, "STEPS", 3)
    served.post("/api/tasks", TASK | {"id": "fix-17"}).ok(201)
    steps = [
        tales.event("fix-17", "progress", at, f"1/{at}", attempt=1, data={"text": f"step {at}"}) for at in range(5)
    ]
    served.desk.with_engine(lambda engine: engine.append(steps))

    def told() -> list[str]:
        events = served.get("/api/tasks/fix-17/events").ok()["events"]
        return [event["data"]["text"] for event in events if event["kind"] == "progress"]

    assert until(lambda: (found := told())[-1:] == ["step 4"] and found) == ["step 2", "step 3", "step 4"]


@pytest.mark.promise("gateway-evidence")
def test_the_output_says_that_it_ends_and_what_of_its_end_was_left_out(served: Served) -> None:
    served.post("/api/tasks", TASK | {"id": "fix-17"}).ok(201)
    printed = (
        ("0", {"text": "before\n", "offset": 0, "left_out": 0}),
        ("whole", {"whole": True, "bytes": 90, "left_out": 83}),
    )
    events = [
        tales.event("fix-17", "output", at, f"1/{name}", attempt=1, data=data)
        for at, (name, data) in enumerate(printed)
    ]
    served.desk.with_engine(lambda engine: engine.append(events))

    pieces = until(lambda: (found := served.get("/api/tasks/fix-17/output").ok()["pieces"])[1:] and found)

    assert pieces == [
        {"attempt": 1, "offset": 0, "text": "before\n", "left_out": 0, "whole": False},
        {"attempt": 1, "offset": 90, "text": "", "left_out": 83, "whole": True},
    ]


def test_lists_are_filtered_and_go_on(served: Served) -> None:
    for number in range(5):
        served.post("/api/tasks", TASK | {"id": f"fix-{number}", "labels": {"odd": str(number % 2)}}).ok(201)
    served.post("/api/tasks/fix-0/cancel").ok()

    first = served.get("/api/tasks?limit=2&state=open").ok()
    rest = served.get(f"/api/tasks?limit=10&state=open&before={first['next']}").ok()
    assert [row["task_id"] for row in (*first["tasks"], *rest["tasks"])] == ["fix-4", "fix-3", "fix-2", "fix-1"]
    odd = served.get("/api/tasks?label=odd%3D1&state=open&state=ended").ok()["tasks"]
    assert [row["task_id"] for row in odd] == ["fix-3", "fix-1"]
    assert served.get("/api/tasks?text=fix-0").ok()["tasks"][0]["state"] == "cancelled"
    for wrong in (
        "state=odd",
        "state=",
        "limit=0",
        "limit=x",
        "since=yesterday",
        "nothing=1",
        "agent=a&agent=b",
        "text=--",
    ):
        assert served.get(f"/api/tasks?{wrong}").problem(400)["hint"]


def test_hints_name_what_a_client_of_the_api_can_do(served: Served) -> None:
    risky, approving = {"requires_approval": True}, {"digest": "0" * 12}
    for name, more in {"one": {}, "two": {}, "risky": risky, "later": risky | {"after": ["one", "two"]}}.items():
        served.post("/api/tasks", TASK | {"id": name} | more).ok(201)
    served.desk.finish(served.desk.task("--id", "done"))
    served.post("/api/tasks", TASK | {"id": "lost"}).ok(201)
    served.post("/api/tasks", TASK | {"id": "waiting", "after": ["lost"]}).ok(201)
    served.post("/api/tasks/lost/cancel").ok()
    served.post("/api/tasks", TASK | {"id": "loop", "review_by": "review-worker"}).ok(201)
    served.post("/api/plans", {"plan": PLAN}).ok(201)
    for group in ("loop", "report"):
        served.post(f"/api/tasks/{group}/cancel").ok()
    served.post("/api/threads", {"title": "A trip", "id": "trip"}).ok(201)
    served.desk.bury(served.desk.envelope("one").model_copy(update={"instructions": "Something else."}))
    [letter] = served.get("/api/dead-letters").ok()["dead_letters"]

    hints = {
        "GET /api/tasks?before=nope": "Go on below a task that is in the list.",
        "GET /api/tasks?since=1h&until=2h": "Exchange its beginning and its end.",
        "GET /api/tasks/one/result": "Wait for it: subscribe to /tasks/one",
        "GET /api/threads/nope": "See: GET /api/threads",
        "POST /api/threads/trip/messages/m/end": "See: GET /api/threads/trip",
        "POST /api/tasks/risky/approve": "Look at it again: GET /api/tasks/risky/why",
        "POST /api/tasks/later/approve": "Approve it when they have ended: subscribe to /tasks/one and /tasks/two",
        "POST /api/tasks/one/approve": "See what it waits for: GET /api/tasks/one/why",
        "POST /api/tasks/done/approve": "See: GET /api/tasks/done/result",
        "POST /api/tasks/done/cancel": "Its result stands: GET /api/tasks/done/result",
        "POST /api/tasks/one/retry": "See: GET /api/tasks/one",
        "POST /api/tasks/waiting/retry": 'Retry lost first, then submit this one anew with "after" its new id.',
        "POST /api/tasks/loop/retry": "Submit it again under another id: POST /api/tasks.",
        "POST /api/tasks/report/retry": "Submit its file under another id: POST /api/plans.",
        f"POST /api/dead-letters/{letter['id']}/retry": "Submit it under another id: GET /api/dead-letters prints its"
        " body.",
    }
    bodies = {"approve": approving, "end": {"state": "completed"}}
    for request, hint in hints.items():
        method, path = request.split()
        body = None if method == "GET" else bodies.get(path.rpartition("/")[2], {})
        assert served.request(method, path, body).json["hint"] == hint, request
    unnamed = served.post("/api/plans", {"plan": PLAN.replace("plan: report\n", "")}).problem(400)
    assert unnamed["hint"] == 'Write `plan: ID` at the top, or give "id".'
    odd = served.post("/api/plans", {"plan": PLAN.replace("to: review-worker", "to: review-worker, priority: odd")})
    assert odd.problem(400)["hint"] == "See: /openapi.json"


def test_a_hint_that_names_an_option_names_the_field() -> None:
    again = EngineUnavailable("it is away", hint="Nothing is lost: repeat the command with --id a.1, or wait.")
    moved = Conflict("a was moved", hint="Repeat the command with --store s3://b/x")
    gone = EvidenceError("it was collected", hint="Its summary is kept: agentq result a.1. Or submit it: agentq retry.")

    assert problem_of(again)["hint"] == 'Nothing is lost: repeat the request with "id": a.1, or wait.'
    assert problem_of(moved)["hint"] == "Ask a gateway that serves s3://b/x"
    kept = "Its summary is kept: GET /api/tasks/a.1/result. Or submit it: POST /api/tasks/{task_id}/retry."
    assert problem_of(gone)["hint"] == kept


def test_metrics_health_and_who_i_am(served: Served) -> None:
    served.post("/api/tasks", TASK | {"id": "fix-17"}).ok(201)

    assert b'agentq_tasks{agent="implementation-worker",state="queued"} 1.0' in served.get("/metrics").body
    assert served.get("/api/health").ok()["status"] == "ok"
    me = served.get("/api/me").ok()
    assert (me["name"], me["everything"]) == ("coordinator", True)
    observer = served.caller("observer", name="eve")
    assert observer.get("/api/me").ok() == {"name": "eve", "roles": ["observer"], "agent": None, "everything": False}


def test_the_page_is_served_with_what_it_needs(served: Served) -> None:
    page = served.get("/")

    assert (page.status, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert served.get("/page/app.js").headers["content-type"].startswith(("text/javascript", "application/javascript"))
    assert served.get("/page/nothing.js").problem(404)


@pytest.mark.promise("gateway-refuses")
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'"text"',
        b'{"to": "implementation-worker"}',
        b'{"to": "implementation-worker", "type": "implementation", "instructions": "\\ud800"}',
        b'{"to": "implementation-worker", "type": "implementation", "instructions": "x", "paht": 1}',
        b'{"to": "../x", "type": "implementation", "instructions": "x"}',
        b'{"to": "nobody", "type": "implementation", "instructions": "x"}',
        b'{"to": "implementation-worker", "type": "cooking", "instructions": "x"}',
        b'{"to": "implementation-worker", "type": "implementation", "instructions": "x", "repo": "."}',
        b'{"to": "implementation-worker", "type": "implementation", "instructions": "x", "max_cost_usd": NaN}',
        b"[" * 100_000,
        b"\xff\xfe",
    ],
)
def test_bad_input_is_refused_before_anything_is_written(served: Served, body: bytes) -> None:
    found = served.request("POST", "/api/tasks", body, {"Content-Type": "application/json"}).problem(400)

    assert found["detail"]
    assert not list(served.desk.shared.glob("tasks/*"))


def test_secrets_are_refused(served: Served) -> None:
    key = "AKIA" + "IOSFODNN7EXAMPLQ"
    refused = served.post("/api/tasks", TASK | {"instructions": f"Use {key}"}).problem(400)
    assert refused["hint"].endswith('If it is none: "allow_secrets": true')
    assert refused["type"] == "urn:agentq:credential"
    plan = f"plan: p\ntasks:\n  one: {{to: review-worker, type: research, instructions: {key}}}\n  two: {{}}\n"
    refused = served.post("/api/plans", {"plan": plan}).problem(400)
    assert '"allow_secrets": true' in refused["detail"]
    assert refused["type"] == "urn:agentq:invalid", "something else is wrong with it too"
    alone = served.post(
        "/api/plans", {"plan": plan.replace("{}", "{to: review-worker, type: research, instructions: x}")}
    )
    assert alone.problem(400)["type"] == "urn:agentq:credential"
    assert not list(served.desk.shared.glob("tasks/*"))


def test_whoever_asks_at_the_same_time_sees_what_was_just_asked_for(any_served: Served) -> None:
    def both(number: int) -> bool:
        made = any_served.post("/api/tasks", TASK | {"id": f"fix-{number}"}).ok(201)
        rows = any_served.get("/api/tasks?limit=100").ok()["tasks"]
        return made["task_id"] in [row["task_id"] for row in rows]

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(both, range(24)))
