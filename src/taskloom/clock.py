"""The one source of time: wall clock for what is written down, monotonic for durations."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Protocol

__all__ = ["SYSTEM_CLOCK", "Clock", "Seconds", "SystemClock", "seconds"]

Seconds = float | int | timedelta
"""A duration as it may be given: a number of seconds or a `timedelta`."""


class Clock(Protocol):
    """Where the handler and the memory engines take their time from."""

    def now(self) -> datetime:
        """The time of day, aware, UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds from an arbitrary point; never goes back."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after so many seconds of this clock."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    monotonic = staticmethod(time.monotonic)  # no frame of its own: it is asked for every task

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


SYSTEM_CLOCK = SystemClock()


def seconds(value: Seconds, name: str) -> float:
    """`value` as seconds; `ValueError` naming `name` when it is negative or not a number."""
    number = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise TypeError(f"{name} must be seconds or a timedelta, not {type(value).__name__}")
    if not number >= 0 or number == float("inf"):
        raise ValueError(f"{name} must be a duration of at least 0 seconds, not {value!r}")
    return float(number)
