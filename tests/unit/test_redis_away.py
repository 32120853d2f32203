"""Redis that is away, hangs, or is a replica now; calls that are cancelled."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from redis.asyncio import Redis

from redis_server import free_port, redis_server
from taskloom import QueueUnavailableError, StorageUnavailableError, Task
from taskloom.identity import new_id
from taskloom.redis import RedisQueue, RedisServer, RedisStorage
from taskloom.redis.reach import Reach

ATTEMPTS = 8


class Door:
    """A port where every connection ends at once; counts them."""

    def __init__(self) -> None:
        self.knocks: list[float] = []
        self.enough = asyncio.Event()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.knocks.append(time.monotonic())
        if len(self.knocks) == ATTEMPTS:
            self.enough.set()
        writer.close()


@asynccontextmanager
async def shut_door() -> AsyncIterator[tuple[Door, str]]:
    door = Door()
    async with await asyncio.start_server(door, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        yield door, f"redis://127.0.0.1:{port}/0"


async def test_many_loops_knock_as_seldom_as_one() -> None:
    async with shut_door() as (door, url):
        queue = RedisQueue.from_url(url)

        async def ask_for_ever() -> None:
            while True:
                with pytest.raises(QueueUnavailableError):
                    await queue.depth("q")

        with pytest.raises(QueueUnavailableError):
            await queue.depth("q")
        async with asyncio.timeout(20.0):
            loops = [asyncio.create_task(ask_for_ever()) for _ in range(10)]
            await door.enough.wait()
        for loop in loops:
            loop.cancel()
        await asyncio.gather(*loops, return_exceptions=True)
        rate = (ATTEMPTS - 1) / (door.knocks[-1] - door.knocks[0])
        assert rate < 20.0
        await queue.close()


async def test_a_server_that_is_back_is_used_at_once(tmp_path: Path) -> None:
    port = free_port()
    storage = RedisStorage.from_url(f"redis://127.0.0.1:{port}/0")
    for _ in range(3):
        with pytest.raises(StorageUnavailableError, match="cannot be reached"):
            await storage.counts()
    with redis_server(tmp_path, port):
        calls = await asyncio.gather(*(storage.counts() for _ in range(20)))
        assert calls == [{}] * 20
        await storage.close()


async def test_a_server_that_hangs_is_unavailable(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskloom.redis.reach.CALL_LIMIT", 0.2)
    client = Redis.from_url(redis_url, socket_timeout=None)
    server = RedisServer(client)
    with pytest.raises(StorageUnavailableError, match="cannot be reached"):
        async with server.calling():
            await client.blpop([f"nothing-{new_id()}"], timeout=0)
    await client.aclose()


async def test_a_demoted_primary_is_not_asked_over_the_same_connection(tmp_path: Path) -> None:
    with redis_server(tmp_path, free_port()) as url:
        async with RedisStorage.from_url(url) as storage:
            client = storage.server.client
            before = await client.client_id()
            await client.replicaof("127.0.0.1", free_port())
            with pytest.raises(StorageUnavailableError, match="replica"):
                await storage.add([Task(type="t", queue_id="q", payload=None)])
            assert await client.client_id() != before
            await client.replicaof("no", "one")
            assert await storage.add([Task(type="t", queue_id="q", payload=None)])


@pytest.mark.parametrize("turns", range(12))
async def test_a_cancelled_call_is_cancelled(redis_url: str, turns: int) -> None:
    """At whatever turn of the loop; a client with `socket_timeout` loses some by itself."""
    async with Redis.from_url(redis_url, socket_timeout=5.0) as client:
        reach = Reach(client, asyncio.ensure_future)

        async def call() -> None:
            async with reach.calling():
                await client.ping()

        await call()
        task = asyncio.create_task(call())
        for _ in range(turns):
            await asyncio.sleep(0)
        if not task.cancel():
            return  # it was through before
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelled()
