"""A watchdog for the event loop: says within a second what blocks it, with the stack."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
import traceback

__all__ = ["LoopWatchdog"]

_log = logging.getLogger(__name__)

BLOCKED_AFTER = 0.5
"""Seconds beyond a turn's time before the loop counts as blocked."""
INTERVAL = 0.15


class LoopWatchdog:
    """A thread that watches the loop it is started on.

    A blocked loop renews no leases; most of a minute of it loses them. Plain `def` executors run in
    threads and do not block. Each blockage is told once.
    """

    def __init__(self) -> None:
        self._beat = 0.0
        self._stop = threading.Event()
        self._loop_thread = 0
        self._timer: asyncio.TimerHandle | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Watch the running loop. Safe to repeat."""
        if self._thread is not None:
            return
        self._loop_thread = threading.get_ident()
        self._stop.clear()
        self._tick(asyncio.get_running_loop())
        self._thread = threading.Thread(target=self._watch, name="taskloom-watchdog", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Watch no more. Safe to repeat."""
        self._stop.set()
        if self._timer is not None:
            self._timer.cancel()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        self._beat = time.monotonic()
        self._timer = loop.call_later(INTERVAL, self._tick, loop)

    def _watch(self) -> None:
        told = 0.0
        while not self._stop.wait(INTERVAL):
            beat = self._beat
            silent = time.monotonic() - beat
            if silent > BLOCKED_AFTER + INTERVAL and beat != told:
                told = beat
                self._tell(silent)

    def _tell(self, silent: float) -> None:
        frame = sys._current_frames().get(self._loop_thread)
        stack = "".join(traceback.format_stack(frame, limit=20)) if frame else "(unknown)"
        _log.warning(
            "the event loop has been blocked for %.1f s; leases are not renewed meanwhile. "
            "Use `def` for executors that block, they run in threads. It is here:\n%s",
            silent,
            stack,
        )
