"""The three kinds of executor: what to call for a type of task, and how."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from taskloom.clock import Seconds, seconds
from taskloom.task import Task

if TYPE_CHECKING:
    from taskloom.actions import ExecutorActions

__all__ = [
    "AsyncConfig",
    "Executor",
    "MultiTaskExecutor",
    "OnTask",
    "OnTasks",
    "ParallelTaskExecutor",
    "RetryPolicy",
    "SingleTaskExecutor",
]

OnTask: TypeAlias = Callable[[Task[Any], "ExecutorActions"], Awaitable[Any] | Any]
OnTasks: TypeAlias = Callable[[list[Task[Any]], "ExecutorActions"], Awaitable[Any] | Any]
RetryPolicy: TypeAlias = Callable[[Task[Any], BaseException], float | None]
"""Seconds until the next attempt, or None for no more."""


@dataclass(frozen=True)
class _Options:
    """What all executors have in common."""

    _: KW_ONLY
    store_on_failure: bool
    """Keep a task that failed in the storage, where the queue alone would forget it."""
    default_retries: int = 0
    """How many retries a task gets that does not say so itself."""
    get_partition_key: Callable[[Task[Any]], str | None] | None = None
    """Fills `partition_key` of tasks that have none, when they are added."""
    payload_type: Any = None
    """What the payload is converted to before each run; None leaves it as JSON gave it."""
    retry_policy: RetryPolicy | None = None
    """Replaces the number of retries and their delays."""
    timeout: Seconds | None = None
    """Seconds one attempt (of a multi executor: one call) may take before it is cancelled."""

    @property
    def time_limit(self) -> float | None:
        """`timeout` in seconds."""
        return None if self.timeout is None else seconds(self.timeout, "timeout")

    def _check_options(self) -> None:
        if not isinstance(self.store_on_failure, bool):
            raise TypeError("store_on_failure must be True or False")
        _check_number(self.default_retries, "default_retries", at_least=0)
        _check_callable(self.get_partition_key, "get_partition_key", optional=True)
        _check_callable(self.retry_policy, "retry_policy", optional=True)
        if self.time_limit == 0:
            raise ValueError("timeout must be more than 0 seconds; None for no limit")


@dataclass(frozen=True)
class AsyncConfig:
    """When a run is long enough to be handed off, so that its slot goes on with the next task.

        AsyncConfig(handoff_timeout=30, max_concurrent_async=20, max_duration=timedelta(hours=1))

    Durations are seconds or `timedelta`s, and seconds when read.
    """

    handoff_timeout: Seconds
    """A run that has taken so long is handed to the `AsyncTaskManager`."""
    max_concurrent_async: int | None = None
    """Handed-off runs of one type at a time; more stay in their slots. None: what the manager has
    room for."""
    max_duration: Seconds | None = None
    """How long a run may go on once it was handed off, before it is cancelled and fails. None: the
    manager's `default_max_duration`."""

    def __post_init__(self) -> None:
        after = seconds(self.handoff_timeout, "handoff_timeout")
        object.__setattr__(self, "handoff_timeout", after)
        if self.max_concurrent_async is not None:
            _check_number(self.max_concurrent_async, "max_concurrent_async", at_least=1)
        if self.max_duration is not None:
            longest = seconds(self.max_duration, "max_duration")
            if longest == 0:
                raise ValueError("max_duration must be more than 0 seconds; None for the manager's")
            object.__setattr__(self, "max_duration", longest)


@dataclass(frozen=True)
class SingleTaskExecutor(_Options):
    """One task at a time, in the order they are due.

        SingleTaskExecutor(send_email, store_on_failure=True, default_retries=3)

    `on_task(task, actions)` may be `async def`, or a plain `def`, which runs in a thread.
    """

    on_task: OnTask
    _: KW_ONLY
    async_config: AsyncConfig | None = None
    """Lets runs that take long leave their slot; None: each keeps its slot to its end."""

    def __post_init__(self) -> None:
        _check_callable(self.on_task, "on_task")
        self._check_options()
        if not isinstance(self.async_config, AsyncConfig | None):
            kind = type(self.async_config).__name__
            raise TypeError(f"async_config must be an AsyncConfig, not {kind}")

    @property
    def slots(self) -> int:
        """How many tasks run at once."""
        return 1


@dataclass(frozen=True)
class ParallelTaskExecutor(SingleTaskExecutor):
    """At most `chunk_size` tasks at once; a slot is filled again as soon as it is free."""

    _: KW_ONLY
    chunk_size: int

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_number(self.chunk_size, "chunk_size", at_least=1)

    @property
    def slots(self) -> int:
        """How many tasks run at once."""
        return self.chunk_size


@dataclass(frozen=True)
class MultiTaskExecutor(_Options):
    """Many tasks in one call: `on_tasks(tasks, actions)` reports on each of them.

    A call gets what was claimed together, at most `max_batch` tasks (None: no limit of its own).
    """

    on_tasks: OnTasks
    _: KW_ONLY
    max_batch: int | None = None

    def __post_init__(self) -> None:
        _check_callable(self.on_tasks, "on_tasks")
        self._check_options()
        if self.max_batch is not None:
            _check_number(self.max_batch, "max_batch", at_least=1)

    @property
    def slots(self) -> int:
        """How many tasks one call can take."""
        return self.max_batch or 1000


Executor: TypeAlias = SingleTaskExecutor | ParallelTaskExecutor | MultiTaskExecutor


def _check_callable(value: object, name: str, *, optional: bool = False) -> None:
    if not callable(value) and not (optional and value is None):
        raise TypeError(f"{name} must be callable, not {type(value).__name__}")


def _check_number(value: object, name: str, *, at_least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be a whole number, not {value!r:.80}")
    if value < at_least:
        raise ValueError(f"{name} must be at least {at_least}, not {value}")
