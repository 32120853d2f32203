"""SPEC 12.1-12.3: what each of the first three queues promises beside the rules for all."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from harness import (
    QUEUE,
    TYPE,
    Diary,
    Engines,
    Parts,
    Runs,
    make_task,
    multi,
    open_engines,
    serving,
    single,
)
from taskloom import SystemClock, Task, TaskStatus
from taskloom.memory import ImmediateQueue, InMemoryCache, InMemoryQueue, InMemoryStorage
from taskloom.testing import ManualClock

# 12.1 memory


@pytest.mark.parametrize("engines", ["memory", "sqlite", "postgresql"], indirect=True)
async def test_12_1_tasks_run_in_the_order_they_are_due(engines: Engines) -> None:
    """Of two puts as well; on Redis those are in order of arrival (13)."""
    runs = Runs()
    handler = engines.handler({TYPE: single(runs)})
    past = engines.clock.now() - timedelta(seconds=60)
    order = [3, 0, 4, 1, 2]
    tasks = [make_task(n, execute_at=past + timedelta(seconds=n)) for n in order]
    await handler.add_tasks(tasks[:2])
    await handler.add_tasks(tasks[2:])
    await handler.drain(10)
    assert runs.payloads == sorted(order)


async def test_12_1_tasks_due_at_once_run_in_the_order_they_were_added(engines: Engines) -> None:
    runs = Runs()
    handler = engines.handler({TYPE: single(runs)})
    now = engines.clock.now()
    await handler.add_tasks([make_task(n, execute_at=now, created_at=now) for n in range(50)])
    await handler.drain(10)
    assert runs.payloads == list(range(50))


async def test_12_1_a_new_memory_queue_is_empty(memory: Engines) -> None:
    await memory.handler().add_tasks([make_task()])
    assert await memory.queue.depth(QUEUE) == 1
    assert await InMemoryQueue().depth(QUEUE) == 0
    assert not InMemoryQueue.features.durable


# 12.2 immediate


@pytest.fixture
async def immediate(tmp_path: Path) -> AsyncIterator[Engines]:
    clock = ManualClock()
    parts = Parts(ImmediateQueue(clock), InMemoryStorage(clock), InMemoryCache(clock))
    engines = Engines("immediate", clock, parts, tmp_path)
    yield engines
    await engines.close()


async def test_12_2_add_tasks_returns_after_the_task_ran(immediate: Engines) -> None:
    runs = Runs()
    await immediate.handler({TYPE: single(runs)}).add_tasks([make_task(1), make_task(2)])
    assert [task.payload for task in runs.finished] == [1, 2]


async def test_12_2_a_stored_task_is_executed_with_its_result(immediate: Engines) -> None:
    handler = immediate.handler({TYPE: single(Runs())})
    (task,) = await handler.add_tasks([make_task("r", force_store=True)])
    found = await immediate.stored(task)
    assert found is not None
    assert (found.status, found.execution_result) == (TaskStatus.EXECUTED, "r")


@pytest.mark.parametrize("delay", [1, 60])  # 60 s grow beyond the storage horizon
async def test_12_2_retries_skip_their_delay(immediate: Engines, delay: float) -> None:
    attempts: list[int] = []

    async def fail(task: Task[Any], actions: Any) -> None:
        attempts.append(task.retry_count)
        actions.fail(task, "no")

    handler = immediate.handler({TYPE: single(fail)})
    before = immediate.clock.now()
    (task,) = await handler.add_tasks([make_task(retries=3, retry_after=delay)])
    assert attempts == [0, 1, 2, 3]
    assert immediate.clock.now() == before
    assert await immediate.status(task) is TaskStatus.FAILED


async def test_12_2_children_have_run_too(immediate: Engines) -> None:
    async def parent(task: Task[Any], actions: Any) -> None:
        actions.add_tasks([make_task("child"), make_task("other queue", queue_id="other")])
        actions.success(task)

    runs = Runs()
    executors = {"parent": single(parent), TYPE: single(runs), ("other", TYPE): single(runs)}
    await immediate.handler(executors).add_tasks([make_task(type="parent")])
    assert sorted(runs.payloads) == ["child", "other queue"]


async def test_12_2_children_added_through_the_handler_have_run_too(immediate: Engines) -> None:
    async def parent(task: Task[Any], actions: Any) -> None:
        await handler.add_tasks([make_task("child")])
        actions.success(task)

    runs = Runs()
    handler = immediate.handler({"parent": single(parent), TYPE: single(runs)})
    await handler.add_tasks([make_task(type="parent")])
    assert runs.payloads == ["child"]


async def test_12_2_a_multi_executor_gets_what_was_added_together(immediate: Engines) -> None:
    calls: list[int] = []

    async def batch(tasks: list[Task[Any]], actions: Any) -> None:
        calls.append(len(tasks))
        for task in tasks:
            actions.success(task)

    await immediate.handler({TYPE: multi(batch)}).add_tasks([make_task(n) for n in range(5)])
    assert calls == [5]


async def test_12_2_due_soon_runs_at_once_and_due_later_goes_to_storage(
    immediate: Engines,
) -> None:
    runs = Runs()
    handler = immediate.handler({TYPE: single(runs)})
    now = immediate.clock.now()
    soon = make_task("soon", execute_at=now + timedelta(seconds=60))
    later = make_task("later", execute_at=now + timedelta(seconds=121))
    await handler.add_tasks([soon, later])
    assert runs.payloads == ["soon"]
    assert await immediate.status(later) is TaskStatus.SCHEDULED


async def test_12_2_a_failing_task_does_not_make_add_tasks_fail(immediate: Engines) -> None:
    async def boom(task: Task[Any], actions: Any) -> None:
        raise RuntimeError("boom")

    diary = Diary()
    handler = immediate.handler({TYPE: single(boom)}, diary=diary)
    (task,) = await handler.add_tasks([make_task()])
    assert await immediate.status(task) is TaskStatus.FAILED
    assert len(diary.of("on_task_exhausted")) == 1


async def test_12_2_concurrent_adders_each_see_their_own_done(immediate: Engines) -> None:
    runs = Runs()
    handler = immediate.handler({TYPE: single(runs)})

    async def add(number: int) -> bool:
        (task,) = await handler.add_tasks([make_task(number)])
        return task.id in [each.id for each in runs.finished]

    assert all(await asyncio.gather(*(add(n) for n in range(20))))


# 12.3 sql


async def test_12_3_sqlite_runs_in_wal_mode(sqlite: Engines) -> None:
    await sqlite.handler().add_tasks([make_task()])
    connection = sqlite3.connect(sqlite.file)
    try:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    finally:
        connection.close()


async def test_12_3_tasks_outlive_the_process_that_added_them(tmp_path: Path) -> None:
    runs = Runs()
    async with open_engines("sqlite", SystemClock(), tmp_path) as engines:
        (task,) = await engines.handler().add_tasks([make_task({"nul": "\x00"})])
    async with open_engines("sqlite", SystemClock(), tmp_path) as engines:
        await engines.handler({TYPE: single(runs)}).drain(10)
        assert await engines.status(task) is TaskStatus.EXECUTED
    assert runs.payloads == [{"nul": "\x00"}]


async def test_12_3_two_on_one_database_share_the_work(sql: Engines, tmp_path: Path) -> None:
    here, there, diary = Runs(), Runs(), Diary()
    first = sql.handler({TYPE: single(here)}, diary=diary)
    async with open_engines(sql.kind, SystemClock(), tmp_path, sql.url) as elsewhere:
        second = elsewhere.handler({TYPE: single(there)}, diary=diary)
        async with serving(first), serving(second):
            for start in range(0, 300, 30):
                await first.add_tasks([make_task(n) for n in range(start, start + 30)])
            await diary.told("on_task_completed", 300)
    assert sorted(here.payloads + there.payloads) == list(range(300))


WORKER = """
import asyncio, os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from harness import TYPE, open_engines, parallel
from taskloom import SystemClock

log = os.open(sys.argv[3], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

async def work(task, actions):
    os.write(log, f"{task.payload}\\n".encode())
    await asyncio.sleep(0.001)
    actions.success(task)

async def main():
    kind, folder, url = sys.argv[1], Path(sys.argv[4]), sys.argv[5]
    async with open_engines(kind, SystemClock(), folder, url) as engines:
        await engines.handler({TYPE: parallel(work, 4)}).drain(30)

asyncio.run(main())
"""


async def test_12_3_many_processes_run_each_task_once(sql: Engines, tmp_path: Path) -> None:
    tasks = await sql.handler().add_tasks([make_task(n) for n in range(400)])
    log = tmp_path / "ran.log"
    arguments = [sql.kind, str(Path(__file__).parent), str(log), str(tmp_path), sql.url]
    command = [sys.executable, "-c", WORKER, *arguments]
    workers = [
        await asyncio.create_subprocess_exec(*command, stderr=subprocess.PIPE) for _ in range(3)
    ]
    ends = await asyncio.gather(*(worker.communicate() for worker in workers))
    assert [worker.returncode for worker in workers] == [0, 0, 0], ends
    ran = [int(line) for line in log.read_text().split()]
    assert sorted(ran) == list(range(400))
    assert {await sql.status(task) for task in tasks} == {TaskStatus.EXECUTED}
