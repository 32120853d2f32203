"""Waiting for tasks: woken by this process at once, by another one's commit soon after.

Of other processes one learns by looking, where that costs nothing, or by being told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

__all__ = ["ANY", "Wakeups"]

ANY = ""
"""In place of a queue's id: any queue."""

_LOOK_EVERY = 0.02
"""Seconds between two looks at whether someone else has written."""


class Wakeups:
    """Who waits for which queue.

    `mark` answers at once, without a thread, with a value that changes when anyone commits. It is
    asked by one timer however many wait, and by none when nobody does. `tell` passes on to other
    processes what is due here; `hear` is for what they say.
    """

    def __init__(
        self,
        mark: Callable[[], object] | None = None,
        *,
        tell: Callable[[Iterable[str]], None] | None = None,
    ) -> None:
        self._mark = mark
        self._tell = tell
        self._waiting: dict[str, set[asyncio.Future[bool]]] = {}
        self._last: object = None
        self._timer: asyncio.TimerHandle | None = None

    def expect(self, queue_id: str) -> asyncio.Future[bool]:
        """A future for the queue's next change: True when it was made in this process.

        Take it before looking at the queue, so that nothing falls between; cancel it afterwards.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[bool] = loop.create_future()
        self._waiting.setdefault(queue_id, set()).add(future)
        future.add_done_callback(lambda _: self._forget(queue_id, future))
        if self._timer is None and self._mark is not None:
            self._last = self._mark()
            self._timer = loop.call_later(_LOOK_EVERY, self._look, loop, self._mark)
        return future

    def notify(self, queue_ids: Iterable[str]) -> None:
        """Something may be due in these queues."""
        for queue_id in queue_ids:
            self._wake(queue_id, here=True)
        if self._tell is not None:
            self._tell(queue_ids)

    def notify_all(self) -> None:
        """Something may be due anywhere."""
        self.notify([ANY])

    def hear(self, queue_id: str) -> None:
        """Another process has said that something may be due in this queue, or in `ANY`."""
        self._wake(queue_id, here=False)

    def stop(self) -> None:
        """Look no more; whoever still waits is woken."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._wake(ANY, here=False)

    def _look(self, loop: asyncio.AbstractEventLoop, mark: Callable[[], object]) -> None:
        if not self._waiting:
            self._timer = None
            return
        self._timer = loop.call_later(_LOOK_EVERY, self._look, loop, mark)
        now = mark()
        if now != self._last:
            self._last = now
            self._wake(ANY, here=False)

    def _wake(self, queue_id: str, *, here: bool) -> None:
        queue_ids = list(self._waiting) if queue_id == ANY else [queue_id]
        for future in [each for id in queue_ids for each in self._waiting.get(id, ())]:
            if not future.done():
                future.set_result(here)

    def _forget(self, queue_id: str, future: asyncio.Future[bool]) -> None:
        waiting = self._waiting.get(queue_id)
        if waiting is not None:
            waiting.discard(future)
            if not waiting:
                del self._waiting[queue_id]
