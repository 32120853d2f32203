"""A server that is away: one caller asks for all whether it is back, and not too often."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable

__all__ = ["Gate"]

_SHORTEST, _LONGEST = 0.5, 1.0
"""Seconds between two attempts to reach a server that is away; doubling from one to the other."""


class Gate:
    """Open while the server answers; while it does not, its callers wait for one who asks.

    However many want a connection, a process makes no more than one or two attempts a second. `ask`
    connects to the server, and raises what is in the way.
    """

    def __init__(self, ask: Callable[[], Awaitable[None]]) -> None:
        self._ask = ask
        self._is_open = True
        self._pause = 0.0
        self._next = 0.0
        self._asking: asyncio.Task[None] | None = None

    def shut(self) -> None:
        """The server did not answer, or cut a connection: whoever comes next asks first."""
        self._is_open = False

    async def passed(self) -> None:
        """Return when the server can be reached; raise what is in the way.

        Takes at most the time between two attempts, and that of one.
        """
        while not self._is_open:
            if self._asking is None:
                self._asking = asyncio.create_task(self._ask_once(), name="taskloom-reconnect")
            await asyncio.shield(self._asking)

    async def stop(self) -> None:
        """Ask no more."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait([self._asking])

    async def _ask_once(self) -> None:
        try:
            await asyncio.sleep(max(0.0, self._next - time.monotonic()))
            self._pause = min(_LONGEST, self._pause * 2 or _SHORTEST)
            # Jitter: many processes must not come back in step.
            self._next = time.monotonic() + self._pause * random.uniform(0.75, 1.25)
            await self._ask()
            self._is_open, self._pause = True, 0.0
        finally:
            self._asking = None
