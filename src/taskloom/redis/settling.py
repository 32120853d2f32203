"""A settlement as the message of one script."""

from __future__ import annotations

from typing import Any

from msgspec import UNSET
from msgspec.structs import replace

from taskloom.outcomes import Ending, Settlement
from taskloom.redis.rows import json_text, named_rows, row_of
from taskloom.task import Task

__all__ = ["settlement_message"]


def settlement_message(plan: Settlement) -> dict[str, Any]:
    """What `tasks_settle.lua` takes. An error before anything is written."""
    return {
        "added": named_rows(plan.added),
        "endings": [_ending(ending, plan.fenced) for ending in plan.endings],
        "fenced": plan.fenced,
        "cancelled": plan.cancelled,
        "reason": json_text({"cancelled_reason": plan.reason}),
        "revived": named_rows(plan.revived),
        "unqueued": plan.unqueued,
    }


def _ending(ending: Ending, fenced: bool) -> dict[str, Any]:
    goes_on = ending.next is not None
    return {
        "id": ending.delivery.task.id,
        "epoch": ending.delivery.receipt if fenced else -1,
        "status": ending.status.value,
        "result": "" if ending.result is UNSET else json_text(ending.result),
        "stats": None if ending.stats is None else json_text(ending.stats),
        # Unless leases are compared there may be no hash yet.
        "row": row_of(_as_ended(ending)) if goes_on or not fenced else None,
        "goes_on": goes_on,
        "children": named_rows(ending.children),
    }


def _as_ended(ending: Ending) -> Task[Any]:
    """The whole task as an ending leaves it."""
    before = ending.delivery.task
    task = ending.next
    if task is None:
        task = replace(before, execution_result=ending.result)
    return replace(
        task,
        status=ending.status,
        created_at=before.created_at,
        execution_stats=task.execution_stats if ending.stats is None else ending.stats,
    )
