"""The consumer: claims a queue's due tasks and brings them to their lanes, never too many."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from taskloom.clock import Clock
from taskloom.errors import UnavailableError
from taskloom.interfaces.message_queue import MessageQueue
from taskloom.interfaces.task_storage import TaskStorage
from taskloom.lanes import Lane
from taskloom.leases import Claim, Keeper
from taskloom.outage import Outage
from taskloom.outcomes import Delivery, Ending, Outcome, Settlement, UnreadableRecord, Word
from taskloom.runner import TaskRunner
from taskloom.settlement import lives_used
from taskloom.task import Task, TaskStatus

__all__ = ["Consumer", "ConsumerParts", "Intake"]

_log = logging.getLogger(__name__)

LOOK_AHEAD = 1.0
"""Seconds of work that a lane may hold beyond what it runs."""
MOST_IN_HAND = 1000
POLL = 1.0
"""Longest wait for a task in one claim call, in seconds."""
SHED_DELAY = 1.0
"""Seconds before a task that a lane gave up for want of room is due again."""
QUEUE_LENGTH = 20
QUEUE_STEP = 0.05
"""Seconds between tasks that were with a worker which died, and that now run one at a time."""
LOCAL_POLL = 0.05
"""Longest pause between two looks of a consumer that does not wait in the engine, in seconds."""


class ConsumerParts(Struct, frozen=True):
    """What a consumer works with."""

    queue: MessageQueue
    storage: TaskStorage
    runner: TaskRunner
    worker_id: str
    keeper: Keeper
    clock: Clock
    max_deliveries: int
    settle: Callable[[Outcome, Claim], None]
    on_first_delivery: Callable[[str], Awaitable[None]]
    on_empty: Callable[[], None]
    on_claim: Callable[[Claim, Sequence[Delivery]], Awaitable[None]]
    on_start: Callable[[Sequence[Delivery]], Awaitable[None]]
    """Called with what is about to go to the lanes."""
    on_ended: Callable[[Sequence[Task[Any]]], Awaitable[None]]
    """Called with tasks that had ended in the storage already, before they are acknowledged."""


class Intake:
    """One claim call, from the queue to the lanes: what every way of consuming shares."""

    def __init__(self, parts: ConsumerParts) -> None:
        self._parts = parts

    async def claim(self, queue_id: str, limit: int, *, wait: float = 0.0) -> Claim:
        """Claim, hold the leases, sort out what cannot run, feed the lanes.

        Raises `QueueUnavailableError` or `TimeoutError`. Cancelling it loses no task: what was
        claimed and not fed is released.
        """
        parts = self._parts
        since = parts.clock.monotonic()
        async with asyncio.timeout(wait + parts.keeper.call_limit):
            records = await parts.queue.claim(queue_id, limit, lease=parts.keeper.lease, wait=wait)
        deliveries = [record for record in records if isinstance(record, Delivery)]
        claim = Claim(queue_id, deliveries, parts.keeper.trust(since), parts.settle)
        if deliveries:
            parts.keeper.hold(claim, since)
            await self._feed(claim, deliveries)
        # Last, so that whatever becomes of it, the tasks are on their way.
        if len(deliveries) < len(records):
            await self._set_aside([r for r in records if isinstance(r, UnreadableRecord)])
        return claim

    async def _feed(self, claim: Claim, deliveries: list[Delivery]) -> None:
        parts = self._parts
        left = self._without_poison(claim, deliveries)
        try:
            left = await self._still_ours(claim, left)
            await parts.on_claim(claim, deliveries)
            async with asyncio.timeout(parts.keeper.call_limit):
                left = await self._without_crowd(claim, left)
                left = await self._with_rows(claim, left)
            await parts.on_start(left)  # a slow listener is nobody's time-out
            async with asyncio.timeout(parts.keeper.call_limit):
                await parts.runner.start(claim.queue_id, left, claim)
            left = []
        except (UnavailableError, TimeoutError) as error:
            _log.warning("cache or storage did not answer (%s); tasks are released", error)
        finally:
            for delivery in left:
                claim.ended(Outcome(delivery, Word.RELEASED, delay=SHED_DELAY))

    async def _still_ours(self, claim: Claim, deliveries: list[Delivery]) -> list[Delivery]:
        """Without those that went to another worker while the claim was on its way to us."""
        gone = await self._parts.keeper.confirm(claim)
        for delivery in deliveries:
            if delivery in gone:
                claim.ended(Outcome(delivery, Word.LOST))
        return [delivery for delivery in deliveries if delivery not in gone]

    def _without_poison(self, claim: Claim, deliveries: list[Delivery]) -> list[Delivery]:
        limit = self._parts.max_deliveries
        poison = [delivery for delivery in deliveries if lives_used(delivery) > limit]
        if not poison:
            return deliveries
        for delivery in poison:
            claim.ended(Outcome(delivery, Word.POISON))
        return [delivery for delivery in deliveries if lives_used(delivery) <= limit]

    async def _without_crowd(self, claim: Claim, deliveries: list[Delivery]) -> list[Delivery]:
        """Run those that were with a worker which died in ever smaller company.

        One of them may have killed it. Those before their last delivery run alone, so that the
        culprit is set aside and its neighbours are not. The others are released, which does not
        count as a delivery, before the first of them starts.
        """
        suspects = [d for d in deliveries if d.delivery_count > 1]
        if not suspects:
            return deliveries
        together = {d.delivery_count for d in suspects}
        room = {count: self._room_for(claim, count) for count in together}
        kept: list[Delivery] = []
        crowd: list[Delivery] = []
        for delivery in deliveries:
            count = delivery.delivery_count
            if count > 1:
                room[count] -= 1
            (crowd if count > 1 and room[count] < 0 else kept).append(delivery)
        if crowd:
            await self._queue_up(crowd)
            claim.close([delivery.task.id for delivery in crowd])
            claim.tally["released"] = len(crowd)
        return kept

    async def _queue_up(self, crowd: list[Delivery]) -> None:
        """Release suspects to come due one after the other, as each may be the one to run alone."""
        release = self._parts.queue.release
        queued = enumerate(crowd[:QUEUE_LENGTH], 1)
        calls = [release([delivery], delay=place * QUEUE_STEP) for place, delivery in queued]
        if rest := crowd[QUEUE_LENGTH:]:
            calls.append(release(rest, delay=QUEUE_LENGTH * QUEUE_STEP))
        await asyncio.gather(*calls)  # together: an engine may write them at once

    def _room_for(self, claim: Claim, count: int) -> int:
        """How many suspects on their delivery number `count` may start now."""
        lives = self._parts.max_deliveries - count
        company: int = 10 ** (lives - 1) if lives > 1 else 1
        in_hand = self._parts.keeper.deliveries(without=claim)
        return company - sum(d.delivery_count >= count for d in in_hand)

    async def _with_rows(self, claim: Claim, deliveries: list[Delivery]) -> list[Delivery]:
        """Lease the rows that a storage beside the queue has of these tasks.

        One that has ended there is not run again, unless a worker that had it died between the
        storage's write and the acknowledgement, perhaps before adding its children. The run that
        makes up for it does not expire.
        """
        stored = [d.task.id for d in deliveries if d.task.status is TaskStatus.QUEUED]
        going_on = self._stored_since(claim.queue_id, deliveries)
        if not (stored or going_on):
            return deliveries
        parts = self._parts
        if stored:
            rows = await parts.storage.take_over(stored, lease=parts.keeper.lease)
            claim.rows = {row.task.id: row for row in rows}
            deliveries = await self._without_outdated(claim, deliveries)
        missing = [*going_on, *(id for id in stored if id not in claim.rows)]
        if not missing:
            return deliveries
        known = {task.id: task for task in await parts.storage.get(missing)}
        # Not taken, and not over: they are looked at again.
        busy = {id for id, row in known.items() if not row.status.terminal}.difference(going_on)
        for delivery in [each for each in deliveries if each.task.id in busy]:
            claim.ended(Outcome(delivery, Word.RELEASED, delay=SHED_DELAY))
        deliveries = [each for each in deliveries if each.task.id not in busy]
        over = [d for d in deliveries if (row := known.get(d.task.id)) and not _may_owe(row, d)]
        if over:
            rows_over = [known[delivery.task.id] for delivery in over]
            await parts.on_ended([row for row in rows_over if row.status.terminal])
            await parts.queue.ack(over)
            claim.close([delivery.task.id for delivery in over])
        return [
            claim.replace(delivery, expires_at=None) if delivery.task.id in known else delivery
            for delivery in deliveries
            if delivery.task.id in claim.open
        ]

    async def _without_outdated(self, claim: Claim, deliveries: list[Delivery]) -> list[Delivery]:
        """Acknowledge what a queue has of an attempt before the one that its row is at.

        The row goes on from where it was: that attempt is on its way, or waits for its time.
        """
        rows = claim.rows
        old = [
            d
            for d in deliveries
            if (row := rows.get(d.task.id)) and row.task.retry_count > d.task.retry_count
        ]
        if not old:
            return deliveries
        taken = [rows[delivery.task.id] for delivery in old]
        scheduled = [replace(row.task, status=TaskStatus.SCHEDULED) for row in taken]
        pairs = zip(taken, scheduled, strict=True)
        endings = tuple(Ending(row, TaskStatus.SCHEDULED, next=task) for row, task in pairs)
        await self._parts.storage.settle(Settlement(endings))
        await self._parts.queue.ack(old)
        claim.close([delivery.task.id for delivery in old])
        return [delivery for delivery in deliveries if delivery.task.id in claim.open]

    def _stored_since(self, queue_id: str, deliveries: list[Delivery]) -> list[str]:
        """Which the storage may know by now, although they were put without a row.

        They were handed off, or failed and wait there, and others of their shard keep its
        checkpoint back. If there is a row, it says how the task goes on.
        """
        if self._parts.queue.features_of(queue_id).single_ack:
            return []
        again = [d.task for d in deliveries if d.delivery_count > 1]
        return [task.id for task in again if task.status is not TaskStatus.QUEUED]

    async def _set_aside(self, records: list[UnreadableRecord]) -> None:
        for record in records:
            _log.warning(
                "a record of queue %s is not a task (%s); it is set aside with its %d bytes",
                record.queue_id,
                record.reason,
                len(record.raw),
            )
        try:
            async with asyncio.timeout(self._parts.keeper.call_limit):
                await self._parts.storage.set_aside(records)
                await self._parts.queue.ack(records)
        except (UnavailableError, TimeoutError) as error:
            # Not acknowledged: it comes again after its lease, with its bytes.
            _log.warning("%d records could not be set aside yet: %s", len(records), error)


def _may_owe(task: Task[Any], delivery: Delivery) -> bool:
    """Whether an ended task ran, and so may have children that are not added yet.

    Not on a first delivery: it was put again late, and whoever ran it adds what follows.
    """
    ran = task.status in (TaskStatus.EXECUTED, TaskStatus.FAILED)
    return ran and "poison" not in task.execution_stats and delivery.delivery_count > 1


class Consumer:
    """Claims one queue until stopped: up to what its lanes can soon run.

    A consumer that does not wait (`waits=False`) looks again when something was settled here, and
    often; no call of its is under way while it is quiet. That is how a queue is drained.
    """

    def __init__(self, queue_id: str, parts: ConsumerParts, *, waits: bool = True) -> None:
        self.queue_id = queue_id
        self._waits = waits
        self._empty = False
        self._parts = parts
        self._intake = Intake(parts)
        self._pace = Pace(parts.clock)
        self._outage = Outage(f"claiming from {queue_id!r}", parts.clock)
        self._ended = asyncio.Event()
        self._started = False
        self._looked_at = parts.clock.monotonic()

    @property
    def quiet(self) -> bool:
        """Nothing was due since something was last settled, and nothing of the queue is held."""
        return self._empty and not self._parts.keeper.held(self.queue_id)

    def nudge(self) -> None:
        """Something was settled: there may be room for more, and more to do."""
        self._empty = False
        self._ended.set()

    async def run(self) -> None:
        """Claim and feed until cancelled. What is in the lanes stays there."""
        consumer_id = f"{self._parts.worker_id}:{self.queue_id}"
        async with self._parts.queue.connection(self.queue_id, consumer_id):
            await self._run()

    async def _run(self) -> None:
        while True:
            self._ended.clear()
            self._shed()
            room = self._room()
            if room <= 0:
                await self._wait_for_room()
                continue
            try:
                await self._claim(room)
                self._outage.over()
            except (UnavailableError, TimeoutError) as error:
                await self._outage.wait(error)
            except Exception as error:
                _log.exception("claiming from %r failed", self.queue_id)
                await self._outage.wait(error)

    async def _claim(self, room: int) -> None:
        parts = self._parts
        self._empty = False
        claim = await self._intake.claim(self.queue_id, room)
        if not claim.size:
            self._empty = True
            parts.on_empty()
            if not self._waits:
                await self._wait_for_room(LOCAL_POLL)
                return
            # Waiting may take part of the lease's trust, which counts from the start of the call.
            wait = min(POLL, parts.keeper.lease / 3)
            claim = await self._intake.claim(self.queue_id, room, wait=wait)
        if claim.size:
            self._empty = False
            if not self._started:
                self._started = True
                await parts.on_first_delivery(self.queue_id)
            # One turn of the loop for the lanes before the next claim.
            await asyncio.sleep(0)

    def _room(self) -> int:
        """How many deliveries to claim now; 0 while enough is in hand.

        A lane wants what it can run at once, plus about a second of work ahead at the pace it has
        shown. It is filled again when half of what it had ahead is gone, so that claims are large.
        """
        lanes = self._parts.runner.lanes(self.queue_id)
        if not lanes:
            return 100  # no executor: tasks are claimed only to be marked as ignored
        room = 0
        for lane in lanes:
            ahead = self._pace.ahead(lane)
            if lane.in_hand < lane.executor.slots + ahead / 2:
                room += lane.executor.slots + ahead - lane.in_hand
        unsettled = self._parts.keeper.held(self.queue_id)
        unsettled -= self._parts.runner.handed_off(self.queue_id)
        return min(room, MOST_IN_HAND, 2 * MOST_IN_HAND - unsettled)

    async def _wait_for_room(self, limit: float = LOOK_AHEAD) -> None:
        """Wait until something ended; look after a while anyhow."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit):
                await self._ended.wait()

    def _shed(self) -> None:
        """About once a second: give up what a slow lane holds too much of.

        Another worker can start it, and this one sees what else is in the queue.
        """
        now = self._parts.clock.monotonic()
        if now - self._looked_at < LOOK_AHEAD:
            return
        if not self._parts.queue.features_of(self.queue_id).delay:
            return
        self._looked_at = now
        for lane in self._parts.runner.lanes(self.queue_id):
            for delivery, holder in lane.shed(lane.executor.slots + 2 * self._pace.ahead(lane)):
                holder.ended(Outcome(delivery, Word.RELEASED, delay=SHED_DELAY))


class Pace:
    """How many tasks each lane ends in a second, measured over the last one."""

    def __init__(self, clock: Clock) -> None:
        self._now = clock.monotonic
        self._marks: dict[int, tuple[Lane, float, int, float]] = {}

    def ahead(self, lane: Lane) -> int:
        """How many tasks the lane may hold beyond its slots."""
        now = self._now()
        known = self._marks.get(id(lane))
        if known is None or known[0] is not lane:
            self._marks[id(lane)] = (lane, now, lane.finished, 0.0)
            return 0
        _, since, finished, rate = known
        elapsed, done = now - since, lane.finished - finished
        if elapsed >= LOOK_AHEAD or (done >= lane.executor.slots and elapsed > 0):
            rate = done / elapsed
            self._marks[id(lane)] = (lane, now, lane.finished, rate)
        return min(MOST_IN_HAND, int(rate * LOOK_AHEAD))
