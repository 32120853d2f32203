"""What Redis does beyond the suites: names, warnings, a server that comes back empty."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from redis_server import free_port, redis_server
from taskloom import QueueUnavailableError, StorageUnavailableError, Task
from taskloom.errors import ConfigurationError
from taskloom.identity import new_id
from taskloom.outcomes import Delivery, UnreadableRecord
from taskloom.redis import RedisCache, RedisQueue, RedisServer, RedisStorage
from taskloom.redis.checks import promises_broken
from taskloom.redis.keys import Keys
from taskloom.task import TaskStatus

PATIENCE = 10.0


@pytest.fixture
async def server(redis_url: str) -> AsyncIterator[RedisServer]:
    async with RedisServer.from_url(redis_url, prefix=f"test-{new_id()}") as server:
        yield server


@pytest.fixture
async def queue(server: RedisServer) -> AsyncIterator[RedisQueue]:
    async with RedisQueue(server) as queue:
        yield queue


def task(**fields: Any) -> Task[Any]:
    return Task(**({"type": "t", "queue_id": "q", "payload": None} | fields))


async def take(queue: RedisQueue, lease: float = 60.0) -> Delivery:
    (delivery,) = await queue.claim("q", 1, lease=lease, wait=2.0)
    assert isinstance(delivery, Delivery)
    return delivery


# Names


def slot_tag(key: str) -> str:
    """What a cluster hashes, by its specification."""
    start = key.find("{")
    end = key.find("}", start + 1)
    return key[start + 1 : end] if start >= 0 and end > start + 1 else key


@pytest.mark.parametrize("queue_id", ["mail", "a}b", "{", "}", "{}", "%7D", "ü 日"])
def test_the_keys_of_a_queue_share_a_slot_and_no_other_queue_has_them(queue_id: str) -> None:
    keys = Keys("shop").queue(queue_id)
    assert len({slot_tag(key) for key in keys}) == 1
    assert len(set(keys)) == len(keys)
    others = {key for other in ("mail2", "a%7Db", "%257D") for key in Keys("shop").queue(other)}
    assert not others.intersection(keys)


@pytest.mark.parametrize("prefix", ["", "a{b", "}"])
def test_a_prefix_has_no_braces(prefix: str) -> None:
    with pytest.raises(ValueError, match="prefix"):
        Keys(prefix)


# What is said at the start


def test_a_server_that_keeps_everything_is_fine() -> None:
    assert promises_broken({"maxmemory_policy": "noeviction", "aof_enabled": 1}, {}) == []


@pytest.mark.parametrize(
    ("info", "settings", "words"),
    [
        ({"aof_enabled": 0}, {"save": ""}, "every task is lost when it stops"),
        ({"aof_enabled": 0}, {"save": "3600 1"}, "since the last snapshot"),
        ({"aof_enabled": 0}, {}, "since the last snapshot"),
        ({"aof_enabled": 1}, {"appendfsync": "no"}, "in the last half minute"),
        ({"aof_enabled": 1, "maxmemory_policy": "allkeys-lru", "maxmemory": 9}, {}, "tasks would"),
        ({"aof_enabled": 1, "maxmemory_policy": "volatile-ttl", "maxmemory": 9}, {}, "locks and"),
    ],
)
def test_a_broken_promise_is_named(
    info: dict[str, Any], settings: dict[str, str], words: str
) -> None:
    (said,) = promises_broken(info, settings)
    assert words in said


async def test_it_is_said_once_for_all_parts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = ("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru")
    with redis_server(tmp_path, free_port(), *settings) as url:
        server = RedisServer.from_url(url)
        with caplog.at_level(logging.WARNING):
            async with RedisQueue(server), RedisStorage(server), RedisCache(server):
                pass
    assert [record.getMessage().count("evicts keys") for record in caplog.records] == [1, 0]


async def test_a_client_that_decodes_is_refused(redis_url: str) -> None:
    client = Redis.from_url(redis_url, decode_responses=True)
    with pytest.raises(ConfigurationError, match="decode_responses"):
        await RedisQueue(client).open()
    await client.aclose()


async def test_a_client_that_was_given_stays_open(redis_url: str) -> None:
    client = Redis.from_url(redis_url)
    async with RedisCache(client):
        pass
    assert await client.ping()
    await client.aclose()


# Unavailable


async def test_nobody_there_is_unavailable() -> None:
    url = f"redis://:hunter2@127.0.0.1:{free_port()}/0"
    queue, storage = RedisQueue.from_url(url), RedisStorage.from_url(url)
    one = task()
    with pytest.raises(QueueUnavailableError) as caught:
        await queue.put("q", [one])
    assert (caught.value.accepted, caught.value.rejected) == ([], [one])
    with pytest.raises(StorageUnavailableError, match="cannot be reached") as refused:
        await storage.open()
    assert "hunter2" not in f"{caught.value} {refused.value}"


async def test_a_full_server_takes_nothing_says_why_and_can_be_drained(tmp_path: Path) -> None:
    with redis_server(tmp_path, free_port()) as url:
        async with RedisQueue.from_url(url) as queue, RedisStorage.from_url(url) as storage:
            await queue.put("q", [task(), task()])
            held = [await take(queue)]
            await queue.server.client.config_set("maxmemory", 1)
            with pytest.raises(QueueUnavailableError, match="out of memory"):
                await queue.put("q", [task()])
            with pytest.raises(StorageUnavailableError, match="out of memory"):
                await storage.add([task()])
            held.append(await take(queue))
            assert await queue.ack(held) == []
            await queue.server.client.config_set("maxmemory", 0)
            assert await queue.depth("q") == 0
            assert await storage.counts() == {}


async def test_a_server_that_comes_back_empty_is_told_and_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    port = free_port()
    with redis_server(tmp_path, port) as url:
        queue = RedisQueue.from_url(url)
        await queue.open()
        await queue.put("q", [task(), task()])
        held = await take(queue)
    with pytest.raises(QueueUnavailableError):
        await queue.ack([held])
    with redis_server(tmp_path, port):
        assert await queue.ack([held]) == [held]
        claim = asyncio.create_task(queue.claim("q", 1, lease=60.0, wait=PATIENCE))
        fresh = task()
        await queue.put("q", [fresh])
        (delivery,) = await asyncio.wait_for(claim, PATIENCE)
        assert isinstance(delivery, Delivery)
        assert delivery.task.id == fresh.id
        assert await queue.ack([delivery]) == []
        await queue.close()
    losses = [each for each in caplog.records if "is gone from" in each.getMessage()]
    assert len(losses) == 1


async def test_a_new_queue_is_no_loss(queue: RedisQueue, caplog: pytest.LogCaptureFixture) -> None:
    await queue.claim("q", 1, lease=60.0)
    await queue.claim("q", 1, lease=60.0)
    assert not [each for each in caplog.records if "is gone from" in each.getMessage()]


async def test_an_answer_from_before_it_was_filled_is_no_loss(
    queue: RedisQueue, caplog: pytest.LogCaptureFixture
) -> None:
    client, new = queue.server.client, queue.server.keys.queue("q").new
    await queue.claim("q", 1, lease=60.0)
    since = await client.get(new)
    assert queue.found_empty() == ["q"]
    await queue.filled_again("q")
    assert await client.exists(new) == 0
    await client.set(new, since)  # what a claim that was under way would have been told
    await queue.claim("q", 1, lease=60.0)
    assert queue.found_empty() == []
    assert not [each for each in caplog.records if "is gone from" in each.getMessage()]


async def test_scripts_are_loaded_again_where_they_were_forgotten(queue: RedisQueue) -> None:
    await queue.put("q", [task()])
    await queue.server.client.script_flush()
    await take(queue)


# Ids


async def test_an_acknowledged_id_is_remembered(queue: RedisQueue) -> None:
    one = task()
    await queue.put("q", [one])
    await queue.ack([await take(queue)])
    await queue.put("q", [one])
    assert await queue.claim("q", 1, lease=60.0) == []


@pytest.mark.parametrize("in_url", [True, False])
async def test_it_is_remembered_as_long_as_was_said(redis_url: str, in_url: bool) -> None:
    prefix, place = f"test-{new_id()}", f"{redis_url}?remember=100" if in_url else redis_url
    server = RedisServer.from_url(place, prefix=prefix)
    async with RedisQueue(server, remember=None if in_url else 100.0) as queue:
        await queue.put("q", [task()])
        await queue.ack([await take(queue)])
        (name,) = await server.client.keys(f"{server.keys.queue('q').done}:*")
        assert 100 < await server.client.ttl(name) <= 150


@pytest.mark.parametrize("remember", ["0", "-1", "1.5", "a day"])
def test_what_cannot_be_remembered_is_refused(remember: str) -> None:
    with pytest.raises(ConfigurationError, match="remember="):
        RedisServer.from_url(f"redis://localhost/0?remember={remember}")


async def test_a_stored_task_may_be_put_again(queue: RedisQueue) -> None:
    stored = task(status=TaskStatus.QUEUED)
    for _ in range(2):
        await queue.put("q", [stored])
        assert await queue.ack([await take(queue)]) == []


# Entries and consumers


async def test_an_entry_that_is_no_task_is_claimed_with_its_bytes(queue: RedisQueue) -> None:
    client, stream = queue.server.client, queue.server.keys.queue("q").stream
    await client.xadd(stream, {"x": b"\xff"})
    await client.xadd(stream, {"i": "id", "n": "0", "b": b"\xff{"})
    await queue.put("q", [task()])
    first, second, third = await queue.claim("q", 5, lease=60.0)
    assert isinstance(first, UnreadableRecord)
    assert isinstance(second, UnreadableRecord)
    assert isinstance(third, Delivery)
    assert (first.raw, second.raw) == (b"x \xff", b"\xff{")
    assert await queue.ack([first, second, third]) == []
    assert await client.xlen(stream) == 0


async def test_a_released_task_keeps_its_place(queue: RedisQueue) -> None:
    tasks = [task(payload=number) for number in range(1500)]
    for start in range(0, 1500, 500):
        await queue.put("q", tasks[start : start + 500])
    taken = await queue.claim("q", 1200, lease=60.0)
    await queue.release([each for each in taken if isinstance(each, Delivery)])
    again = await queue.claim("q", 1500, lease=60.0)
    assert [each.task.payload for each in again if isinstance(each, Delivery)][:900] == [
        *range(900)
    ]
    assert len(again) == 1500


async def test_nothing_is_left_of_what_is_done(server: RedisServer) -> None:
    async with RedisQueue(server, remember=1.0) as queue:
        await queue.put("q", [task(), task()])
        first, second = await take(queue), await take(queue)
        await queue.release([first])
        await queue.ack([second, await take(queue)])
        keys = server.keys.queue("q")
        for key in (keys.batches, keys.leases, keys.released, keys.delayed, keys.bodies, keys.ids):
            assert await server.client.exists(key) == 0, key
        assert (await server.client.xpending(keys.stream, "workers"))["pending"] == 0


async def test_a_consumer_leaves_unless_it_holds_something(server: RedisServer) -> None:
    stream = server.keys.queue("q").stream
    idle, busy = RedisQueue(server), RedisQueue(server)
    await busy.put("q", [task(), task()])
    held = await take(busy)
    assert await idle.ack([await take(idle)]) == []
    assert len(await server.client.xinfo_consumers(stream, "workers")) == 2
    await idle.close()
    await busy.close()
    assert len(await server.client.xinfo_consumers(stream, "workers")) == 1
    assert await busy.ack([held]) == []


async def test_delivery_counts_survive_delays_and_releases(queue: RedisQueue) -> None:
    await queue.put("q", [task()])
    lost = await take(queue, lease=0.05)
    held = await take(queue)
    assert (lost.delivery_count, held.delivery_count) == (1, 2)
    await queue.release([held])
    held = await take(queue)
    await queue.release([held], delay=0.05)
    held = await take(queue)
    assert held.delivery_count == 2
    assert await queue.ack([lost]) == [lost]
    assert await queue.ack([held]) == []


# Waiting


async def test_a_waiting_claim_that_is_cancelled_ends_and_holds_nothing(
    queue: RedisQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskloom.redis.queue._LOOK_EVERY", 3600.0)
    monkeypatch.setattr("taskloom.redis.reach.CALL_LIMIT", 3600.0)
    waiting = asyncio.create_task(queue.claim("q", 1, lease=3600, wait=3600))
    async with asyncio.timeout(PATIENCE):
        while not await is_watched(queue.server):  # noqa: ASYNC110 (the server tells nobody)
            await asyncio.sleep(0.01)
        await queue.put("q", [task(payload=1)])
        waiting.cancel()
        await asyncio.wait([waiting])
        if not waiting.cancelled():  # it came first
            await queue.release([each for each in await waiting if isinstance(each, Delivery)])
        delivery = await take(queue)
    assert (delivery.task.payload, delivery.delivery_count) == (1, 1)

    waiting = asyncio.create_task(queue.claim("q", 1, lease=3600, wait=3600))
    async with asyncio.timeout(PATIENCE):
        while not await is_watched(queue.server):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        waiting.cancel()
        await asyncio.wait([waiting])
    assert waiting.cancelled()


async def is_watched(server: RedisServer) -> bool:
    """Whether a call of anyone waits for a bell."""
    clients = await server.client.client_list()
    return any(each["cmd"] == "xread" and "b" in each["flags"] for each in clients)
