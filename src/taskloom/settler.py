"""The settler: carries out what follows from outcomes, many at a time.

One settle, in an order that is safe to repeat: storage, then flows and projections, then children,
then the queue. The acknowledgement is the last write. Where the storage is the queue, all of it is
one transaction.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple, TypeAlias

from msgspec.structs import replace

from taskloom.carriers import Carrier, SteppedCarrier, WholeCarrier
from taskloom.carrying import Carried, SettlerParts
from taskloom.errors import UnavailableError
from taskloom.group_commit import GroupCommit
from taskloom.interfaces.message_queue import QueueFeatures
from taskloom.leases import Claim
from taskloom.outage import Outage
from taskloom.outcomes import Outcome, Word
from taskloom.settlement import Circumstances, Verdict, decide, waits_in_row
from taskloom.steps import Steps
from taskloom.task import TaskStatus

__all__ = ["Settled", "Settler"]

_log = logging.getLogger(__name__)

LIMIT = 1000
"""Outcomes in one settle."""


Settled: TypeAlias = tuple[Outcome, Claim]
"""An outcome and the claim it belongs to. A plain tuple: one is made for every task."""


class _Kind(NamedTuple):
    """What is settled in one way."""

    whole: bool
    """The storage alone holds these tasks: their endings acknowledge them."""
    features: QueueFeatures
    """What their queue can do."""
    parked: bool = False
    """Their queue is done with them."""


class Settler:
    """Settles outcomes in groups, in the order they come; never raises into a lane."""

    def __init__(self, parts: SettlerParts) -> None:
        self._parts = parts
        self._whole, self._stepped = WholeCarrier(parts), SteppedCarrier(parts)
        self._commit: GroupCommit[Settled, None] = GroupCommit(self._settle, limit=LIMIT)
        self._collected: list[Settled] = []
        self._under_way: list[Settled] = []
        self._outage = Outage("settling", parts.clock)

    def add(self, outcome: Outcome, claim: Claim) -> None:
        """Settle this outcome soon, together with what else ends in this turn of the loop."""
        collected = self._collected
        if not collected:
            asyncio.get_running_loop().call_soon(self._hand_over)
        collected.append((outcome, claim))
        if len(collected) >= LIMIT:
            self._hand_over()

    def being_settled(self) -> set[str]:
        """The ids of the outcomes that are being settled just now."""
        return {outcome.delivery.task.id for outcome, _ in self._under_way}

    def _hand_over(self) -> None:
        if self._collected:
            collected, self._collected = self._collected, []
            self._commit.add(collected)

    async def join(self) -> None:
        """Return when everything handed in has been settled or given up."""
        self._hand_over()
        await self._commit.join()

    async def _settle(self, group: list[Settled]) -> list[None]:
        await self._parts.parking.wait(outcome.delivery.task.id for outcome, _ in group)
        self._under_way = group
        for part in _each_task_once(group):
            for kind, alike in self._by_kind(part).items():
                try:
                    await self._until_done(alike, kind)
                except Exception:
                    await self._one_by_one(alike, kind)
        self._under_way = []
        return [None] * len(group)

    def _by_kind(self, group: list[Settled]) -> dict[_Kind, list[Settled]]:
        """One kind as a rule: a handler's queues are of one engine, and few tasks are parked."""
        kinds = {claim: self._kind(claim) for claim in _claims(group)}
        if len(set(kinds.values())) == 1 and not any(claim.parked for claim in kinds):
            return {kinds[group[0][1]]: group}
        parts: dict[_Kind, list[Settled]] = {}
        for outcome, claim in group:
            kind = kinds[claim]
            if outcome.delivery.task.id in claim.parked:
                kind = kind._replace(whole=True, parked=True)
            parts.setdefault(kind, []).append((outcome, claim))
        return parts

    def _kind(self, claim: Claim) -> _Kind:
        parts = self._parts
        whole = parts.queue.storage_of(claim.queue_id) is parts.storage
        return _Kind(whole, parts.queue.features_of(claim.queue_id))

    async def _one_by_one(self, group: list[Settled], kind: _Kind) -> None:
        """Something in the group cannot be written: settle the others, and be loud about it."""
        for item in group:
            try:
                await self._until_done([item], kind)
            except Exception:
                task = item[0].delivery.task
                _log.exception(
                    "task %s (%s) cannot be settled; it will be delivered again after its lease",
                    task.id,
                    task.type,
                )
                await self._unlock([item])
                self._close([item])

    async def _until_done(self, group: list[Settled], kind: _Kind) -> None:
        """Settle `group`, again and again while the engine is away and the leases are ours."""
        verdicts = self._decide(group, kind)
        with self._parts.settling(verdicts):
            await self._repeat(group, verdicts, kind)

    async def _repeat(self, group: list[Settled], verdicts: list[Verdict], kind: _Kind) -> None:
        steps = Steps()
        carrier: Carrier = self._whole if kind.whole else self._stepped
        rows = {id: row for claim in _claims(group) for id, row in claim.rows.items()}
        while True:
            try:
                async with asyncio.timeout(self._parts.call_limit):
                    # The lease of a row is compared by its storage, in any case.
                    doubtful = set() if kind.parked else self._doubtful(group)
                    carried = await carrier.carry_out(verdicts, rows, doubtful, steps)
            except (UnavailableError, TimeoutError) as error:
                if not await self._outage.wait(error, until=self._trusted_until(group)):
                    _log.error("%d outcomes could not be settled in time", len(group))
                    await self._unlock(group)
                    self._close(group)
                    return
            else:
                self._outage.over()
                await self._finish(group, verdicts, carried)
                return

    def _decide(self, group: list[Settled], kind: _Kind) -> list[Verdict]:
        parts = self._parts
        around = Circumstances(
            now=parts.clock.now(),
            integrated=kind.whole,
            can_delay=kind.features.takes_delayed,
            inline=kind.features.inline,
            horizon=parts.horizon,
        )
        if kind.parked:
            return [self._decide_parked(outcome, claim, around) for outcome, claim in group]
        executor_of = parts.executor_of
        return [decide(outcome, executor_of, around) for outcome, _ in group]

    def _decide_parked(self, outcome: Outcome, claim: Claim, around: Circumstances) -> Verdict:
        task, row = outcome.delivery.task, claim.rows[outcome.delivery.task.id]
        task = replace(task, execution_stats=row.task.execution_stats)
        outcome = replace(outcome, delivery=replace(row, task=task))
        if outcome.word is Word.RELEASED:
            return waits_in_row(outcome, around.now)
        return decide(outcome, self._parts.executor_of, around)

    async def _finish(
        self, group: list[Settled], verdicts: list[Verdict], carried: Carried
    ) -> None:
        await self._unlock(group)
        fenced = carried.fenced
        _tally(group, verdicts, fenced)
        done, out = verdicts, list[Verdict]()
        if fenced:
            done = [v for v in verdicts if v.outcome.delivery.task.id not in fenced]
            out = [v for v in verdicts if v.outcome.delivery.task.id in fenced]
        try:
            await self._parts.report(done, out)
            if carried.news:
                await self._parts.report_flows(carried.news)
        except Exception:
            _log.exception("reporting settled tasks failed")
        self._close(group)

    async def _unlock(self, group: list[Settled]) -> None:
        try:
            async with asyncio.timeout(self._parts.call_limit):
                await self._parts.locks.release([outcome.delivery for outcome, _ in group])
        except (UnavailableError, TimeoutError) as error:
            _log.warning("task locks could not be released: %s; they end by themselves", error)

    def _close(self, group: Iterable[Settled]) -> None:
        for claim, items in groupby(group, itemgetter(1)):
            claim.close([outcome.delivery.task.id for outcome, _ in items])
        self._parts.on_settled()

    def _doubtful(self, group: list[Settled]) -> set[str]:
        """Whose lease can no longer be trusted without asking."""
        now = self._parts.clock.monotonic()
        late = {claim for claim in _claims(group) if claim.trusted_until < now}
        return {o.delivery.task.id for o, claim in group if claim in late} if late else set()

    def _trusted_until(self, group: list[Settled]) -> float:
        return max(claim.trusted_until for claim in _claims(group))


def _each_task_once(group: list[Settled]) -> Iterator[list[Settled]]:
    """`group` in parts that hold no task twice, in order: what is refused is told by its id.

    A task is there twice when its lease was lost, and it was claimed and run again here.
    """
    while len({item[0].delivery.task.id for item in group}) < len(group):
        part: list[Settled] = []
        later: list[Settled] = []
        seen: set[str] = set()
        for item in group:
            id = item[0].delivery.task.id
            (later if id in seen else part).append(item)
            seen.add(id)
        yield part
        group = later
    yield group


def _claims(group: Iterable[Settled]) -> set[Claim]:
    return {claim for _, claim in group}


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


def _tally(group: list[Settled], verdicts: list[Verdict], fenced: set[str]) -> None:
    for (outcome, claim), verdict in zip(group, verdicts, strict=True):
        name = _name(verdict)
        if fenced and outcome.delivery.task.id in fenced:
            name = "released"
        claim.tally[name] = claim.tally.get(name, 0) + 1
