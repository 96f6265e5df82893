"""What is known of a run while its tool is heard: words, tools at work, what it took, and how it ended."""

import time
from datetime import datetime
from pathlib import Path

from agentq.harmless import one_line
from agentq.messages import Usage, shorten, utc_now
from agentq.runner import Job, Ran, Session
from agentq.runners.program import Over, with_last_line
from agentq.runners.said import Said
from agentq.runners.trouble import Kind, Trouble, trouble

OFTEN = 2.0
"""Seconds between two words on what the tool is doing."""
DOING, CALL, ID = 160, 400, 200
FINAL_TEXT = 256 * 1024
HOPELESS = 3
"""So many troubles with the login, one after another, and no tool needs to try again."""
OPEN_CALLS = 1000
TELLING = ("command", "file_path", "filePath", "path", "pattern", "query", "url", "description", "prompt")
"""The inputs of tools that say in short what a call is about."""


class Heard:
    """Tells the job what a tool does, and keeps what decides how it went. Whatever comes from the tool is bounded."""

    def __init__(self, job: Job, answer_seconds: float) -> None:
        self._job = job
        self._patience = answer_seconds
        self.session: Session | None = None
        self.usage = Usage()
        self.final_text = ""
        self.ended_well = False
        self.trouble: Trouble | None = None
        self._hopeless = 0
        self._answered_at = time.monotonic()
        self._streamed = ""
        self._answered = False
        self._calls: set[str] = set()
        self._doing = self._told = ""
        self._told_at = 0.0

    # ------------------------------------------------------------------ what a tool's lines say

    def meets(self, session: str, usage: Usage | None = None) -> None:
        """The tool's id for the conversation, and what it has counted for all of it by now."""
        before = self.session or self._job.session
        known = before.usage if before and before.id == session else Usage()
        met = Session(session, usage or known)
        if 0 < len(session) <= ID and met != self.session:
            self.session = met
            self._job.met(met)

    def says(self, text: str, *, final: bool = True, whole: bool = True) -> None:
        """The model's words; the last final ones are the run's final text. Those that are not whole may be of an answer
        that is cut, so they are none yet."""
        if not text.strip():
            return
        if whole:
            self.goes_on()
        if final:
            self.final_text = text[-FINAL_TEXT:]
            self.streams(text.removeprefix(self._streamed) if text.startswith(self._streamed) else "")
            self.begins_anew()
        self.prints(text)

    def streams(self, text: str) -> None:
        """More of what the model is just saying, before `says` tells it as a whole."""
        if text and self._job.answers:
            apart = "\n\n" if self._answered and not self._streamed else ""
            self._job.answers(apart + text)
            self._streamed += text

    def begins_anew(self) -> None:
        """What the model says next is another message."""
        self._answered = self._answered or bool(self._streamed)
        self._streamed = ""

    def prints(self, text: str) -> None:
        """Words for whoever watches."""
        self._job.heard(1, f"{text.rstrip()}\n".encode(errors="replace"))

    def calls(self, which: str, name: str, detail: str = "") -> None:
        """The model uses a tool, which may take its time until it has returned."""
        self.goes_on()
        if which and len(self._calls) < OPEN_CALLS:
            self._calls.add(which)
        words = one_line(f"{name}: {detail[:CALL]}" if detail else name)
        self.prints(f"[{shorten(words, CALL)}]")
        self.does(words)

    def returned(self, which: str) -> None:
        """That tool has returned, so that the model is waited for again."""
        self._calls.discard(which)
        self.goes_on()

    def does(self, words: str) -> None:
        """What it does now; told from time to time."""
        self._doing = shorten(one_line(words[: 4 * DOING]), DOING)
        self._tell()

    def goes_on(self) -> None:
        """The model answered, or something else went on: earlier troubles are over."""
        self._answered_at = time.monotonic()
        self.trouble, self._hopeless, self.ended_well = None, 0, False

    def spent(self, usage: Usage) -> None:
        """What this run has taken so far."""
        if usage != self.usage:
            self.usage = usage
            self._job.spent(usage)

    def fails(
        self, text: str, status: int | None = None, kind: Kind | None = None, until: datetime | None = None
    ) -> None:
        """An error, which the tool may yet get over."""
        self.trouble, self.ended_well = trouble(text, status, kind, until), False
        self._hopeless += self.trouble.kind == "setup"

    def retries(
        self, text: str, status: int | None = None, kind: Kind | None = None, until: datetime | None = None
    ) -> None:
        """An error after which the tool tries again."""
        self.fails(text, status, kind, until)
        self.prints(f"[retrying: {shorten(one_line(text), CALL)}]")
        self.does(f"retrying: {text}")

    def ends(self, text: str = "") -> None:
        """The tool says that all went well."""
        self.goes_on()
        self.final_text = text[-FINAL_TEXT:] or self.final_text
        self.ended_well = True

    # ------------------------------------------------------------------ what comes of it

    def doubt(self) -> Ran | None:
        """Why the tool must be stopped: it only tries again and again, or its model does not answer."""
        self._tell()
        waited = time.monotonic() - self._answered_at
        if self.trouble and self._hopeless >= HOPELESS:
            return self.trouble.ran
        if self.trouble and self.trouble.until and _seconds_to(self.trouble.until) > self._patience - waited:
            return self.trouble.ran
        if self._calls or waited < self._patience:
            return None
        silent = f"its model did not answer for {self._patience:g} s"
        if self.trouble:
            ran = self.trouble.ran
            return Ran("try_again", f"{silent}: {ran.reason}") if ran.ended == "failed" else ran
        return Ran("try_again", silent)

    def outcome(self, over: Over) -> Ran:
        """How it ended: well only if the exit code, the tool's own last event and the absence of errors agree."""
        if over.verdict:
            return over.verdict
        if over.exit_code == 0 and self.ended_well:
            return Ran("done")
        if self.trouble:
            return self.trouble.ran
        if over.exit_code == 0:
            return Ran("failed", "ended without saying that it was done")
        found = trouble(_last_lines(over.stderr or over.stdout))
        return found.ran if found.kind != "other" else Ran("failed", with_last_line(over.how, over))

    def _tell(self) -> None:
        now = time.monotonic()
        if self._doing != self._told and now - self._told_at >= OFTEN:
            self._told, self._told_at = self._doing, now
            self._job.doing(self._doing)


def detail_of(inputs: Said, workdir: Path) -> str:
    """What a call is about: the first of its inputs that says that."""
    text = next((found for key in TELLING if (found := inputs[key].text)), "")
    return text[: 4 * CALL].replace(f"{workdir}/", "")


def _seconds_to(moment: datetime) -> float:
    return (moment - utc_now()).total_seconds()


def _last_lines(text: str) -> str:
    return " ".join(text.strip().splitlines()[-8:])
