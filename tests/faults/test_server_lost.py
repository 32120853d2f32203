"""F9: the Redis of a queue comes back without its data, beside a storage that has kept its own."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from server_control import server

from taskloom import Loom, Task, TaskHandlerConfig, TaskLifecycleProvider
from taskloom.interfaces import Cache, TaskStorage
from taskloom.redis import RedisCache, RedisQueue, RedisServer, RedisStorage
from taskloom.sql import SqlCache, SqlStorage

STORED = 60
UNSTORED = 10
SLOTS = 4
"""Tasks that are running when the server goes away; the others wait."""


class Ended(TaskLifecycleProvider):
    """The ids of tasks that have succeeded."""

    def __init__(self) -> None:
        self.ids: set[str] = set()
        self.news = asyncio.Event()

    def on_task_completed(self, event: Any) -> None:
        self.ids.add(event.task_id)
        self.news.set()

    async def all_of(self, tasks: list[Task[Any]]) -> None:
        """Return once all of these have."""
        while not {task.id for task in tasks} <= self.ids:
            self.news.clear()
            await self.news.wait()


def _on_sqlite(directory: Path, redis_url: str) -> tuple[TaskStorage, Cache]:
    storage = SqlStorage.from_url(f"sqlite:///{directory}/tasks.db")
    return storage, SqlCache(storage.database)


def _on_another_redis(directory: Path, redis_url: str) -> tuple[TaskStorage, Cache]:
    other = RedisServer.from_url(f"{redis_url}?prefix={directory.name}")
    return RedisStorage(other), RedisCache(other)


@asynccontextmanager
async def working(loom: Loom) -> AsyncIterator[None]:
    stop = asyncio.Event()
    async with loom:
        worker = asyncio.create_task(loom.run_worker(stop=stop))
        yield
        stop.set()
        await worker


@pytest.mark.parametrize("parts", [_on_sqlite, _on_another_redis])
async def test_a_redis_that_comes_back_empty(
    tmp_path: Path, redis_url: str, parts: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """What the storage knows runs, new tasks run, and the log says that something was lost."""
    storage, cache = parts(tmp_path, redis_url)
    ended, gate, runs = Ended(), asyncio.Event(), Counter[int]()
    started = asyncio.Semaphore(0)
    config = TaskHandlerConfig(
        lease=2.0, mature_interval=0.2, stale_after=1.0, lifecycle_provider=ended
    )
    async with server("redis") as control:
        queue = RedisQueue.from_url(control.url)
        loom = Loom(None, queue=queue, storage=storage, cache=cache, config=config)

        @loom.task(queue="work", retries=0, concurrency=SLOTS)
        async def number(n: int) -> int:
            runs[n] += 1
            started.release()
            await gate.wait()
            return n

        async with working(loom):
            stored = await number.with_(force_store=True).enqueue_many(
                [(n,) for n in range(STORED)]
            )
            await number.enqueue_many([(n,) for n in range(STORED, STORED + UNSTORED)])
            for _ in range(SLOTS):
                await started.acquire()
            await control.come_back_empty()
            gate.set()
            await ended.all_of(stored)
            new = [await number.enqueue(-1)]
            await ended.all_of(new)
            found = await loom.get_tasks([task.id for task in stored])
        assert [task.execution_result for task in found] == list(range(STORED))
        assert runs[-1] == 1
        lost = [n for n in range(STORED, STORED + UNSTORED) if not runs[n]]
        assert lost, "the server had kept them: the test shows nothing"
    told = [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR]
    assert any("queue 'work' is gone from redis://" in text for text in told)
