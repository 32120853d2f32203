"""The task: a small value that says what to do, where and when."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Generic, TypeVar

import msgspec
from msgspec import UNSET, Struct
from msgspec.structs import force_setattr

from taskloom.clock import seconds
from taskloom.codec import one_line
from taskloom.current import running
from taskloom.errors import InvalidTaskError
from taskloom.identity import new_id

__all__ = [
    "EntityRef",
    "PayloadT",
    "Task",
    "TaskMetadata",
    "TaskStatus",
    "check_task",
]

PayloadT = TypeVar("PayloadT")

_LATER: Any = UNSET
"""The default of what `__post_init__` fills in."""


class TaskStatus(StrEnum):
    """Where a task is in its life. Nothing leaves a terminal status but by `retry_tasks`."""

    SCHEDULED = "scheduled"
    QUEUED = "queued"
    PROCESSING = "processing"
    EXECUTED = "executed"
    FAILED = "failed"
    EXPIRED = "expired"
    IGNORED = "ignored"
    CANCELLED = "cancelled"

    @property
    def terminal(self) -> bool:
        """Whether the task's life is over."""
        return self in _TERMINAL


_TERMINAL = frozenset(
    {
        TaskStatus.EXECUTED,
        TaskStatus.FAILED,
        TaskStatus.EXPIRED,
        TaskStatus.IGNORED,
        TaskStatus.CANCELLED,
    }
)


class EntityRef(Struct, frozen=True):
    """The thing of your domain that a task works on: a user, an order, a folder."""

    id: str
    type: str


class TaskMetadata(Struct, frozen=True, omit_defaults=True):
    """What travels with a task besides its payload, which Taskloom never touches."""

    log_context: dict[str, str] | None = None
    depth: int = 0
    """How many tasks stand above this one along the line of its parents."""


NO_METADATA = TaskMetadata()


class Task(
    Struct,
    Generic[PayloadT],
    frozen=True,
    kw_only=True,
    omit_defaults=True,
):
    """One piece of work. `Task(type=…, queue_id=…, payload=…)` is enough.

    Immutable: `replace` makes a changed copy. An id is there from the moment the task is made: a
    new UUIDv7, or inside an executor one derived from the running task, so that running it again
    makes the same children. `payload` is anything JSON can hold, checked when the task is added.

    Times are aware UTC, durations seconds. `retries` None means the executor's default,
    `retry_after` None means 2 seconds. Raises `InvalidTaskError`, naming the field.
    """

    type: str
    queue_id: str
    payload: PayloadT
    id: str = _LATER
    execute_at: datetime = _LATER
    expires_at: datetime | None = None
    status: TaskStatus = TaskStatus.SCHEDULED
    retries: int | None = None
    retry_after: float | None = None
    retry_count: int = 0
    force_store: bool = False
    task_group: str | None = None
    task_hash: str | None = None
    partition_key: str | None = None
    entity: EntityRef | None = None
    metadata: TaskMetadata = NO_METADATA
    execution_result: Any = UNSET
    execution_stats: dict[str, Any] = {}
    created_at: datetime = _LATER
    updated_at: datetime = _LATER
    processing_started_at: datetime | None = None

    def __post_init__(self) -> None:
        # Also runs on every task read back from an engine: each line costs there, so the common
        # case of each check is one comparison.
        if self.id is _LATER or self.created_at is _LATER:
            _complete(self)
        if self.execute_at.tzinfo is not UTC:
            force_setattr(self, "execute_at", _utc(self.execute_at, "execute_at"))
        if self.expires_at is not None and self.expires_at.tzinfo is not UTC:
            force_setattr(self, "expires_at", _utc(self.expires_at, "expires_at"))

    def replace(self, **changes: Any) -> Task[PayloadT]:
        """A copy with `changes`; checked like a new task."""
        changed = msgspec.structs.replace(self, **changes)
        check_task(changed)
        return changed


def _complete(task: Task[Any]) -> None:
    """Fill in what a task made by hand leaves out."""
    check_task(task)
    if task.id is _LATER:
        force_setattr(task, "id", _make_id(task))
    now = datetime.now(UTC)
    for field in ("created_at", "execute_at", "updated_at"):
        if getattr(task, field) is UNSET:
            force_setattr(task, field, now)


def _make_id(task: Task[Any]) -> str:
    source = running.get()
    if source is None:
        return new_id()
    try:
        return source.next_id(task.type, task.queue_id, task.payload)
    except RecursionError:
        raise InvalidTaskError("payload: nested too deeply, or in a cycle") from None
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidTaskError(f"payload: JSON cannot hold it ({one_line(str(error))})") from None


_TEXTS = ("task_group", "task_hash", "partition_key")
_TIMES = ("execute_at", "expires_at", "created_at", "updated_at", "processing_started_at")


def check_task(task: Task[Any]) -> None:
    """Everything about a task made by hand; raises `InvalidTaskError` naming the field."""
    _check_name(task.type, "type")
    _check_name(task.queue_id, "queue_id")
    if task.id is not _LATER and task.id:  # an id emptied by hand is allowed
        _check_name(task.id, "id")
    for field in _TEXTS:
        value = getattr(task, field)
        if value is not None:
            _check_name(value, field)
    for field in _TIMES:
        value = getattr(task, field)
        if value is not None and value is not UNSET and value.__class__ is not datetime:
            raise InvalidTaskError(f"{field}: must be a datetime, not {type(value).__name__}")
        if value is not None and value is not UNSET and value.tzinfo is None:
            raise InvalidTaskError(
                f"{field}: {value.isoformat()} has no time zone; use datetime.now(UTC)"
            )
    _check_count(task.retries, "retries")
    _check_count(task.retry_count, "retry_count")
    if task.retry_after is not None and task.retry_after.__class__ is not float:
        try:
            force_setattr(task, "retry_after", seconds(task.retry_after, "retry_after"))
        except (TypeError, ValueError) as error:
            raise InvalidTaskError(f"retry_after: {error}") from None
    elif task.retry_after is not None and not 0 <= task.retry_after < float("inf"):
        raise InvalidTaskError(f"retry_after: must be at least 0 seconds, not {task.retry_after}")


def _check_name(value: object, field: str) -> None:
    if not isinstance(value, str):
        raise InvalidTaskError(f"{field}: must be a text, not {type(value).__name__}")
    if not value:
        raise InvalidTaskError(f"{field}: must not be empty")
    if len(value) > 512:
        raise InvalidTaskError(f"{field}: longer than 512 characters")
    if not value.isprintable():
        raise InvalidTaskError(f"{field}: control characters are not allowed: {value!r:.80}")


def _check_count(value: object, field: str) -> None:
    if value is None:
        return
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidTaskError(f"{field}: must be a whole number, not {value!r:.80}")
    if value < 0:
        raise InvalidTaskError(f"{field}: must not be negative, not {value}")


def _utc(moment: datetime, field: str) -> datetime:
    if moment.tzinfo is None:
        raise InvalidTaskError(
            f"{field}: {moment.isoformat()} has no time zone; use datetime.now(UTC)"
        )
    return moment.astimezone(UTC)
