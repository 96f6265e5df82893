"""Gemini CLI, headless: `gemini -o stream-json`."""

from collections.abc import Mapping, Sequence

from agentq.messages import Usage
from agentq.runner import Job
from agentq.runner_sections import GeminiSection
from agentq.runners.heard import FINAL_TEXT, Heard, detail_of
from agentq.runners.said import Said
from agentq.runners.stream import Reader


class Gemini:
    """How Gemini CLI is started, and what its events mean."""

    def __init__(self, section: GeminiSection) -> None:
        self._section = section

    def command(self, job: Job) -> Sequence[str]:
        """The program and its arguments."""
        section = self._section
        words = [*(section.command or ("gemini",)), "-o", "stream-json", "--approval-mode", section.permission_mode]
        words += ["--skip-trust", "--include-directories", str(job.output.parent)]
        words += ["-m", section.model] if section.model else []
        words += ["--resume", job.session.id] if job.session else []
        return [*words, *section.args]

    def environment(self, job: Job) -> Mapping[str, str]:
        """One process instead of two, so that it hears when it is to end."""
        return {"GEMINI_CLI_NO_RELAUNCH": "true"}

    def reader(self, job: Job, heard: Heard) -> Reader:
        """What takes the events of one run."""
        return _Reading(job, heard).read


class _Reading:
    def __init__(self, job: Job, heard: Heard) -> None:
        self._job, self._heard = job, heard
        self._text = ""

    def read(self, event: Said) -> None:
        match event["type"].text:
            case "init":
                self._heard.meets(event["session_id"].text)
            case "message":
                self._message(event)
            case "tool_use":
                self._text = ""
                self._heard.begins_anew()
                detail = detail_of(event["parameters"], self._job.workdir)
                self._heard.calls(event["tool_id"].text, event["tool_name"].text, detail)
            case "tool_result":
                self._heard.returned(event["tool_id"].text)
            case "error":
                self._heard.fails(event["message"].text)
            case "result":
                self._result(event)

    def _message(self, event: Said) -> None:
        """The model's words, in parts; the prompt comes back as a message, too."""
        if event["role"].text == "assistant":
            self._heard.says(event["content"].text, final=False)
            self._heard.streams(event["content"].text)
            self._text = (self._text + event["content"].text)[-FINAL_TEXT:]
            self._heard.final_text = self._text

    def _result(self, event: Said) -> None:
        stats = event["stats"]
        counts = stats["input_tokens"].count, stats["output_tokens"].count
        self._heard.spent(Usage(input_tokens=counts[0], output_tokens=counts[1]))
        if event["status"].text == "success":
            return self._heard.ends()
        known = self._heard.trouble
        text = event["error"]["message"].text or (known.text if known else "its result says no more")
        self._heard.fails(text)
