"""Python functions as agents, each in a process of its own."""

import asyncio
import dataclasses
import os
import re
import secrets
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from agentq.errors import Invalid
from agentq.messages import Usage
from agentq.processes import MARKER
from agentq.runner import Job, Ran
from agentq.runner_sections import PythonSection
from agentq.runners.making import make_runner

SECONDS = 20.0
AGENT = """
import asyncio, os, subprocess, sys, time
from datetime import datetime, timezone
from agentq.work import Later, Refuse, Work

def reports(work: Work) -> str:
    print("working on", work.task_id, flush=True)
    work.doing("counting")
    work.say("One, ")
    work.say("two. ")
    work.spent(input_tokens=3, cost_usd=0.5)
    (work.output / "risks.md").write_text("none")
    return f"{work.attempt}: {work.prompt} in {work.workdir.name}"

async def waits(work):
    await asyncio.sleep(0)
    return "awaited"

def says_nothing(work):
    print('{"a": "line of JSON that is its own"}')

def refuses(work):
    raise Refuse("not mine")

def later(work):
    raise Later("not now", datetime(2040, 1, 1, tzinfo=timezone.utc))

def sometime(work):
    raise Later("not now")

def breaks(work):
    raise ValueError("bad value")

def exits(work):
    os._exit(0)

def answers_a_number(work):
    return 7

def runs_for_ever(work):
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    print("ready", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def job(tmp_path: Path) -> Job:
    token = secrets.token_hex(8)
    for name in ("work", "output", "profile"):
        (tmp_path / name).mkdir()
    (tmp_path / "profile/my_agent.py").write_text(AGENT)
    (tmp_path / "work/json.py").write_text("raise SystemExit('imported from the workdir')")
    own = {"AGENTQ_TASK_ID": "task-1", "AGENTQ_ATTEMPT": "2", "AGENTQ_OUTPUT": str(tmp_path / "output")}
    return Job(
        task_id="task-1",
        attempt=2,
        token=token,
        prompt="the prompt",
        workdir=tmp_path / "work",
        output=tmp_path / "output",
        transcript=tmp_path / "transcript.log",
        environment={"PATH": os.environ["PATH"], MARKER: token, **own},
        timeout_seconds=SECONDS,
    )


async def call(job: Job, function: str) -> Ran:
    section = PythonSection(kind=f"python:my_agent:{function}", grace_seconds=0.2)
    runner = make_runner(section, job.output.parent / "profile")
    runner.check()
    async with asyncio.timeout(2 * SECONDS):
        return await runner.run(job)


async def test_a_function_is_called_with_its_work(job: Job) -> None:
    heard, doing, spent = bytearray(), list[str](), list[Usage]()
    job = dataclasses.replace(
        job, heard=lambda stream, chunk: heard.extend(chunk), doing=doing.append, spent=spent.append
    )
    ran = await call(job, "reports")
    assert (ran.ended, ran.reason, ran.final_text) == ("done", None, "2: the prompt in work")
    assert (ran.usage.input_tokens, ran.usage.output_tokens, ran.usage.cost_usd) == (3, None, 0.5)
    assert (job.output / "risks.md").read_text() == "none"
    assert (job.output / "answer.md").read_text() == "One, two. "
    assert b"working on task-1" in heard
    assert b'"agentq"' not in heard
    assert doing[0] == "function: my_agent:reports"
    assert spent == [Usage(input_tokens=3, cost_usd=0.5)]


@pytest.mark.parametrize(
    ("function", "ended", "reason"),
    [
        ("waits", "done", None),
        ("says_nothing", "done", None),
        ("refuses", "refused", "not mine"),
        ("sometime", "try_again", "not now"),
        ("breaks", "failed", "ValueError: bad value"),
        ("exits", "failed", "ended without saying that it was done"),
        (
            "answers_a_number",
            "failed",
            "TypeError: my_agent:answers_a_number answered int, not the text of its report,",
        ),
        ("is_missing", "failed", "AttributeError: module 'my_agent' has no attribute 'is_missing'"),
    ],
)
async def test_how_a_function_ends(job: Job, function: str, ended: str, reason: str | None) -> None:
    ran = await call(job, function)
    assert ran.ended == ended
    assert (ran.reason or "").startswith(reason or "")
    assert bool(ran.reason) == bool(reason)


async def test_later_parks_the_task_but_not_the_worker(job: Job) -> None:
    ran = await call(job, "later")
    assert (ran.ended, ran.not_before, ran.limited) == ("parked", datetime(2040, 1, 1, tzinfo=UTC), False)


async def test_a_line_of_json_of_its_own_is_shown(job: Job) -> None:
    heard = bytearray()
    await call(dataclasses.replace(job, heard=lambda stream, chunk: heard.extend(chunk)), "says_nothing")
    assert b'{"a": "line of JSON that is its own"}' in heard


async def test_what_a_function_started_is_stopped_with_it(job: Job) -> None:
    running = asyncio.create_task(call(job, "runs_for_ever"))
    async with asyncio.timeout(SECONDS):
        while not (job.transcript.exists() and b"ready" in job.transcript.read_bytes()):
            await asyncio.sleep(0.01)
            assert not running.done(), running.result()
    job.stop.set()
    ran = await running
    assert (ran.ended, ran.proven) == ("stopped", sys.platform.startswith("linux"))


async def test_the_documented_function_does_what_is_said(job: Job) -> None:
    text = (Path(__file__).parents[1] / "docs/agents.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    (job.output.parent / "profile/my_agent.py").write_text(block)
    ran = await call(job, "count")
    assert (ran.ended, ran.final_text, ran.usage.cost_usd) == ("done", "2 words", 0.0)
    assert (job.output / "risks.md").exists()
    ran = await call(dataclasses.replace(job, prompt="a secret"), "count")
    assert (ran.ended, ran.reason) == ("refused", "secrets are not counted")


def test_a_kind_must_name_a_function() -> None:
    with pytest.raises((Invalid, ValueError), match="python:module:function"):
        PythonSection(kind="python:my_agent")
