"""arq, which runs in an environment of its own (`apart.py`)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from arq import Worker, create_pool, func
from arq.connections import ArqRedis, RedisSettings

from benchmarks.peer import Peer

__all__ = ["Arq"]

_POLL = 0.01
"""Seconds between two looks; its default is half a second."""


class Arq(Peer):
    """A hundred at once, and no results."""

    pool: ArqRedis

    def __init__(self, url: str, ran: Callable[[int], object]) -> None:
        super().__init__(url, ran)
        self.settings = RedisSettings.from_dsn(url)

    async def __aenter__(self) -> Arq:
        self.pool = await create_pool(self.settings)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.pool.aclose()

    async def enqueue(self, call: dict[str, Any]) -> None:
        await self.pool.enqueue_job("noop", **call)

    @asynccontextmanager
    async def worker(self) -> AsyncIterator[None]:
        async def noop(_: dict[Any, Any], number: int, text: str) -> None:
            self.ran(number)

        worker = Worker(
            [func(noop, name="noop", keep_result=0)],
            redis_settings=self.settings,
            max_jobs=100,
            poll_delay=_POLL,
            keep_result=0,
            handle_signals=False,
        )
        running = asyncio.create_task(worker.async_run())
        try:
            yield
        finally:
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running
            with contextlib.suppress(asyncio.CancelledError):
                await worker.close()  # cancels what is still being written, and says so
