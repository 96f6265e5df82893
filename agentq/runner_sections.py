"""The `[runner]` of a profile: which agent is started, and how; each kind has its own settings."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import Discriminator, Field, Tag, field_validator

from agentq.messages import Seconds
from agentq.tomlfile import Section, validated

_FUNCTION = re.compile(r"python:[A-Za-z_][\w.]*:[A-Za-z_]\w*")


class StartedSection(Section):
    """What every kind has: the seconds between the gentle stop and the hard one.

    `credentials` are the variables by which a tool finds its login, which its agents get beside what a profile names;
    `tells_tokens` and `tells_cost` whether it tells what it takes.
    """

    credentials: ClassVar[tuple[str, ...]] = ()
    tells_tokens: ClassVar[bool] = False
    tells_cost: ClassVar[bool] = False
    grace_seconds: Seconds = 5.0


class CommandSection(StartedSection):
    """Any program, without a shell."""

    kind: Literal["command"] = "command"
    command: tuple[str, ...] = ()
    prompt: Literal["stdin", "file"] = "stdin"


class ToolSection(StartedSection):
    """A tool that agentq knows. `command` names another executable of it, `args` are added to its arguments;
    `answer_seconds` is how long its model may let it wait, all that it tries again included."""

    tells_tokens: ClassVar[bool] = True
    command: tuple[str, ...] = ()
    model: Annotated[str, Field(min_length=1)] | None = None
    args: tuple[str, ...] = ()
    answer_seconds: Seconds = 900.0


class ClaudeSection(ToolSection):
    """Claude Code. `tools` are all that it has, `allowed_tools` those that it need not ask for."""

    credentials: ClassVar[tuple[str, ...]] = (
        "ANTHROPIC_API_KEY",
        "ANTHROPIC_AUTH_TOKEN",
        "ANTHROPIC_BASE_URL",
        "CLAUDE_CODE_OAUTH_TOKEN",
        "CLAUDE_CONFIG_DIR",
    )
    tells_cost: ClassVar[bool] = True
    kind: Literal["claude"] = "claude"
    permission_mode: Literal["default", "acceptEdits", "auto", "plan", "dontAsk", "bypassPermissions"] = "acceptEdits"
    allowed_tools: tuple[str, ...] = ("Bash",)
    tools: tuple[str, ...] | None = None


class CodexSection(ToolSection):
    """Codex. `permission_mode` is its sandbox."""

    credentials: ClassVar[tuple[str, ...]] = ("OPENAI_API_KEY", "CODEX_API_KEY", "CODEX_HOME")
    kind: Literal["codex"] = "codex"
    permission_mode: Literal["read-only", "workspace-write", "danger-full-access"] = "workspace-write"


class GeminiSection(ToolSection):
    """Gemini CLI."""

    credentials: ClassVar[tuple[str, ...]] = (
        "GEMINI_API_KEY",
        "GOOGLE_API_KEY",
        "GOOGLE_GEMINI_BASE_URL",
        "GOOGLE_CLOUD_PROJECT",
        "GEMINI_CLI_HOME",
    )
    kind: Literal["gemini"] = "gemini"
    permission_mode: Literal["default", "auto_edit", "yolo", "plan"] = "yolo"


class QwenSection(ToolSection):
    """Qwen Code. `auth_type` says which of its logins it uses, as its own flag does."""

    credentials: ClassVar[tuple[str, ...]] = ("OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_MODEL", "DASHSCOPE_API_KEY")
    kind: Literal["qwen"] = "qwen"
    permission_mode: Literal["plan", "default", "auto-edit", "yolo"] = "yolo"
    auth_type: Annotated[str, Field(min_length=1)] | None = None


class OpencodeSection(ToolSection):
    """opencode, whose `own` settings say what it may do, unless it may do all that they do not deny (`auto`)."""

    credentials: ClassVar[tuple[str, ...]] = ("OPENCODE_API_KEY", "OPENCODE_CONFIG", "OPENCODE_CONFIG_DIR")
    tells_cost: ClassVar[bool] = True
    kind: Literal["opencode"] = "opencode"
    permission_mode: Literal["own", "auto", "read-only"] = "own"


class PythonSection(StartedSection):
    """A Python function, in a process of its own: `python:module:function`."""

    tells_tokens: ClassVar[bool] = True
    tells_cost: ClassVar[bool] = True
    kind: str

    @field_validator("kind")
    @classmethod
    def _names_a_function(cls, kind: str) -> str:
        if not _FUNCTION.fullmatch(kind):
            raise ValueError("write python:module:function")
        return kind


AnySection: TypeAlias = (
    CommandSection | ClaudeSection | CodexSection | GeminiSection | QwenSection | OpencodeSection | PythonSection
)
SECTIONS: Mapping[str, type[AnySection]] = {
    "command": CommandSection,
    "claude": ClaudeSection,
    "codex": CodexSection,
    "gemini": GeminiSection,
    "qwen": QwenSection,
    "opencode": OpencodeSection,
    "python": PythonSection,
}
"""The settings of each kind."""


def _kind_of(value: Any) -> str | None:
    """Which kind of settings these are; a table that names none is a command's."""
    kind = value.get("kind", "command") if isinstance(value, dict) else getattr(value, "kind", None)
    name = kind.partition(":")[0] if isinstance(kind, str) else None
    return name if name in SECTIONS else None


RunnerSection: TypeAlias = Annotated[
    Annotated[CommandSection, Tag("command")]
    | Annotated[ClaudeSection, Tag("claude")]
    | Annotated[CodexSection, Tag("codex")]
    | Annotated[GeminiSection, Tag("gemini")]
    | Annotated[QwenSection, Tag("qwen")]
    | Annotated[OpencodeSection, Tag("opencode")]
    | Annotated[PythonSection, Tag("python")],
    Discriminator(
        _kind_of,
        custom_error_type="no_such_kind",
        custom_error_message="there is no such kind; there are command, claude, codex, gemini, qwen, opencode and"
        " python:module:function",
    ),
]


def section_for(words: tuple[str, ...], own: AnySection) -> AnySection:
    """What `--runner` stands for beside a profile's own section: a kind by its name, else a command.

    Raises Invalid for a function that has no such name.
    """
    kind = words[0].partition(":")[0]
    if len(words) > 1 or kind not in SECTIONS or kind == "command":
        prompt = own.prompt if isinstance(own, CommandSection) else "stdin"
        return CommandSection(command=words, prompt=prompt, grace_seconds=own.grace_seconds)
    if words[0] == own.kind:
        return own
    values = {"kind": words[0], "grace_seconds": own.grace_seconds}
    return validated(SECTIONS[kind], values, lambda keys: f"--runner {words[0]}")


def as_written(keys: list[str]) -> list[str]:
    """The keys of a profile as its file has them: there, no kind stands between `runner` and its settings."""
    return keys[:1] + keys[2:] if keys[:1] == ["runner"] and keys[1:2] and keys[1] in SECTIONS else keys
