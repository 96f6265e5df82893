"""Where a task comes from, over the retries of it: what its side effects are told apart by."""

from agentq.messages import Envelope
from agentq.records import Records


def idempotency_key(records: Records, envelope: Envelope) -> str:
    """The id of the task with which its retries began: the same in every attempt of it and in every retry.

    Of a chain that leads out of this store it is the last id that is known here. Raises StoreUnavailable.
    """
    seen = {envelope.task_id}
    first, before = envelope.task_id, envelope.retry_of
    while before and before not in seen:
        seen.add(before)
        earlier = records.envelope(before)
        first, before = before, earlier.retry_of if earlier else None
    return first
