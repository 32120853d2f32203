"""The tables: made once however many are at it, and brought up from every earlier version."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy import Connection, text

from servers import fresh_database
from taskloom import EntityRef, Loom, Task
from taskloom.errors import ConfigurationError
from taskloom.projections import build_projection
from taskloom.sql import SqlDatabase, SqlStorage, setup
from taskloom.sql.projections import upsert
from taskloom.sql.schema import SCHEMA_VERSION
from taskloom.sql.setup import identity_of
from taskloom.sql.upgrades import OLDEST, UPGRADES, Upgrade

SCHEMAS = Path(__file__).parent / "schemas"
KINDS = ("sqlite", "postgresql")
OLD = [(kind, step.version - 1) for kind in KINDS for step in UPGRADES]

SLOW = "CREATE INDEX taskloom_test ON taskloom_tasks (type)"
LATER = Upgrade(SCHEMA_VERSION + 1, is_quick=False, sqlite=(SLOW,), postgresql=(SLOW,))


@asynccontextmanager
async def server_of(kind: str, request: pytest.FixtureRequest) -> AsyncIterator[str]:
    """A new database, without tables, where the kind has a server; else nothing."""
    if kind == "sqlite":
        yield ""
        return
    async with fresh_database(request.getfixturevalue("postgres_server")) as found:
        yield found


@pytest.fixture(params=KINDS)
async def url(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    """A new database of each kind."""
    async with server_of(request.param, request) as found:
        yield found or f"sqlite:///{tmp_path}/tasks.db"


async def make(url: str, version: int) -> None:
    """The tables as a version made them, with a task in them."""
    kind = url.partition(":")[0]
    script = (SCHEMAS / f"version_{version}_{kind}.sql").read_text()
    script += (
        "INSERT INTO taskloom_tasks (id, queue_id, type, status, due_at, created_at, updated_at,"
        " body) VALUES ('a', 'q', 't', 'scheduled', 1, 1, 1, '{\"id\": \"a\", \"type\": \"t\","
        ' "queue_id": "q", "payload": 1}\');'
    )
    if kind == "sqlite":
        with sqlite3.connect(url.removeprefix("sqlite:///")) as file:
            file.executescript(script)
        file.close()
    else:
        conn = await asyncpg.connect(url)
        await conn.execute(script)
        await conn.close()


def tables(conn: Connection) -> set[tuple[Any, ...]]:
    """Everything that makes up the schema, whoever made it."""
    if conn.dialect.name == "sqlite":
        found = rows(conn, "SELECT type, name, coalesce(sql, '') FROM sqlite_master")
        return {(kind, name, " ".join(sql.split())) for kind, name, sql in found}
    columns = rows(
        conn,
        "SELECT table_name, column_name, data_type, is_nullable, column_default, collation_name "
        "FROM information_schema.columns WHERE table_schema = 'public'",
    )
    indexes = rows(conn, "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'")
    options = rows(
        conn,
        "SELECT relname, option FROM pg_class, unnest(reloptions) option "
        "WHERE relnamespace = 'public'::regnamespace",
    )
    return {*columns, *indexes, *options}


def rows(conn: Connection, query: str) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in conn.execute(text(query))]


def version_of(conn: Connection) -> int | None:
    return setup._version(conn)


@pytest.mark.parametrize(("kind", "version"), OLD)
async def test_an_earlier_version_becomes_what_is_made_today(
    kind: str, version: int, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    old, new = f"sqlite:///{tmp_path}/old.db", f"sqlite:///{tmp_path}/new.db"
    async with server_of(kind, request) as server:
        await make(server or old, version)
        storage = SqlStorage.from_url(server or old)
        await storage.upgrade()
        async with storage:
            upgraded = await storage.database.read(tables)
            assert await storage.database.read(version_of) == SCHEMA_VERSION
            assert await storage.database.read(identity_of)
            assert [task.payload for task in await storage.get(["a"])] == [1]
    async with server_of(kind, request) as server, SqlDatabase.from_url(server or new) as fresh:
        assert upgraded == await fresh.read(tables)


def test_every_version_has_its_step() -> None:
    assert [step.version for step in UPGRADES] == list(range(OLDEST + 1, SCHEMA_VERSION + 1))
    for kind, version in OLD:
        assert (SCHEMAS / f"version_{version}_{kind}.sql").exists()


async def test_who_opens_it_takes_quick_steps_in_passing(url: str) -> None:
    await make(url, SCHEMA_VERSION - 1)
    async with SqlStorage.from_url(url) as storage:
        assert await storage.database.read(version_of) == SCHEMA_VERSION
        [delivery] = await storage.claim_due(10, lease=60)
    assert delivery.task.id == "a"


async def test_a_step_that_takes_long_is_left_to_people(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with SqlStorage.from_url(url) as storage:
        before = await storage.database.read(tables)
    monkeypatch.setattr(setup, "UPGRADES", (*UPGRADES, LATER))
    monkeypatch.setattr(setup, "SCHEMA_VERSION", LATER.version)
    with pytest.raises(ConfigurationError, match=f"then run: taskloom init --url {url}"):
        await SqlStorage.from_url(url).open()
    loom = Loom(url)
    await loom.upgrade()
    async with loom:
        assert isinstance(loom.handler.storage, SqlStorage)
        after = await loom.handler.storage.database.read(tables)
    assert ["taskloom_test" in str(row) for row in after - before] == [True]


async def test_an_upgrade_that_fails_leaves_the_version_before(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await make(url, SCHEMA_VERSION - 1)
    broken = Upgrade(
        SCHEMA_VERSION + 1, is_quick=True, sqlite=(SLOW, "nonsense"), postgresql=(SLOW, "nonsense")
    )
    with monkeypatch.context() as patch:
        patch.setattr(setup, "UPGRADES", (*UPGRADES, broken))
        with pytest.raises(Exception, match="nonsense"):
            await SqlStorage.from_url(url).open()
    async with SqlStorage.from_url(url) as storage:
        assert await storage.database.read(version_of) == SCHEMA_VERSION
        assert "taskloom_test" not in str(await storage.database.read(tables))


async def test_a_later_version_is_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with SqlStorage.from_url(url):
        pass
    monkeypatch.setattr(setup, "SCHEMA_VERSION", SCHEMA_VERSION - 1)
    storage = SqlStorage.from_url(url)
    for attempt in (storage.open, storage.upgrade):
        with pytest.raises(ConfigurationError, match=r"by a later Taskloom.*upgrade taskloom here"):
            await attempt()


@pytest.mark.parametrize("before", [None, SCHEMA_VERSION - 1])
async def test_eight_at_once_make_or_upgrade_it_once(url: str, before: int | None) -> None:
    if before is not None:
        await make(url, before)
    databases = [SqlDatabase.from_url(url) for _ in range(8)]
    await asyncio.gather(*(each.upgrade() for each in databases[:4]), *map(opened, databases[4:]))
    async with databases[0] as database:
        assert await database.read(version_of) == SCHEMA_VERSION
        names = "SELECT count(*) FROM taskloom_meta WHERE key = 'database'"
        assert await database.read(lambda conn: conn.scalar(text(names))) == 1


async def opened(database: SqlDatabase) -> None:
    async with database:
        pass


async def test_two_databases_have_two_names(url: str, tmp_path: Path) -> None:
    names = []
    for each in (url, f"sqlite:///{tmp_path}/another.db", url):
        async with SqlDatabase.from_url(each) as database:
            names.append(await database.read(identity_of))
    assert names[0] == names[2] != names[1]


async def test_a_change_of_a_projection_touches_no_index(postgres_url: str) -> None:
    task = Task(type="t", queue_id="q", payload=None, entity=EntityRef("7", "order"))

    def hot_updates(conn: Connection) -> Any:
        for status in ("scheduled", "processing", "executed"):
            row = build_projection(task, status)  # type: ignore[arg-type]
            assert row is not None
            upsert(conn, [row])
        query = "SELECT pg_stat_get_xact_tuples_hot_updated('taskloom_projections'::regclass)"
        return conn.scalar(text(query))

    async with SqlDatabase.from_url(postgres_url) as database:
        assert await database.write(hot_updates) == 2


def test_sqlite_loads_nothing_of_postgres_and_no_orm() -> None:
    code = (
        "import asyncio, sys\n"
        "from taskloom import Loom\n"
        "async def main():\n"
        "    async with Loom('sqlite://') as loom:\n"
        "        await loom.get_tasks(['x'])\n"
        "asyncio.run(main())\n"
        "unwanted = ('asyncpg', 'sqlalchemy.dialects.postgresql', 'sqlalchemy.orm')\n"
        "print([name for name in unwanted if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (run.stdout.strip(), run.stderr) == ("[]", "")
