"""What reaches an agent, and what of an agent reaches others: its environment, its open files, its word, its token."""

import re
from pathlib import Path

import pytest

from tests.daemons.harness import Deployment, until

LOADED = {
    "AGENTQ_BROKER_PASSWORD": "not-for-agents",
    "AWS_ACCESS_KEY_ID": "not-for-agents",
    "AWS_SECRET_ACCESS_KEY": "not-for-agents",
    "AWS_SESSION_TOKEN": "not-for-agents",
    "AWS_PROFILE": "not-for-agents",
    "AGENTQ_KEYS": "/not-for-agents",
    "DATABASE_URL": "not-for-agents",
    "LET_ME": "for the agent",
    "LET_ME_NOT": "not-for-agents",
    "LANG": "C.UTF-8",
}
SEEN = {
    *("PATH", "HOME", "LANG", "DESK", "LET_ME"),
    *(f"AGENTQ_{name}" for name in ("TASK_ID", "ATTEMPT", "TOKEN", "AGENT", "OUTPUT", "STORE", "IDEMPOTENCY_KEY")),
}


def load(deployment: Deployment) -> None:
    """Give the worker's process what no agent may see; SQLite asks for no password."""
    deployment._settings = {**deployment._settings, **LOADED}
    if deployment._settings.get("AGENTQ_BROKER", "").startswith("amqp"):
        del deployment._settings["AGENTQ_BROKER_PASSWORD"]


@pytest.mark.promise("agents-environment")
def test_an_agent_gets_what_its_profile_names_and_no_open_file(deployment: Deployment) -> None:
    load(deployment)
    deployment.profile(environment={"let_through": ["LET_ME"], "set": {"DESK": str(deployment.desk)}})
    deployment.start_worker()
    task = deployment.submit(
        # A process of its own: the shell adds PWD and others to its children, and opened file 9 itself.
        "cp /proc/$$/environ $AGENTQ_OUTPUT/environ.txt",
        "for file in /proc/$$/fd/*; do readlink $file; done > $AGENTQ_OUTPUT/files.txt",
        "umask > $AGENTQ_OUTPUT/umask.txt",
        "report done",
    )
    deployment.check(task, starts=[1], attempt=1)
    found = deployment.evidence(task, 1)
    environment = dict(line.partition("=")[::2] for line in found["environ.txt"].split("\0") if line)
    assert set(environment) == SEEN
    assert environment["LET_ME"] == "for the agent"
    assert "not-for-agents" not in found["environ.txt"]
    files = {re.sub(r"\[\d+\]|.*/", "", line) for line in found["files.txt"].splitlines()}
    own = {"agent.sh", "steps", "files.txt", f"{task}.lock"}  # what the scripted agent opened itself
    assert files - own <= {"pipe:", "null", " (deleted)"} | {f for f in files if f.endswith(" (deleted)")}
    assert len(files - own) == 2, "the prompt, and the pipe that it prints to"
    assert found["umask.txt"] == "0077\n"
    deployment.rest()


@pytest.mark.promise("agents-environment")
def test_an_attempts_token_stands_in_its_own_papers_alone(on_sqlite_alone: Deployment) -> None:
    deployment = on_sqlite_alone
    worker = deployment.start_worker()
    task = deployment.submit(
        "cat /proc/[0-9]*/cmdline > $AGENTQ_OUTPUT/processes.txt 2> /dev/null",
        "agentq complete $AGENTQ_TASK_ID --from me --summary Done --json",
        "report done",
    )
    deployment.check(task, starts=[1], attempt=1)
    claim = deployment.papers(task).attempts[0].paper
    hold = {f"attempts/{task}/1.json", f"attempts/{task}/1.lease.json"}
    store = deployment.records.store
    with_it = {
        key
        for prefix in ("tasks/", "attempts/", "artifacts/", "results/", "inbox/", "controls/")
        for key in deployment.keys(prefix)
        if claim.token.encode() in (store.get(key) or b"")
    }
    assert with_it <= hold
    assert "proposal.json" in deployment.evidence(task, 1)
    assert claim.token not in worker.said()
    deployment.rest()


def test_an_agents_word_needs_neither_store_nor_engine(on_sqlite_alone: Deployment) -> None:
    """Whatever its environment says of them, and whatever settings lie in its folder."""
    deployment = on_sqlite_alone
    deployment.start_worker()
    task = deployment.submit(
        "echo 'store = [' > agentq.toml",
        "echo found > found.md",
        "AGENTQ_STORE=s3://nowhere/x AGENTQ_BROKER=amqp://nobody.invalid/ agentq complete $AGENTQ_TASK_ID"
        " --from me --result-file found.md --summary 'All of it.'",
    )
    manifest = deployment.check(task, starts=[1], attempt=1)
    assert (manifest.summary, manifest.verified) == ("All of it.", True)
    assert [artifact.name for artifact in manifest.artifacts] == ["transcript", "report"]
    deployment.rest()


@pytest.mark.promise("untrusted-files")
@pytest.mark.parametrize(
    "step",
    [
        "ln -s /etc/passwd $AGENTQ_OUTPUT/.proposal.json",
        "mkfifo $AGENTQ_OUTPUT/.proposal.json",
        "mkdir $AGENTQ_OUTPUT/.proposal.json",
        "echo '{' > $AGENTQ_OUTPUT/.proposal.json",
        "truncate -s 1T $AGENTQ_OUTPUT/.proposal.json",
        'printf \'{"task_id": "%s", "attempt": 1, "token": "forged", "status": "failed", "by": "x",'
        ' "at": "2026-01-01T00:00:00Z"}\' $AGENTQ_TASK_ID > $AGENTQ_OUTPUT/.proposal.json',
    ],
    ids=["link", "fifo", "folder", "garbage", "giant", "forged"],
)
def test_what_stands_in_the_place_of_an_agents_word_is_not_believed(on_sqlite_alone: Deployment, step: str) -> None:
    deployment = on_sqlite_alone
    worker = deployment.start_worker()
    task = deployment.submit(step, "report done")
    manifest = deployment.check(task, starts=[1], attempt=1)
    assert [artifact.name for artifact in manifest.artifacts] == ["transcript", "report"]
    assert ".proposal.json" in worker.said()
    deployment.rest()


def test_the_word_of_an_agent_whose_daemon_died_is_kept(on_sqlite_alone: Deployment) -> None:
    deployment = on_sqlite_alone
    worker = deployment.start_worker()
    task = deployment.submit(
        "[ $AGENTQ_ATTEMPT = 2 ] && { report two; exit; }",
        "agentq complete $AGENTQ_TASK_ID --from me --summary First && note proposed",
        "hold never",
    )
    deployment.noted(task, "proposed")
    worker.kill()
    deployment.start_worker()
    deployment.check(task, starts=[1, 2], attempt=2)
    until(lambda: "proposal.json" in deployment.evidence(task, 1), "the first attempt's word")
    assert '"First"' in deployment.evidence(task, 1)["proposal.json"]
    deployment.rest()


@pytest.mark.promise("untrusted-files")
def test_whatever_lies_in_the_output_folder(on_sqlite_alone: Deployment, tmp_path: Path) -> None:
    """Links, pipes, sockets and devices are no evidence; odd names, holes, depth and archives are, as plain bytes."""
    deployment = on_sqlite_alone
    secret = tmp_path / "secret.txt"
    secret.write_text("of somebody else")
    deployment.start_worker()
    task = deployment.submit(
        "cd $AGENTQ_OUTPUT",
        f"ln -s {secret} linked.md; ln -s {tmp_path} linked-folder; ln -s $AGENTQ_OUTPUT loop",
        "mkfifo pipe",
        "python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"socket\")'",
        'python3 -c \'open(b"odd\\xff\\n\\x1b[31m name\\xe2\\x80\\xae.txt", "w").write("odd")\'',
        'python3 -c \'open("l" * 250, "w").write("long")\'',
        'python3 -c \'import tarfile, io; t = tarfile.open("a.tar", "w"); i = tarfile.TarInfo("../../../escaped");'
        ' i.size = 1; t.addfile(i, io.BytesIO(b"x")); t.close()\'',
        "truncate -s 8M hole.bin",
        "report done",
        'python3 -c \'import os; [(os.mkdir("d"), os.chdir("d")) for _ in range(1500)]; open("deep.txt", "w")\'',
    )
    manifest = deployment.check(task, starts=[1], attempt=1)
    found = deployment.evidence(task, 1)
    assert "of somebody else" not in "".join(found.values())
    assert {"a.tar", "hole.bin", "report.md"} <= set(found)
    assert found["hole.bin"].strip("\0") == ""
    assert any(name.startswith("odd") for name in found)
    names = {artifact.name for artifact in manifest.artifacts}
    assert not {"linked", "pipe", "socket"} & names
    deployment.rest()
    assert not list(tmp_path.rglob("escaped"))


@pytest.mark.promise("untrusted-files")
def test_an_output_folder_that_was_replaced_by_a_link_is_not_read(on_sqlite_alone: Deployment, tmp_path: Path) -> None:
    deployment = on_sqlite_alone
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "report.md").write_text("of somebody else")
    deployment.start_worker()
    task = deployment.submit(f"rm -r $AGENTQ_OUTPUT && ln -s {tmp_path}/private $AGENTQ_OUTPUT", max_attempts="1")
    manifest = deployment.check(task, "failed", starts=[1], attempt=2)
    assert "is a symbolic link" in (manifest.reason or "")
    assert "of somebody else" not in "".join(deployment.evidence(task, 1).values())
    assert (tmp_path / "private" / "report.md").exists()
    deployment.rest()


@pytest.mark.promise("untrusted-files")
def test_of_very_many_files_a_bounded_number_is_kept_and_the_attempt_fails(on_sqlite_alone: Deployment) -> None:
    deployment = on_sqlite_alone
    deployment.start_worker()
    task = deployment.submit("cd $AGENTQ_OUTPUT; seq 3000 | xargs touch", "report done", max_attempts="1")
    manifest = deployment.check(task, "failed", starts=[1], attempt=2)
    assert "more than 1000 files" in (manifest.reason or "")
    deployment.rest()


@pytest.mark.promise("no-credentials")
def test_what_an_agent_lets_slip_does_not_reach_papers_and_logs(on_sqlite_alone: Deployment) -> None:
    """Its last words become a reason, the beginning of its report a summary; both without the credential."""
    deployment = on_sqlite_alone
    secret = "sk-" + "ant-api03-" + "aB3dE6gH9jK2mN5pQ8sT1vW4yZ7bC0eF2hJ4" + "zZ9x"
    worker = deployment.start_worker()
    slip = f"printf 'refused: sk-%s\\n' {secret[3:]}"
    task = deployment.submit(f"{slip} >&2; exit 65", allow_secrets=True)
    failed = deployment.check(task, "failed", starts=[1], attempt=1)
    assert "withheld" in (failed.reason or "")
    other = deployment.submit(f"{slip} > $AGENTQ_OUTPUT/report.md", allow_secrets=True)
    done = deployment.check(other, starts=[1], attempt=1)
    assert "withheld" in done.summary
    assert secret not in f"{failed} {done} {worker.said()}"
    deployment.rest()
