"""The settler: carries out what follows from outcomes, many at a time.

One settle, in an order that is safe to repeat: storage, then children, then the queue. The
acknowledgement is the last write. Where the storage is the queue, all of it is one transaction.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from datetime import timedelta
from typing import Any, NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from taskloom.clock import Clock
from taskloom.errors import UnavailableError
from taskloom.executors import Executor
from taskloom.group_commit import GroupCommit
from taskloom.interfaces.message_queue import MessageQueue
from taskloom.interfaces.task_storage import TaskStorage
from taskloom.leases import Claim
from taskloom.locks import TaskLocks
from taskloom.outage import Outage
from taskloom.outcomes import Delivery, Ending, Outcome, Settlement, Word
from taskloom.settlement import Circumstances, Verdict, decide
from taskloom.task import Task, TaskStatus

__all__ = ["Settled", "Settler", "SettlerParts"]

_log = logging.getLogger(__name__)

LIMIT = 1000
"""Outcomes in one settle."""


class Settled(NamedTuple):
    """An outcome and the claim it belongs to."""

    outcome: Outcome
    claim: Claim


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


class Settler:
    """Settles outcomes in groups, in the order they come; never raises into a lane."""

    def __init__(self, parts: SettlerParts) -> None:
        self._parts = parts
        self._integrated = parts.queue.storage is parts.storage
        self._commit: GroupCommit[Settled, None] = GroupCommit(self._settle, limit=LIMIT)
        self._collected: list[Settled] = []
        self._outage = Outage("settling", parts.clock)

    def add(self, outcome: Outcome, claim: Claim) -> None:
        """Settle this outcome soon, together with what else ends in this turn of the loop."""
        collected = self._collected
        if not collected:
            asyncio.get_running_loop().call_soon(self._hand_over)
        collected.append(Settled(outcome, claim))
        if len(collected) >= LIMIT:
            self._hand_over()

    def _hand_over(self) -> None:
        if self._collected:
            collected, self._collected = self._collected, []
            self._commit.add(collected)

    async def join(self) -> None:
        """Return when everything handed in has been settled or given up."""
        self._hand_over()
        await self._commit.join()

    async def _settle(self, group: list[Settled]) -> list[None]:
        try:
            await self._until_done(group)
        except Exception:
            await self._one_by_one(group)
        return [None] * len(group)

    async def _one_by_one(self, group: list[Settled]) -> None:
        """Something in the group cannot be written: settle the others, and be loud about it."""
        for item in group:
            try:
                await self._until_done([item])
            except Exception:
                task = item.outcome.delivery.task
                _log.exception(
                    "task %s (%s) cannot be settled; it will be delivered again after its lease",
                    task.id,
                    task.type,
                )
                await self._unlock([item])
                self._close([item])

    async def _until_done(self, group: list[Settled]) -> None:
        """Settle `group`, again and again while the engine is away and the leases are ours."""
        verdicts = self._decide(group)
        with self._parts.settling(verdicts):
            await self._repeat(group, verdicts)

    async def _repeat(self, group: list[Settled], verdicts: list[Verdict]) -> None:
        again = False
        while True:
            try:
                async with asyncio.timeout(self._parts.call_limit):
                    fenced = await self._carry_out(verdicts, group, again=again)
            except (UnavailableError, TimeoutError) as error:
                again = True
                if not await self._outage.wait(error, until=self._trusted_until(group)):
                    _log.error("%d outcomes could not be settled in time", len(group))
                    await self._unlock(group)
                    self._close(group)
                    return
            else:
                self._outage.over()
                await self._finish(group, verdicts, fenced)
                return

    def _decide(self, group: list[Settled]) -> list[Verdict]:
        parts = self._parts
        around = Circumstances(
            now=parts.clock.now(),
            integrated=self._integrated,
            can_delay=parts.queue.features.takes_delayed,
            inline=parts.queue.features.inline,
            horizon=parts.horizon,
        )
        executor_of = parts.executor_of
        return [
            decide(item.outcome, executor_of(item.outcome.delivery.task), around) for item in group
        ]

    async def _carry_out(
        self, verdicts: list[Verdict], group: list[Settled], *, again: bool
    ) -> set[str]:
        """Write everything; returns the ids whose delivery was no longer ours."""
        rows = {id: row for item in group for id, row in item.claim.rows.items()}
        await self._release(verdicts, rows)
        kept = [verdict for verdict in verdicts if not verdict.released]
        if self._integrated:
            return await self._settle_whole(kept)
        fenced = await self._no_longer_ours(kept, group)
        fenced |= await self._store_rows([v for v in kept if _id(v) not in fenced], rows)
        kept = [v for v in kept if _id(v) not in fenced]
        if children := [child for v in kept for child in v.outcome.children]:
            await self._parts.add_children(children)
        gone = await self._give_up(kept)
        # Said again after a lost answer, "no longer ours" means that it was done the first time.
        return fenced if again else fenced | gone

    async def _store_rows(self, verdicts: list[Verdict], rows: dict[str, Delivery]) -> set[str]:
        """Beside a separate queue: rows we hold are written under their lease, others made."""
        held = [v for v in verdicts if v.ending is not None and _id(v) in rows]
        new = tuple(v.ending for v in verdicts if v.ending is not None and _id(v) not in rows)
        if new:
            await self._parts.storage.settle(Settlement(new, fenced=False))
        if not held:
            return set()
        endings = tuple(
            replace(v.ending, delivery=rows[_id(v)]) for v in held if v.ending is not None
        )
        lost = set(await self._parts.storage.settle(Settlement(endings)))
        if lost:
            # Someone took the row over: they, or whoever comes next, shall get the task.
            fenced = [v.outcome.delivery for v in held if _id(v) in lost]
            await self._parts.queue.release(fenced)
        return lost

    async def _settle_whole(self, verdicts: list[Verdict]) -> set[str]:
        """One transaction for all of it: children and acknowledgement are in the same write."""
        parents = [verdict.outcome for verdict in verdicts if verdict.outcome.children]
        if not parents:
            return await self._store(verdicts)
        children = [child for outcome in parents for child in outcome.children]
        async with self._parts.announcing(children, self._parts.executor_of) as announce:
            lost = await self._store(verdicts)
            for outcome in parents:
                if outcome.delivery.task.id not in lost:
                    announce(outcome.children)
        return lost

    async def _store(self, verdicts: list[Verdict]) -> set[str]:
        endings = tuple(v.ending for v in verdicts if v.ending is not None)
        return set(await self._parts.storage.settle(Settlement(endings))) if endings else set()

    async def _no_longer_ours(self, verdicts: list[Verdict], group: list[Settled]) -> set[str]:
        """Before anything is written beside the queue: which leases are gone?

        A lease that can be trusted needs no question; the acknowledgement compares it anyway.
        """
        now = self._parts.clock.monotonic()
        doubtful = {
            item.outcome.delivery.task.id for item in group if item.claim.trusted_until < now
        }
        if not doubtful:
            return set()
        ask = [
            v.outcome.delivery
            for v in verdicts
            if v.outcome.delivery.task.id in doubtful and (v.ending or v.outcome.children)
        ]
        lost = await self._parts.queue.extend(ask, 1.0 + self._outage.longest) if ask else []
        return {delivery.task.id for delivery in lost}

    async def _give_up(self, verdicts: list[Verdict]) -> set[str]:
        """Tell the queue: done with these, and those go on as they are now."""
        back = [v for v in verdicts if v.back is not None]
        done = [v.outcome.delivery for v in verdicts if v.back is None]
        lost: list[Delivery] = []
        if back:
            tasks = [v.back for v in back if v.back is not None]
            lost += await self._parts.queue.release([v.outcome.delivery for v in back], tasks=tasks)
        if done:
            lost += await self._parts.queue.ack(done)
        return {delivery.task.id for delivery in lost}

    async def _release(self, verdicts: list[Verdict], rows: dict[str, Delivery]) -> None:
        released = [v.outcome for v in verdicts if v.outcome.word is Word.RELEASED]
        if not released:
            return
        held = [rows[o.delivery.task.id] for o in released if o.delivery.task.id in rows]
        if held:
            endings = tuple(Ending(row, TaskStatus.QUEUED, next=_queued(row)) for row in held)
            await self._parts.storage.settle(Settlement(endings))
        by_delay: dict[float, list[Delivery]] = {}
        for outcome in released:
            by_delay.setdefault(outcome.delay, []).append(outcome.delivery)
        for delay, deliveries in by_delay.items():
            await self._parts.queue.release(deliveries, delay=delay)

    async def _finish(
        self, group: list[Settled], verdicts: list[Verdict], fenced: set[str]
    ) -> None:
        await self._unlock(group)
        for item, verdict in zip(group, verdicts, strict=True):
            lost = bool(fenced) and item.outcome.delivery.task.id in fenced
            _tally(item.claim, "released" if lost else _name(verdict))
        done = [v for v in verdicts if v.outcome.delivery.task.id not in fenced]
        out = [v for v in verdicts if v.outcome.delivery.task.id in fenced] if fenced else []
        try:
            await self._parts.report(done, out)
        except Exception:
            _log.exception("reporting settled tasks failed")
        self._close(group)

    async def _unlock(self, group: list[Settled]) -> None:
        try:
            async with asyncio.timeout(self._parts.call_limit):
                await self._parts.locks.release(item.outcome.delivery for item in group)
        except (UnavailableError, TimeoutError) as error:
            _log.warning("task locks could not be released: %s; they end by themselves", error)

    def _close(self, group: Iterable[Settled]) -> None:
        for item in group:
            item.claim.close((item.outcome.delivery.task.id,))
        self._parts.on_settled()

    def _trusted_until(self, group: list[Settled]) -> float:
        return max(item.claim.trusted_until for item in group)


def _id(verdict: Verdict) -> str:
    return verdict.outcome.delivery.task.id


def _queued(row: Delivery) -> Task[Any]:
    return replace(row.task, status=TaskStatus.QUEUED)


def _name(verdict: Verdict) -> str:
    """What became of a delivery, in the words of `BatchSummary`."""
    word = verdict.outcome.word
    if word is Word.SUCCESS:
        return "succeeded"
    if verdict.released:
        return "released"
    if verdict.will_retry or word is Word.RESCHEDULED:
        return "retried"
    return "failed" if verdict.status is TaskStatus.FAILED else "ignored"


def _tally(claim: Claim, name: str) -> None:
    claim.tally[name] = claim.tally.get(name, 0) + 1
