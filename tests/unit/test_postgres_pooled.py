"""PostgreSQL behind a pooler that hands connections on after each transaction."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from pooler import pooler
from taskloom.outcomes import Delivery, Ending, Settlement
from taskloom.sql import SqlDatabase, SqlQueue, SqlStorage
from taskloom.task import Task, TaskStatus

PATIENCE = 20.0


def some(count: int) -> list[Task[int]]:
    return [Task(type="t", queue_id="q", payload=n) for n in range(count)]


@pytest.fixture
async def pooled_url(postgres_url: str) -> AsyncIterator[str]:
    """Three connections, for however many there are."""
    async with pooler(postgres_url, 3) as url:
        yield f"{url}?pgbouncer=transaction"


async def work_off(queue: SqlQueue, storage: SqlStorage) -> list[int]:
    ran: list[int] = []
    while held := await queue.claim("q", 7, lease=60):
        ours = [each for each in held if isinstance(each, Delivery)]
        ends = tuple(Ending(each, TaskStatus.EXECUTED, result=each.task.payload) for each in ours)
        assert await storage.settle(Settlement(endings=ends)) == []
        ran += [each.task.payload for each in ours]
    return ran


async def test_many_share_few_connections(pooled_url: str) -> None:
    databases = [SqlDatabase.from_url(pooled_url) for _ in range(4)]
    storages = [SqlStorage(database) for database in databases]
    await asyncio.gather(*(database.open() for database in databases))
    tasks = some(200)
    await asyncio.gather(*(each.add(tasks[n::4]) for n, each in enumerate(storages)))
    ran = await asyncio.gather(*(work_off(SqlQueue(each), each) for each in storages))
    assert sorted(n for each in ran for n in each) == list(range(200))
    assert await storages[0].counts() == {("q", TaskStatus.EXECUTED): 200}
    await asyncio.gather(*(database.close() for database in databases))


async def test_nothing_stays_prepared_on_a_connection(pooled_url: str) -> None:
    async with SqlDatabase.from_url(pooled_url) as database:
        storage = SqlStorage(database)
        await storage.add(some(10))
        await work_off(SqlQueue(storage), storage)
        left = "SELECT count(*) FROM pg_prepared_statements"
        found = [
            await database.read(lambda conn: conn.exec_driver_sql(left).scalar()) for _ in range(6)
        ]
    assert found == [0] * 6


async def test_who_cannot_be_told_looks_by_itself(pooled_url: str) -> None:
    async with SqlQueue.from_url(pooled_url) as queue, SqlQueue.from_url(pooled_url) as elsewhere:
        waiting = asyncio.create_task(queue.claim("q", 1, lease=60, wait=PATIENCE))
        await asyncio.wait([waiting], timeout=0.1)
        await elsewhere.put("q", some(1))
        async with asyncio.timeout(PATIENCE):
            assert len(await waiting) == 1


async def test_who_listens_elsewhere_is_told(
    pooled_url: str, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskloom.storage_queue.LOOK_EVERY", 3600.0)
    async with SqlQueue.from_url(postgres_url) as queue, SqlQueue.from_url(pooled_url) as pooled:
        waiting = asyncio.create_task(queue.claim("q", 1, lease=60, wait=3600))
        async with asyncio.timeout(PATIENCE):
            while not waiting.done():  # until the one is connected, nobody is told
                await pooled.put("q", some(1))
                await asyncio.wait([waiting], timeout=0.1)
