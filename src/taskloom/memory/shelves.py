"""Rows of a storage, found by where they stand and since when: no search looks at all of them."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

from msgspec import Struct

from taskloom.task import Task, TaskStatus

__all__ = ["Row", "Shelves"]

Shelf = tuple[TaskStatus, str]
"""A status and, for waiting rows, their queue; every other status has one shelf, under ""."""

_Entry = tuple[datetime, int, str]


class Row(Struct, frozen=True, eq=False):
    """A stored task. Its values are shared with nobody, so nothing outside can change them."""

    task: Task[Any]
    epoch: int = 0
    """Grows with every transition but the settle by the lease's owner, which it fences."""
    deliveries: int = 0
    leased_until: datetime | None = None


class Shelves:
    """All rows, and a heap for each shelf, by the time that matters there.

    That time is `execute_at` for waiting rows, the end of the lease for running ones, and the last
    change for the rest. An entry of a heap counts while its number is the row's; the others are
    swept out when they are more than half.
    """

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}
        self.counts: dict[tuple[str, TaskStatus], int] = {}
        self._places: dict[str, tuple[Shelf, int]] = {}
        self._heaps: dict[Shelf, list[_Entry]] = {}
        self._sizes: dict[Shelf, int] = {}
        self._number = 0

    def put(self, row: Row) -> None:
        """Keep a row in place of the one with its id."""
        id = row.task.id
        if id in self.rows:
            self.remove(id)
        self.rows[id] = row
        self._count(row, 1)
        self._number += 1
        shelf = _shelf(row)
        self._places[id] = (shelf, self._number)
        self._sizes[shelf] = self._sizes.get(shelf, 0) + 1
        heapq.heappush(self._heap(shelf), (_moment(row), self._number, id))

    def remove(self, id: str) -> None:
        row = self.rows.pop(id)
        self._count(row, -1)
        shelf, _ = self._places.pop(id)
        self._sizes[shelf] -= 1

    def _count(self, row: Row, by: int) -> None:
        key = (row.task.queue_id, row.task.status)
        number = self.counts.get(key, 0) + by
        if number:
            self.counts[key] = number
        else:
            del self.counts[key]

    def _heap(self, shelf: Shelf) -> list[_Entry]:
        heap = self._heaps.setdefault(shelf, [])
        if len(heap) > 64 + 2 * self._sizes[shelf]:
            heap[:] = [entry for entry in heap if self._valid(shelf, entry)]
            heapq.heapify(heap)
        return heap

    def _valid(self, shelf: Shelf, entry: _Entry) -> bool:
        return self._places.get(entry[2]) == (shelf, entry[1])

    def first(self, shelf: Shelf) -> _Entry | None:
        """The entry of the row whose time comes first."""
        heap = self._heaps.get(shelf)
        if not heap:
            return None
        while heap and not self._valid(shelf, heap[0]):
            heapq.heappop(heap)
        return heap[0] if heap else None

    def ripe(self, shelves: list[Shelf], is_ripe: Callable[[datetime], bool]) -> Iterator[Row]:
        """Rows of these shelves in order of their time, as long as that is ripe.

        The caller must move each row elsewhere before it asks for the next.
        """
        heads = [(entry, shelf) for shelf in shelves if (entry := self.first(shelf))]
        heapq.heapify(heads)
        while heads and is_ripe(heads[0][0][0]):
            entry, shelf = heads[0]
            yield self.rows[entry[2]]
            following = self.first(shelf)
            if following is None:
                heapq.heappop(heads)
            else:
                heapq.heapreplace(heads, (following, shelf))

    def waiting(self, queue_id: str | None = None) -> list[Shelf]:
        """The shelf of waiting rows of one queue, or of each."""
        if queue_id is not None:
            return [(TaskStatus.SCHEDULED, queue_id)]
        queues = [queue for queue, status in self.counts if status is TaskStatus.SCHEDULED]
        return [(TaskStatus.SCHEDULED, queue) for queue in queues]


def _shelf(row: Row) -> Shelf:
    status = row.task.status
    return (status, row.task.queue_id if status is TaskStatus.SCHEDULED else "")


def _moment(row: Row) -> datetime:
    if row.task.status is TaskStatus.SCHEDULED:
        return row.task.execute_at
    # A running row without a lease is held by nobody: its lease ended when it was written.
    if row.task.status is TaskStatus.PROCESSING and row.leased_until is not None:
        return row.leased_until
    return row.task.updated_at
