"""Tasks carried by Redis and remembered in SQL: the two in one Loom."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from redis_server import free_port, redis_server
from taskloom import FlowResults, Loom, Task, TaskHandlerConfig, TaskStatus, flow_results
from taskloom.identity import new_id
from taskloom.redis import RedisCache, RedisQueue, RedisServer
from taskloom.sql import SqlDatabase, SqlFlowBarrier, SqlStorage

PATIENCE = 20.0


def mixed(redis_url: str, file: Path, prefix: str = "") -> Loom:
    server = RedisServer.from_url(redis_url, prefix=prefix or f"test-{new_id()}")
    storage = SqlStorage(SqlDatabase.from_url(f"sqlite:///{file}"))
    return Loom(
        queue=RedisQueue(server),
        storage=storage,
        cache=RedisCache(server),
        flow_barrier=SqlFlowBarrier(storage),
        config=TaskHandlerConfig(mature_interval=0.1),
    )


@asynccontextmanager
async def at_work(loom: Loom) -> AsyncIterator[None]:
    stop = asyncio.Event()
    work = asyncio.create_task(loom.run_worker(stop=stop))
    try:
        yield
    finally:
        stop.set()
        async with asyncio.timeout(PATIENCE):
            await work


class Echo:
    """Runs whatever comes; `seen` has each payload once it ran."""

    def __init__(self, loom: Loom) -> None:
        self.seen: asyncio.Queue[Any] = asyncio.Queue()

        @loom.task(type="echo", queue="q")
        async def echo(value: int) -> int:
            self.seen.put_nowait(value)
            return value

        @loom.task(type="retried", queue="q", retries=1)
        async def retried(value: int, task: Task[Any]) -> int:
            if task.retry_count == 0:
                raise ValueError("the first time")
            self.seen.put_nowait(value)
            return value

        @loom.task(type="join", queue="q")
        async def join(flow_results: Any, task: Task[Any]) -> None:
            self.seen.put_nowait(results_of(task))

        self.echo, self.retried, self.join = echo, retried, join

    async def next(self) -> Any:
        async with asyncio.timeout(PATIENCE):
            return await self.seen.get()


def results_of(task: Task[Any]) -> list[Any]:
    found: FlowResults = flow_results(task)
    return [step.result for step in found.steps]


async def ended(loom: Loom, task: Task[Any]) -> None:
    """Wait until the storage has its result."""
    async with asyncio.timeout(PATIENCE):
        while True:  # the storage tells nobody
            (stored,) = await loom.get_tasks([task.id]) or [task]
            if stored.status is TaskStatus.EXECUTED:
                return
            await asyncio.sleep(0.02)


async def test_stored_late_retried_tasks_and_flows_run(redis_url: str, tmp_path: Path) -> None:
    loom = mixed(redis_url, tmp_path / "tasks.db")
    echo = Echo(loom)
    async with loom:
        stored = await echo.echo.with_(force_store=True).enqueue(1)
        await echo.echo.with_(delay=0.2).enqueue(2)
        await echo.retried.with_(retry_after=0.1, force_store=True).enqueue(3)
        await loom.start_flow([echo.echo.step(4), echo.echo.step(5)], join=echo.join.join())
        async with at_work(loom):
            seen = [await echo.next() for _ in range(6)]
            await ended(loom, stored)
    assert sorted(each for each in seen if isinstance(each, int)) == [1, 2, 3, 4, 5]
    assert [4, 5] in seen


async def test_what_the_storage_knows_runs_although_redis_came_back_empty(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    port = free_port()
    first = mixed(f"redis://127.0.0.1:{port}/0", tmp_path / "tasks.db", "shop")
    stored = []
    with redis_server(tmp_path, port):
        echo = Echo(first)
        async with first:
            stored = [await echo.echo.with_(force_store=True).enqueue(n) for n in range(3)]
    second = mixed(f"redis://127.0.0.1:{port}/0", tmp_path / "tasks.db", "shop")
    with redis_server(tmp_path, port):
        echo = Echo(second)
        async with second, at_work(second):
            assert sorted([await echo.next() for _ in stored]) == [0, 1, 2]
            for task in stored:
                await ended(second, task)
            assert echo.seen.empty()
    (said,) = [each for each in caplog.messages if "stored tasks go to it again" in each]
    assert "queue 'q'" in said
    assert "3 stored tasks" in said


async def test_a_loss_under_a_worker_at_work_is_mended(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    port = free_port()
    loom = mixed(f"redis://127.0.0.1:{port}/0", tmp_path / "tasks.db")
    echo = Echo(loom)
    producer = mixed(f"redis://127.0.0.1:{port}/0", tmp_path / "tasks.db", loom_prefix(loom))
    with redis_server(tmp_path, port):
        await loom.__aenter__()
        await echo.echo.enqueue(0)
        async with at_work(loom):
            assert await echo.next() == 0
        async with producer:
            lost = await Echo(producer).echo.with_(force_store=True).enqueue(1)
    with redis_server(tmp_path, port):
        async with at_work(loom):
            assert await echo.next() == 1
            await ended(loom, lost)
        await loom.__aexit__(None, None, None)
    assert any("is gone from" in each for each in caplog.messages)


def loom_prefix(loom: Loom) -> str:
    queue = loom.handler.message_queue
    assert isinstance(queue, RedisQueue)
    return queue.server.keys.prefix
