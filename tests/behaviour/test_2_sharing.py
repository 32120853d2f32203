"""SPEC 2.6-2.9: known ids, shared writes, defaults, and how many children one task may have."""

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
    Task,
    TaskStatus,
    TooManyChildrenError,
)


def _in(seconds: float) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=seconds)


ROUTES = {
    "queue": {},
    "both": {"force_store": True},
    "storage": {"execute_at": _in(3600)},
}


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
                # Hung on the function by its test: the handler is made after it.
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
