"""How daemons log: one line for each record, whatever is in it, and what it is about."""

import asyncio
import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentq import logs
from agentq.errors import ExitCode, Invalid, NotFound
from agentq.harmless import visible

KEY = "ghp_a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8"


@pytest.fixture
def records() -> Iterator[list[dict[str, Any]]]:
    """The records that this test logs, as a reader of JSON lines gets them."""
    lines: list[dict[str, Any]] = []

    class Reader(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            text = self.format(record)
            assert "\n" not in text
            lines.append(json.loads(text))

    handler = Reader()
    handler.setFormatter(logs.JsonLines({"agent": "worker", "nothing": None}))
    logs.log.addHandler(handler)
    yield lines
    logs.log.removeHandler(handler)


@pytest.mark.promise("log-lines")
@given(text=st.text(st.characters(codec=None)))
def test_any_words_are_one_record_without_control_characters(text: str) -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logs.JsonLines({}))
    logger = logging.Logger("test")
    logger.addHandler(handler)
    try:
        raise RuntimeError(text)
    except RuntimeError:
        logger.exception("%s", text)
    (line,) = stream.getvalue().splitlines()
    record = json.loads(line)
    assert visible(line) == line
    if "withheld" not in record["message"] and not any("\ud800" <= character <= "\udfff" for character in text):
        assert record["message"] == text
    assert record["exc"].startswith("Traceback (most recent call last):")


async def test_a_record_says_what_it_is_about_in_tasks_and_threads_too(records: list[dict[str, Any]]) -> None:
    async def attempt(number: int) -> None:
        with logs.about(task=f"task-{number}", trace_id=None):
            await asyncio.sleep(0)
            with logs.about(attempt=number):
                await asyncio.to_thread(logs.log.warning, "in a thread")
                await asyncio.create_task(said("in a task"))
            logs.log.warning("after")

    async def said(text: str) -> None:
        logs.log.warning(text)

    await asyncio.gather(*(attempt(number) for number in range(1, 4)))
    for number in range(1, 4):
        own = [record for record in records if record["task"] == f"task-{number}"]
        assert [(record["message"], record.get("attempt")) for record in own] == [
            ("in a thread", number),
            ("in a task", number),
            ("after", None),
        ]
    logs.log.warning("elsewhere")
    assert set(records[-1]) == {"time", "level", "message", "logger", "agent"}


@pytest.mark.promise("no-credentials")
def test_no_credential_is_logged(records: list[dict[str, Any]]) -> None:
    try:
        raise RuntimeError(f"cannot clone with {KEY}")
    except RuntimeError:
        logs.log.exception("with %s", KEY)
    assert KEY not in json.dumps(records)
    assert records[0]["message"] == "with [a GitHub token withheld]"
    assert "[a GitHub token withheld]" in records[0]["exc"]


def test_words_and_values_that_do_not_fit_are_a_record_too() -> None:
    record = logging.LogRecord("agentq", logging.WARNING, __file__, 1, "%d tasks", ("many",), None)
    assert json.loads(logs.JsonLines({}).format(record))["message"] == "%d tasks ('many',)"


@pytest.mark.parametrize(
    ("traceparent", "expected"),
    [
        (f"00-{'ab' * 16}-{'cd' * 8}-01", "ab" * 16),
        (f"cc-{'ab' * 16}-{'cd' * 8}-01-more", "ab" * 16),
        (None, None),
        ("", None),
        ("garbage", None),
    ],
)
def test_the_trace_of_a_traceparent(traceparent: str | None, expected: str | None) -> None:
    assert logs.trace_id(traceparent) == expected


def test_what_ends_a_daemon_is_a_record(records: list[dict[str, Any]]) -> None:
    with pytest.raises(SystemExit) as known, logs.last_words("json"):
        raise NotFound("there is no worker", hint="Make one.")
    with pytest.raises(SystemExit) as bug, logs.last_words("json"):
        raise ZeroDivisionError
    assert (known.value.code, bug.value.code) == (ExitCode.NOT_FOUND, ExitCode.BUG)
    assert records[0]["message"] == "there is no worker (Make one.)"
    assert records[1]["exc"].endswith("ZeroDivisionError")
    with pytest.raises(ZeroDivisionError), logs.last_words("text"):
        raise ZeroDivisionError


def test_another_format_is_refused() -> None:
    with pytest.raises(Invalid) as found:
        logs.set_up("xml")
    assert found.value.hint


PROGRAM = """
import logging, threading, warnings
from agentq import logs
logs.set_up("json", agent="worker")
class Bad:
    def __del__(self): raise ValueError("in a destructor")
def broken(): raise KeyError("in a thread")
warnings.warn("old")
thread = threading.Thread(target=broken)
thread.start(); thread.join()
Bad()
logging.getLogger("aio_pika").error("not ours")
logging.getLogger("agentq").debug("too much")
"""


@pytest.mark.promise("log-lines")
def test_what_python_prints_by_itself_is_a_record_too() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    records = [json.loads(line) for line in done.stderr.splitlines()]
    assert [record["level"] for record in records] == ["warning", "error", "error"]
    assert "UserWarning: old" in records[0]["message"]
    assert "KeyError: 'in a thread'" in records[1]["exc"]
    assert "ValueError: in a destructor" in records[2]["exc"]
    assert {record["agent"] for record in records} == {"worker"}
