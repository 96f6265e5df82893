"""The port to the chat threads of a graph: what a bridge must see of a thread, and may do to it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

from agentq.errors import AgentqError

Mode = Literal["notify", "wake", "notify+wake"]
"""What a notice does: wait in the thread for the next turn, or have the thread run at once as well. A run that fails is
tried again for `wake`, and left to the next turn for `notify+wake`."""

MODES: tuple[Mode, ...] = get_args(Mode)
COORDINATOR = "chat"
"""Whose tasks the jobs of chats are, unless somebody says otherwise."""
THREAD, TENANT, NOTICE = "thread", "tenant", "notice"
"""The labels of a job that a chat thread asked for: the thread, its tenant, and the mode of its notice."""

State = Literal["gone", "idle", "running", "interrupted", "unanswered"]


@dataclass(frozen=True, slots=True)
class Thread:
    """A chat thread, and the tenant that it belongs to, None where there are none."""

    id: str
    tenant: str | None = None


@dataclass(frozen=True, slots=True)
class Notice:
    """What a thread is told of a job that has ended: `text` is what its tool call answers, bounded and labelled."""

    task_id: str
    mode: Mode
    text: str


@dataclass(frozen=True, slots=True)
class View:
    """A thread as it stands at its last checkpoint.

    `running` is anybody's run that has not ended, also one whose process died; `unanswered` an idle thread whose last
    tool calls have no answer. `noticed`: its last checkpoint is a notice that was appended, and what is to become of it
    (rest or run) was not done yet; `woken`: that checkpoint belongs to a run that `run` began. `unattended` is the
    number of notices since a person said something. `beside`: somebody's run that has not ended began from an earlier
    checkpoint, and may yet write over the last one; to be seen by the newest checkpoint that is not of a notice, nor of
    what became of it: that is not the last one, and something is to run after it.
    """

    state: State
    noticed: bool = False
    woken: bool = False
    unattended: int = 0
    beside: bool = False


class ThreadFailed(AgentqError):
    """A graph's own code failed while its thread was run or written to."""


class Threads(Protocol):
    """The threads of one graph, by its checkpointer. Whoever writes holds the thread's turn.

    Every method raises ThreadFailed when the graph or its checkpointer fails.
    """

    async def look(self, thread: Thread) -> View:
        """How a thread stands now."""

    async def missing(self, thread: Thread, task_ids: Sequence[str]) -> list[str]:
        """Those of these jobs whose notice is not in the thread: in its last checkpoint or an ancestor of that."""

    async def append(self, thread: Thread, notices: Sequence[Notice]) -> None:
        """Append those of these notices that are not in the checkpoint written upon nor in an ancestor of it, in this
        order, so that the graph's entry is what runs next; nothing runs. Broken off, some may be there."""

    async def rest(self, thread: Thread) -> None:
        """Have nothing to run next: the thread waits for a turn."""

    async def run(self, thread: Thread, task_ids: Sequence[str]) -> None:
        """Run what is to run next, for these notices, until the thread rests or is interrupted."""
