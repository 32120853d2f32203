"""Parking: what was handed off leaves a queue that moves on as a whole, and stays in the storage.

A shard's checkpoint never passes a record that is not settled, so one task of an hour would hold
up all that come after it. Its row takes the record's place: `processing` under a lease of its own,
then the record is acknowledged. From then on the row is the task, whatever becomes of the shard.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from datetime import timedelta
from functools import partial
from typing import Any, TypeAlias

from msgspec.structs import replace

from taskloom.clock import Clock
from taskloom.errors import StorageUnavailableError, UnavailableError
from taskloom.group_commit import GroupCommit
from taskloom.interfaces.message_queue import MessageQueue
from taskloom.interfaces.task_storage import TaskStorage
from taskloom.leases import Claim, Keeper
from taskloom.outage import Outage
from taskloom.outcomes import Delivery, Ending, Settlement
from taskloom.settlement import HANDED_OFF
from taskloom.steps import Steps
from taskloom.task import Task, TaskStatus

__all__ = ["Parking"]

_log = logging.getLogger(__name__)

LIMIT = 100
"""Tasks that are parked together."""

_Parked: TypeAlias = tuple[Delivery, Claim]


class Parking:
    """Parks runs in groups. What cannot be parked in time stays with its queue."""

    def __init__(
        self, queue: MessageQueue, storage: TaskStorage, keeper: Keeper, clock: Clock
    ) -> None:
        self._queue = queue
        self._storage = storage
        self._keeper = keeper
        self._clock = clock
        self._outage = Outage("storing what was handed off", clock)
        self._commit: GroupCommit[_Parked, None] = GroupCommit(self._park, limit=LIMIT)
        self._under_way: dict[str, asyncio.Future[None]] = {}
        """By the id of what is being parked."""

    def add(self, delivery: Delivery, claim: Claim) -> None:
        """Park this run soon."""
        future = asyncio.get_running_loop().create_future()
        self._under_way[delivery.task.id] = future
        self._commit.add([(delivery, claim)])

    async def wait(self, ids: Iterable[str]) -> None:
        """Return when none of these is being parked: only then can it be settled."""
        if self._under_way:
            await asyncio.gather(*(self._under_way[id] for id in ids if id in self._under_way))

    def being_parked(self) -> set[str]:
        """The ids of the runs that are on their way to the storage just now."""
        return set(self._under_way)

    async def _park(self, group: list[_Parked]) -> list[None]:
        try:
            await self._until_done(group)
        except Exception:
            _log.exception("%d handed-off tasks stay with their queue", len(group))
        finally:
            for delivery, _ in group:
                self._under_way.pop(delivery.task.id).set_result(None)
        return [None] * len(group)

    async def _until_done(self, group: list[_Parked]) -> None:
        steps, plans = Steps(), self._plans(group)
        while True:
            try:
                async with asyncio.timeout(self._keeper.call_limit):
                    await self._carry_out(group, plans, steps)
            except (UnavailableError, TimeoutError) as error:
                trusted = min(claim.trusted_until for _, claim in group)
                if not await self._outage.wait(error, until=trusted):
                    _log.warning("%d handed-off tasks stay with their queue: %s", len(group), error)
                    return
            else:
                self._outage.over()
                return

    async def _carry_out(self, group: list[_Parked], plans: list[Settlement], steps: Steps) -> None:
        for plan in plans:
            await steps.once(f"rows, fenced={plan.fenced}", partial(self._storage.settle, plan))
        by_id = {delivery.task.id: (delivery, claim) for delivery, claim in group}
        rows = await self._storage.take_over(list(by_id), lease=self._keeper.lease)
        for row in rows:
            by_id[row.task.id][1].park(row)
        if len(rows) < len(by_id):
            raise StorageUnavailableError("rows of handed-off tasks are held by others")
        # Who is delivered them again, because this was not heard, finds the rows.
        deliveries = [delivery for delivery, _ in group]
        await steps.once("ack", lambda: self._queue.ack(deliveries))

    def _plans(self, group: Sequence[_Parked]) -> list[Settlement]:
        """Their rows, made or written under their lease, due when that would have run out."""
        due = self._clock.now() + timedelta(seconds=self._keeper.lease)
        made, held = list[Ending](), list[Ending]()
        for delivery, claim in group:
            row, task = claim.rows.get(delivery.task.id), delivery.task
            stats = task.execution_stats
            stats = {**stats, HANDED_OFF: stats.get(HANDED_OFF, 0) + 1}
            waiting: Task[Any] = replace(
                task, status=TaskStatus.SCHEDULED, execute_at=due, execution_stats=stats
            )
            ending = Ending(row or delivery, TaskStatus.SCHEDULED, stats=stats, next=waiting)
            (held if row else made).append(ending)
        plans = Settlement(tuple(made), fenced=False), Settlement(tuple(held))
        return [plan for plan in plans if plan.endings]
