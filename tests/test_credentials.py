"""What looks like a credential is found before it is written down, told without being repeated, and little else is."""

import base64
import hashlib
import random
import re
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentq.credentials import FOLDED, LIBRARY, _denylist, finds, in_words, masked, place_of, refuse, told
from agentq.errors import Invalid
from tests.desk import IMPLEMENT, REVIEW, Desk

ROOT = Path(__file__).parents[1]
LOWER, UPPER, DIGITS, HEX = "abcdefghijklmnopqrstuvwxyz", "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "0123456789", "0123456789abcdef"
MIXED = LOWER + UPPER + DIGITS
SEEDS = range(20)


def some(letters: str, count: int, seed: int) -> str:
    """Random letters, the same each time."""
    return "".join(random.Random(f"{letters}{count}{seed}").choices(letters, k=count))


def made(kind: str, seed: int) -> str:
    """A credential of that kind that is none; put together here, so that no scanner finds one in this file."""
    parts: dict[str, tuple[str, ...]] = {
        "Anthropic": ("sk-", "ant-", "api03-", some(MIXED + "_", 80, seed)),
        "OpenAI": ("sk-", "proj-", some(MIXED, 60, seed)),
        "OpenAI, old": ("sk-", some(MIXED, 20, seed), "T3Blbk", "FJ", some(MIXED, 20, seed + 100)),
        "OpenRouter": ("sk-", "or-v1-", some(HEX, 64, seed)),
        "GitHub": ("gh", "p_", some(MIXED, 36, seed)),
        "GitHub, fine-grained": ("github_", "pat_", some(MIXED, 22, seed), "_", some(MIXED, 59, seed)),
        "GitLab": ("gl", "pat-", some(MIXED, 20, seed)),
        "Google": ("AI", "za", some(MIXED, 35, seed)),
        "Hugging Face": ("h", "f_", some(LOWER + UPPER, 34, seed)),
        "npm": ("np", "m_", some(MIXED, 36, seed)),
        "PyPI": ("py", "pi-AgE", "IcHlwaS5vcmc", some(MIXED, 100, seed)),
        "Slack": ("xo", "xb-", some(DIGITS, 12, seed), "-", some(DIGITS, 12, seed), "-", some(LOWER, 24, seed)),
        "Slack app": (
            "xa",
            "pp-1-",
            some(UPPER + DIGITS, 11, seed),
            "-",
            some(DIGITS, 13, seed),
            "-",
            some(HEX, 64, seed),
        ),
        "Stripe": ("sk_", "live_", some(MIXED, 24, seed)),
        "Stripe, test": ("sk_", "test_", some(MIXED, 24, seed)),
        "SendGrid": ("S", "G.", some(MIXED, 22, seed), ".", some(MIXED, 43, seed)),
        "Twilio": ("S", "K", some(HEX, 32, seed)),
        "AWS id": ("AK", "IA", some(UPPER + "234567", 16, seed)),
        "AWS secret": ("aws_secret_access_key = ", some(MIXED + "/+", 40, seed)),
        "Azure": ("AccountKey", "=", some(MIXED, 86, seed), "=="),
        "Databricks": ("da", "pi", some(HEX, 32, seed)),
        "DigitalOcean": ("do", "p_v1_", some(HEX, 64, seed)),
        "Vault": ("hv", "s.", some(MIXED, 24, seed)),
        "Telegram": (some(DIGITS, 10, seed), ":", "AA", some(MIXED, 33, seed)),
        "JWT": ("ey", "JhbGciOiJIUzI1NiJ9.", "ey", "JzdWIiOiIxMjM0NTY3ODkwIn0.", some(MIXED, 43, seed)),
        "private key": ("-----BEGIN ", "PRIVATE KEY-----\n", some(MIXED, 64, seed), "\n"),
        "private key in JSON": ('"-----BEGIN RSA ', "PRIVATE KEY-----\\n", some(MIXED, 64, seed), '\\n"'),
        "password in a URL": ("postgres://app:", some(MIXED, 12, seed), "@db.internal/orders"),
        "password": ("DB_PASSWORD=", "Aa1!", some(MIXED, 8, seed)),
        "password in code": ('password = "', "a1", some(LOWER + DIGITS, 10, seed), '"'),
        "token": ("access_token: ", some(HEX, 40, seed)),
        "secret in JSON": ('{"client_secret": "', some(MIXED, 32, seed), '"}'),
        "API key": ("export SERVICE_API_KEY=", some(MIXED, 32, seed)),
        "header": ("Authorization: Bearer ", some(MIXED, 40, seed)),
        "flag": ("deploy --api-token ", some(MIXED, 40, seed)),
    }
    return "".join(parts[kind])


KINDS = (
    "Anthropic", "OpenAI", "OpenAI, old", "OpenRouter", "GitHub", "GitHub, fine-grained", "GitLab", "Google",
    "Hugging Face", "npm", "PyPI", "Slack", "Slack app", "Stripe", "Stripe, test", "SendGrid", "Twilio", "AWS id",
    "AWS secret", "Azure", "Databricks", "DigitalOcean", "Vault", "Telegram", "JWT", "private key",
    "private key in JSON", "password in a URL", "password", "password in code", "token", "secret in JSON", "API key",
    "header", "flag",
)  # fmt: skip
HARMLESS = {
    "prose": "The password is in the vault; ask for the token there, and never put a secret or an API key into a task.",
    "advice": "Rotate the secret: see docs/rotation-2024.md. Password: at least 12 characters. Token limit: 128000.",
    "git hashes": "Undo 3f2a9c8e7d6b5a4f3e2d1c0b9a8f7e6d5c4b3a29 before 0c1d2e3f4a5b6c7d8e9f0a1b2c3d4e5f60718293.",
    "uuids": f"The order {uuid.UUID(int=7 << 90 | 12345)} belongs to {uuid.uuid5(uuid.NAMESPACE_DNS, 'a')}.",
    "digests": f"sha256:{hashlib.sha256(b'x').hexdigest()}  a.whl --hash=sha256:{hashlib.sha256(b'y').hexdigest()}",
    "image": "data:image/png;base64," + base64.b64encode(random.Random(1).randbytes(30_000)).decode(),
    "paths": "/home/me/.config/tokens/api_key.py ~/secrets/password-store src/auth/token_service_v2.py:117",
    "code": "token = get_token()\nself.password = settings.db.password\napi_key=os.environ['API_KEY_2']\n"
    "secret = secrets.token_hex(16)\npassword: str = Field(default='')\ntokens = tokenizer.encode_batch2(text)\n",
    "placeholders": "password: <your password>\nTOKEN=${TOKEN}\nexport API_KEY=$(pass show api)\nsecret: {{ vault }}\n"
    "password=********\napi_key: your-api-key-1234567890abcdef\ntoken: xxxxxxxxxxxx1234xxxx\n",
    "urls": "https://user:password@example.com/ amqp://guest:guest@localhost:5672/ https://host:8443/a@b "
    "postgres://${USER}:${PASSWORD}@db/x ssh://git@github.com:22/a.git",
    "kubernetes": "secretName: agentq-s3-credentials-2024\nsecretKeyRef: {name: my-app-2, key: token}\n",
    "fillers": "ghp_" + "x" * 36 + " AKIA" + "X" * 16 + " npm_" + "0" * 36 + " sk-your-key-goes-here-0123456789abcd",
    "usage": "max_tokens=4096, input_tokens: 1234567, token_count = 99, password_id: 3f2a9c8e7d6b5a4f3e2d1c0b9a8f7e6d",
}


# ---------------------------------------------------------------------- what is found


@pytest.mark.promise("no-credentials")
@pytest.mark.parametrize("kind", KINDS)
def test_a_credential_is_found_where_it_stands(kind: str) -> None:
    for seed in SEEDS:
        secret = made(kind, seed)
        for text in (secret, f"Use this:\n  key={secret}\nThen go on.", f'{{"a": "{secret}"}}', f"x ({secret})."):
            found = finds(text.encode())
            assert found, (kind, text)
            told_of = " ".join(told({"instructions": text}))
            tail = secret.partition("@")[0][-10:]
            assert tail not in told_of
            assert all(len(find.shown) <= 4 for find in found)
            assert tail not in masked(text), "what is masked is not there any more"


@pytest.mark.promise("no-credentials")
@pytest.mark.parametrize(
    "text",
    [
        "use AKIA" + "IOSFODNN7" + "EXAMPLE please",
        "aws_secret_access_key = " + "wJalrXUtnFEMI/K7MDENG/" + "bPxRfiCYEXAMPLEKEY",
        '"SecretAccessKey": "' + "wJalrXUtnFEMI/K7MDENG/" + 'bPxRfiCYEXAMPLEKEY"',
        "token ghp_" + "a1B2" * 9,
        "gho_" + "a" * 36,
        "sk-ant-" + "api03-" + "A" * 60,
        "-----BEGIN OPENSSH " + "PRIVATE KEY-----",
        "the key:\n-----BEGIN RSA " + "PRIVATE KEY-----\nabcd\n-----END RSA " + "PRIVATE KEY-----",
    ],
)
def test_what_only_looks_like_one_is_asked_about(text: str) -> None:
    assert len(told({"instructions": text})) == 1


@pytest.mark.promise("no-credentials")
@pytest.mark.parametrize("name", HARMLESS)
def test_what_is_no_credential_passes(name: str) -> None:
    assert told({name: HARMLESS[name]}) == []
    assert masked(HARMLESS[name]) == HARMLESS[name]


def test_our_own_documents_and_code_pass() -> None:
    paths = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("workers/**/*"), *ROOT.glob("agentq/**/*.py")]
    assert len(paths) > 80
    texts = {str(path.relative_to(ROOT)): path.read_bytes() for path in paths if path.is_file()}
    assert told(dict(texts)) == []


def test_the_libraries_of_this_python_raise_few_alarms() -> None:
    """A measure of false alarms in code: less than one in a hundred files, and no second in most of those."""
    paths = sorted(Path(random.__file__).parent.glob("*.py"))
    alarms = {path.name: lines for path in paths if (lines := told({"file": path.read_bytes()}))}
    assert len(paths) > 150
    assert len(alarms) <= len(paths) // 100, alarms


@given(st.text(alphabet="abcdefghij klmnopqrstuvwxyz.,:=\n", max_size=400))
@settings(max_examples=50, deadline=None)
def test_words_are_never_credentials(text: str) -> None:
    assert finds(text.encode()) == []


def library_rules() -> list[tuple[str, str, int]]:
    """Every rule of the library that is used: its module, its class, and its number there."""
    counts = ((module, name, _denylist(module, name)) for _, module, name, _, _ in LIBRARY)
    return [(module, name, number) for module, name, rules in counts for number in range(len(rules))]


@pytest.mark.parametrize(("module", "name", "number"), library_rules())
@given(data=st.data())
@settings(max_examples=8, deadline=None)
def test_what_the_librarys_rules_match_is_not_hidden_by_what_we_ask_first(
    module: str, name: str, number: int, data: st.DataObject
) -> None:
    """The library is imported and asked only where a fixed text and a pattern stand: its rules need both."""
    (texts, needed) = next((texts, needed) for _, _, used, texts, needed in LIBRARY if used == name)
    rule = _denylist(module, name)[number]
    found = rule.search(data.draw(st.from_regex(rule, alphabet=st.characters(max_codepoint=127))))
    assert found
    whole = found[0].encode()
    folded = whole.lower() if module in FOLDED else whole
    starts = (start for text in texts for start in range(len(whole)) if folded.startswith(text, start))
    assert any(re.compile(needed).match(whole, start) for start in starts), (name, whole)


# ---------------------------------------------------------------------- how it is told


def test_the_place_is_told_by_line_and_column_in_characters() -> None:
    text = f"Grüße,\nüber {made('GitHub', 1)}\n".encode()
    (find,) = finds(text)
    assert place_of(text, find) == (2, 6)
    assert in_words(find) == "this looks like a GitHub token (ghp_…)"


def test_many_are_told_together_bounded() -> None:
    text = "\n".join(made("GitHub", seed) for seed in range(15))
    with pytest.raises(Invalid) as refused:
        refuse({"context": text, "label a": made("AWS id", 1)})
    lines = str(refused.value).splitlines()
    assert lines[0] == "16 places look like credentials, the first 10 are:"
    assert len(lines) == 11
    assert "--allow-secrets" in refused.value.hint
    refuse({"context": text}, allowed=True)


@pytest.mark.parametrize(
    "fill",
    ["words and words ", "token ", "token=", "token:a1", "password: ", "eyJ", "://a:b", "--", "sk-", "ghp_", "AKIA",
     "a", "secret", "-----BEGIN RSA PRIVATE KEY-----\n", "//:_authToken="],
)  # fmt: skip
def test_no_text_takes_long(fill: str) -> None:
    """A mebibyte of what rules begin with; a quadratic rule would take minutes."""
    text = (fill * (1 << 20))[: 1 << 20].encode()
    began = time.process_time()
    finds(text)
    assert time.process_time() - began < 3


def test_where_nothing_is_found_the_library_is_not_imported(desk: Desk) -> None:
    look = "import sys, agentq.credentials as c; c.finds(sys.argv[1].encode()); print('requests' in sys.modules)"
    for text, imported in (("Fix the token count in AC/DC.", "False"), (made("GitHub", 1), "True")):
        done = subprocess.run([sys.executable, "-c", look, text], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == imported


# ---------------------------------------------------------------------- at the edges

SECRET = made("Anthropic", 3)


def refused_for(desk: Desk, *arguments: str, place: str, **more: str) -> None:
    """The command is refused for a credential at that place, and writes nothing; with the flag it is not."""
    before = desk.files()
    done = desk.run(*arguments, **more)
    assert done.code == 3, done
    assert f"{place}: this looks like an API key (sk-a…)" in done.err
    assert "--allow-secrets" in done.err
    assert SECRET[6:] not in done.out + done.err
    assert desk.files() == before
    assert desk.run(*arguments, "--allow-secrets", **more).code == 0


@pytest.mark.promise("no-credentials")
def test_submit_refuses_it_in_every_field(desk: Desk) -> None:
    desk.task("--id", "first")  # so that a queue is there
    (desk.project / "c.md").write_text(f"# Context\n\nUse {SECRET}\n")
    (desk.shared / "tasks" / "inside.md").write_text(f"Use {SECRET}\n")
    do = ("submit", *REVIEW, "-i", "Look.")
    refused_for(desk, "submit", *REVIEW, "-i", f"Log in:\n use {SECRET}", place="instructions, line 2, column 6")
    refused_for(desk, *do, "--label", f"login={SECRET}", place="label login, line 1, column 1")
    refused_for(desk, *do, "--file", "c.md", place="context, line 3, column 5")
    refused_for(desk, *do, "--context-ref", f"file://{desk.shared}/tasks/inside.md", place="context, line 1, column 5")
    refused_for(desk, *do, "--file", str(desk.shared / "tasks/inside.md"), place="context, line 1, column 5")


@pytest.mark.promise("no-credentials")
def test_a_plan_is_refused_with_all_lines(desk: Desk) -> None:
    task = (
        "  - name: {name}\n    to: review-worker\n    type: review\n    instructions: |\n      Look.\n      Use {use}\n"
    )
    (desk.project / "plan.yaml").write_text(
        "tasks:\n" + task.format(name="a", use=SECRET) + task.format(name="b", use=made("GitHub", 1))
    )
    before = desk.files()
    done = desk.run("plan", "submit", "plan.yaml", "--id", "p")
    assert done.code == 3
    assert "line 7, column 11: this looks like an API key (sk-a…)" in done.err
    assert "line 13, column 11: this looks like a GitHub token (ghp_…)" in done.err
    assert SECRET[6:] not in done.err
    assert desk.files() == before
    escaped = SECRET.replace("sk-", "\\u0073k-")
    hidden = f'{{"tasks": [{{"name": "a", "to": "review-worker", "type": "review", "instructions": "{escaped}"}}]}}'
    (desk.project / "plan.json").write_text(hidden)
    done = desk.run("plan", "submit", "plan.json", "--id", "p")
    assert "p.a: instructions, line 1, column 1: this looks like an API key" in done.err
    assert desk.files() == before
    assert desk.run("plan", "submit", "plan.yaml", "--id", "p", "--allow-secrets").code == 0


@pytest.mark.promise("no-credentials")
@pytest.mark.parametrize("how", ["by hand", "claimed"])
def test_complete_and_fail_refuse_it(desk: Desk, how: str) -> None:
    (desk.project / "r.md").write_text(f"Done with {SECRET}\n")
    for words, place in (
        (("complete", "--summary", f"Used {SECRET}"), "the summary, line 1, column 6"),
        (("complete", "--result-file", "r.md"), "the report, line 1, column 11"),
        (("fail", "--reason", f"No, {SECRET}"), "the reason, line 1, column 5"),
    ):
        task_id = desk.task()
        if how == "claimed":
            assert desk.json("claim", "--as", "implementation-worker")["task"]["task_id"] == task_id
        refused_for(desk, words[0], task_id, "--from", "implementation-worker", *words[1:], place=place)


@pytest.mark.promise("no-credentials")
def test_so_do_release_cancel_reject_and_an_agents_own_word(desk: Desk, tmp_path: Path) -> None:
    why = ("--reason", f"No, {SECRET}")
    task_id = desk.task()
    desk.ok("claim", "--as", "implementation-worker")
    refused_for(desk, "release", task_id, *why, place="the reason, line 1, column 5")
    refused_for(desk, "cancel", task_id, *why, place="the reason, line 1, column 5")
    refused_for(desk, "reject", desk.task("--requires-approval"), *why, place="the reason, line 1, column 5")
    claimed = desk.task("--delay", "1h")
    (output := tmp_path / "output").mkdir()
    token = desk.claim(claimed).token
    inside = {"TASK_ID": claimed, "TOKEN": token, "ATTEMPT": "1", "OUTPUT": str(output)}
    environment = {f"AGENTQ_{key}": value for key, value in inside.items()}
    done = desk.run("fail", claimed, "--from", "me", *why, **environment)
    assert done.code == 3
    assert not list(output.iterdir())


def test_what_was_let_through_once_may_be_retried(desk: Desk) -> None:
    task_id = desk.ok("submit", *IMPLEMENT, "-i", f"Use {SECRET}", "--allow-secrets")
    desk.finish(task_id, "failed", reason="No.")
    assert desk.run("retry", task_id).code == 0
