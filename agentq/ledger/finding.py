"""The SQL of a filter: every one is answered in the order of the list, from an index, newest first."""

import re
import unicodedata
from collections.abc import Iterator
from typing import Any, NamedTuple

from agentq.ledger.marks import mark, place
from agentq.ledger.rows import OPEN, STATES, WAITS, Filter
from agentq.ledger.schema import PREFIXES

HEARTBEAT_SECONDS = 10.0
"""How often a worker is taken to be heard of that does not say."""
SILENT = 3
"""After how many heartbeats without a word a worker is silent."""

IS_SILENT = f"(state = 'down' OR heard_at + {SILENT} * coalesce(heartbeat_seconds, {HEARTBEAT_SECONDS}) < :now)"
_MISSING = """t.released_at IS NULL AND t.depends_on IS NOT NULL AND EXISTS (
  SELECT 1 FROM json_each(t.depends_on) d LEFT JOIN tasks n ON n.task_id = d.value WHERE n.outcome IS NULL)"""
WAITS_FOR = f"""CASE
  WHEN t.members THEN NULL
  WHEN t.state = 'processing' THEN iif(
    t.worker IN (SELECT worker FROM workers WHERE {IS_SILENT}), 'lease', NULL)
  WHEN t.state <> 'pending' THEN NULL
  WHEN {_MISSING} THEN 'dependencies'
  WHEN t.until > :now THEN 'delayed'
  WHEN t.requires_approval AND t.approved_at IS NULL THEN 'approval'
  ELSE 'queued' END"""
ROW = f"SELECT t.*, {WAITS_FOR} AS waits_for FROM"


class Query(NamedTuple):
    """One statement, whose rows come newest first, and its arguments besides `now`, `before`, `from` and `limit`."""

    sql: str
    arguments: dict[str, Any]


def queries(asked: Filter) -> Iterator[Query]:
    """The statements whose rows, merged by their places, are what a filter asks for."""
    marks = _marks(asked)
    if marks or asked.text or asked.words & set(WAITS) - {"lease"}:
        yield _by_marks(asked, marks)
    elif asked.words:
        for state in sorted(_bases(asked.words)):
            yield Query(_statement("tasks t", "t.state = :state", asked.words, {state}), {"state": state})
    else:
        yield Query(_statement("tasks t", "t.state IS NOT NULL", asked.words, set(STATES)), {})


def bounds(asked: Filter) -> dict[str, int]:
    """The places between which a filter's tasks are."""
    return {
        "from": -(2**63) if asked.since is None else place(asked.since),
        "before": 2**63 - 1 if asked.until is None else place(asked.until),
    }


def _by_marks(asked: Filter, marks: list[str]) -> Query:
    bases = _bases(asked.words)
    if bases:
        marks.append(f"({' OR '.join(_state_mark(state, asked.words) for state in sorted(bases))})")
    words = [*marks, *_words(asked.text or "")]
    source = "found f CROSS JOIN tasks t ON t.id = f.rowid"
    where = "found MATCH :match AND f.rowid >= :from AND f.rowid < :before AND t.state IS NOT NULL"
    sql = _statement(source, where, asked.words, bases or set(STATES), order="f.rowid")
    return Query(sql, {"match": " AND ".join(words)})


def _statement(source: str, where: str, words: frozenset[str], bases: set[str], order: str = "t.id") -> str:
    bounded = "" if order == "f.rowid" else " AND t.id >= :from AND t.id < :before"
    condition = _condition(words, bases)
    return f"{ROW} {source} WHERE {where}{bounded}{condition} ORDER BY {order} DESC LIMIT :limit"


def _condition(words: frozenset[str], bases: set[str]) -> str:
    """What a row must fulfil besides having one of these states, because time alone changes it."""
    if not words or not bases & set(OPEN) or words >= set(OPEN):
        return ""
    allowed = [f"'{word}'" for word in sorted(words & set(WAITS))]
    tests = [f"(t.state = '{state}')" for state in sorted(bases - set(OPEN))]
    if "pending" in words:
        tests.append("t.state = 'pending' OR waits_for = 'lease'")
    if "processing" in words:
        tests.append("(t.state = 'processing' AND waits_for IS NOT 'lease')")
    if allowed:
        tests.append(f"waits_for IN ({', '.join(allowed)})")
    return f" AND ({' OR '.join(tests)})"


def _bases(words: frozenset[str]) -> set[str]:
    """The states in the table that hold what was asked for."""
    bases = set(words & set(STATES))
    if "pending" in words or "lease" in words:
        bases.add("processing")
    return bases | ({"pending"} if words & set(WAITS) - {"lease"} else set())


def _state_mark(state: str, words: frozenset[str]) -> str:
    """The words that tasks of a state have, with the gates that matter where only some of them were asked for."""
    base, gates = mark("state", state), sorted(words & set(WAITS) - {"lease"})
    if state != "pending" or "pending" in words or "queued" in gates or not gates:
        return base
    return f"({base} AND ({' OR '.join(mark('gate', gate) for gate in gates)}))"


def _marks(asked: Filter) -> list[str]:
    named = (
        ("agent", asked.agent),
        ("type", asked.type),
        ("sender", asked.sender),
        ("group", asked.group),
        ("needs", asked.needs),
        ("kind", "plan" if asked.plans else None),
        *(("label", label) for label in asked.labels),
    )
    return [mark(kind, value) for kind, value in named if value is not None]


def _words(text: str) -> Iterator[str]:
    """A person's words as they may begin, as far as beginnings have lists; short ones as they are."""
    for word in re.findall(r"[^\W_]+", unicodedata.normalize("NFC", text)):
        short = word.isascii() and len(word) < PREFIXES[0]
        yield f'"{word}"' if short else f'"{word[: PREFIXES[-1]]}" *'
