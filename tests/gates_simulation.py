"""A few tasks that wait for each other, under orders of steps and faults: gates, plans, approvals and cancels.

What must hold is worked out from the bare objects in the store; nothing here asks `lifecycle` what it means.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache, partial
from types import SimpleNamespace
from typing import Any, Literal, NamedTuple
from unittest import mock

from agentq import sweep as sweep_module
from agentq.coordinator import Coordinator
from agentq.doctor import Findings, ailments, repair
from agentq.errors import AgentqError, Conflict, Invalid, NotFound, StoreUnavailable, Unavailable
from agentq.hands import Hand, Hands
from agentq.lifecycle import derive
from agentq.messages import Completion, Envelope, sha256_hex
from agentq.papers import Approval
from agentq.records import Records
from agentq.settle import publish
from agentq.sweep import Sweep
from agentq.verdict import Start
from tests.simulation import (
    AGENT,
    ENDED,
    LEASE,
    RENEWAL,
    START,
    Actor,
    Basics,
    Broken,
    MemoryStore,
    Plan,
    Theatre,
    patiently,
    run,
)

PLAN = "p"
COORDINATOR = "coordinator"
IRREVERSIBLE = "deploy"
PAUSES = (1.0, 4.0, 11.0, 31.0)

Paper = dict[str, Any]


class Node(NamedTuple):
    """A task of the graph; it needs tasks that stand before it. With `irreversible` its worker demands an approval; an
    `asked` one is run only when what it needs requests changes."""

    name: str
    needs: tuple[str, ...] = ()
    always: bool = False
    approval: bool = False
    irreversible: bool = False
    ttl: float | None = None
    asked: bool = False


class Act(NamedTuple):
    """Somebody does something to a task (by its place in the graph; the one after the last is the plan, if any)."""

    what: Literal["approve", "reject", "cancel", "completed", "failed", "take over", "alter", "lose everything"]
    after: float = 0.0
    target: int = 0


DIAMOND = (Node("a"), Node("b"), Node("c", ("a", "b")), Node("d", ("c",)))


@dataclass(frozen=True)
class Gated(Basics):
    """Who takes part. With `plan` the tasks are those of one plan."""

    tasks: tuple[Node, ...] = DIAMOND
    plan: bool = False
    registered: bool = True
    submitters: int = 0
    foreign: tuple[int, ...] = ()
    forged: tuple[int, ...] = ()
    copies: int = 0
    workers: int = 1
    slots: int = 1
    acts: tuple[Act, ...] = ()
    readers: int = 0
    acknowledge: bool = False
    sweepers: int = 0
    doctor: bool = False


@lru_cache(4096)
def _parsed(data: bytes) -> Any:
    return json.loads(data)


class Model:
    """What the objects in the store say of the tasks of a graph, read by hand."""

    def __init__(self, objects: dict[str, bytes], scenario: Gated) -> None:
        self._objects = objects
        prefix = f"{PLAN}." if scenario.plan else ""
        self.nodes = {f"{prefix}{node.name}": node for node in scenario.tasks}
        self.needs = {task: [f"{prefix}{need}" for need in node.needs] for task, node in self.nodes.items()}

    def paper(self, key: str) -> Paper | None:
        data = self._objects.get(key)
        return None if data is None else _parsed(data)

    def is_registered(self, task: str) -> bool:
        return f"tasks/{task}.json" in self._objects

    def manifest(self, task: str) -> Paper | None:
        return self.paper(f"results/{task}.json")

    def attempts(self, task: str) -> list[tuple[Paper, Paper | None]]:
        """Each attempt's claim or seal, and its end."""
        found = []
        while paper := self.paper(f"attempts/{task}/{len(found) + 1}.json"):
            found.append((paper, self.paper(f"attempts/{task}/{len(found) + 1}.end.json")))
        return found

    def missing(self, task: str) -> list[str]:
        return [need for need in self.needs[task] if self.manifest(need) is None]

    def lost(self, task: str) -> list[Paper]:
        """The results of what it needs to be completed, and is not."""
        found = [self.manifest(need) for need in self.needs[task] if not self.nodes[task].always]
        return [m for m in found if m and m["status"] != "completed"]

    def unasked(self, task: str) -> str | None:
        """How a task ends that nothing of what it needs asks for, None while it may be asked for."""
        node, ended = self.nodes[task], [self.manifest(need) for need in self.needs[task]]
        said = {m["verdict"] if m and m["status"] == "completed" else "?" for m in ended}
        if node.always or not node.asked or said & {"?", "request-changes"}:
            return None
        return "cancelled" if "approve" in said else "failed"

    def needs_approval(self, task: str) -> bool:
        return self.nodes[task].approval or self.paper(f"controls/{task}/approval-demanded.json") is not None

    def digest(self, task: str) -> str | None:
        """What an approval of it has to name, None while that is not known."""
        if self.missing(task) or not self.needs_approval(task):
            return None
        covered = {
            "context": self._digest(_context(task)),
            "envelope": self._digest(f"tasks/{task}.json"),
            "results": {need: self._digest(f"results/{need}.json") for need in self.needs[task]},
        }
        return sha256_hex(json.dumps(covered, sort_keys=True).encode())

    def is_open(self, task: str) -> bool:
        approval = f"controls/{task}/approval-{self.digest(task)}.json"
        return not self.missing(task) and (not self.needs_approval(task) or approval in self._objects)

    def first_open(self, task: str, now: datetime) -> datetime:
        """Since when a task may start that is seen to be open: since it was made, when nothing stood before it."""
        gated = self.needs[task] or self.needs_approval(task)
        return now if gated else _moment((self.paper(f"tasks/{task}.json") or {})["created_at"])

    def state(self, task: str, now: datetime) -> tuple[str, str | None]:
        manifest, attempts = self.manifest(task), self.attempts(task)
        if manifest:
            return manifest["status"], None
        last, end = attempts[-1] if attempts else (None, None)
        if last and last["kind"] == "seal":
            return "pending", None
        if last and not end:
            lease = self.paper(f"attempts/{task}/{len(attempts)}.lease.json") or last
            silence = now - max(_moment(last["at"]), _moment(lease["at"]))
            return ("pending", "lease") if silence > timedelta(seconds=1.5 * LEASE) else ("processing", None)
        if self.missing(task):
            return "pending", "dependencies"
        if end and end["retry_at"] and _moment(end["retry_at"]) > now:
            return "pending", "delayed"
        return "pending", "queued" if self.is_open(task) else "approval"

    def of_plan(self) -> str | None:
        """How the plan ends, None before all its tasks have."""
        ended = [self.manifest(task) for task in self.nodes]
        if not all(ended):
            return None
        statuses = {m["status"] for m in ended if m and not _is_needless(m)}
        return "failed" if statuses & {"failed", "expired"} else "cancelled" if "cancelled" in statuses else "completed"

    def waits_rightly(self, task: str, lost: set[str], now: datetime) -> bool:
        """Whether it may still wait when nothing moves any more: for a person, or for what nobody submitted."""
        if task in lost or not self.is_registered(task):
            return True
        state, waits_for = self.state(task, now)
        if self.paper(f"controls/{task}/cancel.json") or self.lost(task) or self.unasked(task) or state != "pending":
            return False
        return waits_for == "approval" or (
            waits_for == "dependencies" and all(self.waits_rightly(need, lost, now) for need in self.missing(task))
        )

    def _digest(self, key: str) -> str | None:
        data = self._objects.get(key)
        return None if data is None else sha256_hex(data)


def _is_needless(manifest: Paper) -> bool:
    return manifest["status"] == "cancelled" and (manifest["reason"] or "").startswith("not needed: ")


def _context(task: str) -> str:
    return f"notes/{task}.md"


@lru_cache(4096)
def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


class GatedWorld(Theatre[Gated]):
    """The actors of a scenario over a graph of tasks, and the promises that they must keep."""

    irreversible = (IRREVERSIBLE,)

    def __init__(self, scenario: Gated) -> None:
        super().__init__(scenario)
        self.model = Model(self.objects, scenario)
        self.tasks = list(self.model.nodes)
        self.runs: set[tuple[str, int]] = set()
        self.living: dict[tuple[str, int], Actor] = {}
        self.acknowledged: set[str] = set()
        self._told_registered: dict[str, Envelope] = {}
        self._told_ended: list[Completion] = []
        self._told_cancelled: set[str] = set()
        self._told_approved: list[tuple[str, Approval]] = []
        self._written_at: dict[str, float] = {}
        self._opened_at: dict[str, datetime] = {}
        self._open_at: dict[str, float] = {}
        self._states: dict[str, list[tuple[str, str | None]]] = {task: [] for task in self.tasks}
        self._digests: dict[str, list[str | None]] = {task: [] for task in self.tasks}
        self._too_late: set[tuple[str, int]] = set()

    def play(self) -> None:
        class Seen(sweep_module._Seen):
            """By the world's clock."""

            def __init__(seen, mark: tuple[int, int]) -> None:
                super().__init__(mark, self.stage.clock)

        patches = {
            "patiently": _patiently,
            "time": SimpleNamespace(monotonic=lambda: self.stage.clock),
            "_Seen": Seen,
            "log": SimpleNamespace(exception=self._gives_up),
        }
        with mock.patch.multiple(sweep_module, **patches):
            super().play()

    def plan_of(self, task_id: str, attempt: int) -> Plan:
        number = self.tasks.index(task_id) + (attempt - 1) * len(self.tasks)
        plans = self.scenario.plans
        return plans[number] if number < len(plans) else Plan(0, "done")

    # ------------------------------------------------------------------ who takes part

    def _cast(self) -> None:
        plan = self.scenario
        for task in self.tasks:
            self.objects[_context(task)] = b"Version 0."
        if plan.registered:
            self._register_before()
        for task in (self.tasks[number % len(self.tasks)] for number in plan.foreign if not plan.plan):
            self.engine.push(self._foreign(task))
        for task in (self.tasks[number % len(self.tasks)] for number in plan.forged):
            self.engine.push(self._forged(task))
        for number in range(plan.submitters):
            self._add(f"submitter-{number}", self._submit)
        for number in range(plan.workers):
            self._add_worker(f"worker-{number}", slots=plan.slots)
        self._add_worker("steady", slots=1, immortal=True)
        for number, act in enumerate(plan.acts):
            name = _name_of(act, number)
            self._add(name, partial(self._act, name, act), immortal=act.what == "lose everything")
        for number in range(plan.readers):
            self._add(f"reader-{number}", self._read)
        for number in range(plan.sweepers):
            self._add(f"sweeper-{number}", partial(self._sweep, 2, starts=True))
        if plan.doctor:
            self._add("doctor", self._repair, spared=True)

    def _register_before(self) -> None:
        coordinator = Coordinator(self.records)
        for request in self._requests():
            register = partial(coordinator.register_plan, contexts={}) if request.is_group else coordinator.register
            for envelope in register(request).publish:
                self.records.marks.published(envelope.task_id)
                for _ in range(1 + self.scenario.copies):
                    self.engine.push(envelope.to_json())
            self.records.marks.published(request.task_id)
        self._time_passes()

    def _requests(self) -> list[Envelope]:
        """What submitters submit: the plan, or one task after the other."""
        tasks = tuple(self._request(task) for task in self.tasks)
        if not self.scenario.plan:
            return list(tasks)
        given = {"task_id": PLAN, "to": "agentq", "type": "plan", "instructions": "The tasks.", "plan": tasks}
        return [Envelope.model_validate(given | {"reply_to": "results.coordinator"})]

    def _request(self, task: str) -> Envelope:
        node = self.model.nodes[task]
        given = {
            "task_id": task,
            "to": AGENT,
            "type": IRREVERSIBLE if node.irreversible else "implementation",
            "instructions": f"Do {node.name}.",
            "context_ref": self.records.store.ref(_context(task)),
            "depends_on": self.model.needs[task],
            "run_if": "always" if node.always else "changes_requested" if node.asked else "completed",
            "requires_approval": node.approval,
            "ttl_seconds": node.ttl,
        }
        place = {"group": PLAN} if self.scenario.plan else {"reply_to": "results.coordinator"}
        return Envelope.model_validate(given | place)

    def _foreign(self, task: str) -> bytes:
        return json.dumps(json.loads(self._request(task).model_dump_json(by_alias=True, exclude_unset=True))).encode()

    def _forged(self, task: str) -> bytes:
        """A message that passes for a registered one, and asks for less."""
        registered = self._request(task).registered(MemoryStore.url, START)
        less = registered.model_copy(update={"requires_approval": False, "depends_on": (), "ttl_seconds": 77.0})
        return less.to_json()

    # ------------------------------------------------------------------ submitting

    def _submit(self) -> None:
        for request in self._requests():
            for pause in PAUSES:
                with suppress(Unavailable, NotFound):
                    self._submit_one(request)
                    self._told_registered[request.task_id] = request
                    break
                self.stage.sleep(pause)

    def _submit_one(self, request: Envelope) -> None:
        records = self._my_records()
        coordinator = Coordinator(records, is_gone=self._is_gone)
        register = partial(coordinator.register_plan, contexts={}) if request.is_group else coordinator.register
        for envelope in register(request).publish:
            run(publish(records, self.engine, envelope))
            for _ in range(self.scenario.copies):
                self.engine.push(envelope.to_json())
        if request.is_group:
            records.marks.published(request.task_id)

    # ------------------------------------------------------------------ acting by hand

    def _act(self, name: str, act: Act) -> None:
        if act.after:
            self.stage.sleep(act.after)
        targets = [*self.tasks, PLAN] if self.scenario.plan else self.tasks
        target = targets[act.target % len(targets)]
        if act.what == "lose everything":
            with suppress(Unavailable):
                self.engine.lose_everything()
            return
        for pause in PAUSES:
            with suppress(NotFound, Invalid, Conflict, StoreUnavailable):
                self._do(name, act, target)
                return
            if self.model.manifest(target):
                return
            self.stage.sleep(pause)

    def _do(self, name: str, act: Act, target: str) -> None:
        if act.what == "alter":
            self._alter(name, target)
            return
        records = self._my_records()
        hands = Hands(records, is_gone=self._is_gone)
        try:
            if act.what == "approve":
                self._approve(hands, name, target)
            elif act.what == "reject":
                self._was_told(hands.reject(target, name, "no"), "cancelled")
            elif act.what == "cancel":
                self._cancel(hands, name, target)
            else:
                self._end(hands, name, act.what, target)
        finally:
            self._hand_over(records, hands.released)

    def _alter(self, name: str, target: str) -> None:
        """Write its context anew, or as it was at first."""

        def effect() -> None:
            key = _context(target)
            self.objects[key] = f"Version {name}.".encode() if self.objects[key] == b"Version 0." else b"Version 0."
            if target in self.model.nodes:
                self._look_at(target)

        if target in self.model.nodes:
            self.stage.step(effect, writes=True)

    def _approve(self, hands: Hands, name: str, target: str) -> None:
        if target not in self.model.nodes:
            hands.approve(target, name)
            raise Broken("a plan was approved")
        since = len(self._digests[target]) - 1
        approval = hands.approve(target, name)
        if approval.digest not in self._digests[target][max(0, since) :]:
            raise Broken(f"{target} was approved as something that it was not")
        self._told_approved.append((target, approval))

    def _cancel(self, hands: Hands, name: str, target: str) -> None:
        was_registered = self.model.is_registered(target)
        try:
            manifest = hands.cancel(target, name)
        except NotFound:
            if was_registered:
                raise Broken(f"{target} is registered, and said to be unknown") from None
            raise
        except Conflict:
            found = self.model.manifest(target)
            if found is None or found["status"] == "cancelled":
                raise Broken(f"a cancel of {target} is said to be too late, and {found} stands") from None
            raise
        if manifest:
            self._was_told(manifest, "cancelled")
        for task in self.tasks if target == PLAN else (target,):
            if self.model.manifest(task) is None and not self._was_cancelled(task):
                raise Broken(f"{target} is said to be cancelled, and {task} goes on")
        self._told_cancelled.add(target)

    def _end(self, hands: Hands, name: str, what: str, target: str) -> None:
        status = "completed" if what == "take over" else what
        hand = Hand(by=name, status=status, summary="by hand", reason="by hand", report=name.encode())
        self._was_told(hands.end_by_hand(target, hand, take_over=what == "take over"), status, by=name)

    def _was_told(self, manifest: Completion, status: str, by: str | None = None) -> None:
        if manifest.status != status or (by and manifest.from_ != by):
            raise Broken(f"{manifest.task_id} is said to be {status} by {by}, but {manifest.status}: {manifest.from_}")
        self._told_ended.append(manifest)

    def _hand_over(self, records: Records, released: Sequence[Envelope]) -> None:
        with suppress(AgentqError):
            for envelope in released:
                run(publish(records, self.engine, envelope))

    # ------------------------------------------------------------------ reading, sweeping, mending

    def _read(self) -> None:
        records = self._my_records()
        coordinator = Coordinator(records, is_gone=self._is_gone)
        for pause in (0.0, 1.0, 3.0, 8.0, 13.0, 30.0):
            for task in self.tasks:
                with suppress(NotFound):
                    self._ask(coordinator, task)
            with suppress(NotFound):
                ids = [PLAN] if self.scenario.plan else self.tasks
                for ended in patiently(lambda ids=ids: coordinator.wait(ids, 0.0)):
                    self._was_told(ended, ended.status)
            self._hand_over(records, coordinator.released)
            coordinator.released.clear()
            self.stage.sleep(pause)
        unread = patiently(lambda: list(coordinator.inbox(COORDINATOR)))
        for completion in unread:
            self._was_told(completion, completion.status)
            if self.scenario.acknowledge:
                patiently(partial(coordinator.acknowledge, COORDINATOR, completion.task_id))
                self.acknowledged.add(completion.task_id)
        self._hand_over(records, coordinator.released)

    def _ask(self, coordinator: "Coordinator", task: str) -> None:
        since = max(0, len(self._states[task]) - 1)
        status = patiently(lambda: coordinator.status(task))
        said = (status.state, status.waits_for)
        known = self._states[task][since:]
        found_dead = said == ("pending", "lease") and self.stage.dead and ("processing", None) in known
        if said not in known and not found_dead:
            raise Broken(f"status says {said} of {task}, which was only {known} meanwhile")

    def _sweep(self, rounds: int, *, starts: bool = False) -> None:
        process = self.stage.current.process
        claims = self._claims("sweeper", process)

        async def settle(manifest: Completion) -> None:
            self._settle(claims.records, manifest)

        sweep = Sweep(claims.records, self.engine, claims, AGENT, settle)  # type: ignore[arg-type]
        for number in range(rounds):
            with suppress(AgentqError):
                run(sweep.recover() if starts and not number else sweep.round(idle=self._may_lose_messages()))
            self.stage.sleep(LEASE + 2 * RENEWAL + 1)

    def _may_lose_messages(self) -> bool:
        """Whether a task may be in no queue and have no mark, so that only an idle worker finds it."""
        plan = self.scenario
        marks = plan.doctor or any(turn.fault == "late" for turn in plan.turns)
        altered = any(act.what in ("alter", "lose everything") for act in plan.acts)
        return marks or altered or any(node.irreversible for node in plan.tasks)

    def _gives_up(self, *words: object) -> None:
        """A sweep leaves a task alone: there is no reason to, here."""
        self.stage.fail(Broken(f"a sweep broke: {words}"))

    def _repair(self) -> None:
        records = self._my_records()
        with suppress(AgentqError):
            run(repair(records, self.engine, Findings(ailments=list(ailments(records)))))  # type: ignore[arg-type]

    # ------------------------------------------------------------------ promises that hold at every step

    def hands_out(self, start: Start) -> None:
        task, number = start.papers.envelope.task_id, start.claim.attempt
        if (task, number) in self._too_late:
            raise Broken(f"attempt {number} of {task} was claimed after it had a result")

    def starts(self, start: Start) -> None:
        envelope, number = start.papers.envelope, start.claim.attempt
        task = envelope.task_id
        if (task, number) in self.runs:
            raise Broken(f"attempt {number} of {task} runs twice")
        if self.model.nodes[task].irreversible and any(other == task for other, _ in self.runs):
            raise Broken(f"attempt {number} of {task} starts, and an earlier one cannot be undone")
        if envelope.to_json() != self.objects[f"tasks/{task}.json"]:
            raise Broken(f"{task} is not run as it is registered")
        attempts = self.model.attempts(task)
        if attempts[-1][0]["kind"] == "seal" and not attempts[number - 1][1]:
            raise Broken(f"attempt {number} of {task} starts although the task is sealed")
        if not self.scenario.stalls and self._lives_elsewhere(task):
            raise Broken(f"attempt {number} of {task} starts while another one lives")
        self.runs.add((task, number))
        self.living[task, number] = self.stage.current

    def _lives_elsewhere(self, task: str) -> bool:
        for (other, number), actor in self.living.items():
            end = self.model.paper(f"attempts/{task}/{number}.end.json")
            by_hand = end is not None and "taken over by" in end["reason"]
            over = by_hand or actor.process in self.stage.dead or (task, number) in self.unheard
            if other == task and not over:
                return True
        return False

    def ends(self, start: Start, pace: float) -> None:
        task, number = start.papers.envelope.task_id, start.claim.attempt
        del self.living[task, number]
        marks = (f"attempts/{task}/{number}.end.json", f"results/{task}.json", f"controls/{task}/cancel.json")
        over = [self._written_at[key] for key in marks if key in self._written_at]
        if not self.scenario.stalls and over and self.stage.clock - min(over) > 3 * pace:
            raise Broken(f"attempt {number} of {task} goes on although it was lost or cancelled")

    def _observe(self, key: str) -> None:
        self._written_at[key] = self.stage.clock
        self.stage.trace.append(f"{self.stage.clock:g} {self.stage.actor_name}: {key}")
        folder, name = key.split("/", 1)
        task = name.split("/")[0].removesuffix(".json")
        if key == f"results/{PLAN}.json":
            self._check_the_plans_manifest()
        if task not in self.model.nodes:
            return
        if folder == "attempts" and key.rsplit("/", 1)[1].removesuffix(".json").isdigit():
            *earlier, (paper, _) = self.model.attempts(task)
            if any(end is None for _, end in earlier):
                raise Broken(f"attempt {paper['attempt']} of {task} follows one that has not ended")
            self._check_the_claim(task, paper)
        if folder == "results":
            self._check_the_manifest(task)
        self._look_at(task)
        for other, needs in self.model.needs.items():
            if folder == "results" and task in needs:
                self._look_at(other)

    def _time_passes(self) -> None:
        for task in self.tasks:
            self._look_at(task)

    def _look_at(self, task: str) -> None:
        """Whatever was written: what `status` would say is what the objects say, and never goes back."""
        if not self.model.is_registered(task):
            return
        states, digests = self._states[task], self._digests[task]
        if states and states[-1][0] in ENDED:
            return  # its manifest is created once
        if self.model.is_open(task):
            self._open_at[task] = self.stage.clock
            self._opened_at.setdefault(task, self.model.first_open(task, self.now()))
        state, digest = self.model.state(task, self.now()), self.model.digest(task)
        papers = self.records.known(task)
        status = derive(papers, self.now())
        if (status.state, status.waits_for) != state or papers.digest != digest:
            raise Broken(f"{task} is {state} with digest {digest}, and the papers say {status}")
        if not states or states[-1] != state:
            states.append(state)
        if not digests or digests[-1] != digest:
            digests.append(digest)

    def _check_the_claim(self, task: str, paper: Paper) -> None:
        """A number was taken to run it: everything that it waited for was there at that moment."""
        if paper["kind"] == "seal":
            return
        what, clock, steady = f"attempt {paper['attempt']} of {task}", self.stage.clock, not self.scenario.stalls
        if self.model.manifest(task):
            self._too_late.add((task, paper["attempt"]))
        if self.model.missing(task) or self.model.lost(task) or self.model.unasked(task):
            raise Broken(f"{what} is claimed without what it needs")
        open_at = clock if self.model.is_open(task) else self._open_at.get(task)
        if open_at is None or (steady and open_at < clock):
            raise Broken(f"{what} is claimed without an approval of what it is")
        if self.model.nodes[task].irreversible and not self.model.needs_approval(task):
            raise Broken(f"{what} is claimed, cannot be undone, and nobody was asked")
        if steady and self._written_at.get(f"controls/{task}/cancel.json", clock) < clock:
            raise Broken(f"{what} is claimed although the task was cancelled long ago")
        release = self.model.paper(f"controls/{task}/released.json") or self.model.paper(f"tasks/{task}.json") or {}
        start, ttl = _moment(release.get("at") or release["created_at"]), self.model.nodes[task].ttl
        if steady and paper["attempt"] == 1 and ttl and self.now() > start + timedelta(seconds=ttl):
            raise Broken(f"{what} is claimed although its TTL ran out")

    # ------------------------------------------------------------------ what a result may be

    def _check_the_manifest(self, task: str) -> None:
        manifest = self.model.manifest(task) or {}
        number, attempts = manifest["attempt"], self.model.attempts(task)
        paper, end = attempts[number - 1]
        if paper["kind"] == "seal":
            if paper["completion"] != manifest:
                raise Broken(f"the manifest of {task} is not what was sealed")
            self._check_why(task, manifest, attempts)
            return
        ran = (task, number) in self.runs or manifest["status"] == "cancelled"  # just before its agent was started
        if self.name_of(paper["owner"]["started"]) != manifest["from"] or not ran:
            raise Broken(f"the manifest of {task} is not of who ran attempt {number}")
        if manifest["status"] == "cancelled" and not self._was_cancelled(task):
            raise Broken(f"{task} was stopped as cancelled, and nobody asked")
        ended_at = self._written_at.get(f"attempts/{task}/{number}.end.json", self.stage.clock)
        if end and not self.scenario.stalls and ended_at < self.stage.clock:
            raise Broken(f"attempt {number} of {task} was ended long ago, and commits")

    def _check_why(self, task: str, manifest: Paper, attempts: Sequence[tuple[Paper, Paper | None]]) -> None:
        """Whoever seals a task has a reason to, and says it."""
        node, status, reason = self.model.nodes[task], manifest["status"], manifest["reason"] or ""
        ran = any(paper["kind"] == "claim" for paper, _ in attempts)
        counted = sum(end is not None and end["counts"] for _, end in attempts)
        opened, ttl = self._opened_at.get(task), timedelta(seconds=node.ttl or 1e9)
        hands = [_name_of(act, number) for number, act in enumerate(self.scenario.acts)]
        lost, unasked = self.model.lost(task), self.model.unasked(task)
        follows = {"cancelled" if m["status"] == "cancelled" else "failed" for m in lost}
        grounds = {
            "cancelled by ": status == "cancelled" and self._was_cancelled(task),
            "rejected by ": status == "cancelled" and self.model.needs_approval(task),
            "not started within ": status == "expired" and not ran and bool(opened) and self.now() >= opened + ttl,
            "it needs ": status in follows or (status == "failed" and unasked == "failed"),
            "not needed: ": status == "cancelled" and (unasked == "cancelled" or any(map(_is_needless, lost))),
            "tried ": status == "failed" and counted >= self.scenario.max_attempts and manifest["given_up"],
            "not tried again": status == "failed" and node.irreversible and ran and manifest["given_up"],
            "by hand": status in ("completed", "failed") and manifest["from"] in hands,
        }
        if not any(reason.startswith(words) and holds for words, holds in grounds.items()):
            raise Broken(f"{task} is sealed as {status} for no reason: {reason!r}")

    def _was_cancelled(self, task: str) -> bool:
        return f"controls/{task}/cancel.json" in self.objects

    def _check_the_plans_manifest(self) -> None:
        manifest, expected = self.model.manifest(PLAN) or {}, self.model.of_plan()
        if manifest["status"] != expected:
            raise Broken(f"the plan is {manifest['status']}; its tasks make it {expected}")
        ended = [m for task in self.tasks if (m := self.model.manifest(task)) and not _is_needless(m)]
        completed = sum(m["status"] == "completed" for m in ended)
        if not manifest["summary"].startswith(f"{completed} of {len(ended)} "):
            raise Broken(f"the plan sums up wrongly: {manifest['summary']}")
        if manifest["verified"] != (completed == len(ended) and all(m["verified"] for m in ended)):
            raise Broken("the plan is verified, and its tasks are not, or the reverse")

    # ------------------------------------------------------------------ promises that hold at the end

    def _check_before_help(self) -> None:
        """Where nothing fails, nobody has to wait for a sweep."""
        fails = self.scenario.stalls or any(turn.fault for turn in self.scenario.turns)
        if fails or any(act.what in ("alter", "lose everything") for act in self.scenario.acts):
            return
        for task in self.tasks:
            if self.model.manifest(task) is None and not self.model.waits_rightly(task, set(), self.now()):
                raise Broken(f"{task} is left to a sweep: {self.model.state(task, self.now())}")

    def _check_the_end(self) -> None:
        self._check_the_deadlines()
        list(Coordinator(self.records).inbox(COORDINATOR))  # who removes the notes of deadlines that have passed
        forgotten = {task for task in self.tasks if self._was_forgotten(task)}
        for task in self.tasks:
            self._check_the_task(task, forgotten)
        if self.scenario.plan:
            self._check_the_plan()
        self._check_what_is_left()
        self._check_what_people_were_told()
        if self.engine.messages:
            raise Broken(f"{len(self.engine.messages)} messages go round for ever")

    def _check_the_deadlines(self) -> None:
        """Who settles a task forgets its deadline; a second submit, or an opened gate, may note one that passes."""
        for task, node in self.model.nodes.items() if self.scenario.registered else ():
            gated = node.needs or self.model.needs_approval(task)
            noted = any(key.startswith("expiring/") and key.endswith(f"_{task}") for key in self.objects)
            if noted and self.model.manifest(task) and not gated:
                raise Broken(f"the deadline of {task} is left")

    def _was_forgotten(self, task: str) -> bool:
        """A submit died in the very moment in which `doctor` removed its marks: nobody was told of a task."""
        told = self._told_registered.keys() & {task, PLAN} or any(t == task for t, _ in self.runs)
        return self.scenario.doctor and not told and f"open/{task}" not in self.objects

    def _check_the_task(self, task: str, forgotten: set[str]) -> None:
        manifest = self.model.manifest(task)
        if not self.model.is_registered(task):
            if task in self._told_registered:
                raise Broken(f"somebody was told that there is {task}")
            return
        if manifest is None:
            if not self.model.waits_rightly(task, forgotten, self.now()):
                raise Broken(f"{task} is left behind: {self.model.state(task, self.now())}")
            return
        if (self.model.lost(task) or self.model.unasked(task)) and any(t == task for t, _ in self.runs):
            raise Broken(f"{task} was run although {self.model.lost(task)}")
        unread = f"inbox/{COORDINATOR}/{task}.json" in self.objects
        if unread != (not self.scenario.plan) and task not in self.acknowledged:
            raise Broken(f"the inbox {'has' if unread else 'lacks'} {task}")
        if manifest["given_up"] and task not in self.engine.given_up:
            raise Broken(f"{task} was given up without a dead letter")
        if manifest["result_sha256"] and f"results/{task}.md" not in self.objects:
            raise Broken(f"the copy of the report of {task} is missing")

    def _check_the_plan(self) -> None:
        if not self.model.is_registered(PLAN):
            if PLAN in self._told_registered or any(self.model.is_registered(task) for task in self.tasks):
                raise Broken("there are tasks of a plan that there is not")
            return
        if self.model.manifest(PLAN) is None and self._was_forgotten(PLAN):
            return
        if not all(self.model.is_registered(task) for task in self.tasks):
            raise Broken("the plan is registered, and not all its tasks are")
        ended, unread = self.model.manifest(PLAN), f"inbox/{COORDINATOR}/{PLAN}.json" in self.objects
        if (ended and ended["status"]) != self.model.of_plan():
            raise Broken(f"the plan is {ended}, and its tasks make it {self.model.of_plan()}")
        if unread != (ended is not None) and PLAN not in self.acknowledged:
            raise Broken("the inbox has the plan, which has not ended, or lacks it")

    def _check_what_is_left(self) -> None:
        """Nothing reminds of a task that has ended."""
        ended = {task for task in (*self.tasks, PLAN) if self.model.manifest(task)}
        left = [key for key in self.objects if not ended.isdisjoint(self._reminds_of(key))]
        if left:
            raise Broken(f"{left} is left")

    def _reminds_of(self, key: str) -> Iterator[str]:
        folder, *_, name = key.split("/")
        late = any(turn.fault == "late" for turn in self.scenario.turns)
        if folder in ("open", "outbox") or (folder == "waits" and not late):  # nobody looks for a mark that came late
            yield name
        elif folder == "expiring":
            yield name.partition("_")[2]

    def _check_what_people_were_told(self) -> None:
        for task, request in self._told_registered.items():
            registered = self.model.paper(f"tasks/{task}.json")
            if registered is None or registered["request_sha256"] != request.request_digest():
                raise Broken(f"somebody was told that {task} is registered, and it is not")
        for manifest in self._told_ended:
            if manifest.to_json() != self.objects.get(f"results/{manifest.task_id}.json"):
                raise Broken(f"somebody was told another result of {manifest.task_id}: {manifest}")
        for task, approval in self._told_approved:
            if self.model.paper(f"controls/{task}/approval-{approval.digest}.json") is None:
                raise Broken(f"somebody was told that {task} is approved, and it is not")
        for task in self._told_cancelled:
            for member in self.tasks if task == PLAN else (task,):
                if self.model.manifest(member) is None:
                    raise Broken(f"somebody was told that {task} is cancelled, and {member} never ends")
        lost = any(act.what == "lose everything" for act in self.scenario.acts)
        for task in (self.tasks[number % len(self.tasks)] for number in self.scenario.forged if not lost):
            if self._forged(task) not in self.engine.dead_bodies:
                raise Broken(f"a forged message for {task} was not dead-lettered")


async def _patiently(step: Callable[[], Any]) -> Any:
    return patiently(step)


def _name_of(act: Act, number: int) -> str:
    return f"{act.what}-{number}".replace(" ", "-")
