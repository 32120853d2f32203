"""The workload that everyone gets: tasks with 100 bytes of JSON that do nothing but be counted."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

__all__ = ["FIRST", "PAYLOAD_BYTES", "Tally", "calls", "payload"]

PAYLOAD_BYTES = 100
FIRST = 1_000_000
"""The first task's number: all have seven digits, so that all payloads have one size."""

_TEXT = "x" * (
    PAYLOAD_BYTES - len(json.dumps({"number": FIRST, "text": ""}, separators=(",", ":")))
)


def payload(index: int) -> dict[str, Any]:
    """The arguments of the task with this index, counted from 0."""
    return {"number": FIRST + index, "text": _TEXT}


def calls(start: int, end: int) -> list[dict[str, Any]]:
    """The arguments of the tasks from `start` up to `end`."""
    return [payload(index) for index in range(start, end)]


class Tally:
    """Counts the runs of each task; calls `on_all` when `expected` runs have been counted."""

    def __init__(
        self, tasks: int, on_all: Callable[[], object], *, expected: int | None = None
    ) -> None:
        self._runs = bytearray(tasks)
        self._left = tasks if expected is None else expected
        self._on_all = on_all

    def ran(self, number: int) -> None:
        """The task with this number runs."""
        self._runs[number - FIRST] += 1
        self._left -= 1
        if self._left == 0:
            self._on_all()

    @property
    def total(self) -> int:
        """How many runs were counted."""
        return sum(self._runs)

    def check_once(self) -> None:
        """Raise `AssertionError` unless every task ran exactly once."""
        never, once = self._runs.count(0), self._runs.count(1)
        if once != len(self._runs):
            twice = len(self._runs) - once - never
            raise AssertionError(f"{never} tasks never ran, {twice} more than once")

    def check_at_most_once(self) -> None:
        """Raise `AssertionError` if a task ran twice."""
        if max(self._runs) > 1:
            raise AssertionError("a task ran twice")
