"""dramatiq's RedisBroker with its default middleware."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from benchmarks.peer import Peer

__all__ = ["Dramatiq"]


class Dramatiq(Peer):
    """Eight threads, as its command line has unless told."""

    def __init__(self, url: str, ran: Callable[[int], object]) -> None:
        super().__init__(url, ran)
        self.broker = RedisBroker(url=url)
        counting = threading.Lock()  # its workers are threads, the tally belongs to one

        @dramatiq.actor(broker=self.broker)
        def noop(number: int, text: str) -> None:
            with counting:
                ran(number)

        self.noop = noop

    async def enqueue(self, call: dict[str, Any]) -> None:
        self.noop.send(**call)

    @asynccontextmanager
    async def worker(self) -> AsyncIterator[None]:
        worker = dramatiq.Worker(self.broker, worker_threads=8)
        worker.start()
        try:
            yield
        finally:
            worker.stop()
