"""What is done to threads: opened, written in, answered, described. Any step may be repeated by anyone."""

import functools
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from pydantic import ValidationError

from agentq.agents import Agents
from agentq.credentials import refuse
from agentq.errors import Conflict, EvidenceError, Invalid, NotFound, Unavailable
from agentq.journal import Journal
from agentq.messages import Envelope, explain, sha256_hex, utc_now
from agentq.records import Records
from agentq.threads import telling
from agentq.threads.asking import Asker, context_of, is_of, request_for
from agentq.threads.descriptions import RULE, Descriptions
from agentq.threads.gathering import gather
from agentq.threads.memory import Memory
from agentq.threads.papers import TEXT_LIMIT, Ask, AskType, Declined, End, Kind, Post, Rule, Thread, Version, new_id
from agentq.threads.reading import Papers, view
from agentq.threads.shelf import Debt, Shelf
from agentq.threads.streams import Streams

Register = Callable[[Envelope], Sequence[Envelope]]
"""Registers a task; answers with what must be handed to the engine. Raises Conflict where the id has other content."""
SILENT = "its author said nothing more"


@dataclass(frozen=True, slots=True)
class Opened:
    """A thread as it was opened, and whether this call opened it."""

    thread: Thread
    new: bool


@dataclass(frozen=True, slots=True)
class Posted:
    """A message as it stands, and whether this call made it."""

    post: Post
    new: bool


class Threads:
    """The threads of one store.

    A message's paper is what asks: whoever finds the mark that something is still to follow does that. `released` gets
    what is to be handed to the engine, `due` the threads and messages whose marks are to be removed once that is done
    and the log was told: see `settle`.
    """

    def __init__(
        self,
        records: Records,
        agents: Agents,
        register: Register,
        released: list[Envelope],
        memory: Memory | None = None,
    ) -> None:
        self.due: list[tuple[str, str]] = []
        self.shelf = Shelf(records, memory)
        self._records = records
        self._journal: Journal = records.journal
        self._agents = agents
        self._asker = Asker(agents, records)
        self._register = register
        self._released = released
        self._streams = Streams(self.shelf, self._journal)
        self._descriptions = Descriptions(self.shelf, self._journal)

    # ------------------------------------------------------------------ threads

    def open(
        self,
        title: str,
        by: str,
        *,
        description: str = "",
        thread_id: str | None = None,
        refinements: Rule = "ask",
        allow_secrets: bool = False,
    ) -> Opened:
        """Open a thread; the same id with the same content is the same thread, with another a Conflict."""
        if not title.strip():
            raise Invalid("the thread has no title", hint="Give a few words.")
        _check({"the title": title, "the description": description}, allow_secrets=allow_secrets)
        try:
            thread = Thread(
                thread_id=thread_id or new_id("thr"),
                title=title,
                by=by,
                created_at=utc_now(),
                description=description,
                refinements=refinements,
            )
        except ValidationError as error:
            raise Invalid(f"this is no thread: {explain(error)}", hint="Correct it: nothing was written.") from error
        held = self.shelf.open(thread)
        if held.model_copy(update={"created_at": thread.created_at}) != thread:
            raise Conflict(f"{held.thread_id} is a thread already, with another content", hint="Choose another id.")
        self._journal.tell(telling.thread_opened(held))
        return Opened(held, new=held is thread)

    def papers(self, thread_id: str) -> Papers:
        """Everything that decides how a thread is shown; raises NotFound."""
        return gather(self.shelf, self.shelf.thread(thread_id))

    # ------------------------------------------------------------------ messages

    def post(
        self,
        thread_id: str,
        author: str,
        text: str,
        *,
        message_id: str | None = None,
        kind: Kind = "person",
        state: Literal["completed", "generating"] = "completed",
        named: tuple[str, AskType] | None = None,
        allow_secrets: bool = False,
    ) -> Posted:
        """Post a message, and register the tasks of those whom it asks; one that grows asks when it is complete.

        The same id with the same content is the same message, with another a Conflict; raises Invalid, NotFound.
        """
        thread = self.shelf.thread(thread_id)
        _check_text(text, state)
        _check({"the message": text}, allow_secrets=allow_secrets)
        message_id = message_id or new_id("m")
        found = self.shelf.posted(thread_id, message_id)
        if found is None:
            asking = functools.partial(self._asker.asks, thread_id, message_id, author, text, named)
            asks, not_asked = asking() if state == "completed" else ((), ())
            wanted = Post(
                thread_id=thread_id,
                message_id=message_id,
                author=author,
                kind=kind,
                at=utc_now(),
                text=text,
                state=state,
                asks=asks,
                not_asked=not_asked,
                description=self.shelf.versions(thread.thread_id),
            )
            found, new = self._create(wanted)
        else:
            new = False
        _check_same(found, author, text, state, named)
        self._journal.tell(telling.message_posted(found))
        if state == "completed" and (new or self.shelf.owes("asking", thread_id, message_id)):
            self._follow_up(thread_id, message_id)
        return Posted(found, new)

    def _create(self, post: Post) -> tuple[Post, bool]:
        """Put the mark of what is to be done, then the message."""
        debt: Debt = "asking" if post.state == "completed" else "streaming"
        self.shelf.owe(debt, post.thread_id, post.message_id)
        held = self.shelf.post(post)
        return held, held is post

    def _follow_up(self, thread_id: str, message_id: str) -> None:
        self.due.append((thread_id, message_id))
        with suppress(Unavailable):  # the message stands, and so does the mark
            self._released.extend(self.ask(thread_id, message_id) or ())

    def ask(self, thread_id: str, message_id: str) -> list[Envelope] | None:
        """Register the tasks of those whom a message asks; answers with what is not known to be in its queue, None for
        a message that is not there yet, or grows: it asks nobody so far."""
        post = self.shelf.posted(thread_id, message_id)
        end = self.shelf.ended(thread_id, message_id) if post and post.state == "generating" else None
        if post is None or (post.state == "generating" and end is None):
            return None
        return [one for ask in (*post.asks, *(end.asks if end else ())) for one in self._give(post, ask)]

    def tell(self, thread_id: str, message_id: str) -> None:
        """Tell the log again of a message, as whoever wrote it may have died before they did, or with it."""
        if post := self.shelf.posted(thread_id, message_id):
            end = self.shelf.ended(thread_id, message_id) if post.state == "generating" else None
            pieces = self.shelf.pieces(thread_id, message_id) if post.state == "generating" and end is None else []
            self._journal.tell(telling.message_posted(post))
            self._journal.tell(*(telling.reply(piece) for piece in pieces if not piece.end))
            self._journal.tell(*([telling.message_ended(end)] if end else []))

    def settle(self, thread_id: str, message_id: str) -> bool:
        """Remove the mark of a message of which the log was told, when all its tasks are in their queues."""
        is_done = self.ask(thread_id, message_id) == []
        if is_done:
            self.shelf.paid("asking", thread_id, message_id)
        return is_done

    def _give(self, post: Post, ask: Ask) -> Sequence[Envelope]:
        """Register one task; answers with what of it is not known to be in its queue."""
        thread = self.shelf.thread(post.thread_id)
        if thread.refinements == "accept" and self._records.manifest(ask.task_id) is None:
            self.shelf.owe("accepting", post.thread_id, ask.task_id)
        found = self._records.envelope(ask.task_id)
        if found is None:
            return self._register_new(post, ask)
        if not is_of(found, post.thread_id, post.message_id):
            return ()
        return [found] if self._records.marks.is_unpublished(ask.task_id) else ()

    def _register_new(self, post: Post, ask: Ask) -> Sequence[Envelope]:
        key = f"tasks/{ask.task_id}.md"
        found = view(gather(self.shelf, self.shelf.thread(post.thread_id), states=False))
        text = next(one.text for one in found.messages if one.message_id == post.message_id)
        context = context_of(found, post).encode(errors="replace")
        context = self._records.create(key, context) or context
        try:
            return self._register(request_for(post, ask, text, self._records.store.ref(key), sha256_hex(context)))
        except Conflict:  # somebody was first: with this task in other words, or with another one of that id
            return ()

    # ------------------------------------------------------------------ messages that grow

    def append(
        self, thread_id: str, message_id: str, by: str, offset: int, text: str, *, allow_secrets: bool = False
    ) -> int:
        """Append to a message of one's own; answers with where it goes on. Raises as `Streams.append`, and NotFound."""
        _check({"the message": text}, allow_secrets=allow_secrets)
        return self._streams.append(self.own(thread_id, message_id, by), offset, text, allow_secrets=allow_secrets)

    def end(
        self,
        thread_id: str,
        message_id: str,
        by: str,
        state: Literal["completed", "failed"],
        reason: str | None = None,
        *,
        allow_secrets: bool = False,
    ) -> End:
        """End a message of one's own, and ask whom it mentions; raises Conflict when it ended otherwise before."""
        _check({"the reason": reason or ""}, allow_secrets=allow_secrets)
        end = self._end(self.own(thread_id, message_id, by), state, reason, by)
        if end.state != state:
            what = f"{message_id} is {end.state} already: {end.reason or 'so it was ended'}"
            raise Conflict(what, hint="Leave it so, or post another message.")
        return end

    def fail_silent(self, thread_id: str, message_id: str) -> End | None:
        """End a message of which nothing is heard any more as failed, with the text so far; None when there is none."""
        post = self.shelf.posted(thread_id, message_id)
        return self._end(post, "failed", SILENT, RULE) if post else None

    def _end(self, post: Post, state: Literal["completed", "failed"], reason: str | None, by: str) -> End:
        end = self._streams.end(
            post,
            state,
            reason,
            by=by,
            asking=functools.partial(self._asker.asks, post.thread_id, post.message_id, post.author),
        )
        self._follow_up(post.thread_id, post.message_id)
        return end

    def own(self, thread_id: str, message_id: str, by: str) -> Post:
        """A message of one's own; raises NotFound, Conflict for another's and for an answer."""
        post = self.shelf.posted(thread_id, message_id)
        if post is None and self._is_answer(thread_id, message_id):
            raise Conflict(
                f"{message_id} is an agent's answer: it grows and ends by its task",
                hint="Write to a message of your own.",
            )
        if post is None:
            raise NotFound(
                f"there is no message {message_id} in {thread_id}", hint=f"See: agentq thread show {thread_id}"
            )
        if post.author != by:
            raise Conflict(f"{message_id} is {post.author}'s, not {by}'s", hint="Write to a message of your own.")
        return post

    def _is_answer(self, thread_id: str, name: str) -> bool:
        message_id, dot, _ = name.partition(".")
        post = self.shelf.posted(thread_id, message_id) if dot else None
        end = self.shelf.ended(thread_id, message_id) if post else None
        return any(ask.task_id == name for ask in (*(post.asks if post else ()), *(end.asks if end else ())))

    # ------------------------------------------------------------------ the description

    def describe(self, thread_id: str, text: str, base: int, by: str, *, allow_secrets: bool = False) -> Version:
        """Put a text in the place of the description `base`; raises Conflict when that is not the current one."""
        _check({"the description": text}, allow_secrets=allow_secrets)
        return self._descriptions.change(self.shelf.thread(thread_id), text, base, by)

    def accept(self, thread_id: str, task_id: str, by: str, base: int | None = None) -> Version:
        """Let what a task proposes hold; see `Descriptions.accept`."""
        return self._descriptions.accept(self.shelf.thread(thread_id), task_id, base, by)

    def decline(
        self, thread_id: str, task_id: str, by: str, reason: str | None = None, *, allow_secrets: bool = False
    ) -> Declined:
        """Say that what a task proposes is not wanted."""
        _check({"the reason": reason or ""}, allow_secrets=allow_secrets)
        return self._descriptions.decline(self.shelf.thread(thread_id), task_id, reason, by)

    def let_through(self, thread_id: str, task_id: str) -> bool:
        """Accept by the thread's rule what a task proposes that has ended; whether nothing more is to come."""
        if self._records.manifest(task_id) is None:
            return False
        with suppress(NotFound, Conflict, EvidenceError):  # it proposes nothing, or for a version that is not current
            self.accept(thread_id, task_id, RULE)
        self.shelf.paid("accepting", thread_id, task_id)
        return True

    def kind_of(self, name: str) -> Kind:
        """Whether an agent is called so, or a person."""
        return "agent" if name in self._agents.names else "person"


def _check(texts: dict[str, str], *, allow_secrets: bool = False) -> None:
    """Raise Invalid for what could not be written, and for what looks like a credential unless that is allowed."""
    for name, text in texts.items():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise Invalid(f"{name} has half a character in it", hint="Send Unicode.") from error
    refuse({**texts}, allowed=allow_secrets)


def _check_text(text: str, state: str) -> None:
    if len(text) > TEXT_LIMIT:
        raise Invalid(f"a message has at most {TEXT_LIMIT} characters, this one {len(text)}", hint="Send two.")
    if state == "completed" and not text.strip():
        raise Invalid("the message is empty", hint="Give a text that says something.")
    if state == "generating" and text:
        raise Invalid("a message that is generating begins without a text", hint="Post it empty, then append the text.")


def _check_same(post: Post, author: str, text: str, state: str, named: tuple[str, AskType] | None) -> None:
    """Raise Conflict unless the message that there is says what was to be said."""
    asked = {(ask.agent, ask.type) for ask in post.asks}
    is_same = (post.author, post.text, post.state) == (author, text, state) and (named is None or named in asked)
    if not is_same:
        raise Conflict(f"{post.message_id} is a message already, with another content", hint="Choose another id.")
