"""A TOML file: its sections as frozen models, and the line of whatever is wrong in it."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from agentq.errors import Invalid

_HEADER = re.compile(r"\[+\s*([^\]]+?)\s*\]")
_WORDS = {"extra_forbidden": "there is no such key", "missing": "this key must be set"}


class Section(BaseModel):
    """A table of a file, or all of it: frozen, and unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True, hide_input_in_errors=True)


S = TypeVar("S", bound=Section)


def text_of(path: Path) -> str:
    """The text of a file; raises Invalid when it cannot be read or is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise Invalid(f"{path} cannot be read: {error.strerror}", hint="Check its permissions.") from error
    except UnicodeDecodeError as error:
        raise Invalid(f"{path} is not UTF-8 (byte {error.start})", hint="Write it again as UTF-8.") from error


def values_of(text: str, path: Path) -> dict[str, Any]:
    """What that text of a TOML file says; raises Invalid with the line that is broken."""
    import tomllib

    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        where, what = _where_broken(text, str(error))
        raise Invalid(f"{path}, {where}: {what}", hint="Correct that line.") from error


def _where_broken(text: str, complaint: str) -> tuple[str, str]:
    """The line (and key) that a complaint of the TOML parser is about, and the complaint without its place."""
    what, _, place = complaint.partition(" (at ")
    lines = text.splitlines() or [""]
    found = re.match(r"line (\d+)", place)
    number = min(int(found[1]) if found else len(lines), len(lines))
    key, equals, _ = lines[number - 1].partition("=")
    return f"line {number}{f': {key.strip()}' if equals else ''}", what


def validated(model: type[S], values: Mapping[str, Any], where: Callable[[list[str]], str]) -> S:
    """The model of these values; what is wrong is told with its place, and no value is repeated."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        keys = [str(part) for part in first["loc"]]
        what = _WORDS.get(
            first["type"], first["msg"].removeprefix("Value error, ").replace("Input should", "it should")
        )
        raise Invalid(f"{where(keys)}: {what}", hint="Correct or remove it.") from error


def place_of(path: Path | None, text: str, keys: list[str]) -> str:
    """Where a key stands, for a person: the file, the line if it is set there, and the key."""
    line = _line_of(text, keys)
    return f"{path or 'settings'}{f', line {line}' if line else ''}: {'.'.join(keys)}"


def _line_of(text: str, keys: list[str]) -> int | None:
    """The line on which a key stands, None when the file does not set it."""
    table: list[str] = []
    for number, line in enumerate(text.splitlines(), start=1):
        stripped = line.strip()
        if header := _HEADER.match(stripped):
            table = _steps(header[1])
            if table == keys:
                return number
        path = [*table, *_steps(stripped.partition("=")[0])]
        if "=" in stripped and keys[: len(path)] == path:
            return number
    return None


def _steps(key: str) -> list[str]:
    return [part.strip(" \"'") for part in key.split(".")]
