"""What an executor can say about its tasks, and what all who let it speak share."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

import msgspec
from msgspec import UNSET

from taskloom.clock import Seconds
from taskloom.codec import encode_checked
from taskloom.errors import InvalidFlowError
from taskloom.flows import FlowStep, NewFlow, check_flow, new_flow
from taskloom.task import EntityRef, FailurePolicy, FlowJoin, Task

__all__ = [
    "ExecutorActions",
    "Parent",
    "RunSettings",
    "begin_flow",
    "check_barrier",
    "checked_task",
]


class ExecutorActions(Protocol):
    """What an executor is given beside its task. The first word on a task counts."""

    @property
    def log(self) -> logging.LoggerAdapter[Any]:
        """A logger whose lines carry the task's log context."""
        ...

    def success(self, task: Task[Any], result: Any = UNSET) -> None:
        """The task is done. `result`: anything JSON can hold, at most 256 KiB of it."""
        ...

    def fail(
        self,
        task: Task[Any],
        error: BaseException | str | None = None,
        meta: Mapping[str, Any] | None = None,
    ) -> None:
        """The attempt failed; it is retried while there are retries left.

        `meta` is added to the task's `execution_stats`.
        """
        ...

    def add_tasks(self, tasks: Iterable[Task[Any]], *, parent: Task[Any] | None = None) -> None:
        """Add tasks when this one settles, together with it.

        The running task's own id reschedules it with the fields given, in place of an outcome.
        `parent` (in multi executors) names the task they come from, so that they get the same ids
        if it runs again. More than `max_children` of them fail the attempt.
        """
        ...

    def start_flow(
        self,
        steps: Sequence[FlowStep],
        *,
        join: FlowJoin,
        failure_policy: FailurePolicy = "continue",
        timeout: Seconds | None = None,
        entity: EntityRef | None = None,
        parent: Task[Any] | None = None,
    ) -> str:
        """Start a flow when this task settles, together with it. Returns the flow's id at once.

        The steps run side by side; when each has ended, `join` runs with their `FlowResults`.
        `"abort"`: the first step that fails for good hands the join over at once. `timeout`: so do
        so many seconds. `parent` as of `add_tasks`. `InvalidFlowError` for what could never end.
        """
        ...


class RunSettings(msgspec.Struct, frozen=True):
    """What every attempt of a runner shares."""

    worker_id: str
    max_children: int
    max_depth: int
    admit: Callable[[Task[Any]], Task[Any]]
    """Checks a task and completes it; raises `InvalidTaskError`."""
    now: Callable[[], datetime]
    has_barrier: bool
    """Whether flows can be started here."""


class Parent(Protocol):
    """Whoever makes tasks while it runs: one attempt, or a call on many tasks."""

    def next_id(self, type: str, queue_id: str, payload: Any) -> str: ...
    def adopt(self, task: Task[Any]) -> Task[Any]: ...
    def claim_room(self, count: int) -> None: ...


def begin_flow(
    parent: Parent,
    settings: RunSettings,
    steps: Sequence[FlowStep],
    join: FlowJoin,
    *,
    failure_policy: FailurePolicy,
    timeout: Seconds | None,
    entity: EntityRef | None,
) -> tuple[NewFlow, list[Task[Any]]]:
    """A flow as `parent` starts it, under an id that is the same if it runs again.

    Raises `InvalidFlowError`, `InvalidTaskError`, `TooManyChildrenError`, `NestingError`.
    """
    check_barrier(settings.has_barrier)
    check_flow(steps, join, failure_policy, timeout, entity)
    for index, step in enumerate(steps):
        encode_checked(step.payload, f"steps[{index}].payload")
    parent.claim_room(len(steps))
    content = {"steps": steps, "policy": failure_policy, "entity": entity}
    flow_id = parent.next_id(f"_flow:{join.type}", join.queue_id, content)
    return new_flow(
        flow_id,
        steps,
        join,
        failure_policy=failure_policy,
        timeout=timeout,
        entity=entity,
        now=settings.now(),
        adopt=parent.adopt,
    )


def check_barrier(has_one: bool) -> None:
    """Raise `InvalidFlowError` where flows cannot be counted."""
    if not has_one:
        raise InvalidFlowError(
            "a flow needs a flow barrier: pass flow_barrier=… to the Loom, or to TaskHandlerConfig"
        )


def checked_task(task: object) -> Task[Any]:
    """`task`, or a `TypeError` for what is none."""
    if not isinstance(task, Task):
        raise TypeError(f"expected a Task, not {type(task).__name__}")
    return task
