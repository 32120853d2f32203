"""Discards: tasks that failed for good and that nobody wanted kept, counted by the hour."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta

from taskloom.clock import Clock
from taskloom.interfaces.cache import Cache
from taskloom.lifecycle import TaskErrorEvent, TasksDiscarded
from taskloom.listeners import Listeners

__all__ = ["Discards"]

_log = logging.getLogger(__name__)

KEEP = 25 * 3600.0


class Discards:
    """Counts in the cache, so that all workers share the figure of the last 24 hours."""

    def __init__(self, cache: Cache, listeners: Listeners, clock: Clock) -> None:
        self._cache = cache
        self._listeners = listeners
        self._clock = clock

    async def count(self, number: int) -> None:
        """Add `number` and tell the notification provider. Never raises."""
        now = self._clock.now()
        try:
            await self._cache.incr(_key(now), number, KEEP)
            hours = [_key(now - timedelta(hours=back)) for back in range(24)]
            last_day = sum((await self._cache.get_many(hours)).values())
        except Exception as error:
            _log.warning("discarded tasks could not be counted: %s", error)
            trouble = TaskErrorEvent(error=error, context="track_discarded_tasks")
            await self._listeners.emit("on_task_error", trouble)
            last_day = number
        event = TasksDiscarded(count=number, last_24_hours=last_day)
        await self._listeners.emit("on_tasks_discarded", event)


def _key(moment: datetime) -> str:
    return f"taskloom_discarded_{moment:%Y-%m-%d-%H}"
