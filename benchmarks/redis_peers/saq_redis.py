"""saq on Redis, which runs in an environment of its own (`apart.py`)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from saq import Queue, Worker

from benchmarks.peer import Peer

__all__ = ["Saq"]

_NO_RESULT = -1
"""Seconds that a result is kept: it goes with its job."""


class Saq(Peer):
    """Ten at once, as it has unless told, and no results."""

    def __init__(self, url: str, ran: Callable[[int], object]) -> None:
        super().__init__(url, ran)
        self.queue = Queue.from_url(url)

    async def __aenter__(self) -> Saq:
        await self.queue.connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.queue.disconnect()

    async def enqueue(self, call: dict[str, Any]) -> None:
        await self.queue.enqueue("noop", ttl=_NO_RESULT, **call)

    @asynccontextmanager
    async def worker(self) -> AsyncIterator[None]:
        async def noop(_: Any, *, number: int, text: str) -> None:
            self.ran(number)

        worker = Worker(self.queue, [("noop", noop)], concurrency=10)
        working = asyncio.create_task(worker.start())
        try:
            yield
        finally:
            await worker.stop()
            await working
