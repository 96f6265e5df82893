"""What reads the log and decides nothing: the settings, the engine, and the ledger; none of the parts that act."""

import contextlib
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from agentq.adapters import make_folder, open_engine, without_password
from agentq.config import Settings, load_settings
from agentq.engine import Engine
from agentq.errors import EngineUnavailable
from agentq.messages import sha256_hex

if TYPE_CHECKING:
    from agentq.ledger import Ledger, Shelf


class Observer:
    """agentq for who looks on, for one set of settings."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @classmethod
    def load(cls, **flags: Any) -> Self:
        """One with the settings in force, flags first; what this process makes is private as they say."""
        settings = load_settings(flags)
        os.umask(int(settings.umask, 8))
        return cls(settings)

    @contextlib.asynccontextmanager
    async def engine(self) -> AsyncIterator[Engine]:
        """An engine, closed at the end."""
        self._make_data_folder(self.settings.broker[0])
        engine = open_engine(self.settings)
        try:
            yield engine
        finally:
            await engine.close()

    def _make_data_folder(self, url: str) -> None:
        """Make the data folder for what the defaults put there; any other place must exist."""
        inside = self.settings.data.as_uri().partition(":")[2]
        if url.partition(":")[2].startswith(f"{inside}/"):
            make_folder(self.settings.data)

    @property
    def passwordless_broker(self) -> tuple[str, ...]:
        """The broker's URLs as they may be shown and written down: without passwords."""
        return tuple(without_password(url) for url in self.settings.broker)

    @property
    def ledger_path(self) -> Path:
        """The ledger's file at this moment; it need not exist."""
        return self._shelf.current()

    @property
    def _shelf(self) -> "Shelf":
        from agentq.ledger import Shelf

        return Shelf(self.settings.data / "ledgers", self.log_name)

    @property
    def log_name(self) -> str:
        """What files are called that are read models of these settings' log."""
        where = (*self.passwordless_broker, self.settings.rabbitmq.vhost or "", self.settings.namespace)
        return sha256_hex("\n".join(where).encode())[:16]

    def ledger(self, say: Callable[[str], object], *, damaged: bool = False) -> "Ledger":
        """The ledger as it is; says when it had to be made anew, as one found `damaged` has. Raises Unavailable."""
        from agentq.ledger import DAMAGED, Ledger

        ledger = Ledger.anew(self._shelf, DAMAGED) if damaged else Ledger.on(self._shelf)
        if ledger.renewed:
            say(f"the ledger was made anew: {ledger.renewed}; the log is read from its start")
        return ledger

    def caught_up_ledger(
        self,
        say: Callable[[str], object],
        progress: Callable[[int], object] = lambda _: None,
        *,
        partly: bool = False,
    ) -> "Ledger":
        """The ledger, caught up with the log; says when the log could not be read, or when a part of it was gone.

        `progress` is called with the number of events that have come so far. Raises Unavailable for the file, and for
        a log that has never been read whole, unless whoever asks can do with a part of it.
        """
        from agentq.ledger import Damaged

        try:
            return self._caught_up(self.ledger(say), say, progress, partly=partly)
        except Damaged:
            return self._caught_up(self.ledger(say, damaged=True), say, progress, partly=partly)

    def _caught_up(
        self, ledger: "Ledger", say: Callable[[str], object], progress: Callable[[int], object], *, partly: bool
    ) -> "Ledger":
        import asyncio

        from agentq.ledger import catch_up

        async def read() -> bool:
            async with self.engine() as engine:
                return await catch_up(ledger, engine, progress)

        try:
            if asyncio.run(read()):
                say("part of the log was gone before it was read (retention); to fill it in: agentq ledger rebuild")
        except EngineUnavailable as error:
            if not (partly or ledger.as_of):
                ledger.close()
                raise EngineUnavailable(f"the log cannot be read, and never was: {error}", hint=error.hint) from error
            as_of = f"{ledger.as_of:%Y-%m-%d %H:%M:%SZ}" if ledger.as_of else "an unknown time"
            say(f"the log cannot be read, this is as of {as_of} ({error})")
        return ledger
