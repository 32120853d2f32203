"""Hearing of tasks that other processes make due: a change stream."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

from pymongo.errors import OperationFailure, PyMongoError
from pymongo.read_concern import ReadConcern

from taskloom.mongodb.schema import Collection
from taskloom.task import TaskStatus
from taskloom.wakeups import ANY

__all__ = ["Listener"]

logger = logging.getLogger("taskloom.mongodb")

_AGAIN_AFTER = 1.0
_STOP_WITHIN, _STOP_ATTEMPTS = 0.5, 10
_WAIT_MS = 1_000
"""How long the server keeps a question open that it has no answer to."""

_WAITS = TaskStatus.SCHEDULED.value
_DUE: list[Mapping[str, Any]] = [
    {
        "$match": {
            "$or": [
                # A new task, or (the wheel's server says so of an update by pipeline) a whole one.
                {"fullDocument.status": _WAITS, "fullDocument.due": {"$exists": True}},
                {"updateDescription.updatedFields.status": _WAITS},
            ]
        }
    },
    {"$project": {"queue": "$fullDocument.queue"}},
]


class Listener:
    """Tells `hear` the queue in which something may be due; `ANY` where it is not said which.

    While the stream is away, idle workers look once a second.
    """

    def __init__(self, tasks: Collection, hear: Callable[[str], None], place: str) -> None:
        self._tasks = tasks
        self._hear = hear
        self._place = place
        self._listening: asyncio.Task[None] | None = None
        self.hears = asyncio.Event()
        """Set while the stream is there: from then on nothing is missed."""

    def start(self) -> None:
        """Listen until `stop`."""
        self._listening = asyncio.create_task(self._listen_always(), name="taskloom-listen")

    async def stop(self) -> None:
        """Listen no more. Safe to repeat."""
        listening, self._listening = self._listening, None
        if listening is None:
            return
        for _ in range(_STOP_ATTEMPTS):
            # Once may not do: closing a stream asks the server, and that waits for an answer.
            listening.cancel()
            await asyncio.wait([listening], timeout=_STOP_WITHIN)
            if listening.done():
                return

    async def _listen_always(self) -> None:
        while True:
            try:
                await self._listen()
            except OperationFailure as error:
                logger.warning(
                    "%s has no change stream for us (%s): idle workers look once a second",
                    self._place,
                    error.code,
                )
            except PyMongoError as error:
                logger.debug("%s: the change stream ended: %s", self._place, error)
            finally:
                self.hears.clear()
            await asyncio.sleep(_AGAIN_AFTER)

    async def _listen(self) -> None:
        # A stream tells only of what a failover cannot undo.
        tasks = self._tasks.with_options(read_concern=ReadConcern("majority"))
        async with await tasks.watch(_DUE, max_await_time_ms=_WAIT_MS) as stream:
            self.hears.set()
            self._hear(ANY)  # whatever came before this moment was heard by nobody
            while stream.alive:
                change: Mapping[str, Any] | None = await stream.try_next()
                if change is not None:
                    self._hear(change.get("queue", ANY))
