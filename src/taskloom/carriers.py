"""Carriers: the engine calls of one settle, in an order that is safe to repeat.

Where the storage is the queue, one transaction does it all. Beside a separate queue it takes steps:
storage, then flows and projections, then children, then the queue; the acknowledgement is the last
write.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from msgspec.structs import replace

from taskloom.carrying import Beside, Carried, SettlerParts, id_of, no_longer_ours, without
from taskloom.flows import join_id
from taskloom.interfaces.flow_barrier import FlowNews
from taskloom.interfaces.message_queue import MessageQueue
from taskloom.outcomes import Delivery, Ending, Outcome, Settlement, Word
from taskloom.settlement import Verdict
from taskloom.steps import Steps
from taskloom.task import Task, TaskStatus

__all__ = ["Carrier", "SteppedCarrier", "WholeCarrier"]


class Carrier(Protocol):
    """Carries verdicts out."""

    async def carry_out(
        self,
        verdicts: Sequence[Verdict],
        rows: dict[str, Delivery],
        doubtful: set[str],
        steps: Steps,
    ) -> Carried:
        """Write everything.

        `rows` are the leases on rows of a storage beside the queue; `doubtful` the ids whose lease
        may have run out. Raises `UnavailableError`; repeat it with the same `steps`.
        """
        ...


class WholeCarrier:
    """The storage is the queue, or all that holds these tasks: outcomes, children and
    acknowledgement are one write.

    So are flows and projections that share its transactions. Those that do not are written before
    it, for it is the acknowledgement.
    """

    def __init__(self, parts: SettlerParts) -> None:
        self._parts = parts
        self._beside = Beside(parts, integrated=True)
        self._attaches = parts.projector.integrated(parts.storage)

    async def carry_out(
        self,
        verdicts: Sequence[Verdict],
        rows: dict[str, Delivery],
        doubtful: set[str],
        steps: Steps,
    ) -> Carried:
        await _release(self._parts.queue, verdicts, steps)
        told = [verdict for verdict in verdicts if verdict.ending is not None]
        if not told:
            return Carried(set(), [])
        if not self._beside.concerns(told):
            return await self._settle(told)
        fenced: set[str] = set()
        if doubtful:
            asking = [v.outcome.delivery for v in told if id_of(v) in doubtful]
            fenced = await steps.once("ask", lambda: no_longer_ours(self._parts.queue, asking))
        told = without(told, fenced)
        news = await self._beside.write(told, steps)
        settled = await self._settle(told)
        return Carried(fenced | settled.fenced, news + settled.news)

    async def _settle(self, verdicts: list[Verdict]) -> Carried:
        if self._attaches:
            verdicts = [self._parts.projector.attached(verdict) for verdict in verdicts]
        endings = tuple(v.ending for v in verdicts if v.ending is not None)
        plan = Settlement(endings, projecting=self._attaches)
        parents = [ending for ending in endings if ending.children]
        joins = self._joins(verdicts)
        if not (parents or joins):
            return Carried(set(await self._parts.storage.settle(plan)), [])
        children = [child for ending in parents for child in ending.children]
        async with self._parts.announcing(children, self._parts.executor_of, joins) as announce:
            carried = await self._write(plan, with_flows=bool(joins))
            for ending in parents:
                if ending.delivery.task.id not in carried.fenced:
                    announce(ending.children)
            announce([each.join for each in carried.news])
        await self._beside.tell_ended(carried.news)
        return carried

    def _joins(self, verdicts: list[Verdict]) -> list[str]:
        """The ids of joins that may be handed over in the same transaction."""
        if self._parts.flows is None or not self._parts.flows.integrated:
            return []
        metas = [v.outcome.delivery.task.metadata.flow for v in verdicts]
        flows = {meta.flow_id for meta in metas if meta is not None}
        flows |= {flow.flow_id for v in verdicts for flow in v.outcome.flows}
        return [join_id(flow_id) for flow_id in flows]

    async def _write(self, plan: Settlement, *, with_flows: bool) -> Carried:
        if with_flows:
            assert self._parts.flows is not None, "there are joins only with a barrier"
            settled = await self._parts.flows.barrier.settle(plan)
            return Carried(set(settled.refused), settled.news)
        return Carried(set(await self._parts.storage.settle(plan)), [])


class SteppedCarrier:
    """A storage beside the queue."""

    def __init__(self, parts: SettlerParts) -> None:
        self._parts = parts
        self._queue = parts.queue
        self._storage = parts.storage
        self._beside = Beside(parts, integrated=False)

    async def carry_out(
        self,
        verdicts: Sequence[Verdict],
        rows: dict[str, Delivery],
        doubtful: set[str],
        steps: Steps,
    ) -> Carried:
        if rows:
            await self._give_rows_back(verdicts, rows, steps)
        await _release(self._queue, verdicts, steps)
        kept = [verdict for verdict in verdicts if not verdict.released]
        fenced: set[str] = set()
        if doubtful:
            fenced |= await steps.once("ask", lambda: self._no_longer_ours(kept, doubtful))
        fenced |= await self._store(without(kept, fenced), rows, steps)
        kept = without(kept, fenced)
        news: list[FlowNews] = []
        if self._beside.concerns(kept):
            news = await self._beside.write(kept, steps)
        if children := [child for v in kept for child in v.outcome.children]:
            await steps.once("children", lambda: self._parts.add_children(children))
        lost = await self._give_up(kept, steps)
        # What was written under the lease of its row stands, if the queue knows of it or not.
        return Carried(fenced | (lost - rows.keys()), news)

    async def _no_longer_ours(self, verdicts: list[Verdict], doubtful: set[str]) -> set[str]:
        """Before anything is written beside the queue: which leases are gone?

        A lease that can be trusted needs no question; the acknowledgement compares it anyway.
        """
        ask = [
            v.outcome.delivery
            for v in verdicts
            if id_of(v) in doubtful and (v.ending or v.outcome.children)
        ]
        return await no_longer_ours(self._queue, ask)

    async def _store(
        self, verdicts: list[Verdict], rows: dict[str, Delivery], steps: Steps
    ) -> set[str]:
        """Rows that we hold are written under their lease, others are made."""
        told = [v for v in verdicts if v.ending is not None]
        held = [v for v in told if id_of(v) in rows]
        new = tuple(v.ending for v in told if v.ending is not None and id_of(v) not in rows)
        if new:
            made = Settlement(new, fenced=False)
            await steps.once("new rows", lambda: self._storage.settle(made))
        if not held:
            return set()
        plan = Settlement(
            tuple(replace(v.ending, delivery=rows[id_of(v)]) for v in held if v.ending is not None)
        )
        lost = set(await steps.once("rows", lambda: self._storage.settle(plan)))
        if lost:
            # Someone took the row over: they, or whoever comes next, shall get the task.
            fenced = [v.outcome.delivery for v in held if id_of(v) in lost]
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
            rows[id_of(v)] for v in verdicts if v.outcome.word is Word.RELEASED and id_of(v) in rows
        ]
        if held:
            endings = tuple(Ending(row, TaskStatus.QUEUED, next=_queued(row)) for row in held)
            await steps.once("rows back", lambda: self._storage.settle(Settlement(endings)))


async def _release(queue: MessageQueue, verdicts: Sequence[Verdict], steps: Steps) -> None:
    by_delay: dict[float, list[Delivery]] = {}
    for verdict in verdicts:
        outcome: Outcome = verdict.outcome
        if outcome.word is Word.RELEASED and verdict.ending is None:
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


def _queued(row: Delivery) -> Task[Any]:
    return replace(row.task, status=TaskStatus.QUEUED)
