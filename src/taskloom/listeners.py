"""Delivery of events to providers: in order, beside the work, and never in its way."""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextvars import Context, copy_context
from typing import Any

from taskloom.clock import SYSTEM_CLOCK, Clock
from taskloom.current import running
from taskloom.lifecycle import EVENTS, LifecycleMode

__all__ = ["Listeners"]

logger = logging.getLogger(__name__)

QUEUE_LIMIT = 100_000
"""Events that wait for one provider; above it the oldest are dropped."""
REPEAT_INTERVAL = 60.0
"""The same callback failing with the same kind of error is told once in so many seconds."""
SLICE = 0.005
"""How long, in seconds, deliveries may hold the event loop before others get their turn."""
END_TIMEOUT = 1.0
"""How long, in seconds, a cancelled callback may take to end when closing."""


class Listeners:
    """The providers of one worker, told of each event by the name of its callback.

    A provider is an instance of the base classes in `lifecycle`, or any object that has some of
    their methods; None is skipped, and one given twice is told once. In mode `"sync"` `emit` awaits
    each callback. In mode `"async"` it only queues: each provider has a queue of its own, delivered
    in the order of emission, so that a slow one holds up neither the work nor another provider.

    Whatever a callback raises is logged under its name and changes nothing; the same kind of error
    of the same callback is logged at most once a minute, with a count.
    """

    def __init__(
        self,
        *providers: object | None,
        mode: LifecycleMode = "async",
        limit: int = QUEUE_LIMIT,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._sync = mode == "sync"
        self._open = True
        self._complaints = _Complaints(clock)
        self._mailboxes: list[_Mailbox] = []
        self._callbacks: dict[str, list[_Callback]] = {name: [] for name in EVENTS}
        known: list[object] = []
        for provider in providers:
            if provider is not None and not any(provider is other for other in known):
                known.append(provider)
                self._add(provider, limit)

    def _add(self, provider: object, limit: int) -> None:
        mailbox = _Mailbox(type(provider).__name__, limit)
        self._mailboxes.append(mailbox)
        for name, callbacks in self._callbacks.items():
            method = getattr(provider, name, None)
            if callable(method) and getattr(method, "__func__", method) is not EVENTS[name]:
                label = f"{type(provider).__name__}.{name}"
                callbacks.append(_Callback(label, method, mailbox, self._complaints))

    def open(self) -> None:
        """Take events (again)."""
        self._open = True

    def wants(self, name: str) -> bool:
        """Whether anyone is told of `name`: ask before building an event. Unknown: KeyError."""
        return bool(self._callbacks[name])

    @property
    def dropped(self) -> int:
        """How many events were dropped because their provider was too slow."""
        return sum(mailbox.dropped for mailbox in self._mailboxes)

    async def emit(self, name: str, event: object) -> None:
        """Tell those who want `name`. Raises nothing of theirs; after `close` does nothing."""
        if not self._open:
            return
        for callback in self._callbacks[name]:
            if self._sync:
                await callback.call(event)
            else:
                callback.mailbox.put(callback, event)

    def post(self, name: str, events: Sequence[object]) -> None:
        """Queue `events` for those who want `name`, in either mode. After `close` does nothing."""
        if not self._open:
            return
        for callback in self._callbacks[name]:
            for event in events:
                callback.mailbox.put(callback, event)

    async def flush(self, timeout: float = 5.0) -> bool:
        """Wait until everything queued by now was delivered; False when `timeout` came first."""
        waiting = [mailbox.delivered() for mailbox in self._mailboxes]
        if not waiting:
            return True
        _, late = await asyncio.wait(waiting, timeout=timeout)
        for future in late:
            future.cancel()
        return not late

    async def close(self, timeout: float = 5.0) -> None:
        """Take no more events, deliver what is queued, end the delivery. Safe to repeat.

        Returns after `timeout` and at most a second more, also when a callback hangs: it is
        cancelled, and what was not delivered is counted in a warning.
        """
        self._open = False
        try:
            await self.flush(timeout)
        finally:
            tasks = [task for mailbox in self._mailboxes if (task := mailbox.stop()) is not None]
        if tasks:
            _, stuck = await asyncio.wait(tasks, timeout=END_TIMEOUT)
            for task in stuck:
                logger.warning("%s ignores its cancellation and is left behind", task.get_name())
        self._complaints.tell_rest()


class _Callback:
    """One method of one provider."""

    __slots__ = ("_complaints", "_method", "label", "mailbox")

    def __init__(
        self,
        label: str,
        method: Callable[[Any], Any],
        mailbox: _Mailbox,
        complaints: _Complaints,
    ) -> None:
        self.label = label
        self.mailbox = mailbox
        self._method = method
        self._complaints = complaints

    async def call(self, event: object) -> None:
        """Run the method; raises only when the task that runs it here is itself cancelled."""
        cancels = _cancels()
        try:
            answer = self._method(event)
            if answer is not None and inspect.isawaitable(answer):
                await answer
        except GeneratorExit:
            raise  # this coroutine itself is being closed; it may not go on
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError) and _cancels():
                raise
            self._complaints.tell(self.label, type(event).__name__, error)
        if _cancels() > cancels:
            # The callback swallowed a cancellation that was meant for the work around it.
            raise asyncio.CancelledError


def _cancels() -> int:
    task = asyncio.current_task()
    return task.cancelling() if task is not None else 0


def _outside_tasks() -> Context:
    # Not the emitter's context: callbacks must not log, or make tasks, in the name of whichever
    # task happened to run when the delivery began.
    context = copy_context()
    context.run(running.set, None)
    return context


class _Mailbox:
    """What waits for one provider, and the asyncio task that delivers it while there is some."""

    def __init__(self, owner: str, limit: int) -> None:
        self.dropped = 0
        self._owner = owner
        self._limit = limit
        self._queue: deque[tuple[_Callback, object]] = deque()
        self._accepted = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._task: asyncio.Task[None] | None = None
        self._context = _outside_tasks()

    def put(self, callback: _Callback, event: object) -> None:
        if len(self._queue) >= self._limit:
            self._drop_oldest()
        self._queue.append((callback, event))
        self._accepted += 1
        if not self._busy:
            self._start()

    @property
    def _busy(self) -> bool:
        return self._task is not None and not self._task.done()

    def _start(self) -> None:
        self._task = asyncio.create_task(
            self._deliver(), name=f"taskloom events to {self._owner}", context=self._context.copy()
        )

    def _drop_oldest(self) -> None:
        self._queue.popleft()
        self.dropped += 1
        if self.dropped == 1:
            logger.warning(
                "%s is too slow for its events: more than %d wait, the oldest are dropped",
                self._owner,
                self._limit,
            )

    async def _deliver(self) -> None:
        turn_ends = time.monotonic() + SLICE
        while self._queue:
            callback, event = self._queue.popleft()
            await callback.call(event)
            self._wake_waiting()
            if time.monotonic() > turn_ends:
                await asyncio.sleep(0)
                turn_ends = time.monotonic() + SLICE

    def _wake_waiting(self) -> None:
        settled = self._accepted - len(self._queue)  # delivered or dropped
        while self._waiting and self._waiting[0][0] <= settled:
            _, future = self._waiting.popleft()
            if not future.done():
                future.set_result(None)

    def delivered(self) -> asyncio.Future[None]:
        """Done when everything queued by now was delivered or dropped."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if not self._busy and self._queue:
            self._start()
        if self._busy:
            self._waiting.append((self._accepted, future))
        else:
            future.set_result(None)
        return future

    def stop(self) -> asyncio.Task[None] | None:
        """Give up what waits and cancel what runs, which is returned. Nothing, when all is done."""
        if not self._busy or self._task is None:
            return None
        logger.warning(
            "%s was not told of %d events: it did not finish in time",
            self._owner,
            len(self._queue) + 1,
        )
        self._queue.clear()
        self._wake_waiting()
        self._task.cancel()
        return self._task


class _Complaints:
    """Errors of callbacks, each kind told once in `REPEAT_INTERVAL`."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._told: dict[tuple[str, str], float] = {}
        self._untold: dict[tuple[str, str], int] = {}

    def tell(self, callback: str, event: str, error: BaseException) -> None:
        kind = (callback, type(error).__name__)
        now = self._clock.monotonic()
        if now - self._told.get(kind, -REPEAT_INTERVAL) < REPEAT_INTERVAL:
            self._untold[kind] = self._untold.get(kind, 0) + 1
            return
        self._told[kind] = now
        before = self._untold.pop(kind, 0)
        since = f" (and {before} times since it was last told)" if before else ""
        logger.error("%s failed on %s%s; the work goes on", callback, event, since, exc_info=error)

    def tell_rest(self) -> None:
        for (callback, error), count in self._untold.items():
            logger.error("%s failed %d more times with %s", callback, count, error)
        self._untold.clear()
