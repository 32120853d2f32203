"""SqlDatabase: places that cannot work, full disks, locks, and who checkpoints."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, create_engine

from taskloom.errors import ConfigurationError, QueueUnavailableError, StorageUnavailableError
from taskloom.sql import SqlCache, SqlDatabase, SqlQueue, SqlStorage, sqlite
from taskloom.task import Task


def some(count: int, size: int = 10) -> list[Task[str]]:
    return [Task(type="t", queue_id="q", payload="x" * size) for _ in range(count)]


def pragma(name: str) -> object:
    def run(conn: Connection) -> object:
        return conn.exec_driver_sql(f"PRAGMA {name}").scalar()

    return run


def spoil(file: Path) -> None:
    file.write_bytes(b"this is no database" * 1000)


def size(file: Path) -> int:
    return file.stat().st_size


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "tasks.db"


@pytest.fixture
async def database(file: Path) -> AsyncIterator[SqlDatabase]:
    async with SqlDatabase.from_url(f"sqlite:///{file}") as database:
        yield database


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("sqlite:////nowhere/at/all/tasks.db", "create /nowhere/at/all"),
        ("sqlite:////", "is a directory"),
        ("mysql://me:secret@host/db", "SQLite and PostgreSQL"),
        ("postgresql+psycopg://me:secret@host/db", "without a driver"),
        ("postgresql://me:secret@host", "names no database"),
        ("sqlite+aiosqlite:///tasks.db", "without a driver"),
        ("sqlite:///tasks.db?synchronous=off", "normal or full"),
        ("tasks.db", "not a database URL"),
    ],
)
async def test_a_place_that_cannot_work_says_what_to_do(url: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says) as caught:
        await SqlStorage.from_url(url).open()
    assert "secret" not in str(caught.value)


async def test_a_file_of_another_kind_is_refused(file: Path) -> None:
    spoil(file)
    with pytest.raises(ConfigurationError, match="not a SQLite database"):
        await SqlStorage.from_url(f"sqlite:///{file}").open()


@pytest.mark.parametrize(("version", "advice"), [("99", "upgrade taskloom"), ("1", "start anew")])
async def test_another_schema_is_refused(file: Path, version: str, advice: str) -> None:
    async with SqlStorage.from_url(f"sqlite:///{file}"):
        pass
    with sqlite3.connect(file) as other:
        other.execute("UPDATE taskloom_meta SET value = ? WHERE key = 'schema_version'", [version])
    other.close()
    with pytest.raises(ConfigurationError, match=advice):
        await SqlStorage.from_url(f"sqlite:///{file}").open()


async def test_what_is_not_open_says_so() -> None:
    with pytest.raises(ConfigurationError, match="not open"):
        await SqlStorage.from_url("sqlite://").get(["x"])


async def test_an_engine_of_ones_own(file: Path) -> None:
    engine = create_engine(f"sqlite:///{file}")
    async with SqlStorage(engine) as storage:
        assert len(await storage.add(some(3))) == 3
    with engine.connect() as conn:
        assert conn.exec_driver_sql("SELECT count(*) FROM taskloom_tasks").scalar() == 3
    engine.dispose()


async def test_many_open_a_new_file_at_once(file: Path) -> None:
    storages = [SqlStorage.from_url(f"sqlite:///{file}") for _ in range(8)]
    await asyncio.gather(*(storage.open() for storage in storages))
    for storage in storages:
        assert len(await storage.add(some(1))) == 1
    await asyncio.gather(*(storage.close() for storage in storages))


async def test_parts_share_a_database_until_the_last_one_closes(file: Path) -> None:
    database = SqlDatabase.from_url(f"sqlite:///{file}")
    storage, cache = SqlStorage(database), SqlCache(database)
    queue = SqlQueue(storage)
    for part in (storage, cache, queue, queue):
        await part.open()
    await storage.close()
    await queue.close()
    await queue.close()
    await cache.set("key", 1)
    await cache.close()
    with pytest.raises(ConfigurationError, match="not open"):
        await cache.get("key")
    async with cache:
        assert await cache.get("key") == 1


@pytest.mark.parametrize(("query", "level"), [("", 1), ("?synchronous=full", 2)])
async def test_how_far_a_commit_goes(file: Path, query: str, level: int) -> None:
    async with SqlDatabase.from_url(f"sqlite:///{file}{query}") as database:
        assert await database.write(pragma("synchronous")) == level
        assert await database.write(pragma("journal_mode")) == "wal"


async def test_a_full_disk_refuses_all_of_it_and_passes(database: SqlDatabase) -> None:
    storage = SqlStorage(database)
    queue = SqlQueue(storage)
    kept = some(10)
    await storage.add(kept)
    pages = await database.write(pragma("page_count"))
    await database.write(pragma(f"max_page_count = {pages}"))
    for _ in range(3):
        with pytest.raises(StorageUnavailableError, match="disk is full"):
            await storage.add(some(200, 1000))
    with pytest.raises(QueueUnavailableError, match="disk is full") as caught:
        await queue.put("q", big := some(200, 1000))
    assert caught.value.rejected == big
    assert await queue.depth("q") == 10
    await database.write(pragma("max_page_count = 1000000"))
    await queue.put("q", big)
    assert await queue.depth("q") == 210
    assert await database.write(pragma("integrity_check")) == "ok"


async def test_someone_elses_lock_is_waited_for_but_not_for_ever(
    database: SqlDatabase, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = SqlStorage(database)
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT", 0.05)
    with pytest.raises(StorageUnavailableError, match="write lock"):
        await storage.add(some(1))
    assert await storage.counts() == {}  # who asks is not held up
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT", 30.0)
    adding = asyncio.create_task(storage.add(some(1)))
    await asyncio.wait({adding}, timeout=0.05)
    assert not adding.done()
    other.execute("COMMIT")
    other.close()
    assert len(await adding) == 1


async def test_an_error_leaves_nothing_and_the_next_call_works(database: SqlDatabase) -> None:
    storage = SqlStorage(database)

    def half(conn: Connection) -> None:
        conn.exec_driver_sql("INSERT INTO taskloom_meta VALUES ('half', 'done')")
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        await database.write(half)
    assert await database.write(pragma("journal_mode")) == "wal"
    query = "SELECT count(*) FROM taskloom_meta WHERE key = 'half'"
    assert await database.read(lambda conn: conn.exec_driver_sql(query).scalar()) == 0
    assert len(await storage.add(some(1))) == 1


async def test_one_connection_of_all_checkpoints(file: Path) -> None:
    first, second = (SqlDatabase.from_url(f"sqlite:///{file}") for _ in range(2))
    await first.open()
    await second.open()
    assert await first.write(pragma("wal_autocheckpoint")) > 0
    assert await second.write(pragma("wal_autocheckpoint")) == 0
    assert await first.read(pragma("wal_autocheckpoint")) == 0
    await first.close()
    await asyncio.sleep(1.05)  # asked for at most once a second
    assert await second.write(lambda conn: None) is None
    assert await second.write(pragma("wal_autocheckpoint")) > 0
    await second.close()


async def test_an_idle_checkpointer_keeps_the_log_short(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskloom.sql.sqlite_connections._CHECK_EVERY", 0.02)
    monkeypatch.setattr("taskloom.sql.sqlite_connections._WAL_LIMIT", 100_000)
    idle = SqlDatabase.from_url(f"sqlite:///{file}")
    busy = SqlStorage.from_url(f"sqlite:///{file}")
    log = Path(f"{file}-wal")
    async with idle, busy:
        before = 0
        # Without checkpoints each transaction would make it longer, for ever.
        while size(log) > before:
            before = size(log)
            await busy.add(some(20, 2_000))
            await asyncio.sleep(0.005)
