"""What both carriers of a settle share: the parts, and what is written beside the storage."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from datetime import timedelta
from typing import Any, NamedTuple

from msgspec import Struct

from taskloom.clock import Clock
from taskloom.executors import Executor
from taskloom.flow_keeper import FlowKeeper, step_ends
from taskloom.flows import NewFlow
from taskloom.interfaces.flow_barrier import FlowNews
from taskloom.interfaces.message_queue import MessageQueue
from taskloom.interfaces.task_storage import TaskStorage
from taskloom.locks import TaskLocks
from taskloom.outcomes import Delivery
from taskloom.parking import Parking
from taskloom.projections import EntityTaskProjection
from taskloom.projector import Projector
from taskloom.settlement import Verdict
from taskloom.steps import Steps
from taskloom.task import Task

__all__ = [
    "Beside",
    "Carried",
    "SettlerParts",
    "id_of",
    "no_longer_ours",
    "of_flows",
    "without",
]

_log = logging.getLogger(__name__)

ASKING_LEASE = 6.0
"""Seconds that a lease is extended by when it is asked whether it is still ours."""


class SettlerParts(Struct, frozen=True):
    """What a settler works with."""

    queue: MessageQueue
    storage: TaskStorage
    locks: TaskLocks
    flows: FlowKeeper | None
    projector: Projector
    parking: Parking
    """What takes long here may be on its way from the queue to the storage."""
    call_limit: float
    """Seconds before a call that hangs is given up and repeated."""
    clock: Clock
    horizon: timedelta
    executor_of: Callable[[Task[Any]], Executor | None]
    add_children: Callable[[Sequence[Task[Any]]], Awaitable[Any]]
    """Adds children where queue and storage are two things; safe to repeat."""
    announcing: Callable[
        [Sequence[Task[Any]], Callable[[Task[Any]], Executor | None], Sequence[str]],
        AbstractAsyncContextManager[Callable[[Sequence[Task[Any]]], None]],
    ]
    """Around adding them where they are one: tells that they are scheduled, before they start."""
    settling: Callable[[Sequence[Verdict]], AbstractContextManager[None]]
    """Around all of a settle: keeps what is told about a task in order."""
    report: Callable[[Sequence[Verdict], Sequence[Verdict]], Awaitable[None]]
    """Hears of verdicts that were carried out, and of those that were fenced."""
    report_flows: Callable[[Sequence[FlowNews]], Awaitable[None]]
    """Hears of flows whose join was handed over."""
    on_settled: Callable[[], None]
    """Called when deliveries are off this worker's hands: there is room for more."""


class Carried(NamedTuple):
    """What a settle came to."""

    fenced: set[str]
    """Ids whose delivery was no longer ours."""
    news: list[FlowNews]


class Beside:
    """What a settle writes beside the storage: steps on a barrier, rows of projections.

    Nothing where these share the storage's own transaction. All of it is safe to repeat.
    """

    def __init__(self, parts: SettlerParts, *, integrated: bool) -> None:
        flows, projector = parts.flows, parts.projector
        own_flows = integrated and flows is not None and flows.integrated
        own_rows = integrated and projector.integrated(parts.storage)
        self._integrated = integrated
        self._projector = projector
        self._flows = None if own_flows else flows
        self._missing = flows is None
        self._tells_tasks = projector.wanted and not own_rows
        self._tells_flows = projector.wanted and not (own_rows and own_flows)

    def concerns(self, verdicts: Sequence[Verdict]) -> bool:
        """Whether there is anything to write."""
        if self._tells_tasks:
            return True
        beside = self._flows is not None or self._missing or self._tells_flows
        return beside and of_flows(verdicts)

    async def write(self, verdicts: Sequence[Verdict], steps: Steps) -> list[FlowNews]:
        """Everything; returns the flows whose join was handed over.

        Flows are opened before a step of theirs exists, and rows of what is added are written
        before a queue has it.
        """
        flows = self._flows
        started = [flow for v in verdicts for flow in v.outcome.flows]
        if flows is not None and started:
            await steps.once("open flows", lambda: flows.open(started))
        news = await self._count(verdicts, steps)
        if rows := self._rows(verdicts, started, news):
            await steps.once("project", lambda: self._projector.write(rows))
        return news

    async def tell_ended(self, news: Sequence[FlowNews]) -> None:
        """Write the rows of flows that were found to end in the storage's own transaction."""
        if self._tells_flows and (rows := self._projector.flows_ended(news)):
            await self._projector.write(rows)

    async def _count(self, verdicts: Sequence[Verdict], steps: Steps) -> list[FlowNews]:
        flows = self._flows
        if flows is None and not self._missing:
            return []
        ends = step_ends(v.ending for v in verdicts if v.ending is not None)
        if ends and flows is not None:
            return await steps.once("count", lambda: flows.count(ends))
        if ends:
            _log.error(
                "%d steps of flows ended on a worker without a flow_barrier: nobody counts "
                "them. Give it the barrier that their flows were started with",
                len(ends),
            )
        return []

    def _rows(
        self, verdicts: Sequence[Verdict], started: Sequence[NewFlow], news: Sequence[FlowNews]
    ) -> list[EntityTaskProjection]:
        rows: list[EntityTaskProjection] = []
        if self._tells_flows:
            rows += self._projector.flows_started(started)
        if self._tells_tasks:
            if self._integrated:  # elsewhere, whoever adds them writes them
                children = [child for v in verdicts for child in v.outcome.children]
                rows += self._projector.added(children)
            rows += self._projector.ended(verdicts)
        if self._tells_flows:
            rows += self._projector.flows_ended(news)
        return rows


async def no_longer_ours(queue: MessageQueue, ask: list[Delivery]) -> set[str]:
    """The ids of deliveries whose lease is gone; it asks by extending them."""
    lost = await queue.extend(ask, ASKING_LEASE) if ask else []
    return {delivery.task.id for delivery in lost}


def of_flows(verdicts: Sequence[Verdict]) -> bool:
    """Whether any of these is part of a flow or starts one."""
    return any(
        v.outcome.delivery.task.metadata.flow is not None or v.outcome.flows for v in verdicts
    )


def without(verdicts: list[Verdict], fenced: set[str]) -> list[Verdict]:
    """Those that are not fenced."""
    return [v for v in verdicts if id_of(v) not in fenced] if fenced else verdicts


def id_of(verdict: Verdict) -> str:
    """The id of its task."""
    return verdict.outcome.delivery.task.id
