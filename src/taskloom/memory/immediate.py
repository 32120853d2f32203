"""ImmediateQueue: whoever adds a task waits until it has run."""

from __future__ import annotations

from datetime import UTC, datetime

from taskloom.interfaces.message_queue import QueueFeatures
from taskloom.memory.queue import InMemoryQueue

__all__ = ["ImmediateQueue"]

_END_OF_TIME = datetime.max.replace(tzinfo=UTC)


class ImmediateQueue(InMemoryQueue):
    """For tests without workers: everything is due at once, delays are ignored.

    The handler sees `features.inline` and runs what it has put before `add_tasks` returns.
    """

    name = "immediate"
    features = QueueFeatures(delay=False, inline=True)

    def _due_from(self) -> datetime:
        return _END_OF_TIME
