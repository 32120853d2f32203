"""The AsyncTaskManager: runs that left their lane's slot, each until it ends or takes too long."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

from msgspec import Struct

from taskloom.clock import SYSTEM_CLOCK, Clock, Seconds, seconds
from taskloom.task import Task
from taskloom.waiting import until

__all__ = ["AsyncTaskManager", "AsyncTaskMetrics", "OnTaskTimeout", "ShutdownResult"]

_log = logging.getLogger(__name__)

OnTaskTimeout: TypeAlias = Callable[[str, Task[Any], float], Any]
"""Called with the task's id, the task, and the seconds since it was handed off."""


class AsyncTaskMetrics(Struct, frozen=True):
    """The figures of an `AsyncTaskManager`; the totals since it was made or reset."""

    active_task_count: int
    total_handed_off: int
    total_completed: int
    """Ended by themselves, well or not, while they were tracked."""
    total_rejected: int
    total_timed_out: int
    oldest_task_age: float
    """Seconds since the oldest one was handed off; 0.0 when there is none."""
    max_tasks: int
    utilization_percent: float


class ShutdownResult(Struct, frozen=True):
    """What a shutdown left behind."""

    completed_during_grace: int
    abandoned_task_ids: list[str]
    """Still running; the oldest first."""


class _Entry(NamedTuple):
    task: Task[Any]
    running: asyncio.Task[Any]
    since: float
    limit: float


class AsyncTaskManager:
    """Keeps track of runs that take long, so that their lanes can go on with other tasks.

        manager = AsyncTaskManager(50, default_max_duration=3600)
        handler = TaskHandler(queue, queues, storage, cache, manager)

    It settles nothing and starts nothing: a run that was handed off ends as it would have in its
    lane, with the same leases, retries and events. One that runs longer than its maximum, looked
    at every `sweep_interval` (0: never), is cancelled and fails with a `TaskTimeoutError`;
    `on_task_timeout(task_id, task, duration)`, sync or async, hears of it, and its errors are only
    logged. Durations are seconds or `timedelta`s. Use it from one event loop.
    """

    def __init__(
        self,
        max_tasks: int = 100,
        *,
        sweep_interval: Seconds = 5.0,
        default_max_duration: Seconds = 600.0,
        shutdown_grace_period: Seconds = 10.0,
        on_task_timeout: OnTaskTimeout | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        if not isinstance(max_tasks, int) or isinstance(max_tasks, bool) or max_tasks < 0:
            raise ValueError(f"max_tasks must be a whole number of at least 0, not {max_tasks!r}")
        if not (on_task_timeout is None or callable(on_task_timeout)):
            raise TypeError(f"on_task_timeout must be callable, not {on_task_timeout!r:.80}")
        self._max_tasks = max_tasks
        self._sweep_interval = seconds(sweep_interval, "sweep_interval")
        self._max_duration = seconds(default_max_duration, "default_max_duration")
        self._grace = seconds(shutdown_grace_period, "shutdown_grace_period")
        self._on_task_timeout = on_task_timeout
        self._clock = clock
        self._accepting = True
        self._entries: dict[str, _Entry] = {}
        """By task id, the oldest first."""
        self._evicted: dict[asyncio.Task[Any], float] = {}
        """Runs cancelled for taking too long that have not ended yet: how long they took."""
        self._idle = asyncio.Event()
        self._idle.set()
        self._sweeping: asyncio.Task[None] | None = None
        self._calls: set[asyncio.Task[None]] = set()
        self.reset_counters()

    def handoff_task(
        self, task: Task[Any], running: asyncio.Task[Any], timeout: Seconds | None = None
    ) -> bool:
        """Track `running`, which runs `task`, until it ends; False when it is refused.

        It may go on for `timeout` seconds from now (None: `default_max_duration`). Refused are a
        task without an id, any task after `shutdown`, one whose id is tracked already, and one
        too many. A refused run is left alone.
        """
        limit = self._max_duration if timeout is None else seconds(timeout, "timeout")
        if not task.id or not self.can_accept_task() or task.id in self._entries:
            self._rejected += 1
            return False
        self._handed_off += 1
        self._entries[task.id] = _Entry(task, running, self._clock.monotonic(), limit)
        self._idle.clear()
        running.add_done_callback(lambda run: self._ended(task.id, run))
        if self._sweeping is None and self._sweep_interval:
            self._sweeping = asyncio.create_task(self._sweep(), name="taskloom-handoff-sweep")
        return True

    def can_accept_task(self) -> bool:
        """Whether there is room, and no `shutdown` was begun."""
        return self._accepting and len(self._entries) < self._max_tasks

    def is_handed_off(self, task_id: str) -> bool:
        """Whether a run of this task is tracked now."""
        return task_id in self._entries

    def evicted_after(self, running: asyncio.Task[Any]) -> float | None:
        """How many seconds `running` was let run before it was cancelled for taking too long.

        None for any other run. Known until `running` has ended.
        """
        return self._evicted.get(running)

    def get_metrics(self) -> AsyncTaskMetrics:
        """The figures as they are now."""
        active = len(self._entries)
        oldest = next(iter(self._entries.values()), None)
        return AsyncTaskMetrics(
            active_task_count=active,
            total_handed_off=self._handed_off,
            total_completed=self._completed,
            total_rejected=self._rejected,
            total_timed_out=self._timed_out,
            oldest_task_age=self._clock.monotonic() - oldest.since if oldest else 0.0,
            max_tasks=self._max_tasks,
            utilization_percent=100 * active / self._max_tasks if self._max_tasks else 0.0,
        )

    def reset_counters(self) -> None:
        """Start the totals again at zero; what is tracked stays tracked."""
        self._handed_off = 0
        self._completed = 0
        self._rejected = 0
        self._timed_out = 0

    async def shutdown(self, abort: asyncio.Event | None = None) -> ShutdownResult:
        """Accept nothing more, cancel nothing more, and wait for what runs.

        Returns when all of it has ended, after `shutdown_grace_period`, or when `abort` is set.
        What is left goes on running: whoever started it stops it. Safe to repeat.
        """
        self._accepting = False
        self._stop_sweeping()
        before = len(self._entries)
        if before:
            await self._wait_idle(abort)
        return ShutdownResult(before - len(self._entries), list(self._entries))

    async def _wait_idle(self, abort: asyncio.Event | None) -> None:
        events = (self._idle,) if abort is None else (self._idle, abort)
        grace = asyncio.create_task(self._clock.sleep(self._grace))
        try:
            await until(events, [grace])
        finally:
            grace.cancel()

    def _ended(self, task_id: str, running: asyncio.Task[Any]) -> None:
        self._evicted.pop(running, None)
        entry = self._entries.get(task_id)
        if entry is not None and entry.running is running:
            self._completed += 1
            self._drop(task_id)

    def _drop(self, task_id: str) -> None:
        del self._entries[task_id]
        if not self._entries:
            self._idle.set()
            self._stop_sweeping()

    async def _sweep(self) -> None:
        """Look for runs that take too long, as long as any is tracked; then it is cancelled."""
        while True:
            await self._clock.sleep(self._sweep_interval)
            now = self._clock.monotonic()
            for entry in list(self._entries.values()):
                if now - entry.since > entry.limit:
                    self._evict(entry, now - entry.since)

    def _stop_sweeping(self) -> None:
        if self._sweeping is not None:
            self._sweeping.cancel()
            self._sweeping = None

    def _evict(self, entry: _Entry, duration: float) -> None:
        task = entry.task
        _log.warning("task %s (%s) is cancelled after %.1f s", task.id, task.type, duration)
        self._timed_out += 1
        self._evicted[entry.running] = duration
        self._drop(task.id)
        entry.running.cancel()
        if self._on_task_timeout is not None:
            # Beside the sweep, so that a slow one holds nothing up.
            call = asyncio.create_task(self._tell(self._on_task_timeout, task, duration))
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)

    async def _tell(self, callback: OnTaskTimeout, task: Task[Any], duration: float) -> None:
        try:
            answer = callback(task.id, task, duration)
            if inspect.isawaitable(answer):
                await answer
        except (Exception, SystemExit, KeyboardInterrupt):  # the loop would end by the latter two
            _log.exception("on_task_timeout failed for task %s; the sweep goes on", task.id)
