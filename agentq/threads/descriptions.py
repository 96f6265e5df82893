"""The description of a thread: versions with numbers, and what agents propose instead."""

from typing import NamedTuple

from agentq.decided import DECISION, read_decided
from agentq.errors import Conflict, Invalid, NotFound, NothingYet
from agentq.journal import Journal
from agentq.messages import Completion, utc_now
from agentq.threads import telling
from agentq.threads.papers import TEXT_LIMIT, Declined, Post, Thread, Version
from agentq.threads.shelf import Shelf

RULE = "agentq"
"""Who changes a description where the thread's rule says that proposals hold."""


class Proposal(NamedTuple):
    """What a task proposes: a text in the place of the description with that number."""

    text: str
    base: int


class Descriptions:
    """The descriptions of all threads in one store."""

    def __init__(self, shelf: Shelf, journal: Journal) -> None:
        self._shelf = shelf
        self._journal = journal

    def current(self, thread: Thread) -> Version | None:
        """The newest version, None for the text that the thread began with."""
        number = self._shelf.versions(thread.thread_id)
        return self._shelf.version(thread.thread_id, number) if number else None

    def change(self, thread: Thread, text: str, base: int, by: str, from_task: str | None = None) -> Version:
        """Put a text in the place of the version `base`; a repeat is the same version.

        Raises Conflict when that is not the current one, Invalid when the text is too long.
        """
        if len(text) > TEXT_LIMIT:
            raise Invalid(f"a description has at most {TEXT_LIMIT} characters", hint="Put the rest into a message.")
        current = self._shelf.versions(thread.thread_id)
        if not 0 <= base <= current:
            raise Conflict(f"there is no version {base}, the current one is {current}", hint="Read it, then change it.")
        version = Version(
            thread_id=thread.thread_id, number=base + 1, text=text, by=by, at=utc_now(), from_task=from_task
        )
        held = self._shelf.describe(version)
        if (held.text, held.from_task) != (text, from_task) or (from_task is None and held.by != by):
            raise Conflict(
                f"version {held.number} is there already, by {held.by}", hint="Read it, then change that one."
            )
        self._journal.tell(telling.description_changed(held))
        return held

    def accept(self, thread: Thread, task_id: str, base: int | None, by: str) -> Version:
        """Let what a task proposes hold; of several who do it is one version.

        Raises NotFound for what proposes nothing, NothingYet, Conflict for a proposal for another version than the
        current one, and for one that was declined.
        """
        proposal = self.proposal(thread, task_id)
        if accepted := self.accepted(thread, task_id, proposal):
            return accepted
        if declined := self._shelf.declined(thread.thread_id, task_id):
            raise Conflict(f"{declined.by} declined what {task_id} proposed", hint="Ask the agent again.")
        if base is not None and base != proposal.base:
            raise Conflict(
                f"{task_id} proposes another version {proposal.base}, not {base}", hint="Read what it was made for."
            )
        return self.change(thread, proposal.text, proposal.base, by, task_id)

    def accepted(self, thread: Thread, task_id: str, proposal: Proposal) -> Version | None:
        """The version that a proposal became, None for none."""
        version = self._shelf.version(thread.thread_id, proposal.base + 1)
        return version if version and version.from_task == task_id else None

    def decline(self, thread: Thread, task_id: str, reason: str | None, by: str) -> Declined:
        """Say that a proposal is not wanted; repeating changes nothing. Raises NotFound, Conflict once accepted."""
        if self.accepted(thread, task_id, self.proposal(thread, task_id)):
            raise Conflict(f"what {task_id} proposed was accepted", hint="Change the description instead.")
        declined = Declined(thread_id=thread.thread_id, task_id=task_id, by=by, at=utc_now(), reason=reason)
        held = self._shelf.decline(declined)
        self._journal.tell(telling.proposal_declined(held))
        return held

    def proposal(self, thread: Thread, task_id: str) -> Proposal:
        """What a task of the thread proposes; raises NotFound, NothingYet."""
        post = self._asking(thread, task_id)
        manifest = self._shelf.records.manifest(task_id)
        if post and manifest is None:
            raise NothingYet(f"{task_id} has not ended", hint=f"See: agentq status {task_id}")
        text = proposed(self._shelf, manifest) if post and manifest else None
        if post is None or text is None:
            raise NotFound(f"{task_id} proposes no description for {thread.thread_id}", hint="See the thread.")
        return Proposal(text, post.description)

    def _asking(self, thread: Thread, task_id: str) -> Post | None:
        """The message that asked for the task."""
        message_id = task_id.partition(".")[0]
        post = self._shelf.posted(thread.thread_id, message_id)
        ended = self._shelf.ended(thread.thread_id, message_id) if post else None
        asks = (*(post.asks if post else ()), *(ended.asks if ended else ()))
        return post if any(ask.task_id == task_id for ask in asks) and self._is_of(thread, task_id) else None

    def _is_of(self, thread: Thread, task_id: str) -> bool:
        envelope = self._shelf.records.envelope(task_id)
        return envelope is None or envelope.labels.get("thread") == thread.thread_id


def proposed(shelf: Shelf, manifest: Completion) -> str | None:
    """The description that a finished task proposes, None for none. Raises EvidenceError when that is gone."""
    if manifest.status != "completed" or manifest.decided is None or manifest.decided.decision != "refine":
        return None
    artifact = manifest.artifact(DECISION)
    return read_decided(shelf.records.artifacts.read(artifact)).description if artifact else None
