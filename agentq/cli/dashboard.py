"""The picture that `agentq top` shows: as much of the board as there is room for, the most telling first."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from agentq.cli.terms import one_line, span
from agentq.observing.board import Board, EndedSight, QueueSight, RunningSight
from agentq.observing.figures import Used
from agentq.observing.roster import Member

NARROW, WIDE = 72, 110
"""Columns of a terminal below which something is left out, and from which there is room for more."""
LONGEST = {"QUEUES": 24, "WORKERS": 24, "RUNNING": 24, "ENDED": 24, "agent": 22, "host": 16}
"""Characters of a column."""
STYLES = {"completed": "green", "failed": "red", "expired": "yellow", "cancelled": "yellow"}
NOTHING = "-"


@dataclass(frozen=True)
class Picture:
    """A board, where it is from, and what is wrong with it, if anything; with a height it has no more lines."""

    board: Board
    where: str
    notice: str = ""
    height: int | None = None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw it in the width that there is."""
        width = options.max_width
        head = list(_head(self.board, self.where, self.notice, width))
        sections = [section for section in _sections(self.board, width) if section.rows]
        yield from head[: self.height]
        room = None if self.height is None else self.height - len(head)
        for section, rows in zip(sections, _shares(sections, room), strict=True):
            if rows:
                yield section.table(rows)
        if not sections:
            yield _line(("nothing waits, nothing runs, no worker is up", "dim"))


@dataclass(frozen=True)
class _Section:
    """A table; the lower its rank the sooner it gets room. Numbers stand to the right where a column begins with #."""

    rank: int
    columns: tuple[str, ...]
    rows: Sequence[tuple[Text, ...]]
    total: int

    def table(self, shown: int) -> Table:
        """Its first rows."""
        table = Table(box=None, expand=True, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold cyan")
        hidden = f" {shown} of {self.total}" if shown < self.total else ""
        for column in self.columns:
            name, is_last = column.lstrip("#"), column is self.columns[-1]
            table.add_column(
                f"{name}{hidden}" if column is self.columns[0] else name,
                justify="right" if column.startswith("#") else "left",
                no_wrap=True,
                overflow="ellipsis",
                ratio=1 if is_last else None,
                max_width=None if is_last else LONGEST.get(name),
            )
        for row in self.rows[:shown]:
            table.add_row(*row)
        return table


def _shares(sections: Sequence[_Section], room: int | None) -> list[int]:
    """How many rows each section shows: of what is short all, the rest is shared; by rank when there is little room."""
    if room is None:
        return [len(section.rows) for section in sections]
    order = sorted(range(len(sections)), key=lambda i: sections[i].rank)[: max(0, room // 2)]
    room, shares = room - len(order), [0] * len(sections)
    while room > 0 and (hungry := [i for i in order if shares[i] < len(sections[i].rows)]):
        for i in hungry[:room]:
            shares[i] += 1
        room -= min(room, len(hungry))
    return shares


def _head(board: Board, where: str, notice: str, width: int) -> Iterator[Text]:
    at = f"{datetime.fromtimestamp(board.at, UTC):%H:%M:%SZ}"
    title = Text.assemble(("agentq", "bold"), f"  {one_line(where)}")
    title.truncate(max(8, width - len(at) - 2), overflow="ellipsis", pad=True)
    yield _line(title, "  ", at)
    rates, day = board.rates, board.rates.day
    failed = (f"{day.failed} of {day.ended} failed", "red" if day.failed else "")
    in_, ended = ("", "") if width < NARROW else (" in", "ended ")
    rate = f"{ended}{rates.minutes.ended / 5:.1f}/min{in_} 5m, {rates.hour.ended / 60:.1f}/min{in_} 60m"
    yield _line(rate, "; 24h: ", failed, f", {_cost(day.cost_usd)}")
    if notice:
        yield _line((one_line(notice), "bold red"))


def _cost(cost: Used) -> str:
    """What is known of the cost; what is not known is said to be so."""
    if cost.sum is None:
        return "cost unknown" if cost.unknown else "no cost"
    return f"${cost.sum:.2f}{f' and {cost.unknown} unknown' if cost.unknown else ''}"


def _sections(board: Board, width: int) -> Iterator[_Section]:
    host = agent = width >= NARROW
    cost = width >= WIDE
    yield _section(
        1,
        {
            "QUEUES": True,
            "#waiting": True,
            "#oldest": True,
            "#held": True,
            "#running": True,
            "#workers": True,
            "": True,
        },
        [_queue(sight) for sight in board.queues],
    )
    yield _section(
        2,
        {"WORKERS": True, "host": host, "#up": True, "#heard": True, "#for": True, "does": True},
        [_worker(worker, board.at) for worker in board.workers],
    )
    yield _section(
        0,
        {"RUNNING": True, "agent": agent, "#try": True, "#for": True, "last words": True},
        [_running(sight, board.at) for sight in board.running],
        sum(sight.now.running + sight.now.lease for sight in board.queues),
    )
    yield _section(
        3,
        {"ENDED": True, "agent": agent, "how": True, "#ago": True, "#took": True, "#cost": cost, "what": True},
        [_ended(sight, board.at) for sight in board.recent],
    )


def _section(rank: int, columns: dict[str, bool], rows: Sequence[tuple[Text, ...]], total: int = 0) -> _Section:
    """A section without the columns that there is no room for."""
    shown = list(columns.values())
    kept = [tuple(cell for cell, is_shown in zip(row, shown, strict=True) if is_shown) for row in rows]
    return _Section(rank, tuple(name for name, is_shown in columns.items() if is_shown), kept, max(total, len(rows)))


def _queue(sight: QueueSight) -> tuple[Text, ...]:
    now = sight.now
    held = now.delayed + now.dependencies + now.approval
    words = [f"{count} {word}" for count, word in _held(sight) if count]
    alone = "bold red" if now.queued and not sight.workers else ""
    return (
        _cell(sight.agent),
        _count(now.queued),
        _age(now.oldest_seconds),
        _count(held),
        _count(now.running),
        Text(str(sight.workers), style=alone),
        _cell(", ".join(words), "dim"),
    )


def _held(sight: QueueSight) -> tuple[tuple[int, str], ...]:
    now = sight.now
    return (
        (now.lease, "with a silent worker"),
        (now.delayed, "delayed"),
        (now.dependencies, "blocked"),
        (now.approval, "to approve"),
    )


def _worker(worker: Member, now: float) -> tuple[Text, ...]:
    row, eldest = worker.row, worker.work[0] if worker.work and worker.is_at_work else None
    return (
        _cell(row.agent),
        _cell(row.host),
        _since(row.up_at, now),
        _since(row.heard_at, now),
        _since(eldest and eldest.since, now),
        _does(worker),
    )


def _does(worker: Member) -> Text:
    """What a worker does; of one that is not there nobody can tell."""
    if not worker.is_at_work:
        return Text(worker.standing, style="bold red")
    more = f" and {len(worker.work) - 1} more" if len(worker.work) > 1 else ""
    does = f"{worker.work[0].task_id}{more}" if worker.work else "idle"
    if worker.standing == "draining":
        return _cell(f"draining, {does}", "yellow")
    return _cell(does, "" if worker.work else "dim")


def _running(sight: RunningSight, now: float) -> tuple[Text, ...]:
    task = sight.task
    words = (f"its worker is {sight.worker}", "bold red") if _is_lost(sight) else (sight.words, "")
    return _cell(task.task_id), _cell(task.agent), _count(task.attempt), _since(task.claimed_at, now), _cell(*words)


def _is_lost(sight: RunningSight) -> bool:
    return sight.worker in ("silent", "gone", "down")


def _ended(sight: EndedSight, now: float) -> tuple[Text, ...]:
    return (
        _cell(sight.task_id),
        _cell(sight.agent),
        _cell(sight.outcome, STYLES.get(sight.outcome, "")),
        _since(sight.at, now),
        _age(sight.seconds),
        Text("unknown" if sight.cost_usd is None else f"${sight.cost_usd:.2f}"),
        _cell(sight.words),
    )


def _line(*parts: str | Text | tuple[str, str]) -> Text:
    return Text.assemble(*parts, no_wrap=True, overflow="ellipsis")


def _cell(words: str | None, style: str = "") -> Text:
    """Anybody's words, harmless."""
    return Text(one_line(words).replace("\t", " "), style=style)


def _count(count: int) -> Text:
    return Text(str(count) if count else NOTHING)


def _age(seconds: float | None) -> Text:
    return Text(NOTHING if seconds is None else span(seconds))


def _since(then: float | None, now: float) -> Text:
    return _age(None if then is None else now - then)
