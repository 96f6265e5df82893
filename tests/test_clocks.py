"""How far the clocks of hosts are apart, as the order of the log tells it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentq.doctor.clocks import NEAR_SECONDS, Beat, ailments, differences


def beats(*said: tuple[str, float]) -> list[Beat]:
    return [Beat(host, at) for host, at in said]


def test_what_stands_between_two_heartbeats_was_sent_between_them() -> None:
    found = differences(beats(("b", 0), ("a", 305), ("b", 10), ("a", 315), ("b", 20), ("a", 325), ("b", 30)))
    assert found == {("a", "b"): 295, ("b", "a"): -295}


def test_clocks_that_may_agree_do() -> None:
    found = differences(beats(("b", 0), ("a", 5), ("b", 10), ("a", 15), ("b", 20), ("a", 25)))
    assert found == {("a", "b"): 0, ("b", "a"): 0}


def test_one_witness_is_none() -> None:
    assert differences(beats(("b", 0), ("a", 300), ("b", 10))) == {}


def test_heartbeats_that_are_far_apart_are_no_witnesses() -> None:
    assert differences(beats(("b", 0), ("a", 300), ("b", 16), ("a", 316), ("b", 32))) == {}


def test_a_clock_that_was_set_right_is_right() -> None:
    wrong = [("b", 0), ("a", 300), ("b", 10), ("a", 310), ("b", 20)]
    right = [("a", 25), ("b", 30), ("a", 35), ("b", 40), ("a", 45)]
    assert differences(beats(*wrong))["a", "b"] > 200
    assert differences(beats(*wrong, *right)) == {("a", "b"): 0, ("b", "a"): 0}


def test_a_clock_that_goes_back_is_no_witness() -> None:
    assert differences(beats(("b", 100), ("a", 100), ("b", 40), ("a", 101), ("b", -20))) == {}


HOSTS = ("a", "b", "c")


@st.composite
def logs(draw: st.DrawFn) -> tuple[dict[str, float], list[tuple[float, str]]]:
    """By how much each host's clock is ahead, and when each host really sent its heartbeats."""
    ahead = {host: draw(st.floats(-1000, 1000)) for host in HOSTS}
    sent = []
    for host in HOSTS:
        moment = draw(st.floats(0, 10))
        for pause in draw(st.lists(st.floats(0.01, 20), min_size=2, max_size=12)):
            sent.append((moment, host))
            moment += pause
    return ahead, sorted(sent)


@given(logs())
@pytest.mark.promise("clocks")
def test_never_more_is_told_than_there_is_and_never_much_less(
    log: tuple[dict[str, float], list[tuple[float, str]]],
) -> None:
    ahead, sent = log
    for (one, other), seconds in differences([Beat(host, at + ahead[host]) for at, host in sent]).items():
        truth = ahead[one] - ahead[other]
        assert abs(seconds) <= abs(truth) + 1e-6
        assert seconds * truth >= 0, "who is ahead is ahead"
        assert abs(seconds) >= abs(truth) - NEAR_SECONDS - 1e-6


@given(logs(), st.data())
@pytest.mark.promise("clocks")
def test_a_heartbeat_that_was_held_up_accuses_nobody(
    log: tuple[dict[str, float], list[tuple[float, str]]], data: st.DataObject
) -> None:
    """It was sent at its time and came into the log later, as that of a worker that was stopped for a while."""
    _, sent = log
    late = data.draw(st.integers(0, len(sent) - 1))
    arrived = [*sent[:late], *sent[late + 1 :]]
    arrived.insert(data.draw(st.integers(late, len(arrived))), sent[late])
    assert set(differences([Beat(host, at) for at, host in arrived]).values()) <= {0.0}


def test_each_pair_is_told_once_and_who_differs_from_most_is_to_be_set() -> None:
    apart = {("a", "b"): 0.0, ("a", "c"): -300.0, ("c", "a"): 310.0, ("b", "c"): -305.0, ("c", "b"): 290.0}
    found = list(ailments(apart, 20))
    assert [ailment.what for ailment in found] == [
        "the clocks of a and c differ by 5.2 m; leases tolerate 20 s",
        "the clocks of b and c differ by 5.1 m; leases tolerate 20 s",
    ]
    assert {ailment.remedy for ailment in found} == {"run NTP on c"}
    assert {ailment.mendable for ailment in found} == {False}


def test_two_hosts_are_both_to_be_set_and_what_leases_tolerate_is_not_told() -> None:
    (ailment,) = ailments({("a", "b"): 21.0, ("b", "a"): -19.0}, 20)
    assert ailment.remedy == "run NTP on a and b"
    assert not list(ailments({("a", "b"): 20.0, ("b", "a"): -19.0}, 20))
