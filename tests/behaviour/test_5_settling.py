"""SPEC 5.6 to 5.10, FAULTS R1 to R3: settling is one write, repeatable, fenced, never given up."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from harness import (
    PATIENCE,
    QUEUE,
    TYPE,
    Diary,
    Engines,
    Runs,
    make_task,
    multi,
    parallel,
    serving,
    single,
    until,
)
from taskloom import BatchSummary, Task, TaskHandler, TaskStatus

WRITES = ("storage.settle", "storage.add", "queue.put", "queue.release", "queue.ack")


async def run_batch(handler: TaskHandler, limit: int = 10) -> BatchSummary:
    async with asyncio.timeout(PATIENCE):
        return await handler.process_batch(QUEUE, limit)


async def spawn(task: Task[Any], actions: Any) -> None:
    """Succeeds with two equal children and another one."""
    actions.add_tasks([make_task(n, type="child") for n in (1, 1, 2)])
    actions.success(task)


# 5.6


async def test_5_6_a_batch_is_one_write(engines: Engines) -> None:
    parts = engines.meddled()
    handler = engines.handler({TYPE: parallel(Runs())}, parts=parts)
    await handler.add_tasks([make_task(n, force_store=True) for n in range(10)])
    parts.calls.clear()
    assert (await run_batch(handler)).succeeded == 10
    assert parts.names("storage.settle") == ["storage.settle"]
    assert len(parts.names("queue.ack")) == (0 if engines.integrated else 1)


async def test_5_6_beside_the_queue_storage_then_children_then_the_acknowledgement(
    memory: Engines,
) -> None:
    parts = memory.meddled()
    handler = memory.handler({TYPE: single(spawn)}, parts=parts)
    await handler.add_tasks([make_task(force_store=True)])
    parts.calls.clear()
    await run_batch(handler)
    assert parts.names(*WRITES) == ["storage.settle", "queue.put", "queue.ack"]


async def test_5_6_in_the_queue_itself_children_are_in_the_same_write(sql: Engines) -> None:
    parts = sql.meddled()
    handler = sql.handler({TYPE: single(spawn)}, parts=parts)
    await handler.add_tasks([make_task()])
    parts.calls.clear()
    await run_batch(handler)
    assert parts.names(*WRITES) == ["storage.settle"]
    assert await sql.queue.depth(QUEUE) == 3


@pytest.mark.parametrize("stored", [False, True])
async def test_5_6_each_child_runs_once(engines: Engines, stored: bool) -> None:
    runs = Runs()
    handler = engines.handler({TYPE: single(spawn), "child": parallel(runs)})
    await handler.add_tasks([make_task(force_store=stored)])
    await handler.drain(PATIENCE)
    await handler.drain(PATIENCE)
    assert sorted(runs.payloads) == [1, 1, 2]


# 5.7


async def test_5_7_a_settle_reported_as_failed_is_repeated_without_doubles(
    engines: Engines,
) -> None:
    parts, runs = engines.meddled(), Runs()
    for name in ("storage.settle", "queue.put", "queue.ack"):
        parts.fail_after(name)
    handler = engines.handler({TYPE: single(spawn), "child": parallel(runs)}, parts=parts)
    plain = engines.handler()
    [task] = await plain.add_tasks([make_task(force_store=True)])
    async with serving(handler):
        await runs.finished.reach(3)
        await parts.done.reach(2, lambda name: name in ("storage.settle", "queue.ack"))
    await handler.drain(PATIENCE)
    assert sorted(runs.payloads) == [1, 1, 2]
    assert await engines.status(task) is TaskStatus.EXECUTED


async def lose_lease(engines: Engines, parts: Any) -> None:
    """A minute passes in which nothing is renewed."""
    parts.break_down("queue.extend")
    await engines.pass_time(61)
    parts.repair("queue.extend")


@pytest.mark.parametrize("way", ["released", "lease lost"])
async def test_5_7_a_rerun_makes_the_same_children_a_retry_others(still: Engines, way: str) -> None:
    made: list[list[str]] = []
    gate, entered, children = asyncio.Event(), asyncio.Event(), Runs()

    async def on_task(task: Task[Any], actions: Any) -> None:
        new = [make_task(n, type="child") for n in (1, 2, 1)]
        made.append([child.id for child in new])
        actions.add_tasks(new)
        if not entered.is_set():
            entered.set()
            await gate.wait()
        actions.fail(task) if task.retry_count == 0 else actions.success(task)

    parts = still.meddled()
    work = single(on_task, default_retries=1)
    handler = still.handler({TYPE: work}, parts=parts)
    other = still.handler({TYPE: work, "child": parallel(children)})
    [task] = await handler.add_tasks([make_task(force_store=True)])
    first = asyncio.create_task(run_batch(handler))
    await until(entered)
    if way == "released":
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
    else:
        await lose_lease(still, parts)
    await other.drain(PATIENCE)
    gate.set()
    await asyncio.gather(first, return_exceptions=True)  # what is late doubles nothing
    await other.drain(PATIENCE)
    assert made[0] == made[1]
    assert sorted(child.id for child in children) == sorted(made[0])
    await still.pass_time(2)
    await other.drain(PATIENCE)
    assert await still.status(task) is TaskStatus.EXECUTED
    assert len(children) == len({child.id for child in children}) == 6


@pytest.mark.parametrize("kind", [single, multi])
async def test_5_7_a_death_between_children_and_acknowledgement_doubles_none(
    memory: Engines, kind: Any
) -> None:
    async def work(given: Any, actions: Any) -> None:
        task = given if isinstance(given, Task) else given[0]
        actions.add_tasks([make_task(n, type="child") for n in (1, 2, 1)], parent=task)
        actions.success(task)

    parts, children = memory.meddled(), Runs()
    for name in ("queue.ack", "queue.extend"):
        parts.break_down(name)
    handler = memory.handler({TYPE: kind(work)}, parts=parts)
    await handler.add_tasks([make_task()])
    first = asyncio.create_task(run_batch(handler, 1))
    await parts.called("queue.ack")
    assert await memory.queue.depth(QUEUE) == 3
    await memory.pass_time(61)
    other = memory.handler({TYPE: kind(work), "child": parallel(children)})
    assert (await run_batch(other)).succeeded == 4  # the parent again, and three children
    await first
    await other.drain(PATIENCE)
    assert sorted(children.payloads) == [1, 1, 2]


async def test_5_7_what_was_added_at_once_is_not_doubled_by_a_rerun(still: Engines) -> None:
    started, adding = asyncio.Event(), still.handler()

    async def on_task(task: Task[Any], actions: Any) -> None:
        await adding.add_tasks([make_task(n, type="child") for n in (1, 2)])
        if not started.is_set():
            started.set()
            await asyncio.Event().wait()
        actions.success(task)

    handler = still.handler({TYPE: single(on_task)})
    await handler.add_tasks([make_task()])
    first = asyncio.create_task(run_batch(handler))
    await until(started)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    await still.pass_time(5)
    runs = Runs()
    again = still.handler({TYPE: single(on_task), "child": parallel(runs)})
    await again.drain(PATIENCE)
    assert sorted(runs.payloads) == [1, 2]


# 5.8


@pytest.mark.parametrize(
    ("word", "expected"), [("success", 1), ("fail", 1), ("exception", 0), ("silence", 0)]
)
@pytest.mark.parametrize("kind", [single, multi])
async def test_5_8_what_was_asked_for_is_dispatched_when_the_attempt_spoke(
    engines: Engines, kind: Any, word: str, expected: int
) -> None:
    async def work(given: Any, actions: Any) -> None:
        task = given if isinstance(given, Task) else given[0]
        actions.add_tasks([make_task("child", type="child")])
        if word in ("success", "fail"):
            getattr(actions, word)(task)
        elif word == "exception":
            raise RuntimeError("no")

    runs = Runs()
    handler = engines.handler({TYPE: kind(work), "child": single(runs)})
    await handler.add_tasks([make_task()])
    await handler.drain(PATIENCE)
    assert len(runs) == expected


async def test_5_8_in_a_multi_executor_children_go_with_the_parent_they_name(
    engines: Engines,
) -> None:
    async def on_tasks(tasks: Sequence[Task[Any]], actions: Any) -> None:
        for task in tasks:
            actions.add_tasks([make_task(f"of {task.payload}", type="child")], parent=task)
        actions.success(tasks[0])
        raise RuntimeError("the other one")

    runs = Runs()
    handler = engines.handler({TYPE: multi(on_tasks), "child": single(runs)})
    await handler.add_tasks([make_task("a"), make_task("b")])
    await handler.drain(PATIENCE)
    assert runs.payloads == ["of a"]


# 5.9


@pytest.mark.parametrize("with_children", [False, True])
async def test_5_9_an_outcome_whose_lease_is_gone_changes_nothing_and_is_counted(
    still: Engines, caplog: pytest.LogCaptureFixture, with_children: bool
) -> None:
    gate, children = asyncio.Event(), Runs()
    entered, told = asyncio.Event(), Diary()

    async def late(task: Task[Any], actions: Any) -> None:
        entered.set()
        await gate.wait()
        if with_children:
            actions.add_tasks([make_task("of the late one", type="child")])
        actions.success(task, "late")

    async def quick(task: Task[Any], actions: Any) -> None:
        actions.success(task, "in time")

    parts = still.meddled()
    one = still.handler({TYPE: single(late)}, parts=parts, diary=told)
    two = still.handler({TYPE: single(quick), "child": single(children)})
    [task] = await one.add_tasks([make_task(force_store=True)])
    first = asyncio.create_task(run_batch(one))
    await until(entered)
    await lose_lease(still, parts)
    assert (await run_batch(two)).succeeded == 1
    gate.set()
    summary = await first
    assert (summary.succeeded, summary.released) == (0, 1)
    kept = await still.stored(task)
    assert kept is not None
    assert kept.execution_result == "in time"
    assert told.of("on_task_completed") == []
    assert "refused" in caplog.text
    await two.drain(PATIENCE)
    assert children == []


async def test_5_9_a_lease_found_lost_on_renewal_ends_the_run(
    still: Engines, caplog: pytest.LogCaptureFixture
) -> None:
    entered, cancelled = asyncio.Event(), asyncio.Event()

    async def endless(task: Task[Any], actions: Any) -> None:
        entered.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            actions.success(task, "too late")
            raise

    parts, diary = still.meddled(), Diary()
    one = still.handler({TYPE: single(endless)}, parts=parts, diary=diary)
    [task] = await one.add_tasks([make_task(force_store=True)])
    first = asyncio.create_task(run_batch(one))
    await until(entered)
    await lose_lease(still, parts)
    [delivery] = await still.queue.claim(QUEUE, 1, lease=600)
    assert (delivery.task.id, delivery.delivery_count) == (task.id, 2)
    await still.pass_time(20)
    await until(cancelled)
    assert (await first).released == 1
    assert diary.of("on_task_completed") == diary.of("on_task_failed") == []
    assert "were lost" in caplog.text
    assert await still.queue.extend([delivery], 600) == []


# 5.10


async def test_5_10_a_settle_that_fails_is_repeated_until_it_works(
    engines: Engines, caplog: pytest.LogCaptureFixture
) -> None:
    parts, runs = engines.meddled(), Runs()
    broken = "storage.settle" if engines.integrated else "queue.ack"
    handler = engines.handler({TYPE: single(runs)}, parts=parts)
    await handler.add_tasks([make_task(n, force_store=True) for n in range(3)])
    parts.break_down(broken)
    work = asyncio.create_task(run_batch(handler))
    await runs.finished.reach(3)  # the lane goes on although nothing can be settled
    await parts.called(broken, 3)
    assert not work.done()
    parts.repair(broken)
    assert (await work).succeeded == 3
    assert len(runs) == 3
    assert caplog.text.count("trying again until it works") == 1


async def test_5_10_until_the_leases_are_gone(memory: Engines) -> None:
    parts, runs = memory.meddled(), Runs()
    handler = memory.handler({TYPE: single(runs)}, parts=parts)
    await handler.add_tasks([make_task()])
    for name in ("queue.ack", "queue.extend"):
        parts.break_down(name)
    work = asyncio.create_task(run_batch(handler))
    await runs.finished.reach(1)
    for _ in range(70):
        await memory.pass_time(1)
    assert (await work).succeeded == 0
    [delivery] = await memory.queue.claim(QUEUE, 1, lease=60)
    assert delivery.delivery_count == 2


async def test_5_10_one_that_cannot_be_written_does_not_hold_up_the_others(
    engines: Engines, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle = engines.storage.settle

    async def picky(plan: Any) -> Any:
        if any(ending.delivery.task.payload == "bad" for ending in plan.endings):
            raise ValueError("a fault of the storage")
        return await settle(plan)

    monkeypatch.setattr(engines.storage, "settle", picky)
    handler = engines.handler({TYPE: parallel(Runs())})
    tasks = await handler.add_tasks([make_task(p, force_store=True) for p in ("a", "bad", "b")])
    assert (await run_batch(handler)).succeeded == 2
    assert "cannot be settled" in caplog.text
    statuses = [await engines.status(task) for task in tasks]
    assert statuses[0] == statuses[2] == TaskStatus.EXECUTED
    assert statuses[1] is not TaskStatus.EXECUTED
