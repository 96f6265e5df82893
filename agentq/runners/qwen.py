"""Qwen Code, headless: `qwen -o stream-json`."""

import re
from collections.abc import Mapping, Sequence

from agentq.messages import Usage
from agentq.runner import Job
from agentq.runner_sections import QwenSection
from agentq.runners.heard import Heard, detail_of
from agentq.runners.said import Said, total
from agentq.runners.stream import Reader

_ERROR = re.compile(r"\[API Error\b[^\]]*\]?\s*\Z")
"""How an answer ends that is none; the tool takes it for one, and says that all went well."""


class Qwen:
    """How Qwen Code is started, and what its events mean."""

    def __init__(self, section: QwenSection) -> None:
        self._section = section

    def command(self, job: Job) -> Sequence[str]:
        """The program and its arguments."""
        section = self._section
        words = [*(section.command or ("qwen",)), "-o", "stream-json", "--approval-mode", section.permission_mode]
        words += ["--include-directories", str(job.output.parent)]
        words += ["--auth-type", section.auth_type] if section.auth_type else []
        words += ["-m", section.model] if section.model else []
        words += ["--resume", job.session.id] if job.session else []
        return [*words, *section.args]

    def environment(self, job: Job) -> Mapping[str, str]:
        """One process instead of two, so that it hears when it is to end."""
        return {"QWEN_CODE_NO_RELAUNCH": "true"}

    def reader(self, job: Job, heard: Heard) -> Reader:
        """What takes the events of one run."""
        return _Reading(job, heard).read


class _Reading:
    def __init__(self, job: Job, heard: Heard) -> None:
        self._job, self._heard = job, heard

    def read(self, event: Said) -> None:
        match event["type"].text:
            case "system":
                self._heard.meets(event["session_id"].text)
            case "assistant":
                self._spends(event["message"])
                for block in event["message"]["content"]:
                    self._block(block, final=not event["parent_tool_use_id"])
            case "user":
                for block in event["message"]["content"]:
                    if block["type"].text == "tool_result":
                        self._heard.returned(block["tool_use_id"].text)
            case "result":
                self._result(event)

    def _spends(self, message: Said) -> None:
        more, so_far = _usage(message["usage"]), self._heard.usage
        inputs = total(so_far.input_tokens, more.input_tokens)
        self._heard.spent(Usage(input_tokens=inputs, output_tokens=total(so_far.output_tokens, more.output_tokens)))

    def _block(self, block: Said, *, final: bool) -> None:
        text = block["text"].text
        match block["type"].text:
            case "text" if error := _ERROR.search(text):
                self._heard.fails(error[0])
            case "text":
                self._heard.says(text, final=final)
            case "tool_use":
                detail = detail_of(block["input"], self._job.workdir)
                self._heard.calls(block["id"].text, block["name"].text, detail)
            case _:
                self._heard.goes_on()

    def _result(self, event: Said) -> None:
        text = event["result"].text
        if not self._job.session:  # of a session that was resumed it counts more than there was
            self._heard.spent(_usage(event["usage"]))
        error = _ERROR.search(text)
        if event["subtype"].text == "success" and not event["is_error"] and not error:
            return self._heard.ends(text)
        known = self._heard.trouble
        told = text or event["error"]["message"].text or (known.text if known else event["subtype"].text)
        self._heard.fails(told or "its result says no more")


def _usage(counts: Said) -> Usage:
    return Usage(input_tokens=counts["input_tokens"].count, output_tokens=counts["output_tokens"].count)
