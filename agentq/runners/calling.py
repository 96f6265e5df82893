"""Calls a Python function for its runner: `python -m agentq.runners.calling MODULE:FUNCTION FOLDER`."""

import asyncio
import importlib
import inspect
import os
import sys
import traceback
from pathlib import Path
from typing import Any

from agentq.work import Later, Refuse, Work, tell


def main(function: str, folder: str) -> int:
    """Call the function, tell how it went, and answer the exit code."""
    sys.path.insert(0, folder)
    try:
        tell("done", text=_call(function, _work()) or "")
    except Refuse as reason:
        tell("refuse", text=str(reason))
    except Later as reason:
        tell("later", text=str(reason), until=reason.not_before.timestamp() if reason.not_before else None)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is told
        traceback.print_exc()
        tell("failed", text=f"{type(error).__name__}: {error}")
        return 1
    return 0


def _work() -> Work:
    return Work(
        task_id=os.environ["AGENTQ_TASK_ID"],
        attempt=int(os.environ["AGENTQ_ATTEMPT"]),
        prompt=sys.stdin.read(),
        workdir=Path.cwd(),
        output=Path(os.environ["AGENTQ_OUTPUT"]),
    )


def _call(function: str, work: Work) -> str | None:
    module, _, name = function.partition(":")
    answer: Any = getattr(importlib.import_module(module), name)(work)
    if inspect.isawaitable(answer):
        answer = asyncio.run(_awaited(answer))
    if not isinstance(answer, str | None):
        raise TypeError(f"{function} answered {type(answer).__name__}, not the text of its report, or None")
    return answer


async def _awaited(answer: Any) -> Any:
    return await answer


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
