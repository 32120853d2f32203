"""SPEC 3.1, 3.3, 3.4, 3.6: claiming what can soon run, waking up, stopping, giving back."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path
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
    open_engines,
    parallel,
    serving,
    single,
    until,
)
from taskloom import SystemClock, Task, TaskHandler, TaskStatus

# 3.1 no hoarding


async def test_3_1_a_busy_worker_leaves_tasks_to_another(engines: Engines) -> None:
    slow, fast = Runs(gate=asyncio.Event()), Runs()
    busy = engines.handler({TYPE: single(slow)})
    other = engines.handler({TYPE: single(fast)})
    assert slow.gate is not None
    await other.add_tasks([make_task(n) for n in range(10)])
    async with serving(busy):
        await slow.reach(1)
        async with serving(other):
            await fast.reach(9)
            slow.gate.set()
    assert sorted(slow.payloads + fast.payloads) == list(range(10))


async def test_3_1_one_claim_takes_at_most_1000(engines: Engines) -> None:
    parts, runs = engines.meddled(), Runs()
    handler = engines.handler({TYPE: parallel(runs, chunk_size=5000)}, parts=parts)
    count = engines.sized(1500)
    await handler.add_tasks([make_task(n) for n in range(count)])
    async with serving(handler):
        await runs.reach(count)
    limits = [args[1] for name, args, _ in parts.calls if name == "queue.claim"]
    assert max(limits) <= 1000


async def test_3_1_several_queues_have_a_consumer_each(engines: Engines) -> None:
    slow, fast = Runs(gate=asyncio.Event()), Runs()
    assert slow.gate is not None
    handler = engines.handler({("a", TYPE): single(slow), ("b", TYPE): single(fast)})
    await handler.add_tasks([make_task(queue_id="a"), make_task(queue_id="b")])
    async with serving(handler):
        await slow.reach(1)
        await fast.finished.reach(1)
        slow.gate.set()


# 3.3 waking up


async def test_3_3_an_idle_worker_in_memory_needs_no_time_to_start_a_task(memory: Engines) -> None:
    parts, runs = memory.meddled(), Runs()
    handler = memory.handler({TYPE: single(runs)}, parts=parts)
    async with serving(handler):
        await parts.called("queue.claim", 2)
        await handler.add_tasks([make_task()])
        await runs.reach(1)


@pytest.mark.usefixtures("no_polls")
async def test_3_3_an_idle_worker_starts_tasks_without_waiting_for_a_poll(
    engines: Engines,
) -> None:
    runs = Runs()
    handler = engines.handler({TYPE: single(runs)})
    async with serving(handler):
        for number in range(20):
            await handler.add_tasks([make_task(number)])
            await runs.finished.reach(number + 1)


async def test_3_3_an_idle_worker_finds_what_another_process_added(
    sql: Engines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskloom.consumer.POLL", 3600.0)  # in the claim that waits, not the next
    parts, runs = sql.meddled(), Runs()
    handler = sql.handler({TYPE: single(runs)}, parts=parts)
    other = open_engines(sql.kind, SystemClock(), tmp_path, sql.url)
    async with serving(handler), other as elsewhere:
        await parts.called("queue.claim", 2)
        await elsewhere.handler().add_tasks([make_task()])
        await runs.reach(1)


async def test_3_3_nothing_starts_before_its_time(engines: Engines) -> None:
    runs = Runs()
    handler = engines.handler({TYPE: single(runs)})
    due = engines.clock.now() + timedelta(seconds=0.3)
    async with serving(handler):
        await handler.add_tasks([make_task(execute_at=due)])
        await runs.reach(1)
        assert engines.clock.now() >= due


# 3.4 stopping


async def test_3_4_after_stop_nothing_is_claimed(engines: Engines) -> None:
    parts, runs = engines.meddled(), Runs(gate=asyncio.Event())
    assert runs.gate is not None
    handler = engines.handler({TYPE: parallel(runs)}, parts=parts)
    await handler.add_tasks([make_task("running")])
    async with serving(handler) as stop:
        await runs.reach(1)
        stop.set()
        for _ in range(5):  # the turns of the loop until everyone here has heard
            await asyncio.sleep(0)
        claims = len(parts.names("queue.claim"))
        await handler.add_tasks([make_task("too late")])
        runs.gate.set()
    assert len(parts.names("queue.claim")) == claims
    assert runs.payloads == ["running"]
    assert await engines.queue.depth(QUEUE) == 1


async def test_3_4_what_a_replaced_executor_runs_is_released_too(engines: Engines) -> None:
    old, new = Runs(gate=asyncio.Event()), Runs()
    handler = engines.handler({TYPE: single(old)}, shutdown_grace_period=0.05)
    await handler.add_tasks([make_task("old")])
    async with serving(handler):
        await old.reach(1)
        handler.task_queues.register(QUEUE, TYPE, single(new), replace=True)
        await handler.add_tasks([make_task("new")])
        await new.reach(1)
    assert await engines.queue.depth(QUEUE) == 1


async def test_3_4_what_runs_may_finish_and_is_settled(engines: Engines) -> None:
    runs = Runs(gate=asyncio.Event())
    assert runs.gate is not None
    handler = engines.handler({TYPE: single(runs)})
    (task,) = await handler.add_tasks([make_task(force_store=True)])
    async with serving(handler) as stop:
        await runs.reach(1)
        stop.set()
        await asyncio.sleep(0.05)
        runs.gate.set()
    assert await engines.status(task) is TaskStatus.EXECUTED


class Stumbling(Runs):
    """Runs fast until a task with payload "stop" comes, and waits for the gate in that."""

    def __init__(self) -> None:
        super().__init__()
        self.stuck = asyncio.Event()
        self.go_on = asyncio.Event()

    async def __call__(self, task: Task[Any], actions: Any) -> None:
        if task.payload == "stop":
            self.stuck.set()
            await self.go_on.wait()
        await super().__call__(task, actions)


async def test_3_4_what_has_not_started_is_released_at_once(engines: Engines) -> None:
    runs, fast = Stumbling(), Runs()
    handler = engines.handler({TYPE: single(runs)})
    half = engines.sized(500)
    payloads = [*range(half), "stop", *range(half, 2 * half)]
    await handler.add_tasks([make_task(payload) for payload in payloads])
    async with serving(handler) as stop:
        await until(runs.stuck)
        stop.set()
        # The stuck one runs on: the others must be free although this worker has not ended.
        async with serving(engines.handler({TYPE: parallel(fast)})):
            await fast.reach(half)
        runs.go_on.set()
    assert sorted(fast.payloads) == list(range(half, 2 * half))
    assert runs.payloads[-1] == "stop"


@pytest.mark.parametrize("kind", ["async", "stubborn"])
async def test_3_4_what_is_left_after_the_grace_period_runs_elsewhere_at_once(
    engines: Engines, kind: str
) -> None:
    ended = asyncio.Event()

    async def stuck(task: Task[Any], actions: Any) -> None:
        started.set()
        while not ended.is_set():
            try:
                await ended.wait()
            except asyncio.CancelledError:
                if kind == "async":
                    raise

    started, parts, runs = asyncio.Event(), engines.meddled(), Runs()
    handler = engines.handler({TYPE: single(stuck)}, shutdown_grace_period=0.05)
    await handler.add_tasks([make_task("once more")])
    async with serving(handler):
        await until(started)
    other = engines.handler({TYPE: single(runs)}, parts=parts)
    summary = await other.process_batch(QUEUE)
    assert (summary.succeeded, runs.payloads) == (1, ["once more"])
    ended.set()


async def test_3_4_cancelling_serve_gives_no_grace(engines: Engines) -> None:
    stuck, runs = Runs(gate=asyncio.Event()), Runs()
    handler = engines.handler({TYPE: single(stuck)}, shutdown_grace_period=3600)
    await handler.add_tasks([make_task()])
    work = asyncio.create_task(handler.serve())
    await stuck.reach(1)
    work.cancel()
    async with asyncio.timeout(PATIENCE):
        await asyncio.wait([work])
    assert work.cancelled()
    assert (await engines.handler({TYPE: single(runs)}).process_batch(QUEUE)).succeeded == 1


async def test_3_4_a_cancel_after_stop_ends_the_grace(engines: Engines) -> None:
    stuck, runs = Runs(gate=asyncio.Event()), Runs()
    stop = asyncio.Event()
    handler = engines.handler({TYPE: single(stuck)}, shutdown_grace_period=3600)
    await handler.add_tasks([make_task()])
    work = asyncio.create_task(handler.serve(stop=stop))
    await stuck.reach(1)
    stop.set()
    await asyncio.sleep(0.05)
    assert not work.done()
    work.cancel()
    async with asyncio.timeout(PATIENCE):
        await asyncio.wait([work])
    assert (await engines.handler({TYPE: single(runs)}).process_batch(QUEUE)).succeeded == 1


async def test_3_4_the_handler_can_serve_again(engines: Engines) -> None:
    runs = Runs()
    handler = engines.handler({TYPE: single(runs)})
    for number in range(2):
        await handler.add_tasks([make_task(number)])
        async with serving(handler):
            await runs.finished.reach(number + 1)
    assert runs.payloads == [0, 1]


async def test_3_4_leaving_the_handler_stops_what_serves(engines: Engines) -> None:
    runs, diary = Runs(), Diary()
    async with engines.handler({TYPE: single(runs)}, diary=diary) as handler:
        work = asyncio.create_task(handler.serve())
        await handler.add_tasks([make_task()])
        await runs.reach(1)
    assert work.done()
    assert [event.reason for event in diary.of("on_worker_stopped")] == ["stopped"]


async def test_3_4_nothing_is_left_behind(engines: Engines) -> None:
    before = asyncio.all_tasks()
    handler = engines.handler({TYPE: single(Runs())})
    await handler.add_tasks([make_task(n) for n in range(10)])
    async with serving(handler):
        await asyncio.sleep(0)
    await handler.close()
    await asyncio.sleep(0)
    left = asyncio.all_tasks() - before
    if engines.kind == "mongodb":
        left = {task for task in left if not _of_pymongo(task)}
    assert left == set()


def _of_pymongo(task: asyncio.Task[Any]) -> bool:
    """Its client has a task for each answer it waits for, also when nobody asks."""
    return "/pymongo/" in task.get_coro().cr_code.co_filename


# 3.6 claimed and not run


async def _given_back(still: Engines, handler: TaskHandler, runs: Runs) -> None:
    summary = await handler.process_batch(QUEUE)
    assert (summary.claimed, summary.released) == (1, 1)
    assert runs == []
    await still.pass_time(2)
    (delivery,) = await still.queue.claim(QUEUE, 1, lease=1)
    assert delivery.delivery_count == 1
    await still.queue.release([delivery])
    assert (await handler.process_batch(QUEUE)).succeeded == 1


async def test_3_6_an_error_before_the_executor_releases(still: Engines) -> None:
    parts, runs = still.meddled(), Runs()
    parts.fail("cache.acquire_many")
    handler = still.handler({TYPE: single(runs)}, parts=parts)
    await handler.add_tasks([make_task(task_hash="h")])
    await _given_back(still, handler, runs)


async def test_3_6_a_storage_that_does_not_answer_before_the_executor_releases(
    memory: Engines,
) -> None:
    parts, runs = memory.meddled(), Runs()
    parts.fail("storage.take_over")
    handler = memory.handler({TYPE: single(runs)}, parts=parts)
    await handler.add_tasks([make_task(force_store=True)])
    await _given_back(memory, handler, runs)


async def test_3_6_a_cancelled_batch_releases_what_it_claimed(still: Engines) -> None:
    stuck, parts = Runs(gate=asyncio.Event()), still.meddled()
    handler = still.handler({TYPE: single(stuck)}, parts=parts)
    await handler.add_tasks([make_task(n) for n in range(3)])
    work = asyncio.create_task(handler.process_batch(QUEUE))
    await stuck.reach(1)
    work.cancel()
    await asyncio.wait([work])
    assert "queue.ack" not in parts.names()
    deliveries = await still.queue.claim(QUEUE, 10, lease=1)
    assert [each.task.payload for each in deliveries] == [0, 1, 2]
    assert [each.delivery_count for each in deliveries] == [1, 1, 1]


async def test_3_6_a_claim_cancelled_under_way_loses_nothing(still: Engines) -> None:
    parts, runs = still.meddled(), Runs()
    gate = parts.hold("cache.acquire_many")
    handler = still.handler({TYPE: single(runs)}, parts=parts)
    await handler.add_tasks([make_task(task_hash="h")])
    work = asyncio.create_task(handler.process_batch(QUEUE))
    await until(gate.reached)
    work.cancel()
    await asyncio.wait([work])
    await parts.done.reach(1, lambda call: call == "queue.release")
    await still.pass_time(2)
    assert (await handler.process_batch(QUEUE)).succeeded == 1
