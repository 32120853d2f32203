"""FAULTS F6, R14: user code that blocks the event loop, for shorter and longer than a lease."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from harness import PATIENCE, QUEUE, TYPE, Diary, Engines, Runs, make_task, serving, single
from taskloom import Task
from taskloom.outcomes import Delivery
from taskloom.sql import SqlQueue


async def test_r14_a_blocked_loop_is_told_with_the_stack_that_blocks_it(
    engines: Engines, caplog: pytest.LogCaptureFixture
) -> None:
    texts: list[str] = []

    async def blocks_the_loop(task: Task[Any], actions: Any) -> None:
        for _ in range(150):  # three seconds, and those in which the whole machine stands still
            if "has been blocked" in caplog.text:
                break
            time.sleep(0.02)  # noqa: ASYNC251 (the point of this test)
        texts.append(caplog.text)
        actions.success(task)

    runs = Runs()
    handler = engines.handler({TYPE: single(blocks_the_loop), "other": single(runs)})
    async with serving(handler):
        await handler.add_tasks([make_task()])
        await handler.add_tasks([make_task(type="other")])
        await runs.finished.reach(1)
    assert "the event loop has been blocked" in texts[0]
    assert "in blocks_the_loop" in texts[0]


async def test_f6_blocked_longer_than_its_lease_an_outcome_is_refused(sql: Engines) -> None:
    stolen: list[Delivery] = []

    async def claim_elsewhere() -> None:
        async with SqlQueue.from_url(sql.url) as queue:
            records = await queue.claim(QUEUE, 1, lease=60, wait=PATIENCE)
            stolen.extend(record for record in records if isinstance(record, Delivery))

    async def blocks_the_loop(task: Task[Any], actions: Any) -> None:
        thief = threading.Thread(target=lambda: asyncio.run(claim_elsewhere()))
        thief.start()
        thief.join(PATIENCE)
        actions.success(task, "too late")

    handler = sql.handler({TYPE: single(blocks_the_loop)}, lease=0.5)
    [task] = await handler.add_tasks([make_task()])
    while not stolen:  # what came to its run after its lease is not started
        summary = await handler.process_batch(QUEUE)
        assert (summary.succeeded, summary.released) == (0, 1)
    assert [delivery.task.id for delivery in stolen] == [task.id]
    assert stolen[0].delivery_count > 1
    assert await sql.queue.extend(stolen, 60) == []


async def test_f6_blocked_for_less_than_its_lease_nothing_runs_twice(sql: Engines) -> None:
    runs: list[str] = []

    async def blocks_the_loop(task: Task[Any], actions: Any) -> None:
        runs.append(task.id)
        time.sleep(0.5)  # noqa: ASYNC251 (the point of this test)
        actions.success(task)

    diary = Diary()
    one = sql.handler({TYPE: single(blocks_the_loop)}, lease=5, diary=diary)
    two = sql.handler({TYPE: single(blocks_the_loop)}, lease=5, diary=diary)
    tasks = await one.add_tasks([make_task(n) for n in range(2)])
    async with serving(one), serving(two):
        await diary.told("on_task_completed", 2)
    assert sorted(runs) == sorted(task.id for task in tasks)
