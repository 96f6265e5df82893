"""How soon what an agent writes of its answer is on a reader's screen: from the agent's own write to the drawn text in
Chromium, with so many other connections that read the same thread, all processes on this machine."""

import asyncio
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from tests.benchmarks.gateway import Idle
from tests.browser.place import Place, Served
from tests.daemons.harness import Nursery

CHUNKS = int(os.environ.get("AGENTQ_BENCH_CHUNKS", "100"))
PAUSE = 0.25
CONNECTIONS = (1, 100, 1000)
ROOT = Path(__file__).parents[2]
WRITER = f"""
import json, os, time
output = os.environ["AGENTQ_OUTPUT"]
with open(output + "/answer.md", "a") as answer:
    for _ in range({CHUNKS}):
        print(time.time_ns(), end=" ", file=answer, flush=True)
        time.sleep({PAUSE})
with open(output + "/decision.json", "w") as decision:
    json.dump({{"decision": "answer", "why": "Asked."}}, decision)
"""
WATCH = """
() => {
  window.seen = {};
  const look = () => {
    const now = performance.timeOrigin + performance.now();
    for (const one of document.querySelector(".message.is-agent .prose")?.textContent.match(/\\d{19}/g) ?? [])
      window.seen[one] ??= now;
  };
  new MutationObserver(look).observe(document.body, { childList: true, subtree: true, characterData: true });
}
"""


def bench(folder: Path, url: str) -> None:
    """Measure both engines, RabbitMQ at that URL, and print it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        print(f"\nan agent's words on the page, a chunk every {1000 * PAUSE:.0f} ms, {CHUNKS} for each number")
        for name, broker in (("rabbitmq", url), ("sqlite", f"sqlite://{folder}/page.db")):
            with closing(Nursery()) as nursery:
                settings = {"AGENTQ_BROKER": broker, "AGENTQ_NAMESPACE": "page"}
                with closing(Place(folder / "page" / name, nursery, settings)) as place:
                    _bench(name, place)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _bench(name: str, place: Place) -> None:
    (place.home / "writer.py").write_text(WRITER)
    place.worker("writer", f"{sys.executable} {place.home}/writer.py")
    served = place.serve()
    for count in CONNECTIONS:
        thread = served.thread(f"With {count}")
        with _others(served, thread, count - 1):
            delays = sorted(_delays(served, thread))
        p50, p99 = (1000 * delays[len(delays) * percent // 100] for percent in (50, 99))
        print(f"  {name:9} {count:5} connections, of {len(delays)}: p50 {p50:.0f} ms, p99 {p99:.0f} ms")


def _delays(served: Served, thread: str) -> Iterator[float]:
    """The seconds from each chunk's write to its sight."""
    from playwright.sync_api import sync_playwright

    from tests.browser.conftest import FLAGS, program

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program(), args=list(FLAGS))
        page = browser.new_page()
        page.goto(f"{served.url}/#/threads/{thread}")
        page.get_by_label("Message", exact=True).wait_for()
        page.evaluate(WATCH)
        served.post(thread, "@writer write")
        page.locator(".decided").wait_for(timeout=120_000)
        seen = page.evaluate("window.seen")
        browser.close()
    for written, at in seen.items():
        yield at / 1000 - int(written) / 1e9


@contextmanager
def _others(served: Served, thread: str, count: int) -> Iterator[None]:
    """So many others that read the thread meanwhile, in a process of their own."""
    command = [sys.executable, "-m", "tests.benchmarks.page", served.url, thread, str(count)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, text=True) as readers:
        assert readers.stdout
        assert readers.stdout.readline() == "all read\n"
        try:
            yield
        finally:
            readers.terminate()


async def _read(url: str, thread: str, count: int) -> None:
    """Open so many connections, say so, and take what comes until the end."""
    where, loop, here = urlsplit(url), asyncio.get_running_loop(), list[Idle]()
    for _ in range(count):
        topics = (f"/threads/{thread}",)
        _, idle = await loop.create_connection(
            lambda topics=topics: Idle(topics), where.hostname or "", where.port or 0
        )
        await idle.ready
        here.append(idle)
    print("all read", flush=True)
    await asyncio.Event().wait()


def main() -> None:
    """Run this benchmark alone, or be its readers."""
    if len(sys.argv) == 4:
        return asyncio.run(_read(sys.argv[1], sys.argv[2], int(sys.argv[3])))
    import tempfile

    from tests.brokers.node import Node

    with Node.find("4.3") as node, tempfile.TemporaryDirectory(prefix="agentq-bench-") as folder:
        return bench(Path(folder), node.url)


if __name__ == "__main__":
    main()
