"""SPEC 1.2, 1.4-1.6: statuses, log context, expiry, task_hash."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from harness import (
    QUEUE,
    TYPE,
    Diary,
    Engines,
    Runs,
    make_task,
    parallel,
    serving,
    single,
    until,
)
from taskloom import Task, TaskHandler, TaskMetadata, TaskStatus

# 1.2 statuses


async def test_1_2_scheduled_waits_in_storage(engines: Engines) -> None:
    handler = engines.handler()
    later = make_task(execute_at=datetime.now(UTC) + timedelta(hours=1))
    await handler.add_tasks([later])
    assert await engines.status(later) is TaskStatus.SCHEDULED


async def test_1_2_queued_is_stored_and_handed_to_a_separate_queue(memory: Engines) -> None:
    task = make_task(force_store=True)
    await memory.handler().add_tasks([task])
    assert await memory.status(task) is TaskStatus.QUEUED
    assert await memory.queue.depth(QUEUE) == 1


async def test_1_2_processing_is_claimed_under_a_lease(sql: Engines) -> None:
    runs = Runs(gate=asyncio.Event())
    handler = sql.handler({TYPE: single(runs)})
    (task,) = await handler.add_tasks([make_task()])
    async with serving(handler):
        await runs.reach(1)
        found = await sql.stored(task)
        assert found is not None
        assert found.status is TaskStatus.PROCESSING
        assert found.processing_started_at is not None
        assert await sql.queue.claim(QUEUE, 1, lease=1) == []
        assert runs.gate is not None
        runs.gate.set()


def _ends() -> dict[TaskStatus, Any]:
    async def good(task: Task[Any], actions: Any) -> None:
        actions.success(task)

    async def bad(task: Task[Any], actions: Any) -> None:
        actions.fail(task, "no")

    return {TaskStatus.EXECUTED: good, TaskStatus.FAILED: bad}


ENDS = ["executed", "failed", "expired", "ignored", "cancelled"]


async def _ended(engines: Engines, status: TaskStatus) -> tuple[TaskHandler, Task[Any]]:
    """A stored task that ended so, and a handler for it."""
    function = _ends().get(status, _ends()[TaskStatus.EXECUTED])
    executors = {} if status is TaskStatus.IGNORED else {TYPE: single(function)}
    handler = engines.handler(executors)
    expires = handler.config.clock.now() if status is TaskStatus.EXPIRED else None
    (task,) = await handler.add_tasks([make_task(force_store=True, expires_at=expires)])
    if status is TaskStatus.CANCELLED:
        assert await handler.cancel_tasks([task.id], reason="test") == [task.id]
    await handler.process_batch(QUEUE)
    return handler, task


@pytest.mark.parametrize("status", [TaskStatus(name) for name in ENDS])
async def test_1_2_every_terminal_status_is_reached(still: Engines, status: TaskStatus) -> None:
    _, task = await _ended(still, status)
    assert await still.status(task) is status
    assert status.terminal


@pytest.mark.parametrize("status", [TaskStatus(name) for name in ENDS])
async def test_1_2_nothing_leaves_a_terminal_status_by_itself(
    still: Engines, status: TaskStatus
) -> None:
    handler, task = await _ended(still, status)
    again = await handler.add_tasks([task])
    assert [each.status for each in again] == [status]
    assert await handler.cancel_tasks([task.id], reason="too late") == []
    await still.pass_time(3600)
    await handler.move_mature_tasks()
    assert (await handler.process_batch(QUEUE)).claimed == 0
    assert await still.status(task) is status


@pytest.mark.parametrize("status", [TaskStatus(name) for name in ENDS])
async def test_1_2_retry_tasks_leads_out_of_a_terminal_status(
    still: Engines, status: TaskStatus
) -> None:
    handler, task = await _ended(still, status)
    assert await handler.retry_tasks([task.id]) == [task.id]
    assert await still.status(task) is TaskStatus.SCHEDULED
    runs = Runs()
    await still.handler({TYPE: single(runs)}).drain(10)
    assert [each.id for each in runs] == [task.id]
    assert await still.status(task) is TaskStatus.EXECUTED


async def test_1_2_retry_tasks_leaves_alone_what_has_not_ended(still: Engines) -> None:
    handler = still.handler()
    (task,) = await handler.add_tasks([make_task(force_store=True)])
    assert await handler.retry_tasks([task.id, "unknown"]) == []


# 1.4 log context


async def _kept_context(
    engines: Engines, context: dict[str, str]
) -> tuple[dict[str, str] | None, Task[Any]]:
    metadata = TaskMetadata(log_context=context)
    (task,) = await engines.handler().add_tasks([make_task(metadata=metadata, force_store=True)])
    found = await engines.stored(task)
    assert found is not None
    return found.metadata.log_context, task


async def test_1_4_ten_keys_are_kept(engines: Engines) -> None:
    context = {f"k{n}": str(n) for n in range(10)}
    assert (await _kept_context(engines, context))[0] == context


async def test_1_4_of_more_than_ten_keys_the_first_ten_are_kept_with_a_warning(
    engines: Engines, caplog: pytest.LogCaptureFixture
) -> None:
    context = {f"k{n:02}": str(n) for n in reversed(range(12))}
    kept, _ = await _kept_context(engines, context)
    assert kept == {f"k{n:02}": str(n) for n in range(10)}
    assert [record.levelname for record in caplog.records] == ["WARNING"]


@pytest.mark.parametrize(("size", "fits"), [(1024, True), (1025, False)])
async def test_1_4_more_than_1024_bytes_are_dropped_whole_with_a_warning(
    engines: Engines, caplog: pytest.LogCaptureFixture, size: int, fits: bool
) -> None:
    context = {"k": "x" * (size - len('{"k":""}'))}
    kept, _ = await _kept_context(engines, context)
    assert kept == (context if fits else None)
    assert len(caplog.records) == (0 if fits else 1)


async def test_1_4_the_size_counts_after_the_keys_were_cut(engines: Engines) -> None:
    context = {f"a{n}": "x" for n in range(10)} | {"z": "x" * 2000}
    kept, _ = await _kept_context(engines, context)
    assert kept == {f"a{n}": "x" for n in range(10)}


# 1.5 expiry


async def test_1_5_a_task_that_expired_before_it_started_never_runs(still: Engines) -> None:
    runs = Runs()
    handler = still.handler({TYPE: single(runs)})
    soon = still.clock.now() + timedelta(seconds=5)
    task, neighbour = await handler.add_tasks([make_task(expires_at=soon), make_task("neighbour")])
    await still.pass_time(6)
    await handler.drain(10)
    assert runs.payloads == ["neighbour"]
    assert await still.status(task) is TaskStatus.EXPIRED
    assert neighbour.expires_at is None


async def test_1_5_a_task_that_expires_while_it_waits_for_a_slot_never_runs(
    still: Engines,
) -> None:
    runs = Runs(gate=asyncio.Event())
    handler = still.handler({TYPE: single(runs)})
    soon = still.clock.now() + timedelta(seconds=5)
    _, task = await handler.add_tasks([make_task("first"), make_task("second", expires_at=soon)])
    batch = asyncio.create_task(handler.process_batch(QUEUE))
    await runs.reach(1)
    await still.pass_time(6)
    assert runs.gate is not None
    runs.gate.set()
    summary = await batch
    assert (summary.succeeded, summary.ignored) == (1, 1)
    assert runs.payloads == ["first"]
    assert await still.status(task) is TaskStatus.EXPIRED


async def test_1_5_a_task_that_expires_while_it_runs_is_executed(still: Engines) -> None:
    runs = Runs(gate=asyncio.Event())
    handler = still.handler({TYPE: single(runs)})
    soon = still.clock.now() + timedelta(seconds=5)
    (task,) = await handler.add_tasks([make_task(expires_at=soon, force_store=True)])
    batch = asyncio.create_task(handler.process_batch(QUEUE))
    await runs.reach(1)
    await still.pass_time(6)
    assert runs.gate is not None
    runs.gate.set()
    await batch
    assert await still.status(task) is TaskStatus.EXECUTED


# 1.6 task_hash


async def _second_waits(first: TaskHandler, second: TaskHandler, runs: Runs) -> None:
    """Both have a task with one hash: only one of them runs until it is done."""
    gate = runs.gate
    assert gate is not None
    await first.add_tasks([make_task(1, task_hash="h"), make_task(2, task_hash="h")])
    one = asyncio.create_task(first.process_batch(QUEUE, 1))
    await runs.reach(1)
    summary = await second.process_batch(QUEUE, 1)
    assert (summary.claimed, summary.released) == (1, 1)
    assert runs.payloads == [1]
    gate.set()
    await one


async def test_1_6_a_hash_that_runs_on_another_worker_is_not_run(still: Engines) -> None:
    runs = Runs(gate=asyncio.Event())
    first, second = (still.handler({TYPE: parallel(runs)}) for _ in range(2))
    await _second_waits(first, second, runs)
    await still.pass_time(2)
    await second.drain(10)
    assert runs.payloads == [1, 2]


async def test_1_6_a_hash_that_runs_here_is_not_run(still: Engines) -> None:
    runs = Runs(gate=asyncio.Event())
    handler = still.handler({TYPE: parallel(runs)})
    await _second_waits(handler, handler, runs)
    await still.pass_time(2)
    await handler.drain(10)
    assert runs.payloads == [1, 2]


async def test_1_6_two_of_one_claim_do_not_run_at_the_same_time(still: Engines) -> None:
    runs = Runs()
    handler = still.handler({TYPE: parallel(runs)})
    await handler.add_tasks([make_task(n, task_hash="h") for n in range(3)])
    summary = await handler.process_batch(QUEUE)
    assert (summary.succeeded, summary.released) == (1, 2)


async def test_1_6_the_lock_is_free_again_when_the_task_failed(still: Engines) -> None:
    async def fail(task: Task[Any], actions: Any) -> None:
        raise RuntimeError("no")

    runs = Runs()
    handler = still.handler({"bad": single(fail), TYPE: single(runs)})
    await handler.add_tasks([make_task(type="bad", task_hash="h")])
    await handler.process_batch(QUEUE)
    await handler.add_tasks([make_task("next", task_hash="h")])
    assert (await handler.process_batch(QUEUE)).succeeded == 1


async def test_1_6_different_hashes_run_side_by_side(engines: Engines) -> None:
    gate = asyncio.Event()
    runs = Runs(gate)
    diary = Diary()
    handler = engines.handler({TYPE: parallel(runs)}, diary=diary)
    await handler.add_tasks([make_task(1, task_hash="a"), make_task(2, task_hash="b")])
    async with serving(handler):
        await runs.reach(2)
        gate.set()
        await diary.told("on_task_completed", 2)
    await until(gate)
