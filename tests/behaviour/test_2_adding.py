"""SPEC 2: adding tasks, on every route and with every write that can fail."""

from __future__ import annotations

import asyncio
import contextlib
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
    multi,
    serving,
    single,
    until,
)
from taskloom import (
    InvalidTaskError,
    QueueUnavailableError,
    StorageUnavailableError,
    Task,
    TaskStatus,
    TooManyChildrenError,
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
    sqlite: Engines, fields: dict[str, Any]
) -> None:
    parts = sqlite.meddled()
    (task,) = await sqlite.handler(parts=parts).add_tasks([make_task(**fields)])
    assert parts.names(*WRITES) == ["storage.add"]
    assert await sqlite.status(task) is TaskStatus.SCHEDULED


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


async def test_2_4_the_event_comes_after_the_one_insert(sqlite: Engines) -> None:
    parts, diary = sqlite.meddled(), Diary()
    gate = parts.hold("storage.add")
    handler = sqlite.handler(parts=parts, diary=diary)
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


async def test_2_5_queue_and_then_storage_fail_and_the_task_is_found_again(
    memory: Engines,
) -> None:
    parts, runs = memory.meddled(), Runs()
    parts.fail("queue.put")
    parts.fail("storage.settle")
    handler = memory.handler({TYPE: single(runs)}, parts=parts, stale_after=60)
    (task,) = await handler.add_tasks([make_task("accepted", force_store=True)])
    await memory.pass_time(61)
    await handler.drain(10)
    assert runs.payloads == ["accepted"]
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


# 2.6 known ids


@pytest.mark.parametrize("route", ["both", "storage"])
async def test_2_6_a_known_id_changes_nothing_and_the_task_that_is_there_is_returned(
    engines: Engines, route: str
) -> None:
    handler = engines.handler()
    first = make_task("first", **ROUTES[route])
    await handler.add_tasks([first])
    other = make_task("second", id=first.id, retries=9, **ROUTES[route])
    (there,) = await handler.add_tasks([other])
    assert (there.payload, there.retries) == ("first", None)
    found = await engines.stored(first)
    assert found is not None
    assert (found.payload, found.retries) == ("first", None)


async def test_2_6_a_known_id_with_another_route_changes_nothing(engines: Engines) -> None:
    handler = engines.handler()
    first = make_task("first", execute_at=_in(3600))
    await handler.add_tasks([first])
    (there,) = await handler.add_tasks([make_task("second", id=first.id, force_store=True)])
    assert there.payload == "first"
    assert await engines.queue.depth(QUEUE) == 0


async def test_2_6_a_known_id_does_not_run_twice(engines: Engines) -> None:
    runs = Runs()
    handler = engines.handler({TYPE: single(runs)})
    task = make_task("once", force_store=True)
    await handler.add_tasks([task, task])
    await handler.add_tasks([task])
    await handler.drain(10)
    (there,) = await handler.add_tasks([task])
    await handler.drain(10)
    assert there.status is TaskStatus.EXECUTED
    assert runs.payloads == ["once"]


async def test_2_6_new_and_known_ids_in_one_call(engines: Engines) -> None:
    handler = engines.handler()
    known = make_task("known", force_store=True)
    await handler.add_tasks([known])
    kept = await handler.add_tasks(
        [make_task("a", force_store=True), known.replace(payload="changed"), make_task("b")]
    )
    assert [task.payload for task in kept] == ["a", "known", "b"]


# 2.7 group commit


@pytest.mark.parametrize("route", ["queue", "both"])
async def test_2_7_concurrent_calls_share_engine_writes(engines: Engines, route: str) -> None:
    parts, runs = engines.meddled(), Runs()
    write = "storage.add" if engines.integrated or route == "both" else "queue.put"
    gate = parts.hold(write)
    handler = engines.handler({TYPE: single(runs)}, parts=parts)
    calls = [
        asyncio.create_task(handler.add_tasks([make_task(n, **ROUTES[route])])) for n in range(50)
    ]
    await until(gate.reached)
    gate.open.set()
    for number, call in enumerate(calls):
        assert [task.payload for task in await call] == [number]
    assert len(parts.names(write)) <= 3
    await handler.drain(10)
    assert sorted(runs.payloads) == list(range(50))


async def test_2_7_a_call_returns_only_when_its_own_tasks_are_accepted(engines: Engines) -> None:
    parts = engines.meddled()
    write = "storage.add" if engines.integrated else "queue.put"
    handler = engines.handler(parts=parts)
    first_gate, second_gate = parts.hold(write), parts.hold(write)
    first = asyncio.create_task(handler.add_tasks([make_task(1)]))
    await until(first_gate.reached)
    second = asyncio.create_task(handler.add_tasks([make_task(2)]))
    first_gate.open.set()
    await first
    await until(second_gate.reached)
    assert not second.done()
    second_gate.open.set()
    await second


async def test_2_7_cancelling_one_call_does_not_hurt_the_others(engines: Engines) -> None:
    parts, runs = engines.meddled(), Runs()
    write = "storage.add" if engines.integrated else "queue.put"
    gate = parts.hold(write)
    handler = engines.handler({TYPE: single(runs)}, parts=parts)
    calls = [asyncio.create_task(handler.add_tasks([make_task(n)])) for n in range(3)]
    await until(gate.reached)
    calls[0].cancel()
    gate.open.set()
    await asyncio.wait(calls)
    assert [call.cancelled() for call in calls] == [True, False, False]
    await handler.drain(10)
    assert set(runs.payloads) >= {1, 2}


# 2.8 defaults


async def test_2_8_type_queue_and_payload_are_enough(engines: Engines) -> None:
    runs = Runs()
    handler = engines.handler({TYPE: single(runs)})
    await handler.add_tasks([Task(type=TYPE, queue_id=QUEUE, payload={"a": 1})])
    await handler.drain(10)
    assert runs.payloads == [{"a": 1}]


async def test_2_8_retries_none_stays_none_and_means_the_executors_default(still: Engines) -> None:
    attempts: list[int] = []

    async def fail(task: Task[Any], actions: Any) -> None:
        attempts.append(task.retry_count)
        actions.fail(task, "no")

    handler = still.handler({TYPE: single(fail, default_retries=2)})
    days = still.clock.now() + timedelta(days=3)
    task = make_task(execute_at=days, retry_after=0)
    await handler.add_tasks([task])
    found = await still.stored(task)
    assert found is not None
    assert found.retries is None
    await still.pass_time(timedelta(days=3, seconds=1))
    await handler.drain(10)
    assert attempts == [0, 1, 2]
    ended = await still.stored(task)
    assert ended is not None
    assert (ended.status, ended.retries) == (TaskStatus.FAILED, None)


# 2.9 max_children


def _adds(through: str, count: int, caught: bool) -> Any:
    async def parent(task: Task[Any], actions: Any) -> None:
        children = [make_task(n) for n in range(count)]
        try:
            if through == "actions":
                actions.add_tasks(children)
            else:
                await parent.handler.add_tasks(children)  # type: ignore[attr-defined]
        except TooManyChildrenError:
            if not caught:
                raise
        actions.success(task)

    return parent


@pytest.mark.parametrize("caught", [False, True])
@pytest.mark.parametrize("through", ["actions", "handler"])
async def test_2_9_too_many_children_fail_the_execution_and_none_is_added(
    engines: Engines, through: str, caught: bool
) -> None:
    runs, parent = Runs(), _adds(through, 4, caught)
    handler = engines.handler({"parent": single(parent), TYPE: single(runs)}, max_children=3)
    parent.handler = handler
    (task,) = await handler.add_tasks([make_task(type="parent")])
    await handler.drain(10)
    found = await engines.stored(task)
    assert found is not None
    assert found.status is TaskStatus.FAILED
    assert "max_children" in found.execution_stats["last_error"]
    assert runs.payloads == []


@pytest.mark.parametrize("through", ["actions", "handler"])
async def test_2_9_as_many_as_max_children_are_added(engines: Engines, through: str) -> None:
    runs, parent = Runs(), _adds(through, 3, caught=False)
    handler = engines.handler({"parent": single(parent), TYPE: single(runs)}, max_children=3)
    parent.handler = handler
    await handler.add_tasks([make_task(type="parent")])
    await handler.drain(10)
    assert sorted(runs.payloads) == [0, 1, 2]


async def test_2_9_children_of_several_calls_count_together(engines: Engines) -> None:
    async def parent(task: Task[Any], actions: Any) -> None:
        for n in range(4):
            actions.add_tasks([make_task(n)])
        actions.success(task)

    runs = Runs()
    handler = engines.handler({"parent": single(parent), TYPE: single(runs)}, max_children=3)
    (task,) = await handler.add_tasks([make_task(type="parent")])
    await handler.drain(10)
    assert await engines.status(task) is TaskStatus.FAILED
    assert runs.payloads == []


async def test_2_9_in_a_multi_executor_too_many_children_of_one_parent_fail_that_one(
    engines: Engines,
) -> None:
    async def parents(tasks: list[Task[Any]], actions: Any) -> None:
        for task in tasks:
            with contextlib.suppress(TooManyChildrenError):
                actions.add_tasks([make_task(n) for n in range(task.payload)], parent=task)
            actions.success(task)

    runs = Runs()
    handler = engines.handler({"parent": multi(parents), TYPE: single(runs)}, max_children=3)
    _, bad = await handler.add_tasks([make_task(2, type="parent"), make_task(4, type="parent")])
    await handler.drain(10)
    assert await engines.status(bad) is TaskStatus.FAILED
    assert sorted(runs.payloads) == [0, 1]


@pytest.mark.parametrize("through", ["actions", "handler"])
async def test_2_9_in_a_multi_executor_too_many_without_a_parent_fail_the_call(
    engines: Engines, through: str
) -> None:
    async def parents(tasks: list[Task[Any]], actions: Any) -> None:
        for n in range(2):
            children = [make_task(n), make_task(n)]
            try:
                if through == "actions":
                    actions.add_tasks(children)
                else:
                    await handler.add_tasks(children)
            except TooManyChildrenError:
                refused.append(n)
        for task in tasks:
            actions.success(task)

    refused: list[int] = []
    handler = engines.handler({"parent": multi(parents)}, max_children=3)
    (task,) = await handler.add_tasks([make_task(type="parent")])
    await handler.process_batch(QUEUE)
    assert refused == [1]
    assert await engines.status(task) is TaskStatus.FAILED


async def test_2_7_serving_and_adding_side_by_side_loses_nothing(engines: Engines) -> None:
    runs, diary = Runs(), Diary()
    handler = engines.handler({TYPE: single(runs)}, diary=diary)
    async with serving(handler):
        await asyncio.gather(*(handler.add_tasks([make_task(n)]) for n in range(200)))
        await diary.told("on_task_completed", 200)
    assert sorted(runs.payloads) == list(range(200))


async def test_2_9_children_of_a_stored_parent_are_added_once(engines: Engines) -> None:
    runs, parent = Runs(), _adds("actions", 2, caught=False)
    handler = engines.handler({"parent": single(parent), TYPE: single(runs)})
    await handler.add_tasks([make_task(type="parent", force_store=True)])
    await handler.drain(10)
    assert sorted(runs.payloads) == [0, 1]
