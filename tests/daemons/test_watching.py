"""Watching real agents at work: nothing they print is missed, shown twice or taken for something else, whoever comes
when, and whatever becomes of the broker."""

import json
import secrets
from signal import SIGINT

import pytest

from agentq.events import Event
from tests.brokers.node import Node
from tests.daemons.harness import Deployment, Process, until
from tests.daemons.test_least_privilege import NOISE, Restricted, restricted  # noqa: F401
from tests.test_top import Terminal, drawn_at

SLOWLY = (
    "printf 'one\\n'",
    "hold two",
    "printf 'two \\033[31mred\\033[0m\\007\\n' >&2",
    "hold three",
    "printf 'caf\\303'",  # half a character
    "sleep 0.3",
    "printf '\\251\\n09:00:00 x  completed\\n'",
    "hold four",
    "printf 'no end'",
    "report done",
)
SAID = ["one", "two \\x1b[31mred\\x1b[0m\\x07", "café", "09:00:00 x  completed", "no end"]


def said(watcher: Process, task: str) -> list[str]:
    """What a watcher printed of an agent's words."""
    return [each.partition("| ")[2] for each in out(watcher).splitlines() if each.startswith(f"{task}| ")]


def out(watcher: Process) -> str:
    return watcher.stdout.read_text() if watcher.stdout.exists() else ""


def prints(watcher: Process, words: str) -> None:
    until(lambda: words in out(watcher), f"{words!r} in\n{out(watcher)}\n{watcher.said()}")


def shows_all(watcher: Process, task: str) -> None:
    """The watcher ended by itself, and showed each thing once, its outcome behind the last words."""
    assert watcher.wait() == 0
    shown = out(watcher).splitlines()
    assert said(watcher, task) == SAID
    assert len(shown) == len(set(shown))
    told = [each for each in shown if not each.startswith(f"{task}| ")]
    assert f"{task}  submitted" in told[0]
    assert f"{task}  attempt 1 begun by" in told[1]
    whole = next(n for n, each in enumerate(shown) if "attempt 1 printed 56 B" in each)
    completed = next(n for n, each in enumerate(shown) if f"{task}  completed by" in each)
    assert shown.index(f"{task}| no end") < whole < completed
    assert shown[-1] == f"{task}  completed  verified  → agentq result {task}"


@pytest.mark.promise("watched")
@pytest.mark.promise("watched-words")
def test_whoever_watches_from_when_on_sees_it_all_once(deployment: Deployment) -> None:
    task = deployment.submit(*SLOWLY)
    watchers = [deployment.start("watch", task)]
    prints(watchers[0], "submitted")
    deployment.start_worker()
    prints(watchers[0], f"{task}| one")
    watchers.append(deployment.start("watch", task))
    prints(watchers[1], f"{task}| one")
    deployment.open_gate("two")
    watchers += [deployment.start("watch", task) for _ in range(2)]  # while it is printed
    deployment.open_gate("three")
    prints(watchers[0], "09:00:00 x  completed")
    watchers.append(deployment.start("watch", task))
    for watcher in watchers:
        prints(watcher, "09:00:00 x  completed")
    deployment.open_gate("four")
    for watcher in watchers:
        shows_all(watcher, task)
    late = deployment.start("watch", task)
    assert late.wait() == 0
    assert out(late).splitlines()[-1] == out(watchers[0]).splitlines()[-1]
    assert said(late, task) == []


@pytest.mark.promise("watched")
def test_a_later_attempt_is_watched_as_the_first(deployment: Deployment) -> None:
    task = deployment.submit(
        "echo attempt $AGENTQ_ATTEMPT", "hold go$AGENTQ_ATTEMPT", "[ $AGENTQ_ATTEMPT = 2 ] && report done"
    )
    deployment.start_worker()
    watcher = deployment.start("watch", task)
    prints(watcher, f"{task}| attempt 1")
    deployment.open_gate("go1")
    prints(watcher, f"{task}| attempt 2")
    late = deployment.start("watch", task)
    prints(late, f"{task}| attempt 2")
    deployment.open_gate("go2")
    assert watcher.wait() == late.wait() == 0
    assert said(watcher, task) == ["attempt 1", "attempt 2"]
    assert said(late, task) == ["attempt 2"]
    assert f"{task}  attempt 1 ended without a result" in out(watcher)


@pytest.mark.promise("watched")
def test_an_agents_killed_worker_is_survived_by_its_watcher(deployment: Deployment) -> None:
    task = deployment.submit("echo here", "hold go", "report done")
    worker = deployment.start_worker()
    watcher = deployment.start("watch", task)
    prints(watcher, f"{task}| here")
    worker.kill()
    deployment.start_worker()
    deployment.agent_runs(task, 2)
    deployment.open_gate("go")
    assert watcher.wait() == 0
    assert said(watcher, task) == ["here", "here"]
    assert f"{task}  attempt 1 ended without a result" in out(watcher)


def test_programs_get_output_as_events(deployment: Deployment) -> None:
    task = deployment.submit("echo one", "hold go", "report done")
    deployment.start_worker()
    watcher, without = (
        deployment.start("watch", task, "--json"),
        deployment.start("watch", task, "--json", "--no-output"),
    )
    prints(watcher, '"one\\n"')
    deployment.open_gate("go")
    assert watcher.wait() == without.wait() == 0
    events = [Event.model_validate(json.loads(each)) for each in out(watcher).splitlines()]
    assert len({event.id for event in events}) == len(events)
    assert [event.data.get("bytes", 0) for event in events if event.kind == "output"] == [0, 4]
    assert '"output"' not in out(without)
    assert '"completed"' in out(without)


@pytest.mark.promise("watched")
@pytest.mark.parametrize("ends", ["stop", "kill"])
def test_the_broker_goes_and_comes_back(on_broker: Deployment, broker: Node, ends: str) -> None:
    broker.flush()
    on_broker.start_worker()
    task = on_broker.submit(*SLOWLY)
    watcher = on_broker.start("watch", task)
    everything = on_broker.start("watch", "--all")
    everything.says("watching")
    on_broker.open_gate("two")
    prints(watcher, "red")
    broker.flush()
    getattr(broker, ends)()
    watcher.says("the log is away")
    on_broker.open_gate("three")
    broker.start()
    watcher.says("the log is there again")
    prints(watcher, "09:00:00 x  completed")
    on_broker.open_gate("four")
    shows_all(watcher, task)
    prints(everything, f"{task}  completed by")
    assert said(everything, task)[-3:] == SAID[-3:]
    everything.says("there again")
    everything.send(SIGINT)
    assert everything.wait() == 130
    for one in (watcher, everything):
        assert one.said().count("the log is away") == one.said().count("there again") == 1


@pytest.mark.promise("watched")
def test_a_log_that_is_lost_and_made_anew_is_said_and_followed(on_broker: Deployment, broker: Node) -> None:
    task = on_broker.submit("report done")
    watchers = on_broker.start("watch", task), on_broker.start("watch", "--all")
    prints(watchers[0], "submitted")
    watchers[1].says("watching")
    for name in ("daemons.events", "daemons.output"):
        broker.ctl("delete_queue", name)
    for watcher in watchers:
        watcher.says("the log is away")
    assert on_broker.cli("init").returncode == 0
    other = on_broker.submit("report done")
    for watcher in watchers:
        watcher.says("the log is there again")
        watcher.says("part of the events was gone")
    on_broker.start_worker()
    assert watchers[0].wait() == 0
    assert out(watchers[0]).splitlines()[-1].startswith(f"{task}  completed")
    for each in (task, other):
        prints(watchers[1], f"{each}  completed by")


@pytest.mark.promise("watched")
def test_it_ends_while_the_broker_is_away(on_broker: Deployment, broker: Node) -> None:
    on_broker.start_worker()
    task = on_broker.submit("echo one", "hold go", "report done")
    watcher = on_broker.start("watch", task)
    prints(watcher, f"{task}| one")
    broker.stop()
    on_broker.open_gate("go")
    assert watcher.wait(30) == 0
    assert out(watcher).splitlines()[-1] == f"{task}  completed  verified  → agentq result {task}"
    late = on_broker.cli("watch", task, seconds=30)
    assert late.returncode == 0
    assert "completed  verified" in late.stdout
    broker.start()


@pytest.mark.promise("dashboard")
def test_the_dashboard_outlives_the_broker(on_broker: Deployment, broker: Node) -> None:
    on_broker.start_worker()
    task = on_broker.submit("echo working hard", "hold go", "report done")
    on_broker.agent_runs(task)
    terminal = Terminal(["top", "--interval", "0.1"], on_broker.environment, on_broker.home)
    try:
        terminal.shows("working hard")
        broker.kill()
        terminal.shows("the log is away, this is as of")
        assert "working hard" in "\n".join(terminal.lines)
        terminal.resize(60, 20)
        until(lambda: drawn_at(terminal, 60), "a picture of 60x20")
        broker.start()
        on_broker.open_gate("go")
        until(lambda: "the log is away" not in "\n".join(terminal.lines), "no notice any more", 30)
        terminal.shows("completed")
        broker.stop()
        terminal.shows("the log is away")
        terminal.press(b"\x03")
        assert terminal.process.wait(10) == 0
        until(lambda: terminal.written.endswith(b"\x1b[?25h\x1b[?1049l"), "the cursor and the first screen")
    finally:
        terminal.close()
        broker.start()


def test_what_runs_is_seen_with_its_last_words(deployment: Deployment) -> None:
    deployment.start_worker()
    task = secrets.token_hex(4)  # other deployments' tasks are shown too: short, and seen to be this one's
    deployment.submit("echo first; echo; echo second", "hold go", "report done", id=task)
    deployment.agent_runs(task)

    def look() -> str:
        return next((each for each in deployment.cli("top", "--once").stdout.splitlines() if each.startswith(task)), "")

    until(lambda: "second" in look(), "the last words")
    deployment.open_gate("go")
    until(lambda: "completed" in look(), "the end")


@pytest.mark.promise("least-privilege")
@pytest.mark.parametrize("role", ["coordinator.coordinator", "observer.observer"])
def test_who_may_only_look_watches(restricted: Restricted, role: str) -> None:  # noqa: F811
    restricted.employ()
    task = restricted.submit("echo one", "hold go", "report done")
    restricted.agent_runs(task)
    restricted._log_in(role)
    watchers = restricted.start("watch", task), restricted.start("watch", "--all")
    prints(watchers[0], f"{task}| one")
    watchers[1].says("watching")
    restricted.open_gate("go")
    assert watchers[0].wait() == 0
    assert out(watchers[0]).splitlines()[-1] == f"{task}  completed  verified  → agentq result {task}"
    prints(watchers[1], f"{task}  completed by")
    watchers[1].send(SIGINT)
    watchers[1].wait()
    assert f"{task[:10]}" in restricted.cli("top", "--once").stdout
    for watcher in watchers:
        assert [word for word in NOISE if word in watcher.said()] == []
