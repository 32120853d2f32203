"""Servers of the rig's own: killed, restarted on their port and data, stopped, started empty.

They keep what they promise to keep: PostgreSQL with fsync and synchronous commits, Redis with an
append-only file that is written before each answer, MongoDB's journal likewise.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import mkdtemp

import asyncpg
import pytest
from pymongo import AsyncMongoClient
from pymongo.errors import PyMongoError
from redis.asyncio import Redis
from redis.exceptions import RedisError

from mongodb_server import mongodb_command
from redis_server import free_port, redis_binary
from servers import new_cluster, postgres_binary, postgres_user

__all__ = [
    "ENGINES",
    "MongoDBControl",
    "PostgresControl",
    "RedisControl",
    "ServerControl",
    "server",
]

PATIENCE = 30.0
FORGETS_SOCKETS = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
"""See the fixture `forgotten_sockets`."""
ENGINES = ["postgresql", "redis", pytest.param("mongodb", marks=FORGETS_SOCKETS)]


class ServerControl(ABC):
    """One server on a port and a folder that stay the same, whatever becomes of its process."""

    url: str
    user: str | None = None
    """Whom it runs as, if not as we do."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped: list[int] = []

    @property
    def pid(self) -> int:
        """The server's first process."""
        assert self._process is not None, f"{self.url} was not started"
        return self._process.pid

    async def start(self) -> float:
        """Start it on what data there is; when it first answered (monotonic)."""
        process = self._process = self._launch()
        end = time.monotonic() + PATIENCE
        while not await self.answers():
            assert process.poll() is None, f"{self.url} did not start:\n{self.log()}"
            assert time.monotonic() < end, f"{self.url} does not answer:\n{self.log()}"
            await asyncio.sleep(0.01)  # nothing tells us
        return time.monotonic()

    def _launch(self) -> subprocess.Popen[bytes]:
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(
                self._command(),
                cwd="/",
                user=self.user,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    async def kill(self) -> None:
        """`kill -9` of all its processes at once; returns when they have ended."""
        pids = self._freeze()
        for pid in pids:
            _signal(pid, signal.SIGKILL)
        assert self._process is not None, "frozen, so it was started"
        # Most are not our children: nothing tells us.
        while any(_runs(pid) for pid in pids[1:]) or self._process.poll() is None:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        self._process = None

    async def restart(self) -> float:
        """`kill`, then `start`."""
        await self.kill()
        return await self.start()

    async def come_back_empty(self) -> float:
        """Killed, and started without its data."""
        await self.kill()
        await asyncio.to_thread(self.wipe)
        return await self.start()

    def stop(self) -> None:
        """SIGSTOP of all its processes: it hangs, and its port still takes connections."""
        self._stopped = self._freeze()

    def go_on(self) -> None:
        """SIGCONT, those it was built from first."""
        for pid in reversed(self._stopped):
            _signal(pid, signal.SIGCONT)
        self._stopped = []

    def log(self) -> str:
        """What it has said so far."""
        return (self.folder / "log").read_text(errors="replace")

    async def close(self) -> None:
        """End it, whatever state it is in. Safe to repeat."""
        if self._process is not None:
            await self.kill()

    def _freeze(self) -> list[int]:
        """Stop every process, the first one first, so that none is forked meanwhile."""
        _signal(self.pid, signal.SIGSTOP)
        pids = [self.pid, *_children(self.pid)]
        for pid in pids[1:]:
            _signal(pid, signal.SIGSTOP)
        return pids

    @abstractmethod
    def _command(self) -> list[str]:
        """How it is started."""

    @abstractmethod
    async def answers(self) -> bool:
        """Whether it takes orders now."""

    @abstractmethod
    def wipe(self) -> None:
        """Remove its data; it must not be running."""


class PostgresControl(ServerControl):
    """PostgreSQL with its defaults: fsync and synchronous_commit are on."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.url = f"postgresql://postgres@127.0.0.1:{self.port}/postgres"
        self.user = postgres_user()
        self.wipe()

    def _command(self) -> list[str]:
        place = ("-D", str(self.folder / "data"), "-h", "127.0.0.1", "-p", str(self.port))
        return [str(postgres_binary("postgres")), *place, "-k", "", "-c", "log_connections=on"]

    async def answers(self) -> bool:
        try:
            conn = await asyncpg.connect(self.url, timeout=5)
        except (OSError, asyncpg.PostgresError):
            return False
        await conn.close()
        return True

    def wipe(self) -> None:
        shutil.rmtree(self.folder / "data", ignore_errors=True)
        new_cluster(self.folder)


class RedisControl(ServerControl):
    """Redis that writes its append-only file, and has it synced, before each answer."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.url = f"redis://127.0.0.1:{self.port}/0"

    def _command(self) -> list[str]:
        place = ("--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder))
        promise = ("--save", "", "--appendonly", "yes", "--appendfsync", "always")
        return [str(redis_binary()), *place, *promise]

    async def answers(self) -> bool:
        client = Redis.from_url(self.url, socket_timeout=5)
        try:
            return bool(await client.ping())
        except (OSError, RedisError):  # it does not listen, or it is still loading
            return False
        finally:
            await client.aclose()

    def wipe(self) -> None:
        for file in self.folder.glob("appendonly*"):
            file.unlink()


class MongoDBControl(ServerControl):
    """The wheel's server, with each commit synced."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        # Directly: the driver would look for its server past a proxy.
        self.url = f"mongodb://127.0.0.1:{self.port}/rig?directConnection=true"

    def _command(self) -> list[str]:
        return mongodb_command(self.folder, self.port, "--sync-on-commit")

    async def answers(self) -> bool:
        limits = {"serverSelectionTimeoutMS": 200, "socketTimeoutMS": 5_000}
        async with AsyncMongoClient[dict[str, object]](self.url, **limits) as client:
            try:
                await client.admin.command("ping")
            except PyMongoError:
                return False
            return True

    def wipe(self) -> None:
        shutil.rmtree(self.folder / "data", ignore_errors=True)


_CONTROLS: dict[str, type[ServerControl]] = {
    "postgresql": PostgresControl,
    "redis": RedisControl,
    "mongodb": MongoDBControl,
}


@asynccontextmanager
async def server(engine: str) -> AsyncIterator[ServerControl]:
    """A server of its own, started; it is gone when this is left."""
    folder = Path(mkdtemp(prefix=f"taskloom-{engine}-"))  # where `nobody` may go, too
    try:
        control = await asyncio.to_thread(_CONTROLS[engine], folder)
        try:
            await control.start()
            yield control
        finally:
            await control.close()
    finally:
        shutil.rmtree(folder)


def _children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _runs(pid: int) -> bool:
    """Whether a process has not ended; one that nobody has reaped yet has."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):  # a connection that ended just now
        os.kill(pid, number)
