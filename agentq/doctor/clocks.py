"""How far the clocks of hosts are apart, from the order in which the log has what was sent by them.

What stands between two heartbeats of a host was sent between them. So the clock of another host, whose heartbeat that
is, must show a time between theirs, and is wrong by as much as it does not.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from agentq.doctor.findings import Ailment, span

NEAR_SECONDS = 15.0
"""How far apart two heartbeats of a host may be to be witnesses."""
WITNESSES = 2
"""How many pairs of heartbeats in a row must witness it: one heartbeat may have been held up on its way."""

Differences = Mapping[tuple[str, str], float]


class Beat(NamedTuple):
    """One heartbeat: of which host, and when by that host's clock (unix seconds)."""

    host: str
    at: float


def differences(beats: Sequence[Beat]) -> dict[tuple[str, str], float]:
    """By how many seconds the first host's clock is at least ahead of the second's, as the newest of these witness it.

    `beats` come in the order of the log. Hosts that nothing tells about are left out; 0 is for clocks that may agree.
    """
    seen: dict[tuple[str, str], list[float]] = {}
    for host in {beat.host for beat in beats}:
        places = [place for place, beat in enumerate(beats) if beat.host == host]
        for first, second in pairwise(places):
            between = _between(beats, first, second)
            for other in {beat.host for beat in between}:
                ahead = [_ahead(beat.at, beats[first].at, beats[second].at) for beat in between if beat.host == other]
                seen.setdefault((other, host), []).append(_agreed(ahead))
    return {pair: _agreed(ahead[-WITNESSES:]) for pair, ahead in seen.items() if len(ahead) >= WITNESSES}


def _between(beats: Sequence[Beat], first: int, second: int) -> Sequence[Beat]:
    """What stands between two heartbeats of a host, if those are witnesses."""
    is_near = 0 <= beats[second].at - beats[first].at <= NEAR_SECONDS
    return beats[first + 1 : second] if is_near else ()


def _ahead(at: float, first: float, second: float) -> float:
    return min(0.0, at - first) or max(0.0, at - second)


def _agreed(ahead: Sequence[float]) -> float:
    """The least of what all say, 0 when they do not agree on who is ahead."""
    same = all(one > 0 for one in ahead) or all(one < 0 for one in ahead)
    return min(ahead, key=abs) if same else 0.0


def ailments(apart: Differences, tolerance: float) -> Iterator[Ailment]:
    """The pairs of hosts whose clocks differ by more than leases tolerate, each once."""
    wrong = {pair: seconds for pair, seconds in apart.items() if abs(seconds) > tolerance}
    suspected = Counter(host for pair in {frozenset(pair) for pair in wrong} for host in pair)
    for one, other in sorted({(min(pair), max(pair)) for pair in wrong}):
        seconds = max(abs(wrong.get(pair, 0.0)) for pair in ((one, other), (other, one)))
        what = f"the clocks of {one} and {other} differ by {span(seconds)}; leases tolerate {tolerance:g} s"
        remedy = f"run NTP on {_which(one, other, suspected)}"
        yield Ailment(None, "clocks", what, mendable=False, part="clocks", remedy=remedy)


def _which(one: str, other: str, suspected: Counter[str]) -> str:
    """The one of two hosts that differs from more of the others."""
    if suspected[one] == suspected[other]:
        return f"{one} and {other}"
    return max(one, other, key=suspected.__getitem__)
