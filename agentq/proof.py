"""The proof that a store keeps the one promise everything rests on: a paper is created by one hand alone."""

import threading

from agentq.errors import Invalid
from agentq.papers import new_token
from agentq.store import Store

RACERS = 4


def prove(store: Store) -> None:
    """Create a probe with several hands at once, once more after them, read it back and remove it.

    Raises Invalid when there is not exactly one winner, or another's probe is read; StoreUnavailable.
    """
    key, hands = f"probes/{new_token()}", [new_token().encode() for _ in range(RACERS)]
    winners = _race(store, key, hands)
    late = store.put_new(key, new_token().encode())
    found = store.get(key)
    store.delete(key)
    if late or len(winners) != 1 or found != winners[0]:
        raise Invalid(
            f"{store.place} lets a second hand replace a paper: it does not honour conditional puts",
            hint="Do not use this store for agentq: docs/stores.md names servers and versions that do.",
        )


def _race(store: Store, key: str, hands: list[bytes]) -> list[bytes]:
    """The hands that were told that they had created it."""
    from concurrent.futures import ThreadPoolExecutor

    together = threading.Barrier(len(hands))

    def create(hand: bytes) -> bool:
        together.wait()
        return store.put_new(key, hand)

    with ThreadPoolExecutor(len(hands)) as pool:
        return [hand for hand, won in zip(hands, pool.map(create, hands), strict=True) if won]
