"""Fixtures: LangGraph's own checkpointers, those of PostgreSQL with TEST_POSTGRES=1 (`make test-all` says it)."""

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.chat.postgres import Cluster, cluster

SAVERS = (
    "memory",
    "sqlite",
    "sqlite-async",
    *(("postgres", "postgres-async") if os.environ.get("TEST_POSTGRES") else ()),
)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Cluster]:
    """A PostgreSQL for the whole session."""
    with cluster() as running:
        yield running


@pytest.fixture(params=SAVERS)
async def saver(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Any]:
    """Each checkpointer in turn, with nothing in it."""
    place = str(tmp_path / "chat.sqlite")
    if request.param.startswith("postgres"):
        place = request.getfixturevalue("postgres").database()
    async with AsyncExitStack() as stack:
        yield await open_saver(request.param, place, stack)


async def open_saver(kind: str, place: str, stack: AsyncExitStack) -> Any:
    """A checkpointer over a file, or a database by its URL."""
    if kind == "memory":
        from langgraph.checkpoint.memory import InMemorySaver

        return InMemorySaver()
    if kind == "sqlite":
        from langgraph.checkpoint.sqlite import SqliteSaver

        return stack.enter_context(SqliteSaver.from_conn_string(place))
    if kind == "sqlite-async":
        from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

        return await stack.enter_async_context(AsyncSqliteSaver.from_conn_string(place))
    if kind == "postgres":
        from langgraph.checkpoint.postgres import PostgresSaver

        saver = stack.enter_context(PostgresSaver.from_conn_string(place))
        saver.setup()
        return saver
    from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver

    async_saver = await stack.enter_async_context(AsyncPostgresSaver.from_conn_string(place))
    await async_saver.setup()
    return async_saver
