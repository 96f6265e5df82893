"""What came of tasks: results, and pieces of evidence, checked by their digests before a byte of them is sent."""

import asyncio
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

from pydantic import Field
from starlette.responses import Response

from agentq.digest import check, how_made
from agentq.errors import NotFound
from agentq.gateway.api.shapes import Given, Row, Told
from agentq.gateway.blocks import Blocks, Known
from agentq.gateway.operations import Call, Operation
from agentq.gateway.problems import Refused
from agentq.gateway.sending import Sending
from agentq.harmless import one_line
from agentq.messages import Artifact, TaskId

if TYPE_CHECKING:
    from agentq.app import App

_TEXT = re.compile(r"text/|application/(json|xml|yaml|toml|javascript)\b|.*\+(json|xml)\b")
_RANGE = re.compile(r"bytes=(\d{0,4000})-(\d{0,4000})")
_POLICY = "default-src 'none'; sandbox"


class Result(Row):
    """A task's manifest as `agentq result --json` prints it."""

    task_id: TaskId
    status: str
    checked: list[str]
    claimed: list[str]


class Piece(Told):
    """A piece of evidence; `made_by` is daemon, agent or hand."""

    name: str
    bytes: int
    media_type: str
    sha256: str
    made_by: str


class Pieces(Told):
    """The pieces of evidence that a result names."""

    artifacts: list[Piece]


class Printed(Told):
    """What an agent printed from an offset on (bytes, in each attempt); `left_out` bytes are missing before it.

    The last one of an attempt that has ended is `whole`: it has no text, and stands at the end of what was printed.
    """

    attempt: int
    offset: int
    text: str
    left_out: int
    whole: bool


class Output(Told):
    """What was printed so far, in order."""

    pieces: list[Printed]


class WhichAttempt(Given):
    """Of which attempt."""

    attempt: Annotated[int, Field(ge=1, le=1_000_000)] | None = None


class WhetherChecked(Given):
    """Whether the evidence is read and checked first."""

    check: Annotated[bool, Field(description="Read all evidence and check it first.")] = True


# ---------------------------------------------------------------------- results


async def _result(call: Call) -> dict[str, Any]:
    task_id, is_checked = call.path["task_id"], call.query.check
    return await call.gateway.desk.call(lambda app: _manifest(app, task_id, is_checked=is_checked))


def _manifest(app: "App", task_id: str, *, is_checked: bool) -> dict[str, Any]:
    manifest = app.coordinator.result(task_id)
    gone = check(app.coordinator, manifest) if is_checked else app.coordinator.collected(task_id)
    names: dict[str, list[str]] = {"checked": [], "claimed": []}
    for item in manifest.artifacts:
        names[how_made(item)].append(item.name)
    collected = {"collected_at": gone.isoformat()} if gone else {}
    return {**manifest.model_dump(mode="json", by_alias=True), **collected, **names}


async def _artifacts(call: Call) -> Pieces:
    task_id = call.path["task_id"]
    manifest = await call.gateway.desk.call(lambda app: app.coordinator.result(task_id))
    return Pieces(artifacts=[Piece.model_validate(item.model_dump()) for item in manifest.artifacts])


async def _output(call: Call) -> dict[str, Any]:
    task_id, attempt = call.path["task_id"], call.query.attempt
    await call.gateway.desk.call(lambda app: app.coordinator.envelope(task_id))
    events = await asyncio.to_thread(call.gateway.hub.chronicle.texts, task_id, "output")
    pieces = [
        {
            "attempt": event.attempt or 0,
            "offset": event.data.get("bytes" if "whole" in event.data else "offset", 0),
            "text": event.data.get("text", ""),
            "left_out": event.data.get("left_out", 0),
            "whole": "whole" in event.data,
        }
        for event in events
        if ("text" in event.data or "whole" in event.data) and attempt in (None, event.attempt)
    ]
    return {"pieces": pieces}


# ---------------------------------------------------------------------- a piece of evidence


@dataclass(frozen=True, slots=True)
class Part:
    """The part of a piece that is asked for: `length` bytes from `start` on, of so many in `size`."""

    start: int
    length: int
    size: int
    is_whole: bool = True

    @property
    def status(self) -> int:
        """Whether that is all of it."""
        return 200 if self.is_whole else 206

    @property
    def headers(self) -> dict[str, str]:
        """What says which part it is."""
        of = f"bytes {self.start}-{self.start + self.length - 1}/{self.size}"
        return {"Content-Length": str(self.length)} | ({} if self.is_whole else {"Content-Range": of})


async def _artifact(call: Call) -> Response:
    task_id, name = call.path["task_id"], call.path["name"]
    item, known = await call.gateway.desk.call(lambda app: _checked(app, task_id, name))
    headers = _headers(task_id, item)
    if _is_known(call, item):
        return Response(None, 304, headers)
    part = _part_of(call, item, known.size)

    def begin(app: "App") -> tuple[BinaryIO, Iterator[bytes]]:
        """What is to be sent, of which the first block was found to be right still."""
        stream = app.records.artifacts.open(item)
        chunks = _blocks.part(stream, item, known, part.start, part.length)
        return stream, chain((next(chunks, b""),), chunks)

    stream, chunks = await call.gateway.desk.call(begin)
    if call.request.method == "HEAD":
        await asyncio.to_thread(stream.close)
        return Response(None, part.status, headers | part.headers)
    return Sending(stream, chunks, part.status, headers | part.headers)


_blocks = Blocks()


def _checked(app: "App", task_id: str, name: str) -> tuple[Artifact, Known]:
    """The piece of that name in the task's manifest, and what is known of it, once its digest was found to be right."""
    manifest = app.coordinator.result(task_id)
    item = manifest.artifact(name)
    if item is None:
        names = ", ".join(one_line(one.name) for one in manifest.artifacts) or "none"
        raise NotFound(f"{task_id} has no artifact {one_line(name)[:64]}", hint=f"It has: {names}.")
    return item, _blocks.known(app.records.artifacts, item)


def _is_known(call: Call, item: Artifact) -> bool:
    """Whether whoever asks says that they have it, by its tag or by any."""
    said = {tag.strip().removeprefix("W/") for tag in call.request.headers.get("if-none-match", "").split(",")}
    return bool(said & {_tag(item), "*"})


def _part_of(call: Call, item: Artifact, size: int) -> Part:
    """What of a piece a request wants; raises Refused for what it does not reach to. Several ranges are one answer."""
    asked, condition = call.request.headers.get("range"), call.request.headers.get("if-range")
    found = _RANGE.fullmatch(asked.strip()) if asked else None
    if found is None or not (found[1] or found[2]) or condition not in (None, _tag(item)):
        return Part(0, size, size)
    if found[1] and found[2] and int(found[2]) < int(found[1]):  # no range at all, says RFC 9110
        return Part(0, size, size)
    if found[1]:
        start, end = int(found[1]), min(int(found[2] or size - 1), size - 1)
    else:
        start, end = max(0, size - int(found[2])), size - 1
    if start > end:
        raise Refused(
            416, f"it has {size} bytes", hint="Ask for some of those.", headers={"Content-Range": f"bytes */{size}"}
        )
    return Part(start, end - start + 1, size, is_whole=False)


def _headers(task_id: str, item: Artifact) -> dict[str, str]:
    """What keeps a browser from taking it for anything but a file to be kept."""
    name = re.sub("[^A-Za-z0-9._-]", "_", f"{task_id}.{item.name}{PurePosixPath(item.ref).suffix}")
    kind = "text/plain; charset=utf-8" if _TEXT.match(item.media_type.lower()) else "application/octet-stream"
    return {
        "Content-Type": kind,
        "Content-Disposition": f'attachment; filename="{name}"',
        "Content-Security-Policy": _POLICY,
        "Accept-Ranges": "bytes",
        "ETag": _tag(item),
    }


def _tag(item: Artifact) -> str:
    return f'"{item.sha256}"'


OPERATIONS = (
    Operation(
        "GET",
        "/api/tasks/{task_id}/result",
        "A task's result, its evidence checked",
        _result,
        query=WhetherChecked,
        answer=Result,
        tag="evidence",
        raises=(409, 502),
        about="409 (`urn:agentq:nothing-yet`) before there is one.",
    ),
    Operation(
        "GET",
        "/api/tasks/{task_id}/artifacts",
        "The pieces of evidence that a result names",
        _artifacts,
        answer=Pieces,
        tag="evidence",
        raises=(409, 502),
    ),
    Operation(
        "GET",
        "/api/tasks/{task_id}/artifacts/{name:path}",
        "A piece of evidence, checked by its digest",
        _artifact,
        answer="*/*",
        also=(206, 304),
        tag="evidence",
        raises=(409, 416, 502),
        headers=(
            {
                "name": "Range",
                "in": "header",
                "required": False,
                "description": "One range of bytes.",
                "schema": {"type": "string", "examples": ["bytes=0-1023"]},
            },
            {
                "name": "If-None-Match",
                "in": "header",
                "required": False,
                "description": "The `ETag` of what is there already: then the answer is 304.",
                "schema": {"type": "string"},
            },
        ),
        about="Any text is `text/plain`, anything else `application/octet-stream`: nothing that an agent wrote is shown"
        " as a page. What was altered is not sent (502).",
    ),
    Operation(
        "GET",
        "/api/tasks/{task_id}/output",
        "What a task's agent printed so far",
        _output,
        query=WhichAttempt,
        answer=Output,
        tag="evidence",
    ),
)
