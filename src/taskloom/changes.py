"""Changing tasks by hand: cancelling what waits, running again what has ended."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import UNSET
from msgspec.structs import replace

from taskloom.clock import Clock
from taskloom.flow_keeper import FlowKeeper
from taskloom.flow_reporter import FlowReporter
from taskloom.interfaces.flow_barrier import FlowNews
from taskloom.interfaces.task_storage import TaskStorage
from taskloom.listeners import Listeners
from taskloom.outcomes import Settlement
from taskloom.projector import Projector
from taskloom.reporter import ExecutorOf, Reporter
from taskloom.task import TaskStatus

__all__ = ["TaskChanges"]


class TaskChanges:
    """What people do to tasks, and what follows from it."""

    def __init__(
        self,
        storage: TaskStorage,
        flows: FlowKeeper | None,
        projector: Projector,
        listeners: Listeners,
        reporter: Reporter,
        flow_reporter: FlowReporter,
        executor_of: ExecutorOf,
        clock: Clock,
    ) -> None:
        self._storage = storage
        self._flows = flows
        self._projector = projector
        self._listeners = listeners
        self._reporter = reporter
        self._flow_reporter = flow_reporter
        self._executor_of = executor_of
        self._clock = clock

    async def cancel(self, ids: Iterable[str], reason: str) -> list[str]:
        """Cancel what waits; the ids that were cancelled."""
        wanted = list(dict.fromkeys(ids))
        if not wanted:
            return []
        projecting = self._projector.integrated(self._storage)
        plan = Settlement(cancelled=tuple(wanted), reason=reason, projecting=projecting)
        news: list[FlowNews] = []
        if self._flows is not None and self._flows.integrated:
            settled = await self._flows.barrier.settle(plan)
            not_done, news = set(settled.refused), settled.news
        else:
            not_done = set(await self._storage.settle(plan))
        done = [id for id in wanted if id not in not_done]
        if self._flows is not None and not self._flows.integrated:
            news = await self._count(self._flows, wanted)
        if done:
            await self._follow_up(done, reason)
        await self._flow_reporter.found_ended(news)
        return done

    async def _count(self, flows: FlowKeeper, ids: list[str]) -> list[FlowNews]:
        """Count cancelled steps; those too whose counting failed when they were cancelled."""
        tasks = await self._storage.get(ids)
        cancelled = [task for task in tasks if task.status is TaskStatus.CANCELLED]
        return await flows.count_ended(cancelled)

    async def _follow_up(self, cancelled: list[str], reason: str) -> None:
        """What else cancelled tasks mean: for their entities, for those who listen."""
        if self._projector.wanted or self._listeners.wants("on_task_cancelled"):
            tasks = await self._storage.get(cancelled)
            await self._projector.write(self._projector.found_ended(tasks))
            await self._reporter.cancelled(tasks, reason, self._executor_of)

    async def retry(self, ids: Iterable[str]) -> list[str]:
        """Schedule again, now, what has ended; their ids."""
        now = self._clock.now()
        ended = [task for task in await self._storage.get(list(ids)) if task.status.terminal]
        if not ended:
            return []
        again = tuple(
            replace(
                task,
                status=TaskStatus.SCHEDULED,
                execute_at=now,
                expires_at=None,
                retry_count=0,
                execution_result=UNSET,
                execution_stats={},
            )
            for task in ended
        )
        not_done = set(await self._storage.settle(Settlement(revived=again)))
        return [task.id for task in again if task.id not in not_done]
