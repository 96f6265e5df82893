"""A chat model without a model: it plays the executor by a fixed script, so that the example runs anywhere."""

import json
from collections.abc import Sequence
from typing import Any

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import Runnable

QUESTIONS = ("What does a queue cost?", "What does a lost job cost?")


class ScriptedExecutor(BaseChatModel):
    """Starts two researchers, and a writer that waits for both; asked for "one call" it does that as a plan."""

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(self, tools: Sequence[Any], **_: Any) -> Runnable[Any, AIMessage]:
        """Take any tools: the script knows which it calls."""
        return self

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **_: Any,
    ) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=_answer(messages))])


def _answer(messages: list[BaseMessage]) -> AIMessage:
    begin = max(i for i, message in enumerate(messages) if isinstance(message, HumanMessage))
    answers = [message for message in messages[begin:] if isinstance(message, ToolMessage)]
    told = {name: [json.loads(m.text) for m in answers if m.name == name] for name in {m.name for m in answers}}
    if refused := [answer for answers in told.values() for answer in answers if answer["status"] == "refused"]:
        return AIMessage(f"That cannot be: {refused[0]['message']}")
    ended = [job for job in told.get("poll_job_status", ()) if job["status"] == "completed"]
    if ended:
        return AIMessage(f"It is ready.\n{ended[-1]['digest']}")
    if plan := told.get("run_plan"):
        return AIMessage(f"The plan {plan[0]['job_id']} is on its way; I tell you when it is ready.")
    if "one call" in messages[begin].text:
        return _calls(("run_plan", {"tasks": _plan()}))
    started = [job["job_id"] for job in told.get("trigger_agent_job", ())]
    if len(started) > 2:
        return AIMessage(f"{started[2]} writes the report once both researches are there; I tell you when it is ready.")
    if started:
        options = {"after": started}
        return _calls(("trigger_agent_job", {"role": "writer", "input_summary": "Write it up.", "options": options}))
    research = {"role": "researcher", "options": {"notice": "none"}}
    return _calls(*(("trigger_agent_job", {**research, "input_summary": question}) for question in QUESTIONS))


def _plan() -> list[dict[str, Any]]:
    names = [f"research-{i}" for i in range(len(QUESTIONS))]
    asked = zip(names, QUESTIONS, strict=True)
    researches = [{"name": name, "role": "researcher", "input_summary": question} for name, question in asked]
    return [*researches, {"name": "report", "role": "writer", "input_summary": "Write it up.", "after": names}]


def _calls(*calls: tuple[str, dict[str, Any]]) -> AIMessage:
    found = [{"name": name, "args": args, "id": f"call_{i}"} for i, (name, args) in enumerate(calls)]
    return AIMessage("", tool_calls=found)
