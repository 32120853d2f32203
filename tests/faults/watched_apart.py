"""What a queue and a storage that are two things note, whatever engines they are on.

What ends a delivery is the queue's acknowledgement, or its taking the task back for another
attempt. Both are noted as `settle`; what the storage has written before is `row`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any

from crashing import Watch, retries

from taskloom.outcomes import Delivery, Settlement, UnreadableRecord
from taskloom.task import Task, TaskStatus

__all__ = ["QueueNotes", "RowNotes"]

Claimed = list[Delivery | UnreadableRecord]
Gone = list[Delivery]


class RowNotes:
    """Around the calls of a storage that has rows of some tasks only."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self.written: dict[str, str] = {}
        """What this process has last written about a task, until it is acknowledged."""

    async def claim_due(self, call: Coroutine[Any, Any, Gone]) -> Gone:
        found, _ = await self._watch.around("due", call)
        if found:
            self._watch.here("move.before")
        return found

    async def settle(self, call: Coroutine[Any, Any, list[str]], plan: Settlement) -> list[str]:
        name = "queued" if _only_queued(plan) else "settle"
        refused, since = await self._watch.around(name, call)
        gone = set(refused)
        told = [each for each in plan.endings if each.delivery.task.id not in gone]
        self.written.update((each.delivery.task.id, each.status.value) for each in told)
        keys = [(each.delivery.task.id, 0, each.status.value) for each in told]
        self._watch.note("row", since=since, keys=keys)
        if retries(plan.endings):
            self._watch.here("settle-retry.after")
        return refused


class QueueNotes:
    """Around the calls of the queue. `epoch_of` is a number of a delivery for the checker: one
    more when a lease was lost, two more after a release.
    """

    def __init__(
        self, watch: Watch, written: dict[str, str], epoch_of: Callable[[Delivery], int]
    ) -> None:
        self._watch, self._written, self._epoch_of = watch, written, epoch_of

    async def claim(self, call: Coroutine[Any, Any, Claimed], lease: float, wait: float) -> Claimed:
        since = time.monotonic()
        found = await call
        self._watch.note_if_slow("claim", since, wait)
        held = [each for each in found if isinstance(each, Delivery)]
        keys = [(each.task.id, self._epoch_of(each), str(each.delivery_count)) for each in held]
        if keys:
            self._watch.note("claim", since=since, lease=lease, keys=keys)
            self._watch.here("claim.after")
        return found

    async def extend(
        self, call: Coroutine[Any, Any, Gone], deliveries: Sequence[Delivery], lease: float
    ) -> Gone:
        gone, since = await self._watch.around("extend", call)
        if gone:
            self._watch.note("refused", word="extend", keys=self._keys(gone, ()))
        keys = self._keys(deliveries, gone)
        self._watch.note("extend", since=since, lease=lease, keys=keys)
        return gone

    async def ack(
        self, call: Coroutine[Any, Any, Gone], deliveries: Sequence[Delivery | UnreadableRecord]
    ) -> Gone:
        gone, since = await self._watch.around("ack", call)
        held = [each for each in deliveries if isinstance(each, Delivery)]
        self._note_settle(held, gone, since, "done")
        return gone

    async def release(
        self,
        call: Coroutine[Any, Any, Gone],
        deliveries: Sequence[Delivery],
        tasks: Sequence[Task[Any]] | None,
    ) -> Gone:
        gone, since = await self._watch.around("release" if tasks is None else "back", call)
        if tasks is None:
            self._watch.note("release", since=since, keys=self._keys(deliveries, gone))
        else:
            self._note_settle(deliveries, gone, since, "scheduled")
        return gone

    def _note_settle(
        self, held: Sequence[Delivery], gone: Sequence[Delivery], since: float, word: str
    ) -> None:
        lost = {id(delivery) for delivery in gone}
        keys = []
        for each in held:
            said = self._written.pop(each.task.id, word)
            said = f"{said} refused" if id(each) in lost else said
            keys.append((each.task.id, self._epoch_of(each), said))
        self._watch.note("settle", since=since, keys=keys)

    def _keys(
        self, deliveries: Iterable[Delivery], without: Iterable[Delivery]
    ) -> list[tuple[str, int, str]]:
        gone = {id(delivery) for delivery in without}
        return [(d.task.id, self._epoch_of(d), "") for d in deliveries if id(d) not in gone]


def _only_queued(plan: Settlement) -> bool:
    """It notes that tasks are on the queue (again), and nothing of any run."""
    states = {each.status for each in plan.endings}
    return states == {TaskStatus.QUEUED} and not retries(plan.endings)
