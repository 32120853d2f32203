"""The worker: consumers, lease keeping and upkeep running together, and how they stop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from datetime import timedelta
from typing import Any

from msgspec import Struct

from taskloom.books import Books
from taskloom.carrying import SettlerParts
from taskloom.clock import seconds
from taskloom.config import TaskHandlerConfig
from taskloom.consumer import Consumer, ConsumerParts, Intake
from taskloom.errors import ConfigurationError
from taskloom.executors import Executor
from taskloom.flow_keeper import FlowKeeper
from taskloom.flow_reporter import FlowReporter
from taskloom.interfaces.cache import Cache
from taskloom.interfaces.message_queue import MessageQueue
from taskloom.interfaces.task_storage import TaskStorage
from taskloom.leases import Claim, Keeper
from taskloom.listeners import Listeners
from taskloom.maturity import Maturity
from taskloom.outcomes import Delivery, Word
from taskloom.parking import Parking
from taskloom.projector import Projector
from taskloom.pulse import Pulse
from taskloom.reporter import Reporter
from taskloom.runner import TaskRunner
from taskloom.settler import Settler
from taskloom.stats import Figures
from taskloom.task import Task
from taskloom.waiting import to_the_end, until, within
from taskloom.watchdog import LoopWatchdog

__all__ = ["Worker", "WorkerParts"]

_log = logging.getLogger(__name__)

INLINE_BATCH = 1000
SETTLE_LIMIT = 5.0
"""Seconds that settling may take at shutdown beyond the grace period."""


class WorkerParts(Struct, frozen=True):
    """What a worker is made of."""

    queue: MessageQueue
    storage: TaskStorage
    cache: Cache
    runner: TaskRunner
    maturity: Maturity
    listeners: Listeners
    reporter: Reporter
    projector: Projector
    flows: FlowKeeper | None
    flow_reporter: FlowReporter
    config: TaskHandlerConfig
    worker_id: str
    executor_of: Callable[[Task[Any]], Executor | None]
    add_children: Callable[[Sequence[Task[Any]]], Awaitable[Any]]


class Worker:
    """Everything of a handler that runs by itself."""

    def __init__(self, parts: WorkerParts) -> None:
        self._parts = parts
        config, clock = parts.config, parts.config.clock
        self.figures = Figures(
            config.instance_id or parts.worker_id,
            threshold=config.stats_threshold,
            failure_threshold=config.stats_failure_threshold,
        )
        lease = seconds(config.lease, "lease")
        self._grace = seconds(config.shutdown_grace_period, "shutdown_grace_period")
        self._keeper = Keeper(
            parts.queue,
            parts.storage,
            lease,
            clock,
            self._on_lost,
            parts.runner.locks.renew,
            lambda: self._settler.being_settled() | self._parking.being_parked(),
        )
        self._pulse = Pulse(
            parts.worker_id,
            parts.listeners,
            parts.storage,
            parts.runner.running_ids,
            self.figures,
            config,
        )
        self._books = Books(
            self.figures,
            parts.reporter,
            parts.listeners,
            parts.executor_of,
            parts.cache,
            clock,
            parts.flow_reporter,
        )
        self._parking = Parking(parts.queue, parts.storage, self._keeper, clock)
        self._settler = Settler(
            SettlerParts(
                queue=parts.queue,
                storage=parts.storage,
                locks=parts.runner.locks,
                flows=parts.flows,
                projector=parts.projector,
                parking=self._parking,
                call_limit=self._keeper.call_limit,
                clock=clock,
                horizon=timedelta(seconds=seconds(config.storage_horizon, "storage_horizon")),
                executor_of=parts.executor_of,
                add_children=parts.add_children,
                announcing=parts.reporter.announcing,
                settling=parts.reporter.settling,
                report=self._books.report,
                report_flows=parts.flow_reporter.ended,
                on_settled=self._on_settled,
            )
        )
        self._consuming = ConsumerParts(
            queue=parts.queue,
            storage=parts.storage,
            runner=parts.runner,
            worker_id=parts.worker_id,
            keeper=self._keeper,
            clock=clock,
            max_deliveries=config.max_deliveries,
            settle=self._settler.add,
            on_first_delivery=self._pulse.consumer_started,
            on_empty=self._made_progress,
            on_claim=self._on_claim,
            on_start=self._on_start,
            on_ended=self._on_ended,
        )
        self._intake = Intake(self._consuming)
        self._consumers: dict[str, Consumer] = {}
        parts.runner.handoff_listeners.append(self._on_handed_off)
        self._progress = asyncio.Event()
        self._news = asyncio.Event()
        self._serving: set[asyncio.Task[Any]] = set()
        self._closing = asyncio.Event()
        self._inline = asyncio.Lock()
        self._background: set[asyncio.Task[Any]] = set()

    # Serving

    async def serve(self, queues: list[str], stop: asyncio.Event, *, upkeep: bool = True) -> None:
        """Consume `queues` until `stop`, then shut down in order; cancelled: without grace."""
        me = asyncio.current_task()
        assert me is not None
        self._serving.add(me)
        watchdog = LoopWatchdog()
        watchdog.start()
        hurry, reason = asyncio.Event(), "error"
        tasks: list[asyncio.Task[None]] = []
        try:
            await self._pulse.started(queues)
            tasks = self._start(queues, upkeep=upkeep)
            await until((stop, self._closing), tasks)
            reason = "stopped"
        except asyncio.CancelledError:
            hurry.set()
            reason = "cancelled"
            raise
        finally:
            try:
                await to_the_end(self._shut_down(queues, tasks, hurry, reason), hurry)
            finally:  # cancelled again meanwhile, it says so only now
                watchdog.stop()
                self._serving.discard(me)

    def _start(self, queues: list[str], *, upkeep: bool) -> list[asyncio.Task[None]]:
        tasks = self._start_consumers(queues)
        tasks.append(asyncio.create_task(self._pulse.run(), name="taskloom-heartbeat"))
        if upkeep:
            run = self._parts.maturity.run()
            tasks.append(asyncio.create_task(run, name="taskloom-upkeep"))
        return tasks

    def _start_consumers(
        self, queues: list[str], *, waits: bool = True
    ) -> list[asyncio.Task[None]]:
        for queue_id in queues:
            if queue_id in self._consumers:
                raise ConfigurationError(f"queue {queue_id!r} is consumed by this handler already")
        self._keeper.use()
        tasks = []
        for queue_id in queues:
            consumer = self._consumers[queue_id] = Consumer(queue_id, self._consuming, waits=waits)
            tasks.append(asyncio.create_task(consumer.run(), name=f"taskloom-{queue_id}"))
        return tasks

    async def _shut_down(
        self,
        queues: list[str],
        tasks: list[asyncio.Task[None]],
        hurry: asyncio.Event,
        reason: str,
    ) -> None:
        """No more claims; unstarted work released; running work ended, settled; events told."""
        await self._stop_consumers(queues, tasks, self._grace, hurry)
        await self._pulse.stopped(reason)
        await self._books.tell_final_stats()
        await self._parts.listeners.flush(1.0 if hurry.is_set() else 5.0)

    async def _stop_consumers(
        self,
        queues: list[str],
        tasks: list[asyncio.Task[None]],
        grace: float,
        hurry: asyncio.Event,
    ) -> None:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._parts.runner.stop(queues, grace, hurry)
        if not await within(self._settler.join(), 1.0 if hurry.is_set() else SETTLE_LIMIT):
            _log.warning("what ended last could not be settled; it runs again after its lease")
        for queue_id in queues:
            self._consumers.pop(queue_id, None)
        self._keeper.leave()

    def open(self) -> None:
        """Be ready (again)."""
        self._closing.clear()
        self._parts.listeners.open()

    async def close(self) -> None:
        """Stop what serves and wait for it; settle; deliver events. Safe to repeat."""
        self._closing.set()
        if self._serving:
            await asyncio.wait(self._serving)
        await self._end_handed_off()
        await within(self._settler.join(), SETTLE_LIMIT)
        await within(self._parts.projector.join(), SETTLE_LIMIT)
        if self._background:
            await asyncio.wait(self._background, timeout=1.0)
        self._parts.runner.close()
        if self.figures.untold:
            await self._books.tell_final_stats()
        await self._parts.listeners.close()

    async def _end_handed_off(self) -> None:
        """End what `process` has left running, as a worker that stops does."""
        runner = self._parts.runner
        if runner.handed_off_ids():
            grace, hurry = self._grace, asyncio.Event()
            await to_the_end(runner.stop(runner.queues(), grace, hurry), hurry)

    async def run_until(self, work: Coroutine[Any, Any, None], stop: asyncio.Event) -> None:
        """Run something endless until `stop`."""
        task = asyncio.create_task(work)
        try:
            await until((stop, self._closing), [task])
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    # Working without serving

    async def process(self, queue_id: str, limit: int) -> Claim:
        """Claim once, run, settle; returns the claim with its tally.

        What is still open then was handed off: it goes on, under its lease, and is settled when it
        ends, or ended by `close`.
        """
        self._keeper.use()
        claim = None
        try:
            claim = await self._intake.claim(queue_id, limit)
            await self._wait_attended(claim)
            if claim.open:
                self._see_off(claim)
        except BaseException:
            if claim is not None:
                self._parts.runner.withdraw(list(claim.open.values()), Word.RELEASED)
                await to_the_end(within(claim.wait_settled(), SETTLE_LIMIT), asyncio.Event())
            raise
        finally:
            self._keeper.leave()
        return claim

    async def _wait_attended(self, claim: Claim) -> None:
        """Return when what is not settled of `claim` was handed off."""
        while not claim.open.keys() <= self._parts.runner.handed_off_ids():
            await self._news.wait()

    def _see_off(self, claim: Claim) -> None:
        """Keep the leases of `claim` until all of it is settled."""

        async def keep() -> None:
            await claim.wait_settled()
            self._keeper.leave()

        self._keeper.use()
        task = asyncio.create_task(keep(), name="taskloom-handed-off")
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def run_inline(self, queue_ids: Iterable[str]) -> None:
        """Run what waits in these queues, and what that adds, before returning."""
        pending = set(queue_ids)
        async with self._inline:
            while pending:
                busy = {q for q in pending if await self._process_all(q)}
                pending = busy | (set(self._parts.runner.queues()) if busy else set())

    async def _process_all(self, queue_id: str) -> int:
        """As `process`, but waits for what was handed off; returns how many were claimed."""
        claim = await self.process(queue_id, INLINE_BATCH)
        await claim.wait_settled()
        return claim.size

    async def drain(self, queues: list[str], timeout: float | None) -> None:
        """Process `queues` until nothing is due, nothing runs and nothing waits to be settled."""
        own = [queue_id for queue_id in queues if queue_id not in self._consumers]
        tasks = self._start_consumers(own, waits=False)
        hurry = asyncio.Event()
        try:
            async with asyncio.timeout(timeout):
                while not await self._is_drained(queues):
                    await self._progress.wait()
        except BaseException:
            hurry.set()
            raise
        finally:
            await to_the_end(self._stop_consumers(own, tasks, 0.0, hurry), hurry)

    async def _is_drained(self, queues: list[str]) -> bool:
        self._progress.clear()
        if not all(self._consumers[queue_id].quiet for queue_id in queues):
            return False
        moved = await self._parts.maturity.one_pass()
        waiting = [await self._parts.queue.depth(queue_id) for queue_id in queues]
        if moved or any(waiting):
            return False
        return all(self._consumers[queue_id].quiet for queue_id in queues)

    # What the rooms tell

    async def _on_ended(self, tasks: Sequence[Task[Any]]) -> None:
        """Whoever ended them died before that was told, or could not tell it."""
        parts = self._parts
        if parts.flows is not None:
            await parts.flow_reporter.found_ended(await parts.flows.count_ended(tasks))
        await parts.projector.write(parts.projector.found_ended(tasks))

    async def _on_claim(self, claim: Claim, deliveries: Sequence[Delivery]) -> None:
        if self._pulse.wants_batches:
            await self._pulse.claim_started(claim, sorted({d.task.type for d in deliveries}))
            task = asyncio.create_task(self._follow(claim))
            self._background.add(task)
            task.add_done_callback(self._background.discard)

    async def _on_start(self, deliveries: Sequence[Delivery]) -> None:
        projector, executor_of = self._parts.projector, self._parts.executor_of
        if rows := projector.starting(deliveries, lambda task: executor_of(task) is not None):
            await projector.write(rows)

    async def _follow(self, claim: Claim) -> None:
        started = self._parts.config.clock.monotonic()
        await claim.wait_settled()
        await self._pulse.claim_completed(claim, self._parts.config.clock.monotonic() - started)

    def _on_lost(self, claim: Claim, deliveries: Sequence[Delivery]) -> None:
        _log.warning(
            "the leases of %d tasks of queue %r were lost; what they still report is refused",
            len(deliveries),
            claim.queue_id,
        )
        self._parts.runner.withdraw(deliveries, Word.LOST)

    def _on_settled(self) -> None:
        for consumer in self._consumers.values():
            consumer.nudge()
        self._progress.set()
        self._news.set()  # wakes all who wait for it, once
        self._news = asyncio.Event()

    def _on_handed_off(self, delivery: Delivery, holder: object) -> None:
        self.figures.count_handed_off(delivery.task.queue_id)
        features = self._parts.queue.features_of(delivery.task.queue_id)
        if isinstance(holder, Claim) and not features.single_ack:
            self._parking.add(delivery, holder)
        self._on_settled()  # a lane has room, and a claim may have nothing left to wait for

    def _made_progress(self) -> None:
        self._progress.set()
