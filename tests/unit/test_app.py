"""A Loom opens and closes its parts, and is a door only while it is open."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, cast

import pytest

from taskloom.app import Loom
from taskloom.errors import ConfigurationError, TaskloomError
from taskloom.interfaces.opening import Opening
from taskloom.memory import InMemoryCache, InMemoryQueue, InMemoryStorage
from taskloom.task import Task, TaskStatus


class Parts:
    """Memory parts that write down when they are opened and closed."""

    def __init__(self, *, failing: str = "") -> None:
        self.log: list[str] = []
        self.failing = failing
        self.queue = self.watch(InMemoryQueue(), "queue")
        self.storage = self.watch(InMemoryStorage(), "storage")
        self.cache = self.watch(InMemoryCache(), "cache")

    def loom(self) -> Loom:
        return Loom(None, queue=self.queue, storage=self.storage, cache=self.cache)

    def watch(self, part: Any, name: str) -> Any:
        def note(event: str) -> Coroutine[Any, Any, None]:
            async def call() -> None:
                self.log.append(f"{event} {name}")
                if f"{event} {name}" == self.failing:
                    raise ConnectionError(name)

            return call()

        part.open = lambda: note("open")
        part.close = lambda: note("close")
        return part


OPEN = ["open storage", "open queue", "open cache"]
CLOSE = ["close cache", "close queue", "close storage"]


async def test_parts_are_opened_once_and_closed_in_reverse_order() -> None:
    parts = Parts()
    async with parts.loom() as loom:
        assert parts.log == OPEN
        async with loom:
            pass
        assert parts.log == OPEN
    assert parts.log == OPEN + CLOSE


async def test_what_a_queue_stands_on_is_opened_before_it() -> None:
    parts = Parts()
    parts.queue.beneath = [parts.watch(Opening(), "locks")]
    async with parts.loom():
        assert parts.log == ["open storage", "open locks", "open queue", "open cache"]
    assert parts.log[4:] == ["close cache", "close queue", "close locks", "close storage"]


async def test_a_loom_may_be_entered_again() -> None:
    parts = Parts()
    loom = parts.loom()
    for _ in range(2):
        async with loom:
            await loom.add_tasks([Task(type="t", queue_id="q", payload=None)])
    assert parts.log == (OPEN + CLOSE) * 2


async def test_entering_twice_at_once_opens_once() -> None:
    parts = Parts()
    loom = parts.loom()
    both = asyncio.Barrier(2)

    async def use() -> None:
        async with loom:
            await both.wait()

    await asyncio.gather(use(), use())
    assert parts.log == OPEN + CLOSE


@pytest.mark.parametrize("failing", OPEN)
async def test_what_was_opened_is_closed_when_a_part_cannot_open(failing: str) -> None:
    parts = Parts(failing=failing)
    loom = parts.loom()
    with pytest.raises(ConnectionError):
        await loom.__aenter__()
    opened = OPEN[: OPEN.index(failing) + 1]
    assert parts.log == opened + [line.replace("open", "close") for line in reversed(opened)]
    with pytest.raises(TaskloomError, match="not open"):
        await loom.add_tasks([])


async def test_an_error_inside_and_one_while_closing_still_close_everything() -> None:
    parts = Parts(failing="close cache")
    loom = parts.loom()
    with pytest.raises(ConnectionError):
        async with loom:
            raise ValueError("inside")
    assert parts.log == OPEN + CLOSE
    with pytest.raises(TaskloomError, match="not open"):
        await loom.get_tasks([])


async def test_a_closed_door_says_how_to_open_it() -> None:
    loom = Loom("memory://")

    @loom.task
    async def send() -> None: ...

    calls = [
        send.enqueue(),
        loom.add_tasks([]),
        loom.start_flow([send.step()], join=send.join()),
        loom.get_tasks([]),
        loom.cancel_tasks([], reason="x"),
        loom.retry_tasks([]),
    ]
    for call in calls:
        with pytest.raises(TaskloomError, match="`async with loom:`"):
            await cast(Coroutine[Any, Any, Any], call)


async def test_annotations_are_checked_on_opening() -> None:
    loom = Loom("memory://")

    @loom.task
    async def use(db: asyncio.Lock) -> None: ...

    with pytest.raises(TypeError, match="parameter 'db' cannot be part of a payload"):
        await loom.__aenter__()


async def test_a_worker_opens_the_loom_if_it_must() -> None:
    parts = Parts()
    loom = parts.loom()
    stop = asyncio.Event()

    @loom.task
    async def finish() -> None:
        await again.enqueue()

    @loom.task
    async def again() -> None:
        stop.set()

    async with loom:
        await finish.enqueue()
        await asyncio.wait_for(loom.run_worker(stop=stop), 10)
        assert parts.log == OPEN
    parts.log.clear()
    stop.set()
    await asyncio.wait_for(loom.run_worker(["default"], stop), 10)
    assert parts.log == OPEN + CLOSE


async def test_the_door_reaches_the_handler() -> None:
    async with Loom("memory://") as loom:

        @loom.task(retries=0)
        async def broken() -> None:
            raise RuntimeError

        later = await broken.with_(delay=3600).enqueue()
        assert await loom.cancel_tasks([later.id], reason="withdrawn") == [later.id]
        failed = await broken.enqueue()
        await loom.handler.drain(timeout=5)
        [task] = await loom.get_tasks([failed.id])
        assert task.status is TaskStatus.FAILED
        assert await loom.retry_tasks([failed.id]) == [failed.id]


def test_making_a_loom_does_no_io(tmp_path: Path) -> None:
    Loom(f"sqlite:///{tmp_path}/tasks.db").task(abs_of)
    assert list(tmp_path.iterdir()) == []


def abs_of(number: int) -> int:
    return abs(number)


async def test_sqlite_from_one_url(tmp_path: Path) -> None:
    loom = Loom(f"sqlite:///{tmp_path}/tasks.db")

    @loom.task
    async def double(number: int) -> int:
        return number * 2

    async with loom:
        task = await double.enqueue(4)
    async with loom:
        await loom.handler.drain(timeout=10)
        [ended] = await loom.get_tasks([task.id])
    assert (ended.status, ended.execution_result) == (TaskStatus.EXECUTED, 8)


def test_parts_by_name_replace_those_of_the_url() -> None:
    queue, storage, cache = InMemoryQueue(), InMemoryStorage(), InMemoryCache()
    loom = Loom("memory://", storage=storage)
    assert loom.queues.message_queue is not queue
    loom = Loom("redis://:secret@host", queue=queue, storage=storage, cache=cache)
    assert loom.queues.message_queue is queue


def test_without_a_url_what_is_missing_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"missing: storage, cache$"):
        Loom(None, queue=InMemoryQueue())
    with pytest.raises(TypeError, match="url must be a text, not InMemoryQueue"):
        Loom(cast(Any, InMemoryQueue()))


def test_repr_says_what_it_stands_on_and_no_secret() -> None:
    queue, storage, cache = InMemoryQueue(), InMemoryStorage(), InMemoryCache()
    assert repr(Loom("memory://")) == "Loom('memory://')"
    loom = Loom("redis://:secret@host", queue=queue, storage=storage, cache=cache)
    assert repr(loom) == "Loom(queue=InMemoryQueue, storage=InMemoryStorage, cache=InMemoryCache)"
