"""SPEC 4.1, 4.2, 4.6: lanes, locks, and types that nobody runs."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any

import pytest

from harness import (
    PATIENCE,
    QUEUE,
    TYPE,
    Engines,
    Notes,
    Runs,
    make_task,
    multi,
    parallel,
    serving,
    single,
)
from taskloom import BatchSummary, Task, TaskHandler, TaskStatus


async def run_batch(handler: TaskHandler, limit: int = 10) -> BatchSummary:
    async with asyncio.timeout(PATIENCE):
        return await handler.process_batch(QUEUE, limit)


class Crowd:
    """An executor function that notes how many run at once; each waits for its own gate."""

    def __init__(self) -> None:
        self.started: Notes[Any] = Notes()
        self.gates: dict[Any, asyncio.Event] = {}
        self.now = self.most = 0

    async def __call__(self, task: Task[Any], actions: Any) -> None:
        self.now += 1
        self.most = max(self.most, self.now)
        self.started.note(task.payload)
        await self.gate(task.payload).wait()
        self.now -= 1
        actions.success(task)

    def gate(self, payload: Any) -> asyncio.Event:
        return self.gates.setdefault(payload, asyncio.Event())

    def open(self, *payloads: Any) -> None:
        for payload in payloads:
            self.gate(payload).set()


async def test_4_1_single_one_task_at_a_time(engines: Engines) -> None:
    crowd = Crowd()
    handler = engines.handler({TYPE: single(crowd)})
    await handler.add_tasks([make_task(n) for n in range(3)])
    work = asyncio.create_task(run_batch(handler))
    for n in range(3):
        await crowd.started.reach(n + 1)
        crowd.open(n)
    assert (await work).succeeded == 3
    assert crowd.most == 1
    assert list(crowd.started) == [0, 1, 2]


async def test_4_1_parallel_at_most_chunk_size_and_a_slot_refilled_when_free(
    engines: Engines,
) -> None:
    crowd = Crowd()
    handler = engines.handler({TYPE: parallel(crowd, 2)})
    await handler.add_tasks([make_task(n) for n in range(4)])
    work = asyncio.create_task(run_batch(handler))
    await crowd.started.reach(2)
    crowd.open(1)  # 0 goes on running: its slot-mate is refilled all the same, twice
    await crowd.started.reach(3)
    crowd.open(2)
    await crowd.started.reach(4)
    crowd.open(0, 3)
    assert (await work).succeeded == 4
    assert crowd.most == 2


async def test_4_1_multi_all_tasks_of_the_type_in_one_call(engines: Engines) -> None:
    calls: list[list[Any]] = []

    async def on_tasks(tasks: Sequence[Task[Any]], actions: Any) -> None:
        calls.append([task.payload for task in tasks])
        for task in tasks:
            actions.success(task)

    runs = Runs()
    handler = engines.handler({TYPE: multi(on_tasks), "other": single(runs)})
    await handler.add_tasks([make_task(0), make_task(1), make_task(9, type="other"), make_task(2)])
    assert (await run_batch(handler)).succeeded == 4
    assert calls == [[0, 1, 2]]
    assert runs.payloads == [9]


async def test_4_1_multi_at_most_max_batch(engines: Engines) -> None:
    calls: list[list[Any]] = []

    async def on_tasks(tasks: Sequence[Task[Any]], actions: Any) -> None:
        calls.append([task.payload for task in tasks])
        for task in tasks:
            actions.success(task)

    handler = engines.handler({TYPE: multi(on_tasks, max_batch=2)})
    await handler.add_tasks([make_task(n) for n in range(5)])
    assert (await run_batch(handler)).succeeded == 5
    assert calls == [[0, 1], [2, 3], [4]]


async def test_4_1_a_slow_type_never_holds_up_another(engines: Engines) -> None:
    gate = asyncio.Event()
    slow, quick = Runs(gate), Runs()
    handler = engines.handler({"slow": single(slow), "quick": single(quick)})
    await handler.add_tasks([make_task(n, type="slow") for n in range(20)])
    async with serving(handler):
        await slow.reach(1)
        await handler.add_tasks([make_task(n, type="quick") for n in range(20)])
        await quick.finished.reach(20)
        assert len(slow) == 1
        gate.set()
        await slow.finished.reach(20)


async def test_4_1_what_one_task_sets_in_its_context_the_next_does_not_see(
    engines: Engines,
) -> None:
    mark: ContextVar[str] = ContextVar("mark", default="clean")
    seen: list[str] = []

    async def on_task(task: Task[Any], actions: Any) -> None:
        seen.append(mark.get())
        mark.set(f"dirty {task.payload}")
        await asyncio.sleep(0)
        seen.append(mark.get())
        actions.success(task)

    handler = engines.handler({TYPE: single(on_task)})
    await handler.add_tasks([make_task(n) for n in range(2)])
    assert (await run_batch(handler)).succeeded == 2
    assert seen == ["clean", "dirty 0", "clean", "dirty 1"]
    assert mark.get() == "clean"


# 4.2


async def test_4_2_a_task_locked_elsewhere_is_released_and_runs_later(still: Engines) -> None:
    gate = asyncio.Event()
    first, second = Runs(gate), Runs()
    one, two = still.handler({TYPE: single(first)}), still.handler({TYPE: single(second)})
    await one.add_tasks([make_task(n, task_hash="h") for n in (1, 2)])
    work = asyncio.create_task(run_batch(one, 1))
    await first.reach(1)

    locked = await run_batch(two, 1)
    assert (locked.claimed, locked.released) == (1, 1)
    assert second == []

    gate.set()
    assert (await work).succeeded == 1
    await still.pass_time(2)
    assert (await run_batch(two, 1)).succeeded == 1
    assert second.payloads == [2]


async def test_4_2_of_one_claim_two_with_one_hash_do_not_run_at_once(still: Engines) -> None:
    runs = Runs()
    handler = still.handler({TYPE: parallel(runs)})
    await handler.add_tasks([make_task(n, task_hash="h") for n in (1, 2)])
    summary = await run_batch(handler)
    assert (summary.succeeded, summary.released) == (1, 1)
    await still.pass_time(2)
    assert (await run_batch(handler)).succeeded == 1
    assert runs.payloads == [1, 2]


async def test_4_2_all_locks_of_a_claim_in_one_call(engines: Engines) -> None:
    parts = engines.meddled()
    handler = engines.handler({TYPE: parallel(Runs())}, parts=parts)
    await handler.add_tasks([make_task(n, task_hash=f"h{n}") for n in range(5)])
    assert (await run_batch(handler)).succeeded == 5
    [taken] = [args for name, args, _ in parts.calls if name == "cache.acquire_many"]
    assert taken[0] == [f"task_lock_h{n}" for n in range(5)]
    released = [args for name, args, _ in parts.calls if name == "cache.release_many"]
    assert sorted(key for args in released for key in args[0]) == taken[0]


async def test_4_2_locks_go_also_when_the_task_fails(still: Engines) -> None:
    async def broken(task: Task[Any], actions: Any) -> None:
        raise RuntimeError("no")

    runs = Runs()
    one, two = still.handler({TYPE: single(broken)}), still.handler({TYPE: single(runs)})
    await one.add_tasks([make_task(n, task_hash="h") for n in (1, 2)])
    assert (await run_batch(one, 1)).failed == 1
    assert (await run_batch(two, 1)).succeeded == 1


async def test_4_2_where_claims_are_exclusive_only_hashes_are_locked(engines: Engines) -> None:
    parts = engines.meddled()
    handler = engines.handler({TYPE: parallel(Runs())}, parts=parts)
    await handler.add_tasks([make_task(n) for n in range(3)])
    assert (await run_batch(handler)).succeeded == 3
    assert parts.names("cache.acquire_many") == []


async def test_4_2_where_claims_are_not_exclusive_every_task_is_locked(engines: Engines) -> None:
    parts = engines.meddled(exclusive=False)
    handler = engines.handler({TYPE: parallel(Runs())}, parts=parts)
    tasks = await handler.add_tasks([make_task(1), make_task(2, task_hash="h")])
    assert (await run_batch(handler)).succeeded == 2
    [taken] = [args for name, args, _ in parts.calls if name == "cache.acquire_many"]
    assert taken[0] == [f"task_lock_{tasks[0].id}", "task_lock_h"]


# 4.6


@pytest.mark.parametrize("stored", [False, True])
async def test_4_6_without_an_executor_ignored_and_stored(engines: Engines, stored: bool) -> None:
    handler = engines.handler({"other": single(Runs())})
    [task] = await handler.add_tasks([make_task(force_store=stored)])
    assert (await run_batch(handler)).ignored == 1
    kept = await engines.stored(task)
    assert kept is not None
    assert kept.status is TaskStatus.IGNORED
    assert kept.execution_stats["ignored_reason"] == "unknown_executor"
    assert await engines.queue.depth(QUEUE) == 0


async def test_4_6_neighbours_of_an_unknown_type_run(engines: Engines) -> None:
    runs = Runs()
    handler = engines.handler({TYPE: single(runs)})
    await handler.add_tasks([make_task(1, type="unknown"), make_task(2)])
    summary = await run_batch(handler)
    assert (summary.ignored, summary.succeeded) == (1, 1)
