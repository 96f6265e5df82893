"""`agentq mcp` as a process: what it prints, how it ends, and whom it serves."""

import array
import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from tests.desk import Desk
from tests.integrations.mcp_clients import PATIENCE, Lines, until

TASK = {"to": "implementation-worker", "type": "implementation", "instructions": "Do it."}


@pytest.mark.parametrize("version", ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"])
def test_an_older_client_is_served_in_its_own_version(desk: Desk, version: str) -> None:
    with Lines(desk) as lines:
        said = lines.shake_hands(version)
        assert said["protocolVersion"] == version
        assert said["serverInfo"]["name"] == "agentq"
        assert {"tools", "resources"} <= set(said["capabilities"])
        lines.say("tools/list", {}, 1)
        assert len(lines.hear(1)["result"]["tools"]) == 9
        result = lines.call("submit", 2, **TASK, id="one")
        assert result["content"][0]["text"].startswith("one is queued")
        assert "structuredContent" not in result


def test_a_version_that_nobody_knows_is_answered_with_one_that_is_known(desk: Desk) -> None:
    with Lines(desk) as lines:
        assert lines.shake_hands("2031-01-01")["protocolVersion"] == "2025-11-25"


@pytest.mark.promise("mcp-stdout")
def test_stdout_belongs_to_the_protocol(desk: Desk) -> None:
    workers = desk.project / "workers" / "broken"
    workers.mkdir(parents=True)
    with Lines(desk) as lines:  # it reads each line as JSON
        lines.shake_hands("2025-06-18")
        for line in ("", "{", "[]", "nonsense", '"text"', "null", '{"jsonrpc": "2.0"}', "\x00\x1b[2J", "x" * 100_000):
            lines.raw(line)
        lines.say("no/such", {}, 1)
        assert "error" in lines.hear(1)
        lines.say("tools/call", {"name": 3}, 2)
        assert "error" in lines.hear(2)
        assert lines.call("submit", 3, **TASK, id="one")["isError"] is False
        assert lines.call("list", 4)["content"][0]["text"]
        (workers / "worker.toml").write_text("agent = ")
        assert lines.call("submit", 5, **TASK)["isError"]
        lines.process.stdin.close()  # type: ignore[union-attr]
        assert lines.ends() == 0
        assert "Traceback" not in lines.stderr.read_text()


@pytest.mark.promise("mcp-stdout")
def test_what_anything_prints_goes_to_stderr(desk: Desk) -> None:
    lines = [
        "import os, sys",
        "from agentq.integrations.mcp.stdio import take_stdout",
        "print('before', flush=True)",
        "wire = take_stdout()",
        "print('stray', flush=True); os.system('echo child')",
        "wire.write('message\\n'); wire.flush()",
    ]
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, check=True)
    assert done.stdout == b"before\nmessage\n"
    assert done.stderr == b"stray\nchild\n"


@pytest.mark.promise("mcp-ends")
@pytest.mark.parametrize("how", ["eof", "term", "int"])
@pytest.mark.parametrize("busy", [False, True])
def test_it_ends_at_once_and_leaves_nothing(desk: Desk, how: str, busy: bool) -> None:
    with Lines(desk) as lines:
        lines.shake_hands("2025-06-18")
        lines.call("submit", 1, **TASK, id="slow")
        if busy:
            given = {"name": "wait", "arguments": {"ids": ["slow"], "seconds": 600}, "_meta": {"progressToken": "p"}}
            lines.say("tools/call", given, 2)
            until(lambda: (lines.messages.get(timeout=PATIENCE) or {}).get("method") == "notifications/progress")
        if how == "eof":
            lines.process.stdin.close()  # type: ignore[union-attr]
        else:
            lines.process.send_signal(signal.SIGTERM if how == "term" else signal.SIGINT)
        assert lines.ends() == {"eof": 0, "term": 0, "int": 130}[how]
        assert "Traceback" not in lines.stderr.read_text()
        assert _left(desk) == []


def test_it_ends_when_nobody_reads_any_more(desk: Desk) -> None:
    with (desk.folder / "stderr").open("w+") as errlog:
        process = desk.start("mcp", stdin=subprocess.PIPE, stderr=errlog)
        assert process.stdin
        assert process.stdout
        process.stdout.close()
        params = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}}
        line = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params})
        process.stdin.write(line.encode() + b"\n")
        process.stdin.flush()  # and it stays open
        assert process.wait(PATIENCE) == 0
        process.stdin.close()
        errlog.seek(0)
        assert "Traceback" not in errlog.read()


@pytest.mark.promise("mcp-ends")
@pytest.mark.parametrize("how", ["eof", "term"])
def test_it_ends_also_when_its_client_reads_nothing(desk: Desk, how: str) -> None:
    with (desk.folder / "stderr").open("w") as errlog:
        process = desk.start("mcp", stdin=subprocess.PIPE, stderr=errlog)
        assert process.stdin
        params = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}}
        asked = [("initialize", params), *[("tools/list", {})] * 40]
        for number, (method, given) in enumerate(asked):
            line = json.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": given})
            process.stdin.write(line.encode() + b"\n")
        process.stdin.flush()
        assert process.stdout
        until(lambda: _unread(process.stdout.fileno()) >= 40_000)  # the pipe is full
        if how == "eof":
            process.stdin.close()
        else:
            process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
        process.stdin.close()
        process.stdout.close()


def test_a_closed_stdin_is_the_end(desk: Desk) -> None:
    process = desk.start("mcp")
    assert process.communicate(timeout=PATIENCE)[0] == b""
    assert process.returncode == 0


@pytest.mark.parametrize("closed", ["<&-", ">&-"])
def test_a_stream_that_is_not_there_is_told(desk: Desk, closed: str) -> None:
    line = f"exec {sys.executable} -m agentq mcp {closed}"
    done = subprocess.run(["sh", "-c", line], cwd=desk.project, env=desk.environment, capture_output=True, check=False)
    assert (done.returncode, b"is closed" in done.stderr) == (3, True), done


def test_without_the_extra_it_says_what_to_install(desk: Desk, tmp_path: Path) -> None:
    hide = "import sys; sys.modules['mcp'] = None\nfrom agentq.cli import main\nmain()\n"
    done = subprocess.run(
        [sys.executable, "-c", hide, "mcp"], cwd=desk.project, env=desk.environment, capture_output=True, check=False
    )
    assert done.returncode == 3
    assert b"pip install 'agentq[mcp]'" in done.stderr
    assert b"Traceback" not in done.stderr


def test_settings_that_cannot_be_used_are_told_before_it_serves(desk: Desk) -> None:
    for arguments, words in (
        (("--store", "nowhere://x"), "store"),
        (("--token-file", "x"), "--http"),
        (("--from", "a b"), "no name"),
    ):
        process = desk.start("mcp", *arguments)
        out, err = process.communicate(timeout=PATIENCE)
        assert (process.returncode, out) == (3, b""), err
        assert words in err.decode()


def test_the_command_line_imports_no_mcp_before_it_serves(desk: Desk) -> None:
    look = "import sys, agentq.cli.mcp, agentq.cli\nassert not {'mcp', 'uvicorn', 'starlette'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", look], check=True, env=os.environ)


def _unread(pipe: int) -> int:
    """How many bytes wait in a pipe."""
    waiting = array.array("i", [0])
    fcntl.ioctl(pipe, termios.FIONREAD, waiting)
    return waiting[0]


def _left(desk: Desk) -> list[int]:
    """The processes that run in the desk's home, whoever is their parent now."""
    children = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if f"HOME={desk.home}\0".encode() in path.read_bytes():
                children.append(int(path.parent.name))
    return children
