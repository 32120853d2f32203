"""Several processes on one SQLite file."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from pathlib import Path

import pytest

from taskloom.sql import SqlQueue, SqlStorage
from taskloom.task import Task, TaskStatus

_HEAD = """
import asyncio, json, sys
from taskloom.outcomes import Ending, Settlement
from taskloom.sql import SqlQueue, SqlStorage
from taskloom.task import Task, TaskStatus

def say(word):
    print(json.dumps(word), flush=True)

async def main(url):
    async with SqlStorage.from_url(url) as storage, SqlQueue(storage) as queue:
"""
_TAIL = "\nasyncio.run(main(sys.argv[1]))\n"

WORKS_IT_OFF = """
        while held := await queue.claim("q", 7, lease=60):
            ends = tuple(Ending(each, TaskStatus.EXECUTED) for each in held)
            assert await storage.settle(Settlement(endings=ends)) == []
            say([each.task.id for each in held])
"""
TAKES_AND_HOLDS = """
        say([each.task.id for each in await queue.claim("q", 5, lease=0.5)])
        await asyncio.sleep(60)
"""
ADDS_ON_COMMAND = """
        say("ready")
        await asyncio.to_thread(sys.stdin.readline)
        await queue.put("q", [Task(type="t", queue_id="q", payload=None)])
"""
ADDS_MANY = """
        for _ in range(30):
            await queue.put("q", [Task(type="t", queue_id="q", payload=n) for n in range(5)])
        say("added")
"""


async def start(body: str, url: str) -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    program = _HEAD + body + _TAIL
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, url, stdin=pipe, stdout=pipe
    )


async def end(process: asyncio.subprocess.Process) -> list[object]:
    out, _ = await process.communicate()
    assert process.returncode == 0
    return [json.loads(line) for line in out.splitlines()]


def some(count: int) -> list[Task[int]]:
    return [Task(type="t", queue_id="q", payload=number) for number in range(count)]


async def test_each_task_goes_to_one_process(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/tasks.db"
    async with SqlStorage.from_url(url) as storage:
        tasks = some(2_000)
        await storage.add(tasks)
        workers = [await start(WORKS_IT_OFF, url) for _ in range(3)]
        said = await asyncio.gather(*(end(worker) for worker in workers))
        ran = Counter(id for lines in said for ids in lines for id in ids)  # type: ignore[attr-defined]
        assert ran == Counter(task.id for task in tasks)
        assert await storage.counts() == {("q", TaskStatus.EXECUTED): 2_000}


async def test_what_a_killed_process_held_comes_back(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/tasks.db"
    async with SqlQueue.from_url(url) as queue:
        await queue.put("q", some(5))
        worker = await start(TAKES_AND_HOLDS, url)
        assert worker.stdout is not None
        held = json.loads(await worker.stdout.readline())
        worker.kill()
        await worker.communicate()
        back = await queue.claim("q", 5, lease=60, wait=30)
        assert [each.task.id for each in back] == held  # type: ignore[union-attr]
        assert {each.delivery_count for each in back} == {2}


async def test_another_process_wakes_a_waiting_claim(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskloom.storage_queue.LOOK_EVERY", 60)  # only being told can help
    url = f"sqlite:///{tmp_path}/tasks.db"
    async with SqlQueue.from_url(url) as queue:
        other = await start(ADDS_ON_COMMAND, url)
        assert other.stdout is not None
        assert other.stdin is not None
        await other.stdout.readline()
        claim = asyncio.create_task(queue.claim("q", 1, lease=60, wait=60))
        await asyncio.sleep(0.1)  # it has found nothing, and waits
        other.stdin.write(b"go\n")
        async with asyncio.timeout(20):
            assert len(await claim) == 1
        await end(other)


async def test_eight_processes_open_and_write_at_once(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/tasks.db"
    writers = [await start(ADDS_MANY, url) for _ in range(8)]
    assert [await end(writer) for writer in writers] == [["added"]] * 8
    async with SqlQueue.from_url(url) as queue:
        assert await queue.depth("q") == 8 * 30 * 5
