"""What is PostgreSQL's own: wake-ups, lost connections, deadlocks, bad places, many at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest
from sqlalchemy import Connection, make_url, text

from taskloom.errors import ConfigurationError, StorageUnavailableError
from taskloom.sql import SqlDatabase, SqlQueue, SqlStorage, queue
from taskloom.task import Task

PATIENCE = 20.0


def some(count: int) -> list[Task[int]]:
    return [Task(type="t", queue_id="q", payload=n) for n in range(count)]


@pytest.fixture
async def database(postgres_url: str) -> AsyncIterator[SqlDatabase]:
    async with SqlDatabase.from_url(postgres_url) as database:
        yield database


async def cut_off(url: str) -> None:
    """Close all other connections to a database."""
    conn = await asyncpg.connect(url)
    cut = await conn.fetchval(
        "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    assert cut >= 1
    await conn.close()


async def test_one_process_hears_what_another_one_added(
    database: SqlDatabase, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "_LOOK_EVERY", 3600.0)
    here = SqlQueue(SqlStorage(database))
    async with SqlStorage.from_url(postgres_url) as elsewhere, asyncio.timeout(PATIENCE):
        waiting = asyncio.create_task(here.claim("q", 1, lease=60, wait=3600))
        while not waiting.done():  # until both of them are connected, nobody is told
            await elsewhere.add(some(1))
            await asyncio.wait([waiting], timeout=0.1)
        assert len(await waiting) == 1


async def test_what_was_lost_is_heard_again(
    database: SqlDatabase, postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    await cut_off(postgres_url)
    async with SqlStorage.from_url(postgres_url) as elsewhere, asyncio.timeout(PATIENCE):
        told = database.wakeups.expect("q")
        while not told.done():
            await elsewhere.add(some(1))
            await asyncio.wait([told], timeout=0.1)
        assert told.result() is False  # by someone else


async def test_many_make_the_tables_of_a_new_database_at_once(postgres_url: str) -> None:
    storages = [SqlStorage.from_url(postgres_url) for _ in range(8)]
    await asyncio.gather(*(storage.open() for storage in storages))
    for storage in storages:
        assert len(await storage.add(some(1))) == 1
    await asyncio.gather(*(storage.close() for storage in storages))


async def test_connections_that_were_cut_are_made_again_unseen(
    database: SqlDatabase, postgres_url: str
) -> None:
    storage = SqlStorage(database)
    (task,) = await storage.add(some(1))
    await cut_off(postgres_url)
    assert len(await storage.add(some(1))) == 1
    assert await storage.get([task.id]) == [task]


async def test_a_deadlock_is_resolved_unseen(database: SqlDatabase) -> None:
    first, second = await SqlStorage(database).add(some(2))
    runs: list[str] = []

    def crossing(conn: Connection, name: str, ids: list[str]) -> None:
        runs.append(name)
        for id in ids:
            update = text("UPDATE taskloom_tasks SET type = type || :name WHERE id = :id")
            conn.execute(update, {"name": name, "id": id})
            conn.execute(text("SELECT pg_sleep(0.2)"))

    await asyncio.gather(
        database.write(crossing, "a", [first.id, second.id]),
        database.write(crossing, "b", [second.id, first.id]),
    )
    assert len(runs) == 3
    types = await database.read(
        lambda conn: conn.scalars(text("SELECT type FROM taskloom_tasks")).all()
    )
    assert [sorted(type) for type in types] == [["a", "b", "t"]] * 2


@pytest.mark.parametrize(
    ("change", "says"),
    [({"database": "nowhere"}, "no such database"), ({"username": "nobody_at_all"}, "refuses")],
)
async def test_a_place_that_cannot_work_says_what_to_do(
    postgres_url: str, change: dict[str, str], says: str
) -> None:
    wrong = SqlDatabase(make_url(postgres_url).set(**change))
    with pytest.raises(ConfigurationError, match=says):
        await wrong.open()


async def test_a_server_that_is_not_there_is_unavailable() -> None:
    with pytest.raises(StorageUnavailableError, match="cannot be reached"):
        await SqlStorage.from_url("postgresql://me:secret@127.0.0.1:1/db").open()
