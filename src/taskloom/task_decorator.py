"""What `loom.task(…)` returns, and the executor that its options ask for."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from taskloom.actions import ExecutorActions
from taskloom.attempt import Attempt
from taskloom.batch_function import BatchFunction
from taskloom.clock import Seconds, seconds
from taskloom.executors import (
    AsyncConfig,
    Executor,
    MultiTaskExecutor,
    OnTask,
    OnTasks,
    ParallelTaskExecutor,
    RetryPolicy,
    SingleTaskExecutor,
)
from taskloom.signature import BatchSignature, TaskSignature
from taskloom.task import Task
from taskloom.task_function import TaskFunction

__all__ = ["BatchDecorator", "FunctionOptions", "TaskDecorator", "check_name"]

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])
R = TypeVar("R")
RowT = TypeVar("RowT")


class TaskDecorator(Protocol):
    """Makes a `TaskFunction`."""

    def __call__(self, function: FunctionT, /) -> TaskFunction[FunctionT]: ...


class BatchDecorator(Protocol):
    """Makes a `BatchFunction`."""

    def __call__(
        self, function: Callable[[list[Task[RowT]], ExecutorActions], R], /
    ) -> BatchFunction[RowT, R]: ...


@dataclass(frozen=True, kw_only=True)
class FunctionOptions:
    """The options of `Loom.task`; `ValueError` naming the one that makes no sense."""

    queue: str
    retries: int
    concurrency: int
    sequential: bool
    batch: int | None
    store_on_failure: bool
    handoff_after: Seconds | None
    partition_key: Callable[[Task[Any]], str | None] | None
    timeout: Seconds | None
    retry_policy: RetryPolicy | None

    def __post_init__(self) -> None:
        check_name(self.queue, "queue")
        _check_number(self.retries, "retries", 0)
        _check_number(self.concurrency, "concurrency", 1)
        if self.batch is not None:
            _check_number(self.batch, "batch", 1)
        if self.batch is not None and self.sequential:
            raise ValueError("batch and sequential: give one of them, not both")
        if self.handoff_after is not None:
            seconds(self.handoff_after, "handoff_after")
            if self.batch is not None:
                raise ValueError("batch and handoff_after: a call on many tasks is not handed off")
        if self.timeout is not None and seconds(self.timeout, "timeout") == 0:
            raise ValueError("timeout must be more than 0 seconds; None for no limit")
        for name in ("sequential", "store_on_failure"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be True or False, not {getattr(self, name)!r:.80}")
        for name in ("partition_key", "retry_policy"):
            value = getattr(self, name)
            if value is not None and not callable(value):
                raise ValueError(f"{name} must be a function, not {value!r:.80}")

    def executor(self, signature: TaskSignature) -> Executor:
        """Runs tasks of a function: one by one, or `concurrency` at once."""
        run, options = _on_task(signature), self._common()
        if self.handoff_after is not None:
            options["async_config"] = AsyncConfig(handoff_timeout=self.handoff_after)
        if self.sequential:
            return SingleTaskExecutor(run, **options)
        return ParallelTaskExecutor(run, chunk_size=self.concurrency, **options)

    def batch_executor(self, signature: BatchSignature) -> Executor:
        """Runs tasks of a batch function: `batch` in one call."""
        return MultiTaskExecutor(_on_tasks(signature), max_batch=self.batch, **self._common())

    def _common(self) -> dict[str, Any]:
        return {
            "store_on_failure": self.store_on_failure,
            "default_retries": self.retries,
            "get_partition_key": self.partition_key,
            "retry_policy": self.retry_policy,
            "timeout": self.timeout,
        }


def _on_task(signature: TaskSignature) -> OnTask:
    """The executor's function: payload to arguments, return value to result.

    A plain function's is plain too, so that it runs in a thread.
    """
    function = signature.function

    async def call_async(task: Task[Any], actions: ExecutorActions) -> None:
        args, kwargs = signature.arguments(task, actions)
        _succeed(task, actions, await function(*args, **kwargs))

    def call_plain(task: Task[Any], actions: ExecutorActions) -> None:
        args, kwargs = signature.arguments(task, actions)
        _succeed(task, actions, function(*args, **kwargs))

    return call_async if inspect.iscoroutinefunction(function) else call_plain


def _on_tasks(signature: BatchSignature) -> OnTasks:
    """The multi executor's function: tasks with their payloads as rows.

    A task whose payload is no row fails by itself; the function is not called for none.
    """
    function = signature.function

    async def call_async(tasks: list[Task[Any]], actions: ExecutorActions) -> None:
        if rows := _rows(signature, tasks, actions):
            await function(rows, actions)

    def call_plain(tasks: list[Task[Any]], actions: ExecutorActions) -> None:
        if rows := _rows(signature, tasks, actions):
            function(rows, actions)

    return call_async if inspect.iscoroutinefunction(function) else call_plain


def _succeed(task: Task[Any], actions: ExecutorActions, result: object) -> None:
    # A function that was handed the actions may have failed or rescheduled its task: then its
    # return is not a second word.
    if not (isinstance(actions, Attempt) and actions.word is not None):
        actions.success(task, result)


def _rows(
    signature: BatchSignature, tasks: list[Task[Any]], actions: ExecutorActions
) -> list[Task[Any]]:
    rows = []
    for task in tasks:
        try:
            rows.append(signature.row(task))
        except TypeError as error:
            actions.fail(task, error)
    return rows


def check_name(value: object, option: str) -> None:
    """`ValueError` unless `value` is a text that is not empty."""
    if not isinstance(value, str) or not value:
        raise ValueError(f"{option} must be a text that is not empty, not {value!r:.80}")


def _check_number(value: object, option: str, at_least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < at_least:
        raise ValueError(
            f"{option} must be a whole number of at least {at_least}, not {value!r:.80}"
        )
