"""The review loop: work, a review of it, work on what that found, and so on, unrolled into a group as it is submitted.

`<id>.work-1, <id>.review-1, <id>.work-2, …` up to the last round are registered at once; those that an approval leaves
without a purpose end as not needed.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from agentq.commit import REPORT
from agentq.errors import EvidenceError, Invalid
from agentq.judgement import SHAPE, VERDICT, read_judgement
from agentq.lifecycle import NOT_NEEDED
from agentq.messages import SUMMARY_LIMIT, Artifact, Completion, Envelope, Outcome, Review, shorten
from agentq.records import Records
from agentq.request import fit

LOOP = "review-loop"
"""The type of a group that is one."""
_FIRST_ONLY = ("depends_on", "run_if", "delay_seconds", "not_before", "requires_approval")
_REVIEW = """\
Review the work of {work}, round {round} of {rounds}, against what was asked for. Your workspace is the repository with
its patch applied; what else it brought is under the results of the tasks that this one needed. You cannot change the
work. Write {shape} to verdict.json in your output folder: `approve` when it can be used as it is, else
`request-changes` with at least one finding, which goes to whoever does the next round.

This is what was asked for:

{instructions}"""
_NEXT = """\
{instructions}

This is round {round} of {rounds}: your workspace begins with the patch of {before}. {review} requests changes:
mend what it found. Your patch is then all of the work, not only what you add."""


def unrolled(
    request: Envelope, review: Review, review_type: str, context: bytes | None, ref: Callable[[str], str]
) -> tuple[Envelope, dict[str, bytes]]:
    """The group for a request whose work is to be reviewed, and the contexts to be put to `tasks/<id>.md` before.

    When the work starts (`--after`, `--delay`, an approval) is said of the first round; the budget is the group's. How
    an attempt is bounded holds for work and reviews alike. Raises Invalid for what does not fit an envelope.
    """
    fitted = [fit(task, context, ref) for task in _members(request, review, review_type)]
    plan = tuple(task for task, _ in fitted)
    group = Envelope.model_validate(
        {
            **_those(request, "task_id", "from_", "priority", "reply_to", "labels", "budget", "traceparent"),
            "to": "agentq",
            "type": LOOP,
            "instructions": shorten(request.instructions, SUMMARY_LIMIT),
            "review": review,
        }
    )
    contexts = {task.task_id: data for task, data in fitted if data is not None}
    return group.model_copy(update={"plan": plan}), contexts


def _those(request: Envelope, *names: str) -> dict[str, Any]:
    return {name: getattr(request, name) for name in names}


def _members(request: Envelope, review: Review, review_type: str) -> Iterator[Envelope]:
    for number in range(1, review.rounds + 1):
        yield (_first(request) if number == 1 else _again(request, review.rounds, number))
        yield _reviewing(request, review, review_type, number)


def _name(request: Envelope, what: str, number: int) -> str:
    return f"{request.task_id}.{what}-{number}"


def _first(request: Envelope) -> Envelope:
    own = {"task_id": _name(request, "work", 1), "group": request.task_id, "reply_to": None, "budget": None}
    return Envelope.model_validate({**_fields(request), **own})


def _again(request: Envelope, rounds: int, number: int) -> Envelope:
    before, review = _name(request, "work", number - 1), _name(request, "review", number - 1)
    text = _NEXT.format(instructions=request.instructions, round=number, rounds=rounds, before=before, review=review)
    own = {
        "task_id": _name(request, "work", number),
        "instructions": text,
        "depends_on": (before, review),
        "run_if": "changes_requested",
        "continues": before,
    }
    return Envelope.model_validate({**_later(request), **own})


def _reviewing(request: Envelope, review: Review, review_type: str, number: int) -> Envelope:
    work = _name(request, "work", number)
    told = {"work": work, "round": number, "rounds": review.rounds, "shape": SHAPE}
    earlier = (_name(request, "review", number - 1),) if number > 1 else ()
    own = {
        "task_id": _name(request, "review", number),
        "to": review.by,
        "type": review_type,
        "instructions": _REVIEW.format(instructions=request.instructions, **told),
        "expected_output": {"artifacts": (VERDICT,)},
        "depends_on": (work, *earlier),
        "continues": work,
    }
    return Envelope.model_validate({**_later(request), **own})


def _fields(request: Envelope) -> dict[str, Any]:
    return {name: getattr(request, name) for name in type(request).model_fields} | (request.model_extra or {})


def _later(request: Envelope) -> dict[str, Any]:
    """What holds for every task after the first one."""
    values = {name: value for name, value in _fields(request).items() if name not in _FIRST_ONLY}
    return values | {"group": request.task_id, "reply_to": None, "budget": None}


@dataclass(frozen=True, slots=True)
class Conclusion:
    """How a group ends, why or as what, and what its result brings beside its report."""

    status: Outcome
    reason: str | None
    summary: str
    verified: bool
    artifacts: tuple[Artifact, ...] = ()


def concluded(records: Records, ended: Sequence[Completion]) -> Conclusion:
    """What comes of the ends of a loop's tasks, given in their order. Raises StoreUnavailable."""
    rounds = list(zip(ended[::2], ended[1::2], strict=True))
    last = next((i for i, (work, review) in enumerate(rounds) if _ends(work, review)), len(rounds) - 1)
    work, review = rounds[last]
    status, reason = _outcome(records, work, review, len(rounds))
    done = [work for work, _ in rounds[: last + 1] if work.status == "completed"]
    reviews = [review for _, review in rounds[: last + 1] if review.status == "completed"]
    said = done[-1].summary if done else ""
    approved = f"approved in round {last + 1}" if status == "completed" else ""
    return Conclusion(
        status,
        reason,
        shorten(": ".join(filter(None, (approved, said))), SUMMARY_LIMIT),
        status == "completed" and work.verified,
        tuple(_brought(done[-1] if done else work, reviews[-1] if reviews else None)),
    )


def _ends(work: Completion, review: Completion) -> bool:
    """Whether no round follows this one."""
    return work.status != "completed" or review.status != "completed" or review.verdict != "request-changes"


def _outcome(records: Records, work: Completion, review: Completion, rounds: int) -> tuple[Outcome, str | None]:
    for one in (work, review):
        if one.status != "completed":
            status: Outcome = "cancelled" if one.status == "cancelled" else "failed"
            return status, f"{one.task_id} {one.status}{f': {one.reason}' if one.reason else ''}"
    if review.verdict == "approve":
        return "completed", None
    if review.verdict is None:
        return "failed", f"not approved: {review.task_id} was completed by {review.from_} without a verdict"
    times = "1 round" if rounds == 1 else f"{rounds} rounds"
    return "failed", f"not approved after {times}: {_first_finding(records, review)}"


def _first_finding(records: Records, review: Completion) -> str:
    found = review.artifact(VERDICT)
    with contextlib.suppress(EvidenceError, Invalid):
        if found:
            return next(read_judgement(records.artifacts.read(found)).lines(1))
    return review.summary or f"{review.task_id} requests changes"


def _brought(work: Completion, review: Completion | None) -> Iterator[Artifact]:
    """The work's evidence under its own names, and the review's report and verdict; the report is the loop's own."""
    taken = {REPORT}
    for artifact in work.artifacts:
        yield _named(artifact, artifact.name, "work-", taken)
    for artifact in review.artifacts if review else ():
        if artifact.name in (REPORT, VERDICT):
            yield _named(artifact, f"review-{artifact.name}", "review-", taken)


def _named(artifact: Artifact, name: str, prefix: str, taken: set[str]) -> Artifact:
    while name in taken:
        name = f"{prefix}{name}"
    taken.add(name)
    return artifact.model_copy(update={"name": name})


def was_needed(manifest: Completion) -> bool:
    """False for a task of a round that an earlier approval left without a purpose."""
    return manifest.status != "cancelled" or not (manifest.reason or "").startswith(NOT_NEEDED)
