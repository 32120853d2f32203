"""What SqlStorage does for many tasks in one piece, where they are not all alike."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection

from taskloom.outcomes import Delivery, Ending, Settlement
from taskloom.sql import SqlStorage
from taskloom.sql.sqlite import raw
from taskloom.task import Task, TaskStatus


@pytest.fixture
async def storage(tmp_path: Path) -> AsyncIterator[SqlStorage]:
    async with SqlStorage.from_url(f"sqlite:///{tmp_path}/tasks.db") as storage:
        yield storage


def some(count: int, *, size: int = 1, **fields: Any) -> list[Task[str]]:
    return [Task(type="t", queue_id="q", payload="x" * size, **fields) for _ in range(count)]


def ids(tasks: list[Task[Any]]) -> list[str]:
    return [task.id for task in tasks]


def alike(deliveries: list[Delivery]) -> Settlement:
    return Settlement(tuple(Ending(each, TaskStatus.EXECUTED, result=1) for each in deliveries))


async def test_known_ids_among_many_new_ones_are_not_new(storage: SqlStorage) -> None:
    known, new = some(30), some(225)
    await storage.add(known)
    mixed = [*new[:100], *known, *new[100:], *new[:5]]
    assert ids(await storage.add(mixed)) == ids(new)
    assert await storage.add(mixed) == []
    assert await storage.counts() == {("q", TaskStatus.SCHEDULED): 255}


async def test_of_many_endings_alike_those_of_lost_leases_are_refused(storage: SqlStorage) -> None:
    tasks = some(40)
    await storage.add(tasks)
    late = await storage.claim_due(40, lease=60)
    taken = await storage.take_over(ids(tasks[5:20]), lease=60)
    assert await storage.settle(alike(late)) == ids(tasks[5:20])
    counts = {("q", TaskStatus.EXECUTED): 25, ("q", TaskStatus.PROCESSING): 15}
    assert await storage.counts() == counts
    assert await storage.settle(alike(taken)) == []
    assert await storage.settle(alike(late)) == ids(tasks[5:20])  # the others: said again
    other = tuple(Ending(each, TaskStatus.FAILED) for each in late)
    assert await storage.settle(Settlement(other)) == ids(tasks)
    assert await storage.counts() == {("q", TaskStatus.EXECUTED): 40}


async def test_endings_alike_keep_results_and_stats_apart(storage: SqlStorage) -> None:
    await storage.add(some(60))
    held = await storage.claim_due(60, lease=60)
    endings = tuple(
        Ending(each, TaskStatus.EXECUTED, result=n % 3, stats={"n": n % 2} if n < 40 else None)
        for n, each in enumerate(held)
    )
    assert await storage.settle(Settlement(endings)) == []
    found = await storage.get([each.task.id for each in held])
    assert [task.execution_result for task in found] == [n % 3 for n in range(60)]
    stats = [{"n": n % 2} if n < 40 else {} for n in range(60)]
    assert [task.execution_stats for task in found] == stats


async def test_tasks_too_big_together_are_claimed_in_part(storage: SqlStorage) -> None:
    def shrink(conn: Connection) -> None:
        raw(conn).setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 100_000)

    tasks = some(20, size=20_000)
    await storage.add(tasks)
    await storage.database.write(shrink)
    found: list[Delivery] = []
    while more := await storage.claim_due(20, lease=60):
        assert len(more) < 5
        found += more
    assert [each.task for each in found] == await storage.get(ids(tasks))
    taken = await storage.take_over(ids(tasks), lease=60)
    assert [each.task.id for each in taken] == ids(tasks)


async def test_lapsed_leases_keep_their_places(storage: SqlStorage) -> None:
    first = datetime.now(UTC) - timedelta(hours=1)
    times = [first + timedelta(seconds=n) for n in (2, 0, 3, 1)]
    tasks = [some(1, execute_at=at)[0] for at in times]
    await storage.add(tasks)
    order = [tasks[n].id for n in (1, 3, 0, 2)]
    for _ in range(3):
        assert [each.task.id for each in await storage.claim_due(9, lease=0)] == order


async def test_an_id_that_is_no_text_does_not_stop_the_others(storage: SqlStorage) -> None:
    tasks = some(3)
    await storage.add(tasks)

    def spoil(conn: Connection) -> None:
        damage = "UPDATE taskloom_tasks SET id = x'ff00' WHERE id = ?"
        conn.exec_driver_sql(damage, (tasks[1].id,))

    await storage.database.write(spoil)
    claimed = await storage.claim_due(9, lease=60)
    assert [each.task.id for each in claimed] == [tasks[0].id, tasks[2].id]
    assert len(await storage.dead_records()) == 1


async def test_a_cancelled_claim_gives_back_what_it_took(storage: SqlStorage) -> None:
    await storage.add(some(50))
    for _ in range(20):
        claim = asyncio.create_task(storage.claim_due(50, lease=600))
        await asyncio.sleep(0)
        claim.cancel()
        assert isinstance((await asyncio.gather(claim, return_exceptions=True))[0], BaseException)
    taken = await storage.claim_due(50, lease=600)
    assert [each.delivery_count for each in taken] == [1] * 50
