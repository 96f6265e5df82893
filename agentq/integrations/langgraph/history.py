"""The messages of a thread, and the two that bring a notice: a tool call, and what the tool answers."""

from collections.abc import Sequence
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage

from agentq.integrations.threads import Notice
from agentq.messages import sha256_hex

TOOL = "poll_job_status"
_NOTICE, _CALL = "agentq-notice-", "agentq_"


def notice_id(task_id: str) -> str:
    """The id of the message that answers for a job."""
    return f"{_NOTICE}{task_id}"


def call_id(task_id: str) -> str:
    """The id of the tool call of its notice: letters, digits and '_', at most 40, as every provider takes them."""
    return f"{_CALL}{sha256_hex(task_id.encode())[:32]}"


def holds(messages: object, task_id: str) -> bool:
    """Whether a job's notice is among messages."""
    wanted = notice_id(task_id)
    return isinstance(messages, list) and any(getattr(message, "id", None) == wanted for message in messages)


def unattended(messages: Sequence[Any]) -> int:
    """How many notices came since a person said something."""
    count = 0
    for message in reversed(messages):
        if isinstance(message, HumanMessage):
            break
        count += _is_notice(message)
    return count


def is_unanswered(messages: Sequence[Any]) -> bool:
    """Whether a tool call of the last message that has some has no answer."""
    answered = set[str]()
    for message in reversed(messages):
        if isinstance(message, ToolMessage):
            answered.add(message.tool_call_id)
        elif isinstance(message, AIMessage):
            return any(call["id"] not in answered for call in message.tool_calls)
    return False


def apart(notice: Notice) -> list[BaseMessage]:
    """A notice as two messages of its own."""
    call = AIMessage(id=f"agentq-call-{notice.task_id}", content="", tool_calls=[_call(notice)])
    return [call, _answer(notice)]


def joined(messages: Sequence[Any], notice: Notice) -> list[BaseMessage] | None:
    """A notice whose call joins the model's last message, None where that does not end the history but for notices.

    Gemini takes a call only right after a user's or a tool's turn, so the model's words and the call must be one turn;
    and where a model thinks aloud, its calls must follow its thoughts. A response that OpenAI keeps is sent by its id,
    without what joined it.
    """
    last = next((message for message in reversed(messages) if not _is_notice(message)), None)
    if not isinstance(last, AIMessage) or last.id is None or last.invalid_tool_calls:
        return None
    if any(not (call["id"] or "").startswith(_CALL) for call in last.tool_calls):
        return None
    if str(last.response_metadata.get("id", "")).startswith("resp_"):
        return None
    call = _call(notice)
    update: dict[str, Any] = {"tool_calls": [*last.tool_calls, call]}
    if isinstance(last.content, list) and last.response_metadata.get("output_version") == "v1":
        update["content"] = [*last.content, call]
    return [last.model_copy(update=update), _answer(notice)]


def _is_notice(message: object) -> bool:
    return isinstance(message, ToolMessage) and (message.id or "").startswith(_NOTICE)


def _call(notice: Notice) -> Any:
    return {"type": "tool_call", "id": call_id(notice.task_id), "name": TOOL, "args": {"job_id": notice.task_id}}


def _answer(notice: Notice) -> ToolMessage:
    return ToolMessage(
        id=notice_id(notice.task_id), tool_call_id=call_id(notice.task_id), name=TOOL, content=notice.text
    )
