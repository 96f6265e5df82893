"""A repository on another host: fetched into a cache that nobody but the worker's daemons uses."""

import hashlib
import re
from pathlib import Path

from agentq.errors import Invalid, Unavailable
from agentq.workspace import folders
from agentq.workspace.git import PROTOCOLS, Git, words
from agentq.workspace.source import Source, alone

FETCH_SECONDS = 1800.0
_WITH_PASSWORD = re.compile(r"[^:]+://[^/@]*:[^/@]*@")
_REFS = ("+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*", "+HEAD:refs/agentq/head")
_FILES = {
    "HEAD": "ref: refs/agentq/head\n",
    "config": "[core]\n\trepositoryformatversion = 0\n\tbare = true\n",
}
_REFUSED = {
    "couldn't find remote ref HEAD": "a new repository needs its first commit",
    "not allowed": f"these are: {PROTOCOLS.replace(':', ', ')}",
    "blocked": "check the URL",
    "Authentication failed": "give the worker's user a credential helper, or use ssh with a key",
    "could not read Username": "give the worker's user a credential helper, or use ssh with a key",
    "could not read Password": "give the worker's user a credential helper, or use ssh with a key",
    "Permission denied": "give the worker's user a key that the host knows",
    "Host key verification failed": "as the worker's user, connect once by hand and compare the host's key",
    "not found": "check the URL, and whether the worker's user may read it",
    "does not appear to be a git repository": "check the URL",
    "Repository not exported": "check the URL",
    "access denied": "check the URL, and whether the worker's user may read it",
}


def fetched(url: str, cache: Path, base: str | None) -> Source:
    """The repository of that URL, as it is there now, from below the folder `cache`; several may ask at once.

    A base that is a whole commit id and is there already needs no other host. Raises Invalid for what no further try
    could mend (no such repository, no access, a password in the URL), else Unavailable.
    """
    _refuse_password(url)
    folder = cache / f"{hashlib.sha256(url.encode()).hexdigest()[:16]}.git"
    folders.make(folder)
    source = Source(folder, url, prefixes=("refs/remotes/origin/", ""), default="refs/agentq/head")
    with alone(folder):
        for part in ("objects/info", "refs"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        for name, text in _FILES.items():  # again each time: none but ours may say what a fetch runs
            (folder / f"{name}.half").write_text(text)
            (folder / f"{name}.half").replace(folder / name)
        if not (base and _is_there(source, base)):
            _fetch(folder, url)
    return source


def _fetch(folder: Path, url: str) -> None:
    git = Git((f"--git-dir={folder}",), {"GIT_ALLOW_PROTOCOL": PROTOCOLS}, FETCH_SECONDS)
    how = ("--quiet", "--force", "--prune", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules")
    done = git.run("-c", "http.lowSpeedLimit=1", "-c", "http.lowSpeedTime=60", "fetch", *how, "--", url, *_REFS)
    if done.returncode == 0:
        return
    said = words(done.stderr)
    for sign, hint in _REFUSED.items():
        if sign in said:
            raise Invalid(f"the repository {url} cannot be fetched: {said}", hint=hint)
    raise Unavailable(f"the repository {url} cannot be fetched: {said}")


def _is_there(source: Source, base: str) -> bool:
    whole = re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", base)
    return bool(whole) and source.git.run("cat-file", "-e", f"{base}^{{commit}}").returncode == 0


def _refuse_password(url: str) -> None:
    if _WITH_PASSWORD.match(url):
        raise Invalid(
            "the URL of the repository has a password in it, which would stand in the task's papers",
            hint="leave it out, and give the worker's user a credential helper",
        )
