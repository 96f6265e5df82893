"""Reads a plan file: all of it is checked before anything is written, and all that is wrong is told together."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from difflib import get_close_matches
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from agentq.context import Context, context_at, read_context
from agentq.errors import Invalid
from agentq.messages import Envelope, is_key, task_in
from agentq.planfile import PLAN_LIMIT, Faults, Node, parse
from agentq.request import DO_CONTEXT, ahead, budget_of, fit, is_url, moment, seconds
from agentq.store import Store

TASKS_LIMIT = 1000
CONTEXTS_LIMIT = 256 * 1024 * 1024

PLAN_KEYS = ("plan", "description", "labels", "budget", "defaults", "tasks")
BUDGET_KEYS = ("max_cost_usd", "max_tokens")
FIELDS = {
    "to": "to",
    "type": "type",
    "instructions": "instructions",
    "priority": "priority",
    "ttl": "ttl_seconds",
    "timeout": "timeout_seconds",
    "max_attempts": "max_attempts",
    "delay": "delay_seconds",
    "at": "not_before",
    "labels": "labels",
    "requires_approval": "requires_approval",
    "run_if": "run_if",
}
TASK_KEYS = (*FIELDS, *BUDGET_KEYS, "file", "context_ref", "expect", "format", "repo", "base", "needs", "after")
_KEYS = {name: key for key, name in FIELDS.items()} | {
    "expected_output.artifacts": "expect",
    "expected_output.format": "format",
    "depends_on": "after",
    **{f"budget.{key}": key for key in BUDGET_KEYS},
}
_RIVALS = {"delay": "at", "at": "delay", "file": "context_ref", "context_ref": "file"}
_CONTEXTS = ("file", "context_ref")
_NAME_RULE = "Write letters, digits, '.', '_' and '-', starting with a letter or digit."

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Planned:
    """A plan that may be registered: its group, and the contexts to be put to `tasks/<id>.md` before."""

    request: Envelope
    contexts: Mapping[str, bytes]

    @property
    def outside(self) -> tuple[str, ...]:
        """The tasks outside the plan that tasks of it wait for."""
        own = {task.task_id for task in self.request.plan}
        return tuple(dict.fromkeys(need for task in self.request.plan for need in task.depends_on if need not in own))


def read_plan(
    store: Store,
    source: Path | bytes,
    *,
    coordinator: str,
    check_target: Callable[[str, str], None],
    plan_id: str | None = None,
    allow_secrets: bool = True,
    is_ours: bool = True,
    called: str = "standard input",
) -> Planned:
    """Read a plan from a file or from its content; raises Invalid with all that is wrong, and writes nothing.

    Unless secrets are allowed, what looks like a credential in the file is wrong too. Paths in it are relative to the
    file. `plan_id` holds over its own; `check_target` raises Invalid for an agent and a type that cannot be. One that
    is not ours, but came from another machine, may name no file of this one, and no paper but a task's. Content that is
    no file is `called` so in words.
    """
    faults = Faults(str(source) if isinstance(source, Path) else called)
    root = parse(source, faults, allow_secrets=allow_secrets)
    folder = source.parent if isinstance(source, Path) else Path()
    return _Reader(store, folder, coordinator, check_target, faults, root, plan_id, is_ours).read()


# ---------------------------------------------------------------------- values


def _budget(values: Mapping[str, Any]) -> dict[str, object] | None:
    return budget_of(*(values.get(key) for key in BUDGET_KEYS))


def _duration(node: Node) -> float:
    return seconds(node.where, node.text())


_READ: Mapping[str, Callable[[Node], Any]] = {
    "ttl": _duration,
    "timeout": _duration,
    "delay": _duration,
    "labels": Node.pairs,
    "expect": Node.texts,
    "needs": Node.texts,
    "after": Node.texts,
}


def _nearest(text: str, known: Collection[str], otherwise: str) -> Callable[[], str]:
    def hint() -> str:
        near = get_close_matches(text[:128], known, n=1)
        return f"Did you mean {near[0]}?" if near else otherwise

    return hint


# ---------------------------------------------------------------------- the plan


@dataclass(frozen=True)
class _Reader:
    """Reads one plan; what is wrong with it is noted, and the reading goes on."""

    store: Store
    folder: Path
    coordinator: str
    check_target: Callable[[str, str], None]
    faults: Faults
    root: Node
    given_id: str | None
    is_ours: bool = True
    needs: dict[str, list[str]] = field(default_factory=dict)
    contexts: dict[str, bytes] = field(default_factory=dict)

    def read(self) -> Planned:
        """The plan; raises Invalid."""
        group = self._group()
        requests = {name: self._task(name, node) for name, node in self.tasks.items()}
        order = self._order()
        self.faults.tell()
        assert group
        request = group.model_copy(update={"plan": tuple(requests[name] for name in order)})
        size = len(request.to_json())
        if size > PLAN_LIMIT:
            hint = "Put long instructions into files: `file: PATH`."
            self.faults.add(self.root, f"the plan would have {size} bytes, {PLAN_LIMIT} is the limit", hint)
        self.faults.tell()
        return Planned(request, self.contexts)

    # ------------------------------------------------------------------ what stands at the top

    @cached_property
    def top(self) -> dict[str, Node]:
        """The keys of the file."""
        return self._keys(self.root, PLAN_KEYS)

    @cached_property
    def plan_id(self) -> str:
        """The plan's id."""
        node = self.top.get("plan", self.root)
        with self.faults.of(node):
            found = self.given_id or (node.text() if "plan" in self.top else "")
            if not found:
                raise Invalid("the plan has no id", hint="Write `plan: ID` at the top, or give --id.")
            if not is_key(found, 128):
                raise Invalid(f"{found!r} is no plan's id", hint=f"{_NAME_RULE[:-1]}, at most 128 long.")
            return found
        return "plan"

    @cached_property
    def is_registered(self) -> bool:
        """Whether a plan of that id is registered already: then its times may have passed."""
        return self.store.get(f"tasks/{self.plan_id}.json") is not None

    @cached_property
    def defaults(self) -> dict[str, Node]:
        """What holds for every task that does not say otherwise."""
        return self._keys(self.top["defaults"], TASK_KEYS) if "defaults" in self.top else {}

    @cached_property
    def tasks(self) -> dict[str, Node]:
        """The tasks by name."""
        node = self.top.get("tasks", self.root)
        tasks = node.value if "tasks" in self.top else None
        if isinstance(tasks, list):
            tasks = self._by_name(tasks)
        if not isinstance(tasks, dict) or not tasks:
            self.faults.add(node, "there are no tasks", "Write a mapping of names to tasks: `tasks: {name: {…}}`.")
            return {}
        if len(tasks) > TASKS_LIMIT:
            self.faults.add(node, f"there are {len(tasks)} tasks, {TASKS_LIMIT} is the limit", "Make several plans.")
            self.faults.tell()
        return tasks

    def _by_name(self, items: list[Node]) -> dict[str, Node]:
        """A list of tasks, each with its `name`, as the mapping that it stands for."""
        tasks: dict[str, Node] = {}
        for item in items:
            with self.faults.of(item):
                named = item.value.get("name") if isinstance(item.value, dict) else None
                if named is None or not isinstance(item.value, dict):
                    raise Invalid("a task of a list has no name", hint="Write `- name: NAME` first.")
                name = named.text()
                if name in tasks:
                    raise Invalid(f"there are two tasks {name!r}", hint="Give one of them another name.")
                keys = {key: value for key, value in item.value.items() if key != "name"}
                tasks[name] = Node(keys, f"{item.where}.{name}", item.line)
        return tasks

    @cached_property
    def ids(self) -> frozenset[str]:
        """The ids of the plan and of its tasks."""
        return frozenset((self.plan_id, *map(self._id_of, self.tasks)))

    def _id_of(self, name: str) -> str:
        return f"{self.plan_id}.{name}"

    def _group(self) -> Envelope | None:
        """The request of the plan itself, still without its tasks."""
        nodes = {key: node for key, node in self.top.items() if key in ("description", "labels")}
        budget = self._keys(self.top["budget"], BUDGET_KEYS) if "budget" in self.top else {}
        values = self._values({**nodes, **budget})
        request = {
            "task_id": self.plan_id,
            "to": "agentq",
            "type": "plan",
            "reply_to": f"results.{self.coordinator}",
            "instructions": values.get("description", "The tasks of the plan."),
            "labels": values.get("labels", {}),
            "budget": _budget(values),
        }
        return self._envelope(self.root, {"instructions": nodes.get("description", self.root), **budget}, request)

    def _keys(self, node: Node, known: Collection[str]) -> dict[str, Node]:
        """The known keys of a mapping."""
        if not isinstance(node.value, dict):
            self.faults.add(node, f"it should be a mapping, not {node.kind}", "Write `key: value` lines.")
            return {}
        for key, value in node.value.items():
            if key not in known:
                self.faults.add(value, "there is no such key", _nearest(key, known, f"Known: {', '.join(known)}."))
        return {key: value for key, value in node.value.items() if key in known}

    def _values(self, nodes: Mapping[str, Node]) -> dict[str, Any]:
        """What the keys say, without those that are wrong."""
        own = {"at": self._time, "repo": self._repo}
        values = {}
        for key, node in nodes.items():
            with self.faults.of(node):
                values[key] = (own.get(key) or _READ.get(key, Node.text))(node)
        return values

    def _time(self, node: Node) -> datetime:
        return (moment if self.is_registered else ahead)(node.where, node.text())

    def _repo(self, node: Node) -> str:
        text = node.text()
        if not text.strip():
            raise Invalid("it is empty", hint="Name a folder on the worker's machine, or a URL.")
        is_elsewhere = is_url(text) or (text.startswith("/") and not self.is_ours)
        return text if is_elsewhere else str(self._on_path(text, Path.resolve))

    def _on_path(self, text: str, act: Callable[[Path], T]) -> T:
        """What comes of a path that is relative to the file."""
        if not self.is_ours:
            raise Invalid("there is no such path where this plan is read", hint="Write the text itself, or a URL.")
        try:
            return act(self.folder / Path(text).expanduser())
        except (OSError, ValueError, RuntimeError) as error:
            raise Invalid(f"{text!r} is no path: {error}", hint="Name a file or folder that exists.") from error

    # ------------------------------------------------------------------ one task

    def _task(self, name: str, node: Node) -> Envelope | None:
        """The request of one task, None when something is wrong with it."""
        given = self._keys(node, TASK_KEYS)
        nodes = {key: at for key, at in self.defaults.items() if _RIVALS.get(key) not in given} | given
        values = self._values(nodes)
        self.needs[name] = self._known_needs(name, values.get("needs", []), nodes)
        self._check_together(nodes, values)
        context = self._context(nodes, values)
        is_whole = isinstance(node.value, dict) and len(given) == len(node.value) and len(values) == len(nodes)
        if not self._is_named(name, node) or not is_whole:
            return None
        if not nodes.keys() & {"instructions", *_CONTEXTS}:
            self.faults.add(node, "there is nothing to do", "Say what: `instructions`, `file`, or both.")
        request = self._envelope(node, nodes, self._request(name, values, context))
        if request is None:
            return None
        with self.faults.of(node):
            self.check_target(request.to, request.type)
        return self._fitted(node, request, context.data if context and not context.ref else None)

    def _is_named(self, name: str, node: Node) -> bool:
        with self.faults.of(node):
            if not is_key(name, len(name)):
                raise Invalid("this is no name for a task", hint=_NAME_RULE)
            if len(self._id_of(name)) > 128:
                raise Invalid(f"its id {self._id_of(name)} is longer than 128", hint="Give it a shorter name.")
            return True
        return False

    def _known_needs(self, name: str, needs: list[str], nodes: Mapping[str, Node]) -> list[str]:
        """Those needs that are other tasks of the plan."""
        for need in needs:
            if need == name:
                self.faults.add(nodes["needs"], f"{need!r} would wait for itself", "Leave it out.")
            elif need not in self.tasks:
                hint = _nearest(need, self.tasks, "A task outside the plan is named by its id under `after`.")
                self.faults.add(nodes["needs"], f"there is no task {need!r} in this plan", hint)
        return [need for need in needs if need != name and need in self.tasks]

    def _check_together(self, nodes: Mapping[str, Node], values: Mapping[str, Any]) -> None:
        for one, other, what in (("delay", "at", "times"), ("file", "context_ref", "contexts")):
            if one in nodes and other in nodes:
                self.faults.add(nodes[other], f"{one} and {other} name two {what}", "Give one of them.")
        if values.get("run_if") == "always" and not nodes.keys() & {"needs", "after"}:
            self.faults.add(nodes["run_if"], "there is nothing that it waits for", "Say what: `needs` or `after`.")
        for found in values.get("after", ()):
            if found in self.ids:
                self.faults.add(nodes["after"], f"{found} is of this plan", "Name its tasks under `needs`.")

    def _context(self, nodes: Mapping[str, Node], values: Mapping[str, Any]) -> Context | None:
        for key in (key for key in _CONTEXTS if key in values):
            with self.faults.of(nodes[key]):
                if key == "file":
                    return self._on_path(values[key], lambda path: read_context(self.store, path))
                if not self.is_ours and task_in(values[key]) is None:
                    raise Invalid(f"{values[key]} is no task's", hint="Give the ref of a task's paper or evidence.")
                return context_at(self.store, values[key])
        return None

    def _request(self, name: str, values: Mapping[str, Any], context: Context | None) -> dict[str, Any]:
        def those(keys: Mapping[str, str]) -> dict[str, Any]:
            return {field: values[key] for key, field in keys.items() if key in values}

        needs = [*map(self._id_of, self.needs[name]), *values.get("after", [])]
        return {
            "task_id": self._id_of(name),
            "group": self.plan_id,
            "instructions": DO_CONTEXT,
            **those(FIELDS),
            "budget": _budget(values),
            "labels": values.get("labels", {}) | those({"repo": "repo", "base": "base"}),
            "expected_output": those({"expect": "artifacts", "format": "format"}),
            "depends_on": tuple(dict.fromkeys(needs)),
            "context_ref": context.ref if context else None,
            "context_sha256": context.sha256 if context and context.ref else None,
        }

    def _envelope(self, node: Node, nodes: Mapping[str, Node], request: dict[str, Any]) -> Envelope | None:
        try:
            return Envelope.model_validate({"from": self.coordinator, **request})
        except ValidationError as error:
            for item in error.errors(include_url=False, include_input=False):
                steps = [step for step in item["loc"] if isinstance(step, str)]
                key = _KEYS.get(".".join(steps)) or _KEYS.get(steps[0], steps[0])
                what = item["msg"].removeprefix("Value error, ").replace("Input should", "it should")
                if item["type"] == "missing":
                    self.faults.add(node, f"{key} is missing", "Set it here, or for all tasks under `defaults`.")
                else:
                    self.faults.add(nodes.get(key, node), what, "See: agentq submit --help")
        return None

    def _fitted(self, node: Node, request: Envelope, context: bytes | None) -> Envelope | None:
        """The request as it fits an envelope; its context is kept."""
        with self.faults.of(node):
            request, context = fit(request, context, self.store.ref)
            if context is not None:
                self.contexts[request.task_id] = context
        if sum(map(len, self.contexts.values())) > CONTEXTS_LIMIT:
            hint = "Put what they share into the store once, and name it by `context_ref`."
            self.faults.add(node, f"the contexts are larger than {CONTEXTS_LIMIT >> 20} MiB together", hint)
            self.faults.tell()
        return request

    def _order(self) -> list[str]:
        """The names of the tasks, each after those that it needs."""
        sorter = TopologicalSorter(dict.fromkeys(self.tasks, ()))
        for name, needs in self.needs.items():
            sorter.add(name, *needs)
        try:
            return list(sorter.static_order())
        except CycleError as error:
            cycle = [str(name) for name in reversed(error.args[1])]
            node = self.tasks[cycle[0]]
            place = node.value.get("needs", node) if isinstance(node.value, dict) else node
            self.faults.add(place, f"these wait for one another: {' -> '.join(cycle)}", "Leave out one of these needs.")
        return []
