"""What a worker tells about its work: event values and the providers that receive them.

An event is one flat value: what it is about (`TaskContext`, `WorkerInfo`, `ConsumerInfo`) and what
happened to it, side by side. Times are aware UTC, every `*_duration` is in seconds.

Per task: scheduled, started, completed or failed; after the last failure also exhausted.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any, Literal, TypeAlias

from msgspec import UNSET, Struct
from msgspec.structs import force_setattr

from taskloom.clock import Seconds, seconds
from taskloom.errors import ConfigurationError
from taskloom.flow_events import FlowLifecycleProvider
from taskloom.queue_events import QueueLifecycleProvider
from taskloom.task import Task

__all__ = [
    "EVENTS",
    "BatchCompleted",
    "BatchStarted",
    "ConsumerInfo",
    "ConsumerStarted",
    "ConsumerStats",
    "ConsumerStopped",
    "LifecycleConfig",
    "LifecycleMode",
    "QueueLifecycleConfig",
    "QueueStats",
    "TaskBatchCompleted",
    "TaskBatchStarted",
    "TaskCancelled",
    "TaskCompleted",
    "TaskContext",
    "TaskErrorEvent",
    "TaskExhausted",
    "TaskFailed",
    "TaskLifecycleProvider",
    "TaskNotificationProvider",
    "TaskScheduled",
    "TaskStarted",
    "TaskTiming",
    "TasksDiscarded",
    "WorkerHeartbeat",
    "WorkerInfo",
    "WorkerLifecycleProvider",
    "WorkerStarted",
    "WorkerStats",
    "WorkerStopped",
    "task_context",
]

LifecycleMode: TypeAlias = Literal["async", "sync"]


class LifecycleConfig(Struct, frozen=True, kw_only=True):
    """How events reach their providers. Raises `ConfigurationError` naming the field.

    `"async"`: queued and delivered in order beside the work. `"sync"`: each callback is awaited
    before the work goes on. `heartbeat_interval` is in seconds and above 0.
    """

    mode: LifecycleMode = "async"
    heartbeat_interval: Seconds = 5.0
    include_payload: bool = False

    def __post_init__(self) -> None:
        _check_mode(self.mode)
        try:
            interval = seconds(self.heartbeat_interval, "heartbeat_interval")
        except (TypeError, ValueError) as error:
            raise ConfigurationError(str(error)) from None
        if interval == 0:
            raise ConfigurationError("heartbeat_interval must be more than 0 seconds")
        force_setattr(self, "heartbeat_interval", interval)


class QueueLifecycleConfig(Struct, frozen=True):
    """Whom a queue tells, and how: see `MessageQueue.set_lifecycle`.

    `"async"`: told in order beside the work. `"sync"`: putting and claiming wait until it is told,
    at most a second. Raises `ConfigurationError`.
    """

    provider: QueueLifecycleProvider
    mode: LifecycleMode = "async"

    def __post_init__(self) -> None:
        _check_mode(self.mode)


def _check_mode(mode: object) -> None:
    if mode not in ("async", "sync"):
        raise ConfigurationError(f'mode must be "async" or "sync", not {mode!r:.80}')


# Tasks


class TaskContext(Struct, frozen=True, kw_only=True):
    """Which task, and which attempt of it.

    `attempt` counts from 1; `scheduled_at` is when the task was made. `payload` is empty unless
    `LifecycleConfig.include_payload` asks for it. `worker_id` and `consumer_id` are None where no
    worker has the task.
    """

    task_id: str
    task_type: str
    queue_id: str
    attempt: int
    max_retries: int
    scheduled_at: datetime
    task_hash: str | None = None
    payload: Any = {}
    worker_id: str | None = None
    consumer_id: str | None = None
    log_context: dict[str, str] = {}


def task_context(
    task: Task[Any],
    *,
    max_retries: int,
    worker_id: str | None = None,
    consumer_id: str | None = None,
    include_payload: bool = False,
) -> dict[str, Any]:
    """The fields of `TaskContext` for `task`: `TaskStarted(**task_context(…), started_at=…)`."""
    return {
        "task_id": task.id,
        "task_type": task.type,
        "queue_id": task.queue_id,
        "attempt": task.retry_count + 1,
        "max_retries": max_retries,
        "scheduled_at": task.created_at,
        "task_hash": task.task_hash,
        "payload": task.payload if include_payload else {},
        "worker_id": worker_id,
        "consumer_id": consumer_id,
        "log_context": task.metadata.log_context or {},
    }


class TaskTiming(TaskContext, frozen=True, kw_only=True):
    """A task and how long it took: waiting, running, and both, since it was made."""

    queued_duration: float
    processing_duration: float
    total_duration: float


class TaskScheduled(TaskContext, frozen=True, kw_only=True):
    """A task was accepted."""


class TaskStarted(TaskContext, frozen=True, kw_only=True):
    """An attempt begins."""

    started_at: datetime
    queued_duration: float


class TaskCompleted(TaskTiming, frozen=True, kw_only=True):
    """A task succeeded, and that is settled. `result` is UNSET when none was given."""

    result: Any = UNSET


class TaskFailed(TaskTiming, frozen=True, kw_only=True):
    """An attempt failed. `error` is what was raised; a `TaskFailedError` for a text.

    `next_attempt_at` is None when there is no retry.
    """

    error: BaseException
    will_retry: bool
    next_attempt_at: datetime | None = None


class TaskExhausted(TaskTiming, frozen=True, kw_only=True):
    """The last attempt failed; comes after its `TaskFailed`."""

    error: BaseException
    total_attempts: int


class TaskCancelled(TaskContext, frozen=True, kw_only=True):
    """A waiting task was cancelled."""

    reason: str


class TaskBatchStarted(Struct, frozen=True, kw_only=True):
    """A multi executor is called with these tasks."""

    task_type: str
    queue_id: str
    tasks: list[TaskContext]
    worker_id: str | None = None
    consumer_id: str | None = None
    started_at: datetime


class TaskBatchCompleted(TaskBatchStarted, frozen=True, kw_only=True):
    """The call ended. `succeeded` and `failed` are task ids; no word on a task is a failure."""

    succeeded: list[str]
    failed: list[str]
    batch_duration: float


# Workers and their consumers


class WorkerInfo(Struct, frozen=True, kw_only=True):
    """Which worker."""

    worker_id: str
    hostname: str
    pid: int
    started_at: datetime
    enabled_queues: list[str]


class WorkerStats(WorkerInfo, frozen=True, kw_only=True):
    """A worker and what it has done since it started, handed-off tasks included.

    `tasks_processed` are attempts that succeeded or failed. `avg_processing_duration` is the mean
    of their running times, 0 when there are none. `current_task` is an id while exactly one runs.
    """

    tasks_processed: int
    tasks_succeeded: int
    tasks_failed: int
    tasks_running: int = 0
    avg_processing_duration: float = 0.0
    current_task: str | None = None


class WorkerStarted(WorkerInfo, frozen=True, kw_only=True):
    """A worker begins to claim."""


class WorkerHeartbeat(WorkerStats, frozen=True, kw_only=True):
    """A worker lives. `memory_usage` is the process's resident memory in bytes."""

    memory_usage: int
    active_consumers: int


class WorkerStopped(WorkerStats, frozen=True, kw_only=True):
    """A worker has settled what it ran and claims no more."""

    reason: str


class BatchStarted(WorkerInfo, frozen=True, kw_only=True):
    """A worker took a claim of `batch_size` tasks; `task_types` are the distinct ones."""

    queue_id: str
    batch_size: int
    task_types: list[str]


class BatchCompleted(WorkerInfo, frozen=True, kw_only=True):
    """A claim's tasks have all ended. What neither succeeded nor failed is in `batch_size` only."""

    queue_id: str
    batch_size: int
    succeeded: int
    failed: int
    batch_duration: float


class ConsumerInfo(Struct, frozen=True, kw_only=True):
    """Which consumer: one per queue (of a stream: per shard) and worker."""

    consumer_id: str
    queue_id: str
    worker_id: str
    started_at: datetime


class ConsumerStats(ConsumerInfo, frozen=True, kw_only=True):
    """A consumer and what it has done. `last_task_at` is None before its first task ended."""

    tasks_processed: int
    tasks_succeeded: int
    tasks_failed: int
    last_task_at: datetime | None = None


class ConsumerStarted(ConsumerInfo, frozen=True, kw_only=True):
    """A consumer received its first delivery."""


class ConsumerStopped(ConsumerStats, frozen=True, kw_only=True):
    """A consumer claims no more."""


# Figures for notifications


class QueueStats(Struct, frozen=True, kw_only=True):
    """What one worker did on one queue since the figures were last told."""

    queue_id: str
    success: int
    failed: int
    handed_off: int
    ignored: int
    instance_id: str


class TasksDiscarded(Struct, frozen=True, kw_only=True):
    """Tasks whose retries were used up and that nothing remembers."""

    count: int
    last_24_hours: int


class TaskErrorEvent(Struct, frozen=True, kw_only=True):
    """Something around the tasks went wrong and the work went on. `context` says what was done."""

    error: BaseException
    context: str
    task_id: str | None = None
    task_type: str | None = None
    queue_id: str | None = None


# Providers

Reply: TypeAlias = Awaitable[None] | None
"""Callbacks may be plain or async. A plain one runs on the event loop and must not block it."""


class TaskLifecycleProvider:
    """Told what happens to tasks. Override what you need, as `def` or `async def`.

    An error in a callback is logged and changes nothing.
    """

    def on_task_scheduled(self, event: TaskScheduled) -> Reply: ...
    def on_task_started(self, event: TaskStarted) -> Reply: ...
    def on_task_completed(self, event: TaskCompleted) -> Reply: ...
    def on_task_failed(self, event: TaskFailed) -> Reply: ...
    def on_task_exhausted(self, event: TaskExhausted) -> Reply: ...
    def on_task_cancelled(self, event: TaskCancelled) -> Reply: ...
    def on_task_batch_started(self, event: TaskBatchStarted) -> Reply: ...
    def on_task_batch_completed(self, event: TaskBatchCompleted) -> Reply: ...


class WorkerLifecycleProvider:
    """Told what workers do. Override what you need, as `def` or `async def`."""

    def on_worker_started(self, event: WorkerStarted) -> Reply: ...
    def on_worker_heartbeat(self, event: WorkerHeartbeat) -> Reply: ...
    def on_worker_stopped(self, event: WorkerStopped) -> Reply: ...
    def on_batch_started(self, event: BatchStarted) -> Reply: ...
    def on_batch_completed(self, event: BatchCompleted) -> Reply: ...
    def on_consumer_started(self, event: ConsumerStarted) -> Reply: ...
    def on_consumer_stopped(self, event: ConsumerStopped) -> Reply: ...


class TaskNotificationProvider:
    """Told what someone on duty wants to know. Override what you need, as `def` or `async def`."""

    def on_queue_stats(self, event: QueueStats) -> Reply: ...
    def on_tasks_discarded(self, event: TasksDiscarded) -> Reply: ...
    def on_task_error(self, event: TaskErrorEvent) -> Reply: ...
    def on_final_stats(self, event: list[QueueStats]) -> Reply: ...


_PROVIDERS = (
    TaskLifecycleProvider,
    WorkerLifecycleProvider,
    FlowLifecycleProvider,
    TaskNotificationProvider,
    QueueLifecycleProvider,
)

EVENTS: dict[str, Callable[..., Reply]] = {
    name: method
    for provider in _PROVIDERS
    for name, method in vars(provider).items()
    if name.startswith("on_")
}
"""Every callback's name, with the method of the base class that does nothing."""
