"""What a subscriber is told, made once for all who are told the same."""

import json
from functools import cached_property
from typing import Any

from agentq.gateway.entries import Entry


def state_frame(trouble: str | None) -> str:
    """The frame that says how the engine stands, as JSON."""
    return json.dumps({"op": "state", **({"engine": "away", "detail": trouble} if trouble else {"engine": "ok"})})


class Frame:
    """One thing told of a topic: `op` as in docs/gateway.md, and the cursor behind it, None where there is none."""

    def __init__(self, op: str, topic: str, cursor: str | None = None, entry: Entry | None = None, detail: str = ""):
        self.op, self.topic, self.cursor, self.entry, self.detail = op, topic, cursor, entry, detail

    @cached_property
    def text(self) -> str:
        """The frame as JSON."""
        if self.entry is None:
            return json.dumps(self._plain())
        named = json.dumps({"op": self.op, "topic": self.topic, "id": self.cursor})
        return f'{named[:-1]}, "event": {self.entry.body}}}'

    def _plain(self) -> dict[str, Any]:
        said: dict[str, Any] = {"op": self.op, "topic": self.topic}
        if self.cursor is not None:
            said["at" if self.op == "subscribed" else "id"] = self.cursor
        if self.detail:
            said["detail"] = self.detail
        return said
