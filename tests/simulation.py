"""A world in one process, for searching interleavings of the protocol.

Every call of an actor on the store or the engine is a step. Actors are threads, but a baton lets exactly one run at a
time, and a list of turns says who goes next, for how many steps, and what fails at the last of them. When the turns
are used up the world runs on without faults until nothing moves any more. Time is a number that moves when nobody has
anything to do (or, where stalls are allowed, whenever a turn says so: then everybody who is about to act stalls).
"""

import itertools
import json
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Generic, Literal, NamedTuple, TypeVar
from unittest import mock

from agentq import claim as claim_module
from agentq import commit as commit_module
from agentq import coordinator as coordinator_module
from agentq import gates as gates_module
from agentq import hands as hands_module
from agentq import settle as settle_module
from agentq import story
from agentq.artifacts import evidence_prefix
from agentq.claim import Claims, Terms, end_of
from agentq.commit import REPORT, commit, completion_of
from agentq.coordinator import Coordinator
from agentq.doctor import Findings, ailments, repair
from agentq.doctor import papers as doctor_module
from agentq.engine import Guard
from agentq.errors import AgentqError, Conflict, EngineUnavailable, NotFound, NothingYet, StoreUnavailable
from agentq.events import Event
from agentq.gateway import paper_rights as rights_module
from agentq.gateway import reach as reach_module
from agentq.gateway.reach import Reach
from agentq.gateway.telling_rights import TellingRights
from agentq.guards import guard_id
from agentq.hands import Hand, Hands
from agentq.journal import Journal
from agentq.keeper import Stop, standing
from agentq.lifecycle import Papers, derive
from agentq.messages import Completion, Envelope, sha256_hex
from agentq.papers import Attempt, Cancel, Claim, Lease, Owner, Seal
from agentq.records import Records
from agentq.settle import settle
from agentq.store import Stored, unwatched
from agentq.verdict import LookAgain, Park, Refuse, Settle, Start, Verdict
from tests.bounded import Bounded, rights_of

T = TypeVar("T")

Fault = Literal["crash-before", "crash-after", "lost-answer", "refused", "late"]
Seam = Callable[..., Any]

MODULES = (
    claim_module,
    commit_module,
    coordinator_module,
    doctor_module,
    gates_module,
    hands_module,
    rights_module,
    settle_module,
)
TASK = "task-1"
AGENT = "implementation-worker"
LEASE, RENEWAL = 20.0, 5.0
START = datetime(2026, 11, 22, 10, 0, tzinfo=UTC)
CANCEL = Cancel(token="cancel", by="canceller", at=START)
ENDED = ("completed", "failed", "cancelled", "expired")


class Crashed(BaseException):
    """The actor's process is gone: nothing after this step happens."""


class Broken(AssertionError):
    """A promise of the protocol was broken."""


# ---------------------------------------------------------------------- the store


def _at_once(effect: Callable[[], T], **_: Any) -> T:
    return effect()


class MemoryStore:
    """A store in a dict; `seam` decides when, whether and how each operation takes place."""

    url = address = place = "memory://store"

    def __init__(
        self, objects: dict[str, bytes] | None = None, *, seam: Seam = _at_once, written: Callable[[str], None] = len
    ) -> None:
        self.objects = {} if objects is None else objects
        self.newcomers = 0
        self._seam = seam
        self._written = written

    def get(self, key: str) -> bytes | None:
        return self._seam(lambda: self.objects.get(key))

    def put_new(self, key: str, data: bytes) -> bool:
        def create() -> bool:
            if key in self.objects:
                return False
            self.objects[key] = data
            self._written(key)
            return True

        return self._seam(create, writes=True)

    def put(self, key: str, data: bytes, *, durable: bool = True) -> None:
        def replace() -> None:
            _must_be_mutable(key)
            self.objects[key] = data
            if key.endswith(".lease.json"):
                self._written(key)

        self._seam(replace, writes=True)

    def put_file(self, key: str, path: Path, *, progress: Callable[[int], None] = unwatched) -> Stored:
        data = path.read_bytes()
        self.put(key, data)
        return Stored(sha256_hex(data), len(data))

    def open(self, key: str) -> BinaryIO | None:
        data = self.get(key)
        return None if data is None else BytesIO(data)

    def delete(self, key: str) -> None:
        def remove() -> None:
            _must_be_mutable(key)
            self.objects.pop(key, None)

        self._seam(remove, writes=True)

    def keys(self, prefix: str) -> Iterator[str]:
        """What stands still is listed; of what comes and goes meanwhile, some is."""
        before = self._seam(lambda: self._below(prefix))
        after = self._seam(lambda: self._below(prefix))
        shown = {key for key in before ^ after if (zlib.crc32(key.encode()) >> self.newcomers) & 1}
        return iter(sorted(before & after | shown))

    def ref(self, key: str) -> str:
        return f"{self.url}/{key}"

    def key(self, ref: str) -> str | None:
        return ref.removeprefix(f"{self.url}/") if ref.startswith(f"{self.url}/") else None

    def remove_temporaries(self, older_than_seconds: float) -> int:
        return 0

    def _below(self, prefix: str) -> set[str]:
        return {key for key in self.objects if key.startswith(prefix)}


def _must_be_mutable(key: str) -> None:
    top, name = key.split("/")[0], key.rsplit("/", 1)[1]
    agreed = top in ("tasks", "results", "attempts", "controls") and name.endswith(".json")
    if agreed and not name.endswith(".lease.json"):
        raise Broken(f"{key} is a paper that is created once")


# ---------------------------------------------------------------------- the baton


class Turn(NamedTuple):
    """Who goes next (of those who can), for how many steps, and what happens at the last of them.

    With `writes` only writes count, so that the turn ends just before one.
    """

    who: int
    steps: int
    fault: Fault | None = None
    writes: bool = False


@dataclass(eq=False)
class Actor:
    """A thread that runs only while it holds the baton; actors of one process crash together.

    An immortal one does not crash, and a spared one does not even meet an outage.
    """

    name: str
    process: int
    body: Callable[[], object]
    immortal: bool = False
    spared: bool = False
    wake: float = 0.0
    ready: Callable[[], bool] | None = None
    finished: bool = False
    baton: threading.Lock = field(default_factory=threading.Lock)
    thread: threading.Thread | None = None

    def __post_init__(self) -> None:
        self.baton.acquire()


class Stage:
    """Hands the baton around, keeps the time, and lets things fail."""

    STEP_LIMIT = 30_000

    def __init__(self, turns: Sequence[Turn], *, stalls: bool) -> None:
        self.clock = 0.0
        self.actors: list[Actor] = []
        self.dead: set[int] = set()
        self.timers: Callable[[], list[float]] = list
        self.on_crash: Callable[[int], None] = lambda process: None
        self.on_time: Callable[[], None] = lambda: None
        self.trace: list[str] = []
        self._turns = iter(turns)
        self._stalls = stalls
        self._current: Actor | None = None
        self._steps_left = 0
        self._fault: Fault | None = None
        self._by_writes = False
        self._in_flight: list[Callable[[], object]] = []
        self._steps = 0
        self._over = False
        self._failure: BaseException | None = None
        self._quiet = threading.Lock()
        self._quiet.acquire()

    @property
    def current(self) -> Actor:
        """Who holds the baton."""
        assert self._current is not None
        return self._current

    @property
    def actor_name(self) -> str:
        """The same, for words; a write that comes late is nobody's."""
        return self._current.name if self._current else "late"

    def add(self, actor: Actor) -> None:
        """Put an actor on the stage; it starts when its turn comes."""
        self.actors.append(actor)
        actor.thread = threading.Thread(target=self._perform, args=(actor,), daemon=True)
        actor.thread.start()

    def run(self) -> None:
        """Let everybody act until nothing moves; raises what broke."""
        self._pass_on()
        if not self._quiet.acquire(timeout=60):
            raise Broken("the baton was lost")
        if self._failure:
            raise self._failure

    def no_more_turns(self) -> None:
        """From now on nobody is interrupted and nothing fails."""
        self._turns = iter(())

    def close(self) -> None:
        """Let every thread end."""
        self._over = True
        for actor in self.actors:
            if actor.thread and actor.thread.is_alive():
                actor.baton.release()
                actor.thread.join(30)
                assert not actor.thread.is_alive(), f"{actor.name} hangs"

    # ------------------------------------------------------------------ what actors call

    def step(self, effect: Callable[[], T], *, writes: bool = False, error: type[AgentqError] = StoreUnavailable) -> T:
        """Take part in the world once: the baton may go round first, and this step may be the one that fails."""
        self._must_live()
        while self._steps_left <= 0 and (writes or not self._by_writes):
            self._yield()
        self._steps += 1
        if self._steps > self.STEP_LIMIT:
            raise Broken("the world does not come to rest")
        counts = writes or not self._by_writes
        self._steps_left -= counts
        fault = self._fault if counts and self._steps_left == 0 else None
        try:
            if fault is None or self.current.spared or (self.current.immortal and fault.startswith("crash")):
                return effect()
            return self._fail(fault, effect, writes, error)
        except Broken as broken:
            self.fail(broken)
            raise

    def fail(self, broken: BaseException) -> None:
        """Tell the main thread what broke, also when an actor swallows it."""
        self._failure = self._failure or broken

    def sleep(self, seconds: float) -> None:
        """Do nothing until that much time has passed."""
        self.current.wake = self.clock + seconds
        self._yield()

    def wait(self, ready: Callable[[], bool]) -> None:
        """Do nothing until something is the case."""
        self._must_live()
        while not ready():
            self.current.ready = ready
            self._yield()
            self.current.ready = None

    # ------------------------------------------------------------------ faults

    def _fail(self, fault: Fault, effect: Callable[[], T], writes: bool, error: type[AgentqError]) -> T:
        self.trace.append(f"{self.current.name}: {fault}")
        if fault == "late" and writes:
            self._in_flight.append(effect)
        elif fault in ("crash-after", "lost-answer") and writes:
            effect()
        if fault.startswith("crash"):
            self._crash()
        raise error(f"simulated: {fault}")

    def _crash(self) -> None:
        self.dead.add(self.current.process)
        self.on_crash(self.current.process)
        raise Crashed

    def _must_live(self) -> None:
        if self._over or self.current.process in self.dead:
            raise Crashed

    # ------------------------------------------------------------------ the baton

    def _perform(self, actor: Actor) -> None:
        actor.baton.acquire()
        try:
            if not self._over:
                actor.body()
        except Crashed:
            pass
        except BaseException as error:  # noqa: BLE001 - whatever broke is told by the main thread
            self.fail(error)
        actor.finished = True
        if not self._over:
            self._pass_on()

    def _yield(self) -> None:
        me = self.current
        if self._pass_on() is not me:
            me.baton.acquire()
        self._must_live()

    def _pass_on(self) -> Actor | None:
        """Choose who goes next and hand the baton over; None when nothing moves any more."""
        previous = self._current
        try:
            chosen = None if self._failure else self._choose()
        except BaseException as error:  # noqa: BLE001 - a late write may break a promise too
            self._failure, chosen = error, None
        self._current = chosen
        if chosen is None:
            self._quiet.release()
        elif chosen is not previous or chosen.finished:
            chosen.baton.release()
        return chosen

    def _choose(self) -> Actor | None:
        while True:
            able = [actor for actor in self.actors if self._is_able(actor)]
            if not able:
                if not self._land() and not self._advance():
                    return None
                continue
            turn = next(self._turns, None)
            if turn is None:
                self._steps_left, self._fault, self._by_writes = self.STEP_LIMIT, None, False
                return self._current if self._current in able else able[0]
            events = [self._land] * bool(self._in_flight) + [self._advance] * self._stalls
            number = turn.who % (len(able) + len(events))
            if number < len(able):
                self._steps_left, self._fault, self._by_writes = turn.steps, turn.fault, turn.writes
                return able[number]
            events[number - len(able)]()

    def _is_able(self, actor: Actor) -> bool:
        if actor.finished:
            return False
        if actor.process in self.dead:
            return True  # to come to its end
        return actor.wake <= self.clock and (actor.ready is None or actor.ready())

    def _land(self) -> bool:
        """Let a write happen whose answer was given up."""
        if not self._in_flight:
            return False
        self._in_flight.pop(0)()
        return True

    def _advance(self) -> bool:
        """Let time pass until something is due."""
        wakes = [actor.wake for actor in self.actors if not actor.finished]
        later = [moment for moment in (*wakes, *self.timers()) if moment > self.clock]
        if not later:
            return False
        self.clock = min(later)
        self.on_time()
        return True


# ---------------------------------------------------------------------- the engine


class Told(Journal):
    """A journal all of whose events are kept in one list; it needs no clock to hand them on."""

    def __init__(self, told: list[Event]) -> None:
        super().__init__()
        self._told = told

    def tell(self, *events: Event) -> None:
        """Keep them, too."""
        self._told += events
        super().tell(*events)

    async def try_to_hand_on(self, engine: Any) -> None:
        """At once."""
        await self.hand_on(engine)


class ToldFromAfar(Told):
    """The same, of a worker whose gateway must keep nothing of that out of the log, nor change it."""

    def __init__(self, told: list[Event], rights: TellingRights) -> None:
        super().__init__(told)
        self._rights = rights

    def tell(self, *events: Event) -> None:
        """Let the gateway look at them first."""
        let_in = self._rights.told(events)
        if let_in != [*events]:
            raise Broken(f"the gateway makes {let_in} of {events}")
        super().tell(*events)


@dataclass(eq=False)
class Message:
    """A message in the queue, parked, or in somebody's hands."""

    body: bytes
    guard: Guard | None = None
    due: float = 0.0
    holder: Actor | None = None
    handed_out: int = 0
    was_delayed: bool = False


class MemoryEngine:
    """A multiset of messages with timers; every method is one step."""

    def __init__(self, stage: Stage) -> None:
        self.messages: list[Message] = []
        self.dead_bodies: list[bytes] = []
        self.given_up: list[str] = []
        self._stage = stage
        stage.timers = lambda: [message.due for message in self.messages if message.holder is None]
        stage.on_crash = self._release_held_by

    def _step(self, effect: Callable[[], T]) -> T:
        return self._stage.step(effect, writes=True, error=EngineUnavailable)

    async def publish(self, envelope: Envelope, *, delay: float = 0.0, guard: Guard | None = None) -> None:
        self._step(lambda: self.push(envelope.to_json(), guard, delay))

    def push(self, body: bytes, guard: Guard | None = None, delay: float = 0.0) -> None:
        """Put any bytes into the queue."""
        self.messages.append(Message(body, guard, self._stage.clock + delay, was_delayed=delay > 0))

    def receive(self) -> Message:
        """Wait for the oldest message that is due."""
        self._stage.wait(lambda: self._next() is not None)
        message = self._next()
        assert message
        message.holder = self._stage.current
        message.handed_out += 1
        return message

    def _next(self) -> Message | None:
        free = (m for m in self.messages if m.holder is None and m.due <= self._stage.clock)
        return next(free, None)

    def ack(self, message: Message) -> None:
        self._step(self._forget(message))

    def refuse(self, message: Message) -> None:
        forget = self._forget(message)

        def move() -> None:
            self.dead_bodies.append(message.body)
            forget()

        self._step(move)

    def _forget(self, message: Message) -> Callable[[], None]:
        """What an acknowledgement does: nothing when that delivery's connection is gone by then."""
        holder, delivery = self._stage.current, message.handed_out

        def forget() -> None:
            if message in self.messages and (message.holder, message.handed_out) == (holder, delivery):
                self.messages.remove(message)

        return forget

    async def append(self, events: Sequence[Event]) -> None:
        """No step: the log decides nothing."""

    async def notify(self, completion: Completion, reply_to: str) -> None:
        self._step(lambda: None)

    async def dead_letter(self, envelope: Envelope, reason: str) -> None:
        self._step(lambda: self.given_up.append(envelope.task_id))

    async def depth(self, agent: str = AGENT) -> int:
        """How many messages wait."""
        return self._step(lambda: sum(m.holder is None and m.due <= self._stage.clock for m in self.messages))

    def lose_everything(self) -> None:
        """Forget every message that nobody holds, as a broker without its disk would."""
        self._step(lambda: self.messages.__setitem__(slice(None), [m for m in self.messages if m.holder]))

    def _release_held_by(self, process: int) -> None:
        for message in self.messages:
            if message.holder and message.holder.process == process:
                message.holder = None


# ---------------------------------------------------------------------- what is simulated


class Plan(NamedTuple):
    """How an attempt goes: for how many renewals its agent runs, how it ends, and how far apart the renewals are."""

    renewals: int
    ending: Literal["done", "failed", "refused", "drained", "approve", "request-changes"]
    pace: float = RENEWAL


class HandPlan(NamedTuple):
    """Somebody ends the task by hand at some moment."""

    after: float
    status: Literal["completed", "failed"]
    take_over: bool


@dataclass(frozen=True)
class Basics:
    """What goes wrong, and how attempts go. Times are seconds.

    With `far` the workers reach the store through a gateway, with a token of their agent.
    """

    turns: tuple[Turn, ...] = ()
    stalls: bool = False
    max_attempts: int = 3
    plans: tuple[Plan, ...] = ()
    same_host: bool = True
    newcomers: int = 0
    far: bool = False


@dataclass(frozen=True)
class Scenario(Basics):
    """Who takes part. Times are seconds."""

    registered: bool = False
    workers: int = 2
    submitters: tuple[Literal["same", "other"], ...] = ("same",)
    foreign: bool = False
    forged: bool = False
    copies: int = 0
    ttl: float | None = None
    reply_to: bool = True
    hands: tuple[HandPlan, ...] = ()
    cancel_after: float | None = None
    lose_after: float | None = None
    slots: int = 1
    reader: bool = True
    acknowledge: bool = False
    sweeper: bool = False
    doctor: bool = False


S = TypeVar("S", bound=Basics)


class Theatre(Generic[S]):
    """One store, one engine, and actors over them; who they are and what they must keep is for a world to say."""

    irreversible: tuple[str, ...] = ()

    def __init__(self, scenario: S) -> None:
        self.scenario = scenario
        self.stage = Stage(scenario.turns, stalls=scenario.stalls)
        self.stage.on_time = self._time_passes
        self.engine = MemoryEngine(self.stage)
        self.objects: dict[str, bytes] = {}
        self.told: list[Event] = []
        self.records = Records(MemoryStore(self.objects))  # the observer's: no steps, no faults
        self.unheard: set[tuple[str, int]] = set()
        """Attempts that may well be taken for dead: they are renewed seldom, and once that did not succeed."""
        self._reach = Reach(self.records)
        self._processes = itertools.count(1)

    def play(self) -> None:
        """Run the scenario to its end and check every promise."""
        with ExitStack() as patched:
            for module in MODULES:
                patched.enter_context(mock.patch.object(module, "utc_now", self.now))
            patched.enter_context(mock.patch("asyncio.to_thread", _in_this_thread))
            patched.enter_context(mock.patch.object(reach_module, "LOOK_SECONDS", 0.0))
            patched.callback(self.stage.close)
            self._cast()
            self.stage.run()
            self._check_before_help()
            self.stage.no_more_turns()
            for _ in range(3):
                self._add("healer", lambda: self._sweep(rounds=4), immortal=True)
                self.stage.run()
            self._check_the_end()

    def now(self) -> datetime:
        return START + timedelta(seconds=self.stage.clock)

    # ------------------------------------------------------------------ what a world says

    def plan_of(self, task_id: str, attempt: int) -> Plan:
        """How that attempt goes."""
        raise NotImplementedError

    def hands_out(self, start: Start) -> None:
        """A claim is handed to its owner, to be run."""

    def starts(self, start: Start) -> None:
        """An agent is started."""

    def ends(self, start: Start, pace: float) -> None:
        """An agent has ended, by itself or because its worker stopped it."""

    def _cast(self) -> None:
        raise NotImplementedError

    def _sweep(self, rounds: int) -> None:
        raise NotImplementedError

    def _observe(self, key: str) -> None:
        """A paper was created."""

    def _time_passes(self) -> None:
        """The clock has moved."""

    def _check_before_help(self) -> None:
        """Nothing moves any more, and no sweep has come to help yet."""

    def _check_the_end(self) -> None:
        raise NotImplementedError

    # ------------------------------------------------------------------ actors and their parts

    def _add(self, name: str, body: Callable[[], object], *, process: int | None = None, **kind: bool) -> None:
        self.stage.add(Actor(name, process or next(self._processes), body, **kind))

    def _add_worker(self, name: str, *, slots: int, immortal: bool = False) -> None:
        process = next(self._processes)
        claims = self._claims(name, process)
        for slot in range(slots):
            self._add(f"{name}.{slot}", lambda: self._work(claims), process=process, immortal=immortal)

    def _my_records(self) -> Records:
        return Records(self._my_store(), journal=Told(self.told))

    def _my_store(self) -> MemoryStore:
        store = MemoryStore(self.objects, seam=self.stage.step, written=self._observe)
        store.newcomers = self.scenario.newcomers
        return store

    def _workers_records(self) -> Records:
        if not self.scenario.far:
            return self._my_records()
        rights = rights_of(AGENT, self.records, self._reach)
        journal = ToldFromAfar(self.told, TellingRights(AGENT, self.records, self._reach))
        return Records(Bounded(self._my_store(), rights, seam=self.stage.step), journal=journal)

    def _claims(self, worker: str, process: int) -> Claims:
        owner = Owner(host="host", pid=process, boot="boot", started=worker)
        terms = Terms(AGENT, owner, (), self.scenario.max_attempts, LEASE, RENEWAL, self.irreversible)
        return Claims(self._workers_records(), terms, is_gone=self._is_gone, now=self.now)

    def name_of(self, worker: str) -> str:
        """What a worker calls itself in its papers: of its agent, where that is asked for, else by its own name."""
        return AGENT if self.scenario.far else worker

    def _is_gone(self, claim: Claim) -> bool:
        return self.scenario.same_host and claim.owner.pid in self.stage.dead

    def _hands(self) -> Hands:
        return Hands(self._my_records(), is_gone=self._is_gone)

    def _coordinator(self) -> Coordinator:
        return Coordinator(self._my_records(), is_gone=self._is_gone)

    # ------------------------------------------------------------------ the worker

    def _work(self, claims: Claims) -> None:
        while True:
            message = self.engine.receive()
            try:
                self._handle(claims, message)
            except EngineUnavailable:  # its connection is gone, and so is the delivery
                message.holder = None

    def _handle(self, claims: Claims, message: Message) -> None:
        looked = False
        while True:
            pick_up = partial(claims.pick_up, was_delayed=message.was_delayed)
            verdict = patiently(partial(pick_up, message.body, message.guard, self.now(), looked))
            if not isinstance(verdict, LookAgain):
                break
            self.stage.sleep(verdict.after)
            looked = True
        if isinstance(verdict, Start):
            verdict = Run(self, claims, verdict, message).run()
        self._apply(claims.records, verdict, message)

    def _apply(self, records: Records, verdict: Verdict, message: Message) -> None:
        if isinstance(verdict, Refuse):
            self.engine.refuse(message)
            return
        if isinstance(verdict, Park):
            publish = self.engine.publish
            patiently(lambda: run(publish(verdict.envelope, delay=verdict.delay, guard=verdict.guard)))
        elif isinstance(verdict, Settle):
            self._settle(records, verdict.manifest)
        self.engine.ack(message)

    def _settle(self, records: Records, manifest: Completion) -> None:
        patiently(lambda: run(settle(records, self.engine, manifest)))


class World(Theatre[Scenario]):
    """The actors of a scenario over one task, and the promises that they must keep."""

    def __init__(self, scenario: Scenario) -> None:
        super().__init__(scenario)
        self.runs: dict[int, Actor] = {}
        self.running: dict[int, Actor] = {}
        self.by_hand: list[Completion] = []
        self.submitted: list[Envelope] = []
        self.acknowledged = False
        self._forged = self._request("forged").model_copy(update={"request_sha256": "0" * 64, "store": MemoryStore.url})
        self._written_at: dict[str, float] = {}
        self._too_late: set[int] = set()
        self._state: str | None = None

    def _cast(self) -> None:
        plan = self.scenario
        if plan.registered:
            self._register_before()
        for content in plan.submitters:
            self._add("submitter", lambda content=content: self._submit(self._request(content)))
        if plan.foreign:
            self.engine.push(self._foreign())
        if plan.forged:
            self.engine.push(self._forged.to_json(), Guard(1, 0, "forged"))
        for number in range(plan.workers):
            self._add_worker(f"worker-{number}", slots=plan.slots)
        self._add_worker("steady", slots=1, immortal=True)
        for number, hand in enumerate(plan.hands):
            self._add(f"hand-{number}", lambda number=number, hand=hand: self._end_by_hand(f"hand-{number}", hand))
        if plan.cancel_after is not None:
            self._add("canceller", self._cancel)
        if plan.lose_after is not None:
            self._add("loser", self._lose, immortal=True)
        if plan.reader:
            self._add("reader", self._read)
        if plan.sweeper:
            self._add("sweeper", lambda: self._sweep(rounds=2))
        if plan.doctor:
            self._add("doctor", self._repair, spared=True)

    def _register_before(self) -> None:
        registered = Coordinator(self.records).register(self._request("same"))
        self.records.marks.published(TASK)
        for _ in range(1 + self.scenario.copies):
            self.engine.push(registered.envelope.to_json())
        self._forge_guards(registered.envelope)

    def _forge_guards(self, envelope: Envelope) -> None:
        """Every guard of the first attempt that somebody can guess who does not know the id of the real one."""
        for counter in range(3 if self.scenario.forged else 0):
            self.engine.push(envelope.to_json(), Guard(1, counter, "forged"), delay=counter * RENEWAL)

    def _request(self, content: str) -> Envelope:
        return Envelope.model_validate(
            {
                "task_id": TASK,
                "to": AGENT,
                "type": "implementation",
                "instructions": f"Do the {content} thing.",
                "reply_to": "results.coordinator" if self.scenario.reply_to else None,
                "ttl_seconds": self.scenario.ttl,
            }
        )

    def _foreign(self) -> bytes:
        """What a producer sends that knows the mission's ten fields only."""
        return json.dumps(json.loads(self._request("same").model_dump_json(by_alias=True, exclude_unset=True))).encode()

    # ------------------------------------------------------------------ submitting, ending by hand, reading

    def _submit(self, request: Envelope) -> None:
        coordinator = self._coordinator()
        for _ in range(3):
            with suppress(StoreUnavailable, EngineUnavailable, Conflict):
                registered = coordinator.register(request)
                if registered.publish:
                    run(self.engine.publish(registered.envelope))
                    for _ in range(self.scenario.copies):
                        self.engine.push(registered.envelope.to_json())
                    self._forge_guards(registered.envelope)
                    coordinator.published(TASK)
                self.submitted.append(request)
                return

    def _end_by_hand(self, name: str, plan: HandPlan) -> None:
        self.stage.sleep(plan.after)
        hand = Hand(by=name, status=plan.status, summary="by hand", reason="by hand", report=name.encode())
        with suppress(NotFound, Conflict, StoreUnavailable):
            self.by_hand.append(self._hands().end_by_hand(TASK, hand, take_over=plan.take_over))

    def _cancel(self) -> None:
        self.stage.sleep(self.scenario.cancel_after or 0.0)
        patiently(lambda: self._my_records().ask_cancel(TASK, CANCEL))

    def _lose(self) -> None:
        self.stage.sleep(self.scenario.lose_after or 0.0)
        with suppress(EngineUnavailable):
            self.engine.lose_everything()

    def _read(self) -> None:
        """Ask for the state again and again, and acknowledge the completion."""
        coordinator, seen = self._coordinator(), ""
        for pause in (0.0, 1.0, 3.0, 8.0, 13.0, 30.0, 60.0):
            with suppress(NotFound):
                state = patiently(lambda: coordinator.status(TASK)).state
                if seen in ENDED and state != seen:
                    raise Broken(f"status said {seen}, then {state}")
                seen = state
            self.stage.sleep(pause)
        with suppress(NotFound, NothingYet):
            result = patiently(lambda: coordinator.result(TASK))
            unread = [completion.task_id for completion in patiently(lambda: list(coordinator.inbox(result.to)))]
            if self.scenario.acknowledge and TASK in unread:
                self.acknowledged = True
                patiently(lambda: coordinator.acknowledge(result.to, TASK))

    def _repair(self) -> None:
        records = self._my_records()
        with suppress(AgentqError):
            run(repair(records, self.engine, Findings(ailments=list(ailments(records)))))

    # ------------------------------------------------------------------ the sweeper

    def _sweep(self, rounds: int) -> None:
        claims = self._claims("sweeper", self.stage.current.process)
        seen: dict[object, float] = {}
        for _ in range(rounds):
            with suppress(AgentqError):
                self._sweep_once(claims, seen)
            self.stage.sleep(LEASE + 2 * RENEWAL + 1)

    def _sweep_once(self, claims: Claims, seen: dict[object, float]) -> None:
        records = claims.records
        for task_id in list(records.marks.unpublished()):
            envelope = records.envelope(task_id)
            if envelope:
                run(self.engine.publish(envelope))
                records.marks.published(task_id)
        empty = run(self.engine.depth()) == 0
        for task_id in list(records.marks.unsettled()):
            self._visit(claims, task_id, seen, empty=empty)

    def _visit(self, claims: Claims, task_id: str, seen: dict[object, float], *, empty: bool) -> None:
        papers = claims.records.papers(task_id)
        if papers is None:
            return
        claim, last = papers.running, papers.last
        mark = (last.number, last.lease.counter if last.lease else 0) if claim and last else "waits"
        stood_still = self.stage.clock - seen.setdefault(mark, self.stage.clock) > LEASE + 2 * RENEWAL
        if claim and stood_still:
            claims.records.end(task_id, end_of(claim, self.name_of("sweeper"), "its worker was silent"))
        verdict = claims.decide(task_id, may_start=False)
        if isinstance(verdict, Settle):
            self._settle(claims.records, verdict.manifest)
        elif verdict == Park(papers.envelope, 0.0, "released") and (claim or (empty and stood_still)):
            run(self.engine.publish(papers.envelope))

    def plan_of(self, task_id: str, attempt: int) -> Plan:
        plans = self.scenario.plans
        return plans[attempt - 1] if attempt <= len(plans) else Plan(0, "done")

    # ------------------------------------------------------------------ promises that hold at every step

    def hands_out(self, start: Start) -> None:
        """A claim is handed to its owner, to be run."""
        if start.claim.attempt in self._too_late:
            raise Broken(f"attempt {start.claim.attempt} was claimed after the task had a result")

    def ends(self, start: Start, pace: float) -> None:
        """An agent has ended, by itself or because its worker stopped it."""
        number = start.claim.attempt
        del self.running[number]
        lost = [self._written_at.get(key) for key in (f"attempts/{TASK}/{number}.end.json", f"results/{TASK}.json")]
        lost_at = min((moment for moment in lost if moment is not None), default=self.stage.clock)
        if not self.scenario.stalls and self.stage.clock - lost_at > 3 * pace:
            raise Broken(f"attempt {number} goes on although it was lost")

    def starts(self, start: Start) -> None:
        """An agent is started."""
        number = start.claim.attempt
        if number in self.runs:
            raise Broken(f"attempt {number} runs twice")
        papers = self.records.papers(TASK)
        own_end = self.records.ended(TASK, number)
        if papers is None or (papers.seal and own_end is None):
            raise Broken(f"attempt {number} starts although the task is sealed")
        earlier = papers.attempts[number - 2].end if number > 1 else None
        if earlier and earlier.retry_at and earlier.retry_at > self.now():
            raise Broken(f"attempt {number} starts before it is due")
        if not self.scenario.stalls:
            for other, actor in self.running.items():
                end = self.records.ended(TASK, other)
                over = actor.process in self.stage.dead or (end and end.by.startswith("hand"))
                if not over and (TASK, other) not in self.unheard:
                    raise Broken(f"attempt {number} starts while attempt {other} lives")
        self.runs[number] = self.running[number] = self.stage.current

    def _observe(self, key: str) -> None:
        """A paper was created: the state may change, but not back."""
        self._written_at[key] = self.stage.clock
        papers = self.records.papers(TASK)
        if papers is None:
            return
        if papers.last and key == f"attempts/{TASK}/{papers.last.number}.json":
            self._check_the_claim(papers.last)
        if papers.manifest and key.startswith("results/"):
            self._check_the_committer(papers.manifest)
        self._observe_state(papers, key)

    def _time_passes(self) -> None:
        papers = self.records.papers(TASK)
        if papers:
            self._observe_state(papers, "time")

    def _observe_state(self, papers: Papers, key: str) -> None:
        state = derive(papers, self.now()).state
        if self._state in ENDED and state != self._state:
            raise Broken(f"the state was {self._state} and is {state}, by {key}")
        if papers.manifest and state != papers.manifest.status:
            raise Broken(f"there is a manifest, and the state is {state}")
        self._state = state

    def _check_the_claim(self, attempt: Attempt) -> None:
        """A number was taken: not for a run when it is known that there is nothing to run."""
        if isinstance(attempt.paper, Seal):
            return
        if self.records.manifest(TASK):
            self._too_late.add(attempt.number)
        cancelled_at = self._written_at.get(f"controls/{TASK}/cancel.json", self.stage.clock)
        if not self.scenario.stalls and cancelled_at < self.stage.clock:
            raise Broken(f"attempt {attempt.number} is claimed although the task was cancelled long ago")

    def _check_the_committer(self, manifest: Completion) -> None:
        """An owner that does not stall looks before it commits."""
        ended_at = self._written_at.get(f"attempts/{TASK}/{manifest.attempt}.end.json", self.stage.clock)
        if not self.scenario.stalls and ended_at < self.stage.clock:
            raise Broken(f"attempt {manifest.attempt} was ended long ago, and commits")

    # ------------------------------------------------------------------ promises that hold at the end

    def _check_the_end(self) -> None:
        papers = self.records.papers(TASK)
        if papers is None:
            self._check_that_nobody_was_promised_anything()
            return
        manifest = papers.manifest
        if manifest is None and self._was_forgotten():
            return
        if manifest is None:
            raise Broken(f"the task never ends: {derive(papers, self.now())}")
        self._check_the_winner(manifest)
        self._check_that_it_is_settled(papers.envelope, manifest)
        self._check_the_attempts(manifest)
        self._check_the_log(papers)
        self._check_what_people_were_told(papers.envelope, manifest)

    def _was_forgotten(self) -> bool:
        """A submit died in the very moment in which `doctor` removed its marks: nobody was told of a task."""
        return self.scenario.doctor and not (self.submitted or self.runs or f"open/{TASK}" in self.objects)

    def _check_that_nobody_was_promised_anything(self) -> None:
        if self.submitted or self.runs or self.by_hand:
            raise Broken("somebody was told that there is a task")

    def _check_the_winner(self, manifest: Completion) -> None:
        paper = self.records.attempts(TASK)[manifest.attempt - 1].paper
        sealed = isinstance(paper, Seal)
        if not (paper.completion == manifest if sealed else self.name_of(paper.owner.started) == manifest.from_):
            raise Broken(f"the manifest is not of who owns attempt {manifest.attempt}")
        if manifest.status == "expired" and self.runs:
            raise Broken("a task that was run has expired")

    def _check_that_it_is_settled(self, envelope: Envelope, manifest: Completion) -> None:
        left = [key for key in (f"open/{TASK}", f"outbox/{TASK}") if key in self.objects]
        if left:
            raise Broken(f"{left} is left")
        unread = f"inbox/{manifest.to}/{TASK}.json" in self.objects
        if not self.acknowledged and unread != bool(envelope.reply_to):
            raise Broken(f"the inbox {'has' if unread else 'lacks'} the completion")
        if manifest.given_up and not self.engine.given_up:
            raise Broken("a task was given up without a dead letter")
        if manifest.artifact(REPORT) and f"results/{TASK}.md" not in self.objects:
            raise Broken("the report's copy is missing")
        if self.engine.messages:
            raise Broken(f"{len(self.engine.messages)} messages go round for ever")

    def _check_the_log(self, papers: Papers) -> None:
        """What was told is what the papers say, and the end was told, whoever crashed."""
        tale = {event.id: event for event in story.story(papers, is_open=False)}
        told = {event.id: event for event in self.told if event.task_id == TASK}
        other = [e for e in told.values() if e.kind not in ("settled", "rejected") and e != tale.get(e.id)]
        if other:
            raise Broken(f"the log tells what no paper says: {other}")
        if missing := {f"{TASK}/{papers.manifest.status}", f"{TASK}/settled"} - told.keys() if papers.manifest else ():
            raise Broken(f"the log was not told {missing}")

    def _check_the_attempts(self, manifest: Completion) -> None:
        attempts = self.records.attempts(TASK)
        if sum(bool(attempt.end and attempt.end.counts) for attempt in attempts) > self.scenario.max_attempts:
            raise Broken("too many attempts")
        for attempt in attempts:
            if isinstance(attempt.paper, Claim) and attempt.paper.owner.pid not in self.stage.dead:
                self._check_a_living_owners(attempt.number, manifest)
        for attempt in attempts[:-1]:
            if attempt.end is None:
                raise Broken(f"attempt {attempt.number} was followed and never ended")

    def _check_a_living_owners(self, number: int, manifest: Completion) -> None:
        end = self.records.ended(TASK, number)
        evidence = f"{evidence_prefix(TASK, number)}report.md" in self.objects
        if number in self.runs and not evidence:
            raise Broken(f"attempt {number} ran and left nothing")
        if number != manifest.attempt and end is None and number in self.runs and not self._was_overtaken(number):
            raise Broken(f"attempt {number} ran, did not win, and was never ended")
        if self.scenario.stalls or end is None or not end.counts or (TASK, number) in self.unheard:
            return
        if "silent" in end.reason or "died" in end.reason:
            raise Broken(f"attempt {number} of a living worker was declared dead: {end.reason}")
        if number not in self.runs:
            raise Broken(f"attempt {number} counts and was never run: {end.reason}")

    def _was_overtaken(self, number: int) -> bool:
        return self.records.taken(TASK, number + 1) or self.scenario.stalls

    def _check_what_people_were_told(self, envelope: Envelope, manifest: Completion) -> None:
        for request in self.submitted:
            if request.request_digest() != envelope.request_sha256:
                raise Broken("somebody was told that another content is registered")
        forged = self._forged.to_json()
        expected = self.scenario.forged and self.scenario.lose_after is None
        if expected and forged not in self.engine.dead_bodies:
            raise Broken("a forged message was not dead-lettered")
        for completion in self.by_hand:
            if completion != manifest or not completion.from_.startswith("hand"):
                raise Broken("somebody was told that it is ended by hand, and it is not")


class Run:
    """What `AttemptRun` does in a worker, one step after the other."""

    def __init__(self, world: Theatre[Any], claims: Claims, start: Start, message: Message) -> None:
        self._world = world
        self._claims = claims
        self._records = claims.records
        self._start = start
        self._task_id = start.papers.envelope.task_id
        self._number = start.claim.attempt
        self._message = message
        self._plan = world.plan_of(self._task_id, self._number)
        self._counter = 0
        self._guard: str | None = None
        self._stop: Stop | None = None

    def run(self) -> Verdict:
        self._world.hands_out(self._start)
        self._look()
        if self._stop is None:
            self._world.starts(self._start)
            for _ in range(self._plan.renewals):
                self._world.stage.sleep(self._plan.pace)
                self._keep()
                if self._stop:
                    break
            self._world.ends(self._start, self._plan.pace)
        return self._finish()

    def _look(self) -> None:
        self._stop = self._stop or patiently(lambda: standing(self._records, self._start))

    def _keep(self) -> None:
        try:
            self._renew()
            self._stop = standing(self._records, self._start)
        except StoreUnavailable:
            if self._plan.pace > LEASE:
                self._world.unheard.add((self._task_id, self._number))
        if self._guard is None and self._stop is None:
            with suppress(AgentqError):
                self._publish_guard()

    def _renew(self) -> None:
        self._counter += 1
        claim = self._start.claim
        lease = Lease(token=claim.token, counter=self._counter, at=self._world.now(), guard=self._guard)
        self._records.renew(self._task_id, self._number, lease)

    def _publish_guard(self) -> None:
        guard = Guard(self._number, self._counter, guard_id(self._start.claim.token))
        run(self._world.engine.publish(self._start.papers.envelope, delay=LEASE, guard=guard))
        self._guard = guard.id
        self._renew()
        self._world.engine.ack(self._message)

    def _finish(self) -> Verdict:
        prefix = evidence_prefix(self._task_id, self._number)
        add = self._records.artifacts.add
        report = patiently(lambda: add(prefix, REPORT, b"# done", suffix=".md", made_by="daemon"))
        self._look()
        if self._stop == "lost":
            return self._decide()
        if self._stop == "cancelled":
            return self._commit("cancelled", report)
        if self._plan.ending == "drained":
            return self._end(counts=False)
        if self._plan.ending == "failed":
            return self._end(counts=True)
        if self._plan.ending in ("approve", "request-changes"):
            return self._commit("completed", report, self._plan.ending)
        return self._commit("completed" if self._plan.ending == "done" else "failed", report)

    def _commit(self, status: Any, report: Any, verdict: str | None = None) -> Verdict:
        by = self._world.name_of(self._start.claim.owner.started)
        papers, artifacts = self._start.papers, (report,)
        completion = completion_of(papers, status, by=by, attempt=self._number, artifacts=artifacts)
        completion = completion.model_copy(update={"verdict": verdict})
        return Settle(patiently(lambda: commit(self._records, completion)))

    def _end(self, *, counts: bool) -> Verdict:
        retry_at = self._world.now() + timedelta(seconds=10) if counts else None
        by, why = self._world.name_of("owner"), self._plan.ending
        end = end_of(self._start.claim, by, why, counts=counts, retry_at=retry_at)
        patiently(lambda: self._records.end(self._task_id, end))
        return self._decide()

    def _decide(self) -> Verdict:
        return patiently(lambda: self._claims.decide(self._task_id, may_start=False))


def patiently(step: Callable[[], T]) -> T:
    """Repeat a step for as long as the store or the engine is away, as a worker does."""
    while True:
        try:
            return step()
        except (StoreUnavailable, EngineUnavailable):
            continue


def run(coroutine: Any) -> Any:
    """Run a coroutine that never really waits."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("it waits")


async def _in_this_thread(function: Callable[..., T], *arguments: Any) -> T:
    return function(*arguments)
