"""Promises and tests hold each other: every promise has a test, every mark names a promise."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_promise_is_carried_and_every_mark_is_a_promise() -> None:
    text = (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8")
    promised = set(re.findall(r"^- \*\*([a-z-]+)\*\*:", text, re.MULTILINE))
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")]
    carried = {name for source in sources for name in re.findall(r'mark\.promise\("([a-z-]+)"\)', source)}
    assert promised - carried == set(), "promises that no test carries"
    assert carried - promised == set(), "tests that carry what is not promised"
