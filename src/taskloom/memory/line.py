"""The waiting tasks of one queue, in the order they are due."""

from __future__ import annotations

import heapq
from collections import deque
from datetime import datetime
from typing import Any

from msgspec import Struct

from taskloom.task import Task

__all__ = ["Item", "Line"]


class Item(Struct, eq=False, gc=False):
    """A task in a queue: waiting (`lease` is 0) or held under the lease of that number.

    Not tracked by the garbage collector, which would otherwise walk through a long queue again and
    again: an item must never refer to what refers to it.
    """

    id: str
    due: datetime
    order: int
    shell: Task[Any] | None
    raw: bytes
    deliveries: int = 0
    epoch: int = 0
    lease: int = 0

    def __lt__(self, other: Item) -> bool:
        """Due before it, or put before it."""
        return self.due < other.due or (self.due == other.due and self.order < other.order)


class Line:
    """Items in order.

    Nearly all are put in the order they are due: those stand in a deque, at constant cost however
    long the line is; a heap takes the others.
    """

    __slots__ = ("_heap", "_row")

    def __init__(self) -> None:
        self._row: deque[Item] = deque()
        self._heap: list[Item] = []

    def __len__(self) -> int:
        return len(self._row) + len(self._heap)

    def push(self, item: Item) -> None:
        row = self._row
        if not row or row[-1] < item:
            row.append(item)
        else:
            heapq.heappush(self._heap, item)

    def extend(self, items: list[Item]) -> None:
        """Push items that are later in order than all before them, if not in time."""
        row = self._row
        last = row[-1].due if row else None
        for item in items:
            due = item.due
            if last is None or last <= due:
                row.append(item)
                last = due
            else:
                heapq.heappush(self._heap, item)

    def take(self, limit: int) -> list[Item]:
        """Remove and return the first `limit`."""
        row, heap = self._row, self._heap
        if not heap:
            return [row.popleft() for _ in range(min(limit, len(row)))]
        taken = []
        for _ in range(min(limit, len(self))):
            from_heap = heap and (not row or heap[0] < row[0])
            taken.append(heapq.heappop(heap) if from_heap else row.popleft())
        return taken
