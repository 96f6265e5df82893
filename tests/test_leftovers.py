"""When a workspace waits for the next attempt, and what is believed of folders that agents can write to."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from agentq import leftovers
from agentq.leftovers import awaits
from agentq.messages import utc_now
from agentq.profile import Profile
from agentq.records import Records
from agentq.runner import Session
from agentq.runner_sections import ClaudeSection
from agentq.scratch import Scratch
from agentq.sessions import Sessions
from agentq.workplace import Workplace
from agentq.workspace import open_workspace
from agentq.workspace.record import load
from tests.samples import TASK, claim, completion, end, registered
from tests.simulation import MemoryStore


class Host:
    """A host on which attempt 1 of a task ended, whose conversation and workspace are there."""

    def __init__(self, folder: Path) -> None:
        self.records, self.sessions = Records(MemoryStore()), Sessions(folder / "sessions")
        self.scratch = Scratch(folder / "scratch", TASK, 1)
        self.scratch.create()
        open_workspace("none", folder=self.scratch.work, task_id=TASK, attempt=1)
        registered(self.records)
        self.ends(1)
        self.keeps()

    def keeps(self, attempt: int = 1, workdir: Path | None = None) -> None:
        self.sessions.keep(TASK, attempt, "claude", workdir or self.scratch.work, Session("s1"))

    def ends(self, number: int) -> None:
        self.records.take(TASK, claim(number))
        self.records.end(TASK, end(number))

    @property
    def waits(self) -> bool:
        return awaits(self.records, self.sessions, self.scratch) is not None


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


@pytest.mark.promise("goes-on")
def test_a_workspace_waits_for_the_next_attempt(host: Host) -> None:
    assert host.waits
    host.records.take(TASK, claim(2))
    assert host.waits, "the next one may be about to take it up"


@pytest.mark.promise("goes-on")
@pytest.mark.parametrize("why", ["ended", "passed over", "forgotten", "elsewhere", "gone", "half made", "to read only"])
def test_it_waits_no_longer(host: Host, why: str) -> None:
    record = load(host.scratch.work)
    match why:
        case "ended":
            host.records.commit(completion())
        case "passed over":
            host.ends(2)
            host.records.take(TASK, claim(3))
        case "forgotten":
            host.sessions.forget(TASK)
        case "elsewhere":
            host.keeps(workdir=host.scratch.root.parent / "2/work")
        case "gone":
            host.scratch.work.rmdir()
        case "half made" | "to read only":
            change: dict[str, Any] = {"whole": False} if why == "half made" else {"read_only": True}
            for name, value in change.items():
                object.__setattr__(record, name, value)
            record.save()
    assert not host.waits


def test_it_waits_a_day_at_most(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leftovers, "utc_now", lambda: utc_now() + timedelta(hours=23))
    assert host.waits
    monkeypatch.setattr(leftovers, "utc_now", lambda: utc_now() + timedelta(hours=25))
    assert not host.waits


def test_what_is_left_is_the_workspace_alone(host: Host) -> None:
    (host.scratch.work / "file").write_text("kept")
    (host.scratch.output / "report.md").write_text("gone")
    host.scratch.transcript.write_text("gone")
    (host.scratch.root / "link").symlink_to(host.scratch.work)
    host.scratch.leave()
    assert host.scratch.is_left
    assert {path.name for path in host.scratch.root.iterdir()} == {"left", "work", "work.json"}
    assert (host.scratch.work / "file").read_text() == "kept"
    assert Scratch(host.scratch.folder, TASK, 1).hold(), "somebody else may hold it"


@pytest.mark.parametrize("forged", ["/", "../../..", "1/../../x", "", "\0"])
def test_no_path_is_believed_that_an_agent_may_have_written(host: Host, forged: str) -> None:
    second = Scratch(host.scratch.folder, TASK, 2)
    second.create()
    second.go_on_in(host.scratch)
    assert second.home.work == host.scratch.work
    (second.root / "goes-on-in").write_text(forged)
    assert second.home is second


# ---------------------------------------------------------------------- taken up


def workplace(host: Host, attempt: int = 2) -> Workplace:
    profile = Profile(agent="worker", folder=Path(), prompt="", runner=ClaudeSection())
    folder, envelope = host.scratch.folder, host.records.known(TASK).envelope
    return Workplace(host.records, profile, host.sessions, folder, envelope, attempt, None)


@pytest.mark.promise("goes-on")
def test_it_is_taken_up_and_again_when_the_preparation_is_repeated(host: Host) -> None:
    (host.scratch.work / "file").write_text("half")
    host.scratch.leave()
    host.records.take(TASK, claim(2))
    place = workplace(host)
    for _ in range(2):
        place.scratch.create()
        assert place.open(lambda: None).path == host.scratch.work.absolute()
        assert (host.scratch.work / "file").read_text() == "half"
        assert place.scratch.home.attempt == 1
    assert place.session == Session("s1")
    assert not host.scratch.hold()
    place.meets(Session("s2"))
    host.records.end(TASK, end(2))
    place.close(going_on=True)
    assert not place.scratch.root.exists()
    third = workplace(host, 3)
    third.scratch.create()
    third.open(lambda: None)
    assert third.session == Session("s2")
    third.close(going_on=False)
    assert not host.scratch.root.exists()


@pytest.mark.promise("goes-on")
def test_what_a_dead_attempt_left_is_brought_in_before_it_is_gone_on_with(host: Host) -> None:
    host.scratch.transcript.write_text("what it said")
    host.scratch.release()
    host.records.take(TASK, claim(2))
    place = workplace(host)
    place.scratch.create()
    place.open(lambda: None)
    assert place.session is None, "this host cannot tell that its agent is gone"
    assert f"artifacts/{TASK}/1/transcript.log" in list(host.records.store.keys(f"artifacts/{TASK}/"))
    assert not host.scratch.root.exists()
    place.close(going_on=False)
