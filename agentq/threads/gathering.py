"""The papers of a thread read from a store, with what those of its tasks say."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from agentq.commit import REPORT
from agentq.decided import ANSWER
from agentq.errors import EvidenceError, Invalid
from agentq.lifecycle import derive
from agentq.messages import Completion, Envelope, Message, shorten, utc_now
from agentq.papers import Claim
from agentq.threads.descriptions import proposed
from agentq.threads.papers import Ask, Post, Rule, Thread
from agentq.threads.reading import Answered, Papers
from agentq.threads.shelf import Shelf

LONGEST = 256 * 1024
"""Bytes of an answer that are shown, at most."""
RECENT, FEW, SHOWN = 200, 10, 300
"""For a list: how many messages of a thread are read, of how many is seen who answers, characters of the last one."""
MORE = "\n[…]"
"""What stands for the rest."""


def gather(shelf: Shelf, thread: Thread, *, states: bool = True) -> Papers:
    """Everything that decides how the thread is shown; without `states` answers that are not finished look as if their
    tasks were not registered. Raises StoreUnavailable, EvidenceError for a damaged paper.

    What was appended is read before the ends, and tasks last: what ends meanwhile is seen to have ended.
    """
    thread_id, names = thread.thread_id, shelf.names(thread.thread_id)
    posts = [post for name in names.messages if (post := shelf.posted(thread_id, name))]
    growing = [post.message_id for post in posts if post.state == "generating"]
    pieces = {name: shelf.pieces(thread_id, name) for name in growing if name not in names.ends}
    ends = {name: end for name in growing if (end := shelf.ended(thread_id, name))}
    bases = {post.description + 1 for post in posts if post.asks or post.message_id in ends}
    current = max(names.versions, default=0)
    wanted = bases.intersection(names.versions) | ({current} if current else set())
    papers = Papers(
        thread=thread,
        posts=posts,
        pieces=pieces,
        ends=ends,
        versions={number: version for number in wanted if (version := shelf.version(thread_id, number))},
        current=current,
        declined={name: declined for name in names.declined if (declined := shelf.declined(thread_id, name))},
    )
    asks = (ask for post in posts for ask in papers.asks(post))
    return replace(papers, answers={ask.task_id: answered(shelf, thread_id, ask, states=states) for ask in asks})


def answered(shelf: Shelf, thread_id: str, ask: Ask, *, states: bool = True) -> Answered:
    """What the papers say of a task; without `states` of one that has not ended nothing more than that."""
    try:
        return _answered(shelf, thread_id, ask, states=states)
    except EvidenceError as error:
        return Answered(fault=str(error))


def _answered(shelf: Shelf, thread_id: str, ask: Ask, *, states: bool) -> Answered:
    name = f"{thread_id}/{ask.task_id}"
    if isinstance(known := shelf.memory.find(name), Answered):
        return known
    manifest = shelf.records.manifest(ask.task_id)
    if manifest is None:
        return _unfinished(shelf, thread_id, ask) if states else Answered()
    envelope = shelf.records.envelope(ask.task_id)
    if envelope is None or not _is_asked(envelope, thread_id, ask):
        return Answered(is_anothers=True)
    found = _result(shelf, manifest)
    if not found.fault:
        shelf.memory.keep(name, found, len(found.text or "") + len(found.proposes or ""))
    return found


def _unfinished(shelf: Shelf, thread_id: str, ask: Ask) -> Answered:
    papers = shelf.records.papers(ask.task_id)
    if papers is None:
        return Answered()
    if not _is_asked(papers.envelope, thread_id, ask):
        return Answered(is_anothers=True)
    if papers.manifest:
        return _result(shelf, papers.manifest)
    attempt = max((one.number for one in papers.attempts if isinstance(one.paper, Claim)), default=0)
    return Answered(state=derive(papers, utc_now()).state, attempt=attempt)


def _is_asked(envelope: Envelope, thread_id: str, ask: Ask) -> bool:
    return (envelope.labels.get("thread"), envelope.to) == (thread_id, ask.agent)


def _result(shelf: Shelf, manifest: Completion) -> Answered:
    fault, text, proposes = None, None, None
    try:
        text = _text(shelf, manifest)
        proposes = proposed(shelf, manifest)
    except (EvidenceError, Invalid) as error:
        fault = str(error)
    return Answered(
        state=manifest.status,
        attempt=manifest.attempt,
        manifest=manifest,
        text=text,
        proposes=proposes,
        fault=fault,
    )


def _text(shelf: Shelf, manifest: Completion) -> str | None:
    """The answer, else the report; None where there is neither."""
    artifact = manifest.artifact(ANSWER) or manifest.artifact(REPORT)
    if manifest.status != "completed" or artifact is None:
        return None
    data = shelf.records.artifacts.read(artifact)
    return data[:LONGEST].decode(errors="replace") + (MORE if len(data) > LONGEST else "")


class Last(Message):
    """What was said last in a thread, by whom and when."""

    author: str
    at: datetime
    text: str


class Summary(Message):
    """A thread in a list: what was said last, who is writing, and who was asked and does not write."""

    thread_id: str
    title: str
    by: str
    created_at: datetime
    refinements: Rule
    last: Last | None
    writing: tuple[str, ...]
    waiting: tuple[str, ...]


def summaries(shelf: Shelf, limit: int) -> list[Summary]:
    """The threads that were opened last, the one with the newest message first."""
    ids = shelf.thread_ids()
    threads = [thread for thread_id in ids if (thread := shelf.find(thread_id))]
    newest = sorted(threads, key=lambda thread: (thread.created_at, thread.thread_id))[-limit:]
    found = [_summary(shelf, thread) for thread in newest]
    return sorted(found, key=lambda one: one.last.at if one.last else one.created_at, reverse=True)


def _summary(shelf: Shelf, thread: Thread) -> Summary:
    names = shelf.names(thread.thread_id)
    posts = [post for name in names.messages[-RECENT:] if (post := shelf.posted(thread.thread_id, name))]
    posts.sort(key=lambda post: (post.at, post.message_id))
    growing = [post for post in posts if post.state == "generating" and post.message_id not in names.ends]
    asks = [ask for post in posts[-FEW:] for ask in post.asks]
    answers = {ask: shelf.manifest(ask.task_id) for ask in asks}
    authors = dict.fromkeys(post.author for post in growing)
    unfinished = [(ask.agent, answered(shelf, thread.thread_id, ask)) for ask, known in answers.items() if not known]
    writing = authors | dict.fromkeys(agent for agent, answer in unfinished if answer.state == "processing")
    awaited = (agent for agent, answer in unfinished if _is_awaited(answer))
    return Summary(
        thread_id=thread.thread_id,
        title=thread.title,
        by=thread.by,
        created_at=thread.created_at,
        refinements=thread.refinements,
        last=_last(shelf, thread.thread_id, posts, answers),
        writing=tuple(writing),
        waiting=tuple(dict.fromkeys(agent for agent in awaited if agent not in writing)),
    )


def _is_awaited(answer: Answered) -> bool:
    return answer.state in (None, "pending") and not answer.is_anothers and not answer.fault


def _last(shelf: Shelf, thread_id: str, posts: Sequence[Post], answers: Mapping[Ask, Completion | None]) -> Last | None:
    """The last message, or the answer that was finished since."""
    if not posts:
        return None
    said = Last(author=posts[-1].author, at=posts[-1].at, text=shorten(posts[-1].text, SHOWN))
    since = [(manifest, ask) for ask, manifest in answers.items() if manifest and manifest.finished_at > said.at]
    for manifest, ask in sorted(since, key=lambda one: one[0].finished_at, reverse=True):
        found = answered(shelf, thread_id, ask, states=False)
        if not found.is_anothers:
            text = found.text or manifest.reason or manifest.summary
            return Last(author=ask.agent, at=manifest.finished_at, text=shorten(text, SHOWN))
    return said
