"""SPEC 2.1-2.5: adding tasks, on every route and with every write that can fail."""

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
    single,
    until,
)
from taskloom import (
    InvalidTaskError,
    QueueUnavailableError,
    StorageUnavailableError,
    Task,
    TaskStatus,
)

WRITES = ("storage.add", "queue.put")


def _in(seconds: float) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=seconds)


# 2.1 routes


async def test_2_1_due_later_than_the_horizon_goes_to_storage_only(memory: Engines) -> None:
    parts = memory.meddled()
    (task,) = await memory.handler(parts=parts).add_tasks([make_task(execute_at=_in(200))])
    assert parts.names(*WRITES) == ["storage.add"]
    assert await memory.status(task) is TaskStatus.SCHEDULED


async def test_2_1_the_horizon_is_120_seconds_unless_told(memory: Engines) -> None:
    parts = memory.meddled()
    now = memory.clock.now()
    handler = memory.handler(parts=parts)
    await handler.add_tasks([make_task(execute_at=now + timedelta(seconds=120))])
    assert parts.names(*WRITES) == ["queue.put"]
    await handler.add_tasks([make_task(execute_at=now + timedelta(seconds=120.001))])
    assert parts.names(*WRITES) == ["queue.put", "storage.add"]
    near = memory.handler(parts=parts, storage_horizon=1)
    await near.add_tasks([make_task(execute_at=now + timedelta(seconds=2))])
    assert parts.names(*WRITES) == ["queue.put", "storage.add", "storage.add"]


async def test_2_1_due_now_and_force_store_goes_to_storage_and_queue(memory: Engines) -> None:
    parts = memory.meddled()
    (task,) = await memory.handler(parts=parts).add_tasks([make_task(force_store=True)])
    assert parts.names(*WRITES) == ["storage.add", "queue.put"]
    assert task.status is TaskStatus.QUEUED
    assert await memory.status(task) is TaskStatus.QUEUED


async def test_2_1_due_now_goes_to_the_queue_only(memory: Engines) -> None:
    parts = memory.meddled()
    (task,) = await memory.handler(parts=parts).add_tasks([make_task()])
    assert parts.names(*WRITES) == ["queue.put"]
    assert await memory.status(task) is None


async def test_2_1_due_soon_goes_to_storage_when_the_queue_cannot_delay(memory: Engines) -> None:
    parts = memory.meddled(delay=False)
    soon = memory.clock.now() + timedelta(seconds=60)
    (task,) = await memory.handler(parts=parts).add_tasks([make_task(execute_at=soon)])
    assert parts.names(*WRITES) == ["storage.add"]
    assert await memory.status(task) is TaskStatus.SCHEDULED


@pytest.mark.parametrize("fields", [{}, {"force_store": True}, {"execute_at": _in(3600)}])
async def test_2_1_where_the_storage_is_the_queue_it_is_one_insert(
    sql: Engines, fields: dict[str, Any]
) -> None:
    parts = sql.meddled()
    (task,) = await sql.handler(parts=parts).add_tasks([make_task(**fields)])
    assert parts.names(*WRITES) == ["storage.add"]
    assert await sql.status(task) is TaskStatus.SCHEDULED


async def test_2_1_a_process_that_only_produces_needs_no_executors(engines: Engines) -> None:
    await engines.handler().add_tasks([make_task("made elsewhere")])
    runs = Runs()
    await engines.handler({TYPE: single(runs)}).drain(10)
    assert runs.payloads == ["made elsewhere"]


async def test_2_1_tasks_are_returned_in_order_as_they_are_kept(engines: Engines) -> None:
    given = [make_task(1), make_task(2, execute_at=_in(3600)), make_task(3, force_store=True)]
    kept = await engines.handler().add_tasks(iter(given))
    assert [task.id for task in kept] == [task.id for task in given]
    assert await engines.handler().add_tasks([]) == []


async def test_2_2_force_store_and_far_in_the_future_goes_to_storage_only(memory: Engines) -> None:
    parts = memory.meddled()
    handler = memory.handler(parts=parts)
    (task,) = await handler.add_tasks([make_task(force_store=True, execute_at=_in(3600))])
    assert parts.names(*WRITES) == ["storage.add"]
    assert await memory.status(task) is TaskStatus.SCHEDULED


# 2.3 on every route

ROUTES = {
    "queue": {},
    "both": {"force_store": True},
    "storage": {"execute_at": _in(3600)},
}


@pytest.mark.parametrize("route", ROUTES)
async def test_2_3_the_partition_key_is_filled_in_where_there_is_none(
    engines: Engines, route: str
) -> None:
    def key(task: Task[Any]) -> str:
        return f"key-{task.payload}"

    handler = engines.handler({TYPE: single(Runs(), get_partition_key=key)})
    added = [make_task(1, **ROUTES[route]), make_task(2, partition_key="own", **ROUTES[route])]
    kept = await handler.add_tasks(added)
    assert [task.partition_key for task in kept] == ["key-1", "own"]


async def test_2_3_the_partition_key_reaches_the_executor(engines: Engines) -> None:
    runs = Runs()
    handler = engines.handler({TYPE: single(runs, get_partition_key=lambda task: "k")})
    await handler.add_tasks([make_task()])
    await handler.drain(10)
    assert [task.partition_key for task in runs] == ["k"]


async def test_2_3_a_partition_key_that_raises_names_the_field(engines: Engines) -> None:
    handler = engines.handler({TYPE: single(Runs(), get_partition_key=lambda task: 1 / 0)})
    with pytest.raises(InvalidTaskError, match=r"^partition_key"):
        await handler.add_tasks([make_task()])
    assert await engines.is_empty()


@pytest.mark.parametrize("route", ["queue", "both"])
async def test_2_3_store_on_failure_stores_a_task_when_it_first_fails(
    engines: Engines, route: str
) -> None:
    async def fail(task: Task[Any], actions: Any) -> None:
        actions.fail(task, "first")

    handler = engines.handler({TYPE: single(fail)})
    (task,) = await handler.add_tasks([make_task(retries=1, retry_after=60, **ROUTES[route])])
    assert (await handler.process_batch(QUEUE)).retried == 1
    found = await engines.stored(task)
    assert found is not None
    assert not found.status.terminal
    assert found.execution_stats["last_error"] == "first"


async def test_2_3_a_task_on_the_queue_only_is_not_stored_before_it_fails(memory: Engines) -> None:
    runs = Runs()
    handler = memory.handler({TYPE: single(runs)})
    (task,) = await handler.add_tasks([make_task()])
    await handler.process_batch(QUEUE)
    assert await memory.status(task) is None


# 2.4 order


async def test_2_4_storage_then_queue_then_the_event(memory: Engines) -> None:
    parts, diary = memory.meddled(), Diary()
    gate = parts.hold("queue.put")
    handler = memory.handler(parts=parts, diary=diary)
    adding = asyncio.create_task(handler.add_tasks([make_task(force_store=True)]))
    await until(gate.reached)
    assert list(parts.done) == ["storage.add"]
    assert not diary.of("on_task_scheduled")
    gate.open.set()
    await adding
    assert list(parts.done) == ["storage.add", "queue.put"]
    assert len(diary.of("on_task_scheduled")) == 1


async def test_2_4_the_event_comes_after_the_one_insert(sql: Engines) -> None:
    parts, diary = sql.meddled(), Diary()
    gate = parts.hold("storage.add")
    handler = sql.handler(parts=parts, diary=diary)
    adding = asyncio.create_task(handler.add_tasks([make_task()]))
    await until(gate.reached)
    assert not diary.of("on_task_scheduled")
    gate.open.set()
    await adding
    assert len(diary.of("on_task_scheduled")) == 1


async def test_2_4_no_event_for_what_was_not_accepted(engines: Engines) -> None:
    parts, diary = engines.meddled(), Diary()
    parts.fail("storage.add")
    parts.fail("queue.put")
    handler = engines.handler(parts=parts, diary=diary)
    with pytest.raises((QueueUnavailableError, StorageUnavailableError)):
        await handler.add_tasks([make_task()])
    assert not diary.entries


# 2.5 writes that fail


async def test_2_5_a_storage_write_fails_and_nothing_is_put_on_the_queue(engines: Engines) -> None:
    parts = engines.meddled()
    parts.fail("storage.add")
    tasks = [make_task(force_store=True), make_task("for the queue only")]
    with pytest.raises(StorageUnavailableError):
        await engines.handler(parts=parts).add_tasks(tasks)
    assert "queue.put" not in parts.names()
    assert await engines.is_empty()


async def test_2_5_a_storage_write_told_as_failed_can_be_repeated(engines: Engines) -> None:
    parts, runs = engines.meddled(), Runs()
    parts.fail_after("storage.add")
    handler = engines.handler({TYPE: single(runs)}, parts=parts)
    task = make_task("once", force_store=True)
    with pytest.raises(StorageUnavailableError):
        await handler.add_tasks([task])
    await handler.add_tasks([task])
    await handler.drain(10)
    assert runs.payloads == ["once"]


@pytest.mark.parametrize("done", [False, True])
async def test_2_5_queue_write_fails_after_a_storage_write_and_the_task_is_accepted(
    memory: Engines, caplog: pytest.LogCaptureFixture, done: bool
) -> None:
    parts = memory.meddled()
    (parts.fail_after if done else parts.fail)("queue.put")
    (task,) = await memory.handler(parts=parts).add_tasks([make_task(force_store=True)])
    assert await memory.status(task) is TaskStatus.SCHEDULED
    assert [record.levelname for record in caplog.records] == ["WARNING"]


@pytest.mark.parametrize("done", [False, True])
async def test_2_5_such_a_task_is_driven_again_by_the_mature_loop_and_runs_once(
    memory: Engines, done: bool
) -> None:
    parts, runs = memory.meddled(), Runs()
    (parts.fail_after if done else parts.fail)("queue.put")
    handler = memory.handler({TYPE: single(runs)}, parts=parts)
    (task,) = await handler.add_tasks([make_task("accepted", force_store=True)])
    assert await handler.move_mature_tasks() == 1
    await handler.drain(10)
    assert runs.payloads == ["accepted"]
    assert await memory.status(task) is TaskStatus.EXECUTED


@pytest.mark.parametrize("again", [True, False])
async def test_2_5_queue_and_then_storage_fail_and_the_error_says_so(
    memory: Engines, again: bool
) -> None:
    """Added again it runs at once; otherwise it is found again after a while."""
    parts, runs = memory.meddled(), Runs()
    parts.fail("queue.put")
    parts.fail("storage.settle")
    handler = memory.handler({TYPE: single(runs)}, parts=parts, stale_after=60)
    task = make_task("stored", force_store=True)
    with pytest.raises(QueueUnavailableError) as caught:
        await handler.add_tasks([task])
    assert [each.id for each in caught.value.rejected] == [task.id]
    if again:
        await handler.add_tasks([task])
    else:
        await memory.pass_time(61)
    await handler.drain(10)
    assert runs.payloads == ["stored"]
    assert await memory.status(task) is TaskStatus.EXECUTED


async def test_2_5_queue_write_fails_with_nothing_stored_and_the_error_says_what(
    memory: Engines,
) -> None:
    parts = memory.meddled()
    parts.fail("queue.put")
    tasks = [make_task(1), make_task(2, execute_at=_in(3600)), make_task(3, queue_id="other")]
    with pytest.raises(QueueUnavailableError) as caught:
        await memory.handler(parts=parts).add_tasks(tasks)
    assert [task.payload for task in caught.value.rejected] == [1]
    assert sorted(task.payload for task in caught.value.accepted) == [2, 3]
    assert await memory.queue.depth(QUEUE) == 0
    assert await memory.queue.depth("other") == 1


async def test_2_5_of_stored_and_unstored_tasks_only_the_unstored_are_rejected(
    memory: Engines,
) -> None:
    parts = memory.meddled()
    parts.fail("queue.put")
    tasks = [make_task(1, force_store=True), make_task(2)]
    with pytest.raises(QueueUnavailableError) as caught:
        await memory.handler(parts=parts).add_tasks(tasks)
    assert [task.payload for task in caught.value.rejected] == [2]
    assert [task.payload for task in caught.value.accepted] == [1]


async def test_2_5_what_was_rejected_can_be_added_again_as_it_is(memory: Engines) -> None:
    parts, runs = memory.meddled(), Runs()
    parts.fail_after("queue.put")
    handler = memory.handler({TYPE: single(runs)}, parts=parts)
    with pytest.raises(QueueUnavailableError) as caught:
        await handler.add_tasks([make_task("once")])
    await handler.add_tasks(caught.value.rejected)
    await handler.drain(10)
    assert runs.payloads == ["once"]
