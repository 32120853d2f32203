"""RedisQueue: each queue a stream with a consumer group."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from datetime import datetime
from typing import Any, Self, TypeAlias

from taskloom.errors import QueueUnavailableError
from taskloom.identity import new_id
from taskloom.interfaces import MessageQueue, QueueFeatures
from taskloom.outcomes import Delivery, UnreadableRecord
from taskloom.redis.clients import Client
from taskloom.redis.entries import Lease, Receipt, micros, read_claim, text_of
from taskloom.redis.keys import GROUP, QueueKeys
from taskloom.redis.scripts import pack
from taskloom.redis.server import RedisServer, server_of
from taskloom.task import Task, TaskStatus

__all__ = ["RedisQueue"]

_log = logging.getLogger(__name__)

_LOOK_EVERY = 1.0
"""Seconds after which a waiting claim looks, whether the bell rang or not."""
_LONG_SILENT = 86_400_000
"""Milliseconds after which a consumer that holds nothing is taken for dead."""
_PIECE_TASKS = 500
_PIECE_BYTES = 4 * 1024 * 1024
"""What one script is given at most: others wait while it runs."""

_Row: TypeAlias = tuple[str, int, bool, str]


class RedisQueue(MessageQueue):
    """A stream per queue: what is in flight is pending in its group, delays are a sorted set.

    Leases end by the server's clock. What a claim holds is fenced by consumer and delivery count.
    An id is put once while it is in the queue, and within `remember` seconds after it was
    acknowledged (a day, unless the URL says `?remember=seconds`); a stored task (QUEUED) is told
    apart by its row instead.

    async with RedisQueue.from_url("redis://localhost:6379/0") as queue:
        await queue.put("mail", [Task(type="send", queue_id="mail", payload={})])
        [delivery] = await queue.claim("mail", 10, lease=60)
    """

    name = "redis"
    features = QueueFeatures(durable=True, delay=True, exclusive=True, single_ack=True)

    def __init__(self, source: Client | RedisServer, *, remember: float | None = None) -> None:
        self.server = server_of(source)
        remember = self.server.remember if remember is None else remember
        self._span = max(1, round(remember / 2))
        self._consumer = new_id()
        self._keys: dict[str, QueueKeys] = {}
        self._made: dict[str, str] = {}
        """When the groups were made of the queues that were claimed here: "" where nobody told."""
        self._new: set[str] = set()

    @classmethod
    def from_url(cls, url: str, *, prefix: str = "taskloom", remember: float | None = None) -> Self:
        """A queue with connections of its own: see `RedisServer.from_url`."""
        return cls(RedisServer.from_url(url, prefix=prefix), remember=remember)

    async def open(self) -> None:
        await self.server.open(self)

    async def close(self) -> None:
        """Let go, and take this consumer off the groups where it holds nothing.

        What it still holds is delivered again when its leases end.
        """
        made, self._made = self._made, {}
        self._new.clear()
        for queue_id in made:
            try:
                await self._run("queue_leave", queue_id, [self._consumer, _LONG_SILENT])
            except QueueUnavailableError:
                break
        await self.server.close(self)

    async def put(self, queue_id: str, tasks: Sequence[Task[Any]]) -> None:
        """Accept `tasks`, one atomic step for each few hundred of them.

        `QueueUnavailableError` says which were accepted. Of those due in one put, earlier ones
        come first; otherwise the order is that of arrival.
        """
        rows = [
            (task.id, micros(task.execute_at), task.status is TaskStatus.QUEUED, text_of(task))
            for task in sorted(tasks, key=_due)
        ]
        accepted: set[str] = set()
        for piece in _pieces(rows):
            try:
                await self._run("queue_put", queue_id, [*_put_columns(piece), self._span])
            except QueueUnavailableError as error:
                raise QueueUnavailableError(
                    str(error),
                    accepted=[task for task in tasks if task.id in accepted],
                    rejected=[task for task in tasks if task.id not in accepted],
                ) from error
            accepted.update(row[0] for row in piece)

    async def claim(
        self, queue_id: str, limit: int, *, lease: float, wait: float = 0.0
    ) -> list[Delivery | UnreadableRecord]:
        """At most `limit` due tasks; one atomic step.

        Released tasks and lost leases come first. While it waits it reads the queue's bell, on a
        connection of its own, and looks at least once a second. A process that stops or is cut off
        while it waits may be handed what comes in that second, for the time of its lease.
        """
        if limit <= 0:
            return []
        end = time.monotonic() + wait
        message = [self._consumer, limit, round(lease * 1_000_000)]
        taken, bell, pause = await self._take(queue_id, self._run("queue_claim", queue_id, message))
        while not taken and (left := end - time.monotonic()) > 0:
            rung = self._run_when_rung(queue_id, bell, min(left, pause, _LOOK_EVERY), message)
            taken, bell, pause = await self._take(queue_id, rung)
        return taken

    async def _take(
        self, queue_id: str, claim: Coroutine[Any, Any, Any]
    ) -> tuple[list[Delivery | UnreadableRecord], bytes, float]:
        """What one script claims, the bell's last entry, and the seconds until something is due."""
        call = self.server.spawn(claim)
        try:
            new, *taken, bell, pause = await asyncio.shield(call)
        except asyncio.CancelledError:
            await asyncio.shield(self.server.spawn(self._give_back(queue_id, call)))
            raise
        self._note_new(queue_id, new.decode())
        seconds = float("inf") if pause < 0 else pause / 1_000_000
        return read_claim(queue_id, self._consumer, *taken), bell, seconds

    def _note_new(self, queue_id: str, since: str) -> None:
        """`since`: when the queue's group was made, "" once what the storage knows is in it."""
        known = self._made.get(queue_id)
        self._made[queue_id] = since or known or ""
        if not since:
            self._new.discard(queue_id)
        elif since != known:
            self._new.add(queue_id)
            if known is not None:
                _log.error(
                    "queue %r is gone from %s, and what waited in it: its group was made again. "
                    "Did the server start without its data?",
                    queue_id,
                    self.server.place,
                )

    async def _give_back(self, queue_id: str, call: asyncio.Task[Any]) -> None:
        """A claim was cancelled under way: what it takes is released."""
        # Where Redis does not answer, what it took comes back after its lease.
        with contextlib.suppress(QueueUnavailableError):
            if not call.done():
                await self.server.ring(self._keys_of(queue_id).bell, QueueUnavailableError)
            _, *taken, _, _ = await call
            await self._change(
                "queue_release", read_claim(queue_id, self._consumer, *taken), _held, 0
            )

    async def extend(self, deliveries: Sequence[Delivery], lease: float) -> list[Delivery]:
        """Lease for `lease` seconds from now; one atomic step for each queue."""
        return await self._change("queue_extend", deliveries, _held, round(lease * 1_000_000))

    async def ack(self, deliveries: Sequence[Delivery | UnreadableRecord]) -> list[Delivery]:
        """Done: never deliver these again; one atomic step for each queue."""
        by_queue: dict[str, dict[tuple[Lease, bool], list[Delivery | UnreadableRecord]]] = {}
        for delivery in deliveries:
            lease: Lease = delivery.receipt.lease
            groups = by_queue.setdefault(lease.queue_id, {})
            groups.setdefault((lease, _is_remembered(delivery)), []).append(delivery)
        lost: list[Delivery] = []
        for queue_id, groups in by_queue.items():
            message = [
                _columns(lease, remember, group) for (lease, remember), group in groups.items()
            ]
            late = await self._run("queue_ack", queue_id, [message, self._span])
            lost += _deliveries_at(late, [each for group in groups.values() for each in group])
        return lost

    async def release(
        self,
        deliveries: Sequence[Delivery],
        *,
        delay: float = 0.0,
        tasks: Sequence[Task[Any]] | None = None,
    ) -> list[Delivery]:
        """Back to the queue; one atomic step for each queue. Without a delay to the old place."""
        if tasks is None:
            return await self._change("queue_release", deliveries, _held, round(delay * 1_000_000))
        if [task.id for task in tasks] != [delivery.task.id for delivery in deliveries]:
            raise ValueError("tasks: one for each delivery, in the same order, with the same ids")
        next_of = {task.id: (micros(task.execute_at), text_of(task)) for task in tasks}
        return await self._change(
            "queue_replace", deliveries, lambda held: (*_held(held), *next_of[held.receipt.id])
        )

    async def depth(self, queue_id: str) -> int:
        """How many tasks are due and with nobody; those of lost leases included."""
        depth = -1
        while depth < 0:
            depth = int(await self._run("queue_depth", queue_id, []))
        return depth

    def found_empty(self) -> list[str]:
        """Queues that were new to this Redis, or gone from it, when they were claimed."""
        return list(self._new)

    async def filled_again(self, queue_id: str) -> None:
        """Everyone is told that what the storage knows of is in the queue. Safe to repeat."""
        if queue_id in self._new:
            made = self._made[queue_id]
            await self._run("queue_filled", queue_id, [made])
            if self._made.get(queue_id) == made:
                self._new.discard(queue_id)

    async def _change(
        self,
        script: str,
        deliveries: Sequence[Delivery | UnreadableRecord],
        row_of: Callable[[Delivery | UnreadableRecord], tuple[Any, ...]],
        *more: Any,
    ) -> list[Delivery]:
        """Run a script for each queue with a row per delivery; those that were no longer ours."""
        by_queue: dict[str, list[Delivery | UnreadableRecord]] = {}
        for delivery in deliveries:
            by_queue.setdefault(delivery.receipt.lease.queue_id, []).append(delivery)
        lost: list[Delivery] = []
        for queue_id, group in by_queue.items():
            rows = [row_of(delivery) for delivery in group]
            lost += _deliveries_at(await self._run(script, queue_id, [rows, *more]), group)
        return lost

    async def _run(self, script: str, queue_id: str, message: list[Any]) -> Any:
        return await self.server.run(
            script,
            self._keys_of(queue_id),
            GROUP,
            pack(message),
            unavailable=QueueUnavailableError,
        )

    async def _run_when_rung(
        self, queue_id: str, bell: bytes, seconds: float, message: list[Any]
    ) -> Any:
        """`queue_claim`, once the bell has an entry after `bell`, or after so many seconds."""
        keys = self._keys_of(queue_id)
        return await self.server.run_when(
            *(keys.bell, bell, seconds, "queue_claim", keys, GROUP, pack(message)),
            unavailable=QueueUnavailableError,
        )

    def _keys_of(self, queue_id: str) -> QueueKeys:
        keys = self._keys.get(queue_id)
        if keys is None:
            keys = self._keys[queue_id] = self.server.keys.queue(queue_id)
        return keys


def _due(task: Task[Any]) -> datetime:
    return task.execute_at


def _held(delivery: Delivery | UnreadableRecord) -> tuple[Any, ...]:
    held: Receipt = delivery.receipt
    return held.entry, held.lease.consumer, held.lease.claims, held.id


def _is_remembered(delivery: Delivery | UnreadableRecord) -> bool:
    """Whether its id is to be, once it is acknowledged: a stored row does that better."""
    return isinstance(delivery, Delivery) and delivery.task.status is not TaskStatus.QUEUED


def _columns(
    lease: Lease, remember: bool, group: Sequence[Delivery | UnreadableRecord]
) -> tuple[Any, ...]:
    """What `queue_ack.lua` takes for deliveries with one lease."""
    entries = [delivery.receipt.entry for delivery in group]
    ids = [delivery.receipt.id for delivery in group]
    return lease.batch, lease.consumer, lease.claims, remember, entries, ids


def _deliveries_at(
    places: Sequence[int], group: Sequence[Delivery | UnreadableRecord]
) -> list[Delivery]:
    found = [group[place] for place in places]
    return [delivery for delivery in found if isinstance(delivery, Delivery)]


def _put_columns(piece: list[_Row]) -> tuple[Any, ...]:
    """What `queue_put.lua` takes."""
    ids, due, stored, bodies = zip(*piece, strict=True)
    return (
        ids,
        due,
        bodies,
        [id for id, is_stored in zip(ids, stored, strict=True) if not is_stored],
    )


def _pieces(rows: list[_Row]) -> Iterator[list[_Row]]:
    """`rows` in pieces for one script each."""
    piece: list[_Row] = []
    size = 0
    for row in rows:
        piece.append(row)
        size += len(row[-1])
        if len(piece) == _PIECE_TASKS or size >= _PIECE_BYTES:
            yield piece
            piece, size = [], 0
    if piece:
        yield piece
