"""Answers that are read from a store while they are sent."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import BinaryIO

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send


class Sending(StreamingResponse):
    """An answer in chunks of a stream, which is closed however the answer ends.

    Not by who makes the chunks alone: that one is never asked, or never again, when the client is gone.
    """

    def __init__(
        self,
        stream: BinaryIO,
        chunks: Iterator[bytes] | AsyncIterator[bytes],
        status_code: int,
        headers: Mapping[str, str],
        media_type: str | None = None,
    ) -> None:
        super().__init__(chunks, status_code, headers, media_type)
        self._stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await asyncio.to_thread(self._stream.close)
