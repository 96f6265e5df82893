"""What a task belongs to: its plan, what it needs and who needs it, and its retries, as a tree."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from agentq.ledger.book import Ledger
from agentq.ledger.rows import Filter, TaskRow

Relation = Literal["", "in plan", "task", "after", "before", "retry of", "retried as"]
_FOLLOWED: dict[Relation, tuple[Relation, ...]] = {
    "": ("in plan", "after", "task", "before", "retry of", "retried as"),
    "in plan": (),
    "task": ("retried as",),
    "after": ("after",),
    "before": ("before",),
    "retry of": ("retry of",),
    "retried as": ("retried as",),
}


@dataclass(slots=True)
class Node:
    """A task in the tree, by what it is to the one above; without a row the ledger does not know it.

    `more` says that there are further tasks below than are shown: how many, or -1 when nobody counted; `again` that
    what is below stands elsewhere in the tree.
    """

    task_id: str
    relation: Relation = ""
    row: TaskRow | None = None
    below: "list[Node]" = field(default_factory=list)
    more: int = 0
    again: bool = False


def tree(ledger: Ledger, task_id: str, *, depth: int, width: int) -> Node:
    """The tree of a task, at most so many steps deep, and with at most so many tasks of a relation below each."""
    return _Grower(ledger, width).grow(task_id, "", depth)


class _Grower:
    def __init__(self, ledger: Ledger, width: int) -> None:
        self._ledger, self._width = ledger, width
        self._seen: set[str] = set()

    def grow(self, task_id: str, relation: Relation, depth: int) -> Node:
        node = Node(task_id, relation, self._ledger.task(task_id))
        node.again = task_id in self._seen
        self._seen.add(task_id)
        if node.row and not node.again:
            for next_relation in _FOLLOWED[relation]:
                self._extend(node, node.row, next_relation, depth)
        return node

    def _extend(self, node: Node, row: TaskRow, relation: Relation, depth: int) -> None:
        ids, total = self._related(row, relation)
        shown = ids[: self._width] if depth > 0 else []
        node.below += [self.grow(task_id, relation, depth - 1) for task_id in shown]
        if len(shown) < len(ids) and node.more >= 0:
            node.more = node.more + total - len(shown) if total >= 0 else -1

    def _related(self, row: TaskRow, relation: Relation) -> tuple[list[str], int]:
        """The ids of related tasks, one more than are shown if there are, and how many there are, -1 for unknown."""
        ids = list(self._ids(row, relation))
        known = {"task": row.members, "before": -1, "retried as": -1}.get(relation, len(ids))
        return ids, known if len(ids) > self._width else len(ids)

    def _ids(self, row: TaskRow, relation: Relation) -> Iterator[str]:
        if relation == "in plan" and row.group:
            yield row.group
        elif relation == "after":
            yield from row.depends_on
        elif relation == "retry of" and row.retry_of:
            yield row.retry_of
        elif relation in ("task", "before", "retried as"):
            yield from (found.task_id for found in self._found(row, relation))

    def _found(self, row: TaskRow, relation: Relation) -> list[TaskRow]:
        if relation == "task":
            return self._ledger.members(row.task_id, self._width + 1) if row.members else []
        if relation == "before":
            return self._ledger.tasks(Filter(needs=row.task_id), self._width + 1)
        return self._ledger.retries(row.task_id, self._width + 1)
