"""RedisStorage: tasks as hashes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime
from hashlib import sha256
from typing import Any, Self

from taskloom.interfaces import DeadRecord, TaskStorage
from taskloom.outcomes import Delivery, Ending, Settlement, UnreadableRecord
from taskloom.redis.archive import BATCH, RedisArchive
from taskloom.redis.clients import Client
from taskloom.redis.entries import micros
from taskloom.redis.rows import StoredTask, json_text, named_rows, read_row
from taskloom.redis.server import RedisServer, server_of
from taskloom.redis.settling import settlement_message
from taskloom.task import Task, TaskStatus

__all__ = ["RedisStorage"]

_log = logging.getLogger(__name__)


class RedisStorage(RedisArchive, TaskStorage):
    """Tasks as hashes beside sorted sets that index them; every method is one script.

    All keys share a hash tag, so in a cluster one storage is on one node. Leases end by the
    server's clock.

    async with RedisStorage.from_url("redis://localhost:6379/0") as storage:
        await storage.add([Task(type="hello", queue_id="q", payload=None)])
    """

    def __init__(self, source: Client | RedisServer) -> None:
        super().__init__(server_of(source))

    @classmethod
    def from_url(cls, url: str, *, prefix: str = "taskloom") -> Self:
        """A storage with connections of its own: see `RedisServer.from_url`."""
        return cls(RedisServer.from_url(url, prefix=prefix))

    async def open(self) -> None:
        await self.server.open(self)

    async def close(self) -> None:
        await self.server.close(self)

    async def add(self, tasks: Sequence[Task[Any]]) -> list[Task[Any]]:
        """Keep `tasks`, a thousand in each atomic step.

        Raises `InvalidTaskError`, nothing kept, for one that it cannot hold. After a
        `StorageUnavailableError` the first thousands may be there; adding all again is safe.
        """
        rows = named_rows(tasks)
        new: list[int] = []
        for start in range(0, len(rows), BATCH):
            new += await self.run("tasks_add", rows[start : start + BATCH])
        return [task for task, is_new in zip(tasks, new, strict=True) if is_new]

    async def claim_due(
        self, limit: int, *, lease: float, queue_id: str | None = None, now: datetime | None = None
    ) -> list[Delivery]:
        """Due tasks. Records that are none end as failed and are set aside, with a warning."""
        if limit <= 0:
            return []
        at = 0 if now is None else micros(now)
        rows = await self.run("tasks_claim", [limit, _span(lease), queue_id or "", at])
        return await self._deliveries(rows)

    async def take_over(self, ids: Sequence[str], *, lease: float) -> list[Delivery]:
        """Lease tasks by id, whoever held them."""
        return await self._deliveries(await self.run("tasks_take", [list(ids), _span(lease)]))

    async def _deliveries(self, rows: Sequence[Sequence[bytes]]) -> list[Delivery]:
        stored = [read_row(row) for row in rows]
        if unreadable := [each for each in stored if each.unreadable is not None]:
            _log.warning("%d records are no tasks and were set aside", len(unreadable))
            await self.set_aside([_unreadable(each) for each in unreadable])
            ends = tuple(Ending(each.delivery, TaskStatus.FAILED) for each in unreadable)
            await self.settle(Settlement(ends))
        return [each.delivery for each in stored if each.unreadable is None]

    async def extend_leases(self, deliveries: Sequence[Delivery], lease: float) -> list[Delivery]:
        """Lease for `lease` seconds from now."""
        keys = [(delivery.task.id, delivery.receipt) for delivery in deliveries]
        lost = await self.run("tasks_extend", [keys, _span(lease)])
        return [deliveries[place] for place in lost]

    async def settle(self, plan: Settlement) -> list[str]:
        """Write `plan` in one step. Returns the ids for which nothing was written."""
        return [id.decode() for id in await self.run("tasks_settle", settlement_message(plan))]

    async def get(self, ids: Sequence[str]) -> list[Task[Any]]:
        """The tasks that exist, in the order asked for.

        A record that cannot be read has a stand-in without payload: `execution_stats` says why.
        """
        return [each.task for each in await self.read(ids)]

    async def recover_stale(self, *, now: datetime, stale_after: float) -> int:
        """Make `scheduled` again what someone lost, a thousand in each step."""
        at = micros(now)
        return await self.in_batches("tasks_recover", at, at - _span(stale_after))

    async def set_aside(self, records: Sequence[UnreadableRecord]) -> None:
        """Keep the bytes; equal bytes of one queue are kept once."""
        await self.run("tasks_bury", [_dead(record, self.server.clock.now()) for record in records])


def _span(seconds: float) -> int:
    return round(seconds * 1_000_000)


def _unreadable(stored: StoredTask) -> UnreadableRecord:
    assert stored.unreadable is not None
    reason = stored.task.execution_stats["unreadable"]
    return UnreadableRecord(
        stored.unreadable, reason, stored.epoch, stored.deliveries, stored.task.queue_id
    )


def _dead(record: UnreadableRecord, now: datetime) -> tuple[str, str]:
    digest = sha256(record.queue_id.encode() + b"\0" + record.raw).hexdigest()
    kept = DeadRecord(record.raw, record.reason, record.queue_id, now)
    return digest, json_text(kept)
