"""Redis as a cluster, and behind Sentinel: every part works, whatever slot its keys are in."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError, ResponseError

from redis_server import free_cluster_port, free_port, redis_server
from taskloom import QueueUnavailableError, Task
from taskloom.flows import FlowStepResult
from taskloom.outcomes import Delivery
from taskloom.redis import (
    RedisCache,
    RedisFlowBarrier,
    RedisQueue,
    RedisServer,
    RedisShardLocks,
    RedisStorage,
)

PATIENCE = 30.0
SLOTS = 16_384


async def ask(url: str, *command: str | int) -> str:
    """One command to one node."""
    client = Redis.from_url(url)
    try:
        return str(await client.execute_command(*command))
    finally:
        await client.aclose()


async def until(url: str, command: str, words: str) -> None:
    """Ask until the answer holds `words`: nodes tell nobody when they have found each other."""
    async with asyncio.timeout(PATIENCE):
        while True:
            with contextlib.suppress(ConnectionError):  # cut as the node changes its role
                if words in await ask(url, command):
                    return
            await asyncio.sleep(0.05)


@pytest.fixture
async def cluster_url(tmp_path: Path) -> AsyncIterator[str]:
    """Two nodes, half of the slots each."""
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    port = free_cluster_port()
    clustered = "save ''\ncluster-enabled yes"
    with (
        redis_server(one, free_cluster_port(), config=clustered) as first,
        redis_server(two, port, config=clustered) as second,
    ):
        await ask(first, "CLUSTER ADDSLOTS", *range(SLOTS // 2))
        await ask(second, "CLUSTER ADDSLOTS", *range(SLOTS // 2, SLOTS))
        await ask(first, "CLUSTER MEET", "127.0.0.1", port)
        for url in (first, second):
            await until(url, "CLUSTER INFO", "'cluster_known_nodes': '2'")
            await until(url, "CLUSTER INFO", "'cluster_state': 'ok'")
        yield first.replace("redis://", "redis+cluster://").removesuffix("/0")


@pytest.fixture
async def sentinel_url(tmp_path: Path) -> AsyncIterator[str]:
    """One primary, watched by one sentinel."""
    primary, watcher = tmp_path / "primary", tmp_path / "watcher"
    primary.mkdir()
    watcher.mkdir()
    port, watching = free_port(), free_port()
    watch = f"sentinel monitor shop 127.0.0.1 {port} 1"
    with (
        redis_server(primary, port),
        redis_server(watcher, watching, "--sentinel", config=watch),
    ):
        yield f"redis+sentinel://127.0.0.1:{watching},127.0.0.1:{free_port()}/shop/3"


async def each_part_works(url: str) -> None:
    server = RedisServer.from_url(url)
    queue, storage = RedisQueue(server), RedisStorage(server)
    cache, barrier = RedisCache(server), RedisFlowBarrier(server)
    async with queue, storage, cache, barrier:
        for number in range(8):  # spread over the slots
            queue_id = f"q{number}"
            task = Task(type="t", queue_id=queue_id, payload=number)
            claim = asyncio.create_task(queue.claim(queue_id, 1, lease=60.0, wait=PATIENCE))
            await queue.put(queue_id, [task])
            (delivery,) = await claim
            assert isinstance(delivery, Delivery)
            assert delivery.task.payload == number
            assert await queue.ack([delivery]) == []
        tasks = [Task(type="t", queue_id=f"q{number}", payload=number) for number in range(8)]
        assert await storage.add(tasks) == tasks
        assert len(await storage.claim_due(8, lease=60.0)) == 8
        assert await cache.acquire_many(["a", "b", "c"], "me", 60.0) == {"a", "b", "c"}
        await cache.set("d", 1)
        assert await cache.get_many(["a", "d", "e"]) == {"d": 1}
        await barrier.init_barrier("f", 1)
        state = await barrier.record_steps("f", [FlowStepResult(0, "success")])
        assert state.remaining == 0
    async with RedisShardLocks.from_url(url) as locks:
        assert await locks.acquire_lock("s", "me", 60.0)
        assert await locks.set_checkpoint("s", "1", "me")
        assert await locks.get_checkpoint("s") == "1"


async def test_on_a_cluster(cluster_url: str) -> None:
    await each_part_works(cluster_url)


async def test_behind_sentinel(sentinel_url: str) -> None:
    await each_part_works(sentinel_url)


async def test_after_a_fail_over_the_new_primary_is_used(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("primary", "replica", "watcher")]
    for folder in folders:
        folder.mkdir()
    old, new, watching = free_port(), free_port(), free_port()
    watch = f"sentinel monitor shop 127.0.0.1 {old} 1\nsentinel failover-timeout shop 5000"
    with (
        redis_server(folders[0], old) as first,
        redis_server(folders[1], new, "--replicaof", "127.0.0.1", str(old)) as second,
    ):
        await until(second, "INFO", "'master_link_status': 'up'")
        with redis_server(folders[2], watching, "--sentinel", config=watch) as watcher:
            async with RedisQueue.from_url(f"redis+sentinel://127.0.0.1:{watching}/shop") as queue:
                await queue.put("q", [Task(type="t", queue_id="q", payload=1)])
                await fail_over(watcher.removesuffix("/0"))
                await until(second, "INFO", "'role': 'master'")
                await ask(first, "REPLICAOF", "127.0.0.1", new)  # as the watcher does after 10 s
                await put_until_taken(queue, 2)
                found = await queue.claim("q", 9, lease=60.0)
                assert [each.task.payload for each in found if isinstance(each, Delivery)] == [1, 2]
                assert await ask(second, "EXISTS", queue.server.keys.queue("q").stream) == "1"


async def fail_over(watcher: str) -> None:
    """Ask until the watcher knows its replica well enough."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                await ask(watcher, "SENTINEL FAILOVER", "shop")
                return
            except ResponseError:
                await asyncio.sleep(0.1)


async def put_until_taken(queue: RedisQueue, payload: int) -> None:
    """Put it again, as one task, until a primary says that it has it."""
    task = Task(type="t", queue_id="q", payload=payload)
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                return await queue.put("q", [task])
            except QueueUnavailableError:
                await asyncio.sleep(0.05)
