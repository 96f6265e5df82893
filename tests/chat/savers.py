"""LangGraph's own checkpointers; those of PostgreSQL with TEST_POSTGRES=1 (`make test-all` says it)."""

import os
from contextlib import AsyncExitStack
from typing import Any

SAVERS = (
    "memory",
    "sqlite",
    "sqlite-async",
    *(("postgres", "postgres-async") if os.environ.get("TEST_POSTGRES") else ()),
)


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
