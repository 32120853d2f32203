"""A rig on Kinesis: a stream, locks in files, rows in one SQLite file, flows in another."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
from accounts import REGION, account_client, account_session
from crashing import Watch
from generator import QUEUE
from place import Place
from rows import SqliteRows
from watched_flows import BarrierBeside, WatchedProjections
from watched_kinesis import RowsBesideStream, StreamQueue, WatchedKinesisQueue, WatchedLocks

from taskloom.kinesis import FileShardLocks
from taskloom.kinesis.progress import FINISHED, read_progress
from taskloom.sql import SqlCache, SqlFlowBarrier, SqlProjections, SqlStorage
from taskloom.urls import Parts

__all__ = ["KinesisPlace"]

SHARDS = 4


class KinesisPlace(Place):
    """An account of one's own on moto: `?account=123456789012`."""

    apart = True
    forgets = True
    outlast = 3.0  # locks of shards last for two

    def __init__(self, url: str, directory: Path, *, beside: bool) -> None:
        super().__init__(url, directory, beside=True)
        self._endpoint, _, self._account = url.partition("?account=")
        self._told = SqliteRows(self._file)
        self._tasks = directory / "tasks.db"
        self._rows = SqliteRows(self._tasks)
        self._locks = directory / "locks"
        self._waits, self._asked_at = 0, 0.0

    def parts(self) -> Parts:
        storage, other = SqlStorage.from_url(f"sqlite:///{self._tasks}"), self._other()
        self._queue = StreamQueue(**self._where())
        barrier, projections = SqlFlowBarrier(other), SqlProjections(other)
        return Parts(self._queue, storage, SqlCache(storage.database), barrier, projections)

    def watched(self, watch: Watch) -> Parts:
        storage, other = RowsBesideStream(f"sqlite:///{self._tasks}", watch), self._other()
        where = self._where() | {"shard_locks": WatchedLocks(self._locks, watch)}
        queue = WatchedKinesisQueue(storage, watch, **where)
        barrier, projections = BarrierBeside(other), WatchedProjections(other)
        barrier.watch = projections.watch = watch
        return Parts(queue, storage, SqlCache(storage.database), barrier, projections)

    def _other(self) -> SqlStorage:
        return SqlStorage.from_url(f"sqlite:///{self._file}")

    def _where(self) -> dict[str, Any]:
        return {
            "session": account_session(self._account),
            "shard_locks": FileShardLocks(self._locks),
            "endpoint_url": self._endpoint,
            "region_name": REGION,
        }

    async def begin(self) -> None:
        async with self._client() as client:
            await client.create_stream(StreamName=QUEUE, ShardCount=SHARDS)
        await self._told.watch()

    async def changes(self) -> Sequence[Sequence[Any]]:
        return await self._told.changes()

    async def flows(self) -> dict[str, str]:
        return await self._told.flows()

    async def projections(self) -> dict[str, str]:
        return await self._told.projections()

    async def held(self) -> list[str]:
        found = await self._rows.held()
        now = time.time()
        for document in self._documents():
            names = [document.get("owner")] if "until" in document else list(document)
            ends = [document["until"]] if "until" in document else list(document.values())
            pairs = zip(names, ends, strict=True)
            found += [f"{name} of a shard" for name, end in pairs if _is_later(end, now)]
        return found

    def _documents(self) -> list[dict[str, Any]]:
        """Of locks, and of the instances of a stream with the end of their time."""
        return [msgspec.json.decode(path.read_bytes()) for path in self._locks.glob("*.json")]

    async def waiting(self) -> int:
        """Asked at most twice a second while there is something: it reads all shards."""
        if not self._waits or time.monotonic() > self._asked_at + 0.5:
            self._waits = await self._queue.depth(QUEUE)
            self._asked_at = time.monotonic()
        return self._waits

    async def acknowledged(self) -> set[str]:
        """Tasks of records up to which, or at which, a checkpoint says that all is settled."""
        locks = FileShardLocks(self._locks)
        done: set[str] = set()
        async with self._client() as client, locks:
            for shard in (await client.list_shards(StreamName=QUEUE))["Shards"]:
                shard_id = shard["ShardId"]
                checkpoint = await locks.get_checkpoint(f"{QUEUE}/{shard_id}")
                assert checkpoint != FINISHED, "no shard of a rig is ever closed"
                progress = read_progress(checkpoint)
                async for number, data in _records(client, shard_id):
                    if number <= (progress.mark or 0) or progress.is_done(number):
                        with contextlib.suppress(msgspec.DecodeError):
                            done.add(msgspec.json.decode(data)["id"])
        return done

    async def spoil(self, id: str) -> None:
        """No record of a stream can be changed: another one follows."""
        async with self._client() as client:
            await client.put_record(StreamName=QUEUE, Data=b"{spoilt", PartitionKey=id)

    def is_free(self) -> bool:
        """A process that stops within a transaction locks the file for everybody."""
        return all(map(_is_free, (self._tasks, self._file)))

    async def clear(self) -> None:
        """The account goes with the server."""

    def _client(self) -> Any:
        return account_client(self._endpoint, self._account)


async def _records(client: Any, shard_id: str) -> AsyncIterator[tuple[int, bytes]]:
    answer = await client.get_shard_iterator(
        StreamName=QUEUE, ShardId=shard_id, ShardIteratorType="TRIM_HORIZON"
    )
    iterator = answer["ShardIterator"]
    while True:
        answer = await client.get_records(ShardIterator=iterator)
        for each in answer["Records"]:
            yield int(each["SequenceNumber"]), each["Data"]
        if not answer["MillisBehindLatest"]:
            return
        iterator = answer["NextShardIterator"]


def _is_later(end: object, now: float) -> bool:
    return isinstance(end, float) and end > now


def _is_free(file: Path) -> bool:
    with closing(sqlite3.connect(file, timeout=0.5, isolation_level=None)) as db:
        try:
            db.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return False
        db.execute("ROLLBACK")
        return True
