"""Where a process ends itself, or stops, and what every watched part notes.

The parts of Taskloom are subclassed at their public methods; the library itself has no hooks.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

from recorder import Recorder

from taskloom.outcomes import Ending

__all__ = ["SLOW", "CrashPoint", "Watch", "retries"]

T = TypeVar("T")

SLOW = 0.3
"""Seconds from which a call counts as a stall of its process: a third of a lease of one second."""


class CrashPoint:
    """`kill -9` of this process at the `nth` time it comes to `name`; "" never.

    `drain.name` is `name` while the process shuts down. With `stops` it stops there instead, once,
    until someone continues it.
    """

    def __init__(self, name: str, nth: int, recorder: Recorder, *, stops: bool = False) -> None:
        self.name = name
        self._left = nth
        self._recorder = recorder
        self._stops = stops
        self.draining = False

    def here(self, name: str) -> None:
        """The process is at `name`."""
        if self.name != name and not (self.draining and self.name == f"drain.{name}"):
            return
        self._left -= 1
        if self._left <= 0:
            self._strike()

    def _strike(self) -> None:
        word = "stop" if self._stops else "own-end"
        self._recorder.write("fault", word=word, target=os.getpid(), call=self.name)
        if self._stops:
            self.name = ""
            os.kill(os.getpid(), signal.SIGSTOP)
        else:
            # As a `kill -9` from outside.
            os.kill(os.getpid(), signal.SIGKILL)


class Watch:
    """What the watched parts of one process share: the record, and the crash point."""

    def __init__(self, recorder: Recorder, crash: CrashPoint) -> None:
        self.recorder = recorder
        self.crash = crash

    def here(self, point: str) -> None:
        """The process is at `point`."""
        self.crash.here(point)

    def note(self, kind: str, **fields: Any) -> None:
        """Write an event."""
        self.recorder.write(kind, **fields)

    async def around(self, name: str, call: Coroutine[Any, Any, T]) -> tuple[T, float]:
        """Await `call`, dying before or after it if told to; its answer, and when it began."""
        since = time.monotonic()
        try:
            self.here(f"{name}.before")
        except BaseException:
            call.close()
            raise
        answer = await call
        self.here(f"{name}.after")
        self.note_if_slow(name, since)
        return answer, since

    def note_if_slow(self, name: str, since: float, wait: float = 0.0) -> None:
        """Note a call that began at `since`, and may `wait`, as a stall if it took that long."""
        if time.monotonic() - since > wait + SLOW:
            self.note("fault", word="stall", target=os.getpid(), since=since, call=name)


def retries(endings: Iterable[Ending]) -> bool:
    """Whether one of these goes on as another attempt."""
    nexts = ((each.delivery.task, each.next) for each in endings)
    return any(task and task.retry_count > before.retry_count for before, task in nexts)
