"""Adding: how an admitted task gets to where it waits, with as few engine calls as possible."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from msgspec.structs import replace

from taskloom.admission import Route, route
from taskloom.clock import Clock
from taskloom.errors import QueueUnavailableError, StorageUnavailableError, UnavailableError
from taskloom.group_commit import GroupCommit
from taskloom.interfaces.message_queue import MessageQueue
from taskloom.interfaces.task_storage import TaskStorage
from taskloom.outcomes import Settlement
from taskloom.task import Task, TaskStatus

__all__ = ["Added", "Adder", "store"]

_log = logging.getLogger(__name__)


class Place(NamedTuple):
    """A task as a storage keeps it, and whether that was new."""

    task: Task[Any]
    new: bool


class Added(NamedTuple):
    """Tasks that were accepted."""

    kept: list[Task[Any]]
    """All, in order, as they are kept: for an id that was known, the task that is there."""
    new: list[Task[Any]]
    """Those that were not known."""


class Adder:
    """Puts admitted tasks where they belong; concurrent calls share engine writes.

    A call returns when its own tasks are accepted. Order: storage, then projections, then queue.
    """

    def __init__(
        self,
        queue: MessageQueue,
        storage: TaskStorage,
        clock: Clock,
        horizon: timedelta,
        project: Callable[[Sequence[Task[Any]]], Awaitable[None]],
    ) -> None:
        self._project = project
        self._queue = queue
        self._storage = storage
        self._clock = clock
        self._horizon = horizon
        self._store: GroupCommit[Task[Any], Place] = GroupCommit(self._add_to_storage)
        self._puts: dict[str, GroupCommit[Task[Any], None]] = {}

    async def add(self, tasks: Sequence[Task[Any]]) -> Added:
        """Accept `tasks`. Raises
        `StorageUnavailableError` (nothing is on the queue) or `QueueUnavailableError`, which says
        what was accepted and what was not.
        """
        whole = [task for task in tasks if self._is_stored(task.queue_id)]
        # Once they are stored a worker may have them: what is told of that comes later.
        await self._project(await self._unknown(whole))
        if len(whole) == len(tasks):
            return _added(await self._store(tasks))
        now = self._clock.now()
        ways = [self._way(task, now) for task in tasks]
        stored = [
            replace(task, status=TaskStatus.QUEUED) if way is Route.BOTH else task
            for task, way in zip(tasks, ways, strict=True)
            if way is not Route.QUEUE
        ]
        places = await self._store(stored)
        kept = {place.task.id: place.task for place in places}
        queued = [
            kept.get(task.id, task)
            for task, way in zip(tasks, ways, strict=True)
            if way is not Route.STORAGE
        ]
        old = {place.task.id for place in places if not place.new}
        told = old | {task.id for task in whole}
        await self._project([task for task in tasks if task.id not in told])
        # One that was stored before is only put there again if that is where it is: not if it has
        # ended, nor if it waits in the storage, where a call that seemed to fail has left it.
        unstored_or_queued = [
            task for task in queued if task.id not in kept or task.status is TaskStatus.QUEUED
        ]
        await self._put(unstored_or_queued, kept)
        return _added([Place(kept.get(task.id, task), task.id not in old) for task in tasks])

    async def put_stored(self, tasks: Sequence[Task[Any]]) -> None:
        """Put tasks on a separate queue that the storage knows already. Safe to repeat."""
        for queue_id, group in _by_queue(tasks).items():
            await self._put_group(queue_id)(group)

    def _is_stored(self, queue_id: str) -> bool:
        """Whether a task that is stored is on its queue."""
        return self._queue.storage_of(queue_id) is self._storage

    def _way(self, task: Task[Any], now: datetime) -> Route:
        if self._is_stored(task.queue_id):
            return Route.STORAGE
        return route(task, now, self._horizon, can_delay=self._takes_delayed(task))

    def _takes_delayed(self, task: Task[Any]) -> bool:
        """Whether the queue may have a task before it is due."""
        features, flow = self._queue.features_of(task.queue_id), task.metadata.flow
        # Where delays are skipped, a flow's time would be over before its steps have run.
        return features.takes_delayed and (features.delay or flow is None or not flow.is_timeout)

    async def _unknown(self, tasks: Sequence[Task[Any]]) -> list[Task[Any]]:
        """Those on entities that the storage does not know yet."""
        told = [task for task in tasks if task.entity is not None]
        if not told:
            return []
        known = {task.id for task in await self._storage.get([task.id for task in told])}
        return [task for task in told if task.id not in known]

    async def _put(self, tasks: Sequence[Task[Any]], kept: dict[str, Task[Any]]) -> None:
        accepted: list[Task[Any]] = list(kept.values())
        rejected: list[Task[Any]] = []
        failure: UnavailableError | None = None
        for queue_id, group in _by_queue(tasks).items():
            try:
                await self._put_group(queue_id)(group)
                accepted += [task for task in group if task.id not in kept]
            except UnavailableError as error:
                failure = error
                rejected += [task for task in group if task.id not in kept]
                stored = [task for task in group if task.id in kept]
                if not await self._back_to_storage(stored, error):
                    rejected += stored
        if rejected:
            refused = {task.id for task in rejected}
            accepted = [task for task in accepted if task.id not in refused]
            raise QueueUnavailableError(
                f"the queue did not take {len(rejected)} of {len(tasks)} tasks ({failure}); "
                "they are in .rejected and may be added again",
                accepted=accepted,
                rejected=rejected,
            ) from failure

    async def _back_to_storage(self, tasks: Sequence[Task[Any]], error: Exception) -> bool:
        """Stored tasks that the queue did not take are accepted all the same: they come due.

        Not if the storage cannot be told: they would wait for `stale_after`.
        """
        if not tasks:
            return True
        ids = tuple(task.id for task in tasks)
        _log.warning(
            "the queue did not take %d stored tasks (%s); they will be put there again",
            len(ids),
            error,
        )
        try:
            await self._storage.settle(Settlement(unqueued=ids))
        except StorageUnavailableError:
            _log.warning("nor did the storage answer; add them again, or wait for stale_after")
            return False
        return True

    def _put_group(self, queue_id: str) -> GroupCommit[Task[Any], None]:
        group = self._puts.get(queue_id)
        if group is None:

            async def put(tasks: list[Task[Any]]) -> list[None]:
                await self._queue.put(queue_id, tasks)
                return [None] * len(tasks)

            group = self._puts[queue_id] = GroupCommit(put)
        return group

    async def _add_to_storage(self, tasks: list[Task[Any]]) -> list[Place]:
        return await _store(self._storage, tasks)


async def store(storage: TaskStorage, tasks: Sequence[Task[Any]]) -> Added:
    """Keep `tasks` in `storage` and nowhere else."""
    return _added(await _store(storage, tasks))


async def _store(storage: TaskStorage, tasks: Sequence[Task[Any]]) -> list[Place]:
    new = await storage.add(tasks)
    if len(new) == len(tasks):
        return [Place(task, True) for task in tasks]
    fresh = {task.id: task for task in new}
    known = [task.id for task in tasks if task.id not in fresh]
    there = {task.id: task for task in await storage.get(known)} if known else {}
    kept = there | fresh
    return [Place(kept.get(task.id, task), task.id not in there) for task in tasks]


def _added(places: Sequence[Place]) -> Added:
    new = {place.task.id: place.task for place in places if place.new}
    return Added([place.task for place in places], list(new.values()))


def _by_queue(tasks: Iterable[Task[Any]]) -> dict[str, list[Task[Any]]]:
    groups: dict[str, list[Task[Any]]] = {}
    for task in tasks:
        groups.setdefault(task.queue_id, []).append(task)
    return groups
