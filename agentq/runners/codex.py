"""Codex, headless: `codex exec --json`."""

from collections.abc import Mapping, Sequence

from agentq.messages import Usage
from agentq.runner import Job
from agentq.runner_sections import CodexSection
from agentq.runners.heard import Heard
from agentq.runners.said import Said
from agentq.runners.stream import Reader


class Codex:
    """How Codex is started, and what its events mean."""

    def __init__(self, section: CodexSection) -> None:
        self._section = section

    def command(self, job: Job) -> Sequence[str]:
        """The program and its arguments; its sandbox would keep it from the folder for its results."""
        section = self._section
        words = [*(section.command or ("codex",)), "exec", "--json", "--skip-git-repo-check"]
        words += ["-s", section.permission_mode, "--add-dir", str(job.output)]
        words += ["-m", section.model] if section.model else []
        words += section.args
        return [*words, *(("resume", job.session.id) if job.session else ()), "-"]

    def environment(self, job: Job) -> Mapping[str, str]:
        """Nothing that it would not have by itself."""
        return {}

    def reader(self, job: Job, heard: Heard) -> Reader:
        """What takes the events of one run."""
        return _Reading(job, heard).read


class _Reading:
    def __init__(self, job: Job, heard: Heard) -> None:
        self._job, self._heard = job, heard
        self._thread = ""

    def read(self, event: Said) -> None:
        match event["type"].text:
            case "thread.started":
                self._thread = event["thread_id"].text
                self._heard.meets(self._thread)
            case "item.started" | "item.updated":
                self._begins(event["item"])
            case "item.completed":
                self._ends(event["item"])
            case "turn.completed":
                self._spends(event["usage"])
                self._heard.ends()
            case "turn.failed":
                self._heard.fails(event["error"]["message"].text)
            case "error":
                self._heard.retries(event["message"].text)

    def _begins(self, item: Said) -> None:
        match item["type"].text:
            case "command_execution":
                self._heard.calls(item["id"].text, "shell", item["command"].text)
            case "mcp_tool_call" | "web_search" | "collab_tool_call":
                name = item["tool"].text or item["type"].text
                self._heard.calls(item["id"].text, name, item["query"].text)

    def _ends(self, item: Said) -> None:
        match item["type"].text:
            case "agent_message":
                self._heard.says(item["text"].text)
            case "error":  # a warning: the turn goes on
                self._heard.prints(item["message"].text)
            case "file_change":
                paths = " ".join(change["path"].text for change in item["changes"])
                self._heard.calls("", "edit", paths.replace(f"{self._job.workdir}/", ""))
            case _:
                self._heard.returned(item["id"].text)

    def _spends(self, counted: Said) -> None:
        """The tool counts for the whole thread; of one that was resumed, what had been counted before is taken off."""
        whole = Usage(input_tokens=counted["input_tokens"].count, output_tokens=counted["output_tokens"].count)
        self._heard.meets(self._thread, whole)
        resumed = self._job.session
        self._heard.spent(_without(whole, resumed.usage) if resumed and resumed.id == self._thread else whole)


def _without(whole: Usage, earlier: Usage) -> Usage:
    """What is left of a count; unknown where one of the two is."""

    def left(now: int | None, before: int | None) -> int | None:
        return None if now is None or before is None else max(0, now - before)

    return Usage(
        input_tokens=left(whole.input_tokens, earlier.input_tokens),
        output_tokens=left(whole.output_tokens, earlier.output_tokens),
    )
