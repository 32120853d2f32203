"""Carrying a settlement out on rows in memory."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from taskloom.memory.copies import copied, copied_task
from taskloom.memory.shelves import Row, Shelves
from taskloom.outcomes import Ending, Settlement
from taskloom.task import Task, TaskStatus

__all__ = ["Writer"]

_WAITING = (TaskStatus.SCHEDULED, TaskStatus.QUEUED)


class Writer:
    """One settle at one time. Everything is copied before anything is written."""

    def __init__(self, shelves: Shelves, now: datetime) -> None:
        self._shelves = shelves
        self._now = now

    def settle(self, plan: Settlement) -> list[str]:
        """Write `plan`; the ids for which nothing was written."""
        plan = _private(plan)
        self._add(plan.added)
        missed = [
            ending.delivery.task.id for ending in plan.endings if not self._end(ending, plan.fenced)
        ]
        missed += [id for id in plan.cancelled if not self._cancel(id, plan.reason)]
        missed += [task.id for task in plan.revived if not self._revive(task)]
        missed += [id for id in plan.unqueued if not self._unqueue(id)]
        return missed

    def _add(self, tasks: tuple[Task[Any], ...]) -> None:
        for task in tasks:
            if task.id not in self._shelves.rows:
                self._shelves.put(Row(task))

    def _end(self, ending: Ending, fenced: bool) -> bool:
        row = self._shelves.rows.get(ending.delivery.task.id)
        if fenced:
            if row is None or row.epoch != ending.delivery.receipt:
                return False
            if row.task.status is not TaskStatus.PROCESSING:
                # Settled under this lease before: said again it is true, another word is too late.
                return row.task.status is ending.status
            epoch = row.epoch
        elif row is not None and row.task.status.terminal:
            return row.task.status is ending.status
        else:
            epoch = row.epoch + 1 if row is not None else 0
        self._shelves.put(Row(self._ended(ending, row), epoch))
        self._add(ending.children)
        return True

    def _ended(self, ending: Ending, row: Row | None) -> Task[Any]:
        """The task as `ending` leaves it."""
        before = row.task if row is not None else copied_task(ending.delivery.task)
        if ending.next is not None:
            stats = before.execution_stats if row is not None else ending.next.execution_stats
            task = ending.next.replace(created_at=before.created_at)
        else:
            stats = before.execution_stats
            task = before.replace(execution_result=ending.result)
        if ending.stats is not None:
            stats = ending.stats
        return task.replace(status=ending.status, execution_stats=stats, updated_at=self._now)

    def _cancel(self, id: str, reason: str) -> bool:
        row = self._shelves.rows.get(id)
        if row is None or row.task.status not in _WAITING:
            return False
        task = row.task.replace(
            status=TaskStatus.CANCELLED,
            execution_stats={**row.task.execution_stats, "cancelled_reason": reason},
            updated_at=self._now,
        )
        self._shelves.put(Row(task, row.epoch + 1, row.deliveries))
        return True

    def _unqueue(self, id: str) -> bool:
        row = self._shelves.rows.get(id)
        if row is None or row.task.status is not TaskStatus.QUEUED:
            return False
        task = row.task.replace(status=TaskStatus.SCHEDULED, updated_at=self._now)
        self._shelves.put(Row(task, row.epoch + 1, row.deliveries))
        return True

    def _revive(self, task: Task[Any]) -> bool:
        row = self._shelves.rows.get(task.id)
        if row is None or not row.task.status.terminal:
            return False
        self._shelves.put(Row(task.replace(updated_at=self._now), row.epoch + 1))
        return True


def _private(plan: Settlement) -> Settlement:
    """`plan` sharing nothing that its maker can change; an error before anything is written."""
    return msgspec.structs.replace(
        plan,
        endings=tuple(_private_ending(ending) for ending in plan.endings),
        added=_copies(plan.added),
        revived=_copies(plan.revived),
    )


def _private_ending(ending: Ending) -> Ending:
    return msgspec.structs.replace(
        ending,
        result=copied(ending.result),
        stats=copied(ending.stats),
        next=None if ending.next is None else copied_task(ending.next),
        children=_copies(ending.children),
    )


def _copies(tasks: tuple[Task[Any], ...]) -> tuple[Task[Any], ...]:
    return tuple(copied_task(task) for task in tasks)
