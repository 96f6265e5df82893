"""A stub of the model APIs on loopback: what the model does is said in the prompt, as steps.

A prompt holds a line `SCRIPT: [step, …]`; each request gets the next step, counted by the model's turns since then:

    {"say": text}  {"write": [path, text]}  {"edit": [path, old, new]}  {"read": path}  {"shell": command}
    {"status": 429, "times": 2, "message": text, "headers": {…}, "error": {…}}   an error, so often (else for ever)
    {"hang": true, "times": 1}  {"drop": true}  {"flood": bytes}  {"refuse": text}  {"tool": [name, input]}

What is said may be a list: parts, which a dialect that streams them tells one by one, with `pace` called before each.
An error or a `hang` with `times` is passed over after so many times. What the model does where nobody could write a
script into the prompt, `parts` say by words of the prompt. The tools are whichever the agent offers. The stub is also
the proxy that agents are given: whoever asks it for another host gets no answer and is noted in `strays`.
"""

import itertools
import json
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.agents import dialects
from tests.agents.dialects import Answer, Asked, Dialect

SCRIPT = re.compile(r"^SCRIPT: (\[.*\])$", re.MULTILINE)

Step = Mapping[str, Any]

# Of each tool: the names it goes by, and how its input looks.
SHELLS = {
    "Bash": "command",
    "bash": "command",
    "run_shell_command": "command",
    "exec_command": "cmd",
    "shell_command": "command",
}
WRITERS = {"Write": ("file_path", "content"), "write": ("filePath", "content"), "write_file": ("file_path", "content")}
EDITORS = {
    "Edit": ("file_path", "old_string", "new_string"),
    "edit": ("file_path", "old_string", "new_string"),
    "replace": ("file_path", "old_string", "new_string", "instruction"),
}
READERS = {"Read": "file_path", "read": "filePath", "read_file": "file_path"}


def script(*steps: Step) -> str:
    """A prompt that makes the model take these steps."""
    return f"Do what the script says.\nSCRIPT: {json.dumps(steps)}\n"


def steps_of(asked: Asked, parts: Mapping[str, Sequence[Step]]) -> tuple[Sequence[Step], int]:
    """The newest script in a request, or what the newest words in it stand for, and how many turns the model has taken
    since."""
    for index in range(len(asked.turns) - 1, -1, -1):
        turn = asked.turns[index] or ""
        found: list[Sequence[Step]] = [json.loads(script) for script in SCRIPT.findall(turn)[-1:]]
        found += [steps for words, steps in parts.items() if words in turn]
        if found:
            return found[0], sum(turn is None for turn in asked.turns[index:])
    return [], 0


def answer(step: Step, tools: frozenset[str]) -> Answer:
    """What the model says at a step, with the tools that it is offered."""
    (kind, value), *_ = step.items()
    match kind:
        case "say" | "refuse":
            parts = [value] if isinstance(value, str) else value
            return Answer("".join(parts), refused=kind == "refuse", parts=parts)
        case "flood":
            return Answer(" ".join(map(str, range(value // 6))))  # some notice words that repeat themselves
        case "tool":
            return Answer(tool=value[0], input=value[1])
        case "shell":
            return _shell(value, tools)
        case "read":
            return _with(READERS, [value], tools) or _shell(f"cat '{value}'", tools)
        case "write":
            return (
                _patch(_added(*value), tools) or _with(WRITERS, value, tools) or Answer(f"no tool in {sorted(tools)}")
            )
        case "edit":
            return _patch(_changed(*value), tools) or _edit(value, tools)
    raise AssertionError(f"no such step: {step}")


def _shell(command: str, tools: frozenset[str]) -> Answer:
    names = [name for name in SHELLS if name in tools]
    if not names:
        return Answer(f"no shell in {sorted(tools)}")
    more = {"description": "as the script says"} if names[0] in ("bash", "Bash") else {}
    more |= {"is_background": False} if names[0] == "run_shell_command" else {}
    return Answer(tool=names[0], input={SHELLS[names[0]]: command, **more})


def _edit(value: list[str], tools: frozenset[str]) -> Answer:
    if "bash" in tools and "edit" in tools:  # opencode's
        return Answer(tool="edit", input=dict(zip(("filePath", "oldString", "newString"), value, strict=True)))
    return _with(EDITORS, value, tools) or Answer(f"no editor in {sorted(tools)}")


def _with(known: Mapping[str, str | tuple[str, ...]], value: list[str], tools: frozenset[str]) -> Answer | None:
    for name, keys in known.items():
        if name in tools:
            names = (keys,) if isinstance(keys, str) else keys
            return Answer(tool=name, input=dict(zip(names, [*value, "as the script says"], strict=False)))
    return None


def _patch(patch: str, tools: frozenset[str]) -> Answer | None:
    return Answer(tool="apply_patch", freeform=patch) if "apply_patch" in tools else None


def _added(path: str, text: str) -> str:
    lines = "".join(f"+{line}\n" for line in text.splitlines())
    return f"*** Begin Patch\n*** Add File: {path}\n{lines}*** End Patch\n"


def _changed(path: str, old: str, new: str) -> str:
    return f"*** Begin Patch\n*** Update File: {path}\n@@\n-{old}\n+{new}\n*** End Patch\n"


class Stub(ThreadingHTTPServer):
    """The server: what it was asked (`requests`, `strays`), how many it lets hang, and where it is."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.strays: list[str] = []
        self.parts: Mapping[str, Sequence[Step]] = {}
        self.pace: Callable[[], None] = lambda: None
        self.hanging = 0
        self.closing = threading.Event()
        self.failed: Counter[str] = Counter()
        self.numbers = itertools.count()
        self.lock = threading.Lock()

    def step(self, asked: Asked) -> Step:
        """The step that a request is at; an error that was told often enough is passed over."""
        steps, taken = steps_of(asked, self.parts)
        if not asked.tools:
            return {"say": "ok"}  # titles and the like
        with self.lock:
            for index, step in enumerate(steps):
                key = f"{index} of {json.dumps(steps)}"
                hinders = "status" in step or "times" in step
                if hinders and self.failed[key] < step.get("times", 1 << 30):
                    if taken == 0:
                        self.failed[key] += 1
                        return step
                elif not hinders:
                    if taken == 0 or "drop" in step:
                        return step
                    taken -= 1
        return {"say": "done"}

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Agents that are stopped hang up; nobody needs to know."""


class _Handler(BaseHTTPRequestHandler):
    server: Stub
    protocol_version = "HTTP/1.1"

    def do_CONNECT(self) -> None:
        if self.path == self.server.url.removeprefix("http://"):  # some ask a proxy even for what is beside it
            self.wfile.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            self.close_connection = False
            return
        self.server.strays.append(self.path)
        self.send_error(403)

    def do_GET(self) -> None:
        if self.path.startswith("http://"):
            self.server.strays.append(self.path)
            return self.send_error(403)
        self._json(200, {"object": "list", "data": [], "models": [], "has_more": False})

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers.get("content-length", 0)))
        if self.path.startswith("http://"):
            self.server.strays.append(self.path)
            return self.send_error(403)
        dialect = dialects.of(self.path)
        if dialect is None:
            return self._json(200, {"input_tokens": dialects.INPUT, "totalTokens": dialects.INPUT})
        body = json.loads(data)
        self.server.requests.append((self.path, body))
        self._take(dialect, dialect.asked(body))

    def _take(self, dialect: Dialect, asked: Asked) -> None:
        step, name = self.server.step(asked), f"{next(self.server.numbers):06}"
        streams = asked.streams and not self.path.endswith(":generateContent")
        if "status" in step:
            status, message = step["status"], step.get("message", f"the script says {step['status']}")
            error = step.get("error") or dialect.error(status, message)
            return self._json(status, error, {"request-id": name, **step.get("headers", {})})
        if "hang" in step:
            self.server.hanging += 1
            self.server.closing.wait()
            return None
        if "drop" in step:
            return self._stream(dialect, Answer("cut "), name, cut=True)
        said = answer(step, frozenset(asked.tools))
        return self._stream(dialect, said, name) if streams else self._json(200, dialect.whole(said, name))

    def _stream(self, dialect: Dialect, said: Answer, name: str, *, cut: bool = False) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        self.close_connection = True
        with suppress(OSError):
            for event in itertools.islice(dialect.events(said, name), 1 if cut else None):
                if len(said.parts) > 1 and event.get("type") == "content_block_delta":
                    self.server.pace()
                head = f"event: {event['type']}\n" if dialect.named else ""
                self.wfile.write(f"{head}data: {json.dumps(event)}\n\n".encode())
            if not cut:
                self.wfile.write(dialect.last.encode())

    def _json(self, status: int, value: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        for key, text in {**(headers or {}), "content-type": "application/json", "content-length": len(body)}.items():
            self.send_header(key, str(text))
        self.end_headers()
        with suppress(OSError):
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@contextmanager
def serving() -> Iterator[Stub]:
    """A stub, until it is left."""
    with Stub() as stub:
        thread = threading.Thread(target=stub.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield stub
        finally:
            stub.closing.set()
            stub.shutdown()
            thread.join()


if __name__ == "__main__":
    with serving() as running:
        print(running.url, flush=True)
        threading.Event().wait()
