"""SPEC 7.1-7.3: mature tasks, recovery, retention."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest

from harness import (
    QUEUE,
    TYPE,
    Engines,
    Parts,
    Runs,
    make_task,
    parallel,
    serving,
    single,
)
from taskloom import (
    Clock,
    QueueUnavailableError,
    Retention,
    StorageUnavailableError,
    Task,
    TaskHandler,
    TaskStatus,
    UnavailableError,
)
from taskloom.memory import InMemoryCache

LOCK = "taskloom_mature_lock"


async def _later(engines: Engines, count: int = 1, hours: float = 1) -> list[Task[Any]]:
    """Tasks that wait in the storage."""
    due = engines.clock.now() + timedelta(hours=hours)
    tasks = [make_task(n, execute_at=due) for n in range(count)]
    return await engines.handler().add_tasks(tasks)


# 7.1 moving


async def test_7_1_due_tasks_move_from_storage_to_their_queue_as_queued(memory: Engines) -> None:
    (task,) = await _later(memory)
    handler = memory.handler()
    assert await handler.move_mature_tasks() == 0
    await memory.pass_time(3601)
    assert await handler.move_mature_tasks() == 1
    assert await memory.status(task) is TaskStatus.QUEUED
    assert await memory.queue.depth(QUEUE) == 1
    assert await handler.move_mature_tasks() == 0


@pytest.mark.parametrize("still", ["sqlite", "postgresql"], indirect=True)
async def test_7_1_where_the_storage_is_the_queue_nothing_needs_to_move(still: Engines) -> None:
    runs = Runs()
    handler = still.handler({TYPE: single(runs)})
    await _later(still)
    await still.pass_time(3601)
    assert await handler.move_mature_tasks() == 0
    assert (await handler.process_batch(QUEUE)).succeeded == 1


async def test_7_1_a_worker_moves_them_every_mature_interval(memory: Engines) -> None:
    parts, runs = memory.meddled(), Runs()
    await _later(memory)
    handler = memory.handler({TYPE: single(runs)}, parts=parts, mature_interval=7)
    async with serving(handler):
        await memory.pass_time(69)
        assert 9 <= len(parts.names("storage.recover_stale")) <= 10
        assert runs == []
        await memory.pass_time(3600)
        await runs.reach(1)


async def test_7_1_process_mature_tasks_is_the_loop_alone(memory: Engines) -> None:
    runs, stop = Runs(), asyncio.Event()
    (task,) = await _later(memory)
    handler = memory.handler({TYPE: single(runs)}, mature_interval=5)
    loop = asyncio.create_task(handler.process_mature_tasks(stop))
    await memory.pass_time(3610)
    assert await memory.status(task) is TaskStatus.QUEUED
    stop.set()
    await loop
    assert runs == []


async def test_7_1_the_loop_survives_an_outage(memory: Engines) -> None:
    parts, runs = memory.meddled(), Runs()
    parts.fail("storage.recover_stale", times=3)
    parts.fail("cache.acquire_many", times=2)
    await _later(memory)
    async with serving(memory.handler({TYPE: single(runs)}, parts=parts)):
        await memory.pass_time(3700)
        await runs.reach(1)


async def test_7_1_one_worker_at_a_time_by_a_lock_of_20_seconds(still: Engines) -> None:
    parts = still.meddled()
    handler = still.handler(parts=parts)
    assert await still.cache.acquire_many([LOCK], "another worker", 20) == {LOCK}
    assert await handler.move_mature_tasks() == 0
    assert "storage.recover_stale" not in parts.names()
    await still.cache.release_many([LOCK], "another worker")
    await handler.move_mature_tasks()
    locks = [args for name, args, _ in parts.calls if name == "cache.acquire_many"]
    assert locks[-1] == ([LOCK], handler.worker_id, 20.0)
    assert await still.cache.acquire_many([LOCK], "another worker", 20) == {LOCK}


async def test_7_1_the_lock_is_free_again_when_a_pass_failed(still: Engines) -> None:
    parts = still.meddled()
    parts.fail("storage.recover_stale")
    with pytest.raises(StorageUnavailableError):
        await still.handler(parts=parts).move_mature_tasks()
    assert await still.cache.acquire_many([LOCK], "another worker", 20) == {LOCK}


async def test_7_1_a_worker_that_stops_while_it_gives_the_lock_up_still_does(
    memory: Engines,
) -> None:
    parts = memory.meddled()
    gate = parts.hold("cache.release_many")
    upkeep = asyncio.create_task(memory.handler(parts=parts).process_mature_tasks(asyncio.Event()))
    await gate.reached.wait()
    upkeep.cancel()
    await asyncio.sleep(0)
    gate.open.set()
    await asyncio.wait([upkeep])
    assert upkeep.cancelled()
    assert await memory.cache.acquire_many([LOCK], "another", 1.0) == {LOCK}


class _DoesItLater(InMemoryCache):
    """A server that does what it was asked for when `go` is set, whatever became of who asked."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.asked, self.go = asyncio.Event(), asyncio.Event()

    async def acquire_many(self, keys: Sequence[str], owner: str, ttl: float) -> set[str]:
        return await asyncio.shield(asyncio.create_task(self._later(keys, owner, ttl)))

    async def _later(self, keys: Sequence[str], owner: str, ttl: float) -> set[str]:
        self.asked.set()
        await self.go.wait()
        return await super().acquire_many(keys, owner, ttl)


async def test_7_1_a_worker_that_stops_while_it_takes_the_lock_gives_it_up(
    memory: Engines,
) -> None:
    async with _DoesItLater(memory.clock) as cache:
        parts = Parts(memory.queue, memory.storage, cache)
        upkeep = asyncio.create_task(
            memory.handler(parts=parts).process_mature_tasks(asyncio.Event())
        )
        await cache.asked.wait()
        upkeep.cancel()
        for _ in range(20):  # time enough to give up what it does not have yet
            await asyncio.sleep(0)
        cache.go.set()
        await asyncio.wait([upkeep])
        assert upkeep.cancelled()
        assert await cache.acquire_many([LOCK], "another", 1.0) == {LOCK}


async def test_7_1_no_task_is_moved_twice_by_two_workers_without_a_lock(memory: Engines) -> None:
    tasks = await _later(memory, 300)
    await memory.pass_time(3601)
    parts = memory.meddled()
    apart = [memory.handler(parts=parts) for _ in range(4)]
    moved = await asyncio.gather(*(_without_lock(memory, each) for each in apart))
    put = [task.id for name, args, _ in parts.calls if name == "queue.put" for task in args[1]]
    assert sum(moved) == 300
    assert sorted(put) == sorted(task.id for task in tasks)


async def _without_lock(engines: Engines, handler: TaskHandler) -> int:
    """A pass, whatever holds the lock."""
    while not (moved := await handler.move_mature_tasks()):
        await engines.cache.delete(LOCK)
        if not (await engines.storage.counts()).get((QUEUE, TaskStatus.SCHEDULED)):
            return 0
    return moved


@pytest.mark.parametrize("done", [False, True])
@pytest.mark.parametrize("call", ["queue.put", "storage.settle"])
async def test_7_1_a_move_broken_between_its_writes_loses_and_doubles_nothing(
    memory: Engines, call: str, done: bool
) -> None:
    parts, runs = memory.meddled(), Runs()
    (task,) = await _later(memory)
    await memory.pass_time(3601)
    handler = memory.handler({TYPE: single(runs)}, parts=parts)
    (parts.fail_after if done else parts.fail)(call)
    with contextlib.suppress(UnavailableError):
        await handler.move_mature_tasks()
    await handler.drain(10)
    await memory.pass_time(60)
    await handler.drain(10)
    assert len(runs) == 1
    assert await memory.status(task) is TaskStatus.EXECUTED


async def test_7_1_tasks_move_in_bounded_batches(memory: Engines) -> None:
    parts = memory.meddled()
    await _later(memory, 2500)
    await memory.pass_time(3601)
    assert await memory.handler(parts=parts).move_mature_tasks() == 2500
    sizes = [len(args[1]) for name, args, _ in parts.calls if name == "queue.put"]
    assert (sum(sizes), max(sizes) <= 1000) == (2500, True)


@pytest.mark.usefixtures("no_polls")
async def test_7_1_an_idle_queue_is_woken_when_its_next_task_is_due(engines: Engines) -> None:
    parts, runs = engines.meddled(), Runs()
    handler = engines.handler({TYPE: single(runs)}, parts=parts)
    async with serving(handler):
        await parts.called("queue.claim", 2)
        due = engines.clock.now() + timedelta(seconds=0.2)
        await handler.add_tasks([make_task(execute_at=due)])
        await runs.reach(1)
        assert engines.clock.now() >= due


async def test_7_1_a_stored_task_starts_within_a_mature_interval_of_its_time(
    memory: Engines,
) -> None:
    runs = Runs()
    handler = memory.handler({TYPE: single(runs)}, storage_horizon=1, mature_interval=5)
    async with serving(handler):
        await memory.pass_time(0.1)
        due = memory.clock.now() + timedelta(seconds=12)
        await handler.add_tasks([make_task(execute_at=due)])
        await memory.pass_time(11.9)
        assert runs == []
        await memory.pass_time(5.1)
        assert len(runs) == 1


# 7.2 recovery


@pytest.mark.parametrize("still", ["sqlite", "postgresql"], indirect=True)
async def test_7_2_processing_with_a_lease_that_ran_out_becomes_scheduled(still: Engines) -> None:
    (task,) = await still.handler().add_tasks([make_task()])
    await still.queue.claim(QUEUE, 1, lease=5)
    await still.pass_time(4)
    await still.handler().move_mature_tasks()
    assert await still.status(task) is TaskStatus.PROCESSING
    await still.pass_time(2)
    await still.handler().move_mature_tasks()
    assert await still.status(task) is TaskStatus.SCHEDULED


async def test_7_2_queued_older_than_stale_after_is_driven_again(memory: Engines) -> None:
    parts, runs = memory.meddled(), Runs()
    parts.fail("queue.put")
    parts.fail("storage.settle")  # nor could it be noted: the queue has lost it
    handler = memory.handler({TYPE: single(runs)}, parts=parts, stale_after=100)
    task = make_task(force_store=True)
    with pytest.raises(QueueUnavailableError):
        await handler.add_tasks([task])
    await memory.pass_time(99)
    assert await handler.move_mature_tasks() == 0
    await memory.pass_time(2)
    assert await handler.move_mature_tasks() == 1
    await handler.drain(10)
    assert len(runs) == 1
    assert await memory.status(task) is TaskStatus.EXECUTED


async def test_7_2_putting_it_again_is_harmless_where_the_queue_has_it(memory: Engines) -> None:
    runs = Runs()
    handler = memory.handler({TYPE: single(runs)}, stale_after=100)
    (task,) = await handler.add_tasks([make_task(force_store=True)])
    await memory.pass_time(101)
    await handler.move_mature_tasks()
    await handler.drain(10)
    assert len(runs) == 1
    assert await memory.status(task) is TaskStatus.EXECUTED


# 7.3 retention


def _ending(status: str) -> Any:
    async def work(task: Task[Any], actions: Any) -> None:
        if status == "failed":
            actions.fail(task, "no")
        else:
            actions.success(task)

    return work


async def _end(engines: Engines, status: str, retention: Retention | None = None) -> Any:
    config = {} if retention is None else {"retention": retention}
    handler = engines.handler({TYPE: parallel(_ending(status))}, **config)
    expires = engines.clock.now() if status == "expired" else None
    tasks = [make_task(n, force_store=True, expires_at=expires) for n in range(3)]
    await handler.add_tasks(tasks)
    await handler.drain(10)
    assert {await engines.status(task) for task in tasks} == {status}
    return handler, tasks


@pytest.mark.parametrize(("status", "days"), [("executed", 1), ("expired", 7)])
async def test_7_3_rows_past_their_retention_are_deleted(
    still: Engines, status: str, days: int
) -> None:
    handler, tasks = await _end(still, status)
    await still.pass_time(timedelta(days=days, seconds=-5))
    await handler.move_mature_tasks()
    assert len(await handler.get_tasks(task.id for task in tasks)) == 3
    await still.pass_time(10)
    await handler.move_mature_tasks()
    assert await handler.get_tasks(task.id for task in tasks) == []


async def test_7_3_what_failed_is_kept_unless_told(still: Engines) -> None:
    handler, tasks = await _end(still, "failed")
    await still.pass_time(timedelta(days=1000))
    await handler.move_mature_tasks()
    assert len(await handler.get_tasks(task.id for task in tasks)) == 3
    told = still.handler(retention=Retention(failed=timedelta(days=1)))
    await told.move_mature_tasks()
    assert await handler.get_tasks(task.id for task in tasks) == []


async def test_7_3_retention_none_keeps_for_ever(still: Engines) -> None:
    handler, tasks = await _end(still, "executed", Retention(executed=None))
    await still.pass_time(timedelta(days=1000))
    await handler.move_mature_tasks()
    assert len(await handler.get_tasks(task.id for task in tasks)) == 3


async def test_7_3_it_deletes_in_small_batches(still: Engines) -> None:
    handler, _ = await _end(still, "executed")
    await handler.add_tasks([make_task(n, force_store=True) for n in range(still.sized(1200))])
    await handler.drain(30)
    parts = still.meddled()
    await still.pass_time(timedelta(days=2))
    await still.handler(parts=parts).move_mature_tasks()
    limits = [kwargs["limit"] for name, _, kwargs in parts.calls if name == "storage.prune"]
    assert max(limits) <= 1000
    assert not await still.storage.counts()
