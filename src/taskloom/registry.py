"""TaskQueuesManager: which executor runs which type of task in which queue."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeVar

from taskloom.errors import RegistrationError
from taskloom.executors import (
    Executor,
    MultiTaskExecutor,
    ParallelTaskExecutor,
    SingleTaskExecutor,
)
from taskloom.interfaces.message_queue import MessageQueue

__all__ = ["TaskQueuesManager"]

_F = TypeVar("_F", bound=Callable[..., Any])
_KINDS: dict[str, Callable[..., Executor]] = {
    "single": SingleTaskExecutor,
    "parallel": ParallelTaskExecutor,
    "multi": MultiTaskExecutor,
}


class TaskQueuesManager:
    """The executors of one process.

    queues = TaskQueuesManager(message_queue)
    queues.register("email", "send", SingleTaskExecutor(send, store_on_failure=True))

    @queues.executor("email", "receipt", kind="parallel", chunk_size=8, store_on_failure=True)
    async def receipt(task, actions): ...
    """

    def __init__(self, message_queue: MessageQueue) -> None:
        self.message_queue = message_queue
        self._executors: dict[str, dict[str, Executor]] = {}

    def register(
        self, queue_id: str, task_type: str, executor: Executor, *, replace: bool = False
    ) -> None:
        """Run tasks of `task_type` in `queue_id` with `executor`.

        A second executor for the same type raises `RegistrationError` unless `replace`.
        """
        if not isinstance(executor, SingleTaskExecutor | MultiTaskExecutor):
            raise TypeError(
                "executor must be a SingleTaskExecutor, ParallelTaskExecutor or "
                f"MultiTaskExecutor, not {type(executor).__name__}"
            )
        for name, value in (("queue_id", queue_id), ("task_type", task_type)):
            if not isinstance(value, str) or not value:
                raise ValueError(f"{name} must be a text that is not empty, not {value!r}")
        types = self._executors.setdefault(queue_id, {})
        if task_type in types and not replace:
            raise RegistrationError(
                f"queue {queue_id!r} already has an executor for {task_type!r}; "
                "pass replace=True to put another one in its place"
            )
        types[task_type] = executor
        self.message_queue.register(queue_id)

    def executor(
        self,
        queue_id: str,
        task_type: str,
        *,
        kind: Literal["single", "parallel", "multi"] = "single",
        **options: Any,
    ) -> Callable[[_F], _F]:
        """A decorator that registers a function; `options` are those of the kind of executor."""
        if kind not in _KINDS:
            raise ValueError(f"kind must be one of {', '.join(_KINDS)}, not {kind!r}")

        def register(function: _F) -> _F:
            self.register(queue_id, task_type, _KINDS[kind](function, **options))
            return function

        return register

    def get_executor(self, queue_id: str, task_type: str) -> Executor | None:
        """The executor, or None."""
        types = self._executors.get(queue_id)
        return None if types is None else types.get(task_type)

    def get_queues(self) -> list[str]:
        """The queues that have executors, in the order they were first registered."""
        return list(self._executors)

    def get_task_types_for_queue(self, queue_id: str) -> list[str]:
        """The types with an executor in this queue; empty for an unknown queue."""
        return list(self._executors.get(queue_id, ()))
