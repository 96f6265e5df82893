"""The worker's daemon: takes deliveries for one agent, carries attempts to their end, drains, sweeps, reconnects."""

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakValueDictionary

from agentq import logs
from agentq.attempt import AttemptRun, Bench
from agentq.claim import Claims, end_of, terms_of
from agentq.credentials import masked
from agentq.deliveries import carry_out
from agentq.engine import Delivery, Engine
from agentq.errors import EngineUnavailable, Invalid, StoreUnavailable, Unavailable
from agentq.messages import Completion, parse_envelope
from agentq.ownership import bury_orphaned, stop_silent, this_process
from agentq.patience import cancelled, patiently, repeated, unless
from agentq.pause import Pause
from agentq.profile import Profile
from agentq.proof import prove
from agentq.records import Records
from agentq.runner import Ran, Runner
from agentq.salvage import end_orphans, salvage
from agentq.sessions import Sessions
from agentq.settle import settle
from agentq.sweep import Sweep
from agentq.telling.presence import Presence
from agentq.telling.pump import Pump
from agentq.tracing import Span, current
from agentq.trust import Senders
from agentq.verdict import LookAgain, Refuse, Start, Verdict

if TYPE_CHECKING:
    from agentq.telling.meter import Meter

log = logging.getLogger("agentq")

LET_GO_SECONDS = 3.0
"""How long a draining worker waits, with no agent running, for an engine or a store that does not answer."""
STOP_SECONDS = 10.0
"""How long a stopped attempt may take, beside its agent's grace, to bring its evidence in and say how it ended."""
TRIES = 3
"""How often a delivery is tried over which this worker breaks."""

T = TypeVar("T")


class Worker:
    """Takes tasks of one agent, `parallel` at a time, until it is told to drain."""

    def __init__(
        self,
        records: Records,
        engine: Engine,
        profile: Profile,
        runner: Runner,
        verifier: Runner | None,
        *,
        data: Path,
        on_ready: Callable[[], None] = lambda: None,
        senders: Senders | None = None,
    ) -> None:
        self._records = records
        self._engine = engine
        self._profile = profile
        self._on_ready = on_ready
        self._claims = Claims(
            records, terms_of(profile, this_process()), is_gone=bury_orphaned, stop_silent=stop_silent, senders=senders
        )
        scratch, repositories = data / "scratch" / profile.agent, data / "repositories"
        sessions = Sessions(data / "sessions" / profile.agent)
        self._bench = Bench(records, engine, runner, verifier, profile, self._claims, sessions, scratch, repositories)
        self._sweep = Sweep(records, engine, self._claims, profile.agent, self._settle)
        self._pump = Pump(records.journal, engine)
        self._presence = Presence(records.journal, engine, profile, records.store, self._at_work)
        self._draining = asyncio.Event()
        self._pause = Pause()
        self._trouble: str | None = None
        self._stopping = False
        self._over = asyncio.Event()
        self._running: set[AttemptRun] = set()
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def run(self) -> None:
        """Work until drained, once nothing is left here of what a dead daemon's agents ran; an engine or store that is
        away is waited for, in the end for a bounded time.

        Raises Invalid, before anything is taken, for a store that lets two hands create one paper; Unavailable, once it
        is drained, when its agent can do nothing here before somebody mends its login or set-up.
        """
        await self._unless_draining(patiently(lambda: self._records.store.url))  # a gateway has to be asked for it
        await self._unless_draining(patiently(functools.partial(prove, self._records.store)))
        await self._unless_draining(patiently(functools.partial(end_orphans, self._records, self._bench.scratch)))
        slots = [asyncio.create_task(self._slot()) for _ in range(self._profile.limits.parallel)]
        steps = (self._recover(), self._sweep_forever(), self._pump.run())
        upkeep = [asyncio.create_task(step) for step in steps]
        over, why = asyncio.create_task(self._over.wait()), "broke"
        try:
            ended: asyncio.Future[list[None]] = asyncio.gather(*slots)
            waiting: set[asyncio.Future[Any]] = {ended, over}
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                ended.result()
                why = "stopped" if self._stopping else "drained"
            else:
                why = "did not wait any longer"
                log.warning("ended without waiting any longer; what is left is healed by the next worker")
        finally:
            await cancelled(*slots, *upkeep, over)
            await self._presence.down(self._trouble or why)
        if self._trouble:
            raise Unavailable(
                f"{self._profile.agent} can do nothing here: {self._trouble}",
                hint="Mend its login or its settings as its user, then start the worker again; its tasks wait.",
            )

    def drain(self) -> None:
        """Take nothing new and end when what runs has ended; the second call stops what runs, uncounted."""
        if self._draining.is_set():
            return self.stop()
        self._draining.set()
        log.info("draining: %d running", len(self._running))
        self._presence.draining()
        self._after(LET_GO_SECONDS, self._let_go)
        if seconds := self._profile.limits.drain_seconds:
            self._after(seconds, self.stop)

    def stop(self) -> None:
        """Stop what runs; the attempts end as interrupted, uncounted, and their tasks are released."""
        self._draining.set()
        self._stopping = True
        for attempt in self._running:
            attempt.keeper.ask("drained")
        self._after(self._profile.runner.grace_seconds + STOP_SECONDS, self._over.set)

    @property
    def standing(self) -> str:
        """What it does now, in a few words."""
        until = self._pause.until
        what = "draining" if self._draining.is_set() else f"pausing until {until:%H:%M:%SZ}" if until else "working"
        return f"{what}: {len(self._running)} of {self._profile.limits.parallel} running"

    def meter(self) -> "Meter":
        """What Prometheus collects of this worker, to be made in its event loop."""
        from agentq.telling.meter import Meter

        agent = self._profile.agent
        return Meter(agent, self._records.journal, self._presence, lambda: self._engine.depth(agent))

    def _let_go(self) -> None:
        if not self._running:  # else again when that has ended
            self._over.set()

    def _after(self, seconds: float, step: Callable[[], None]) -> None:
        asyncio.get_running_loop().call_later(seconds, step)

    # ------------------------------------------------------------------ taking

    async def _slot(self) -> None:
        while not self._draining.is_set():
            delivery = await self._next()
            if delivery is not None:
                with logs.about(**_subject(delivery)):
                    await self._handle(delivery)

    async def _next(self) -> Delivery | None:
        """The next delivery, None when draining or a pause began."""
        await self._unless_draining(self._pause.over())
        receive = self._engine_back(lambda: self._engine.receive(self._profile.agent))
        return await self._unless_draining(self._pause.outside(receive))

    async def _unless_draining(self, step: Coroutine[Any, Any, T]) -> T | None:
        """What the step answers, None when draining began first."""
        return await unless(self._draining, step)

    async def _handle(self, delivery: Delivery) -> None:
        """Carry one delivery to where it may be let go of; a delivery that breaks this worker ends as a dead letter."""
        for left in reversed(range(TRIES)):
            try:
                verdict = await self._verdict(delivery)
                return await self._engine_back(functools.partial(self._apply, verdict, delivery))
            except Exception as error:
                log.exception("broke over a delivery; %d more tries", left)
                broke = error
            await asyncio.sleep(self._profile.limits.renew_seconds)
        self._sweep.leave_alone(delivery.body)
        refuse = Refuse(masked(f"the worker broke over it: {type(broke).__name__}: {broke}"))
        await self._engine_back(functools.partial(self._apply, refuse, delivery))

    async def _verdict(self, delivery: Delivery) -> Verdict:
        """What is to be done with a delivery, after its task was tried if it was ours to start."""
        verdict = await self._pick_up(delivery, looked=False)
        if isinstance(verdict, LookAgain):
            await asyncio.sleep(verdict.after)
            verdict = await self._pick_up(delivery, looked=True)
        if not isinstance(verdict, Start):
            return verdict
        envelope, number = verdict.papers.envelope, verdict.claim.attempt
        tell = current().process(envelope, number)
        with tell as span, logs.about(attempt=number, trace_id=logs.trace_id(span.traceparent)):
            return await self._attempt(verdict, delivery, span)

    async def _pick_up(self, delivery: Delivery, *, looked: bool) -> Verdict:
        pick_up = functools.partial(
            self._claims.pick_up,
            delivery.body,
            delivery.guard,
            delivery.published_at,
            looked=looked,
            was_delayed=delivery.was_delayed,
        )
        return await patiently(pick_up)

    async def _attempt(self, start: Start, delivery: Delivery, span: Span) -> Verdict:
        task_id, number = start.papers.envelope.task_id, start.claim.attempt
        log.info("%s: attempt %d started", task_id, number)
        attempt = AttemptRun(self._bench, start, delivery, span)
        self._running.add(attempt)
        if self._stopping:
            attempt.keeper.ask("drained")
        try:
            verdict = await attempt.run()
        except Exception as error:
            log.exception("%s: attempt %d broke", task_id, number)
            span.ended("broke", type(error).__name__, masked(str(error)))
            usage, reason = attempt.keeper.spent, masked(f"the worker broke: {error}")
            end = end_of(start.claim, self._profile.agent, reason, usage=usage)
            await patiently(functools.partial(self._records.end, task_id, end))
            return await patiently(functools.partial(self._claims.decide, task_id, may_start=False))
        else:
            self._heed(attempt.ran)
            return verdict
        finally:
            self._running.discard(attempt)
            if self._draining.is_set():
                self._after(LET_GO_SECONDS, self._let_go)

    def _heed(self, ran: Ran) -> None:
        """What an agent's end means for the tasks after it."""
        if ran.ended == "unusable" and not self._trouble:
            self._trouble = masked(ran.reason or ran.ended)
            log.error("the agent can do nothing here: %s", self._trouble)
            if not self._draining.is_set():
                self.drain()
        elif ran.limited and ran.not_before:
            until = ran.not_before.isoformat(timespec="seconds")
            log.warning("nothing is taken before %s: %s", until, masked(ran.reason or ""))
            self._pause.begin(ran.not_before)

    async def _apply(self, verdict: Verdict, delivery: Delivery) -> None:
        await carry_out(verdict, delivery, self._engine, self._records.journal, self._settle)

    async def _settle(self, manifest: Completion) -> None:
        """Settle a task, tried again from its start; the sweep and a slot that meet over it do it one after the other.

        Another hand may settle it between two tries; a gateway then refuses what was left to be done.
        """
        task_id = manifest.task_id
        step = functools.partial(settle, self._records, self._engine, manifest)
        async with self._turns.setdefault(task_id, asyncio.Lock()):
            with logs.about(task=task_id, attempt=manifest.attempt):
                if await repeated(step, StoreUnavailable, "store"):
                    log.info("%s: %s (attempt %d)", task_id, manifest.status, manifest.attempt)

    # ------------------------------------------------------------------ staying up

    async def _recover(self) -> None:
        """Look at once at what died on this host, then be ready; also when something there cannot be mended."""
        try:
            await self._engine_back(self._sweep.recover)
        except Exception:
            log.exception("not everything could be looked through")
        self._presence.up()
        self._on_ready()
        await self._presence.beat()

    def _at_work(self) -> list[dict[str, object]]:
        """What runs, for the heartbeat."""
        return [attempt.telling.at_work() for attempt in self._running]

    async def _sweep_forever(self) -> None:
        sessions, folder = self._bench.sessions, self._bench.scratch
        salvaging = functools.partial(salvage, self._records, self._profile, sessions, folder)
        while True:
            await self._upkeep(lambda: asyncio.to_thread(salvaging))
            await asyncio.sleep(self._profile.limits.sweep_seconds)
            await self._upkeep(lambda: self._sweep.round(idle=not self._running))

    async def _upkeep(self, step: Callable[[], Awaitable[None]]) -> None:
        try:
            await step()
        except Unavailable as error:
            log.debug("put off until the next sweep: %s", error)
        except Exception:
            log.exception("the sweep broke; it goes on with the next round")

    async def _engine_back(self, step: Callable[[], Awaitable[T]]) -> T:
        """Repeat a step for as long as the engine is unavailable."""
        return await repeated(step, EngineUnavailable, "engine")


def _subject(delivery: Delivery) -> dict[str, object]:
    """What the log lines of a delivery are about."""
    try:
        envelope = parse_envelope(delivery.body)
    except Invalid:
        return {}
    return {"task": envelope.task_id, "trace_id": logs.trace_id(envelope.traceparent)}
