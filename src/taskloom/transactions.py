"""Adding inside a transaction of the caller's: tasks that are there if and when it is committed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from taskloom.adding import Added, store
from taskloom.errors import ConfigurationError, UnavailableError
from taskloom.flow_keeper import FlowKeeper
from taskloom.flow_reporter import FlowReporter
from taskloom.flows import NewFlow
from taskloom.interfaces.entity_projections import EntityProjections
from taskloom.interfaces.message_queue import MessageQueue
from taskloom.interfaces.task_storage import TaskStorage
from taskloom.listeners import Listeners
from taskloom.outcomes import Settlement
from taskloom.projector import Projector
from taskloom.reporter import ExecutorOf, Reporter
from taskloom.task import Task

if TYPE_CHECKING:
    from taskloom.interfaces.transaction import SqlConnection

__all__ = ["Transactions"]

_log = logging.getLogger(__name__)

LAST_WORD = 1.0
"""Seconds that closing waits for transactions under way to end, so that they can be told of."""


class Transactions:
    """Writes tasks through the storage, whatever the queue, on a connection of the caller's.

    A queue beside the storage cannot be part of that: the tasks wait in the storage as SCHEDULED,
    and the next pass of upkeep puts them there. What shares the storage's database is written in
    the same transaction; whatever else wants to know is told after the commit.
    """

    def __init__(
        self,
        queue: MessageQueue,
        storage: TaskStorage,
        projections: EntityProjections | None,
        projector: Projector,
        flows: FlowKeeper | None,
        listeners: Listeners,
        reporter: Reporter,
        flow_reporter: FlowReporter,
        executor_of: ExecutorOf,
    ) -> None:
        self._queue = queue
        self._storage = storage
        self._projections = projections
        self._projector = projector
        self._flows = flows
        self._reporter = reporter
        self._flow_reporter = flow_reporter
        self._executor_of = executor_of
        self._projects_inside = projector.integrated(storage)
        self._tells_flows = listeners.wants("on_flow_started")
        self._telling: set[asyncio.Task[None]] = set()

    async def add(self, tasks: Sequence[Task[Any]], connection: SqlConnection) -> list[Task[Any]]:
        """Write admitted tasks; all, in order, as they are kept. Raises as `Storage.within`."""
        ended = asyncio.get_running_loop().create_future()
        async with self._inside(connection, ended) as inside:
            added = await self._store(inside, tasks)
        self._tell_later(added.new, None, ended)
        return added.kept

    async def start_flow(
        self, flow: NewFlow, tasks: Sequence[Task[Any]], connection: SqlConnection
    ) -> None:
        """Write a flow and its tasks."""
        if self._flows is None or not self._flows.integrated:
            raise ConfigurationError(
                "connection: the flow barrier keeps its flows elsewhere than the tasks are. Use "
                "that of the storage's database, or start the flow after the commit"
            )
        ended = asyncio.get_running_loop().create_future()
        async with self._inside(connection, ended) as inside:
            added = await self._store(inside, tasks)
            plan = Settlement(flows=(flow,), projecting=self._projects_inside)
            await self._flows.barrier.within(inside).settle(plan)
        self._tell_later(added.new, flow, ended)

    async def close(self) -> None:
        """Tell of what was committed. Safe to repeat."""
        if self._telling:
            _, late = await asyncio.wait(self._telling, timeout=LAST_WORD)
            for each in late:
                each.cancel()

    @property
    def _tells(self) -> bool:
        projects = self._projector.wanted and not self._projects_inside
        return projects or self._tells_flows or self._reporter.wants_accepted

    def _inside(self, connection: SqlConnection, ended: asyncio.Future[bool]) -> TaskStorage:
        if self._queue.features.inline:
            raise ConfigurationError(
                f"connection: the queue ({self._queue.name}) runs a task as soon as it is added, "
                "which is before the commit. Use another queue, or add the task after the commit"
            )

        def end(committed: bool) -> None:
            if not ended.done():
                ended.set_result(committed)

        return self._storage.within(connection, ended=end if self._tells else None)

    async def _store(self, inside: TaskStorage, tasks: Sequence[Task[Any]]) -> Added:
        added = await store(inside, tasks)
        if self._projects_inside and self._projections is not None:
            rows = self._projector.added(added.new)
            await self._projections.within(inside).upsert_projections(rows)
        return added

    def _tell_later(
        self, new: Sequence[Task[Any]], flow: NewFlow | None, ended: asyncio.Future[bool]
    ) -> None:
        if self._tells and new:
            telling = asyncio.create_task(self._tell(new, flow, ended), name="taskloom-committed")
            self._telling.add(telling)
            telling.add_done_callback(self._telling.discard)

    async def _tell(
        self, new: Sequence[Task[Any]], flow: NewFlow | None, ended: asyncio.Future[bool]
    ) -> None:
        """What happens to these tasks on a worker of this process is told after this."""
        async with self._reporter.announcing(new, self._executor_of) as announce:
            there = await self._committed(new) if await ended else []
            if not self._projects_inside:
                rows = self._projector.flows_started([flow]) if flow is not None and there else []
                await self._projector.write([*rows, *self._projector.added(there)])
            announce(there)
        if flow is not None and there:
            await self._flow_reporter.started(flow, new)

    async def _committed(self, new: Sequence[Task[Any]]) -> list[Task[Any]]:
        """Those that are there: a savepoint may have been rolled back, or the commit failed."""
        try:
            there = {task.id for task in await self._storage.get([task.id for task in new])}
        except UnavailableError as error:
            _log.warning("whether %d tasks were committed is not told of: %s", len(new), error)
            return []
        return [task for task in new if task.id in there]
