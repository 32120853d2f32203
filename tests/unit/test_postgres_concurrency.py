"""PostgreSQL: several connections at the same rows at once. Each test runs real transactions.

Where locks cross, PostgreSQL gives one transaction up after a second and Taskloom runs it again:
right, but slow. `calm` sees to it that none had to be.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest

from taskloom.flows import FlowStep, FlowStepResult, new_flow, step_id
from taskloom.identity import new_id
from taskloom.outcomes import Delivery, Ending, Settlement
from taskloom.sql import SqlCache, SqlDatabase, SqlFlowBarrier, SqlQueue, SqlStorage
from taskloom.task import FailurePolicy, FlowJoin, Task, TaskStatus

Databases = list[SqlDatabase]


def some(count: int, queue_id: str = "q") -> list[Task[int]]:
    return [Task(type="t", queue_id=queue_id, payload=n, id=new_id()) for n in range(count)]


def shuffled(tasks: list[Any], seed: int) -> list[Any]:
    return random.Random(seed).sample(tasks, len(tasks))


@pytest.fixture
async def databases(postgres_url: str) -> AsyncIterator[Databases]:
    """The same database eight times: connections as those of eight processes."""
    opened = [SqlDatabase.from_url(postgres_url) for _ in range(8)]
    await asyncio.gather(*(database.open() for database in opened))
    yield opened
    await asyncio.gather(*(database.close() for database in opened))


@pytest.fixture
def calm(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """No transaction was given up for another one."""
    caplog.set_level(logging.DEBUG, "taskloom.sql")
    yield
    told = [each.getMessage() for each in caplog.get_records("call")]
    assert [each for each in told if "run again" in each] == []


async def held(storage: SqlStorage, limit: int, queue_id: str = "q") -> list[Delivery]:
    return await storage.claim_due(limit, lease=60, queue_id=queue_id)


def executed(deliveries: list[Delivery], **fields: Any) -> Settlement:
    return Settlement(tuple(Ending(each, TaskStatus.EXECUTED, **fields) for each in deliveries))


# Adding


@pytest.mark.usefixtures("calm")
async def test_what_eight_add_at_once_is_new_to_one_of_them(databases: Databases) -> None:
    storages = [SqlStorage(database) for database in databases]
    for _ in range(3):
        tasks = some(300)
        added = await asyncio.gather(
            *(storage.add(shuffled(tasks, seed)) for seed, storage in enumerate(storages))
        )
        assert Counter(task.id for new in added for task in new) == Counter(t.id for t in tasks)


async def test_tasks_due_at_once_come_in_the_order_in_which_they_were_added(
    databases: Databases,
) -> None:
    storage, at = SqlStorage(databases[0]), databases[0].now()
    tasks = [task.replace(execute_at=at) for task in shuffled(some(100), 1)]
    await storage.add(tasks)
    assert [each.task.id for each in await held(storage, 100)] == [task.id for task in tasks]


# Leases


async def waiting_for_locks(outside: Any, count: int) -> None:
    """Return when so many connections wait for somebody's lock."""
    query = (
        "SELECT count(*) FROM pg_stat_activity "
        "WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    async with asyncio.timeout(20):
        while True:
            await outside.execute("SELECT pg_stat_clear_snapshot()")  # else one a transaction
            if await outside.fetchval(query) >= count:
                return
            await asyncio.sleep(0.005)


@pytest.fixture
async def outside(postgres_url: str) -> AsyncIterator[Any]:
    conn = await asyncpg.connect(postgres_url)
    yield conn
    await conn.close()


_LOCK = "SELECT 1 FROM taskloom_tasks WHERE id = $1 FOR UPDATE"


@pytest.mark.usefixtures("calm")
async def test_leases_are_renewed_while_tasks_are_settled(
    databases: Databases, outside: Any
) -> None:
    one, two = SqlStorage(databases[0]), SqlStorage(databases[1])
    await one.add(some(30))
    mine = sorted(await held(one, 30), key=lambda each: each.task.id)
    settled = executed(mine[:15]).endings + executed(mine[25:], result="other").endings
    async with outside.transaction():
        await outside.execute(_LOCK, mine[20].task.id)
        renewal = asyncio.create_task(two.extend_leases(mine[::-1], 60))
        await waiting_for_locks(outside, 1)
        settle = asyncio.create_task(one.settle(Settlement(settled)))
        await waiting_for_locks(outside, 2)
    assert await renewal == []
    assert await settle == []


@pytest.mark.usefixtures("calm")
async def test_who_takes_a_task_over_waits_for_who_writes_to_it(
    databases: Databases, outside: Any
) -> None:
    """As a move to a queue does that is not committed yet, when the queue has the task already."""
    storage, tasks = SqlStorage(databases[0]), some(30)
    await storage.add(tasks)
    wanted = [task.id for task in shuffled(tasks, 1)]
    async with outside.transaction():
        await outside.execute(_LOCK, tasks[20].id)
        taking = asyncio.create_task(storage.take_over(wanted, lease=60))
        await waiting_for_locks(outside, 1)
    assert [each.task.id for each in await taking] == wanted


async def test_cancelled_or_claimed_but_never_both(databases: Databases) -> None:
    storages = [SqlStorage(database) for database in databases]
    tasks = some(400)
    await storages[0].add(tasks)
    ids = [task.id for task in tasks]

    async def cancel(storage: SqlStorage, seed: int) -> set[str]:
        wanted = shuffled(ids, seed)[:200]
        plan = Settlement(cancelled=tuple(wanted), reason="enough")
        return set(wanted) - set(await storage.settle(plan))

    *taken, first, second = await asyncio.gather(
        *(held(storage, 40) for storage in storages[:6]),
        *(cancel(storage, seed) for seed, storage in enumerate(storages[6:])),
    )
    claimed = [each for mine in taken for each in mine]
    assert not first & second
    ran = Counter(each.task.id for each in claimed)
    assert set(ran.values()) == {1}
    assert not ran.keys() & (first | second)
    assert await storages[0].settle(executed(claimed)) == []
    counts = await storages[0].counts()
    assert counts["q", TaskStatus.EXECUTED] == len(claimed)
    assert counts["q", TaskStatus.CANCELLED] == len(first | second)


async def test_upkeep_leaves_what_another_transaction_holds(
    databases: Databases, outside: Any
) -> None:
    storage = SqlStorage(databases[0])
    await storage.add(some(3))
    busy, *others = await storage.claim_due(3, lease=0.0)
    now = databases[0].now()
    async with outside.transaction(), asyncio.timeout(10):
        await outside.execute(_LOCK, busy.task.id)
        assert await storage.recover_stale(now=now, stale_after=60) == len(others)
    assert await storage.recover_stale(now=now, stale_after=60) == 1


# Flows


def flow_of(steps: int, policy: FailurePolicy = "continue") -> tuple[Any, list[Task[Any]]]:
    each = [FlowStep("step", "steps", number) for number in range(steps)]
    join, now = FlowJoin("join", "joins"), datetime.now(UTC)
    return new_flow(new_id(), each, join, failure_policy=policy, now=now)


def last_words(mine: list[Delivery], status: Any = "success") -> Settlement:
    return Settlement(
        tuple(
            Ending(
                each,
                TaskStatus.EXECUTED if status == "success" else TaskStatus.FAILED,
                step=FlowStepResult(each.task.metadata.flow.step_index, status),
            )
            for each in mine
            if each.task.metadata.flow is not None
        )
    )


@pytest.mark.usefixtures("calm")
async def test_last_steps_settled_at_once_make_one_join_each(databases: Databases) -> None:
    barriers = [SqlFlowBarrier(SqlStorage(database)) for database in databases]
    made = [flow_of(8) for _ in range(25)]
    steps = [step for _, tasks in made for step in tasks]
    await barriers[0].settle(Settlement(added=tuple(steps), flows=tuple(flow for flow, _ in made)))
    mine: list[list[Delivery]] = [[] for _ in barriers]
    for each in await held(barriers[0].storage, 200, "steps"):
        assert each.task.metadata.flow is not None
        mine[each.task.metadata.flow.step_index].append(each)
    settled = await asyncio.gather(
        *(barrier.settle(last_words(shuffled(mine[n], n))) for n, barrier in enumerate(barriers))
    )
    joined = Counter(each.record.flow.flow_id for one in settled for each in one.news)
    assert joined == Counter(flow.flow_id for flow, _ in made)
    joins = await held(barriers[0].storage, 200, "joins")
    assert [len(each.task.payload["flow_results"]["steps"]) for each in joins] == [8] * 25


async def test_failures_of_one_flow_abort_it_once(databases: Databases) -> None:
    barriers = [SqlFlowBarrier(SqlStorage(database)) for database in databases]
    for _ in range(5):
        flow, steps = flow_of(12, "abort")
        await barriers[0].settle(Settlement(added=tuple(steps), flows=(flow,)))
        mine = await held(barriers[0].storage, 8, "steps")
        settled = await asyncio.gather(
            *(
                barrier.settle(last_words([each], "fail"))
                for barrier, each in zip(barriers, mine, strict=True)
            )
        )
        (news,) = [each for one in settled for each in one.news]
        assert sorted(news.cancelled) == sorted(step_id(flow.flow_id, n) for n in range(8, 12))
        assert len(await held(barriers[0].storage, 8, "joins")) == 1


# The cache


@pytest.mark.usefixtures("calm")
async def test_a_lock_is_with_one_of_those_who_ask_at_once(databases: Databases) -> None:
    caches = [SqlCache(database) for database in databases]
    keys = [f"key-{n}" for n in range(100)]
    for _ in range(5):
        owned = await asyncio.gather(
            *(
                cache.acquire_many(shuffled(keys, n), f"owner-{n}", 60)
                for n, cache in enumerate(caches)
            )
        )
        assert Counter(key for mine in owned for key in mine) == Counter(keys)
        await asyncio.gather(
            *(
                cache.release_many(shuffled(keys, n + 50), f"owner-{n}")
                for n, cache in enumerate(caches)
            )
        )


@pytest.mark.usefixtures("calm")
async def test_locks_that_are_over_are_taken_by_one_each(databases: Databases) -> None:
    caches = [SqlCache(database) for database in databases]
    for turn in range(2):
        keys = [f"key-{turn}-{n}" for n in range(300)]
        await caches[0].acquire_many(keys, "gone", 0.0)
        owned = await asyncio.gather(
            *(
                cache.acquire_many(shuffled(keys, n), f"owner-{n}", 60)
                for n, cache in enumerate(caches)
            )
        )
        assert Counter(key for mine in owned for key in mine) == Counter(keys)


async def test_every_increment_counts(databases: Databases) -> None:
    caches = [SqlCache(database) for database in databases]
    sums = await asyncio.gather(*(cache.incr("n") for cache in caches for _ in range(5)))
    assert sorted(sums) == list(range(1, 41))


# Several workers


async def test_each_task_goes_to_one_of_eight(databases: Databases) -> None:
    queues = [SqlQueue(SqlStorage(database)) for database in databases]
    tasks = some(600)
    await queues[0].put("q", tasks)

    async def work_off(queue: SqlQueue) -> list[str]:
        ran: list[str] = []
        while mine := await held(queue.storage, 9):
            assert await queue.storage.settle(executed(mine)) == []
            ran += [each.task.id for each in mine]
        return ran

    ran = await asyncio.gather(*(work_off(queue) for queue in queues))
    assert Counter(id for mine in ran for id in mine) == Counter(task.id for task in tasks)
