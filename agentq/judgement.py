"""What a review says, as its agent writes it to verdict.json: a verdict, and the findings that it comes from."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from agentq.agent_json import read_agent_json
from agentq.harmless import one_line
from agentq.messages import Decision, shorten

VERDICT = "verdict"
"""The artifact that a review brings."""
VERDICT_LIMIT = 256 * 1024
SHAPE = (
    '{"verdict": "approve" | "request-changes", "findings": [{"what": "…", "file": "…", "line": 1,'
    ' "severity": "blocker" | "major" | "minor"}]}'
)


class Finding(BaseModel):
    """One thing that a review found, with its place where it has one."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    what: Annotated[str, Field(min_length=1, max_length=2000)]
    file: Annotated[str, Field(max_length=1000)] | None = None
    line: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    severity: Literal["blocker", "major", "minor"] | None = None

    def __str__(self) -> str:
        """It on one line: severity, place, what."""
        place = f"{self.file}:{self.line}" if self.file and self.line else self.file or ""
        return " ".join(filter(None, (self.severity, f"{one_line(place)}:" if place else "", one_line(self.what))))


class Judgement(BaseModel):
    """A review's verdict; who requests changes says at least one thing to change."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    verdict: Decision
    findings: Annotated[tuple[Finding, ...], Field(max_length=100)] = ()

    @model_validator(mode="after")
    def _says_what_to_change(self) -> "Judgement":
        if self.verdict == "request-changes" and not any(finding.what.strip() for finding in self.findings):
            raise ValueError("it requests changes, and has no findings that say which")
        return self

    def lines(self, most: int, longest: int = 500) -> Iterator[str]:
        """So many of the findings, each on one line of at most so many characters, and how many more there are."""
        yield from (shorten(str(finding), longest) for finding in self.findings[:most])
        if len(self.findings) > most:
            yield f"and {len(self.findings) - most} more"


def read_judgement(data: bytes) -> Judgement:
    """What a verdict.json says, also one fenced as a report does it; raises Invalid with what is wrong, whose hint is
    the shape that it should have."""
    return read_agent_json(data, Judgement, what="verdict", limit=VERDICT_LIMIT, shape=SHAPE)
