"""opencode, headless: `opencode run --format json`."""

import json
from collections.abc import Mapping, Sequence

from agentq.messages import Usage
from agentq.runner import Job
from agentq.runner_sections import OpencodeSection
from agentq.runners.heard import Heard, detail_of
from agentq.runners.said import Said, total
from agentq.runners.stream import Reader
from agentq.runners.trouble import Kind

_KINDS: Mapping[str, Kind] = {"ContentFilterError": "refusal", "ProviderAuthError": "setup"}
_READ_ONLY = {"edit": "deny", "webfetch": "deny", "bash": "deny"}


class Opencode:
    """How opencode is started, and what its events mean."""

    def __init__(self, section: OpencodeSection) -> None:
        self._section = section

    def command(self, job: Job) -> Sequence[str]:
        """The program and its arguments."""
        section = self._section
        words = [*(section.command or ("opencode",)), "run", "--format", "json", "--dir", str(job.workdir)]
        words += ["--auto"] if section.permission_mode == "auto" else []
        words += ["-m", section.model] if section.model else []
        words += ["-s", job.session.id] if job.session else []
        return [*words, *section.args]

    def environment(self, job: Job) -> Mapping[str, str]:
        """What it may do: nobody is there to be asked. Its folder for results lies outside of its work."""
        rules: dict[str, object] = {"external_directory": "allow"}
        rules |= _READ_ONLY if self._section.permission_mode == "read-only" else {}
        return {"OPENCODE_DISABLE_AUTOUPDATE": "1", "OPENCODE_PERMISSION": json.dumps(rules)}

    def reader(self, job: Job, heard: Heard) -> Reader:
        """What takes the events of one run."""
        return _Reading(job, heard).read


class _Reading:
    """There is no event for the end: the last step says whether it was one."""

    def __init__(self, job: Job, heard: Heard) -> None:
        self._job, self._heard = job, heard
        self._usage = Usage()

    def read(self, event: Said) -> None:
        self._heard.meets(event["sessionID"].text)
        part = event["part"]
        match event["type"].text:
            case "text":
                self._heard.says(part["text"].text, whole=False)
            case "tool_use":  # told when it has returned
                detail = detail_of(part["state"]["input"], self._job.workdir)
                self._heard.calls("", part["tool"].text, detail)
            case "step_finish":
                self._step(part)
            case "error":
                self._error(event["error"])

    def _step(self, part: Said) -> None:
        self._spends(part)
        match part["reason"].text:
            case "stop":
                self._heard.ends()
            case "tool-calls":
                self._heard.goes_on()
            case "content-filter":
                self._heard.fails("the model's content filter stopped it", kind="refusal")
            case reason:  # a stream that was cut; it begins the step again, without end
                self._heard.fails(f"a step ended for an unknown reason ({reason})")

    def _spends(self, part: Said) -> None:
        tokens, so_far = part["tokens"], self._usage
        inputs = total(tokens["input"].count, *(cached.count for cached in tokens["cache"]))
        outputs = total(tokens["output"].count, tokens["reasoning"].count)
        cost = part["cost"].number or None  # a model without a price costs 0
        self._usage = Usage(
            input_tokens=total(so_far.input_tokens, inputs),
            output_tokens=total(so_far.output_tokens, outputs),
            cost_usd=so_far.cost_usd if cost is None else (so_far.cost_usd or 0.0) + cost,
        )
        self._heard.spent(self._usage)

    def _error(self, error: Said) -> None:
        data, name = error["data"], error["name"].text
        text = data["message"].text or name or "it says no more"
        self._heard.fails(text, data["statusCode"].count, _KINDS.get(name))
