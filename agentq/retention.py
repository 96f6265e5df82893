"""Retention: removing the evidence of tasks that ended long ago, and what nobody owns.

Whoever needs a finished task's evidence marks that first and then looks whether it was collected; `gc` says that it
collects and then looks at the marks. So one of two who meet at least sees the other, and nothing that is needed goes.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from pydantic import AwareDatetime, Field

from agentq.contest import stale
from agentq.errors import EvidenceError, StoreUnavailable
from agentq.messages import Completion, Message, task_in, utc_now
from agentq.papers import Collected
from agentq.records import COLLECTED, Records
from agentq.store import Store, names_in

MARKS = ("open", "outbox")
GENERATED = re.compile(r"task-\d{8}-\d{6}-[0-9a-f]{8}")
"""Ids that agentq made: a document under another name may be somebody's brief that waits to be submitted."""
WRITING_SECONDS = 86400.0
"""A file that somebody still writes to is not taken for a dead writer's before that."""
_NUMBER = re.compile(r"/(\d+)\.[^/]*$")


class Found(Message):
    """When marks of a task that nobody registered were first found."""

    at: AwareDatetime


class Gathered(Message):
    """What was, or with a dry run would be, collected: tasks, the bytes of their artifacts, marks that nobody owned,
    what dead writers left (not counted in a dry run); and how many finished tasks were kept, by why."""

    tasks: tuple[str, ...] = ()
    bytes: int = 0
    unowned: int = 0
    temporaries: int = 0
    kept: dict[str, int] = Field(default_factory=dict)


@dataclass(slots=True)
class _Inventory:
    """What lies in the store, by the ids of tasks; listed, not read."""

    registered: set[str] = field(default_factory=set)
    ended: set[str] = field(default_factory=set)
    open: set[str] = field(default_factory=set)
    arriving: set[str] = field(default_factory=set)
    collected: set[str] = field(default_factory=set)
    evidence: set[str] = field(default_factory=set)
    found: set[str] = field(default_factory=set)
    unread: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    marks: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    @property
    def settled(self) -> set[str]:
        """The tasks that are over and done with."""
        return (self.ended & self.registered) - self.open - self.arriving

    @property
    def unowned(self) -> dict[str, list[str]]:
        """The marks of tasks that nobody registered, by their ids."""
        known = self.registered | self.arriving
        return {task_id: keys for task_id, keys in self.marks.items() if task_id not in known}


class Retention:
    """Collects in one store what is older than a limit; with `unread` also what its coordinator has not read yet."""

    def __init__(self, records: Records, older_than: timedelta, *, unread: bool = False) -> None:
        self._records = records
        self._store = records.store
        self._before = utc_now() - older_than
        self._dead_for = max(older_than.total_seconds(), WRITING_SECONDS)
        self._unread = unread
        self._kept: Counter[str] = Counter()

    def collect(self, *, dry_run: bool = False) -> Gathered:
        """Collect, or only say what would be; one that died half-way is finished by the next."""
        there = _take_inventory(self._store)
        sizes = dict(self._choose(there))
        unowned = list(self._find_unowned(there, note=not dry_run))
        if dry_run:
            return self._gathered(sizes, sum(sizes.values()), len(unowned))
        for task_id in sizes:
            self._records.collect(task_id, Collected(at=utc_now()))
        needed, freed, collected = _needed(self._records), 0, []
        for task_id, size in sizes.items():
            if task_id in needed:  # somebody came since it was chosen
                self._kept["needed"] += 1
                continue
            freed += size
            self._remove(task_id, there)
            collected.append(task_id)
        for key in unowned:
            self._store.delete(key)
        temporaries = self._store.remove_temporaries(self._dead_for)
        return self._gathered(collected, freed, len(unowned), temporaries)

    def _gathered(self, tasks: Iterable[str], freed: int, unowned: int, temporaries: int = 0) -> Gathered:
        kept = dict(sorted(self._kept.items()))
        return Gathered(tasks=tuple(tasks), bytes=freed, unowned=unowned, temporaries=temporaries, kept=kept)

    # ------------------------------------------------------------------ choosing

    def _choose(self, there: _Inventory) -> Iterator[tuple[str, int]]:
        """The tasks to collect and the bytes of their artifacts: also those whose collector died half-way.

        A group comes before its tasks, and is kept with those whose evidence its result names.
        """
        needed = _needed(self._records)
        for task_id in sorted(there.settled):
            if task_id in there.collected and task_id not in there.evidence:
                continue
            try:
                manifest = self._records.manifest(task_id)
            except EvidenceError:
                manifest = None
            why = "damaged" if manifest is None else self._stays(manifest, there, needed)
            if why:
                self._kept[why] += 1
                needed |= _others_in(manifest)
            elif manifest:
                yield task_id, self._size(manifest)

    def _stays(self, manifest: Completion, there: _Inventory, needed: set[str]) -> str | None:
        """Why a finished task is kept."""
        if manifest.finished_at > self._before and manifest.task_id not in there.collected:
            return "young"
        if manifest.task_id in there.unread and not self._unread:
            return "unread"
        return "needed" if manifest.task_id in needed else None

    def _find_unowned(self, there: _Inventory, *, note: bool) -> Iterator[str]:
        """The marks of ended tasks that came late, those of tasks that nobody registered for as long as the limit since
        they were first found, and what old turns left."""
        unowned = there.unowned
        for task_id in there.settled & there.marks.keys():
            yield from (
                key for key in there.marks[task_id] if key.startswith(("waits/", "uses/", "chats/", "expiring/"))
            )
        for task_id, keys in unowned.items():
            since = self._found(task_id)
            if since and since <= self._before:
                yield from [*keys, f"found/{task_id}.json"]
            elif since is None and note:
                self._store.put(f"found/{task_id}.json", Found(at=utc_now()).to_json())
        yield from (f"found/{task_id}.json" for task_id in there.found - unowned.keys())
        yield from stale(self._store, utc_now() - timedelta(seconds=self._dead_for))

    def _found(self, task_id: str) -> datetime | None:
        data = self._store.get(f"found/{task_id}.json")
        return Found.model_validate_json(data).at if data else None

    # ------------------------------------------------------------------ removing

    def _size(self, manifest: Completion) -> int:
        """The bytes of a task's artifacts, as its papers say."""
        try:
            attempts = self._records.attempts(manifest.task_id)
        except (EvidenceError, StoreUnavailable):  # half of it is gone
            attempts = ()
        ends = (artifact for attempt in attempts if attempt.end for artifact in attempt.end.artifacts)
        return sum({artifact.ref: artifact.bytes for artifact in (*manifest.artifacts, *ends)}.values())

    def _remove(self, task_id: str, there: _Inventory) -> None:
        """Remove all but the envelope, the manifest, and the word that it was collected."""
        store = self._store
        for key in there.unread.get(task_id, ()):
            store.delete(key)
        for folder in ("artifacts", "waits", "uses"):
            for key in list(store.keys(f"{folder}/{task_id}/")):
                store.delete(key)
        for key in sorted(store.keys(f"attempts/{task_id}/"), key=_number, reverse=True):  # no gap is ever seen
            store.delete(key)
        for key in list(store.keys(f"controls/{task_id}/")):
            if not key.endswith(f"/{COLLECTED}"):
                store.delete(key)
        for key in (f"tasks/{task_id}.md", f"results/{task_id}.md"):
            store.delete(key)


def _others_in(manifest: Completion | None) -> set[str]:
    """The other tasks whose evidence a result names."""
    owners = {task_in(artifact.ref) for artifact in manifest.artifacts} if manifest else set()
    return {owner for owner in owners if owner} - {manifest.task_id if manifest else ""}


def _needed(records: Records) -> set[str]:
    """The tasks whose evidence somebody needs that has not ended, or that is being registered."""
    live = {task_id for task_id in records.marks.unsettled() if records.manifest(task_id) is None}
    needed = set()
    for task_id in live:
        envelope = records.envelope(task_id)
        if envelope:
            needed |= {*envelope.waits_on, *envelope.borrows}
    for top in ("waits/", "uses/"):
        for key in records.store.keys(top):
            _, owner, user = key.split("/")
            if user in live:
                needed.add(owner)
    return needed


def _take_inventory(store: Store) -> _Inventory:
    there = _Inventory()
    for name in _names(store, "tasks/", ".json"):
        there.registered.add(name)
    there.ended = set(_names(store, "results/", ".json"))
    there.open, there.arriving = set(_names(store, "open/")), set(_names(store, "arriving/"))
    there.found = set(_names(store, "found/", ".json"))
    there.evidence = {*_names(store, "tasks/", ".md"), *_names(store, "results/", ".md")}
    for top in ("artifacts/", "attempts/", "controls/"):
        for key in store.keys(top):
            task_id = key.split("/")[1]
            (there.collected if key.endswith(f"/{COLLECTED}") else there.evidence).add(task_id)
    for key in store.keys("inbox/"):
        there.unread[_last(key).removesuffix(".json")].append(key)
    for task_id, key in _marks(store):
        there.marks[task_id].append(key)
    return there


def _marks(store: Store) -> Iterator[tuple[str, str]]:
    """What a submit puts down before its task is registered: the task's id, and the key."""
    for top in ("waits/", "uses/", "chats/"):
        yield from ((_last(key), key) for key in store.keys(top))
    yield from ((_last(key).partition("_")[2], key) for key in store.keys("expiring/"))
    yield from ((_last(key), key) for top in MARKS for key in store.keys(f"{top}/"))
    yield from ((name, f"tasks/{name}.md") for name in _names(store, "tasks/", ".md") if GENERATED.fullmatch(name))


def _names(store: Store, prefix: str, suffix: str = "") -> Iterator[str]:
    return (name.removesuffix(suffix) for name in names_in(store.keys(prefix)) if name.endswith(suffix))


def _last(key: str) -> str:
    return key.rsplit("/", 1)[1]


def _number(key: str) -> int:
    match = _NUMBER.search(key)
    return int(match[1]) if match else 0
