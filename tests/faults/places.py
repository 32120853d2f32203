"""Where the tasks of a rig are: a place for each engine."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from crashing import Watch
from generator import QUEUE
from kinesis_place import KinesisPlace
from mongodb_place import MongoDBPlace, MongoDBStepsPlace
from place import Place
from rows import PostgresRows, Rows, SqliteRows
from watched import Arm, WatchedStorage, arm_postgres, arm_sqlite, make_storage
from watched_flows import BarrierBeside, BarrierOnRedis, WatchedBarrier, WatchedProjections
from watched_redis import WatchedRedisQueue, WatchedRedisStorage

from taskloom.redis import RedisCache, RedisFlowBarrier, RedisQueue, RedisServer, RedisStorage
from taskloom.sql import SqlCache, SqlFlowBarrier, SqlProjections, SqlQueue, SqlStorage
from taskloom.urls import Parts

__all__ = ["PLACES", "Place"]


class _SqlPlace(Place):
    """Queue and storage are one; flows and projections are in their transactions, or beside."""

    apart = False
    arm: Arm
    rows: Rows

    def __init__(self, url: str, directory: Path, *, beside: bool) -> None:
        super().__init__(url, directory, beside=beside)
        self._told = SqliteRows(self._file) if beside else self.rows

    def parts(self) -> Parts:
        storage = SqlStorage.from_url(self.url)
        other = self._other() if self.beside else storage
        return self._parts(storage, SqlFlowBarrier(other), SqlProjections(other))

    def watched(self, watch: Watch) -> Parts:
        storage = make_storage(self.url, watch, type(self).arm)
        if not self.beside:
            barrier: SqlFlowBarrier = WatchedBarrier(storage)
            return self._parts(storage, barrier, _projections(storage, watch))
        other = self._other()
        barrier = BarrierBeside(other)
        barrier.watch = watch
        return self._parts(storage, barrier, _projections(other, watch))

    def _other(self) -> SqlStorage:
        return SqlStorage.from_url(f"sqlite:///{self._file}")

    def _parts(
        self, storage: SqlStorage, barrier: SqlFlowBarrier, projections: SqlProjections
    ) -> Parts:
        cache = SqlCache(storage.database)
        return Parts(SqlQueue(storage), storage, cache, barrier, projections)

    async def begin(self) -> None:
        await self._told.watch()

    async def changes(self) -> Sequence[Sequence[Any]]:
        return await self._told.changes()

    async def flows(self) -> dict[str, str]:
        return await self._told.flows()

    async def projections(self) -> dict[str, str]:
        return await self._told.projections()

    async def held(self) -> list[str]:
        return await self.rows.held()

    async def spoil(self, id: str) -> None:
        await self.rows.spoil(id)

    async def clear(self) -> None:
        """A file or database of one's own goes with whoever made it."""


class SqlitePlace(_SqlPlace):
    """One file: `sqlite:///` and its name."""

    hurries = False
    arm = staticmethod(arm_sqlite)

    def __init__(self, url: str, directory: Path, *, beside: bool) -> None:
        self.file = Path(url.removeprefix("sqlite:///"))
        self.rows = SqliteRows(self.file)
        super().__init__(url, directory, beside=beside)

    def is_free(self) -> bool:
        """A process that stops within a transaction locks the file for everybody."""
        with closing(sqlite3.connect(self.file, timeout=0.5, isolation_level=None)) as db:
            try:
                db.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                return False
            db.execute("ROLLBACK")
            return True


class PostgresPlace(_SqlPlace):
    """An empty database of one's own."""

    arm = staticmethod(arm_postgres)

    def __init__(self, url: str, directory: Path, *, beside: bool) -> None:
        self.rows = PostgresRows(url)
        super().__init__(url, directory, beside=beside)


class RedisPlace(Place):
    """A prefix of one's own: `?prefix=name`. Queue, storage and flows on it, projections beside."""

    apart = True

    def __init__(self, url: str, directory: Path, *, beside: bool) -> None:
        super().__init__(url, directory, beside=True)
        self._server = RedisServer.from_url(url)
        self._rows = SqliteRows(self._file)

    def parts(self) -> Parts:
        server, rows = self._server, SqlStorage.from_url(f"sqlite:///{self._file}")
        barrier, projections = RedisFlowBarrier(server), SqlProjections(rows)
        storage, cache = RedisStorage(server), RedisCache(server)
        return Parts(RedisQueue(server), storage, cache, barrier, projections)

    def watched(self, watch: Watch) -> Parts:
        server, rows = self._server, SqlStorage.from_url(f"sqlite:///{self._file}")
        storage, barrier = WatchedRedisStorage(server, watch), BarrierOnRedis(server)
        barrier.watch = watch
        queue = WatchedRedisQueue(server, storage, watch)
        return Parts(queue, storage, RedisCache(server), barrier, _projections(rows, watch))

    async def begin(self) -> None:
        await self._rows.watch()

    async def changes(self) -> Sequence[Sequence[Any]]:
        """Of projections only: no trigger tells of a flow."""
        return await self._rows.changes()

    async def flows(self) -> dict[str, str]:
        keys = await self._keys(f"{self._server.keys.flows}flow:")
        states = [await self._server.client.hget(key, "state") for key in keys]
        return {
            key.partition("flow:")[2]: state.decode()
            for key, state in zip(keys, states, strict=True)
        }

    async def projections(self) -> dict[str, str]:
        return await self._rows.projections()

    async def held(self) -> list[str]:
        client, keys = self._server.client, self._server.keys
        queue = keys.queue(QUEUE)
        # Of the queue, not of tasks; a batch is over with its lease, and what it holds is pending.
        own = {"stream", "batches", "done", "bell", "new"}
        left = [key for field, key in queue._asdict().items() if field not in own]
        found = [key for key in left if await client.exists(key)]
        if await client.xlen(queue.stream):  # an empty one is there, and keeps its group
            found.append(queue.stream)
        if pending := await self._pending(queue.stream):
            found.append(f"{pending} pending entries")
        rows = f"{keys.tasks}moment:processing"
        found += [id.decode() for id in await client.zrange(rows, 0, -1)]
        return found + await self._keys(f"{keys.cache}task_lock_")

    async def _pending(self, stream: str) -> int:
        groups = await self._server.client.xinfo_groups(stream)
        return sum(group["pending"] for group in groups)

    async def waiting(self) -> int:
        return int(await self._server.client.scard(self._server.keys.queue(QUEUE).ids))

    async def acknowledged(self) -> set[str]:
        sets = await self._keys(f"{self._server.keys.queue(QUEUE).done}:")
        found = [await self._server.client.smembers(key) for key in sets]
        return {id.decode() for ids in found for id in ids}

    async def spoil(self, id: str) -> None:
        client, stream = self._server.client, self._server.keys.queue(QUEUE).stream
        for entry, fields in await client.xrange(stream):
            if fields[b"i"] == id.encode():
                await client.xdel(stream, entry)
                await client.xadd(stream, fields | {b"b": b"{spoilt"})

    async def _keys(self, start: str) -> list[str]:
        return [key.decode() async for key in self._server.client.scan_iter(f"{start}*", 1000)]

    async def clear(self) -> None:
        server = RedisServer.from_url(self.url)
        async with server:
            async for key in server.client.scan_iter(f"{{{server.keys.prefix}:*", 1000):
                await server.client.delete(key)


def _projections(storage: SqlStorage | WatchedStorage, watch: Watch) -> SqlProjections:
    projections = WatchedProjections(storage)
    projections.watch = watch
    return projections


PLACES: dict[str, type[Place]] = {
    "sqlite": SqlitePlace,
    "postgresql": PostgresPlace,
    "redis": RedisPlace,
    "kinesis": KinesisPlace,
    "mongodb": MongoDBPlace,
    "mongodb-steps": MongoDBStepsPlace,
}
