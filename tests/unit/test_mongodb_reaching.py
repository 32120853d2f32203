"""How MongoDB is reached: by its URL, and what happens while it is away."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pymongo import AsyncMongoClient
from pymongo.errors import ServerSelectionTimeoutError

from mongodb_server import mongodb_server
from redis_server import free_port
from taskloom import QueueUnavailableError, StorageUnavailableError, Task
from taskloom.errors import ConfigurationError
from taskloom.mongodb import MongoDBDatabase, MongoDBQueue, MongoDBStorage, clients
from taskloom.outcomes import Delivery, Settlement
from taskloom.urls import parts_from_url

LEASE = 60.0
PATIENCE = 10.0
QUEUE = "q"


def task(**fields: Any) -> Task[Any]:
    return Task(**({"type": "t", "queue_id": QUEUE, "payload": None} | fields))


async def take(queue: MongoDBQueue) -> Delivery:
    (delivery,) = await queue.claim(QUEUE, 1, lease=LEASE)
    assert isinstance(delivery, Delivery)
    return delivery


# URLs


@pytest.mark.parametrize("scheme", ["mongodb", "mongodb+srv"])
def test_a_url_is_one_database_for_everything(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from taskloom.clock import SYSTEM_CLOCK

    seen: list[str] = []
    real = AsyncMongoClient[Any]
    monkeypatch.setattr(
        clients, "AsyncMongoClient", lambda url, **_: seen.append(url) or real("mongodb://host/db")
    )
    parts = parts_from_url(f"{scheme}://me:hunter2@host/db?socketTimeoutMS=7", SYSTEM_CLOCK)
    assert isinstance(parts.storage, MongoDBStorage)
    assert isinstance(parts.queue, MongoDBQueue)
    assert parts.queue.storage is parts.storage
    assert parts.flow_barrier is not None
    assert parts.entity_projections is not None
    assert parts.flow_barrier.storage is parts.entity_projections.storage is parts.storage
    assert "hunter2" not in repr(parts.storage.database)
    (url,) = seen
    assert url.startswith(f"{scheme}://me:hunter2@host/db?socketTimeoutMS=7&")
    assert "serverSelectionTimeoutMS=3000" in url


def test_a_url_that_makes_no_sense_shows_no_password() -> None:
    with pytest.raises(ConfigurationError, match="is no url of a MongoDB: write") as caught:
        MongoDBStorage.from_url("mongodb://me:hunter2@host:port/db")
    assert "hunter2" not in str(caught.value)


def test_without_the_driver_the_extra_is_named() -> None:
    code = (
        "import sys; sys.modules['pymongo'] = None\n"
        "from taskloom.app import Loom\n"
        "try: Loom('mongodb://host/db')\n"
        "except ImportError as error: print(error)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "pip install 'taskloom[mongodb]'" in run.stdout


# A server that is away


@pytest.fixture
def forgotten_sockets() -> Iterator[None]:
    """pymongo 4.20 does not close the socket of a connection that was cut while it was made."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.mark.usefixtures("forgotten_sockets")
async def test_a_server_that_goes_and_comes_back(tmp_path: Path) -> None:
    port = free_port()
    async with contextlib.AsyncExitStack() as held:
        with mongodb_server(tmp_path, port, "--sync-on-commit") as url:
            queue = MongoDBQueue.from_url(f"{url}/db?serverSelectionTimeoutMS=300")
            await held.enter_async_context(queue)
            await queue.put(QUEUE, [task(id="kept")])
        with pytest.raises(QueueUnavailableError, match="cannot be reached") as caught:
            await queue.put(QUEUE, [task(id="rejected")])
        assert [each.id for each in caught.value.rejected] == ["rejected"]
        with pytest.raises(StorageUnavailableError, match="cannot be reached"):
            await queue.storage.settle(Settlement(added=(task(), task())))
        with mongodb_server(tmp_path, port, "--sync-on-commit"):
            delivery = await asyncio.wait_for(_take_once_it_is_back(queue), PATIENCE)
            assert delivery.task.id == "kept"


async def _take_once_it_is_back(queue: MongoDBQueue) -> Delivery:
    while True:
        # The driver looks twice a second, and says so after 0.3 seconds.
        with contextlib.suppress(QueueUnavailableError):
            return await take(queue)


@pytest.mark.usefixtures("forgotten_sockets")
async def test_many_who_wait_for_a_server_are_few_attempts() -> None:
    attempts = 0

    async def refuse(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal attempts
        attempts += 1
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        url = f"mongodb://127.0.0.1:{port}/db?serverSelectionTimeoutMS=1500"
        database = MongoDBDatabase.from_url(url)
        tasks = database.collections.tasks
        waiting = (tasks.find_one({}) for _ in range(20))
        answers = await asyncio.gather(*waiting, return_exceptions=True)
        assert {type(each) for each in answers} == {ServerSelectionTimeoutError}
        assert 1 <= attempts <= 10
        with pytest.raises(StorageUnavailableError, match="cannot be reached"):
            await database.open()
