"""A plan file as a tree: every value with its place, and what is wrong with the file told in the order of its lines."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from agentq.context import check_text, read_file
from agentq.credentials import SECRETS, finds, in_words, place_of
from agentq.errors import CredentialFound, Invalid
from agentq.messages import NEEDS_LIMIT, is_key

PLAN_LIMIT = 4 * 1024 * 1024
FAULTS_TOLD = 10
_NODES_LIMIT = 200_000
_DEPTH_LIMIT = 20
_TEXT_SHOWN = 300
_TAGS = ("tag:yaml.org,2002:str", "tag:yaml.org,2002:seq", "tag:yaml.org,2002:map")
_NOTHING = ("", "~", "null")

_Hint: TypeAlias = str | Callable[[], str]
_Value: TypeAlias = str | list["Node"] | dict[str, "Node"] | None


@dataclass(frozen=True, slots=True)
class Node:
    """A value in the file and its place: a text as it was written, None for nothing, a list or a mapping."""

    value: _Value
    where: str = ""
    line: int = 0

    @property
    def kind(self) -> str:
        """What the value is, in words."""
        if self.value is None:
            return "nothing"
        return "a list" if isinstance(self.value, list) else "a mapping" if isinstance(self.value, dict) else "a text"

    def text(self) -> str:
        """The value as one text; raises Invalid for anything else."""
        if not isinstance(self.value, str):
            raise Invalid(f"it should be a text, not {self.kind}", hint="Write one text, or leave the key out.")
        return self.value

    def texts(self) -> list[str]:
        """The value as a list of texts, each once; raises Invalid for anything else, and for too many."""
        if not isinstance(self.value, list):
            raise Invalid(f"it should be a list, not {self.kind}", hint="Write [first, second].")
        if len(self.value) > NEEDS_LIMIT:
            raise Invalid(f"there are {len(self.value)} in this list, {NEEDS_LIMIT} is the limit", hint="Name fewer.")
        return list(dict.fromkeys(item.text() for item in self.value))

    def pairs(self) -> dict[str, str]:
        """The value as a mapping of names to texts; raises Invalid for anything else."""
        if not isinstance(self.value, dict) or "" in self.value:
            raise Invalid(f"it should be a mapping of names to texts, not {self.kind}", hint="Write {key: value}.")
        return {key: item.text() for key, item in self.value.items()}


class Faults:
    """All that is wrong with a file, told in the order of its lines."""

    def __init__(self, file: str) -> None:
        self.file = file
        self._found: dict[tuple[int, str], _Hint] = {}

    def add(self, node: Node, what: str, hint: _Hint) -> None:
        """Note one fault; a hint that takes long to find is looked for when it is told."""
        if len(what) > _TEXT_SHOWN:
            what = f"{what[:_TEXT_SHOWN]}…"
        self._found.setdefault((node.line, f"{node.where}: {what}" if node.where else what), hint)

    @contextlib.contextmanager
    def of(self, node: Node) -> Iterator[None]:
        """Note what is found wrong with a node."""
        try:
            yield
        except Invalid as error:
            self.add(node, str(error).removeprefix(f"{node.where} "), error.hint)

    def tell(self) -> None:
        """Raise Invalid if there is any, CredentialFound when all of them may be let through."""
        found = sorted(self._found.items(), key=lambda item: item[0][0])
        kind = CredentialFound if all(hint == SECRETS for _, hint in found) else Invalid
        if len(found) == 1:
            (line, what), hint = found[0]
            raise kind(f"{_place(self.file, line)}: {what}", hint=_said(hint))
        if found:
            first = f", the first {FAULTS_TOLD} are" if len(found) > FAULTS_TOLD else ""
            told = [
                f"  {f'line {line}, ' if line else ''}{what}. {_said(hint)}"
                for (line, what), hint in found[:FAULTS_TOLD]
            ]
            raise kind(
                "\n".join([f"{self.file} has {len(found)} faults{first}:", *told]),
                hint="Correct them and submit the plan again: nothing was written.",
            )


def _said(hint: _Hint) -> str:
    return hint if isinstance(hint, str) else hint()


def _place(file: str, line: int) -> str:
    return f"{file}, line {line}" if line else file


def parse(source: Path | bytes, faults: Faults, *, allow_secrets: bool = True) -> Node:
    """The tree of a YAML, JSON or TOML source; raises Invalid when it is none, and notes what it must not hold."""
    data = read_file(source) if isinstance(source, Path) else check_text(source, faults.file)
    if len(data) > PLAN_LIMIT:
        raise Invalid(
            f"{faults.file} is larger than {PLAN_LIMIT >> 20} MiB", hint="Put long texts into files: `file: PATH`."
        )
    for find in () if allow_secrets else finds(data):
        place = place_of(data, find)
        faults.add(Node(None, f"column {place.column}", place.line), in_words(find), SECRETS)
    if isinstance(source, Path) and source.suffix == ".toml":
        return _parse_toml(data.decode(), faults.file)
    return _parse_yaml(data.decode(), faults)


def _parse_toml(text: str, file: str) -> Node:
    import tomllib

    try:
        return _toml_node(tomllib.loads(text))
    except (ValueError, RecursionError) as error:
        raise Invalid(f"{file} is no TOML: {error}", hint="Correct it.") from error


def _toml_node(value: object, where: str = "") -> Node:
    if isinstance(value, dict):
        return Node({key: _toml_node(item, below(where, key)) for key, item in value.items()}, where)
    if isinstance(value, list):
        return Node([_toml_node(item, where) for item in value], where)
    return Node(str(value).lower() if isinstance(value, bool) else str(value), where)


def _parse_yaml(text: str, faults: Faults) -> Node:
    import yaml

    class Loader(yaml.BaseLoader):  # not the one in C: deep nesting ends the process
        nodes = 0

        def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
            self.nodes += 1
            if self.nodes > _NODES_LIMIT:
                raise _too_much(faults.file)
            return super().compose_node(parent, index)

    try:
        root = yaml.compose(text, Loader=Loader)
    except RecursionError as error:
        raise _too_much(faults.file) from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        raise _no_yaml(faults.file, line, error.problem or str(error)) from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        line = text.count("\n", 0, getattr(error, "position", 0)) + 1 if hasattr(error, "position") else 0
        raise _no_yaml(faults.file, line, str(error).partition("\n")[0]) from error
    return _Tree(faults).node(root) if root else Node({})


def _no_yaml(file: str, line: int, problem: str) -> Invalid:
    return Invalid(
        f"{_place(file, line)}: this is no YAML: {problem}",
        hint="Correct that line: indent by spaces, and put quotes around a text with ': ' or '#' in it.",
    )


def _too_much(file: str) -> Invalid:
    return Invalid(
        f"{file} is nested too deeply, or stands for more than {_NODES_LIMIT} values",
        hint="Make several plans, and put what tasks share under `defaults` instead of aliases.",
    )


class _Tree:
    """Makes nodes of parsed YAML, with every alias written out."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._count = 0

    def node(self, found: Any, where: str = "", line: int = 1, depth: int = 0) -> Node:
        self._count += 1
        if self._count > _NODES_LIMIT or depth > _DEPTH_LIMIT:
            raise _too_much(self._faults.file)
        node = Node(self._value(found, where, line, depth + 1), where, line)
        if found.tag not in _TAGS:
            self._faults.add(node, f"the tag {found.tag!r} means nothing here", "Leave it out.")
        return node

    def _value(self, found: Any, where: str, line: int, depth: int) -> _Value:
        if found.id == "mapping":
            return self._mapping(found, where, depth)
        if found.id == "sequence":
            return [self.node(item, where, item.start_mark.line + 1, depth) for item in found.value]
        if found.style is None and found.value.lower() in _NOTHING:
            return None
        return self._text(found, Node(None, where, line))

    def _mapping(self, found: Any, where: str, depth: int) -> dict[str, Node]:
        nodes: dict[str, Node] = {}
        for key, value in found.value:
            line = key.start_mark.line + 1
            if key.id != "scalar":
                self._faults.add(Node(None, where, line), "a key must be a text", "Write `key: value`.")
                continue
            name = self._text(key, Node(None, where, line))
            node = self.node(value, below(where, name), line, depth)
            if name in nodes:
                first = nodes[name].line
                self._faults.add(node, f"it is given twice, first on line {first}", "Leave one of them out.")
            nodes.setdefault(name, node)
        return nodes

    def _text(self, found: Any, place: Node) -> str:
        """The text of a scalar; JSON writes a character beyond the first 65536 as two halves."""
        try:
            return str(found.value).encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            self._faults.add(place, "there is half a character in it", "Write the character itself.")
            return ""


def below(where: str, key: str) -> str:
    shown = key if is_key(key, 128) else repr(key[:128])
    return f"{where}.{shown}" if where else shown
