"""Batches: which records go into one PutRecords request, and which have to wait for an answer."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import islice

from taskloom.kinesis.records import Outgoing

__all__ = ["MAX_BYTES", "MAX_RECORDS", "Batches"]

MAX_RECORDS = 500
MAX_BYTES = 5 * 1024 * 1024


class Batches:
    """What is to be put, in order. Each request takes as much as fits, of one key one record.

    For a request may be taken in part: were two of one key in it, the second could come before the
    first. So a key's next record goes when the one before was taken. Records without a key of their
    own have no order to keep.
    """

    def __init__(self, records: Iterable[Outgoing]) -> None:
        self._lines: dict[str | int, deque[Outgoing]] = {}
        for number, record in enumerate(records):
            self._lines.setdefault(record.line or number, deque()).append(record)

    def __bool__(self) -> bool:
        return bool(self._lines)

    @property
    def left(self) -> list[Outgoing]:
        """What was not taken yet."""
        return [record for line in self._lines.values() for record in line]

    def next(self) -> dict[str | int, Outgoing]:
        """The next request: a record for each line that it holds."""
        batch: dict[str | int, Outgoing] = {}
        size = 0
        for name, line in islice(self._lines.items(), MAX_RECORDS):
            size += line[0].size
            if size > MAX_BYTES:
                break
            batch[name] = line[0]
        return batch

    def taken(self, names: Iterable[str | int]) -> None:
        """The records of these lines were taken; the others come again, as the first."""
        for name in names:
            self._lines[name].popleft()
            if not self._lines[name]:
                del self._lines[name]
