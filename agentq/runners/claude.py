"""Claude Code, headless: `claude -p --output-format stream-json`."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

from agentq.messages import Usage, utc_now
from agentq.runner import Job
from agentq.runner_sections import ClaudeSection
from agentq.runners.heard import Heard, detail_of
from agentq.runners.said import Said, total
from agentq.runners.stream import Reader
from agentq.runners.trouble import Kind

_KINDS: Mapping[str, Kind] = {
    "authentication_failed": "setup",
    "oauth_org_not_allowed": "setup",
    "billing_error": "setup",
    "model_not_found": "setup",
    "rate_limit": "limit",
}
_ASKED_FOR = 60_000.0
"""Milliseconds: it waits less between tries by itself, and so long only when the API said so."""
MESSAGES = 100_000
_SYNTHETIC = "<synthetic>"
_INPUTS = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
_MODEL_INPUTS = ("inputTokens", "cacheCreationInputTokens", "cacheReadInputTokens")


class Claude:
    """How Claude Code is started, and what its events mean."""

    def __init__(self, section: ClaudeSection) -> None:
        self._section = section

    def command(self, job: Job) -> Sequence[str]:
        """The program and its arguments; `stream-json` needs `--verbose`."""
        section = self._section
        words = [*(section.command or ("claude",)), "-p", "--output-format", "stream-json", "--verbose"]
        words += ["--permission-mode", section.permission_mode, "--add-dir", str(job.output.parent)]
        words += ["--allowedTools", ",".join(section.allowed_tools)] if section.allowed_tools else []
        words += ["--tools", ",".join(section.tools)] if section.tools is not None else []
        words += ["--model", section.model] if section.model else []
        words += ["--resume", job.session.id] if job.session else []
        words += ["--include-partial-messages"] if job.answers else []
        words += ["--max-budget-usd", f"{job.max_cost_usd:.6f}"] if job.max_cost_usd else []
        return [*words, *section.args]

    def environment(self, job: Job) -> Mapping[str, str]:
        """Nothing is updated under a running agent."""
        return {"DISABLE_AUTOUPDATER": "1"}

    def reader(self, job: Job, heard: Heard) -> Reader:
        """What takes the events of one run."""
        return _Reading(job, heard).read


class _Reading:
    def __init__(self, job: Job, heard: Heard) -> None:
        self._job, self._heard = job, heard
        self._messages: set[str] = set()

    def read(self, event: Said) -> None:
        match event["type"].text:
            case "system":
                self._system(event)
            case "assistant":
                self._assistant(event)
            case "user":
                for block in event["message"]["content"]:
                    if block["type"].text == "tool_result":
                        self._heard.returned(block["tool_use_id"].text)
            case "stream_event" if not event["parent_tool_use_id"]:
                self._streams(event["event"])
            case "rate_limit_event":
                self._limit(event["rate_limit_info"])
            case "result":
                self._result(event)

    def _streams(self, event: Said) -> None:
        """A message in parts, which comes as a whole too."""
        if event["type"].text == "message_start":
            self._heard.begins_anew()
        elif event["delta"]["type"].text == "text_delta":
            self._heard.streams(event["delta"]["text"].text)

    def _system(self, event: Said) -> None:
        if event["subtype"].text == "init":
            self._heard.meets(event["session_id"].text)
        elif event["subtype"].text == "api_retry":
            error, status, delay = event["error"].text, event["error_status"].count, event["retry_delay_ms"].number
            until = utc_now() + timedelta(milliseconds=delay) if delay and _ASKED_FOR <= delay < 1e10 else None
            text = f"{error or 'the API failed'}{f' ({status})' if status else ''}"
            self._heard.retries(text, status, _KINDS.get(error), until)

    def _assistant(self, event: Said) -> None:
        message, error = event["message"], event["error"].text
        if error or message["model"].text == _SYNTHETIC:
            text = " ".join(block["text"].text for block in message["content"])
            return self._fails(text, None, error)
        self._spends(message)
        for block in message["content"]:
            kind = block["type"].text
            if kind == "text":
                self._heard.says(block["text"].text, final=not event["parent_tool_use_id"])
            elif kind == "tool_use":
                detail = detail_of(block["input"], self._job.workdir)
                self._heard.calls(block["id"].text, block["name"].text, detail)
            else:
                self._heard.goes_on()

    def _fails(self, text: str, status: int | None, error: str) -> None:
        known = self._heard.trouble
        if not error and known and known.kind != "other":
            return  # the message before this one said what it was
        self._heard.fails(text, status, _KINDS.get(error), known.until if known else None)

    def _limit(self, info: Said) -> None:
        """Of an account with a plan; a warning hinders nothing."""
        resets = info["resetsAt"].number
        if info["status"].text == "rejected":
            until = datetime.fromtimestamp(resets, UTC) if resets and resets < 4e9 else None
            self._heard.fails(f"{info['rateLimitType'].text or 'usage'} limit reached", None, "limit", until)

    def _spends(self, message: Said) -> None:
        """So far: the output is what each message began with, so it is less than the truth until the result."""
        name, usage, so_far = message["id"].text, message["usage"], self._heard.usage
        if name in self._messages or len(self._messages) >= MESSAGES:
            return  # a message comes in parts, each with the same usage
        self._messages.add(name)
        inputs = total(so_far.input_tokens, _sum(usage, _INPUTS))
        outputs = total(so_far.output_tokens, usage["output_tokens"].count)
        self._heard.spent(Usage(input_tokens=inputs, output_tokens=outputs))

    def _result(self, event: Said) -> None:
        self._heard.spent(_usage(event))
        text, subtype = event["result"].text, event["subtype"].text
        if subtype == "success" and not event["is_error"]:
            return self._heard.ends(text)
        words = text or " ".join(error.text for error in event["errors"]) or subtype or "its result says no more"
        self._fails(words, event["api_error_status"].count, "")


def _sum(usage: Said, names: Sequence[str]) -> int | None:
    return total(*(usage[name].count for name in names))


def _usage(result: Said) -> Usage:
    """All models together, where the result tells them apart; else the main one's."""
    models, usage = list(result["modelUsage"]), result["usage"]
    return Usage(
        input_tokens=total(*(_sum(model, _MODEL_INPUTS) for model in models)) if models else _sum(usage, _INPUTS),
        output_tokens=(
            total(*(model["outputTokens"].count for model in models)) if models else usage["output_tokens"].count
        ),
        cost_usd=result["total_cost_usd"].number,
    )
