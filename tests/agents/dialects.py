"""How agents speak with their models: the four APIs that the stub answers, each as far as agents use it."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

Body: TypeAlias = Mapping[str, Any]

INPUT, CACHED, OUTPUT = 1200, 800, 34
"""What every answer of the stub is said to have taken; the input includes what was cached."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request: its turns in order, each a user's text or None for one of the model's, and the tools it offers."""

    turns: Sequence[str | None]
    tools: Sequence[str]
    streams: bool = True


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model says: a text (in some dialects in `parts`), or a tool with its input; `refused` when it does not
    want to."""

    text: str = ""
    tool: str | None = None
    input: Mapping[str, Any] | None = None
    freeform: str | None = None
    refused: bool = False
    parts: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Dialect:
    """One API: what a request asks, how an answer is streamed, how it looks whole, and how an error looks."""

    asked: Callable[[Body], Asked]
    events: Callable[[Answer, str], Iterator[Mapping[str, Any]]]
    whole: Callable[[Answer, str], Mapping[str, Any]]
    error: Callable[[int, str], Mapping[str, Any]]
    named: bool = False
    last: str = ""


def _text(content: Any, *kinds: str) -> str:
    """The texts of those kinds in a message's content."""
    if isinstance(content, str):
        return content
    return "\n".join(part.get("text", "") for part in content or () if part.get("type") in kinds)


# ---------------------------------------------------------------------- Anthropic's messages


def _anthropic_asked(body: Body) -> Asked:
    turns = [None if m["role"] == "assistant" else _text(m["content"], "text") for m in body["messages"]]
    return Asked(turns, [tool["name"] for tool in body.get("tools", ())], bool(body.get("stream")))


_ANTHROPIC_USAGE = {"input_tokens": INPUT - CACHED, "cache_creation_input_tokens": 0, "cache_read_input_tokens": CACHED}


def _anthropic_end(answer: Answer) -> str:
    return "refusal" if answer.refused else "tool_use" if answer.tool else "end_turn"


def _anthropic_events(answer: Answer, name: str) -> Iterator[Mapping[str, Any]]:
    message = _anthropic_whole(answer, name) | {"content": [], "stop_reason": None}
    message["usage"] = _ANTHROPIC_USAGE | {"output_tokens": 1}
    yield {"type": "message_start", "message": message}
    if answer.tool:
        start = {"type": "tool_use", "id": f"toolu_{name}", "name": answer.tool, "input": {}}
        deltas = [{"type": "input_json_delta", "partial_json": json.dumps(answer.input)}]
    else:
        start = {"type": "text", "text": ""}
        deltas = [{"type": "text_delta", "text": text} for text in answer.parts or (answer.text,)]
    yield {"type": "content_block_start", "index": 0, "content_block": start}
    yield from ({"type": "content_block_delta", "index": 0, "delta": delta} for delta in deltas)
    yield {"type": "content_block_stop", "index": 0}
    end = {"stop_reason": _anthropic_end(answer), "stop_sequence": None}
    yield {"type": "message_delta", "delta": end, "usage": _ANTHROPIC_USAGE | {"output_tokens": OUTPUT}}
    yield {"type": "message_stop"}


def _anthropic_whole(answer: Answer, name: str) -> dict[str, Any]:
    block: dict[str, Any] = {"type": "text", "text": answer.text}
    if answer.tool:
        block = {"type": "tool_use", "id": f"toolu_{name}", "name": answer.tool, "input": answer.input}
    return {
        "id": f"msg_{name}",
        "type": "message",
        "role": "assistant",
        "model": "claude-sonnet-4-5-20250929",
        "content": [block],
        "stop_reason": _anthropic_end(answer),
        "stop_sequence": None,
        "usage": _ANTHROPIC_USAGE | {"output_tokens": OUTPUT},
    }


_ANTHROPIC_ERRORS = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
    404: "not_found_error",
}


def _anthropic_error(status: int, message: str) -> Mapping[str, Any]:
    kind = _ANTHROPIC_ERRORS.get(status, "api_error" if status >= 500 else "invalid_request_error")
    return {"type": "error", "error": {"type": kind, "message": message}}


# ---------------------------------------------------------------------- OpenAI's responses


def _responses_asked(body: Body) -> Asked:
    return Asked(
        [turn for item in body["input"] for turn in _responses_turn(item)], list(_names(body.get("tools", ())))
    )


def _responses_turn(item: Body) -> Iterable[str | None]:
    if item.get("type", "message") == "message" and item.get("role") != "assistant":
        return [_text(item["content"], "input_text")] if item["role"] == "user" else []
    is_answer = item.get("type") in ("message", "function_call", "custom_tool_call", "tool_search_call")
    return [None] if is_answer else []


def _names(tools: Iterable[Body]) -> Iterator[str]:
    for tool in tools:
        yield from (inner["name"] for inner in tool["tools"]) if "tools" in tool else [tool.get("name", tool["type"])]


def _responses_item(answer: Answer, name: str) -> Mapping[str, Any]:
    if answer.freeform is not None:
        return {"type": "custom_tool_call", "call_id": f"call_{name}", "name": answer.tool, "input": answer.freeform}
    if answer.tool == "tool_search":
        return {"type": "tool_search_call", "call_id": f"call_{name}", "execution": "client", "arguments": answer.input}
    if answer.tool:
        space, _, tool = answer.tool.rpartition("__")  # of a server's tool, which is in its name's space
        call = {"type": "function_call", "call_id": f"call_{name}", "name": tool, "arguments": json.dumps(answer.input)}
        return call | ({"namespace": space} if space else {})
    content = [{"type": "output_text", "text": answer.text, "annotations": []}]
    return {"type": "message", "role": "assistant", "id": f"item_{name}", "content": content}


def _responses_events(answer: Answer, name: str) -> Iterator[Mapping[str, Any]]:
    whole = _responses_whole(answer, name)
    yield {"type": "response.created", "response": {"id": whole["id"]}}
    yield {"type": "response.output_item.done", "output_index": 0, "item": whole["output"][0]}
    yield {"type": "response.completed", "response": whole}


def _responses_whole(answer: Answer, name: str) -> Mapping[str, Any]:
    usage = {
        "input_tokens": INPUT,
        "input_tokens_details": {"cached_tokens": CACHED},
        "output_tokens": OUTPUT,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": INPUT + OUTPUT,
    }
    return {"id": f"resp_{name}", "object": "response", "output": [_responses_item(answer, name)], "usage": usage}


# ---------------------------------------------------------------------- OpenAI's chat completions


def _chat_asked(body: Body) -> Asked:
    said = [m for m in body["messages"] if m["role"] in ("user", "assistant")]
    turns = [None if m["role"] == "assistant" else _text(m["content"], "text") for m in said]
    return Asked(turns, [tool["function"]["name"] for tool in body.get("tools", ())], bool(body.get("stream")))


_CHAT_USAGE = {
    "prompt_tokens": INPUT,
    "completion_tokens": OUTPUT,
    "total_tokens": INPUT + OUTPUT,
    "prompt_tokens_details": {"cached_tokens": CACHED},
}


def _chat_message(answer: Answer, name: str) -> dict[str, Any]:
    if not answer.tool:
        return {"role": "assistant", "content": answer.text}
    call = {"name": answer.tool, "arguments": json.dumps(answer.input)}
    calls = [{"index": 0, "id": f"call_{name}", "type": "function", "function": call}]
    return {"role": "assistant", "content": None, "tool_calls": calls}


def _chat_events(answer: Answer, name: str) -> Iterator[Mapping[str, Any]]:
    chunk = {"id": f"chat_{name}", "object": "chat.completion.chunk", "created": 1_700_000_000, "model": "stub-model"}
    yield chunk | {"choices": [{"index": 0, "delta": _chat_message(answer, name), "finish_reason": None}]}
    end = "tool_calls" if answer.tool else "content_filter" if answer.refused else "stop"
    yield chunk | {"choices": [{"index": 0, "delta": {}, "finish_reason": end}], "usage": _CHAT_USAGE}


def _chat_whole(answer: Answer, name: str) -> Mapping[str, Any]:
    choice = {
        "index": 0,
        "message": _chat_message(answer, name),
        "finish_reason": "tool_calls" if answer.tool else "stop",
    }
    about = {"id": f"chat_{name}", "object": "chat.completion", "created": 1_700_000_000, "model": "stub-model"}
    return about | {"choices": [choice], "usage": _CHAT_USAGE}


def _openai_error(status: int, message: str) -> Mapping[str, Any]:
    code = {401: "invalid_api_key", 429: "rate_limit_exceeded"}.get(status)
    return {
        "error": {
            "message": message,
            "type": "server_error" if status >= 500 else "invalid_request_error",
            "code": code,
        }
    }


# ---------------------------------------------------------------------- Gemini


def _gemini_asked(body: Body) -> Asked:
    turns = [
        None if c.get("role") == "model" else "\n".join(p.get("text", "") for p in c["parts"]) for c in body["contents"]
    ]
    tools = (one["name"] for tool in body.get("tools", ()) for one in tool.get("functionDeclarations", ()))
    return Asked(turns, list(tools))


def _gemini_whole(answer: Answer, name: str) -> Mapping[str, Any]:
    part: dict[str, Any] = {"text": answer.text}
    if answer.tool:
        part = {"functionCall": {"name": answer.tool, "args": answer.input}}
    content = {"role": "model", "parts": [part]}
    end = "SAFETY" if answer.refused else "STOP"
    usage = {"promptTokenCount": INPUT, "cachedContentTokenCount": CACHED, "candidatesTokenCount": OUTPUT}
    return {
        "candidates": [{"index": 0, "content": content, "finishReason": end}],
        "usageMetadata": usage | {"totalTokenCount": INPUT + OUTPUT},
        "responseId": name,
    }


def _gemini_events(answer: Answer, name: str) -> Iterator[Mapping[str, Any]]:
    whole = dict(_gemini_whole(answer, name))
    (candidate,) = whole["candidates"]
    yield whole | {"candidates": [{key: candidate[key] for key in ("index", "content")}]}
    yield whole | {"candidates": [candidate | {"content": {"role": "model", "parts": [{"text": ""}]}}]}


def _gemini_error(status: int, message: str) -> Mapping[str, Any]:
    word = {401: "UNAUTHENTICATED", 429: "RESOURCE_EXHAUSTED"}.get(
        status, "INTERNAL" if status >= 500 else "INVALID_ARGUMENT"
    )
    return {"error": {"code": status, "message": message, "status": word}}


ANTHROPIC = Dialect(_anthropic_asked, _anthropic_events, _anthropic_whole, _anthropic_error, named=True)
RESPONSES = Dialect(_responses_asked, _responses_events, _responses_whole, _openai_error, named=True)
CHAT = Dialect(_chat_asked, _chat_events, _chat_whole, _openai_error, last="data: [DONE]\n\n")
GEMINI = Dialect(_gemini_asked, _gemini_events, _gemini_whole, _gemini_error)


def of(path: str) -> Dialect | None:
    """The API that is spoken at a path, None when it is none that agents need an answer from."""
    path = path.partition("?")[0]
    if path.endswith("/v1/messages"):
        return ANTHROPIC
    if path.endswith("/responses"):
        return RESPONSES
    if path.endswith("/chat/completions"):
        return CHAT
    return GEMINI if path.endswith((":streamGenerateContent", ":generateContent")) else None
