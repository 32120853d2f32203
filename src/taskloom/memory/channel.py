"""One queue in memory: its waiting items, its leases and those who wait for work."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import count
from typing import Any

from taskloom.memory.copies import keep, thaw
from taskloom.memory.line import Item, Line
from taskloom.outcomes import Delivery, UnreadableRecord
from taskloom.task import Task

__all__ = ["TICK", "Channel", "ring"]

TICK = 1e-6
"""Clocks keep microseconds, floats do not: times this close are the same time."""


class Channel:
    """Every item is in exactly one of `_ready` (due), `_later` (a heap) and a lease.

    What one claim took shares a lease: a number, an end in `_ends` (a heap) and its items in
    `_held`. A lease without items is gone from `_held`; its end is dropped when its time comes or
    when most ends are such.
    """

    def __init__(self, queue_id: str) -> None:
        self.queue_id = queue_id
        self.items: dict[str, Item] = {}
        self.bells: set[asyncio.Future[None]] = set()
        self._ready = Line()
        self._later: list[Item] = []
        self._ends: list[tuple[float, int]] = []
        self._held: dict[int, dict[str, Item]] = {}
        self._numbers = count(1)

    def put(self, tasks: Sequence[Task[Any]], now: datetime) -> None:
        """Take what is not known yet, all or none; wake those who wait."""
        items, numbers = self.items, self._numbers
        kept = [keep(task) for task in tasks]  # first: one that cannot be kept stops them all
        due = []
        for task, (shell, raw) in zip(tasks, kept, strict=True):
            id = task.id
            if id in items:
                continue
            items[id] = item = Item(id, task.execute_at, next(numbers), shell, raw)
            if item.due <= now:
                due.append(item)
            else:
                heapq.heappush(self._later, item)
        self._ready.extend(due)
        self.ring()

    def split(self, deliveries: Iterable[Delivery]) -> tuple[dict[str, Item], list[Delivery]]:
        """What is still held under its receipt, by id, and the others."""
        items = self.items
        held, lost = {}, []
        for delivery in deliveries:
            _, id, epoch = delivery.receipt
            item = items.get(id)
            if item is not None and item.epoch == epoch and item.lease:
                held[id] = item
            else:
                lost.append(delivery)
        return held, lost

    def take(
        self, limit: int, moment: float, seconds: float, now: datetime
    ) -> list[Delivery | UnreadableRecord]:
        """Lease up to `limit` due items: `moment` is the monotonic time, `now` that of the day."""
        self._ripen(moment, now)
        if limit <= 0 or not self._ready:
            return []
        items = self._ready.take(limit)
        number = self._new_lease(moment + seconds, {item.id: item for item in items})
        queue_id = self.queue_id
        taken: list[Delivery | UnreadableRecord] = []
        for item in items:
            item.epoch = epoch = item.epoch + 1
            item.deliveries = deliveries = item.deliveries + 1
            item.lease = number
            task = thaw(item.shell, item.raw)
            taken.append(Delivery(task, (queue_id, item.id, epoch), deliveries))
        return taken

    def _ripen(self, moment: float, now: datetime) -> None:
        """Move to `_ready` what has become due and what its holder has lost."""
        later, ends = self._later, self._ends
        while later and later[0].due <= now:
            self._ready.push(heapq.heappop(later))
        while ends and ends[0][0] <= moment + TICK:
            _, number = heapq.heappop(ends)
            for item in self._held.pop(number, {}).values():
                item.lease = 0
                self._ready.push(item)

    def lease(self, held: dict[str, Item], end: float) -> None:
        """Move held items to a new lease."""
        for item in held.values():
            self._unlease(item)
        number = self._new_lease(end, dict(held))
        for item in held.values():
            item.lease = number
        # Those who wait may have planned for another end.
        self.ring()

    def drop(self, held: dict[str, Item]) -> None:
        """Forget held items."""
        items, leases = self.items, self._held
        for id, item in held.items():
            del items[id]
            rest = leases[item.lease]
            del rest[id]
            if not rest:
                del leases[item.lease]

    def give_back(self, item: Item, due: datetime | None, now: datetime) -> None:
        """As it was, to its old place in the line or to that of a new `due`."""
        self._unlease(item)
        item.deliveries -= 1
        if due is not None:
            item.due = due
        self._wait(item, now)

    def replace(
        self, item: Item, due: datetime, kept: tuple[Task[Any] | None, bytes], now: datetime
    ) -> None:
        """As another task with the same id, never delivered so far."""
        self._unlease(item)
        item.shell, item.raw = kept
        item.due = due
        item.order = next(self._numbers)
        item.deliveries = 0
        self._wait(item, now)

    def _wait(self, item: Item, now: datetime) -> None:
        if item.due <= now:
            self._ready.push(item)
        else:
            heapq.heappush(self._later, item)

    def _unlease(self, item: Item) -> None:
        held = self._held[item.lease]
        del held[item.id]
        if not held:
            del self._held[item.lease]
        item.lease = 0

    def _new_lease(self, end: float, held: dict[str, Item]) -> int:
        if not held:
            return 0
        if len(self._ends) > 64 + 2 * len(self._held):
            self._ends = [entry for entry in self._ends if entry[1] in self._held]
            heapq.heapify(self._ends)
        number = next(self._numbers)
        self._held[number] = held
        heapq.heappush(self._ends, (end, number))
        return number

    def depth(self, moment: float, now: datetime) -> int:
        self._ripen(moment, now)
        return len(self._ready)

    def pause(self, moment: float, now: datetime) -> float:
        """Seconds until time alone makes something claimable."""
        pause = float("inf")
        if self._later:
            pause = max((self._later[0].due - now).total_seconds(), 0.0)
        if self._ends:
            pause = min(pause, max(self._ends[0][0] - moment, 0.0))
        return pause

    def listen(self) -> asyncio.Future[None]:
        """A future that is done at the next `ring`."""
        bell = asyncio.get_running_loop().create_future()
        self.bells.add(bell)
        return bell

    def ring(self) -> None:
        """Wake everyone who waits: each tries a claim of its own."""
        while self.bells:
            ring(self.bells.pop())


def ring(bell: asyncio.Future[None]) -> None:
    """Wake who waits for `bell`, if nobody has."""
    if not bell.done():
        bell.set_result(None)
