"""One turn with the executor: `python talk.py THREAD WORDS…`; without words what was said last in the thread."""

import asyncio
import sys

from executor import graph
from langchain_core.messages import AIMessage


async def talk(thread: str, words: str) -> None:
    """Say something in a thread, and print the answer."""
    async with graph() as executor:
        config = {"configurable": {"thread_id": thread}}
        if words:
            await executor.ainvoke({"messages": [("user", words)]}, config)
        state = await executor.aget_state(config)
        messages = state.values.get("messages", [])
        said = [message.text for message in messages if isinstance(message, AIMessage) and message.text]
        print(said[-1] if said else "(nothing was said here yet)")


if __name__ == "__main__":
    asyncio.run(talk(sys.argv[1], " ".join(sys.argv[2:])))
