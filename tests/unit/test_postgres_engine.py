"""What is PostgreSQL's own: wake-ups, lost connections, deadlocks, bad places, many at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest
from sqlalchemy import Connection, func, make_url, select, text

from taskloom.errors import ConfigurationError, StorageUnavailableError
from taskloom.sql import (
    SqlDatabase,
    SqlQueue,
    SqlStorage,
    postgres_connections,
    reconnecting,
)
from taskloom.sql.reconnecting import Gate
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


async def is_heard(database: SqlDatabase, elsewhere: SqlStorage) -> None:
    """Return when word of what is added elsewhere arrives."""
    told = database.wakeups.expect("q")
    async with asyncio.timeout(PATIENCE):
        while not told.done():  # until both of them are connected, nobody is told
            await elsewhere.add(some(1))
            await asyncio.wait([told], timeout=0.1)
    assert told.result() is False  # by someone else


async def test_one_process_hears_what_another_one_added(
    database: SqlDatabase, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskloom.storage_queue.LOOK_EVERY", 3600.0)
    here = SqlQueue(SqlStorage(database))
    async with SqlStorage.from_url(postgres_url) as elsewhere:
        await is_heard(database, elsewhere)
        assert len(await here.claim("q", 100, lease=60)) >= 1
        waiting = asyncio.create_task(here.claim("q", 1, lease=60, wait=3600))
        await asyncio.wait([waiting], timeout=0.1)  # it has found nothing, and waits
        (task,) = await elsewhere.add(some(1))
        async with asyncio.timeout(PATIENCE):
            assert [each.task.id for each in await waiting] == [task.id]  # type: ignore[union-attr]


async def test_what_was_lost_is_heard_again(database: SqlDatabase, postgres_url: str) -> None:
    async with SqlStorage.from_url(postgres_url) as elsewhere, asyncio.timeout(PATIENCE):
        await is_heard(database, elsewhere)
        again = database.wakeups.expect("q")
        await cut_off(postgres_url)
        assert await again is False  # who listens again looks for what was said meanwhile
        await is_heard(database, elsewhere)


async def test_what_was_added_last_is_told_before_closing(
    database: SqlDatabase, postgres_url: str
) -> None:
    async with SqlStorage.from_url(postgres_url) as elsewhere:
        await is_heard(database, elsewhere)
    told = database.wakeups.expect("q")
    async with SqlStorage.from_url(postgres_url) as short:
        await short.add(some(1))
    async with asyncio.timeout(PATIENCE):
        assert await told is False


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


async def test_reading_is_repeated_over_a_connection_that_was_cut(
    database: SqlDatabase, postgres_url: str
) -> None:
    (task,) = await SqlStorage(database).add(some(1))
    await cut_off(postgres_url)
    assert await SqlStorage(database).get([task.id]) == [task]


async def test_one_asks_for_all_whether_the_server_is_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reconnecting, "_SHORTEST", 0.1)
    answers: asyncio.Queue[Exception | None] = asyncio.Queue()
    asked: list[float] = []

    async def ask() -> None:
        asked.append(time.monotonic())
        if (error := await answers.get()) is not None:
            raise error

    gate = Gate(ask)
    await gate.passed()
    assert asked == []
    gate.shut()
    for times in range(1, 4):
        waiting = [asyncio.create_task(gate.passed()) for _ in range(100)]
        answers.put_nowait(OSError("away"))
        told = await asyncio.gather(*waiting, return_exceptions=True)
        assert {str(each) for each in told} == {"away"}
        assert len(asked) == times
    assert asked[2] - asked[0] >= 0.22  # 0.1 s, then 0.2 s, give or take a quarter
    waiting = [asyncio.create_task(gate.passed()) for _ in range(100)]
    answers.put_nowait(None)
    await asyncio.gather(*waiting)
    await gate.passed()
    assert len(asked) == 4


async def test_the_servers_clock_is_followed(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    an_hour_ahead = select(text("clock_timestamp() + interval '1 hour'"))
    monkeypatch.setattr(postgres_connections, "_SERVER_TIME", an_hour_ahead)
    async with SqlDatabase.from_url(postgres_url) as database:
        ahead = database.now() - datetime.now(UTC)
        assert timedelta(minutes=59) < ahead < timedelta(minutes=61)


async def test_a_clock_that_was_set_is_compared_soon(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_connections, "_LOOK_AT_CLOCK_EVERY", 0.01)
    async with SqlDatabase.from_url(postgres_url) as database:
        assert abs(database.now() - datetime.now(UTC)) < timedelta(minutes=1)
        an_hour_ahead = select(text("clock_timestamp() + interval '1 hour'"))
        monkeypatch.setattr(postgres_connections, "_SERVER_TIME", an_hour_ahead)
        here = time.time
        monkeypatch.setattr(time, "time", lambda: here() - 3600)
        async with asyncio.timeout(PATIENCE):
            while True:
                if database.now() - datetime.now(UTC) > timedelta(minutes=59):
                    return
                await asyncio.sleep(0.01)


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
    assert len(runs) >= 3  # the one that was given up ran again, maybe into another one
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


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("postgresql://me@host/db?sslmod=require", "unknown option in the URL: sslmod; it takes"),
        ("postgresql://me:secret@one:5432,two:5432/db", "not a database URL"),
        ("postgresql://me@host", "names no database"),
        ("postgresql+psycopg://me@host/db", "without a driver"),
    ],
)
def test_a_url_that_makes_no_sense_says_what_to_do(url: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says) as caught:
        SqlStorage.from_url(url)
    assert "secret" not in str(caught.value)


async def test_connections_say_whose_they_are(postgres_url: str) -> None:
    url = make_url(postgres_url).update_query_dict({"application_name": "shop"})
    async with SqlDatabase(url) as database:
        name = select(func.current_setting("application_name"))
        assert await database.read(lambda conn: conn.scalar(name)) == "shop"


async def test_a_server_that_is_not_there_is_unavailable() -> None:
    with pytest.raises(StorageUnavailableError, match="cannot be reached"):
        await SqlStorage.from_url("postgresql://me:secret@127.0.0.1:1/db").open()
