"""Admission: what a task must be before any engine sees it, and where it goes then."""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import Enum
from typing import Any

from msgspec import UNSET
from msgspec.structs import replace

from taskloom.clock import Clock
from taskloom.codec import encode_checked
from taskloom.errors import InvalidTaskError
from taskloom.failures import repr_of
from taskloom.flows import is_copy
from taskloom.log_context import check_log_context
from taskloom.registry import TaskQueuesManager
from taskloom.task import NO_METADATA, Task, TaskMetadata, TaskStatus, check_task

__all__ = ["Admission", "Route", "route"]


class Admission:
    """Checks tasks and completes them, whoever adds them."""

    def __init__(self, task_queues: TaskQueuesManager, clock: Clock) -> None:
        self._queues = task_queues
        self._clock = clock

    def admit(self, task: Task[Any]) -> Task[Any]:
        """`task`, ready for an engine; raises `InvalidTaskError` naming the field.

        Fills `partition_key` from the executor, cuts an oversized log context, and lets a task that
        was made "for now" be due by this handler's clock, however the two clocks differ.
        """
        if not isinstance(task, Task):
            raise TypeError(f"expected a Task, not {type(task).__name__}")
        check_task(task)
        if not task.id:
            raise InvalidTaskError("id: must not be empty")
        encode_checked(task.payload, "payload")
        if task.execution_result is not UNSET:
            encode_checked(task.execution_result, "execution_result")
        if task.execution_stats:
            encode_checked(task.execution_stats, "execution_stats")
        changes = self._changes(task)
        return replace(task, **changes) if changes else task

    def _changes(self, task: Task[Any]) -> dict[str, Any]:
        changes: dict[str, Any] = {}
        if task.metadata is not NO_METADATA and (metadata := _metadata(task)) != task.metadata:
            changes["metadata"] = metadata
        if task.partition_key is None and (key := self._partition_key(task)) is not None:
            changes["partition_key"] = key
        if task.status is not TaskStatus.SCHEDULED:
            changes["status"] = TaskStatus.SCHEDULED
        if task.execute_at == task.created_at and task.execute_at > (now := self._clock.now()):
            changes["execute_at"] = now
        return changes

    def _partition_key(self, task: Task[Any]) -> str | None:
        executor = self._queues.get_executor(task.queue_id, task.type)
        if executor is None or executor.get_partition_key is None:
            return None
        try:
            key = executor.get_partition_key(task)
        except Exception as error:
            raise InvalidTaskError(
                f"partition_key: get_partition_key of {task.type!r} raised {repr_of(error)}"
            ) from error
        if key is not None and not isinstance(key, str):
            raise InvalidTaskError(
                f"partition_key: get_partition_key of {task.type!r} must return a text or None, "
                f"not {type(key).__name__}"
            )
        return key or None


def _metadata(task: Task[Any]) -> TaskMetadata:
    metadata = task.metadata
    if metadata.log_context is not None:
        context = check_log_context(metadata.log_context)
        if context is not metadata.log_context:
            metadata = replace(metadata, log_context=context)
    if metadata.flow is not None and is_copy(task):
        metadata = replace(metadata, flow=None)
    return metadata


class Route(Enum):
    """Where an added task goes, when storage and queue are two things."""

    STORAGE = "storage"
    """Due later, or the queue cannot delay: it waits in the storage as SCHEDULED."""
    QUEUE = "queue"
    """Due now: on the queue only."""
    BOTH = "both"
    """Due now and to be remembered: stored as QUEUED, then put on the queue."""


def route(task: Task[Any], now: datetime, horizon: timedelta, *, can_delay: bool) -> Route:
    """The way of a new task. `force_store` and far in the future: storage only."""
    ahead = task.execute_at - now
    if ahead > horizon or (ahead > timedelta() and not can_delay):
        return Route.STORAGE
    # An earlier call that seemed to fail may have stored it: then, it was not due for long.
    maybe_stored = task.execute_at - task.created_at > horizon
    return Route.BOTH if task.force_store or maybe_stored else Route.QUEUE
