"""What a worker's token may do with the objects of the store, which it reaches through its door alone.

A token is of one agent, A. A task is *own* when its registered envelope is for A, and *within reach* when it is own, or
waits for one that is (a dependent, a plan), however far. What is within reach may be settled, for that is what an end
does to others; what a task of A builds on (what it needs, its context) is *near*: it may be read. This is all that a
worker touches, and why:

| key | reads | writes |
|---|---|---|
| `tasks/<id>.json` | within reach, near, or not there | created: what came into A's queue; a plan's task as it says |
| `tasks/<id>.md`, any context | of a task within reach, or near | never |
| `attempts/<id>/<n>.json` | within reach, near | created: A's claim of an own open task; a seal that follows |
| `attempts/<id>/<n>.lease.json` | the same | replaced by the claim's own token |
| `attempts/<id>/<n>.end.json` | the same | created, for A's own attempt |
| `artifacts/<id>/<n>/…` | the same | A's own attempt; never what a result or an end names |
| `artifacts/<id>/plan/report.md`, `…/found-<d>/report.md` | the same | what settling a plan, or a report, adds |
| `controls/<id>/…` | the same; all `collected` | created: `released`, own `approval-demanded`, plan's `cancel` |
| `results/<id>.json` | within reach, near | created: of A's own attempt; what a seal or a plan's end says |
| `results/<id>.md` | the same | the report that the result names |
| `inbox/<who>/<id>.json` | never | the result, to whom it is for, until the task is settled |
| `open/`, `outbox/` | what is within reach | put before the end, removed (`open/`) after it |
| `waits/`, `uses/`, `expiring/` | any; listed by task | put while it is registered, removed when it has ended |
| `probes/<hex>` | any | the proof that puts are conditional, at a worker's start |
| all others (`access/`, threads, approvals …) | never | never |

Papers are created, never replaced; nothing but marks and probes is deleted. Of what is not registered yet nobody knows
whose it is: its marks may be put (a task's marks come before it), and `gc` removes those that stay alone.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from agentq.app import App
from agentq.gateway.paper_rights import PaperRights, out_of_reach, refused
from agentq.gateway.reach import Known, Reach
from agentq.messages import is_key
from agentq.records import CANCEL, COLLECTED, DEMAND, RELEASE
from agentq.store import segments
from agentq.tokens import Grant

_ATTEMPT = re.compile(r"([1-9]\d{0,8})\.json")
_LEASE = re.compile(r"([1-9]\d{0,8})\.lease\.json")
_END = re.compile(r"([1-9]\d{0,8})\.end\.json")
_PROBE = re.compile(r"[0-9a-f]{32}")
_DEADLINE = re.compile(r"\d{8}T\d{6}Z_(.+)")
MARKS = ("open", "outbox", "waits", "uses", "expiring")


@dataclass(frozen=True, slots=True)
class Content:
    """What is to be written: its digest, and itself unless it is large."""

    sha256: str
    data: bytes | None


class Rights:
    """What a grant may do with objects; every method raises Refused (`write` Invalid, too), and reads papers: it
    blocks."""

    def __init__(self, grant: Grant, app: App, reach: Reach) -> None:
        self.grant = grant
        self._agent = grant.agent or ""
        self._records, self._store, self._reach = app.records, app.store, reach
        self._papers = PaperRights(self._agent, app.records, reach)

    # ------------------------------------------------------------------ reading

    def read(self, key: str) -> None:
        """Read an object."""
        top, *rest = self._parts(key)
        if self.grant.is_everything or top in (*MARKS[1:], "probes"):
            return
        task_id = _task_of(top, rest)
        if rest[1:] == [COLLECTED] and top == "controls":
            return
        if not (task_id and self._may_read(task_id, key)) and not self._is_context(key):
            raise refused(f"{key} is out of reach of {self._agent}")

    def listing(self, prefix: str) -> Callable[[str], bool]:
        """List what is below a prefix; answers with which keys may be shown."""
        top, *rest = self._parts(prefix.removesuffix("/"))
        if self.grant.is_everything:
            return lambda _: True
        if top in ("open", "outbox") and not rest:
            return lambda key: self._reach.holds(self._agent, key.split("/", 1)[1])
        if not rest or top in ("inbox", "tasks", "results"):
            raise refused(f"what is below {prefix} is not listed to workers")
        self.read(f"{prefix.removesuffix('/')}/any")
        return lambda _: True

    def _may_read(self, task_id: str, key: str) -> bool:
        if self._reach.is_readable(self._agent, task_id):
            return True
        return self._reach.known(task_id) is None and not key.endswith(".md")

    def _is_context(self, key: str) -> bool:
        """Whether a task within reach has it for its context, wherever that lies."""
        return not key.startswith("inbox/") and self._reach.is_near(self._agent, key)

    # ------------------------------------------------------------------ writing

    def write(self, key: str, *, create: bool, content: Content | None = None) -> None:
        """Create or replace an object; without its content only what can be told without it."""
        top, *rest = self._parts(key)
        if self.grant.is_everything:
            return
        act = {
            "tasks": self._write_task,
            "attempts": self._write_attempt,
            "artifacts": self._write_artifact,
            "controls": self._write_control,
            "results": self._write_result,
            "inbox": self._write_notice,
            "probes": self._write_probe,
        }.get(top, self._write_mark if top in MARKS else None)
        replaced = top in _REPLACED and not key.endswith("/proposal.json")
        if act is None or not (create or replaced or key.endswith((".lease.json", ".md"))):
            raise refused(f"no worker writes {key}")
        act([top, *rest], content)

    def _write_task(self, parts: list[str], content: Content | None) -> None:
        _, name = _exactly(parts, 2)
        if not name.endswith(".json"):
            raise refused(f"no worker writes {'/'.join(parts)}")
        if content:
            self._papers.task(name.removesuffix(".json"), _held(content))

    def _write_attempt(self, parts: list[str], content: Content | None) -> None:
        _, task_id, name = _exactly(parts, 3)
        self._must_reach(task_id)
        for pattern, check in (
            (_ATTEMPT, self._papers.attempt),
            (_LEASE, self._papers.lease),
            (_END, self._papers.end),
        ):
            if found := pattern.fullmatch(name):
                return check(task_id, int(found[1]), _held(content)) if content else None
        raise refused(f"there is no paper {name} of an attempt")

    def _write_artifact(self, parts: list[str], content: Content | None) -> None:
        if len(parts) < 4:
            raise refused("evidence lies below its attempt")
        _, task_id, place, name = (*parts[:3], "/".join(parts[3:]))
        self._must_reach(task_id)
        if place.isdecimal() and name == "proposal.json":
            return self._papers.proposal(task_id, int(place), _held(content)) if content else None
        if place.isdecimal():
            return self._papers.evidence(task_id, int(place), "/".join(parts))
        if content:
            self._papers.filed(task_id, place, name, content.sha256)

    def _write_control(self, parts: list[str], content: Content | None) -> None:
        _, task_id, name = _exactly(parts, 3)
        self._must_reach(task_id)
        check = {RELEASE: self._papers.release, DEMAND: self._papers.demand, CANCEL: self._papers.cancel}.get(name)
        if check is None:
            raise refused(f"{name} of {task_id} is not for workers to write")
        if content:
            check(task_id, _held(content))

    def _write_result(self, parts: list[str], content: Content | None) -> None:
        _, name = _exactly(parts, 2)
        task_id, _, kind = name.rpartition(".")
        self._must_reach(task_id)
        if kind == "json" and content:
            self._papers.result(task_id, _held(content))
        elif kind == "md" and content:
            self._papers.report(task_id, content.sha256)
        elif kind not in ("json", "md"):
            raise refused(f"no worker writes {'/'.join(parts)}")

    def _write_notice(self, parts: list[str], content: Content | None) -> None:
        _, coordinator, name = _exactly(parts, 3)
        task_id = name.removesuffix(".json")
        self._must_reach(task_id)
        if content:
            self._papers.notice(task_id, coordinator, _held(content))

    def _write_probe(self, parts: list[str], content: Content | None) -> None:
        _, name = _exactly(parts, 2)
        if not _PROBE.fullmatch(name) or (content and len(_held(content)) > 64):
            raise refused("that is no probe")

    # ------------------------------------------------------------------ marks

    def _write_mark(self, parts: list[str], content: Content | None) -> None:
        """A mark of a task that has not ended, or is not registered yet."""
        task_id = _marked(parts)
        known = self._reach.known(task_id)
        if known is not None:
            self._must_reach(task_id)
            if self._records.manifest(task_id):
                raise refused(f"{task_id} has ended")
        if parts[0] in ("waits", "uses"):
            self._must_build_on(task_id, known, parts[1])
        if content and _held(content):
            raise refused("a mark is empty")

    def _must_build_on(self, task_id: str, known: Known | None, other: str) -> None:
        """A task builds on that one, or could if it were registered."""
        if known is not None and other not in known.builds_on:
            raise refused(f"{task_id} does not build on {other}")
        if known is None and self._reach.known(other) and not self._reach.is_readable(self._agent, other):
            raise out_of_reach(task_id, other)

    def delete(self, key: str) -> None:
        """Delete a mark that has done its work, or a probe."""
        parts = self._parts(key)
        if self.grant.is_everything or (parts[0] == "probes" and len(parts) == 2 and _PROBE.fullmatch(parts[1])):
            return
        if parts[0] not in MARKS:
            raise refused(f"no worker deletes {key}")
        task_id = _marked(parts)
        if self._reach.known(task_id) is None:
            return  # its registration was given up
        self._must_reach(task_id)
        done = parts[1] if parts[0] == "waits" else task_id
        if parts[0] != "outbox" and not (self._records.manifest(task_id) or self._records.manifest(done)):
            raise refused(f"{task_id} has not ended")

    # ------------------------------------------------------------------

    def _must_reach(self, task_id: str) -> None:
        if not self._reach.holds(self._agent, task_id):
            raise refused(f"{task_id} is no task of {self._agent}, and waits for none")

    def _parts(self, key: str) -> list[str]:
        parts = segments(key)
        if parts[0] == "access":
            raise refused("tokens are out of reach here")
        return parts


_REPLACED = frozenset({"artifacts", "inbox", *MARKS})
"""What is replaced, too: evidence that nothing names yet, and what is put again by whoever settles again."""


def _task_of(top: str, rest: list[str]) -> str | None:
    """The task that a key of these parts is of, None for a key of none."""
    if top in ("tasks", "results") and len(rest) == 1:
        name = rest[0].removesuffix(".json").removesuffix(".md")
        return name if is_key(name, 128) and name != rest[0] else None
    if top in ("attempts", "artifacts", "controls") and len(rest) >= 2:
        return rest[0]
    return rest[0] if top == "open" and len(rest) == 1 else None


def _marked(parts: list[str]) -> str:
    """The task whose mark it is."""
    top, *rest = parts
    task_id = _exactly(rest, 1)[0] if top in ("open", "outbox") else _exactly(rest, 2)[1]
    if top == "expiring":
        found = _DEADLINE.fullmatch(task_id)
        task_id = found[1] if found else ""
    if not is_key(task_id, 128):
        raise refused(f"{'/'.join(parts)} is no mark")
    return task_id


def _exactly(parts: list[str], count: int) -> list[str]:
    if len(parts) != count:
        raise refused(f"no worker writes {'/'.join(parts)}")
    return parts


def _held(content: Content) -> bytes:
    """A paper's bytes."""
    if content.data is None:
        raise refused("that is too long for a paper")
    return content.data
