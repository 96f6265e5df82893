"""A world of gateways that write in the same threads, for searching orders of steps, crashes and lost answers.

A store call, a publish and an append to the log are steps. When nothing goes wrong any more an upkeep that has seen
nothing before looks until nothing is left to be done; then every promise is checked.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Literal, TypeVar, cast

from agentq.agents import Agents
from agentq.artifacts import evidence_prefix
from agentq.commit import completion_of
from agentq.coordinator import Coordinator
from agentq.errors import AgentqError, Conflict, EngineUnavailable, Invalid, NotFound, StoreUnavailable
from agentq.events import Event
from agentq.journal import Journal
from agentq.messages import Chosen, Envelope
from agentq.records import Records
from agentq.threads.papers import End, Version
from agentq.threads.reading import view
from agentq.threads.threads import Threads
from tests.simulation import Actor, Broken, MemoryStore, Stage, Turn

T = TypeVar("T")

THREAD, OTHER = "thr", "thr-other"
AGENTS = ("writer", "checker")
MESSAGE, GROWING, ASKED = "m", "g", "asked"
TASK = f"{ASKED}.writer"
SILENCE = 60.0


@dataclass(frozen=True)
class Poster:
    """Posts a message under the one id that all of them use."""

    text: str = "@writer and @checker, look"
    author: str = "ann"
    thread: str = THREAD


@dataclass(frozen=True)
class Grower:
    """Appends pieces to the growing message, and ends it: through a gateway of its own, under the author's one name."""

    pieces: tuple[str, ...] = ("one ", "two ")
    ends: Literal["completed", "failed"] | None = "completed"


@dataclass(frozen=True)
class Editor:
    """Accepts, declines or replaces what the task proposes."""

    does: Literal["accept", "decline", "describe"] = "accept"


@dataclass(frozen=True)
class Keeper:
    """Looks after the threads so many times while others write; with `silence` it takes authors for gone at once."""

    rounds: int = 2
    silence: bool = False


Role = Poster | Grower | Editor | Keeper


@dataclass(frozen=True)
class Gathering:
    """Who writes, and what goes wrong."""

    roles: tuple[Role, ...]
    turns: tuple[Turn, ...] = ()
    rule: Literal["ask", "accept"] = "ask"
    newcomers: int = 0


class GuardedStore(MemoryStore):
    """One that notices papers of threads that are changed or removed."""

    def put(self, key: str, data: bytes, *, durable: bool = True) -> None:
        if key.startswith(("threads/", "talk/")):
            raise Broken(f"{key} was overwritten")
        super().put(key, data, durable=durable)

    def delete(self, key: str) -> None:
        if key.startswith(("threads/", "talk/")) and "/pieces/" not in key:
            raise Broken(f"{key} was removed")
        super().delete(key)


@dataclass
class Known:
    """What somebody was told, which must be true ever after."""

    posted: list[tuple[Poster, bool]] = field(default_factory=list)
    pieces: list[tuple[int, str]] = field(default_factory=list)
    ends: list[End] = field(default_factory=list)
    versions: list[Version] = field(default_factory=list)
    declined: int = 0


class ThreadsWorld:
    """The gateways of a gathering, over one store and one engine."""

    def __init__(self, gathering: Gathering, threads: type[Threads] = Threads) -> None:
        self.gathering = gathering
        self.stage = Stage(gathering.turns, stalls=False)
        self.objects: dict[str, bytes] = {}
        self.log: list[Event] = []
        self.queue: Counter[str] = Counter()
        self.known = Known()
        self._make = threads
        self._store = GuardedStore(self.objects, seam=self.stage.step)
        self._store.newcomers = gathering.newcomers

    def play(self) -> "ThreadsWorld":
        """Play it to its end; raises Broken."""
        try:
            self._furnish()
            for number, role in enumerate(self.gathering.roles):
                self._add(number, role)
            self.stage.run()
            self.stage.no_more_turns()
            self._add(99, Keeper(rounds=4, silence=True), spared=True)
            self.stage.run()
            while self.stage._land():
                pass
            self._add(100, Keeper(rounds=3, silence=True), spared=True)
            self.stage.run()
            self._check()
        finally:
            self.stage.close()
        return self

    def _furnish(self) -> None:
        """Two threads, a message that grows, and one whose task has ended with a proposal."""
        threads = self._threads(Journal(), GuardedStore(self.objects))
        threads.open("One", "ann", thread_id=THREAD, description="as it was", refinements=self.gathering.rule)
        threads.open("Another", "ann", thread_id=OTHER)
        threads.post(THREAD, "ann", "", message_id=GROWING, state="generating")
        threads.post(THREAD, "ann", "@writer, refine it", message_id=ASKED)
        records = threads.shelf.records
        papers = records.known(TASK)
        decision = b'{"decision": "refine", "why": "clearer", "description": "as it should be"}'
        artifact = records.artifacts.add(
            evidence_prefix(TASK, 1), "decision", decision, suffix=".json", made_by="agent"
        )
        done = completion_of(papers, "completed", by="writer", attempt=1, artifacts=(artifact,), verified=True)
        records.commit(done.model_copy(update={"decided": Chosen(decision="refine", why="clearer")}))

    def _threads(self, journal: Journal, store: MemoryStore | None = None) -> Threads:
        records = Records(store or self._store, journal=journal)
        coordinator = Coordinator(records)
        return self._make(records, _Agents(), lambda request: coordinator.register(request).publish, [])

    def _add(self, process: int, role: Role, *, spared: bool = False) -> None:
        journal = Journal()
        acts: dict[type, Callable[[Threads, Any], None]] = {
            Poster: self._post,
            Grower: self._grow,
            Editor: self._edit,
            Keeper: self._keep,
        }

        def body() -> None:
            threads = self._threads(journal)
            with suppress(StoreUnavailable):
                acts[type(role)](threads, role)
            self._hand_on(threads)

        self.stage.add(Actor(f"{type(role).__name__}-{process}", process, body, spared=spared))

    # ------------------------------------------------------------------ what gateways do

    def _post(self, threads: Threads, role: Poster) -> None:
        with suppress(Conflict):
            posted = threads.post(role.thread, role.author, role.text, message_id=MESSAGE)
            self.known.posted.append((role, posted.new))

    def _grow(self, threads: Threads, role: Grower) -> None:
        offset = 0
        for text in role.pieces:
            with suppress(StoreUnavailable):
                try:
                    after = threads.append(THREAD, GROWING, "ann", offset, text)
                except Conflict:
                    break
                self.known.pieces.append((offset, text))
                offset = after
        if role.ends:
            with suppress(Conflict):
                self.known.ends.append(threads.end(THREAD, GROWING, "ann", role.ends))

    def _edit(self, threads: Threads, role: Editor) -> None:
        with suppress(Conflict):
            if role.does == "accept":
                self.known.versions.append(threads.accept(THREAD, TASK, "bob", 0))
            elif role.does == "describe":
                self.known.versions.append(threads.describe(THREAD, "as bob has it", 0, "bob"))
            else:
                threads.decline(THREAD, TASK, "bob")
                self.known.declined += 1

    def _keep(self, threads: Threads, role: Keeper) -> None:
        for _ in range(role.rounds):
            for thread_id, task_id in list(threads.shelf.owed("accepting")):
                threads.let_through(thread_id, task_id)
            for thread_id, message_id in list(threads.shelf.owed("streaming")):
                if role.silence or threads.shelf.growth(thread_id, message_id)[1]:
                    threads.fail_silent(thread_id, message_id)
            for thread_id, message_id in list(threads.shelf.owed("asking")):
                threads.tell(thread_id, message_id)
                threads.due.append((thread_id, message_id))
            self._hand_on(threads)

    def _hand_on(self, threads: Threads) -> None:
        """What a scribe does beside: publish, tell the log, and remove the marks of what was handed on."""
        due, threads.due = list(dict.fromkeys(threads.due)), []
        for thread_id, message_id in due:
            with suppress(StoreUnavailable, EngineUnavailable):
                for task in threads.ask(thread_id, message_id) or ():
                    self._publish(threads, task)
                self._append(threads.shelf.records.journal)
                threads.settle(thread_id, message_id)
        with suppress(EngineUnavailable):
            self._append(threads.shelf.records.journal)

    def _publish(self, threads: Threads, task: Envelope) -> None:
        self.stage.step(lambda: self.queue.update([task.task_id]), writes=True, error=EngineUnavailable)
        threads.shelf.records.marks.published(task.task_id)

    def _append(self, journal: Journal) -> None:
        events = journal._take()
        if events:
            try:
                self.stage.step(lambda: self.log.extend(events), writes=True, error=EngineUnavailable)
            except EngineUnavailable:
                journal._put_back(events)
                raise

    # ------------------------------------------------------------------ what must be true

    def _check(self) -> None:
        threads = self._threads(Journal(), GuardedStore(self.objects))
        self._check_marks()
        for thread_id in (THREAD, OTHER):
            self._check_messages(threads, thread_id)
        self._check_growing(threads)
        self._check_description(threads)

    def _check_marks(self) -> None:
        """Nothing is left to be done but for messages that never were."""
        for key in self.objects:
            debt, _, rest = key.partition("/")
            thread_id, _, name = rest.partition("/")
            is_there = f"talk/{thread_id}/messages/{name}.json" in self.objects
            if debt in ("asking", "streaming") and is_there:
                raise Broken(f"left behind: {key}")
            if debt == "accepting" and f"results/{name}.json" in self.objects:
                raise Broken(f"left behind: {key}")

    def _check_messages(self, threads: Threads, thread_id: str) -> None:
        """Whoever was told that a message stands finds it; each task that it asks for is in its queue and its own."""
        told = {event.id for event in self.log}
        shown = view(threads.papers(thread_id))
        texts = {one.message_id: one.text for one in shown.messages}
        for role, _ in self.known.posted:
            if role.thread == thread_id and texts.get(MESSAGE) != role.text:
                raise Broken(f"{role} was told that it posted")
        if sum(new for role, new in self.known.posted if role.thread == thread_id) > 1:
            raise Broken("two made one message")
        for one in shown.messages:
            if one.message_id == MESSAGE and f"{thread_id}/message_posted/{MESSAGE}" not in told:
                raise Broken("the log was not told of a message")
            if one.task_id and one.answers == MESSAGE:
                self._check_answer(one.task_id, thread_id, one.state)
            for agent in (unasked.agent for unasked in one.not_asked if unasked.agent in AGENTS):
                self._check_not_asked(f"{one.message_id}.{agent}", thread_id)

    def _check_answer(self, task_id: str, thread_id: str, state: str) -> None:
        envelope = Envelope.model_validate_json(self.objects[f"tasks/{task_id}.json"])
        if envelope.labels.get("thread") != thread_id:
            if state != "failed":
                raise Broken(f"{task_id} is another thread's, and its answer is {state}")
        elif not self.queue[task_id]:
            raise Broken(f"{task_id} was never published")

    def _check_not_asked(self, task_id: str, thread_id: str) -> None:
        envelope = Envelope.model_validate_json(self.objects[f"tasks/{task_id}.json"])
        if envelope.labels.get("thread") == thread_id:
            raise Broken(f"{task_id} is this thread's, and was said not to be")

    def _check_growing(self, threads: Threads) -> None:
        """Everybody was told the same end, which holds every piece that was acknowledged, at its offset."""
        end = threads.shelf.ended(THREAD, GROWING)
        if end is None:
            raise Broken("a message grows for ever")
        if any(told != end for told in self.known.ends):
            raise Broken("it ended twice")
        for offset, text in self.known.pieces:
            if end.text[offset : offset + len(text)] != text:
                raise Broken(f"{text!r} at {offset} was acknowledged, and the message is {end.text!r}")
        told = {event.id for event in self.log}
        if f"{THREAD}/message_ended/{GROWING}" not in told:
            raise Broken("the log was not told of its end")
        if end.state == "completed" and any(len(grown.pieces) == 0 for grown in self._growers):
            return
        if any(key.startswith(f"talk/{THREAD}/pieces/{GROWING}/") for key in self.objects) and not self._was_late:
            raise Broken("its pieces were not removed")

    @property
    def _growers(self) -> Sequence[Grower]:
        return [role for role in self.gathering.roles if isinstance(role, Grower)]

    @property
    def _was_late(self) -> bool:
        """Whether a writer may have died, or been given up, just after it put a piece behind the end."""
        return bool(self.stage.trace)

    def _check_description(self, threads: Threads) -> None:
        """Every version that somebody was told of holds; a proposal is one version at most."""
        found = view(threads.papers(THREAD))
        for version in self.known.versions:
            held = threads.shelf.version(THREAD, version.number)
            if held is None or (held.text, held.from_task) != (version.text, version.from_task):
                raise Broken(f"{version} was acknowledged, and it is {held}")
        (proposal,) = (one for one in found.proposals if one.task_id == TASK)
        accepted = any(version.from_task for version in self.known.versions)
        if accepted and proposal.state != "accepted":
            raise Broken(f"it was accepted, and is {proposal.state}")
        if self.known.declined and proposal.state not in ("declined", "accepted"):
            raise Broken(f"it was declined, and is {proposal.state}")
        if found.description.number > 1:
            raise Broken("there are more versions than were made")


class _Agents(Agents):
    """Those of the world."""

    names = AGENTS
    profiles: Any = {}  # noqa: RUF012 - none

    def __init__(self) -> None:
        super().__init__(cast(Any, SimpleNamespace()))

    def check_target(self, agent: str, task_type: str) -> None:
        if agent not in AGENTS:
            raise Invalid(f"there is no agent {agent}")


__all__ = ["AgentqError", "Broken", "Editor", "Gathering", "Grower", "Keeper", "NotFound", "Poster", "ThreadsWorld"]
