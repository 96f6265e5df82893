"""Where settings and profiles come from, and which of them hold."""

from pathlib import Path

import pytest

from agentq.adapters import open_engine, open_store
from agentq.app import App
from agentq.config import S3Section, Settings, load_settings
from agentq.engines.sqlite import SQLiteEngine
from agentq.engines.topology import topology
from agentq.errors import Invalid, NotFound
from agentq.profile import find_profile, load_profile, profiles

SECRET = "s3cret"


def settings(folder: Path, flags: dict[str, object] | None = None, **variables: str) -> Settings:
    return load_settings(flags, environ={"HOME": str(folder / "home")} | variables, cwd=folder)


def test_without_any_settings_everything_is_in_the_users_data_folder(tmp_path: Path) -> None:
    found = settings(tmp_path)
    data = tmp_path / "home/.local/share/agentq"
    assert found.data == data
    assert found.broker == (f"sqlite://{data}/queue.db",)
    assert found.store == f"file://{data}/store"
    assert (found.namespace, found.coordinator, found.source) == ("agentq", "coordinator", "defaults")
    assert settings(tmp_path, XDG_DATA_HOME=str(tmp_path / "xdg")).data == tmp_path / "xdg/agentq"
    assert settings(tmp_path, AGENTQ_DATA=str(tmp_path / "mine")).store == f"file://{tmp_path}/mine/store"


def test_flags_hold_over_variables_over_the_file_over_defaults(tmp_path: Path) -> None:
    (tmp_path / "agentq.toml").write_text('namespace = "file"\ncoordinator = "file"\nstore = "file"\ndata = "file"\n')
    found = settings(tmp_path, {"store": "/flag", "broker": None}, AGENTQ_STORE="/variable", AGENTQ_COORDINATOR="boss")
    assert (found.store, found.coordinator, found.namespace) == ("/flag", "boss", "file")
    assert found.data == tmp_path / "file"
    assert found.broker == (f"sqlite://{tmp_path}/file/queue.db",)
    assert settings(tmp_path, AGENTQ_DATA="/data").data == Path("/data")


def test_the_nearest_file_upwards_is_taken(tmp_path: Path) -> None:
    deep = tmp_path / "a" / "b" / "c"
    deep.mkdir(parents=True)
    (tmp_path / "agentq.toml").write_text('namespace = "far"\n')
    (tmp_path / "a" / "agentq.toml").write_text('namespace = "near"\nstore = "shared"\nworkers = "roles"\n')
    found = load_settings(environ={"HOME": "/home"}, cwd=deep)
    assert (found.namespace, found.source) == ("near", str(tmp_path / "a" / "agentq.toml"))
    assert (found.store, found.workers) == (str(tmp_path / "a/shared"), tmp_path / "a/roles")
    named = settings(deep, AGENTQ_CONFIG=str(tmp_path / "agentq.toml"))
    assert named.namespace == "far"


@pytest.mark.parametrize("name", ["a b", "per%20cent", "quest?ion", "ha#sh", "größe"])
def test_a_home_may_have_any_name(tmp_path: Path, name: str) -> None:
    app = App(settings(tmp_path, XDG_DATA_HOME=str(tmp_path / name)))
    (tmp_path / name).mkdir()
    app.store.put("tasks/x.json", b"{}")
    assert (tmp_path / name / "agentq/store/tasks/x.json").is_file()
    engine = open_engine(app.settings)
    assert isinstance(engine, SQLiteEngine)
    assert engine._path == tmp_path / name / "agentq/queue.db"


def test_a_home_that_nobody_knows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(_: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", nobody)
    with pytest.raises(Invalid, match="no home directory is known") as caught:
        load_settings(environ={}, cwd=tmp_path)
    assert "HOME" in caught.value.hint


def test_a_broker_is_a_url_or_several(tmp_path: Path) -> None:
    assert settings(tmp_path, AGENTQ_BROKER="amqp://a, amqps://b").broker == ("amqp://a", "amqps://b")
    (tmp_path / "agentq.toml").write_text('broker = ["amqp://a", "amqp://b"]\n')
    assert settings(tmp_path).broker == ("amqp://a", "amqp://b")


def test_a_login_from_variables_joins_the_files_section(tmp_path: Path) -> None:
    (tmp_path / "agentq.toml").write_text('broker = "amqp://host"\n[rabbitmq]\nheartbeat = 60\nuser = "file"\n')
    found = settings(tmp_path, AGENTQ_BROKER_USER="me", AGENTQ_BROKER_PASSWORD=SECRET, AGENTQ_BROKER_VHOST="v")
    section = found.rabbitmq
    assert (section.user, section.vhost, section.heartbeat) == ("me", "v", 60)
    assert section.password
    assert section.password.get_secret_value() == SECRET
    assert SECRET not in repr(found)
    assert SECRET not in found.model_dump_json()
    assert App(found).has_password


@pytest.mark.promise("no-secrets")
@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("amqp://u:s3cret@host:5672/vhost", "amqp://u@host:5672/vhost"),
        ("amqps://u:s3%40cret@[::1]:5671/", "amqps://u@[::1]:5671/"),
        ("amqp://:s3cret@host", "amqp://@host"),
        ("amqp://host/", "amqp://host/"),
        ("amqp://u@host", "amqp://u@host"),
    ],
)
def test_a_password_is_never_shown(tmp_path: Path, url: str, shown: str) -> None:
    assert App(settings(tmp_path, AGENTQ_BROKER=url)).passwordless_broker == (shown,)


@pytest.mark.parametrize(
    ("url", "folder"),
    [
        ("file:///shared", "/shared"),
        ("file://localhost/shared", "/shared"),
        ("file:///with%20space", "/with space"),
        ("/shared/", "/shared"),
        ("/a:b", "/a:b"),
    ],
)
def test_a_store_is_a_folder_or_its_url(url: str, folder: str) -> None:
    assert open_store(url, S3Section()).url == Path(folder).as_uri()


def test_only_the_data_folder_of_the_defaults_is_made(tmp_path: Path) -> None:
    assert App(settings(tmp_path)).store
    assert (tmp_path / "home/.local/share/agentq").is_dir()
    assert App(settings(tmp_path, AGENTQ_STORE=str(tmp_path / "other/store"))).store
    assert not (tmp_path / "other").exists()


# ---------------------------------------------------------------------- profiles


def profile(folder: Path, agent: str, text: str = "") -> None:
    folder.mkdir(parents=True)
    (folder / "worker.toml").write_text(f'agent = "{agent}"\n{text}')


def test_the_built_in_profiles_are_there(tmp_path: Path) -> None:
    found = profiles(settings(tmp_path), tmp_path)
    assert sorted(found) == ["implementation-worker", "mention-worker", "review-worker"]
    assert "git worktree" in found["implementation-worker"].prompt
    assert found["implementation-worker"].types[0] == "implementation"
    assert {"review", "reasoning"} <= set(found["review-worker"].types)
    assert found["mention-worker"].types == ("mention", "assignment", "manual", "refinement")
    assert found["mention-worker"].evidence.artifacts == ("decision",)


def test_the_nearest_profile_holds(tmp_path: Path) -> None:
    profile(tmp_path / "workers" / "x", "review-worker", 'types = ["here"]\n')
    profile(tmp_path / "roles" / "y", "review-worker", 'types = ["roles"]\n')
    profile(tmp_path / "roles" / "z", "docs-worker")
    mine = settings(tmp_path, AGENTQ_WORKERS=str(tmp_path / "roles"))
    assert find_profile("review-worker", mine, tmp_path).types == ("here",)
    assert find_profile("docs-worker", mine, tmp_path).folder == tmp_path / "roles" / "z"
    with pytest.raises(NotFound, match="there is no worker profile for nobody"):
        find_profile("nobody", mine, tmp_path)


def test_every_key_of_a_profile_has_a_default_but_its_agent(tmp_path: Path) -> None:
    profile(tmp_path / "x", "x")
    found = load_profile(tmp_path / "x")
    assert (found.agent, found.types, found.prompt) == ("x", (), "")
    assert (found.limits.lease_seconds, found.limits.renew_seconds, found.limits.parallel) == (20, 5, 1)
    assert (found.retry.max_attempts, found.workspace.kind, found.runner.prompt) == (3, "none", "stdin")


def test_how_long_the_log_is_kept_reaches_the_engines(tmp_path: Path) -> None:
    (tmp_path / "agentq.toml").write_text("[log]\nevents_days = 7\noutput_bytes = 4_000_000\n")
    found = settings(tmp_path)
    engine = open_engine(found)
    assert isinstance(engine, SQLiteEngine)
    retention = engine.retention
    assert (retention.of("events"), retention.of("output")) == ((7, 1_000_000_000), (3, 4_000_000))
    streams = [queue for queue in topology((4, 3), "x", [], [], retention).queues if queue.is_stream]
    assert [queue.arguments["x-max-age"] for queue in streams] == ["7D", "3D"]
    assert [queue.arguments["x-max-length-bytes"] for queue in streams] == [1_000_000_000, 4_000_000]
    assert [queue.arguments["x-stream-max-segment-size-bytes"] for queue in streams] == [50_000_000, 1_000_000]


@pytest.mark.parametrize("line", ["events_days = 0", "output_bytes = 10", 'events_days = "long"', "days = 3"])
def test_what_is_no_time_or_size_for_the_log_is_refused_with_its_line(tmp_path: Path, line: str) -> None:
    (tmp_path / "agentq.toml").write_text(f"[log]\n{line}\n")
    with pytest.raises(Invalid) as caught:
        settings(tmp_path)
    assert line.partition(" ")[0] in str(caught.value)
    assert "agentq.toml, line 2: log." in str(caught.value)
