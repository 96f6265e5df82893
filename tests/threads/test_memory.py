"""What is kept of threads in memory: the latest used, within its room."""

from agentq.threads.memory import LEAST, Memory
from agentq.threads.reading import Answered


def test_what_was_not_used_for_longest_goes() -> None:
    memory, thing = Memory(3 * LEAST), Answered()
    for name in ("a", "b", "c"):
        memory.keep(name, thing, 1)
    assert memory.find("a") is thing
    memory.keep("d", thing, 1)
    assert [memory.find(name) is thing for name in "abcd"] == [True, False, True, True]


def test_what_has_no_room_is_not_kept_and_takes_none() -> None:
    memory = Memory(3 * LEAST)
    memory.keep("large", Answered(), 10 * LEAST)
    assert memory.find("large") is None
    for _ in range(10):
        memory.keep("small", Answered(), LEAST)
    memory.keep("other", Answered(), LEAST)
    assert memory.find("small")
