"""TaskRunner: brings deliveries to their lanes, and what happens there to whoever claimed them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

import msgspec
from msgspec import UNSET, Struct

from taskloom.actions import RunSettings
from taskloom.admission import Admission
from taskloom.clock import seconds
from taskloom.config import TaskHandlerConfig, make_worker_id
from taskloom.flows import TIMEOUT_TYPE, NewFlow, flow_of_step
from taskloom.handoff import AsyncTaskManager
from taskloom.interfaces.cache import Cache
from taskloom.lane import cancelled_step
from taskloom.lanes import Holder, Job, Lane, LaneSettings, make_lane
from taskloom.lifecycle import TaskLifecycleProvider
from taskloom.listeners import Listeners
from taskloom.locks import TaskLocks
from taskloom.outcomes import Delivery, Outcome, Word
from taskloom.registry import TaskQueuesManager
from taskloom.reporter import Reporter
from taskloom.settlement import Circumstances, decide
from taskloom.task import Task

__all__ = ["RunResult", "TaskRunner"]

LOCKED_DELAY = 1.0
"""Seconds before a task whose lock is with another one is tried again."""
LOCK_PART = 0.9
ON_THE_WAY = 2.0
"""Seconds that a claim may take to bring its tasks to the lanes."""
MAX_THREADS = 1000
CANCEL_LIMIT = 1.0
"""Seconds a cancelled run gets to clean up after itself."""


class RunResult(Struct, frozen=True):
    """How a run of tasks ended, each list in the order they ended."""

    succeeded: list[Task[Any]]
    failed: list[Task[Any]]
    ignored: list[Task[Any]]
    """No executor is registered for them."""
    locked: list[Task[Any]]
    """Their lock is held elsewhere; they did not run."""
    new_tasks: list[Task[Any]]
    """What the tasks added, steps of flows included; nobody has put them anywhere yet."""
    flows: list[NewFlow]
    """Flows the tasks started; no barrier knows them yet."""
    handed_off: list[Task[Any]]
    """Still running, with the `AsyncTaskManager`; how they end is not told here."""


class TaskRunner:
    """Runs tasks through their executors: groups, locks, lanes. Writes nothing anywhere.

    The handler feeds it with deliveries; `run` is for using it without a queue or a storage.
    """

    def __init__(
        self,
        task_queues: TaskQueuesManager,
        cache: Cache,
        *,
        async_task_manager: AsyncTaskManager | None = None,
        lifecycle_provider: TaskLifecycleProvider | None = None,
        worker_id: str | None = None,
        config: TaskHandlerConfig | None = None,
        reporter: Reporter | None = None,
        lock_every_task: bool = True,
    ) -> None:
        self.config = config or TaskHandlerConfig()
        self.worker_id = worker_id or make_worker_id()
        self.admission = Admission(task_queues, self.config.clock)
        lease = seconds(self.config.lease, "lease")
        # It is taken a moment after the lease, and is to end before it: a task that is found again
        # after its worker's death must not find its own lock.
        ttl = lease * LOCK_PART
        self.locks = TaskLocks(cache, self.worker_id, ttl=ttl, every_task=lock_every_task)
        self._queues = task_queues
        self._reporter = reporter or Reporter(
            Listeners(lifecycle_provider, mode=self.config.lifecycle.mode),
            self.worker_id,
            self.config,
        )
        self._lanes: dict[tuple[str, str], Lane] = {}
        self._over: dict[str, tuple[str, float]] = {}
        """Flows that ended early a moment ago: why, and until when that is remembered."""
        self._replaced: list[tuple[str, Lane]] = []
        """Lanes whose executor was replaced while they had work, by queue."""
        self._threads: ThreadPoolExecutor | None = None
        self.handoff_listeners: list[Callable[[Delivery, Holder], None]] = []
        """Called with each delivery whose run was handed off: its lane has a free slot."""
        self._unlocking: set[asyncio.Task[None]] = set()
        self._settings = LaneSettings(
            RunSettings(
                worker_id=self.worker_id,
                max_children=self.config.max_children,
                max_depth=self.config.max_depth,
                admit=self.admission.admit,
                now=self.config.clock.now,
                has_barrier=self.config.flow_barrier is not None,
            ),
            self.config.clock,
            self._reporter,
            copy_context(),
            self._thread_pool,
            async_task_manager,
            self._tell_handed_off,
        )

    async def start(self, queue_id: str, deliveries: Sequence[Delivery], holder: Any) -> None:
        """Bring deliveries of one queue to their lanes; `holder` hears how each one ended.

        Those without an executor end at once as IGNORED, those locked elsewhere as RELEASED.
        """
        locked = await self.locks.take(deliveries)
        for delivery in locked:
            holder.ended(Outcome(delivery, Word.RELEASED, delay=LOCKED_DELAY))
        away = {delivery.task.id for delivery in locked}
        if self._over:
            away |= self._end_steps(deliveries, holder, away)
        groups: dict[str, list[Job]] = {}
        for delivery in deliveries:
            if not away or delivery.task.id not in away:
                groups.setdefault(delivery.task.type, []).append((delivery, holder))
        for task_type, jobs in groups.items():
            lane = self.lane(queue_id, task_type)
            if lane is not None:
                lane.feed(jobs)
                continue
            # A flow's sentinel needs no executor: that its time has come is all it has to say.
            word = Word.SUCCESS if task_type == TIMEOUT_TYPE else Word.IGNORED
            for delivery, _ in jobs:
                holder.ended(Outcome(delivery, word))

    def _end_steps(self, deliveries: Sequence[Delivery], holder: Any, away: set[str]) -> set[str]:
        """End steps whose flow is over; their ids."""
        now, ended = self.config.clock.monotonic(), set[str]()
        for delivery in deliveries:
            reason, until = self._over.get(flow_of_step(delivery.task) or "", ("", 0.0))
            if until > now and delivery.task.id not in away:
                holder.ended(cancelled_step(delivery, reason))
                ended.add(delivery.task.id)
        return ended

    def lane(self, queue_id: str, task_type: str) -> Lane | None:
        """The lane of a type; None when it has no executor."""
        executor = self._queues.get_executor(queue_id, task_type)
        if executor is None:
            return None
        lane = self._lanes.get((queue_id, task_type))
        if lane is None or lane.executor is not executor:
            if lane is not None and (lane.waiting or lane.running):
                self._replaced.append((queue_id, lane))
            lane = self._lanes[queue_id, task_type] = make_lane(executor, self._settings)
        return lane

    def lanes(self, queue_id: str | None = None) -> list[Lane]:
        """The lanes of one queue (with those of types that have not come yet), or all there are."""
        if queue_id is None:
            return [lane for _, lane in self._all()]
        types = self._queues.get_task_types_for_queue(queue_id)
        return [lane for name in types if (lane := self.lane(queue_id, name)) is not None]

    def _all(self) -> list[tuple[str, Lane]]:
        """Every lane that may have work, with its queue."""
        self._replaced = [(id, lane) for id, lane in self._replaced if lane.waiting or lane.running]
        return [*((id, lane) for (id, _), lane in self._lanes.items()), *self._replaced]

    def handed_off(self, queue_id: str) -> int:
        """How many tasks of a queue are running outside their slots."""
        return sum(lane.running + len(lane.waiting) - lane.in_hand for lane in self.lanes(queue_id))

    def running_ids(self) -> list[str]:
        """The tasks that are with their executors now."""
        return [id for lane in self.lanes() for id in lane.running_ids()]

    def handed_off_ids(self) -> set[str]:
        """Those of the running tasks that were handed off."""
        return {id for lane in self.lanes() for id in lane.handed_off_ids()}

    def _tell_handed_off(self, delivery: Delivery, holder: Holder) -> None:
        for tell in self.handoff_listeners:
            tell(delivery, holder)

    def queues(self) -> list[str]:
        """The queues whose tasks can run here."""
        return self._queues.get_queues()

    def withdraw(self, deliveries: Iterable[Delivery], word: Word) -> None:
        """Take deliveries back out of the lanes: RELEASED, or LOST. What runs is cancelled."""
        gone = set(deliveries)
        for lane in self.lanes():
            lane.withdraw(gone, word)

    def cancel_steps(self, flows: Mapping[str, str]) -> None:
        """End what waits here of flows that have ended early: their ids, and why.

        So does what is on its way into the lanes just now.
        """
        now = self.config.clock.monotonic()
        self._over = {id: each for id, each in self._over.items() if each[1] > now}
        self._over |= {id: (reason, now + ON_THE_WAY) for id, reason in flows.items()}
        for lane in self.lanes():
            lane.cancel_steps(flows)

    async def stop(self, queues: Iterable[str], grace: float, hurry: asyncio.Event) -> None:
        """Release what has not started; let the rest run for `grace` seconds, then cancel it.

        `hurry` ends the grace. What does not react to being cancelled is released all the same.
        """
        wanted = set(queues)
        lanes = [lane for queue_id, lane in self._all() if queue_id in wanted]
        for lane in lanes:
            _release(lane.shed(0))
        if await _all_idle(lanes, grace, hurry):
            return
        for lane in lanes:
            lane.cancel_running()
        if not await _all_idle(lanes, CANCEL_LIMIT):
            for lane in lanes:
                _release(lane.abandon())

    def close(self) -> None:
        """Let go of the threads; one that runs a plain `def` executor goes on to its end."""
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
            self._threads = None

    async def run(self, runner_id: str, tasks: Sequence[Task[Any]]) -> RunResult:
        """Run `tasks` once and say how they ended; nothing is retried, stored or put anywhere.

        `runner_id` names whoever asks, in events. Tasks that are handed off are not waited for.
        The locks of the others are released before it returns, theirs when they have ended.
        """
        deliveries = [Delivery(task, None) for task in tasks]
        sink = _Sink(len(deliveries))
        queues: dict[str, list[Delivery]] = {}
        for delivery in deliveries:
            queues.setdefault(delivery.task.queue_id, []).append(delivery)
        self.handoff_listeners.append(sink.handed_off)
        try:
            for queue_id, group in queues.items():
                await self.start(queue_id, group, sink)
            await sink.full.wait()
            return self._result(sink.outcomes, sink.away)
        finally:
            self.handoff_listeners.remove(sink.handed_off)
            away = dict(sink.away)
            await self.locks.release(each for each in deliveries if each not in away)
            if away:
                late = asyncio.create_task(self._unlock(away, sink.over))
                self._unlocking.add(late)
                late.add_done_callback(self._unlocking.discard)

    async def _unlock(self, deliveries: Iterable[Delivery], over: asyncio.Event) -> None:
        await over.wait()
        await self.locks.release(deliveries)

    def _result(self, outcomes: Iterable[Outcome], away: Iterable[Delivery]) -> RunResult:
        result = RunResult([], [], [], [], [], [], [delivery.task for delivery in away])
        around = Circumstances.without_engines(self.config.clock.now())
        for outcome in outcomes:
            task = outcome.delivery.task
            if outcome.word is Word.RELEASED:
                result.locked.append(task)
                continue
            verdict = decide(outcome, _never_again, around)
            assert verdict.ending is not None
            ended = msgspec.structs.replace(
                verdict.ending.next or task,
                status=verdict.status,
                execution_result=_decoded(verdict.ending.result),
                execution_stats=verdict.ending.stats or task.execution_stats,
            )
            lists = {Word.SUCCESS: result.succeeded, Word.IGNORED: result.ignored}
            if outcome.word is Word.RESCHEDULED:
                result.new_tasks.append(ended)
            else:
                lists.get(outcome.word, result.failed).append(ended)
            result.new_tasks.extend(outcome.children)
            result.flows.extend(outcome.flows)
        return result

    def _thread_pool(self) -> ThreadPoolExecutor:
        # Lanes bound how much runs; the pool only reuses threads. It must not bound them, or a
        # thread that cannot be cancelled would hold up another task's slot.
        if self._threads is None:
            self._threads = ThreadPoolExecutor(MAX_THREADS, thread_name_prefix="taskloom")
        return self._threads


class _Sink:
    """A holder without a lease: collects outcomes, and what is not waited for."""

    trusted_until = float("inf")

    def __init__(self, expected: int) -> None:
        self.outcomes: list[Outcome] = []
        self.away: dict[Delivery, None] = {}
        """Handed off and still running, in order."""
        self.full = asyncio.Event()
        """Everything has ended or was handed off."""
        self.over = asyncio.Event()
        """Everything has ended."""
        self._expected = expected
        self._look()

    def ended(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        self.away.pop(outcome.delivery, None)
        self._look()

    def handed_off(self, delivery: Delivery, holder: object) -> None:
        if holder is self:
            self.away[delivery] = None
            self._look()

    def _look(self) -> None:
        if len(self.outcomes) + len(self.away) >= self._expected:
            self.full.set()
        if len(self.outcomes) >= self._expected:
            self.over.set()


def _release(jobs: Iterable[Job]) -> None:
    for delivery, holder in jobs:
        holder.ended(Outcome(delivery, Word.RELEASED))


def _never_again(task: Task[Any]) -> None:
    """No executor, so no retry."""


def _decoded(result: Any) -> Any:
    return result if result is UNSET else msgspec.json.decode(result)


async def _all_idle(lanes: list[Lane], limit: float, hurry: asyncio.Event | None = None) -> bool:
    """Wait until no lane runs anything, for `limit` seconds or until `hurry`."""
    idle = asyncio.gather(*(lane.wait_idle() for lane in lanes))
    waits: list[asyncio.Future[Any]] = [idle]
    if hurry is not None:
        waits.append(asyncio.ensure_future(hurry.wait()))
    await asyncio.wait(waits, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
    done = idle.done()
    for future in waits:
        future.cancel()
    await asyncio.gather(*waits, return_exceptions=True)
    return done
