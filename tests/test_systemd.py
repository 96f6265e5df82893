"""The units that `agentq worker install` writes; what systemd itself says of them is tested in tests/systemd."""

import os
import shlex
from pathlib import Path

import pytest

from agentq.config import Settings, load_settings
from agentq.errors import Conflict, ExitCode, Invalid
from agentq.profile import Profile
from agentq.units import Host, Unit, is_ours, template, units
from tests.desk import Desk

FOLDER = Path("/etc/systemd/system")
HOST = Host("system", "agentq", Path("/var/lib/agentq"), 252, {"PATH": "/usr/bin:relative:/opt/x y:/usr/bin"})


def profile(**values: object) -> Profile:
    return Profile.model_validate({"agent": "mine", "folder": Path("/srv/workers/mine"), "prompt": "p", **values})


def settings(tmp_path: Path, **environ: str) -> Settings:
    return load_settings(environ={"HOME": str(tmp_path), **environ}, cwd=tmp_path)


def drop_in(host: Host, given: Settings, of: Profile | None = None, runner: str | None = None) -> list[str]:
    return units(of or profile(), given, host, FOLDER, runner)[1].text.splitlines()


def with_environ(**environ: str) -> Host:
    return Host(HOST.manager, HOST.user, HOST.home, HOST.version, {**HOST.environ, **environ})


# ---------------------------------------------------------------------- what stands in them


def test_all_workers_share_one_unit_and_each_has_a_drop_in(tmp_path: Path) -> None:
    shared, own = units(profile(), settings(tmp_path), HOST, FOLDER, None)
    assert shared.path == FOLDER / "agentq-worker@.service"
    assert own.path == FOLDER / "agentq-worker@mine.service.d" / "agentq.conf"
    assert shared.text.partition("\n")[2] == template("system")
    assert all(is_ours(unit.text) for unit in (shared, own))


def test_a_user_has_neither_another_user_nor_another_view_of_the_disk() -> None:
    kept = template("user")
    for key in ("User=", "StateDirectory=", "ProtectSystem=", "ProtectHome=", "PrivateTmp=", "network-online"):
        assert key in template("system")
        assert key not in kept
    for line in ("NoNewPrivileges=yes", "KillMode=mixed", "WatchdogSec=1min", "WantedBy=default.target"):
        assert line in kept.splitlines()


def test_what_is_in_force_here_by_more_than_defaults_goes_with_it(tmp_path: Path) -> None:
    (tmp_path / "agentq.toml").write_text('namespace = "ours"\n')
    environ = {"AGENTQ_STORE": str(tmp_path / "s"), "AGENTQ_BROKER_USER": "w", "AGENTQ_BROKER_PASSWORD": "hush"}
    lines = drop_in(with_environ(**environ), settings(tmp_path, **environ), runner="codex")
    assert [line for line in lines if line.startswith("Environment=")] == [
        'Environment="PATH=/usr/bin:/opt/x y"',
        f'Environment="AGENTQ_STORE={tmp_path}/s"',
        'Environment="AGENTQ_BROKER_USER=w"',
        f'Environment="AGENTQ_CONFIG={tmp_path}/agentq.toml"',
        'Environment="AGENTQ_WORKERS=/srv/workers"',
        'Environment="AGENTQ_RUNNER=codex"',
    ]
    assert [line for line in lines if line.startswith("ReadWritePaths=")] == [
        'ReadWritePaths="-/var/lib/agentq"',
        f'ReadWritePaths="-{tmp_path}/s"',
    ]
    assert "hush" not in "\n".join(lines)


def test_what_its_agents_write_to_is_named(tmp_path: Path) -> None:
    own = profile(workspace={"kind": "git-worktree", "repository": "/srv/a project"})
    lines = drop_in(HOST, settings(tmp_path, AGENTQ_STORE="file:///srv/the%20store"), own)
    assert 'ReadWritePaths="-/srv/the store"' in lines
    assert 'ReadWritePaths="-/srv/a project"' in lines
    assert not [line for line in drop_in(HOST, settings(tmp_path, AGENTQ_STORE="s3://b/c")) if "s3:" in line]


def test_what_would_mean_something_to_systemd_is_a_word_like_others(tmp_path: Path) -> None:
    lines = drop_in(HOST, settings(tmp_path), runner='a "b" 100% \\ c')
    assert 'Environment="AGENTQ_RUNNER=a \\"b\\" 100%% \\\\ c"' in lines
    with pytest.raises(Invalid, match="cannot stand in a unit"):
        drop_in(HOST, settings(tmp_path), runner="a\n[Service]\nUser=root")


@pytest.mark.parametrize(
    ("limits", "evidence", "seconds"),
    [({}, {}, 7265), ({}, {"verify": ["make"]}, 8165), ({"drain_seconds": 100}, {"verify": ["make"]}, 165)],
)
def test_it_is_given_longer_to_stop_than_it_drains(
    tmp_path: Path, limits: dict[str, int], evidence: dict[str, object], seconds: int
) -> None:
    own = profile(limits=limits, evidence=evidence)
    assert f"TimeoutStopSec={seconds}" in drop_in(HOST, settings(tmp_path), own)


def test_restarts_come_less_and_less_often_where_systemd_can(tmp_path: Path) -> None:
    newer = Host(HOST.manager, HOST.user, HOST.home, 254, HOST.environ)
    assert "RestartSteps=8" in drop_in(newer, settings(tmp_path))
    assert "Restart" not in "".join(drop_in(HOST, settings(tmp_path)))


# ---------------------------------------------------------------------- writing them


@pytest.mark.promise("unit-kept")
def test_what_somebody_changed_is_not_replaced(tmp_path: Path) -> None:
    first, second = (units(profile(), settings(tmp_path), HOST, tmp_path, runner)[1] for runner in (None, "codex"))
    assert first.write()
    assert not first.write(), "it is there as it is"
    assert second.write(), "nobody changed it"
    theirs = second.path.read_text() + "Nice=10\n"
    second.path.write_text(theirs)
    for unit in (first, second):
        with pytest.raises(Conflict, match="not as agentq wrote it"):
            unit.write()
    assert second.path.read_text() == theirs
    assert first.write(force=True)
    assert first.path.read_text() == first.text
    assert [path.name for path in first.path.parent.iterdir()] == ["agentq.conf"]


@pytest.mark.promise("unit-kept")
def test_nor_what_somebody_else_wrote(tmp_path: Path) -> None:
    path = tmp_path / "agentq-worker@.service"
    path.write_bytes(b"\xff")
    with pytest.raises(Invalid, match="cannot be written"):
        Unit(path, "text").write()
    path.write_text("[Service]\n")
    with pytest.raises(Conflict, match="not as agentq"):
        Unit(path, "text").write()


def test_a_folder_that_cannot_be_written_to() -> None:
    with pytest.raises(Invalid, match="cannot be written"):
        Unit(Path("/proc/none/unit"), "text").write()


# ---------------------------------------------------------------------- the command


def test_where_no_systemd_runs_nothing_is_written(desk: Desk) -> None:
    done = desk.run("worker", "install", "review-worker", "--user", XDG_RUNTIME_DIR=str(desk.folder))
    assert done.code == ExitCode.UNAVAILABLE
    assert "no systemd runs here for this user; nothing was written" in done.err
    assert list(desk.home.rglob("systemd")) == []


def test_a_dry_run_prints_both_files(desk: Desk) -> None:
    out = desk.ok("worker", "install", "review-worker", "--user", "--dry-run", "--runner", "codex")
    folder = desk.home / ".config/systemd/user"
    assert f"# {folder}/agentq-worker@.service\n# Written by" in out
    assert f"# {folder}/agentq-worker@review-worker.service.d/agentq.conf\n# Written by" in out
    assert 'Environment="AGENTQ_RUNNER=codex"' in out
    assert list(desk.home.rglob("systemd")) == []


def test_what_cannot_be_installed(desk: Desk) -> None:
    assert desk.run("worker", "install", "nobody", "--dry-run").code == ExitCode.NOT_FOUND
    done = desk.run("worker", "install", "review-worker", "--system", "--run-as", "no-such-user", "--dry-run")
    assert (done.code, "useradd" in done.err) == (ExitCode.INVALID, True)


SYSTEMCTL = """#!/bin/sh
echo "$@" >> {log}
case "$*" in *--version) echo "systemd 255 (255.4)" ;; *enable*) exit {code} ;; esac
"""


@pytest.fixture
def booted(desk: Desk) -> Desk:
    """A desk on a machine whose systemd notes what it is told."""
    (desk.folder / "bin").mkdir()
    (desk.folder / "run/systemd/private").mkdir(parents=True)
    desk.environment |= {
        "PATH": f"{desk.folder}/bin{os.pathsep}{desk.environment['PATH']}",
        "XDG_RUNTIME_DIR": str(desk.folder / "run"),
    }
    systemctl(desk)
    return desk


def systemctl(desk: Desk, code: int = 0) -> None:
    path = desk.folder / "bin" / "systemctl"
    path.write_text(SYSTEMCTL.format(log=shlex.quote(str(desk.folder / "log")), code=code))
    path.chmod(0o755)


def test_it_is_written_and_what_comes_next_is_told(booted: Desk) -> None:
    install = ("worker", "install", "review-worker", "--user")
    done = booted.run(*install, ANTHROPIC_API_KEY="sk-secret")
    assert done.code == 0, done
    paths = [Path(line.split()[1]) for line in done.out.splitlines()]
    assert [path.exists() for path in paths] == [True, True]
    assert "RestartSteps=8" in paths[1].read_text()
    assert "→ systemctl --user enable --now agentq-worker@review-worker" in done.err
    assert f"Set ANTHROPIC_API_KEY in {booted.home}/.config/agentq/worker.env" in done.err
    assert "sk-secret" not in done.err + "".join(path.read_text() for path in paths)
    assert [line.split()[0] for line in booted.ok(*install).splitlines()] == ["found", "found"]
    assert "enable" not in (booted.folder / "log").read_text()


def test_now_means_now(booted: Desk) -> None:
    install = ("worker", "install", "review-worker", "--user", "--now")
    assert booted.run(*install).code == 0
    told = [line for line in (booted.folder / "log").read_text().splitlines() if "--version" not in line]
    assert told == ["--user daemon-reload", "--user enable --now agentq-worker@review-worker"]
    systemctl(booted, code=1)
    done = booted.run(*install)
    assert (done.code, "enable --now agentq-worker@review-worker failed" in done.err) == (ExitCode.UNAVAILABLE, True)
