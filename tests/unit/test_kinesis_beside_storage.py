"""Tasks carried by Kinesis and remembered in a storage: the path of the handler on a stream."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from kinesis_cluster import Cluster, cluster

from taskloom import ExecutorActions, Loom, Task, TaskHandlerConfig, TaskStatus
from taskloom.memory import InMemoryCache, InMemoryStorage

PATIENCE = 15.0


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[Cluster]:
    async with cluster(tmp_path) as found:
        found.fake.stream("s", 2)
        yield found


async def loom_on(here: Cluster, storage: InMemoryStorage | None = None, **config: Any) -> Loom:
    return Loom(
        None,
        queue=await here.instance(),
        storage=storage or InMemoryStorage(),
        cache=InMemoryCache(),
        config=TaskHandlerConfig(mature_interval=0.05, **config),
    )


@asynccontextmanager
async def at_work(loom: Loom) -> AsyncIterator[None]:
    stop = asyncio.Event()
    async with loom:
        work = asyncio.create_task(loom.run_worker(stop=stop))
        try:
            yield
        finally:
            stop.set()
            async with asyncio.timeout(PATIENCE):
                await work


class Log:
    """What ran, with `expect` to wait for so many."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, int]] = []
        self._news = asyncio.Event()

    def add(self, what: str, key: str, number: int) -> None:
        self.lines.append((what, key, number))
        self._news.set()

    async def expect(self, what: str, count: int) -> None:
        async with asyncio.timeout(PATIENCE):
            while sum(line[0] == what for line in self.lines) < count:
                self._news.clear()
                await self._news.wait()


async def test_records_of_a_key_run_one_after_the_other_in_a_parallel_executor(
    here: Cluster,
) -> None:
    """Of two types, in lanes side by side: a key's order is that of all its tasks."""
    loom, log = await loom_on(here), Log()

    async def body(key: str, number: int) -> None:
        log.add("start", key, number)
        # The earlier a task, the longer it takes: it would be overtaken if it could.
        await asyncio.sleep(0.02 / (1 + number % 5))
        log.add("end", key, number)

    @loom.task(type="one", queue="s", concurrency=16)
    async def one(key: str, number: int) -> None:
        await body(key, number)

    @loom.task(type="other", queue="s", concurrency=16)
    async def other(key: str, number: int) -> None:
        await body(key, number)

    async with at_work(loom):
        for number in range(60):
            key, kind = f"k{number % 5}", (one, other)[number % 2]
            await kind.with_(partition_key=key).enqueue(key, number)
        await log.expect("end", 60)
    by_key: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for what, key, number in log.lines:
        by_key[key].append((what, number))
    for key, lines in by_key.items():
        numbers = [number for number in range(60) if f"k{number % 5}" == key]
        expected = [(what, number) for number in numbers for what in ("start", "end")]
        assert lines == expected
    starts = [what for what, _, _ in log.lines]
    assert "start start" in " ".join(starts), "different keys run side by side"


async def test_a_retry_and_a_later_task_wait_in_the_storage(here: Cluster) -> None:
    storage, log = InMemoryStorage(), Log()
    loom = await loom_on(here, storage)

    @loom.task(type="retried", queue="s", retries=2)
    async def retried(number: int, task: Task[Any]) -> None:
        log.add("run", "", task.retry_count)
        if task.retry_count < 2:
            raise ValueError("not yet")

    async with at_work(loom):
        soon = datetime.now(UTC) + timedelta(seconds=0.3)
        later = await retried.with_(at=soon, retry_after=0.05).enqueue(1)
        (waits,) = await storage.get([later.id])
        assert waits.status is TaskStatus.SCHEDULED
        await log.expect("run", 3)
        await _until_status(storage, later.id, TaskStatus.EXECUTED)
    assert [number for _, _, number in log.lines] == [0, 1, 2]


async def _until_status(storage: InMemoryStorage, id: str, status: TaskStatus) -> None:
    async with asyncio.timeout(PATIENCE):
        while True:
            found = await storage.get([id])
            if found and found[0].status is status:
                return
            await asyncio.sleep(0.01)


async def test_bytes_that_are_no_task_are_set_aside_as_they_came(here: Cluster) -> None:
    storage, log = InMemoryStorage(), Log()
    loom = await loom_on(here, storage)

    @loom.task(type="fine", queue="s")
    async def fine(number: int) -> None:
        log.add("run", "", number)

    here.fake.put_raw("s", "k", b"\xff\x00 no task")
    async with at_work(loom):
        await fine.with_(partition_key="k").enqueue(1)
        await log.expect("run", 1)
    (dead,) = await storage.dead_records()
    assert (dead.raw, dead.queue_id) == (b"\xff\x00 no task", "s")


async def test_what_is_delivered_too_often_is_failed_and_its_neighbours_go_on(
    here: Cluster,
) -> None:
    """Each run outlives its lease, as if its worker had died."""
    storage, log = InMemoryStorage(), Log()
    loom = await loom_on(here, storage, max_deliveries=2, lease=60.0)
    queue = loom.handler.message_queue

    @loom.task(type="fine", queue="s")
    async def fine(number: int) -> None:
        log.add("run", "", number)

    async with loom:
        bad = await fine.with_(partition_key="k").enqueue(1)
        for _ in range(2):
            assert await queue.claim("s", 1, lease=0.01, wait=5), "the lease before ran out"
        await fine.with_(partition_key="k").enqueue(2)
        stop = asyncio.Event()
        work = asyncio.create_task(loom.run_worker(stop=stop))
        await log.expect("run", 1)
        stop.set()
        await work
        (failed,) = await storage.get([bad.id])
    assert failed.status is TaskStatus.FAILED
    assert failed.execution_stats["poison"] == 3
    assert log.lines == [("run", "", 2)]


async def test_what_has_not_started_at_a_stop_goes_to_another_instance(here: Cluster) -> None:
    first, log = await loom_on(here), Log()
    gate = asyncio.Event()

    def register(loom: Loom, name: str) -> Any:
        @loom.task(type="work", queue="s", concurrency=1)
        async def work(number: int, actions: ExecutorActions) -> None:
            log.add(name, "", number)
            if name == "first":
                await gate.wait()

        return work

    work = register(first, "first")
    async with at_work(first):
        await work.enqueue_many([(number,) for number in range(6)])
        await log.expect("first", 1)
        gate.set()
    await first.handler.message_queue.close()
    second = await loom_on(here)
    register(second, "second")
    done = sum(name == "first" for name, _, _ in log.lines)
    async with at_work(second):
        await log.expect("second", 6 - done)
    assert sorted(number for _, _, number in log.lines) == list(range(6))
