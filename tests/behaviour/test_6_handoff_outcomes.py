"""SPEC 6.5: a handed-off task ends as it would have in its lane, whoever waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from handing_off import SOON, Held, Noted, at_work, make_handler

from harness import PATIENCE, QUEUE, TYPE, Diary, Engines, Notes, Parts, Runs, make_task, single
from taskloom import (
    Loom,
    Task,
    TaskHandler,
    TaskQueuesManager,
    TaskRunner,
    TaskStatus,
    log_context,
)
from taskloom.executors import AsyncConfig
from taskloom.handoff import AsyncTaskManager
from taskloom.memory import ImmediateQueue, InMemoryCache, InMemoryStorage
from taskloom.testing import ManualClock

KEPT = AsyncConfig(handoff_timeout=60)


class TwoAttempts:
    """Fails once, then succeeds; adds a child each time, and goes on when its `turn` has come."""

    def __init__(self, turn: Callable[[int], Any]) -> None:
        self._turn = turn
        self.contexts: list[dict[str, str]] = []

    async def __call__(self, task: Task[Any], actions: Any) -> None:
        actions.add_tasks([make_task(task.retry_count, type="child")])
        await self._turn(task.retry_count + 1)
        self.contexts.append(log_context())
        if task.retry_count == 0:
            actions.fail(task, "not yet", {"seen": True})
        else:
            actions.success(task, {"n": 1})


async def _life(engines: Engines, config: AsyncConfig, id: str) -> dict[str, Any]:
    """Everything that can be seen of a task that fails once; its id is left out of it."""
    manager, diary = Noted(), Diary()

    async def turn(attempt: int) -> None:
        if config is SOON:
            await manager.taken.reach(attempt)

    function = TwoAttempts(turn)
    handler = make_handler(engines, single(function, async_config=config), manager, diary=diary)
    handler.task_queues.register(QUEUE, "child", single(Runs()))
    task = make_task("p", id=id, retries=1, retry_after=0, force_store=True)
    async with handler:
        await handler.add_tasks([task])
        await handler.drain(10)
    stored = await engines.stored(task)
    assert stored is not None
    handed_off = manager.get_metrics().total_handed_off
    assert handed_off == (2 if config is SOON else 0)
    own = [entry for entry in diary.entries if getattr(entry[1], "task_id", "") == id]
    children = [event for event in diary.of("on_task_completed") if event.task_id != id]
    return {
        "status": stored.status,
        "result": stored.execution_result,
        "retry_count": stored.retry_count,
        "stats": {key: stored.execution_stats.get(key) for key in ("last_error", "seen")},
        "events": [(name, event.attempt, event.queue_id) for name, event in own],
        "children": [(event.task_type, event.attempt) for event in children],
        "context": [context | {"worker_id": "", "task_id": ""} for context in function.contexts],
    }


async def test_6_5_result_retry_children_events_and_context_are_the_same(
    engines: Engines,
) -> None:
    in_lane = await _life(engines, KEPT, "in-its-lane")
    handed_off = await _life(engines, SOON, "handed-off")
    assert handed_off == in_lane
    assert handed_off["status"] is TaskStatus.EXECUTED
    assert handed_off["retry_count"] == 1
    assert len(handed_off["children"]) == 2, "what was said before a `fail` is dispatched with it"
    assert [name for name, _, _ in handed_off["events"]][-1] == "on_task_completed"


async def test_6_5_running_the_parent_again_makes_the_same_children(engines: Engines) -> None:
    """Released in a shutdown and run elsewhere: its child's id is the one it had."""
    ids: Notes[str] = Notes()
    held = Held()

    async def parent(task: Task[Any], actions: Any) -> None:
        child = make_task("c", type="child")
        actions.add_tasks([child])
        ids.note(child.id)
        await held(task, actions)

    for manager in (Noted(), Noted()):
        handler = make_handler(
            engines, single(parent, async_config=SOON), manager, shutdown_grace_period=0
        )
        handler.task_queues.register(QUEUE, "child", single(Runs()))
        async with at_work(handler):
            if not ids:
                await handler.add_tasks([make_task("a")])
            await manager.taken.reach(1)
            if len(ids) == 2:
                held.end("a")
    assert ids[0] == ids[1]


# Who waits


async def test_6_1_process_batch_does_not_wait_for_what_was_handed_off(still: Engines) -> None:
    held, manager, parts = Held(), AsyncTaskManager(), still.meddled()
    handler = make_handler(still, single(held, async_config=SOON), manager, parts=parts, lease=60)
    tasks = [make_task(name, force_store=True) for name in "ab"]
    async with handler:
        await handler.add_tasks(tasks)
        held.end("b")
        async with asyncio.timeout(PATIENCE):
            summary = await handler.process_batch(QUEUE)
        assert (summary.claimed, summary.succeeded, summary.handed_off) == (2, 1, 1)
        for _ in range(5):  # thirds of its lease, which is kept all the same
            await still.pass_renewed(parts, 20)
        assert (await handler.process_batch(QUEUE)).claimed == 0
        held.end("a")
    assert await still.status(tasks[0]) is TaskStatus.EXECUTED, "settled when it was closed"
    assert held.starts == ["a", "b"]


async def test_6_4_closing_a_handler_releases_what_process_batch_left(engines: Engines) -> None:
    held, other = Held(), Runs()
    handler = make_handler(
        engines, single(held, async_config=SOON), AsyncTaskManager(), shutdown_grace_period=0.05
    )
    async with handler:
        await handler.add_tasks([make_task("a")])
        assert (await handler.process_batch(QUEUE)).handed_off == 1
    assert held.cancelled == ["a"]
    async with make_handler(engines, single(other), None) as second:
        assert (await second.process_batch(QUEUE)).succeeded == 1


async def test_6_1_drain_waits_for_what_was_handed_off(engines: Engines) -> None:
    held = Held()
    handler = make_handler(engines, single(held, async_config=SOON), AsyncTaskManager())
    async with handler:
        await handler.add_tasks([make_task("a"), make_task("b")])
        drained = asyncio.create_task(handler.drain(10))
        await held.starts.reach(2)
        held.end("b")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(drained), 0.2)
        held.end("a")
        await drained


async def test_12_2_adding_to_an_immediate_queue_waits_for_it() -> None:
    clock = ManualClock()
    parts = Parts(ImmediateQueue(clock), InMemoryStorage(clock), InMemoryCache(clock))
    manager, done = Noted(), Notes[str]()

    async def slow(task: Task[Any], actions: Any) -> None:
        await manager.taken.reach(1)
        for _ in range(50):  # more than it takes to hear of the handoff
            await asyncio.sleep(0)
        actions.success(task)
        done.note(task.id)

    queues = TaskQueuesManager(parts.queue)
    queues.register(QUEUE, TYPE, single(slow, async_config=SOON))
    async with TaskHandler(parts.queue, queues, parts.storage, parts.cache, manager) as handler:
        [task] = await handler.add_tasks([make_task()])
        assert done == [task.id]


# The runner alone, and Loom


async def test_a_runner_names_what_it_does_not_wait_for(memory: Engines) -> None:
    held, parts = Held(), memory.meddled()
    queues = TaskQueuesManager(parts.queue)
    queues.register(QUEUE, TYPE, single(held, async_config=SOON))
    runner = TaskRunner(queues, parts.cache, async_task_manager=AsyncTaskManager())
    tasks = [make_task(name, task_hash=name) for name in "ab"]
    held.end("b")
    result = await runner.run("me", tasks)
    assert [task.id for task in result.handed_off] == [tasks[0].id]
    assert [task.id for task in result.succeeded] == [tasks[1].id]
    assert await _locked(memory) == {"a"}
    held.end("a")
    await parts.done.reach(2, lambda name: name == "cache.release_many")
    assert await _locked(memory) == set()
    assert held.starts == ["a", "b"]
    assert runner.running_ids() == []


async def _locked(memory: Engines) -> set[str]:
    """Which of the locks of tasks with the hashes "a" and "b" are taken."""
    keys = {f"task_lock_{name}": name for name in "ab"}
    return {keys[key] for key in await memory.cache.get_many(list(keys))}


async def test_a_loom_has_a_manager_of_its_own() -> None:
    runs = Held()
    loom = Loom("memory://")
    loom.queues.register(QUEUE, TYPE, single(runs, async_config=SOON))
    async with loom:
        stop = asyncio.Event()
        work = asyncio.create_task(loom.run_worker(stop=stop))
        await loom.add_tasks([make_task("a"), make_task("b")])
        await runs.starts.reach(2)
        runs.end("a", "b")
        stop.set()
        await work


async def test_a_loom_uses_the_manager_it_is_given() -> None:
    manager, runs = AsyncTaskManager(), Held()
    loom = Loom("memory://", async_task_manager=manager)
    loom.queues.register(QUEUE, TYPE, single(runs, async_config=SOON))
    async with loom:
        await loom.add_tasks([make_task("a")])
        summary = await loom.handler.process_batch(QUEUE)
        runs.end("a")
    assert (summary.handed_off, manager.get_metrics().total_handed_off) == (1, 1)


def test_only_a_manager_will_do(memory: Engines) -> None:
    queues = TaskQueuesManager(memory.queue)
    with pytest.raises(TypeError, match="async_task_manager must be an AsyncTaskManager, not int"):
        TaskHandler(memory.queue, queues, memory.storage, memory.cache, 100)  # type: ignore[arg-type]
