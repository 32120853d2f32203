"""Carriers: the engine calls of one settle, in an order that is safe to repeat.

Where the storage is the queue, one transaction does it all. Beside a separate queue it takes steps:
storage, then children, then the queue; the acknowledgement is the last write.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from datetime import timedelta
from typing import Any, Protocol, TypeVar, cast

from msgspec import Struct
from msgspec.structs import replace

from taskloom.clock import Clock
from taskloom.executors import Executor
from taskloom.interfaces.message_queue import MessageQueue
from taskloom.interfaces.task_storage import TaskStorage
from taskloom.locks import TaskLocks
from taskloom.outcomes import Delivery, Ending, Outcome, Settlement, Word
from taskloom.settlement import Verdict
from taskloom.task import Task, TaskStatus

__all__ = ["Carrier", "SettlerParts", "SteppedCarrier", "Steps", "WholeCarrier"]

T = TypeVar("T")

ASKING_LEASE = 6.0
"""Seconds that a lease is extended by when it is asked whether it is still ours."""


class SettlerParts(Struct, frozen=True):
    """What a settler works with."""

    queue: MessageQueue
    storage: TaskStorage
    locks: TaskLocks
    call_limit: float
    """Seconds before a call that hangs is given up and repeated."""
    clock: Clock
    horizon: timedelta
    executor_of: Callable[[Task[Any]], Executor | None]
    add_children: Callable[[Sequence[Task[Any]]], Awaitable[Any]]
    """Adds children where queue and storage are two things; safe to repeat."""
    announcing: Callable[
        [Sequence[Task[Any]], Callable[[Task[Any]], Executor | None]],
        AbstractAsyncContextManager[Callable[[Sequence[Task[Any]]], None]],
    ]
    """Around adding them where they are one: tells that they are scheduled, before they start."""
    settling: Callable[[Sequence[Verdict]], AbstractContextManager[None]]
    """Around all of a settle: keeps what is told about a task in order."""
    report: Callable[[Sequence[Verdict], Sequence[Verdict]], Awaitable[None]]
    """Hears of verdicts that were carried out, and of those that were fenced."""
    on_settled: Callable[[], None]
    """Called when deliveries are off this worker's hands: there is room for more."""


class Steps:
    """The engine calls of one settle: each is repeated until it has answered, then never again.

    What an answered call wrote may have gone on living since; saying it again would take it back.
    """

    def __init__(self) -> None:
        self._answers: dict[str, Any] = {}
        self._tried: set[str] = set()

    async def once(self, name: str, call: Callable[[], Awaitable[T]]) -> T:
        """The answer of `call`, made now or before."""
        if name not in self._answers:
            first = name not in self._tried
            self._tried.add(name)
            answer = await call()
            self._answers[name] = answer
            if not first:
                self._answers[f"{name}, said again"] = True
        return cast(T, self._answers[name])

    def said_again(self, name: str) -> bool:
        """Whether an earlier try got no answer, and may have been carried out all the same."""
        return f"{name}, said again" in self._answers


class Carrier(Protocol):
    """Carries verdicts out."""

    async def carry_out(
        self,
        verdicts: Sequence[Verdict],
        rows: dict[str, Delivery],
        doubtful: set[str],
        steps: Steps,
    ) -> set[str]:
        """Write everything; returns the ids whose delivery was no longer ours.

        `rows` are the leases on rows of a storage beside the queue; `doubtful` the ids whose lease
        may have run out. Raises `UnavailableError`; repeat it with the same `steps`.
        """
        ...


class WholeCarrier:
    """The storage is the queue: outcomes, children and acknowledgement are one write."""

    def __init__(self, parts: SettlerParts) -> None:
        self._parts = parts

    async def carry_out(
        self,
        verdicts: Sequence[Verdict],
        rows: dict[str, Delivery],
        doubtful: set[str],
        steps: Steps,
    ) -> set[str]:
        await _release(self._parts.queue, verdicts, steps)
        endings = tuple(v.ending for v in verdicts if v.ending is not None)
        if not endings:
            return set()
        parents = [ending for ending in endings if ending.children]
        if not parents:
            return set(await self._parts.storage.settle(Settlement(endings)))
        children = [child for ending in parents for child in ending.children]
        async with self._parts.announcing(children, self._parts.executor_of) as announce:
            lost = set(await self._parts.storage.settle(Settlement(endings)))
            for ending in parents:
                if ending.delivery.task.id not in lost:
                    announce(ending.children)
        return lost


class SteppedCarrier:
    """A storage beside the queue."""

    def __init__(self, parts: SettlerParts) -> None:
        self._parts = parts
        self._queue = parts.queue
        self._storage = parts.storage

    async def carry_out(
        self,
        verdicts: Sequence[Verdict],
        rows: dict[str, Delivery],
        doubtful: set[str],
        steps: Steps,
    ) -> set[str]:
        if rows:
            await self._give_rows_back(verdicts, rows, steps)
        await _release(self._queue, verdicts, steps)
        kept = [verdict for verdict in verdicts if not verdict.released]
        fenced: set[str] = set()
        if doubtful:
            fenced |= await steps.once("ask", lambda: self._no_longer_ours(kept, doubtful))
        fenced |= await self._store(_without(kept, fenced), rows, steps)
        kept = _without(kept, fenced)
        if children := [child for v in kept for child in v.outcome.children]:
            await steps.once("children", lambda: self._parts.add_children(children))
        return fenced | await self._give_up(kept, steps)

    async def _no_longer_ours(self, verdicts: list[Verdict], doubtful: set[str]) -> set[str]:
        """Before anything is written beside the queue: which leases are gone?

        A lease that can be trusted needs no question; the acknowledgement compares it anyway.
        """
        ask = [
            v.outcome.delivery
            for v in verdicts
            if _id(v) in doubtful and (v.ending or v.outcome.children)
        ]
        lost = await self._queue.extend(ask, ASKING_LEASE) if ask else []
        return {delivery.task.id for delivery in lost}

    async def _store(
        self, verdicts: list[Verdict], rows: dict[str, Delivery], steps: Steps
    ) -> set[str]:
        """Rows that we hold are written under their lease, others are made."""
        told = [v for v in verdicts if v.ending is not None]
        held = [v for v in told if _id(v) in rows]
        new = tuple(v.ending for v in told if v.ending is not None and _id(v) not in rows)
        if new:
            made = Settlement(new, fenced=False)
            await steps.once("new rows", lambda: self._storage.settle(made))
        if not held:
            return set()
        plan = Settlement(
            tuple(replace(v.ending, delivery=rows[_id(v)]) for v in held if v.ending is not None)
        )
        lost = set(await steps.once("rows", lambda: self._storage.settle(plan)))
        if lost:
            # Someone took the row over: they, or whoever comes next, shall get the task.
            fenced = [v.outcome.delivery for v in held if _id(v) in lost]
            await steps.once("give on", lambda: self._queue.release(fenced))
        return lost

    async def _give_up(self, verdicts: list[Verdict], steps: Steps) -> set[str]:
        """Tell the queue: done with these, and those go on as they are now."""
        back = [(v.outcome.delivery, v.back) for v in verdicts if v.back is not None]
        done = [v.outcome.delivery for v in verdicts if v.back is None]
        lost: set[str] = set()
        if back:
            deliveries, tasks = [delivery for delivery, _ in back], [task for _, task in back]
            gone = await steps.once("back", lambda: self._queue.release(deliveries, tasks=tasks))
            lost |= _lost(gone, "back", steps)
        if done:
            gone = await steps.once("ack", lambda: self._queue.ack(done))
            lost |= _lost(gone, "ack", steps)
        return lost

    async def _give_rows_back(
        self, verdicts: Sequence[Verdict], rows: dict[str, Delivery], steps: Steps
    ) -> None:
        """What is released waits on the queue again, and its row says so."""
        held = [
            rows[_id(v)] for v in verdicts if v.outcome.word is Word.RELEASED and _id(v) in rows
        ]
        if held:
            endings = tuple(Ending(row, TaskStatus.QUEUED, next=_queued(row)) for row in held)
            await steps.once("rows back", lambda: self._storage.settle(Settlement(endings)))


def _without(verdicts: list[Verdict], fenced: set[str]) -> list[Verdict]:
    return [v for v in verdicts if _id(v) not in fenced] if fenced else verdicts


async def _release(queue: MessageQueue, verdicts: Sequence[Verdict], steps: Steps) -> None:
    by_delay: dict[float, list[Delivery]] = {}
    for verdict in verdicts:
        outcome: Outcome = verdict.outcome
        if outcome.word is Word.RELEASED:
            by_delay.setdefault(outcome.delay, []).append(outcome.delivery)
    for delay, deliveries in by_delay.items():
        await steps.once(f"release {delay}", _releasing(queue, deliveries, delay))


def _releasing(
    queue: MessageQueue, deliveries: list[Delivery], delay: float
) -> Callable[[], Awaitable[list[Delivery]]]:
    return lambda: queue.release(deliveries, delay=delay)


def _lost(gone: list[Delivery], step: str, steps: Steps) -> set[str]:
    # Said again after a lost answer, "no longer ours" means that it was done the first time.
    return set() if steps.said_again(step) else {delivery.task.id for delivery in gone}


def _id(verdict: Verdict) -> str:
    return verdict.outcome.delivery.task.id


def _queued(row: Delivery) -> Task[Any]:
    return replace(row.task, status=TaskStatus.QUEUED)
