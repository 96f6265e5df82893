"""What a task may still spend: its own budget, its worker's and its plan's, less what was spent of each."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from agentq.lifecycle import Papers
from agentq.messages import Budget, Usage, total
from agentq.records import Records

REMEMBERED = 10_000
"""Of how many plans it is remembered what they may spend."""


@dataclass(frozen=True, slots=True)
class Limit:
    """A budget, whose it is in words, and what was spent of it before; what nobody told of is not counted."""

    whose: str
    budget: Budget
    before: Usage = field(default_factory=Usage)

    def over(self, usage: Usage, *, at: bool) -> str | None:
        """In words, the limit that is passed when this is spent too; or reached, with `at`."""
        spent = total((self.before, usage))
        for most, found, unit in (
            (self.budget.max_cost_usd, spent.cost_usd, "${:.4g}"),
            (self.budget.max_tokens, spent.tokens, "{} tokens"),
        ):
            if most is not None and found is not None and (found > most or (at and found == most)):
                return f"{self.whose} of {unit.format(most)} is used up: {unit.format(found)} spent"
        return None


@dataclass(frozen=True, slots=True)
class Limits:
    """All limits of what one attempt may take."""

    all: tuple[Limit, ...] = ()

    def passed(self, usage: Usage) -> str | None:
        """In words, the first limit that an attempt passes that has taken this; None while it may go on."""
        return next((said for limit in self.all if (said := limit.over(usage, at=False))), None)

    def used_up(self, usage: Usage = Usage()) -> str | None:
        """In words, the first limit of which nothing is left for another attempt after this one."""
        return next((said for limit in self.all if (said := limit.over(usage, at=True))), None)

    @property
    def cost_left(self) -> float | None:
        """How many dollars the attempt may take, None for any."""
        left = (
            limit.budget.max_cost_usd - (limit.before.cost_usd or 0.0)
            for limit in self.all
            if limit.budget.max_cost_usd is not None
        )
        return min(left, default=None)

    @property
    def bounds_tokens(self) -> bool:
        """Whether any limit is one of tokens."""
        return any(limit.budget.max_tokens is not None for limit in self.all)


class Budgets:
    """Knows the limits of one worker's tasks. What a plan's tasks spent is read anew each time."""

    def __init__(self, records: Records, own: Budget) -> None:
        self._records = records
        self._own = own
        self._plans: dict[str, Budget | None] = {}

    def of(self, papers: Papers) -> Limits:
        """What a task may still spend as its papers stand. Raises StoreUnavailable."""
        return Limits(tuple(limit for limit in self._limits(papers) if limit.budget != Budget()))

    def _limits(self, papers: Papers) -> Iterator[Limit]:
        spent = total(papers.spent)
        yield Limit("its budget", papers.envelope.budget or Budget(), spent)
        yield Limit("its worker's budget for a task", self._own, spent)
        group = papers.envelope.group
        if group and (budget := self._of_plan(group)):
            yield Limit(f"the budget of {group}", budget, total(tuple(self._spent_in(group))))

    def _of_plan(self, group: str) -> Budget | None:
        if group not in self._plans:
            if len(self._plans) >= REMEMBERED:
                self._plans.clear()
            envelope = self._records.envelope(group)
            self._plans[group] = envelope.budget if envelope else None
        return self._plans[group]

    def _spent_in(self, group: str) -> Iterable[Usage]:
        """What each task of a plan took so far, those that run as far as their workers told."""
        envelope = self._records.envelope(group)
        for task in envelope.plan if envelope else ():
            if manifest := self._records.manifest(task.task_id):
                yield manifest.usage
            else:
                yield from (a.spent for a in self._records.attempts(task.task_id) if a.spent)
