"""News: who waits for something to claim is woken."""

from __future__ import annotations

import asyncio

from taskloom.waiting import within

__all__ = ["News"]


class News:
    """Wakes all who wait at once; what comes while nobody waits is not kept."""

    def __init__(self) -> None:
        self._waiting: set[asyncio.Future[None]] = set()

    @property
    def is_awaited(self) -> bool:
        """Whether anyone waits."""
        return bool(self._waiting)

    async def wait(self, longest: float) -> None:
        """Return at the next news, or after so many seconds."""
        mine = asyncio.get_running_loop().create_future()
        self._waiting.add(mine)
        try:
            await within(mine, longest)
        finally:
            self._waiting.discard(mine)

    def tell(self) -> None:
        """There are news."""
        while self._waiting:
            waiting = self._waiting.pop()
            if not waiting.done():
                waiting.set_result(None)
