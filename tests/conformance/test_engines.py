"""What every engine does, through the port alone; an instance of an engine stands for a process."""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from agentq.engine import DeadLetter, Engine, Guard
from agentq.messages import ENVELOPE_LIMIT, PRIORITIES, Completion, Envelope, parse_envelope
from tests.conformance.engines import (
    NAMES,
    PATIENCE,
    EngineUnderTest,
    an_envelope,
    another_process,
    drain,
    nothing_waits,
    take,
    task_of,
    under_test,
)

GARBAGE = b"\x00\xff{not json\r\n" + bytes(range(256))
DELAY = 1.2
LATE = 1.5
"""Seconds within which a delayed message must come once it is due."""


@pytest.fixture(params=NAMES)
def system(request: pytest.FixtureRequest) -> EngineUnderTest:
    """The engine under test; of RabbitMQ the namespace is shared, so that most of it is made only once."""
    return under_test(request.param, request, "suite")


@pytest.fixture
async def queue(system: EngineUnderTest) -> AsyncIterator[EngineUnderTest]:
    """The engine under test, with the queues of this test's agent declared."""
    await system.new().declare([system.agent], ["coordinator"])
    yield system
    await system.close()


@pytest.fixture
def engine(queue: EngineUnderTest) -> Engine:
    """An instance."""
    return queue.new()


@pytest.fixture
def other(queue: EngineUnderTest) -> Engine:
    """An instance in another process."""
    return queue.new()


@pytest.fixture
def agent(queue: EngineUnderTest) -> str:
    """An agent that no other test knows."""
    return queue.agent


async def letters_of(engine: Engine, agent: str) -> list[DeadLetter]:
    return [letter for letter in await engine.dead_letters() if letter.agent == agent]


# Messages


async def test_a_message_comes_out_as_it_went_in(engine: Engine, other: Engine, agent: str) -> None:
    sent = an_envelope(agent, labels={"日本": "ünïcödé 🦉"}, somebody_elses={"deep": [1, 2.5, None, "é"]})
    await engine.publish(sent)
    delivery = await take(other, agent)
    assert delivery.body == sent.to_json()
    assert parse_envelope(delivery.body) == sent
    assert delivery.guard is None


async def test_a_message_says_when_it_was_published(engine: Engine, agent: str) -> None:
    await engine.publish(an_envelope(agent))
    published_at = (await take(engine, agent)).published_at
    assert published_at is not None
    assert abs(datetime.now(UTC) - published_at) < timedelta(seconds=PATIENCE)


async def test_the_largest_envelope_fits(engine: Engine, agent: str) -> None:
    small = an_envelope(agent, padding="")
    sent = an_envelope(agent, padding="x" * (ENVELOPE_LIMIT - len(small.to_json())))
    assert len(sent.to_json()) == ENVELOPE_LIMIT
    await engine.publish(sent)
    assert (await take(engine, agent)).body == sent.to_json()


async def test_bytes_of_a_stranger_come_out_as_they_are(queue: EngineUnderTest, engine: Engine, agent: str) -> None:
    await queue.publish_raw(agent, GARBAGE)
    delivery = await take(engine, agent)
    assert (delivery.body, delivery.guard) == (GARBAGE, None)


@pytest.mark.promise("durable-publish")
async def test_a_published_message_outlives_its_publisher(queue: EngineUnderTest, engine: Engine, agent: str) -> None:
    with another_process("publish", queue) as child:
        task = await child.has_done()
        child.kill()
    assert await drain(engine, agent, 1) == [task]


async def test_a_waiting_receiver_is_woken_from_another_process(engine: Engine, other: Engine, agent: str) -> None:
    waiting = asyncio.create_task(take(engine, agent))
    assert await other.depth(agent) == 0  # meanwhile the receiver has begun to wait
    await other.publish(an_envelope(agent))
    assert task_of(await waiting) == "task-1"


async def test_an_agent_gets_its_own_messages_only(engine: Engine, agent: str) -> None:
    stranger = f"{agent}-2"
    await engine.declare([stranger], [])
    await engine.publish(an_envelope(stranger, "theirs", priority="urgent"))
    await engine.publish(an_envelope(agent, "ours"))
    assert await drain(engine, agent, 1) == ["ours"]
    assert await nothing_waits(engine, agent)
    assert await drain(engine, stranger, 1) == ["theirs"]


# Holding


async def test_what_is_held_is_delivered_to_nobody_else(engine: Engine, other: Engine, agent: str) -> None:
    sent = [f"task-{n}" for n in range(30)]
    for task_id in sent:
        await engine.publish(an_envelope(agent, task_id))
    held = [await take(receiver, agent) for _ in range(15) for receiver in (engine, other)]
    assert sorted(map(task_of, held)) == sorted(sent)
    assert await nothing_waits(other, agent)


async def test_several_slots_of_one_process_each_get_one(engine: Engine, other: Engine, agent: str) -> None:
    slots = [asyncio.create_task(take(engine, agent)) for _ in range(3)]
    for n in range(3):
        await other.publish(an_envelope(agent, f"task-{n}"))
    assert {task_of(await slot) for slot in slots} == {"task-0", "task-1", "task-2"}


async def test_closing_gives_back_what_is_held(engine: Engine, other: Engine, agent: str) -> None:
    await engine.publish(an_envelope(agent))
    await take(engine, agent)
    waiting = asyncio.create_task(take(other, agent))
    await engine.close()
    assert task_of(await waiting) == "task-1"


@pytest.mark.promise("none-lost")
async def test_a_killed_process_gives_back_what_it_held(queue: EngineUnderTest, engine: Engine, agent: str) -> None:
    await engine.publish(an_envelope(agent, "held"))
    with another_process("hold", queue) as child:
        assert await child.has_done() == "held"
        assert await nothing_waits(engine, agent)
        child.kill()
    assert await drain(engine, agent, 1) == ["held"]


async def test_what_was_acknowledged_is_gone(engine: Engine, other: Engine, agent: str) -> None:
    await engine.publish(an_envelope(agent))
    await (await take(engine, agent)).ack()
    await engine.close()
    assert await nothing_waits(other, agent)


async def test_acknowledging_twice_is_harmless(engine: Engine, agent: str) -> None:
    await engine.publish(an_envelope(agent, "first"))
    await engine.publish(an_envelope(agent, "second"))
    delivery = await take(engine, agent)
    await delivery.ack()
    await delivery.ack()
    assert await drain(engine, agent, 1) == ["second"]
    assert await nothing_waits(engine, agent)


async def test_acknowledging_after_close_does_nothing(engine: Engine, other: Engine, agent: str) -> None:
    await engine.publish(an_envelope(agent))
    delivery = await take(engine, agent)
    await engine.close()
    await delivery.ack()
    assert await drain(other, agent, 1) == ["task-1"]


async def test_closing_twice_is_harmless(engine: Engine, agent: str) -> None:
    await engine.publish(an_envelope(agent))
    await engine.close()
    await engine.close()


async def test_cancelling_receive_loses_nothing(engine: Engine, other: Engine, agent: str) -> None:
    dice = random.Random(50)
    sent = [f"task-{n}" for n in range(50)]
    publishing = asyncio.create_task(publish_all(other, [an_envelope(agent, task_id) for task_id in sent]))
    got: list[str] = []
    while not publishing.done() or len(got) < len(sent):
        try:
            async with asyncio.timeout(dice.choice((0, 0.001, 0.003, 0.01, 0.05, PATIENCE))):
                delivery = await engine.receive(agent)
        except TimeoutError:
            continue
        got.append(task_of(delivery))
        await delivery.ack()
    await publishing
    assert sorted(got) == sorted(sent)
    assert await nothing_waits(engine, agent)


async def publish_all(engine: Engine, envelopes: list[Envelope]) -> None:
    for envelope in envelopes:
        await engine.publish(envelope)


# Order


@pytest.mark.promise("strict-priority")
async def test_priorities_are_strict_and_each_is_first_in_first_out(engine: Engine, other: Engine, agent: str) -> None:
    """Also behind a backlog, and with a receiver that is busy while it grows."""
    await engine.publish(an_envelope(agent, "busy"))
    busy = await take(engine, agent)
    dice = random.Random(300)
    sent = [an_envelope(agent, f"task-{n}", priority=dice.choice(PRIORITIES)) for n in range(300)]
    await publish_all(other, sent)
    await busy.ack()
    expected = sorted(sent, key=lambda envelope: -PRIORITIES.index(envelope.priority))
    assert await drain(engine, agent, len(sent)) == [envelope.task_id for envelope in expected]


@pytest.mark.promise("strict-priority")
async def test_priorities_are_strict_behind_ten_thousand(engine: Engine, other: Engine, agent: str) -> None:
    """Several publishers at once, so first-in-first-out is what each of them published at one level."""
    await engine.publish(an_envelope(agent, "in-hand"))
    in_hand = await take(engine, agent)
    dice, publishers = random.Random(10_000), 50
    sent = [
        an_envelope(agent, f"{level}.{n % publishers}.{n}", priority=level)
        for n, level in enumerate(dice.choices(PRIORITIES, (94, 2, 2, 2), k=10_000))
    ]
    await asyncio.gather(*(publish_all(other, sent[publisher::publishers]) for publisher in range(publishers)))
    assert await other.depth(agent) == 10_000
    await in_hand.ack()
    above = [level for level in reversed(PRIORITIES) for one in sent if one.priority == level != "low"]
    got = await drain(engine, agent, len(above) + publishers)
    assert [task.split(".")[0] for task in got] == above + ["low"] * publishers
    for level in PRIORITIES:
        for publisher in map(str, range(publishers)):
            came, meant = (
                [task for task in tasks if task.split(".")[:2] == [level, publisher]]
                for tasks in (got, [envelope.task_id for envelope in sent])
            )
            assert came == meant[: len(came)]
    await other.publish(an_envelope(agent, "late", priority="urgent"))
    await other.publish(an_envelope(agent, "guarded", priority="low"), guard=Guard(attempt=1, counter=2, id="guard"))
    assert await drain(engine, agent, 2) == ["guarded", "late"]


@pytest.mark.promise("strict-priority")
async def test_an_urgent_task_comes_next_after_the_one_in_hand(engine: Engine, other: Engine, agent: str) -> None:
    for n in range(5):
        await other.publish(an_envelope(agent, f"task-{n}"))
    in_hand = await take(engine, agent)
    await other.publish(an_envelope(agent, "urgent", priority="urgent"))
    await in_hand.ack()
    assert await drain(engine, agent, 3) == ["urgent", "task-1", "task-2"]


async def test_a_redelivered_message_is_still_the_oldest(engine: Engine, other: Engine, agent: str) -> None:
    await publish_all(engine, [an_envelope(agent, task_id) for task_id in ("first", "second", "third")])
    await take(engine, agent)
    await engine.close()
    assert await drain(other, agent, 3) == ["first", "second", "third"]


async def test_a_guard_comes_before_everything_urgent(engine: Engine, agent: str) -> None:
    guard = Guard(attempt=3, counter=17, id="guard-1")
    await engine.publish(an_envelope(agent, "urgent", priority="urgent"))
    await engine.publish(an_envelope(agent, "guarded", priority="low"), guard=guard)
    first, second = await take(engine, agent), await take(engine, agent)
    assert (task_of(first), first.guard) == ("guarded", guard)
    assert (task_of(second), second.guard) == ("urgent", None)


# Delays


@pytest.mark.promise("delay")
async def test_a_delayed_message_comes_when_it_is_due(engine: Engine, other: Engine, agent: str) -> None:
    start = time.monotonic()
    await other.publish(an_envelope(agent), delay=DELAY)
    published = time.monotonic()
    assert task_of(await take(engine, agent)) == "task-1"
    assert time.monotonic() - start >= DELAY
    assert time.monotonic() - published <= DELAY + LATE


@pytest.mark.promise("delay")
async def test_a_delayed_message_stands_in_nobodys_way(engine: Engine, agent: str) -> None:
    await engine.publish(an_envelope(agent, "later", priority="urgent"), delay=DELAY)
    await engine.publish(an_envelope(agent, "now", priority="low"))
    assert await drain(engine, agent, 2) == ["now", "later"]


async def test_a_shorter_delay_is_over_first(engine: Engine, agent: str) -> None:
    await engine.publish(an_envelope(agent, "long"), delay=3 * DELAY)
    await engine.publish(an_envelope(agent, "short"), delay=DELAY)
    assert await drain(engine, agent, 1) == ["short"]


async def test_a_delayed_guard_comes_back_as_it_was(engine: Engine, agent: str) -> None:
    guard, sent = Guard(attempt=1, counter=2, id="guard-2"), an_envelope(agent)
    await engine.publish(sent, delay=DELAY, guard=guard)
    delivery = await take(engine, agent)
    assert (delivery.body, delivery.guard) == (sent.to_json(), guard)


@pytest.mark.promise("forged-copy")
async def test_a_message_says_whether_it_came_through_a_delay(
    queue: EngineUnderTest, engine: Engine, other: Engine, agent: str
) -> None:
    """Also when it was given back since then, and when nobody knows who put it there."""
    guard = Guard(attempt=1, counter=2, id="guard-3")
    await engine.publish(an_envelope(agent, "direct"))
    await queue.publish_raw(agent, GARBAGE)
    await engine.publish(an_envelope(agent, "guarding"), guard=guard)
    seen = []
    for _ in range(3):
        delivery = await take(engine, agent)
        seen.append(delivery.was_delayed)
        await delivery.ack()
    assert seen == [False] * 3
    await engine.publish(an_envelope(agent, "delayed"), delay=0.3)
    await engine.publish(an_envelope(agent, "guarded"), delay=0.3, guard=guard)
    assert [(await take(engine, agent)).was_delayed for _ in range(2)] == [True, True]
    await engine.close()
    assert [(await take(other, agent)).was_delayed for _ in range(2)] == [True, True]


# Dead letters


@pytest.mark.promise("dead-letters-keep")
async def test_a_delivery_becomes_a_dead_letter_as_it_is(queue: EngineUnderTest, engine: Engine, agent: str) -> None:
    await queue.publish_raw(agent, GARBAGE)
    delivery = await take(engine, agent)
    await delivery.dead_letter("it is no JSON: ü")
    (letter,) = await letters_of(engine, agent)
    assert (letter.body, letter.reason, letter.agent) == (GARBAGE, "it is no JSON: ü", agent)
    assert letter.at is not None
    assert await nothing_waits(engine, agent)


async def test_a_dead_letter_outlives_the_process(engine: Engine, other: Engine, agent: str) -> None:
    sent = an_envelope(agent)
    await engine.publish(sent)
    await (await take(engine, agent)).dead_letter("refused")
    await engine.close()
    (letter,) = await letters_of(other, agent)
    assert (letter.body, letter.task_id) == (sent.to_json(), "task-1")


@pytest.mark.promise("dead-letters-keep")
async def test_looking_at_dead_letters_changes_nothing(queue: EngineUnderTest, engine: Engine, agent: str) -> None:
    await engine.dead_letter(an_envelope(agent, "task-1"), "given up")
    await engine.dead_letter(an_envelope(agent, "task-2"), "given up")
    first = await letters_of(engine, agent)
    for _ in range(queue.looks):
        last = await letters_of(engine, agent)
    assert first == last
    assert [letter.task_id for letter in last] == ["task-1", "task-2"]


async def test_a_task_can_be_given_up(engine: Engine, agent: str) -> None:
    sent = an_envelope(agent, labels={"a": "ä"})
    await engine.dead_letter(sent, "3 attempts failed")
    (letter,) = await letters_of(engine, agent)
    assert (letter.body, letter.reason, letter.task_id) == (sent.to_json(), "3 attempts failed", "task-1")


async def test_only_the_dead_letters_named_are_removed(engine: Engine, other: Engine, agent: str) -> None:
    for n in range(4):
        await engine.dead_letter(an_envelope(agent, f"task-{n}"), "given up")
    letters = await letters_of(engine, agent)
    named = [letters[1].id, "no-such-letter", letters[2].id]
    assert await other.remove_dead_letters(named) == 2
    assert await other.remove_dead_letters(named) == 0
    assert await other.remove_dead_letters([]) == 0
    assert await letters_of(engine, agent) == [letters[0], letters[3]]


@pytest.mark.promise("dead-letters-keep")
async def test_many_dead_letters_are_removed_at_once(engine: Engine, other: Engine, agent: str) -> None:
    kept = an_envelope(agent, "kept")
    await engine.dead_letter(kept, "given up")
    await asyncio.gather(*(engine.dead_letter(an_envelope(agent, f"task-{n}"), "given up") for n in range(500)))
    named = [letter.id for letter in await letters_of(engine, agent) if letter.task_id != "kept"]
    async with asyncio.timeout(6 * PATIENCE):  # one after another, each with a look at all, takes minutes
        assert await other.remove_dead_letters(named) == 500
    assert [letter.body for letter in await letters_of(engine, agent)] == [kept.to_json()]


# The rest


async def test_depth_counts_what_waits(engine: Engine, agent: str) -> None:
    assert await engine.depth(agent) == 0
    await engine.publish(an_envelope(agent, "later"), delay=60)
    await publish_all(engine, [an_envelope(agent, f"task-{n}") for n in range(3)])
    assert await engine.depth(agent) == 3
    await (await take(engine, agent)).ack()
    assert await engine.depth(agent) == 2


async def test_a_receiver_is_seen_while_it_waits(engine: Engine, other: Engine, agent: str) -> None:
    stranger = f"{agent}.2"
    await engine.declare([stranger], [])
    assert await other.listeners(agent) == 0
    waiting = [asyncio.create_task(take(engine, agent)) for _ in range(2)]
    await listeners_become(2, other, agent)
    assert await other.listeners(stranger) == 0
    await other.publish(an_envelope(agent))
    ((took,), (waits,)) = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    await (await took).ack()
    await listeners_become(1, other, agent)
    waits.cancel()
    await listeners_become(0, other, agent)


async def test_a_receiver_that_was_killed_is_seen_no_more(queue: EngineUnderTest, engine: Engine, agent: str) -> None:
    with another_process("hold", queue) as child:
        await listeners_become(1, engine, agent)
        child.kill()
        await listeners_become(0, engine, agent)


async def listeners_become(count: int, engine: Engine, agent: str) -> None:
    async with asyncio.timeout(PATIENCE):
        while await engine.listeners(agent) != count:
            pass


async def test_declaring_again_changes_nothing(engine: Engine, other: Engine, agent: str) -> None:
    await engine.publish(an_envelope(agent))
    first = await engine.declare([agent], ["coordinator"])
    second = await other.declare([agent], ["coordinator"])
    assert first.created == second.created == ()
    assert first.found == second.found != ()
    assert await drain(engine, agent, 1) == ["task-1"]


async def test_health_names_the_engine_and_its_version(engine: Engine, agent: str) -> None:
    health = await engine.health([agent])
    assert health.name
    assert health.version[0].isdigit()
    assert health.missing == ()


@pytest.mark.parametrize("reply_to", ["results.coordinator", "coordinator", "nobody-declared-this"])
async def test_a_notice_is_taken_whoever_it_is_for(engine: Engine, agent: str, reply_to: str) -> None:
    now = datetime.now(UTC)
    notice = Completion(task_id="task-1", from_=agent, to="coordinator", status="completed", attempt=1, finished_at=now)
    await engine.notify(notice, reply_to)


@pytest.mark.promise("no-secrets")
async def test_where_an_engine_is_says_no_password(engine: Engine) -> None:
    assert "://" in engine.url
    assert "guest:guest" not in engine.url
