"""Eight worker processes of one `taskloom worker` on one queue of a server: each task runs once."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from asyncio.subprocess import Process
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import pytest

from taskloom import Loom, Task
from taskloom.interfaces import TaskArchive

TASKS = int(os.environ.get("TASKLOOM_TEST_TASKS", "5000"))
WORKERS = 8
IN_ONE_CALL = 500
APP = """
import asyncio, os
from taskloom import Loom

loom = Loom({url!r})
runs = os.open("runs", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

@loom.task(retries=0)
async def note(n: int) -> int:
    os.write(runs, f"{{os.getpid()}} {{n}}\\n".encode())
    await asyncio.sleep(0.02)
    return n
"""


@pytest.fixture(params=["postgresql", "redis", "mongodb"])
def url(request: pytest.FixtureRequest) -> str:
    """A place of its own for the tasks."""
    if request.param != "redis":
        name = {"postgresql": "postgres_url", "mongodb": "mongodb_url"}[request.param]
        return str(request.getfixturevalue(name))
    return f"{request.getfixturevalue('redis_url')}?prefix=eight-{uuid4().hex}"


@asynccontextmanager
async def workers(place: Path) -> AsyncIterator[Process]:
    """`taskloom worker` with its eight processes; told to stop, all of them end well."""
    with (place / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "taskloom", "worker", "app:loom"),
            *("--processes", str(WORKERS)),
            cwd=place,
            stdout=log,
            stderr=log,
        )
    try:
        yield process
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0, (place / "log").read_text()
    finally:
        if process.returncode is None:
            process.kill()  # its workers see that, and end
            await process.wait()


def runs_in(place: Path) -> list[tuple[int, int]]:
    """The process and the number of each run so far."""
    lines = (place / "runs").read_text().splitlines()
    return [(int(pid), int(n)) for pid, n in map(str.split, lines)]


async def add(loom: Loom, tasks: int) -> None:
    """All tasks, in calls of some hundreds."""
    for first in range(0, tasks, IN_ONE_CALL):
        numbers = range(first, min(first + IN_ONE_CALL, tasks))
        await loom.add_tasks(
            [Task(type="note", queue_id="default", payload={"n": n}) for n in numbers]
        )


async def until(happened: Callable[[], Awaitable[bool]], worker: Process) -> None:
    """Ask until it has; other processes do not tell us."""
    while not await happened():
        assert worker.returncode is None, "the workers are gone"
        await asyncio.sleep(0.05)


@pytest.mark.timeout(180)  # nine interpreters start, on a busy machine one after the other
async def test_eight_workers_run_each_task_once(url: str, tmp_path: Path) -> None:
    # The server of the wheel does some hundred operations a second.
    tasks = TASKS // 10 if url.startswith("mongodb") else TASKS
    (tmp_path / "app.py").write_text(APP.format(url=url))
    async with Loom(url) as loom:
        handler = loom.handler
        storage = handler.storage
        assert isinstance(storage, TaskArchive)
        async with workers(tmp_path) as worker:

            async def ready() -> bool:
                return len(await storage.workers()) == WORKERS

            async def done() -> bool:
                return len(runs_in(tmp_path)) >= tasks

            await until(ready, worker)
            started = time.monotonic()
            await add(loom, tasks)
            await until(done, worker)
            took = time.monotonic() - started
        left = await handler.message_queue.depth("default")
    runs = runs_in(tmp_path)
    print(f"{tasks} tasks by {WORKERS} workers: {tasks / took:.0f} a second, adding included")
    often = Counter(n for _, n in runs)
    wrong = {n: often[n] for n in range(tasks) if often[n] != 1}
    assert not wrong, f"not run once: {wrong}"
    assert left == 0, "each of them is settled"
    assert len({pid for pid, _ in runs}) > WORKERS / 2, "they shared the work"
