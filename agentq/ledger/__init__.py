"""The ledger: what the log told, as rows that lists and figures are read from. It is never the truth: deleting it costs
the time to read the log again."""

from agentq.ledger.book import Ledger as Ledger
from agentq.ledger.catching_up import catch_up as catch_up
from agentq.ledger.file import DAMAGED as DAMAGED
from agentq.ledger.file import Shelf as Shelf
from agentq.ledger.rows import Filter as Filter
from agentq.ledger.rows import TaskRow as TaskRow
from agentq.ledger.rows import WorkerRow as WorkerRow
from agentq.sqlite_errors import Damaged as Damaged
