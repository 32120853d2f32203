"""huey's RedisHuey with a consumer of four worker threads."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from huey import RedisHuey  # type: ignore[import-untyped,import-not-found,unused-ignore]

from benchmarks.peer import Peer

__all__ = ["Huey"]


class Huey(Peer):
    """Without results."""

    def __init__(self, url: str, ran: Callable[[int], object]) -> None:
        super().__init__(url, ran)
        self.huey = RedisHuey("bench", url=url, results=False)
        counting = threading.Lock()  # its workers are threads, the tally belongs to one

        @self.huey.task()  # type: ignore[untyped-decorator,unused-ignore]
        def noop(number: int, text: str) -> None:
            with counting:
                ran(number)

        self.noop = noop

    async def enqueue(self, call: dict[str, Any]) -> None:
        self.noop(**call)

    @asynccontextmanager
    async def worker(self) -> AsyncIterator[None]:
        consumer = self.huey.create_consumer(workers=4)
        consumer.start()
        try:
            yield
        finally:
            consumer.stop(graceful=True)
