"""Who is mentioned in a text."""

import re
import string
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentq.threads.mentions import mentions

names = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,20}[A-Za-z0-9])?", fullmatch=True)
words = st.text(alphabet=string.ascii_letters + " ,;:!?()\n", max_size=30)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("@writer hello", ["writer"]),
        ("hello (@writer), and @checker: look", ["writer", "checker"]),
        ("@a @b @a", ["a", "b"]),
        ("thanks @writer.", ["writer"]),
        ("thanks @review-worker-", ["review-worker"]),
        ("@v1.2-agent!", ["v1.2-agent"]),
        ("mail me@example.org or me.too@example.org", []),
        ("https://example.org/@writer", []),
        (r"not \@writer", []),
        ("@@writer", []),
        ("@writer2@example.org", []),
        ("@writer2@ @a@a@a", []),
        ("@ writer", []),
        ("`@writer` but @checker", ["checker"]),
        ("``a ` @writer`` @checker", ["checker"]),
        ("`@writer", ["writer"]),
        ("`a\n@writer` @checker", ["checker"]),
        ("`a\n\n@writer` @checker", ["writer", "checker"]),
        ("```\n@writer\n```\n@checker", ["checker"]),
        ("~~~ python\n@writer\n~~~~\n@checker", ["checker"]),
        ("```\n@writer\n~~~\n@checker", []),
        ("   ```\n@writer", []),
        ("> @writer said\n@checker", ["checker"]),
        ("@" + "x" * 65, []),
        ("@" + "x" * 64, ["x" * 64]),
        ("é@writer", []),
        ("", []),
    ],
)
def test_who_is_mentioned(text: str, expected: list[str]) -> None:
    assert mentions(text) == expected


@given(st.lists(st.tuples(words, names), max_size=6))
def test_everybody_who_is_named_in_plain_words_is_mentioned_once(parts: list[tuple[str, str]]) -> None:
    text = "".join(f"{said} @{name} " for said, name in parts)
    assert mentions(text) == list(dict.fromkeys(name for _, name in parts))


@given(names, st.text(alphabet=string.printable.replace("`", ""), max_size=30).filter(lambda t: "\n" not in t))
def test_nobody_is_mentioned_in_code(name: str, more: str) -> None:
    assert mentions(f"```\n@{name} {more}\n```") == []
    assert name not in mentions(f"`@{name}`")


@given(names, names)
def test_no_address_is_a_mention(name: str, host: str) -> None:
    assert mentions(f"{name}@{host}") == []


@given(st.text(alphabet="@a.`~> \n-\\", max_size=200))
def test_any_text_has_an_answer_of_names_that_stand_in_it(text: str) -> None:
    found = mentions(text)
    assert len(set(found)) == len(found)
    assert all(f"@{name}" in text and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) for name in found)


@pytest.mark.parametrize("text", ["`a" * 32_000, "`" * 64_000, "@" * 64_000, "@a." * 20_000, "``` `" * 13_000])
def test_a_long_text_takes_no_longer_than_its_length(text: str) -> None:
    began = time.perf_counter()
    mentions(text)
    assert time.perf_counter() - began < 2.0
