"""What an agent that was asked for an answer decided to do, as it writes it to decision.json, and why."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from agentq.agent_json import read_agent_json
from agentq.credentials import masked
from agentq.messages import Choice, Chosen

DECISION, ANSWER = "decision", "answer"
"""The artifacts: what was decided, and the words for whoever asked."""
FILE = f"{DECISION}.json"
TEXT_LIMIT = 64 * 1024
DECISION_LIMIT = 512 * 1024
"""Bytes, of each text and of the file, in which characters may be written as six."""
_SILENT: tuple[Choice, ...] = ("refine", "act", "decline")
"""What may be decided without more words than why."""
SHAPE = (
    '{"decision": "answer" | "refine" | "report-status" | "act" | "decline", "why": "…", "text": "your words, unless'
    ' they stand in answer.md", "description": "the whole new text, with refine and only there"}'
)


def _says_something(text: str) -> str:
    if not text.strip():
        raise ValueError("it is empty")
    return text


def _bounded(text: str) -> str:
    if (size := len(text.encode(errors="replace"))) > TEXT_LIMIT:
        raise ValueError(f"it has {size} bytes, {TEXT_LIMIT} is the limit")
    return text


class Decided(BaseModel):
    """What was decided: a new description is proposed by who refines, and by nobody else."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    decision: Choice
    why: Annotated[str, Field(max_length=1000), AfterValidator(_says_something)]
    text: Annotated[str, AfterValidator(_bounded)] | None = None
    description: Annotated[str, AfterValidator(_bounded), AfterValidator(_says_something)] | None = None

    @model_validator(mode="after")
    def _proposes_what_it_says(self) -> "Decided":
        if self.decision == "refine" and self.description is None:
            raise ValueError("it refines, and has no description: give the whole new text")
        if self.decision != "refine" and self.description is not None:
            raise ValueError(f"it has a description, which only refine proposes, not {self.decision}")
        return self

    @property
    def chosen(self) -> Chosen:
        """What the completion says of it."""
        return Chosen(decision=self.decision, why=masked(self.why))

    def answer(self, last_words: str) -> str:
        """The words of an answer that has no file: the decision's, else the last ones that were said, else why nothing
        is said to a question; "" when there are none."""
        return (self.text or last_words).strip() or (self.why if self.decision in _SILENT else "")


def read_decided(data: bytes) -> Decided:
    """What a decision.json says, also one fenced as a report does it; raises Invalid with what is wrong, whose hint is
    the shape that it should have."""
    return read_agent_json(data, Decided, what="decision", limit=DECISION_LIMIT, shape=SHAPE)
