"""taskiq-redis under the receiver of `taskiq worker`, without a result backend."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

from taskiq import AsyncBroker
from taskiq.receiver import Receiver
from taskiq_redis import ListQueueBroker, RedisStreamBroker

from benchmarks.peer import Peer

__all__ = ["List", "Stream"]

_AT_ONCE = 100
"""What its command line has unless told."""
_LAST_WORDS = 1.0
"""Seconds for acknowledgements under way: cancelled among them, its receiver never ends."""


class _Taskiq(Peer):
    uvloop = True

    def __init__(self, url: str, ran: Callable[[int], object]) -> None:
        super().__init__(url, ran)
        self.broker = self.make_broker()

        @self.broker.task(task_name="noop")
        async def noop(number: int, text: str) -> None:
            ran(number)

        self.noop = noop

    def make_broker(self) -> AsyncBroker:
        raise NotImplementedError

    async def __aenter__(self) -> _Taskiq:
        await self.broker.startup()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.broker.shutdown()

    async def enqueue(self, call: dict[str, Any]) -> None:
        await self.noop.kiq(**call)

    @asynccontextmanager
    async def worker(self) -> AsyncIterator[None]:
        with ThreadPoolExecutor(1) as executor:
            receiver = Receiver(
                self.broker,
                executor,
                run_startup=False,
                max_async_tasks=_AT_ONCE,
                max_prefetch=_AT_ONCE,
            )
            listening = asyncio.create_task(receiver.listen(asyncio.Event()))
            try:
                yield
            finally:
                await asyncio.sleep(_LAST_WORDS)
                listening.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await listening


class Stream(_Taskiq):
    """The broker that acknowledges, which reads 100 at a time."""

    def make_broker(self) -> AsyncBroker:
        # From the start of the stream: what is filled before a worker comes is to be run, too.
        return RedisStreamBroker(self.url, consumer_id="0")


class List(_Taskiq):
    """The broker that asks Redis for less: what a worker holds when it dies is lost."""

    def make_broker(self) -> AsyncBroker:
        return ListQueueBroker(self.url)
