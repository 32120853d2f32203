"""Entity projections: what the tasks on one thing of your domain have come to, as rows."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal, TypeAlias

from msgspec import UNSET, Struct

from taskloom.task import Task

__all__ = ["EntityTaskProjection", "ProjectionStatus", "build_projection"]

ProjectionStatus: TypeAlias = Literal["scheduled", "processing", "executed", "failed"]


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
    """The row of `task` in `status`; None for a task without an entity."""
    entity = task.entity
    if entity is None:
        return None
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
