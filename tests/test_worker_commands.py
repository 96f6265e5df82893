"""`agentq worker new` and `worker check`: a worker before it takes its first task."""

import json
import re
import shlex
from pathlib import Path
from string import Template

import pytest

from agentq.draft import models
from agentq.errors import ExitCode
from agentq.profile import load_profile
from tests.desk import Desk, Done
from tests.repositories import git, repository

__all__ = ["repository"]

READY = ("worker", "check", "mine")
ANSWERS = "python:mine:answer"


def made(desk: Desk, *flags: str, **sections: str) -> Path:
    """A new worker with other sections in its profile, and its queue."""
    desk.ok("worker", "new", "mine", *flags)
    desk.ok("init")
    folder = desk.project / "workers" / "mine"
    text = (folder / "worker.toml").read_text()
    for name, lines in sections.items():
        text = re.sub(rf"^\[{name}\]\n(?:[^\[\n].*\n)*", "", text, flags=re.MULTILINE)
        text += f"\n[{name}]\n{lines}\n"
    (folder / "worker.toml").write_text(text)
    return folder


def found(done: Done) -> dict[str, tuple[str, str]]:
    """What each line says: how it is, and the words."""
    lines = (line.split(maxsplit=2) for line in done.out.splitlines())
    return {name: (how, words) for how, name, words in lines}


# ---------------------------------------------------------------------- new


@pytest.mark.parametrize("model", ["implementation", "review"])
@pytest.mark.parametrize(
    ("runner", "kind"),
    [(None, "claude"), ("codex", "codex"), (ANSWERS, ANSWERS), ("my-agent 'two words'", "command")],
)
def test_a_new_worker_is_found_and_its_profile_is_whole(desk: Desk, model: str, runner: str | None, kind: str) -> None:
    flags = ("--runner", runner) if runner else ()
    done = desk.run("worker", "new", "mine", "--from", model, *flags)
    assert (done.code, done.out) == (0, "workers/mine/prompt.md\nworkers/mine/worker.toml\n")
    assert "agentq worker check mine" in done.err
    assert "agentq worker run mine" in done.err
    profile, source = load_profile(desk.project / "workers" / "mine"), load_profile(models()[model])
    assert (profile.agent, profile.runner.kind, profile.prompt) == ("mine", kind, source.prompt)
    assert (profile.types, profile.workspace, profile.evidence) == (source.types, source.workspace, source.evidence)
    if kind == "command":
        assert getattr(profile.runner, "command", None) == ("my-agent", "two words")
    assert "mine" in desk.json("init")["agents"]


def test_nothing_is_overwritten(desk: Desk) -> None:
    (desk.project / "workers" / "mine").mkdir(parents=True)
    done = desk.run("worker", "new", "mine")
    assert done.code == ExitCode.CONFLICT
    assert list((desk.project / "workers" / "mine").iterdir()) == []


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("../mine",), "is no name"),
        (("mine", "--from", "nothing"), "There are: implementation, mention, review."),
        (("mine", "--folder", "/proc/none"), "cannot be written"),
        (("mine", "--runner", "'"), "cannot be read"),
    ],
)
def test_what_cannot_be_made_is_refused_and_leaves_nothing(desk: Desk, flags: tuple[str, ...], words: str) -> None:
    done = desk.run("worker", "new", *flags)
    assert done.code == ExitCode.INVALID
    assert words in done.err
    assert not (desk.project / "workers" / "mine").exists()


def test_another_folder_is_told_how_to_be_found(desk: Desk) -> None:
    done = desk.run("worker", "new", "mine", "--folder", "elsewhere")
    assert f"AGENTQ_WORKERS={desk.project}/elsewhere" in done.err
    assert desk.run("worker", "check", "mine").code == ExitCode.NOT_FOUND
    assert found(desk.run("worker", "check", "mine", AGENTQ_WORKERS="elsewhere"))["profile"][0] == "ok"


# ---------------------------------------------------------------------- the prompts that come with agentq


@pytest.mark.parametrize("model", ["implementation", "review"])
def test_a_prompt_names_only_what_there_is(desk: Desk, model: str) -> None:
    """Its variables are filled in or the agent's, and the commands that it shows are understood."""
    prompt = load_profile(models()[model]).prompt
    told = Template(prompt).substitute(task_id="task-1", type="t", workdir="/w", output="/o", attempt="1")
    assert set(re.findall(r"\$(\w+)", told)) <= {
        "AGENTQ_OUTPUT",
        "AGENTQ_CONTEXT",
        "AGENTQ_EARLIER",
        "AGENTQ_NEEDS",
        "AGENTQ_IDEMPOTENCY_KEY",
    }
    assert len(told) < 3000
    shown = re.findall(r'agentq (?:note|fail|release)(?: [\w-]+)*(?: "[^"]*")?', told)
    assert len(shown) >= 2
    for line in shown:
        done = desk.run(*shlex.split(line)[1:], AGENTQ_AGENT="mine")
        assert done.code != ExitCode.USAGE, done


# ---------------------------------------------------------------------- check


@pytest.mark.promise("worker-check")
def test_a_worker_that_could_work(desk: Desk) -> None:
    made(desk, runner='kind = "command"\ncommand = ["cat"]')
    done = desk.run(*READY)
    looked = found(done)
    assert done.code == 0, done
    assert [name for name, (how, _) in looked.items() if how == "ok"] == ["profile", "store", "engine", "keys", "agent"]
    assert [name for name, (how, _) in looked.items() if how == "-"] == ["workspace", "verify", "login"]
    told = desk.json(*READY)
    assert (told["agent"], told["ok"], [one["name"] for one in told["checks"]]) == ("mine", True, [*looked])


@pytest.mark.promise("worker-check")
@pytest.mark.parametrize(
    ("sections", "name", "words"),
    [
        ({"runner": 'kind = "nothing"'}, "profile", "there is no such kind"),
        ({"runner": 'kind = "command"'}, "agent", "names no agent to run"),
        ({"runner": 'kind = "codex"\ncommand = ["no-such"]'}, "agent", "'no-such' is missing"),
        ({"runner": 'kind = "codex"\ncommand = ["false"]'}, "agent", "codex --version fails"),
        ({"evidence": 'verify = ["no-such"]'}, "verify", "'no-such' is missing"),
        ({"workspace": 'kind = "git-worktree"\nrepository = "/nowhere"'}, "workspace", "/nowhere"),
        ({"signatures": 'required = true\nfrom.coordinator = ["*"]'}, "keys", "agentq keys new NAME"),
    ],
)
def test_what_is_wrong_is_told_with_what_to_do(desk: Desk, sections: dict[str, str], name: str, words: str) -> None:
    made(desk, **{"runner": 'kind = "command"\ncommand = ["cat"]', **sections})
    done = desk.run(*READY)
    assert done.code == ExitCode.NEEDS_MENDING
    how, said = found(done)[name]
    assert how == "wrong", done
    assert words in said
    assert "→" in said


@pytest.mark.promise("worker-check")
def test_its_queue_is_not_there(rabbit_desk: Desk) -> None:
    rabbit_desk.ok("worker", "new", "mine", "--runner", "cat")
    how, said = found(rabbit_desk.run(*READY))["engine"]
    assert (how, "agentq init" in said) == ("wrong", True)


@pytest.mark.promise("worker-check")
def test_a_prompt_that_says_nothing(desk: Desk) -> None:
    folder = made(desk, "--runner", "cat")
    (folder / "prompt.md").write_text("\n")
    assert found(desk.run(*READY))["profile"][0] == "wrong"


def test_a_repository_that_can_be_used_is_as_before(desk: Desk, repository: Path) -> None:
    before = git(repository, "status", "--porcelain"), git(repository, "branch", "--all")
    folder = made(desk, "--runner", "cat")
    text = (folder / "worker.toml").read_text()
    line = 'kind = "git-worktree"'
    (folder / "worker.toml").write_text(text.replace(line, f"{line}\nrepository = {json.dumps(str(repository))}"))
    assert found(desk.run(*READY))["workspace"] == ("ok", f"git-worktree of {repository}")
    assert (git(repository, "status", "--porcelain"), git(repository, "branch", "--all")) == before
    assert list((desk.home / ".local/share/agentq/checks").iterdir()) == []


@pytest.mark.promise("worker-check")
def test_an_agent_that_answers_and_is_stopped(desk: Desk) -> None:
    """It is run as in an attempt, and left alone without --live."""
    made(desk, "--runner", shlex.join(["sh", "-c", "echo $AGENTQ_TASK_ID >> $0; cat", str(desk.folder / "ran")]))
    assert desk.run(*READY).code == 0
    assert not (desk.folder / "ran").exists()
    done = desk.run(*READY, "--live")
    assert done.code == 0, done
    assert (desk.folder / "ran").read_text() == "check\n" * 2
    assert found(done)["limits"][1].endswith("and nothing of it is left")


@pytest.mark.promise("worker-check")
@pytest.mark.parametrize(
    ("script", "name", "words"),
    [
        ("echo no key >&2; exit 1", "answer", "exited with status 1: no key"),
        ("exit 65", "answer", "refused the task"),
    ],
)
def test_an_agent_that_does_not_answer(desk: Desk, script: str, name: str, words: str) -> None:
    made(desk, "--runner", shlex.join(["sh", "-c", script]))
    done = desk.run(*READY, "--live")
    assert done.code == ExitCode.NEEDS_MENDING
    how, said = found(done)[name]
    assert (how, words in said) == ("wrong", True), said


@pytest.mark.promise("worker-check")
def test_an_agent_that_will_not_be_stopped_is_killed_with_what_it_hides(desk: Desk) -> None:
    stubborn = "trap '' TERM; setsid sleep 300 & echo $! >> $0; printf OK; [ -e $0.once ] && sleep 300; touch $0.once"
    folder = made(desk, "--runner", shlex.join(["sh", "-c", stubborn, str(desk.folder / "children")]))
    text = (folder / "worker.toml").read_text()
    (folder / "worker.toml").write_text(text.replace('kind = "command"', 'kind = "command"\ngrace_seconds = 0.2'))
    done = desk.run(*READY, "--live")
    assert done.code == 0, done
    children = (desk.folder / "children").read_text().split()
    assert len(children) == 2
    assert not [child for child in children if Path(f"/proc/{child}").exists()]


def test_another_agent_for_once(desk: Desk) -> None:
    made(desk)
    assert found(desk.run(*READY, "--runner", "cat"))["agent"] == ("ok", "cat")
    assert found(desk.run(*READY, AGENTQ_RUNNER="cat"))["agent"] == ("ok", "cat")


def test_nobody(desk: Desk) -> None:
    done = desk.run("worker", "check", "nobody")
    assert (done.code, "Known:" in done.err) == (ExitCode.NOT_FOUND, True)
