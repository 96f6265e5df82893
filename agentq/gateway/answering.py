"""How an operation is answered: who asks may, what they say is checked, and what went wrong is a problem."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import to_json
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from agentq.errors import AgentqError, Invalid
from agentq.gateway.operations import Answer, Call, Operation
from agentq.gateway.place import Gateway
from agentq.gateway.problems import Refused, response_of, token_needed
from agentq.messages import explain, is_key
from agentq.tokens import Grant

M = TypeVar("M", bound=BaseModel)
log = logging.getLogger("agentq")

BODY_LIMIT = 1 << 20
"""Bytes of a request's JSON."""
BODY_SECONDS = 30.0
"""How long a client may take to send it."""
KEYS = {"task_id": 128, "thread_id": 128, "message_id": 128, "agent": 64}
"""The names in paths that are ids or agents, and how long those may be."""


def endpoint(gateway: Gateway, operations: Sequence[Operation]) -> Callable[[Request], Awaitable[Response]]:
    """What answers the requests to one path, by their method."""
    by_method = {operation.method: operation for operation in operations}

    async def answer(request: Request) -> Response:
        operation = by_method.get("GET" if request.method == "HEAD" else request.method)
        assert operation, "routed here by its method"
        try:
            call = await _call(gateway, operation, request)
            try:
                return _response(operation, await operation.act(call))
            finally:
                if operation.method != "GET":
                    gateway.books.stir()
        except ClientDisconnect:
            return Response(status_code=400)  # nobody reads it
        except AgentqError as error:
            return response_of(error)
        except Exception as error:
            log.exception("a bug, in %s %s", operation.method, operation.path)
            return response_of(error)

    return answer


async def _call(gateway: Gateway, operation: Operation, request: Request) -> Call:
    return Call(
        gateway=gateway,
        grant=_allowed(operation, request.scope["grant"], gateway),
        path=_path(request.path_params),
        query=query_of(operation.query, request.query_params.multi_items()),
        body=await _body(operation.body, request),
        request=request,
    )


def _allowed(operation: Operation, grant: Grant | None, gateway: Gateway) -> Grant:
    """Whoever asks, if they may."""
    if operation.may is None:
        return grant or Grant("nobody", frozenset(), id="")
    if grant is None:
        raise token_needed()
    if not grant.has(*operation.may):
        raise Refused(
            403,
            f"{grant.name} has not the role for this: {' or '.join(sorted(operation.may))}",
            hint="Ask whoever keeps the tokens: agentq token new",
        )
    return grant


def _path(given: Mapping[str, str]) -> Mapping[str, str]:
    for name, text in given.items():
        if name in KEYS and not is_key(text, KEYS[name]):
            raise Invalid(
                f"{name} in the path is none",
                hint=f"Letters, digits, '.', '_' and '-', starting with a letter or digit, at most {KEYS[name]} long.",
            )
    return given


def query_of(model: type[BaseModel] | None, items: Iterable[tuple[str, str]]) -> BaseModel | None:
    """The parameters of a query, checked; raises Invalid."""
    given: dict[str, Any] = {}
    for name, text in items:
        field = model.model_fields.get(name) if model else None
        if field is not None and get_origin(field.annotation) is tuple:
            given.setdefault(name, []).append(text)
        elif name in given:
            raise Invalid(f"{name} is given twice", hint="Give it once.")
        else:
            given[name] = text
    if model is None:
        if given:
            raise Invalid(f"there is no parameter {next(iter(given))} here", hint="See: /openapi.json")
        return None
    return _checked(lambda: model.model_validate(given))


async def _body(model: type[BaseModel] | None, request: Request) -> BaseModel | None:
    if model is None:
        return None
    data = await _read(request)
    if not data and not any(field.is_required() for field in model.model_fields.values()):
        return model()
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Refused(415, "the body is no JSON", hint="Send JSON, and say so: Content-Type: application/json")
    return body_of(model, data)


def body_of(model: type[M], data: bytes) -> M:
    """A body of JSON, checked: a number is no text, and a text no number. Raises Invalid."""
    return _checked(lambda: model.model_validate_json(data, strict=True))


def _checked(make: Callable[[], M]) -> M:
    try:
        return make()
    except ValidationError as error:
        raise Invalid(explain(error)[:1000], hint="See: /openapi.json") from error


async def _read(request: Request) -> bytes:
    data = bytearray()
    if int(request.headers.get("content-length", 0)) > BODY_LIMIT:
        raise _too_large()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                data += chunk
                if len(data) > BODY_LIMIT:
                    raise _too_large()
    except TimeoutError as error:
        raise Refused(408, "the body did not come in time", hint="Send it at once.", headers=_CLOSE) from error
    return bytes(data)


_CLOSE = {"Connection": "close"}


def _too_large() -> Refused:
    return Refused(413, f"the body is larger than {BODY_LIMIT >> 20} MiB", hint="Send less.", headers=_CLOSE)


def _response(operation: Operation, answer: Answer) -> Response:
    if isinstance(answer, Response):
        return answer
    if answer is None:
        return Response(status_code=204)
    return answered(answer, operation.status)


def answered(answer: object, status: int) -> Response:
    """An answer as JSON with a status of its own."""
    return Response(written(answer), status, media_type="application/json")


def written(answer: object) -> bytes:
    """An answer as JSON."""
    return to_json(answer, by_alias=True, inf_nan_mode="null")
