"""A clock that stands still until a test moves it."""

from __future__ import annotations

import asyncio
import heapq
from datetime import UTC, datetime, timedelta

__all__ = ["ManualClock"]

_MICRO = 1_000_000
_LOOP_TURNS = 25
"""Turns of the event loop between two wake-ups: enough for what one of them sets going."""


class ManualClock:
    """Time that passes only in `advance`. Give it to a handler or to memory engines.

    `now()` starts at `start`, or at the real time when the clock is made. Time is kept in whole
    microseconds, so that a sleep ends exactly when the time it was computed from has come.
    """

    def __init__(self, start: datetime | None = None) -> None:
        if start is not None and start.tzinfo is None:
            raise ValueError("start: has no time zone; use datetime.now(UTC)")
        self._start = (start or datetime.now(UTC)).astimezone(UTC)
        self._passed = 0
        self._made = 0
        self._sleepers: list[tuple[int, int, asyncio.Future[None]]] = []

    def now(self) -> datetime:
        return self._start + timedelta(microseconds=self._passed)

    def monotonic(self) -> float:
        # Not from 0: a start of 0 means "never" in outcomes.
        return 1_000 + self._passed / _MICRO

    async def sleep(self, seconds: float) -> None:
        """Return once the clock was advanced by so much; at once for 0 and less."""
        micros = round(seconds * _MICRO)
        if micros <= 0:
            await asyncio.sleep(0)
            return
        waker = asyncio.get_running_loop().create_future()
        self._made += 1
        heapq.heappush(self._sleepers, (self._passed + micros, self._made, waker))
        await waker

    async def advance(self, seconds: float | timedelta) -> None:
        """Let time pass: sleepers wake one by one in order of their time, each at its own time.

        The loop runs before, between and after them, so that what one wake-up causes, new sleeps
        included, happens before the next. Threads and sockets are not waited for.
        """
        span = seconds if isinstance(seconds, timedelta) else timedelta(seconds=seconds)
        if span < timedelta(0):
            raise ValueError(f"time cannot go back: {seconds!r}")
        target = self._passed + span // timedelta(microseconds=1)
        await _let_run()
        while self._sleepers and self._sleepers[0][0] <= target:
            self._passed, _, waker = heapq.heappop(self._sleepers)
            if not waker.done():
                waker.set_result(None)
                await _let_run()
        self._passed = target
        await _let_run()


async def _let_run() -> None:
    for _ in range(_LOOP_TURNS):
        await asyncio.sleep(0)
