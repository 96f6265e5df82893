"""The real tools through their runners, against the stub of their models: each does the same, and ends the same."""

import asyncio
import json
from pathlib import Path

import pytest

from agentq import processes
from agentq.messages import utc_now
from agentq.runner import Job, Ran, Session
from tests.agents.conftest import PATIENCE, Bench
from tests.agents.dialects import INPUT, OUTPUT

EVERYTHING = 120
NOBODY = "11111111-1111-4111-8111-111111111111"
NO_SESSION = {"opencode": "ses_0000000000000000000000000a"}


def left(job: Job) -> list[int]:
    """What still lives of the job."""
    return [process.pid for process in processes._marked(processes._mark(job.token))]


async def test_it_edits_files_and_says_so(bench: Bench) -> None:
    new, report = str(bench.work / "new.py"), str(bench.output / "report.md")
    ran = await bench.run(
        {"write": [new, "x = 2\n"]},
        {"read": str(bench.work / "a.py")},
        {"edit": [str(bench.work / "a.py"), "x = 1", "x = 3"]},
        {"shell": "cat a.py new.py > both.txt"},
        {"write": [report, "It is done.\n"]},
        {"say": "All is done."},
    )
    assert (ran.ended, ran.reason, ran.exit_code, ran.proven) == ("done", None, 0, True), bench.transcript
    assert ran.final_text == "All is done."
    assert (bench.work / "both.txt").read_text() == "x = 3\nx = 2\n"
    assert (bench.output / "report.md").read_text() == "It is done.\n"
    assert (ran.usage.input_tokens, ran.usage.output_tokens) == (6 * INPUT, 6 * OUTPUT)
    assert (ran.usage.cost_usd is not None) == (bench.tool.kind == "claude")
    assert ran.usage.seconds is not None
    assert bench.spent[-1].input_tokens == 6 * INPUT
    said = bench.heard.decode()
    assert "All is done." in said
    assert "cat a.py new.py" in said
    assert not [line for line in said.splitlines() if line.startswith("{")], "events are shown as words"
    assert '"type"' in bench.transcript, "the transcript is the tool's own stream"
    assert any("both.txt" in words or "new.py" in words for words in bench.doing), bench.doing
    assert ran.session is not None
    assert bench.met[0].id == ran.session.id


async def test_a_session_is_gone_on_with(bench: Bench) -> None:
    first = await bench.run({"say": "I remember the first."})
    assert first.ended == "done", bench.transcript
    assert first.session is not None
    seen = len(bench.tool.stub.requests)
    second = await bench.run({"say": "I remember the second."}, session=first.session)
    assert (second.ended, second.final_text) == ("done", "I remember the second."), bench.transcript
    assert second.session is not None
    assert second.session.id == first.session.id
    asked = json.dumps([body for _, body in bench.tool.stub.requests[seen:]])
    assert "I remember the first." in asked, "the model is told what it said before"
    assert (second.usage.input_tokens, second.usage.output_tokens) == (INPUT, OUTPUT), "only what this run took"


async def test_a_session_that_is_gone_fails_the_run_and_is_not_kept(bench: Bench) -> None:
    ran = await bench.run({"say": "no"}, session=Session(NO_SESSION.get(bench.tool.kind, NOBODY)))
    assert (ran.ended, ran.session) == ("failed", None), (ran, bench.transcript)
    assert bench.met == []


async def test_a_login_that_does_not_work_is_told(bench: Bench) -> None:
    ran = await bench.run({"status": 401, "message": "Invalid API key"})
    assert ran.ended == "unusable", (ran, bench.transcript)
    assert ran.reason


async def test_a_server_that_fails_once_is_got_over(bench: Bench) -> None:
    ran = await bench.run({"status": 500, "times": 1}, {"say": "After all."})
    assert (ran.ended, ran.final_text) == ("done", "After all."), bench.transcript


async def test_a_limit_that_is_over_soon_is_got_over(bench: Bench) -> None:
    ran = await bench.run({"status": 429, "times": 1, "headers": {"retry-after": "1"}}, {"say": "After all."})
    assert (ran.ended, ran.final_text) == ("done", "After all."), bench.transcript


async def test_a_server_that_always_fails_is_not_waited_for_without_end(bench: Bench) -> None:
    ran = await bench.run({"status": 500}, settings={"answer_seconds": 6})
    assert ran.ended in ("try_again", "failed"), bench.transcript
    assert ran.proven


async def test_a_limit_without_a_known_end_is_to_be_tried_again(bench: Bench) -> None:
    ran = await bench.run({"status": 429, "message": "Slow down."}, settings={"answer_seconds": 6})
    assert ran.ended == "try_again", (ran, bench.transcript)
    assert not ran.limited


async def test_a_model_that_does_not_answer_is_not_waited_for_without_end(bench: Bench) -> None:
    ran = await bench.run({"hang": True}, settings={"answer_seconds": 5})
    assert ran.ended == "try_again", bench.transcript
    assert ran.reason is not None
    assert ran.reason.startswith("its model did not answer for 5 s")
    assert ran.proven


async def test_a_stream_that_is_cut_is_no_success(bench: Bench) -> None:
    ran = await bench.run({"drop": True}, settings={"answer_seconds": 8})
    assert ran.ended in ("failed", "try_again"), (ran, bench.transcript)
    assert ran.reason


async def test_a_refusal_is_no_report_of_work(bench: Bench) -> None:
    ran = await bench.run({"refuse": "I cannot help with that."})
    if bench.tool.kind in ("codex", "gemini", "qwen"):  # it looks like any other answer there
        assert (ran.ended, ran.final_text) == ("done", "I cannot help with that."), bench.transcript
    else:
        assert ran.ended == "refused", (ran, bench.transcript)


# ---------------------------------------------------------------------- limits and stopping

LONG = "python3 -c 'import time; time.sleep(600)'"
HIDE = (
    "import os,signal,time;signal.signal(signal.SIGTERM,signal.SIG_IGN);"
    "open('hidden','w').write(str(os.getpid()));time.sleep(600)"
)


async def started(bench: Bench, job: Job, runner: "asyncio.Task[Ran]") -> int:
    """Wait until the tool's own tool runs, in a session of its own; its pid."""
    path = bench.work / "hidden"
    async with asyncio.timeout(PATIENCE):
        while not (path.exists() and path.read_text()):
            assert not runner.done(), (runner.result(), bench.transcript)
            await asyncio.sleep(0.02)
    return int(path.read_text())


async def test_what_it_started_is_stopped_with_it(bench: Bench) -> None:
    job = bench.job({"shell": f'setsid python3 -c "{HIDE}" & python3 -c "import time; time.sleep(600)"'}, {"say": "x"})
    running = asyncio.create_task(bench.tool.runner().run(job))
    hidden = await started(bench, job, running)
    if bench.tool.kind != "codex":  # its sandbox has its own pids
        assert Path(f"/proc/{hidden}").exists()
    job.stop.set()
    async with asyncio.timeout(PATIENCE):
        ran = await running
    assert (ran.ended, ran.proven) == ("stopped", True)
    assert left(job) == []


async def test_the_deadline_holds(bench: Bench) -> None:
    job = bench.job({"shell": LONG}, {"say": "x"}, timeout_seconds=8)
    ran = await bench.tool.runner().run(job)
    assert (ran.ended, ran.reason, ran.proven) == ("timed_out", "took longer than 8 s", True), bench.transcript
    assert left(job) == []


async def test_silence_is_bounded(bench: Bench) -> None:
    began = utc_now()
    ran = await bench.run({"shell": LONG}, {"say": "x"}, silence_seconds=8)
    assert (ran.ended, ran.reason) == ("timed_out", "printed nothing for 8 s"), bench.transcript
    assert (utc_now() - began).total_seconds() < EVERYTHING


async def test_a_flood_is_bounded(bench: Bench) -> None:
    ran = await bench.run({"flood": 700_000}, {"say": "x"}, output_limit=100_000)
    assert (ran.ended, ran.reason) == ("failed", "printed more than 100000 bytes"), bench.transcript[:2000]
    assert len(bench.transcript) <= 100_000


def test_check_finds_what_is_not_installed(bench: Bench) -> None:
    from agentq.errors import Invalid

    with pytest.raises(Invalid, match="missing"):
        bench.tool.runner(command=["/no/such/tool"]).check()
