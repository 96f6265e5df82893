"""What the tools' events mean: recorded lines of each, and anything between them."""

import json
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentq.errors import Invalid
from agentq.messages import Usage, utc_now
from agentq.profile import load_profile
from agentq.runner import Job, Ran, Session
from agentq.runner_sections import SECTIONS, ClaudeSection, CommandSection, section_for
from agentq.runners import heard as heard_module
from agentq.runners.heard import Heard
from agentq.runners.making import make_runner
from agentq.runners.program import Over
from agentq.runners.said import Lines, Said, parsed
from agentq.runners.stream import StreamRunner
from agentq.runners.trouble import moment, trouble

NOW = datetime(2026, 11, 29, 10, 0, tzinfo=UTC)
KINDS = ("claude", "codex", "gemini", "qwen", "opencode")
TOKENS = {"input_tokens": 400, "cache_creation_input_tokens": 100, "cache_read_input_tokens": 800, "output_tokens": 34}
MODEL = {"inputTokens": 400, "cacheCreationInputTokens": 100, "cacheReadInputTokens": 800, "outputTokens": 34}


class Run:
    """A run of a tool that prints what a test says."""

    def __init__(self, kind: str, session: Session | None = None, answer_seconds: float = 900.0) -> None:
        self.said, self.doing, self.spent, self.met = b"", list[str](), list[Usage](), list[Session]()
        self.job = Job(
            task_id="task-1",
            attempt=1,
            token="t",
            prompt="",
            workdir=Path("/w"),
            output=Path("/o"),
            transcript=Path("/t"),
            environment={},
            session=session,
            heard=self._hear,
            doing=self.doing.append,
            spent=self.spent.append,
            met=self.met.append,
        )
        runner = make_runner(SECTIONS[kind].model_validate({"kind": kind}), Path("/p"))
        assert isinstance(runner, StreamRunner)
        self.tool = runner._tool
        self.heard = Heard(self.job, answer_seconds)
        self.read = self.tool.reader(self.job, self.heard)

    def _hear(self, stream: int, chunk: bytes) -> None:
        self.said += chunk

    def prints(self, *events: Any) -> "Run":
        for event in events:
            self.read(Said(json.loads(json.dumps(event))))
        return self

    def ends(self, code: int | None = 0, stderr: str = "") -> Ran:
        return self.heard.outcome(Over(None, code, "", stderr, True))


def claude_says(text: str, **more: Any) -> dict[str, Any]:
    message = {"id": "m1", "model": "claude", "content": [{"type": "text", "text": text}], "usage": TOKENS}
    return {"type": "assistant", "message": message, "parent_tool_use_id": None, **more}


def claude_ends(**more: Any) -> dict[str, Any]:
    result = {"type": "result", "subtype": "success", "is_error": False, "result": "Done.", "total_cost_usd": 0.5}
    return {**result, "usage": TOKENS, "modelUsage": {"a": MODEL, "b": MODEL}, **more}


CLAUDE_INIT = {"type": "system", "subtype": "init", "session_id": "s1"}
CLAUDE_RETRY = {
    "type": "system",
    "subtype": "api_retry",
    "attempt": 1,
    "retry_delay_ms": 600.5,
    "error_status": 401,
    "error": "authentication_failed",
}
CODEX_START = ({"type": "thread.started", "thread_id": "t1"}, {"type": "turn.started"})
CODEX_SAYS = {"type": "item.completed", "item": {"id": "i1", "type": "agent_message", "text": "Done."}}
CODEX_ENDS = {"type": "turn.completed", "usage": {"input_tokens": 2400, "cached_input_tokens": 9, "output_tokens": 68}}
GEMINI_SAYS = {"type": "message", "role": "assistant", "content": "Done.", "delta": True}
GEMINI_ENDS = {"type": "result", "status": "success", "stats": {"input_tokens": 6000, "output_tokens": 170}}
QWEN_SAYS = {"type": "assistant", "message": {"content": [{"type": "text", "text": "Done."}]}}
QWEN_ENDS = {"type": "result", "subtype": "success", "is_error": False, "result": "Done.", "usage": TOKENS}
OPENCODE_SAYS = {"type": "text", "sessionID": "ses_1", "part": {"text": "Done."}}
STEP_TOKENS = {"input": 400, "output": 30, "reasoning": 4, "cache": {"read": 800, "write": 0}}
OPENCODE_ENDS = {"type": "step_finish", "part": {"reason": "stop", "tokens": STEP_TOKENS, "cost": 0.25}}
WELL: dict[str, tuple[Any, ...]] = {
    "claude": (CLAUDE_INIT, claude_says("Done."), claude_ends()),
    "codex": (*CODEX_START, CODEX_SAYS, CODEX_ENDS),
    "gemini": ({"type": "init", "session_id": "s1"}, GEMINI_SAYS, GEMINI_ENDS),
    "qwen": (CLAUDE_INIT, QWEN_SAYS, QWEN_ENDS),
    "opencode": (OPENCODE_SAYS, OPENCODE_ENDS),
}


# ---------------------------------------------------------------------- how a run went


@pytest.mark.promise("tools-not-believed")
@pytest.mark.parametrize("kind", KINDS)
def test_it_went_well_when_all_signals_agree(kind: str) -> None:
    run = Run(kind).prints(*WELL[kind])
    ran = run.ends()
    assert (ran.ended, ran.reason, run.heard.final_text) == ("done", None, "Done.")
    assert b"Done." in run.said
    assert run.heard.session == run.met[-1]


@pytest.mark.promise("tools-not-believed")
@pytest.mark.parametrize("kind", KINDS)
def test_exit_0_without_a_last_event_is_a_failure(kind: str) -> None:
    assert Run(kind).prints(*WELL[kind][:-1]).ends().ended == "failed"
    assert Run(kind).ends() == Ran("failed", "ended without saying that it was done")


@pytest.mark.promise("tools-not-believed")
@pytest.mark.parametrize("kind", KINDS)
def test_a_last_event_with_another_exit_code_is_a_failure(kind: str) -> None:
    ran = Run(kind).prints(*WELL[kind]).ends(1, "it broke")
    assert ran == Ran("failed", "exited with status 1: it broke")
    assert Run(kind).prints(*WELL[kind]).ends(-15).reason == "killed by signal SIGTERM"


def api_error(status: int, message: str) -> dict[str, Any]:
    return {"type": "error", "error": {"name": "APIError", "data": {"message": message, "statusCode": status}}}


def codex_fails(message: str) -> dict[str, Any]:
    return {"type": "turn.failed", "error": {"message": message}}


def gemini_fails(**more: Any) -> dict[str, Any]:
    return {"type": "result", "status": "error", **more}


RETRY = {"type": "error", "message": "Reconnecting... 1/1 (stream closed)"}
CUT = {"type": "error", "severity": "error", "message": "Model stream ended"}
NO_KEY = {"message": '[API Error: {"error":{"code":401,"status":"UNAUTHENTICATED"}}]'}
BROKE = claude_ends(is_error=True)


@pytest.mark.promise("tools-not-believed")
@pytest.mark.parametrize(
    ("kind", "events", "code", "ended"),
    [
        ("claude", [claude_ends(is_error=True, result="API Error", api_error_status=500)], 1, "failed"),
        ("claude", [BROKE], 0, "failed"),
        ("claude", [claude_ends(subtype="error_max_turns", result=None, errors=["Too many turns"])], 1, "failed"),
        ("claude", [claude_ends(is_error=True, result="x", api_error_status=401)], 1, "unusable"),
        ("claude", [claude_says("Credit balance is too low", error="billing_error"), BROKE], 1, "unusable"),
        ("claude", [claude_says("x", error="model_not_found"), BROKE], 1, "unusable"),
        ("claude", [claude_says("x", error="rate_limit"), BROKE], 1, "try_again"),
        ("claude", [claude_says("It violates our Usage Policy", error="invalid_request")], 1, "refused"),
        ("codex", [RETRY, codex_fails("stream closed")], 1, "failed"),
        ("codex", [codex_fails("unexpected status 401 Unauthorized: no")], 1, "unusable"),
        ("codex", [codex_fails("exceeded retry limit, last status: 429 Too Many Requests")], 1, "try_again"),
        ("gemini", [CUT, gemini_fails()], 0, "failed"),
        ("gemini", [gemini_fails(error=NO_KEY)], 145, "unusable"),
        ("qwen", [{**QWEN_ENDS, "result": "[API Error: Model stream ended]"}], 0, "failed"),
        ("qwen", [{**QWEN_ENDS, "result": "[API Error: 401 Incorrect API key]"}], 0, "unusable"),
        ("opencode", [api_error(401, "no")], 1, "unusable"),
        ("opencode", [api_error(400, "no")], 1, "failed"),
        ("opencode", [{"type": "step_finish", "part": {"reason": "unknown"}}], 0, "failed"),
        ("opencode", [{"type": "step_finish", "part": {"reason": "content-filter"}}], 1, "refused"),
        ("opencode", [{"type": "step_finish", "part": {"reason": "tool-calls"}}], 0, "failed"),
    ],
)
def test_what_an_error_means(kind: str, events: list[Any], code: int, ended: str) -> None:
    assert Run(kind).prints(*events).ends(code).ended == ended


@pytest.mark.parametrize("stderr", ["Not logged in · Please run /login", "Please set an Auth method in your settings"])
def test_a_login_that_is_missing_may_be_told_on_stderr_alone(stderr: str) -> None:
    assert Run("gemini").ends(41, f"Warning\n{stderr}").ended == "unusable"


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_that_was_got_over_is_none(kind: str) -> None:
    error = {"claude": CLAUDE_RETRY, "opencode": api_error(500, "x")}.get(kind, {"type": "error", "message": "401"})
    assert Run(kind).prints(error, *WELL[kind]).ends().ended == "done"


@pytest.mark.promise("limit-pauses")
def test_a_limit_whose_end_is_known_parks() -> None:
    until = (utc_now() + timedelta(hours=2)).replace(microsecond=0)
    info = {"status": "rejected", "resetsAt": int(until.timestamp()), "rateLimitType": "five_hour"}
    run = Run("claude").prints(
        CLAUDE_INIT,
        {"type": "rate_limit_event", "rate_limit_info": info},
        claude_says("You've hit your session limit · resets 11:47am (UTC)", error="rate_limit"),
        claude_ends(is_error=True, result="You've hit your session limit", api_error_status=429),
    )
    ran = run.ends(1)
    assert (ran.ended, ran.not_before, ran.limited) == ("parked", until, True)
    message = (
        f"You have hit your usage limit. Visit https://x.y/z or try again at {until:%b %d}th, {until:%Y %I:%M %p}."
    )
    ran = Run("codex").prints({"type": "turn.failed", "error": {"message": message}}).ends(1)
    assert ran.ended == "parked"
    assert ran.limited


def test_a_warning_before_a_limit_hinders_nothing() -> None:
    info = {"status": "allowed_warning", "resetsAt": 2_000_000_000}
    events = ({"type": "rate_limit_event", "rate_limit_info": info}, *WELL["claude"])
    assert Run("claude").prints(*events).ends().ended == "done"


# ---------------------------------------------------------------------- what it took


@pytest.mark.parametrize(
    ("kind", "events", "usage"),
    [
        ("claude", [claude_says("x"), claude_ends()], Usage(input_tokens=2600, output_tokens=68, cost_usd=0.5)),
        ("claude", [claude_ends(modelUsage={})], Usage(input_tokens=1300, output_tokens=34, cost_usd=0.5)),
        ("claude", [claude_says("x"), claude_says("y")], Usage(input_tokens=1300, output_tokens=34)),
        ("codex", [*CODEX_START, CODEX_ENDS], Usage(input_tokens=2400, output_tokens=68)),
        ("gemini", [GEMINI_ENDS], Usage(input_tokens=6000, output_tokens=170)),
        ("qwen", [QWEN_ENDS], Usage(input_tokens=400, output_tokens=34)),
        ("opencode", [OPENCODE_ENDS, OPENCODE_ENDS], Usage(input_tokens=2400, output_tokens=68, cost_usd=0.5)),
        ("gemini", [{"type": "result", "status": "success", "stats": {"input_tokens": "many"}}], Usage()),
    ],
)
def test_what_it_took(kind: str, events: list[Any], usage: Usage) -> None:
    run = Run(kind).prints(*events)
    assert run.heard.usage == usage
    assert run.spent[-1:] == ([] if usage == Usage() else [usage])


def test_codex_counts_for_the_whole_thread() -> None:
    before = Session("t1", Usage(input_tokens=1200, output_tokens=34))
    run = Run("codex", before).prints(*WELL["codex"])
    assert run.heard.usage == Usage(input_tokens=1200, output_tokens=34)
    assert run.heard.session == Session("t1", Usage(input_tokens=2400, output_tokens=68))
    assert Run("codex", Session("t1")).prints(*WELL["codex"]).heard.usage == Usage(), "unknown stays unknown"
    assert Run("codex", Session("t0")).prints(*WELL["codex"]).heard.usage.input_tokens == 2400


# ---------------------------------------------------------------------- retrying, and waiting for the model


class Clock:
    """Stands in for the clock of what is heard."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(heard_module.time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.mark.promise("model-waited-for")
def test_a_tool_that_only_tries_again_is_stopped(clock: Clock) -> None:
    run = Run("claude", answer_seconds=10).prints(CLAUDE_INIT)
    for _ in range(9):
        clock.now += 1
        run.prints({**CLAUDE_RETRY, "error": "server_error", "error_status": 500})
        assert run.heard.doubt() is None
    clock.now += 1
    assert run.heard.doubt() == Ran("try_again", "its model did not answer for 10 s: server_error (500)")


@pytest.mark.promise("model-waited-for")
def test_a_step_that_ends_for_no_reason_again_and_again_is_no_answer(clock: Clock) -> None:
    run = Run("opencode", answer_seconds=10)
    for _ in range(10):
        clock.now += 1
        cut = {"type": "step_finish", "part": {"reason": "unknown"}}
        run.prints({"type": "step_start", "part": {}}, OPENCODE_SAYS, cut)
    ran = run.heard.doubt()
    assert ran is not None
    assert ran.ended == "try_again"


@pytest.mark.promise("model-waited-for")
def test_its_own_tools_may_take_longer(clock: Clock) -> None:
    call = {"type": "tool_use", "id": "c1", "name": "Bash", "input": {"command": "make"}}
    run = Run("claude", answer_seconds=10).prints({"type": "assistant", "message": {"content": [call]}})
    clock.now += 1000
    assert run.heard.doubt() is None
    run.prints({"type": "user", "message": {"content": [{"type": "tool_result", "tool_use_id": "c1"}]}})
    clock.now += 9
    assert run.heard.doubt() is None
    clock.now += 1
    assert run.heard.doubt() == Ran("try_again", "its model did not answer for 10 s")


def test_a_login_that_fails_three_times_is_not_tried_any_more() -> None:
    run = Run("claude").prints(CLAUDE_INIT, CLAUDE_RETRY, CLAUDE_RETRY)
    assert run.heard.doubt() is None
    ran = run.prints(CLAUDE_RETRY).heard.doubt()
    assert ran is not None
    assert ran.ended == "unusable"


def test_a_limit_that_lasts_longer_than_its_patience_is_not_waited_for() -> None:
    run = Run("claude").prints({**CLAUDE_RETRY, "error": "rate_limit", "error_status": 429, "retry_delay_ms": 8000})
    assert run.heard.doubt() is None
    hour = {**CLAUDE_RETRY, "error": "rate_limit", "error_status": 429, "retry_delay_ms": 3_600_000}
    ran = run.prints(hour).heard.doubt()
    assert ran is not None
    assert (ran.ended, ran.limited) == ("parked", True)


def test_what_it_does_is_told_from_time_to_time(clock: Clock) -> None:
    run = Run("claude")
    for number in range(50):
        call = {"type": "tool_use", "id": f"c{number}", "name": "Read", "input": {"file_path": f"/w/{number}.py"}}
        run.prints({"type": "assistant", "message": {"content": [call]}})
        clock.now += 0.125
    assert run.doing == ["Read: 0.py", "Read: 16.py", "Read: 32.py", "Read: 48.py"]
    clock.now += 2
    run.heard.doubt()
    assert run.doing[-1] == "Read: 49.py"


# ---------------------------------------------------------------------- anything between the lines

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def _all(value: Any) -> set[str]:
    if isinstance(value, dict):
        return set(value) | {word for inner in value.values() for word in _all(inner)}
    if isinstance(value, list | tuple):
        return {word for inner in value for word in _all(inner)}
    return {value} if isinstance(value, str) else set()


KEYS = sorted(_all(list(WELL.values())) | {"error", "message", "status", "tool_use", "api_retry", "state", "kind"})
TYPES = sorted({event["type"] for events in WELL.values() for event in events} | {"user", "error", "tool_use", "doing"})
EVENTS = st.fixed_dictionaries(
    {"type": st.sampled_from(TYPES)},
    optional={
        key: st.recursive(
            st.sampled_from(KEYS) | JSON,
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5),
            max_leaves=10,
        )
        for key in ("message", "item", "part", "result", "usage", "error", "stats", "modelUsage", "agentq")
    },
)


@pytest.mark.promise("tools-not-believed")
@pytest.mark.parametrize("kind", [*KINDS, "python"])
@settings(max_examples=150, deadline=None)
@given(events=st.lists(EVENTS | JSON, max_size=6))
def test_no_event_breaks_a_run(kind: str, events: list[Any]) -> None:
    run = Run(kind) if kind != "python" else _python()
    for event in events:
        run.read(Said(event))
        run.heard.doubt()
    run.ends(1)
    run.said.decode()
    json.dumps([run.doing, run.heard.usage.model_dump(), run.heard.final_text])


def _python() -> Run:
    run = Run("claude")
    runner = make_runner(SECTIONS["python"].model_validate({"kind": "python:a.b:c"}), Path("/p"))
    assert isinstance(runner, StreamRunner)
    run.read = runner._tool.reader(run.job, run.heard)
    return run


@given(chunks=st.lists(st.binary(max_size=40)), longest=st.integers(1, 30))
def test_lines_are_put_together_whatever_their_chunks(chunks: list[bytes], longest: int) -> None:
    lines = Lines(longest)
    found = [line for chunk in chunks for line in lines.add(chunk)] + [lines.rest()]
    whole = b"".join(chunks).split(b"\n")
    *ends, last = whole
    assert found == [*(line for line in ends if len(line) <= longest), last if len(last) <= longest else b""]


@given(st.binary() | st.sampled_from([b"{" * 100_000, b'{"a":' + b"9" * 5000 + b"}", b"\xff", b'{"a":NaN}']))
def test_no_line_breaks_the_parser(line: bytes) -> None:
    found = parsed(line)
    assert found is None or not found["nothing"]["there"]
    assert list(Said(None)) == []
    assert Said({"a": "\ud800"})["a"].text == "?"


# ---------------------------------------------------------------------- when a limit ends


@pytest.mark.parametrize(
    ("text", "until"),
    [
        ("usage limit. Try again at Nov 30th, 2026 12:53 AM.", "2026-11-30T00:53"),
        ("You've hit your limit · resets 3pm (Europe/Berlin)", "2026-11-29T14:00"),
        ("You've hit your weekly limit · resets Dec 3 at 5am (UTC)", "2026-12-03T05:00"),
        ("You've hit your limit · resets 9:59am (UTC)", "2026-11-30T09:59"),
        ("Claude AI usage limit reached|1795960000", "2026-11-29T13:46:40"),
        ("Please retry in 3599.5s.", "2026-11-29T10:59:59.5"),
        ("try again in 3 days 4 hours 2 minutes.", "2026-12-02T14:02"),
        ("try again in 6h4m.", "2026-11-29T16:04"),
        ("Rate limit: please try again in 20ms", "2026-11-29T10:00:00.02"),
        ('{"retryDelay": "60s"}', "2026-11-29T10:01"),
        ("retry after 90 seconds", "2026-11-29T10:01:30"),
        ("resets at 2026-11-29T12:00:00+01:00", "2026-11-29T11:00"),
        ("resets at 2026-11-28T12:00:00Z", None),
        ("resets at Dec 32 5am", None),
        ("resets 5pm (No/Where)", None),
        ("resets 5pm (America)", None),
        ("try again in 99999999999 days", None),
        ("Too many requests", None),
    ],
)
def test_the_moment_that_an_error_names(text: str, until: str | None) -> None:
    expected = datetime.fromisoformat(f"{until}+00:00") if until else None
    assert moment(text, NOW) == expected


def test_what_must_be_paid_is_no_limit_that_ends() -> None:
    assert trouble("You exceeded your current quota, please check your plan and billing details.", 400).kind == "setup"
    assert trouble("You exceeded your current quota, check billing details. Please retry in 34s.").kind == "limit"


@given(st.text())
def test_no_words_break_the_reading_of_trouble(text: str) -> None:
    found = trouble(f"usage limit, resets {text} try again in {text}")
    assert len(found.text) <= 300
    for words in (f"again at {text}", f"resets {text}pm ({text})", text):
        assert (moment(words) or utc_now()) >= utc_now() - timedelta(minutes=1)


# ---------------------------------------------------------------------- how they are started


def command(kind: str, session: Session | None = None, **values: Any) -> str:
    run = Run(kind, session)
    section = SECTIONS[kind].model_validate({"kind": kind, **values})
    runner = make_runner(section, Path("/p"))
    assert isinstance(runner, StreamRunner)
    return " ".join(runner._tool.command(run.job))


@pytest.mark.parametrize("kind", KINDS)
def test_settings_become_arguments(kind: str) -> None:
    words = command(kind, Session("the-session"), model="a-model", args=["--more"], command=["/bin/tool", "first"])
    assert words.startswith("/bin/tool first ")
    assert "--more" in words
    assert "-m a-model" in words or "--model a-model" in words
    assert "the-session" in words
    assert "the-session" not in command(kind)
    assert command(kind).startswith(f"{kind} ")


def test_permissions_become_arguments() -> None:
    assert "--permission-mode plan" in command("claude", permission_mode="plan")
    assert "--tools Read,Grep" in command("claude", tools=["Read", "Grep"])
    assert "--allowedTools Bash" in command("claude")
    assert "--allowedTools" not in command("claude", allowed_tools=[])
    assert "-s read-only" in command("codex", permission_mode="read-only")
    assert "--approval-mode plan" in command("gemini", permission_mode="plan")
    assert "--approval-mode plan" in command("qwen", permission_mode="plan")
    run = Run("opencode")
    section = SECTIONS["opencode"].model_validate({"kind": "opencode", "permission_mode": "read-only"})
    runner = make_runner(section, Path("/p"))
    assert isinstance(runner, StreamRunner)
    assert json.loads(runner._tool.environment(run.job)["OPENCODE_PERMISSION"])["edit"] == "deny"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('kind = "claude"\nmodle = "x"', "line 4: runner.modle: there is no such key"),
        ('kind = "claude"\npermission_mode = "yolo"', "line 4: runner.permission_mode"),
        ('kind = "codex"\ntools = ["Read"]', "line 4: runner.tools: there is no such key"),
        ('kind = "gpt"', "line 3: runner: there is no such kind; there are command, claude"),
        ('kind = "python:no-module"', "line 3: runner.kind: write python:module:function"),
        ('command = ["x"]\nmodel = "x"', "line 4: runner.model: there is no such key"),
    ],
)
def test_settings_that_a_kind_does_not_have_are_refused_with_their_line(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "worker.toml").write_text(f'agent = "x"\n[runner]\n{text}\n')
    with pytest.raises(Invalid) as raised:
        load_profile(tmp_path)
    assert said in str(raised.value).replace("line 2: runner: there", "line 3: runner: there")


def test_a_runner_by_its_name_takes_the_profiles_place() -> None:
    own = ClaudeSection(model="opus", grace_seconds=9)
    assert section_for(("claude",), own) == own
    codex = section_for(("codex",), own)
    assert (codex.kind, codex.grace_seconds, codex.model) == ("codex", 9, None)
    other = section_for(("./my-agent", "claude"), own)
    assert other == CommandSection(command=("./my-agent", "claude"), grace_seconds=9)
    assert section_for(("python:a.b:c",), own).kind == "python:a.b:c"
    with pytest.raises(Invalid, match="python:module:function"):
        section_for(("python:a",), own)


def test_the_documented_versions_are_those_that_are_tested() -> None:
    root = Path(__file__).parents[1]
    told = (root / "docs/agents.md").read_text(encoding="utf-8")
    pinned = re.findall(r"^[a-z]+=\S+@([0-9.]+)$", (root / "tests/agents/install.sh").read_text(), re.MULTILINE)
    assert len(pinned) == len(KINDS)
    assert [version for version in pinned if version not in told] == []


def test_the_documented_permission_modes_and_logins_are_those_of_the_settings() -> None:
    told = (Path(__file__).parents[1] / "docs/agents.md").read_text(encoding="utf-8")
    for kind in KINDS:
        section = SECTIONS[kind]
        modes = get_args(section.model_fields["permission_mode"].annotation)
        default = section.model_fields["permission_mode"].default
        (row,) = re.findall(rf"^\| `{kind}` \| (`{default}`.*)$", told, re.MULTILINE)
        assert [mode for mode in modes if f"`{mode}`" not in row] == []
        (names,) = re.findall(rf"^\| `{kind}` \| ((?:`[A-Z_]+`(?:, )?)+) \|$", told, re.MULTILINE)
        assert re.findall("[A-Z_]+", names) == list(section.credentials)


# ---------------------------------------------------------------------- answers as they come


def claude_streams(*texts: str, **more: Any) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = [{"type": "message_start"}]
    events += [{"type": "content_block_delta", "delta": {"type": "text_delta", "text": text}} for text in texts]
    return [{"type": "stream_event", "event": event, "parent_tool_use_id": None, **more} for event in events]


def answered(kind: str, *events: Any) -> str:
    """What a run tells of its answer."""
    run, told = Run(kind), list[str]()
    run.job = replace(run.job, answers=told.append)
    run.heard = Heard(run.job, 900.0)
    run.read = run.tool.reader(run.job, run.heard)
    run.prints(*events)
    return "".join(told)


@pytest.mark.promise("answer-streamed")
def test_a_model_is_heard_while_it_speaks_and_once() -> None:
    first = claude_streams("Let me ", "look.")
    assert answered("claude", *first) == "Let me look."
    assert answered("claude", *first, claude_says("Let me look.")) == "Let me look."
    assert answered("claude", *first, claude_says("Let me look. Now.")) == "Let me look. Now."
    second = (*first, claude_says("Let me look."), *claude_streams("It ", "is so."), claude_says("It is so."))
    assert answered("claude", *second) == "Let me look.\n\nIt is so."
    assert answered("claude", *first, *claude_streams("It is so.")) == "Let me look.\n\nIt is so.", "tried again"
    assert answered("claude", *claude_streams("Inside.", parent_tool_use_id="t1"), claude_says("Out.")) == "Out."


@pytest.mark.promise("answer-streamed")
@pytest.mark.parametrize("kind", KINDS)
def test_every_tools_words_are_an_answer(kind: str) -> None:
    assert answered(kind, *WELL[kind]) == "Done."
    assert Run(kind).prints(*WELL[kind]).ends().ended == "done", "also where nobody waits for it"


def test_only_who_is_waited_for_is_asked_for_parts() -> None:
    run = Run("claude")
    assert "--include-partial-messages" not in run.tool.command(run.job)
    assert "--include-partial-messages" in run.tool.command(replace(run.job, answers=lambda text: None))
