"""The key by which an agent's side effects are told apart."""

import pytest

from agentq.coordinator import Coordinator
from agentq.lineage import idempotency_key
from agentq.messages import Envelope
from agentq.records import Records
from tests.samples import completion, request
from tests.simulation import MemoryStore


@pytest.fixture
def records() -> Records:
    return Records(MemoryStore())


def register(records: Records, task_id: str, retry_of: str | None = None) -> Envelope:
    return Coordinator(records).register(request(task_id=task_id, retry_of=retry_of)).envelope


@pytest.mark.promise("idempotency-key")
def test_a_task_and_all_retries_of_it_have_one_key(records: Records) -> None:
    coordinator = Coordinator(records)
    first = register(records, "first")
    chain = [first]
    for task_id in ("second", "third"):
        records.commit(completion("failed").model_copy(update={"task_id": chain[-1].task_id}))
        chain.append(coordinator.register(coordinator.retry(chain[-1].task_id, task_id)).envelope)
    assert chain[-1].retry_of == "second"
    assert [idempotency_key(records, task) for task in chain] == ["first"] * 3
    assert idempotency_key(records, register(records, "another")) == "another"


@pytest.mark.promise("idempotency-key")
def test_what_a_chain_says_that_ends_nowhere(records: Records) -> None:
    """Its first task is in another store; or somebody made a circle of it."""
    assert idempotency_key(records, register(records, "again", "elsewhere")) == "elsewhere"
    register(records, "b", "a")
    assert idempotency_key(records, register(records, "a", "b")) == "b"
