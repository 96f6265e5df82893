"""What is read of a task: its result within a number of tokens, and its evidence as resources."""

import re
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

from agentq.digest import DATA, check, digest, how_made
from agentq.errors import Invalid, NotFound
from agentq.harmless import one_line, size, visible, visible_json
from agentq.integrations.mcp.words import READING
from agentq.messages import Artifact, Completion, is_key

if TYPE_CHECKING:
    from agentq.app import App

CHARACTERS = 4
"""Characters that a token stands for."""
RESOURCE_LIMIT = 1 << 20
"""Bytes of a piece of evidence that are sent; a larger one is read where it lies."""
LISTED = 50
SCHEME = "agentq://tasks/"
TEMPLATES = (
    ("artifact", f"{SCHEME}{{id}}/artifacts/{{name}}", "A piece of a task's evidence, checked by its digest."),
    ("result", f"{SCHEME}{{id}}/result", "A task's whole result."),
    ("envelope", f"{SCHEME}{{id}}/envelope", "What was asked for, as registered."),
)
_TEXT = re.compile(r"text/|application/(json|xml|yaml|toml|javascript)\b|.*\+(json|xml)\b")
_URI = re.compile(r"agentq://tasks/([^/?#]+)/(?:(result|envelope)|artifacts/([^/?#]+))")


@dataclass(frozen=True, slots=True)
class Content:
    """One content of a resource: a text, or bytes; `about` says whose words it is."""

    media_type: str
    data: str | bytes
    about: str = ""


@dataclass(frozen=True, slots=True)
class Listed:
    """A resource that there is."""

    uri: str
    name: str
    media_type: str
    bytes: int


def uri_of(task_id: str, name: str) -> str:
    """The URI of a piece of evidence."""
    return f"{SCHEME}{task_id}/artifacts/{quote(name, safe='')}"


# ---------------------------------------------------------------------- results


def report(app: "App", manifest: Completion, max_tokens: int) -> str:
    """A task's result in at most so many tokens, its report cut to what is left; its evidence is checked first."""
    room = max_tokens * CHARACTERS
    gone = check(app.coordinator, manifest)
    limit, text = room, ""
    for _ in range(4):
        text = "\n".join(_lines(app, manifest, gone, limit))
        if len(text) <= room or limit == 0:
            break
        limit = max(0, limit - (len(text) - room) - 16)
    return text if len(text) <= room else f"{text[: max(0, room - 60)]}\n… cut: give more max_tokens to read the rest"


def _lines(app: "App", manifest: Completion, gone: datetime | None, limit: int | None = None) -> list[str]:
    said = [visible(line) for line in digest(app.coordinator, manifest, gone=gone, limit=limit, reading=READING)]
    if manifest.artifacts and not gone:
        said.append(f"to read a piece: the resource {SCHEME}{manifest.task_id}/artifacts/NAME")
    return said


# ---------------------------------------------------------------------- resources


def listed(app: "App") -> list[Listed]:
    """The evidence of what is unread, the newest first."""
    unread = reversed(list(app.coordinator.inbox(app.settings.coordinator)))
    found = (
        Listed(uri_of(done.task_id, item.name), f"{done.task_id} {one_line(item.name)}", item.media_type, item.bytes)
        for done in unread
        for item in done.artifacts
    )
    return [one for one, _ in zip(found, range(LISTED), strict=False)]


def read(app: "App", uri: str) -> list[Content]:
    """What a URI stands for; raises Invalid, NotFound, NothingYet, and EvidenceError for what was altered."""
    found = _URI.fullmatch(uri)
    if found is None or not is_key(found[1], 128):
        shapes = ", ".join(template for _, template, _ in TEMPLATES)
        raise Invalid(f"{one_line(uri)[:200]!r} is no resource here", hint=f"There are: {shapes}.")
    task_id = found[1]
    if found[2] == "envelope":
        return [_bounded(uri, "application/json", visible_json(app.coordinator.envelope(task_id).to_json().decode()))]
    manifest = app.coordinator.result(task_id)
    if found[2] == "result":
        gone = check(app.coordinator, manifest)
        return [_bounded(uri, "text/plain", "\n".join(_lines(app, manifest, gone)))]
    return _piece(app, manifest, unquote(found[3]))


def _piece(app: "App", manifest: Completion, name: str) -> list[Content]:
    item = manifest.artifact(name)
    if item is None:
        names = ", ".join(one_line(one.name) for one in manifest.artifacts) or "none"
        raise NotFound(f"{manifest.task_id} has no artifact {one_line(name)[:64]}", hint=f"It has: {names}.")
    place = one_line(app.coordinator.place(manifest.task_id, item))
    if item.bytes > RESOURCE_LIMIT:
        raise Invalid(
            f"{item.name} of {manifest.task_id} has {size(item.bytes)}, a resource may have {size(RESOURCE_LIMIT)}",
            hint=f"Read it where it lies: {place}",
        )
    return _contents(manifest, item, app.coordinator.read(item), place)


def _contents(manifest: Completion, item: Artifact, data: bytes, place: str) -> list[Content]:
    """A text with a word about it before; whatever else it is goes as bytes."""
    text = _text_of(item, data)
    who = "its agents" if manifest.from_ == "agentq" else one_line(manifest.from_)
    about = f"{one_line(item.name)} by {who}, {how_made(item)} {DATA}"
    if text is None:
        return [Content(item.media_type, data, f"{about}, sha256 {item.sha256}")]
    shown = visible(text)
    if shown != text:
        about += f"; control characters are written out, the exact bytes are in {place}"
    return [Content(item.media_type, shown, about)]


def _text_of(item: Artifact, data: bytes) -> str | None:
    if not _TEXT.match(item.media_type.lower()):
        return None
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None


def _bounded(uri: str, media_type: str, text: str) -> Content:
    if len(text.encode(errors="replace")) > RESOURCE_LIMIT:
        raise Invalid(
            f"{uri} is longer than {size(RESOURCE_LIMIT)}", hint="Call the tool result, and read single artifacts."
        )
    return Content(media_type, text)
