"""procrastinate on psycopg."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from procrastinate import App, PsycopgConnector

from benchmarks.peer import Peer

__all__ = ["Procrastinate"]


class Procrastinate(Peer):
    """Ten at once; what is done stays in its table, as it has unless told."""

    def __init__(self, url: str, ran: Callable[[int], object]) -> None:
        super().__init__(url, ran)
        self.app = App(connector=PsycopgConnector(conninfo=url))

        @self.app.task(name="noop")
        async def noop(number: int, text: str) -> None:
            ran(number)

        self.noop = noop

    async def __aenter__(self) -> Procrastinate:
        await self.app.open_async()
        if not await self.app.check_connection_async():
            await self.app.schema_manager.apply_schema_async()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.app.close_async()

    async def enqueue(self, call: dict[str, Any]) -> None:
        await self.noop.defer_async(**call)

    async def enqueue_many(self, calls: list[dict[str, Any]]) -> None:
        await self.noop.batch_defer_async(*calls)

    @asynccontextmanager
    async def worker(self) -> AsyncIterator[None]:
        working = asyncio.create_task(
            self.app.run_worker_async(concurrency=10, install_signal_handlers=False)
        )
        try:
            yield
        finally:
            working.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await working
