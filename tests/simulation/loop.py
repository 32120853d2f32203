"""An event loop without time or sockets: when nothing is ready, it jumps to the next timer.

A second of `asyncio.sleep` costs microseconds, and two runs of one program take the same steps in
the same order: nothing here depends on the machine, on addresses or on hash seeds. Callbacks run
in the order asyncio promises; interleavings come from the latency of simulated engines.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any, Never

__all__ = ["DeadlockError", "EndlessError", "VirtualClock", "VirtualLoop"]

_MICRO = 1_000_000
_START = datetime(2020, 1, 1, tzinfo=UTC)
"""In the past: a task made "for now" by the machine's clock becomes due by the virtual one."""


class DeadlockError(RuntimeError):
    """Nothing is ready and no timer is set: what runs would wait for ever."""


class EndlessError(RuntimeError):
    """The program took more turns or more virtual time than it was given."""


class _Future(asyncio.Future[Any]):
    """A future whose place in a set does not depend on its address."""

    def __init__(self, number: int, loop: asyncio.AbstractEventLoop) -> None:
        self._number = number
        super().__init__(loop=loop)

    def __hash__(self) -> int:
        return self._number


class _Task(asyncio.Task[Any]):
    """A task, as above."""

    def __init__(self, number: int, work: Coroutine[Any, Any, Any], **options: Any) -> None:
        self._number = number
        super().__init__(work, **options)

    def __hash__(self) -> int:
        return self._number


class VirtualLoop(asyncio.BaseEventLoop):
    """Virtual seconds from 0 in whole microseconds, at most `longest`, in at most `turns` turns."""

    def __init__(self, *, longest: float = 3600.0, turns: int = 500_000) -> None:
        super().__init__()
        self._selector = self  # asyncio asks it for what is ready, and how long to wait at most
        self._clock_resolution = 1e-7
        self._micros = 0
        self._longest = round(longest * _MICRO)
        self._turns = turns
        self._numbers = count(1)
        self.set_task_factory(self._make_task)

    @property
    def micros(self) -> int:
        """Microseconds since the loop was made."""
        return self._micros

    def time(self) -> float:
        return self._micros / _MICRO

    def call_at(self, when: float, callback: Any, *args: Any, context: Any = None) -> Any:
        # Timers ring on whole microseconds, so that a wait ends exactly when its time has come.
        return super().call_at(round(when * _MICRO) / _MICRO, callback, *args, context=context)

    def select(self, timeout: float | None) -> list[Never]:
        """Called once a turn, with the time until the next timer: let it pass."""
        self._turns -= 1
        if timeout is None:
            raise DeadlockError("nothing is ready and no timer is set")
        if timeout > 0:
            self._micros += max(1, round(timeout * _MICRO))
        if self._turns < 0 or self._micros > self._longest:
            raise EndlessError(f"no end after {self.time():g} virtual seconds")
        return []

    def create_future(self) -> asyncio.Future[Any]:
        return _Future(next(self._numbers), self)

    def _make_task(
        self, loop: asyncio.AbstractEventLoop, work: Any, **options: Any
    ) -> asyncio.Future[Any]:
        return _Task(next(self._numbers), work, loop=loop, **options)

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Never:
        raise RuntimeError("a thread would live in real time")

    def _process_events(self, events: object) -> None:
        """There are no sockets."""

    def _write_to_self(self) -> None:
        """Nobody sleeps who would have to be woken."""

    def finish(self) -> None:
        """Cancel what is left, let it end, close. For runs that went wrong, too."""
        left = asyncio.all_tasks(self)
        for task in left:
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            task.cancel()
        self._turns, self._longest = 10_000, self._micros + 600 * _MICRO
        try:
            if left:
                self.run_until_complete(asyncio.wait(left))
        except (DeadlockError, EndlessError):
            pass  # what resists its cancellation is left behind
        finally:
            self.close()


class VirtualClock:
    """The loop's time for handlers and memory engines."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop

    def now(self) -> datetime:
        return _START + timedelta(microseconds=self._loop.micros)

    def monotonic(self) -> float:
        # Not from 0: a start of 0 means "never" in outcomes.
        return 1_000 + self._loop.time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
