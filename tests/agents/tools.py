"""The agents' own command lines, as `install.sh` brings them, and the stub of their models that each is led to."""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentq.runner import Runner
from agentq.runner_sections import SECTIONS
from agentq.runners.making import make_runner
from tests.agents.stub import Stub

CACHE = Path(os.environ.get("AGENTQ_TEST_CACHE", Path.home() / ".cache/agentq-tests")) / "agents"
IN_TEST_ALL = ("claude", "codex")
ALL = (*IN_TEST_ALL, "gemini", "qwen", "opencode")


@dataclass(frozen=True, slots=True)
class Installed:
    """A tool with a home of its own, led to a stub: nothing of the user's login or settings is near it."""

    kind: str
    stub: Stub
    home: Path

    @property
    def settings(self) -> dict[str, Any]:
        """What its profile says under [runner]."""
        return {"kind": self.kind, "grace_seconds": 2, "model": MODELS[self.kind], **_MORE.get(self.kind, {})}

    @property
    def environment(self) -> dict[str, str]:
        """What it finds in its environment: where its model is, and a proxy that notes who asks for other hosts."""
        self.home.mkdir(parents=True, exist_ok=True)
        node = CACHE / "node" / "bin"
        path = [
            str(CACHE / self.kind / "node_modules/.bin"),
            *([str(node)] if node.exists() else ()),
            os.environ["PATH"],
        ]
        return {
            "PATH": os.pathsep.join(path),
            "HOME": str(self.home),
            "HTTP_PROXY": self.stub.url,
            "HTTPS_PROXY": self.stub.url,
            "NO_PROXY": "127.0.0.1,localhost",
            **_LED[self.kind](self.home, self.stub.url),
        }

    def runner(self, **settings: Any) -> Runner:
        """What runs it, with other settings."""
        section = SECTIONS[self.kind].model_validate({**self.settings, **settings})
        return make_runner(section, self.home)


MODELS = {
    "claude": "claude-sonnet-4-5",
    "codex": "gpt-5.5",
    "gemini": "gemini-2.5-flash",
    "qwen": "stub-model",
    "opencode": "stub/stub-model",
}
_MORE: Mapping[str, Mapping[str, Any]] = {"qwen": {"auth_type": "openai"}}


def _claude(home: Path, url: str) -> dict[str, str]:
    return {
        "ANTHROPIC_BASE_URL": url,
        "ANTHROPIC_API_KEY": "sk-ant-dummy",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    }


CODEX_CONFIG = """
model_provider = "stub"
check_for_update_on_startup = false
[model_providers.stub]
name = "stub"
base_url = "{url}/v1"
env_key = "STUB_API_KEY"
wire_api = "responses"
request_max_retries = 1
stream_max_retries = 1
[features]
plugins = false
[analytics]
enabled = false
"""


def _codex(home: Path, url: str) -> dict[str, str]:
    (home / ".codex").mkdir(exist_ok=True)
    (home / ".codex/config.toml").write_text(CODEX_CONFIG.format(url=url))
    return {"STUB_API_KEY": "dummy"}


def _gemini(home: Path, url: str) -> dict[str, str]:
    settings = {
        "security": {"auth": {"selectedType": "gemini-api-key"}},
        "privacy": {"usageStatisticsEnabled": False},
        "telemetry": {"enabled": False},
        "general": {"disableAutoUpdate": True, "enableAutoUpdate": False},
    }
    (home / ".gemini").mkdir(exist_ok=True)
    (home / ".gemini/settings.json").write_text(json.dumps(settings))
    return {"GEMINI_API_KEY": "dummy", "GOOGLE_GEMINI_BASE_URL": url}


def _qwen(home: Path, url: str) -> dict[str, str]:
    (home / ".qwen").mkdir(exist_ok=True)
    settings = {"privacy": {"usageStatisticsEnabled": False}, "general": {"enableAutoUpdate": False}}
    (home / ".qwen/settings.json").write_text(json.dumps(settings))
    return {"OPENAI_API_KEY": "dummy", "OPENAI_BASE_URL": f"{url}/v1", "OPENAI_MODEL": "stub-model"}


def _opencode(home: Path, url: str) -> dict[str, str]:
    model = {"name": "stub", "limit": {"context": 200_000, "output": 8_000}}
    options = {"baseURL": f"{url}/v1", "apiKey": "dummy"}
    provider = {"npm": "@ai-sdk/openai-compatible", "name": "stub", "options": options, "models": {"stub-model": model}}
    config = {"provider": {"stub": provider}, "share": "disabled", "autoupdate": False}
    told = {"OPENCODE_CONFIG_CONTENT": json.dumps(config), "OPENCODE_DISABLE_MODELS_FETCH": "1"}
    return told | {"npm_config_registry": url}  # it asks npm's for plugins


_LED: Mapping[str, Callable[[Path, str], dict[str, str]]] = {
    "claude": _claude,
    "codex": _codex,
    "gemini": _gemini,
    "qwen": _qwen,
    "opencode": _opencode,
}
