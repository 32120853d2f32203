"""The task: a small value that says what to do, where and when."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Generic, Literal, TypeAlias, TypeVar

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
    "FailurePolicy",
    "FlowJoin",
    "FlowMeta",
    "PayloadT",
    "Task",
    "TaskMetadata",
    "TaskStatus",
    "check_entity",
    "check_task",
    "with_payload",
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


FailurePolicy: TypeAlias = Literal["continue", "abort"]
"""What the final failure of a step means: its flow goes on, or hands its join over at once."""


class FlowJoin(Struct, frozen=True):
    """The task that gets the results of all steps of a flow."""

    type: str
    queue_id: str


class FlowMeta(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Which part of which flow a task is."""

    flow_id: str
    step_index: int
    """From 0; -1 for the join and the sentinel."""
    total_steps: int
    join: FlowJoin
    failure_policy: FailurePolicy = "continue"
    is_join: bool = False
    is_timeout: bool = False
    entity: EntityRef | None = None
    """What the whole flow works on."""


class TaskMetadata(Struct, frozen=True, omit_defaults=True):
    """What travels with a task besides its payload, which Taskloom never touches."""

    log_context: dict[str, str] | None = None
    depth: int = 0
    """How many tasks stand above this one along the line of its parents."""
    flow: FlowMeta | None = None


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
        if (
            self.id is _LATER
            or self.created_at is _LATER
            or self.execute_at is _LATER
            or self.updated_at is _LATER
        ):
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


# In msgspec, not in its stubs: half the price of `structs.replace`, which would check again.
_copy: Callable[[Task[Any]], Task[Any]] = Task.__copy__  # type: ignore[attr-defined]


def with_payload(task: Task[Any], payload: Any) -> Task[Any]:
    """A copy of `task` with another payload; nothing is checked."""
    copy = _copy(task)
    force_setattr(copy, "payload", payload)
    return copy


def _complete(task: Task[Any]) -> None:
    """Fill in what a task made by hand leaves out."""
    check_task(task)
    if task.id is _LATER:
        force_setattr(task, "id", _make_id(task))
    now = datetime.now(UTC)
    if task.created_at is _LATER:
        force_setattr(task, "created_at", now)
    if task.execute_at is _LATER:
        force_setattr(task, "execute_at", now)
    if task.updated_at is _LATER:
        force_setattr(task, "updated_at", now)


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


def check_task(task: Task[Any]) -> None:
    """Everything about a task made by hand; raises `InvalidTaskError` naming the field."""
    # Spelled out, not looped over, the common case first: it runs for every task that is added.
    _check_common_name(task.type, "type")
    _check_common_name(task.queue_id, "queue_id")
    if task.id is not _LATER and task.id:  # an id emptied by hand is allowed
        _check_name(task.id, "id")
    if task.task_group is not None:
        _check_name(task.task_group, "task_group")
    if task.task_hash is not None:
        _check_name(task.task_hash, "task_hash")
    if task.partition_key is not None:
        _check_name(task.partition_key, "partition_key")
    if task.entity is not None:
        check_entity(task.entity)
    _check_times(task)
    if task.retries is not None:
        _check_count(task.retries, "retries")
    _check_count(task.retry_count, "retry_count")
    if task.retry_after is not None:
        _check_retry_after(task)


def check_entity(entity: object) -> None:
    """What a task or a flow works on; raises `InvalidTaskError` naming the field."""
    if not isinstance(entity, EntityRef):
        raise InvalidTaskError(f"entity: must be an EntityRef, not {type(entity).__name__}")
    _check_name(entity.id, "entity.id")
    _check_name(entity.type, "entity.type")


def _check_times(task: Task[Any]) -> None:
    first = task.execute_at  # most often all three are one object
    if first is not _LATER:
        _check_time(first, "execute_at")
    if task.expires_at is not None:
        _check_time(task.expires_at, "expires_at")
    if task.created_at is not first and task.created_at is not _LATER:
        _check_time(task.created_at, "created_at")
    if task.updated_at is not first and task.updated_at is not _LATER:
        _check_time(task.updated_at, "updated_at")
    if task.processing_started_at is not None:
        _check_time(task.processing_started_at, "processing_started_at")


def _check_time(value: object, field: str) -> None:
    if not isinstance(value, datetime):
        raise InvalidTaskError(f"{field}: must be a datetime, not {type(value).__name__}")
    if value.tzinfo is None:
        raise InvalidTaskError(
            f"{field}: {value.isoformat()} has no time zone; use datetime.now(UTC)"
        )


def _check_retry_after(task: Task[Any]) -> None:
    try:
        force_setattr(task, "retry_after", seconds(task.retry_after or 0.0, "retry_after"))
    except (TypeError, ValueError) as error:
        raise InvalidTaskError(f"retry_after: {error}") from None


_known_names: set[str] = set()
"""Types and queues seen before: there are few, and each comes with every task."""


def _check_common_name(value: str, field: str) -> None:
    if value.__class__ is str and value in _known_names:
        return
    _check_name(value, field)
    if len(_known_names) < 1000:
        _known_names.add(value)


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
    if value.__class__ is not int:
        raise InvalidTaskError(f"{field}: must be a whole number, not {value!r:.80}")
    if value < 0:
        raise InvalidTaskError(f"{field}: must not be negative, not {value}")


def _utc(moment: datetime, field: str) -> datetime:
    _check_time(moment, field)
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise InvalidTaskError(f"{field}: {moment.isoformat()} is beyond the calendar") from None
