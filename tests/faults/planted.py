"""Builds of the library with one guard removed: the rig must notice each of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from sqlalchemy import Update, bindparam, update

from taskloom import identity
from taskloom.outcomes import Delivery, Settlement
from taskloom.sql import SqlStorage, claims, settling
from taskloom.sql.schema import tasks
from taskloom.task import TaskStatus

__all__ = ["GUARDS", "remove_guard"]


def remove_guard(name: str) -> None:
    """Take the guard `name` out of the library in this process; "" none."""
    if name:
        GUARDS[name]()


def _no_fencing() -> None:
    """A settle is written whatever lease is in force."""

    @cache
    def end() -> Update:
        ends = settling._ENDS.table()
        return settling._ended(ends).where(tasks.c.id == ends.c.id)

    settling._end = end


def _acknowledge_first() -> None:
    """What has ended well is acknowledged before its effects are written."""
    settle = SqlStorage.settle

    async def in_two_steps(self: SqlStorage, plan: Settlement) -> list[str]:
        good = [each for each in plan.endings if each.status is TaskStatus.EXECUTED]
        if not good:
            return await settle(self, plan)
        gone = await self.mark_executed([each.delivery for each in good])
        await asyncio.sleep(0.03)
        lost = {delivery.task.id for delivery in gone}
        for each in good:
            if each.delivery.task.id not in lost:
                await self.update({each.delivery.task.id: {"execution_result": each.result}})
                await self.add(each.children)
        rest = [each for each in plan.endings if each.status is not TaskStatus.EXECUTED]
        return [*lost, *(await settle(self, Settlement(tuple(rest))))]

    SqlStorage.settle = in_two_steps  # type: ignore[method-assign]


def _random_child_ids() -> None:
    """A parent that runs again makes other children."""

    def next_id(self: Any, type: str, queue_id: str, payload: Any) -> str:
        return identity.new_id()

    identity.DerivedIds.next_id = next_id  # type: ignore[method-assign]


def _rescue_by_age() -> None:
    """A lease is as old as its claim, however often it is renewed."""

    async def extend(
        self: SqlStorage, deliveries: Sequence[Delivery], lease: float
    ) -> list[Delivery]:
        return []

    SqlStorage.extend_leases = extend  # type: ignore[method-assign]


def _release_counts() -> None:
    """A task that is given back has one delivery more to its name."""

    @cache
    def release() -> Update:
        keys = claims.KEYS.table()
        return (
            update(tasks)
            .where(tasks.c.id == keys.c.id, tasks.c.epoch == keys.c.epoch, claims.still_held())
            .values(
                status=TaskStatus.SCHEDULED.value,
                epoch=tasks.c.epoch + 1,
                due_at=bindparam("due"),
                updated_at=bindparam("now"),
                started_at=None,
            )
            .returning(tasks.c.id)
        )

    claims._release = release


GUARDS: dict[str, Callable[[], None]] = {
    "fencing": _no_fencing,
    "acknowledge-last": _acknowledge_first,
    "derived-ids": _random_child_ids,
    "leases": _rescue_by_age,
    "release-not-counted": _release_counts,
}
