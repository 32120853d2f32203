"""Changing tasks by hand: cancelling what waits, running again what has ended."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import UNSET
from msgspec.structs import replace

from taskloom.clock import Clock
from taskloom.flow_keeper import FlowKeeper, StepEnd
from taskloom.flow_reporter import FlowReporter
from taskloom.interfaces.flow_barrier import FlowNews
from taskloom.interfaces.task_storage import TaskStorage
from taskloom.listeners import Listeners
from taskloom.outcomes import Settlement
from taskloom.projector import Projector
from taskloom.reporter import ExecutorOf, Reporter
from taskloom.settlement import step_result
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
        if done:
            await self._follow_up(done, reason, news)
        return done

    async def _follow_up(self, cancelled: list[str], reason: str, news: list[FlowNews]) -> None:
        """What else cancelled tasks mean: for their flows, their entities, for those who listen."""
        beside = self._flows is not None and not self._flows.integrated
        if beside or self._projector.wanted or self._listeners.wants("on_task_cancelled"):
            tasks = await self._storage.get(cancelled)
            if self._flows is not None and beside:
                ends = [StepEnd(task, step) for task in tasks if (step := step_result(task))]
                news = await self._flows.count(ends)
            await self._projector.write(self._projector.found_ended(tasks))
            await self._reporter.cancelled(tasks, reason, self._executor_of)
        await self._flow_reporter.found_ended(news)

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
