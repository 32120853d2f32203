"""Entity projections: what the tasks on one thing of your domain have come to, as rows."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal, TypeAlias

from msgspec import UNSET, Struct

from taskloom.errors import InvalidTaskError
from taskloom.task import Task

__all__ = [
    "FLOW_ERRORS",
    "EntityTaskProjection",
    "ProjectionStatus",
    "build_projection",
    "flow_projection",
    "may_become",
]

ProjectionStatus: TypeAlias = Literal["scheduled", "processing", "executed", "failed"]


FLOW_ERRORS: dict[str | None, str] = {"aborted": "flow_aborted", "timed_out": "flow_timeout"}
"""What the row of a flow's entity says when the flow ended before all its steps had."""


class EntityTaskProjection(Struct, frozen=True):
    """How far one task on an entity is. For a flow's entity, `task_id` is the flow's id."""

    task_id: str
    entity_id: str
    entity_type: str
    task_type: str
    queue_id: str
    status: ProjectionStatus
    created_at: datetime
    """When the task was made."""
    updated_at: datetime
    payload: Any = UNSET
    """UNSET unless asked for."""
    error: str | None = None
    result: Any = UNSET
    """UNSET unless the task executed and gave one."""


def build_projection(
    task: Task[Any],
    status: ProjectionStatus,
    *,
    include_payload: bool = False,
    error: str | None = None,
    result: Any = UNSET,
) -> EntityTaskProjection | None:
    """The row of `task` in `status`; None for a task without an entity.

    Raises `InvalidTaskError` for a task whose id was emptied by hand: rows are known by it.
    """
    entity = task.entity
    if entity is None:
        return None
    if not task.id:
        raise InvalidTaskError(
            "id: must not be empty for a task on an entity. Make the task without one to get a new "
            "id, give it one of your own, or have it stored under one (`force_store` of the task, "
            "`store_on_failure` of its executor)"
        )
    return EntityTaskProjection(
        task.id,
        entity.id,
        entity.type,
        task.type,
        task.queue_id,
        status,
        task.created_at,
        task.updated_at,
        task.payload if include_payload else UNSET,
        error,
        result,
    )


def may_become(old: str, new: str) -> bool:
    """Whether a row that says `old` may say `new`: it goes on, never back, and an end stays."""
    return old == "scheduled" or (old == "processing" and new != "scheduled")


def flow_projection(
    join: Task[Any],
    status: ProjectionStatus,
    now: datetime,
    error: str | None = None,
    result: Any = UNSET,
) -> EntityTaskProjection | None:
    """The row of the flow that `join` belongs to, under the flow's id; None without an entity."""
    flow = join.metadata.flow
    if flow is None or flow.entity is None:
        return None
    return EntityTaskProjection(
        flow.flow_id,
        flow.entity.id,
        flow.entity.type,
        join.type,
        join.queue_id,
        status,
        join.created_at,
        now,
        error=error,
        result=result,
    )
