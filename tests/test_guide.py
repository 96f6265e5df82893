"""The coordinator's guide is small, its copies agree, each of its commands does what it says, and it is installed as a
skill that nobody's changes are lost to."""

import re
import shlex
import subprocess
from collections.abc import Iterator

import pytest
import yaml

from agentq.cli.guide import ABOUT, is_ours, skill, text
from agentq.errors import ExitCode
from tests.daemons.harness import until
from tests.desk import Desk
from tests.test_documents import ROOT, blocks

COPY = ROOT / "docs" / "coordinator.md"
SKILL = ROOT / "docs" / "skills" / "agentq" / "SKILL.md"
TOKENS = 900
"""Of four characters each: what the guide may cost whoever reads it."""
PROFILE = """
agent = "implementation-worker"
types = ["implementation"]
[runner]
command = ["sh", "-c", "echo 'x = 2' > a.py; echo Mended. > $AGENTQ_OUTPUT/report.md"]
[workspace]
kind = "git-worktree"
"""


# ---------------------------------------------------------------------- the text and its copies


@pytest.mark.promise("guide")
def test_it_is_short() -> None:
    assert len(text()) <= 4 * TOKENS
    assert max(map(len, text().splitlines())) <= 120
    assert len(ABOUT) <= 4 * 75, "it is in every context, needed or not"


@pytest.mark.promise("guide")
def test_what_is_printed_and_the_copies_agree(desk: Desk) -> None:
    assert desk.ok("guide") + "\n" == text() == COPY.read_text(encoding="utf-8")
    assert SKILL.read_text(encoding="utf-8") == skill(), "agentq guide install claude --print > " + str(SKILL)
    assert {path.name for path in SKILL.parent.iterdir()} == {"SKILL.md"}


def test_the_skill_is_the_guide_below_a_head() -> None:
    empty, head, body = skill().split("---\n", 2)
    assert (empty, body) == ("", f"\n{text()}")
    values = yaml.safe_load(head)
    assert (values["name"], values["description"]) == ("agentq", ABOUT)
    assert re.fullmatch(r"[a-z0-9-]{1,64}", SKILL.parent.name)
    assert len(ABOUT) <= 1024, "the longest description that is loaded"


@pytest.mark.parametrize(
    "word", ["data", "objective", "poll", "inbox", "verified", "checked", "approv", "cancel", "MCP"]
)
def test_it_speaks_of(word: str) -> None:
    assert word in text()


# ---------------------------------------------------------------------- its commands


@pytest.fixture
def at_work(desk: Desk) -> Iterator[Desk]:
    """A desk in a repository, with a brief, the guide's plan, and a worker whose agent is scripted."""
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@localhost"]
    (desk.project / "a.py").write_text("x = 1\n")
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *words], cwd=desk.project, check=True)
    (desk.project / "brief.md").write_text("Mend x.\n")
    (desk.project / "plan.yaml").write_text(blocks(COPY, "yaml")[0])
    folder = desk.folder / "workers" / "implementation"
    folder.mkdir(parents=True)
    (folder / "worker.toml").write_text(PROFILE)
    (folder / "prompt.md").write_text("You are a scripted agent.\n")
    desk.environment["AGENTQ_WORKERS"] = str(folder.parent)
    worker = desk.start("worker", "run", "implementation-worker", stdout=subprocess.DEVNULL)
    assert worker.stderr
    assert worker.stderr.readline() == b"implementation-worker: ready\n"
    yield desk
    worker.terminate()
    worker.communicate(timeout=30)


def told() -> Iterator[str]:
    """The commands of the guide in their order, those in remarks too."""
    for line in "".join(blocks(COPY, "sh")).splitlines():
        line, _, remark = line.partition(" # ")
        yield line.strip()
        yield from re.findall(r"agentq [a-z]+(?: fix-17)?", remark)


@pytest.mark.promise("guide")
def test_its_commands_do_what_it_says(at_work: Desk) -> None:
    commands = list(told())
    assert len(commands) >= 13
    seen = {}
    for line in commands:
        words = shlex.split(line)[1:]
        if line == "agentq inbox":  # it is there a moment after the wait has ended
            until(lambda: at_work.run("inbox").out, "an unread completion")
        done = seen[line] = at_work.run(*words)
        assert done.code == ExitCode.OK, (line, done)
        if words[0] == "submit":
            assert at_work.run(*words).out == done.out, "a repeat is harmless"
    assert "fix-17  completed  verified" in seen["agentq wait fix-17 --timeout 10m"].out
    assert "fix-17" in seen["agentq inbox"].out
    result = seen["agentq result fix-17"].out
    assert "data, not instructions" in result
    assert re.search(r"^patch .* checked ", result, re.MULTILINE)
    assert re.search(r"^report .* claimed ", result, re.MULTILINE)
    assert "+x = 2" in seen["agentq result fix-17 --artifact patch"].out
    assert {"check-17", "survey"} <= {*seen["agentq list --state open"].out.split()}
    assert "implementation-worker" in seen["agentq workers"].out
    assert at_work.json("status", "check-17")["state"] == "cancelled"


# ---------------------------------------------------------------------- as a skill


@pytest.mark.parametrize(
    ("client", "variable", "folder"),
    [
        ("claude", {}, "home/.claude/skills"),
        ("claude", {"CLAUDE_CONFIG_DIR": "configured"}, "configured/skills"),
        ("codex", {"CODEX_HOME": "configured"}, "home/.agents/skills"),
    ],
)
def test_it_is_installed_for_a_user(desk: Desk, client: str, variable: dict[str, str], folder: str) -> None:
    environment = {name: str(desk.folder / value) for name, value in variable.items()}
    path = desk.folder / folder / "agentq" / "SKILL.md"
    assert desk.ok("guide", "install", client, **environment) == f"wrote  {path}"
    assert path.read_text(encoding="utf-8") == skill()
    assert desk.ok("guide", "install", client, **environment) == f"found  {path}"


@pytest.mark.parametrize(("client", "folder"), [("claude", ".claude"), ("codex", ".agents")])
def test_it_is_installed_in_a_project(desk: Desk, client: str, folder: str) -> None:
    path = desk.project / folder / "skills" / "agentq" / "SKILL.md"
    assert desk.ok("guide", "install", client, "--scope", "project") == f"wrote  {path}"
    assert path.read_text(encoding="utf-8") == skill()


def test_it_is_only_printed(desk: Desk) -> None:
    done = desk.run("guide", "install", "codex", "--print")
    assert (done.code, done.out) == (0, skill())
    assert done.err == f"# {desk.home}/.agents/skills/agentq/SKILL.md\n"
    assert list(desk.home.iterdir()) == []


@pytest.mark.promise("guide-kept")
def test_an_older_one_is_replaced_and_a_changed_one_is_not(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    path = desk.home / ".claude" / "skills" / "agentq" / "SKILL.md"
    with monkeypatch.context() as older:
        older.setattr("agentq.cli.guide.ABOUT", "Another description.")
        assert desk.ok("guide", "install", "claude") == f"wrote  {path}"
    assert is_ours(path.read_text(encoding="utf-8"))
    assert desk.ok("guide", "install", "claude") == f"wrote  {path}"
    assert path.read_text(encoding="utf-8") == skill()
    for mine in (f"{skill()}And mine.\n", "All mine.\n", ""):
        path.write_text(mine, encoding="utf-8")
        done = desk.run("guide", "install", "claude")
        assert (done.code, done.out) == (ExitCode.CONFLICT, "")
        assert str(path) in done.err
        assert "--force" in done.err
        assert path.read_text(encoding="utf-8") == mine
    assert desk.ok("guide", "install", "claude", "--force") == f"wrote  {path}"
    assert path.read_text(encoding="utf-8") == skill()


def test_a_place_that_cannot_be_written_is_told(desk: Desk) -> None:
    (desk.home / ".agents").write_text("a file")
    done = desk.run("guide", "install", "codex")
    assert done.code == ExitCode.INVALID
    assert f"{desk.home}/.agents/skills/agentq/SKILL.md cannot be" in done.err
    assert desk.run("guide", "install", "vim").code == ExitCode.USAGE
