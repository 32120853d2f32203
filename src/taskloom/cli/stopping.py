"""How a process is told to stop: the first signal asks, the second insists.

SIGTERM and SIGINT alike. What hangs in a thread, or keeps the event loop to itself, cannot hold the
process: a thread of our own ends it when the time is up.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import queue
import signal
import sys
import threading
import time
from types import FrameType

__all__ = ["INSIST_LIMIT", "StoppedEarlyError", "Stops"]

INSIST_LIMIT = 1.7
"""Seconds from the second signal to the end of the process; out within 2 s is the promise."""
_TEARDOWN_LIMIT = 1.0
"""Seconds that threads may still take once the work is over."""
_FLUSH_LIMIT = 0.1


class StoppedEarlyError(SystemExit):
    """A signal came before there was anything to stop: the process ends, with exit code 0."""


class Stops:
    """The two wishes, as events of the event loop that `attach` is called in.

    Make it first thing in the main thread: from then on a signal is never lost. `limit` is the
    time between the second signal and the end by force, with exit code 1.
    """

    def __init__(self, limit: float = INSIST_LIMIT) -> None:
        self.asked = asyncio.Event()
        self.insisted = asyncio.Event()
        self._limit = limit
        self._count = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        # A SimpleQueue may be used in a signal handler, whatever that interrupted.
        self._notes: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._code = 1
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._received)
        threading.Thread(target=self._watch, name="taskloom-stops", daemon=True).start()

    def attach(self) -> None:
        """The running loop is told from now on. Before, a signal raises `StoppedEarlyError`."""
        self._loop = asyncio.get_running_loop()
        if self._count:
            self.asked.set()

    def over(self, code: int = 0) -> None:
        """The work is over: the process now ends with `code`, whatever still hangs in it."""
        self._code = code
        # Called when the interpreter has joined all threads: what runs then is the user's own
        # `atexit`, which may take its time.
        atexit.register(self._notes.put, "joined")
        self._notes.put("over")

    def _received(self, number: int, frame: FrameType | None) -> None:
        self._count += 1
        self._notes.put("signal")
        if self._loop is None:
            self._code = 0
            self._notes.put("over")
            raise StoppedEarlyError(0)

    def _watch(self) -> None:
        """Runs in a thread of its own, since the main one may hang."""
        signals, deadline = 0, float("inf")
        while True:
            try:
                note = self._notes.get(timeout=_until(deadline))
            except queue.Empty:
                self._end()
            if note == "signal":
                signals += 1
                self._tell(signals)
                if signals == 2:
                    deadline = min(deadline, time.monotonic() + self._limit)
            elif note == "over":
                deadline = min(deadline, time.monotonic() + _TEARDOWN_LIMIT)
            elif signals < 2:
                deadline = float("inf")

    def _tell(self, signals: int) -> None:
        loop = self._loop
        event = self.asked if signals == 1 else self.insisted
        if loop is not None:
            with contextlib.suppress(RuntimeError):  # closed meanwhile
                loop.call_soon_threadsafe(event.set)

    def _end(self) -> None:
        # Whoever hangs may hold the lock of a stream.
        flushing = threading.Thread(target=_flush, daemon=True)
        flushing.start()
        flushing.join(_FLUSH_LIMIT)
        os._exit(self._code)


def _until(deadline: float) -> float | None:
    return None if deadline == float("inf") else max(0.0, deadline - time.monotonic())


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
