"""streaq, which needs a Redis of version 7 or later."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from streaq import Worker

from benchmarks.peer import Peer

__all__ = ["Streaq"]


class Streaq(Peer):
    """With JSON, without results, a hundred at once."""

    def __init__(self, url: str, ran: Callable[[int], object]) -> None:
        super().__init__(url, ran)
        self.app, self.noop = self._app()

    def _app(self) -> tuple[Worker[None], Any]:
        app: Worker[None] = Worker(
            self.url,
            concurrency=100,
            handle_signals=False,
            serializer=json.dumps,
            deserializer=json.loads,
        )

        @app.task(name="noop", ttl=0, silent=True)
        async def noop(number: int, text: str) -> None:
            self.ran(number)

        return app, noop

    async def __aenter__(self) -> Streaq:
        await self.app.__aenter__()
        return self

    async def __aexit__(self, *how: Any) -> None:
        await self.app.__aexit__(*how)

    async def enqueue(self, call: dict[str, Any]) -> None:
        await self.noop.enqueue(**call)

    async def enqueue_many(self, calls: list[dict[str, Any]]) -> None:
        await self.app.enqueue_many([self.noop.enqueue(**call) for call in calls])

    @asynccontextmanager
    async def worker(self) -> AsyncIterator[None]:
        app, _ = self._app()
        working = asyncio.create_task(app.run_async())
        try:
            yield
        finally:
            working.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await working
