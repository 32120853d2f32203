"""The settler: carries out what follows from outcomes, many at a time.

One settle, in an order that is safe to repeat: storage, then children, then the queue. The
acknowledgement is the last write. Where the storage is the queue, all of it is one transaction.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import NamedTuple

from taskloom.carriers import Carrier, SettlerParts, SteppedCarrier, Steps, WholeCarrier
from taskloom.errors import UnavailableError
from taskloom.group_commit import GroupCommit
from taskloom.leases import Claim
from taskloom.outage import Outage
from taskloom.outcomes import Outcome, Word
from taskloom.settlement import Circumstances, Verdict, decide
from taskloom.task import TaskStatus

__all__ = ["Settled", "Settler"]

_log = logging.getLogger(__name__)

LIMIT = 1000
"""Outcomes in one settle."""


class Settled(NamedTuple):
    """An outcome and the claim it belongs to."""

    outcome: Outcome
    claim: Claim


class Settler:
    """Settles outcomes in groups, in the order they come; never raises into a lane."""

    def __init__(self, parts: SettlerParts) -> None:
        self._parts = parts
        self._integrated = parts.queue.storage is parts.storage
        carrier = WholeCarrier if self._integrated else SteppedCarrier
        self._carrier: Carrier = carrier(parts)
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
        steps = Steps()
        rows = {id: row for item in group for id, row in item.claim.rows.items()}
        while True:
            try:
                async with asyncio.timeout(self._parts.call_limit):
                    doubtful = self._doubtful(group)
                    fenced = await self._carrier.carry_out(verdicts, rows, doubtful, steps)
            except (UnavailableError, TimeoutError) as error:
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

    def _doubtful(self, group: list[Settled]) -> set[str]:
        """Whose lease can no longer be trusted without asking."""
        now = self._parts.clock.monotonic()
        return {i.outcome.delivery.task.id for i in group if i.claim.trusted_until < now}

    def _trusted_until(self, group: list[Settled]) -> float:
        return max(item.claim.trusted_until for item in group)


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
