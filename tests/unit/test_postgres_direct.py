"""PostgreSQL: one statement straight on the driver, and what becomes of it when things go wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from sqlalchemy import Connection, bindparam, select, text
from sqlalchemy.exc import DBAPIError

from taskloom.errors import StorageUnavailableError
from taskloom.sql import SqlDatabase, SqlStorage, direct
from taskloom.task import Task

PID = text("SELECT pg_backend_pid()")
SLEEP = text("SELECT pg_sleep(:seconds)")


@pytest.fixture
async def database(postgres_url: str) -> AsyncIterator[SqlDatabase]:
    async with SqlDatabase.from_url(postgres_url) as database:
        yield database


def pid(conn: Connection) -> int:
    return int(conn.scalar(PID, {}))


def divide(conn: Connection, by: int) -> Any:
    return conn.scalar(select(1 / bindparam("by")), {"by": by})


async def test_statements_share_a_connection(database: SqlDatabase) -> None:
    pids = [await database.read_at_once(pid) for _ in range(3)]
    assert len(set(pids)) == 1
    assert await database.read(pid) not in pids


async def test_whoever_finds_it_busy_takes_another_one(database: SqlDatabase) -> None:
    own = await database.read_at_once(pid)
    pids = await asyncio.gather(*(database.read_at_once(pid) for _ in range(4)))
    assert own in pids
    assert len(set(pids)) > 1


async def test_a_second_statement_would_not_be_in_the_same_transaction(
    database: SqlDatabase,
) -> None:
    def two(conn: Connection) -> int:
        return pid(conn) + pid(conn)

    with pytest.raises(AssertionError, match="one statement"):
        await database.write_at_once(two)


async def test_what_the_server_refuses_is_refused_as_ever(database: SqlDatabase) -> None:
    assert await database.read_at_once(divide, 2) == 0.5
    own = await database.read_at_once(pid)
    with pytest.raises(DBAPIError, match="division by zero"):
        await database.read_at_once(divide, 0)
    assert await database.read_at_once(pid) == own


async def test_it_is_made_again_once_it_was_closed(
    database: SqlDatabase, postgres_url: str
) -> None:
    own = await database.read_at_once(pid)
    await terminate(postgres_url, own)
    assert await database.read_at_once(pid) != own
    assert len(await SqlStorage(database).add([Task(type="t", queue_id="q", payload=1)])) == 1


async def test_a_statement_that_was_cut_short_is_not_run_again(
    database: SqlDatabase, postgres_url: str
) -> None:
    """Nobody knows whether it was committed."""
    ran: list[int] = []

    def slow(conn: Connection) -> None:
        ran.append(1)
        conn.execute(SLEEP, {"seconds": 60})

    await database.read_at_once(pid)
    waiting = asyncio.create_task(database.write_at_once(slow))
    await sleeping(postgres_url)
    connection_of(database).terminate()
    with pytest.raises(StorageUnavailableError, match="connection was lost"):
        await waiting
    assert ran == [1]
    assert await database.read_at_once(pid)


async def test_plans_do_not_grow_old(
    database: SqlDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    await database.read_at_once(pid)
    said: list[str] = []
    connection_of(database).add_query_logger(lambda query: said.append(query.query))
    await database.read_at_once(pid)
    assert said == [PID.text]
    monkeypatch.setattr(direct, "PLANS_LAST", 0.0)
    await database.read_at_once(pid)
    assert said[1:] == ["DISCARD PLANS", PID.text]


def connection_of(database: SqlDatabase) -> Any:
    """The driver's connection for statements at once."""
    return database._connections._direct._driver  # type: ignore[attr-defined]


async def terminate(url: str, pid: int) -> None:
    conn = await asyncpg.connect(url)
    assert await conn.fetchval("SELECT pg_terminate_backend($1, 5000)", pid)
    await conn.close()


async def sleeping(url: str) -> None:
    """Return once a statement of someone else's sleeps."""
    conn = await asyncpg.connect(url)
    query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
    while not await conn.fetchval(query):  # noqa: ASYNC110 (the server tells nobody)
        await asyncio.sleep(0.01)
    await conn.close()
