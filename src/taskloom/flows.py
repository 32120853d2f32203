"""Flows: many steps side by side, then one join with what became of each. Values, no I/O.

The ids of steps, sentinel and join derive from the flow's id: whoever makes them, after whatever
crash, makes the same tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal, TypeAlias

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from taskloom.clock import Seconds, seconds
from taskloom.codec import to_builtins
from taskloom.errors import InvalidFlowError
from taskloom.identity import derive_id
from taskloom.task import (
    EntityRef,
    FailurePolicy,
    FlowJoin,
    FlowMeta,
    Task,
    TaskMetadata,
    check_entity,
)

__all__ = [
    "TIMEOUT_TYPE",
    "FlowEnd",
    "FlowResults",
    "FlowStep",
    "FlowStepResult",
    "NewFlow",
    "StepStatus",
    "check_flow",
    "early_end",
    "flow_of_step",
    "flow_results",
    "is_copy",
    "join_id",
    "join_task",
    "join_template",
    "new_flow",
    "step_id",
    "timeout_id",
]

TIMEOUT_TYPE = "_flow.timeout"
"""The type of the task that ends a flow when its time is over; Taskloom itself runs it."""

StepStatus: TypeAlias = Literal["success", "fail"]
FlowEnd: TypeAlias = Literal["completed", "aborted", "timed_out"]
"""How a flow came to hand over its join."""


class FlowStep(Struct, frozen=True):
    """One task of a flow. `payload` reaches its executor as it is."""

    type: str
    queue_id: str
    payload: Any
    entity: EntityRef | None = None


class FlowStepResult(Struct, frozen=True):
    """How one step ended for good."""

    step_index: int
    status: StepStatus
    result: Any = None
    """What it returned; `{"result_dropped": bytes}` where that was too large to keep."""
    error: str | None = None


class FlowResults(Struct, frozen=True):
    """What a join is given: the steps that counted, ordered by their index."""

    flow_id: str
    steps: list[FlowStepResult]
    aborted: bool = False
    timed_out: bool = False
    barrier_lost: bool = False
    """The barrier had been lost while steps ran: `steps` are those the storage still knew."""


class NewFlow(Struct, frozen=True):
    """What a barrier keeps of a flow that starts."""

    flow_id: str
    total_steps: int
    join: Task[Any]
    """The join task, still without results: what `join_task` makes the real one from."""


def new_flow(
    flow_id: str,
    steps: Sequence[FlowStep],
    join: FlowJoin,
    *,
    failure_policy: FailurePolicy = "continue",
    timeout: Seconds | None = None,
    entity: EntityRef | None = None,
    now: datetime,
    adopt: Callable[[Task[Any]], Task[Any]] = lambda task: task,
) -> tuple[NewFlow, list[Task[Any]]]:
    """A flow's barrier entry, and its tasks: the steps by index, then the sentinel if it has one.

    `adopt` completes and checks each task, the join included. Raises `InvalidFlowError` for what
    could never end, `TypeError` for what is no step or join.
    """
    limit = check_flow(steps, join, failure_policy, timeout, entity)
    meta = FlowMeta(
        flow_id=flow_id,
        step_index=-1,
        total_steps=len(steps),
        join=join,
        failure_policy=failure_policy,
        entity=entity,
    )
    times: dict[str, Any] = {"execute_at": now, "created_at": now, "updated_at": now}
    tasks = [
        Task(
            id=step_id(flow_id, index),
            type=step.type,
            queue_id=step.queue_id,
            payload=step.payload,
            entity=step.entity,
            metadata=TaskMetadata(flow=replace(meta, step_index=index)),
            force_store=True,
            **times,
        )
        for index, step in enumerate(steps)
    ]
    if limit is not None:
        sentinel: Task[Any] = Task(
            id=timeout_id(flow_id),
            type=TIMEOUT_TYPE,
            queue_id=join.queue_id,
            payload=None,
            metadata=TaskMetadata(flow=replace(meta, is_timeout=True)),
            force_store=True,
            **{**times, "execute_at": now + limit},
        )
        tasks.append(sentinel)
    template = join_template(TaskMetadata(flow=meta), now)
    return NewFlow(flow_id, len(steps), adopt(template)), [adopt(task) for task in tasks]


def join_template(
    metadata: TaskMetadata, now: datetime, *, barrier_lost: bool = False
) -> Task[Any]:
    """The join, still without results, of the flow that `metadata` (of any of its tasks) names."""
    meta = metadata.flow
    assert meta is not None, "a task of a flow knows its flow"
    join = replace(meta, step_index=-1, is_join=True, is_timeout=False)
    return Task(
        id=join_id(meta.flow_id),
        type=meta.join.type,
        queue_id=meta.join.queue_id,
        payload={"barrier_lost": True} if barrier_lost else None,
        metadata=replace(metadata, flow=join),
        force_store=True,
        execute_at=now,
        created_at=now,
        updated_at=now,
    )


def step_id(flow_id: str, index: int) -> str:
    """The id of a flow's step."""
    return derive_id(flow_id, "step", str(index))


def flow_of_step(task: Task[Any]) -> str | None:
    """The flow that `task` is a step of; None for a join, a sentinel and any other task."""
    meta = task.metadata.flow
    return None if meta is None or meta.is_join or meta.is_timeout else meta.flow_id


def join_id(flow_id: str) -> str:
    """The id of a flow's join task."""
    return derive_id(flow_id, "join")


def timeout_id(flow_id: str) -> str:
    """The id of a flow's sentinel."""
    return derive_id(flow_id, "timeout")


def is_copy(task: Task[Any]) -> bool:
    """Whether `task` was copied from a step or a sentinel, and would count in its place."""
    meta = task.metadata.flow
    if meta is None or meta.is_join:
        return False
    if meta.is_timeout:
        return task.id != timeout_id(meta.flow_id)
    return task.id != step_id(meta.flow_id, meta.step_index)


def join_task(
    template: Task[Any],
    steps: Iterable[FlowStepResult],
    *,
    now: datetime,
    end: FlowEnd = "completed",
) -> Task[Any]:
    """The join as it is handed over, due at once. `steps` are ordered by their index."""
    meta = template.metadata.flow
    assert meta is not None, "a join knows its flow"
    results = FlowResults(
        meta.flow_id,
        list(steps),
        aborted=end == "aborted",
        timed_out=end == "timed_out",
        barrier_lost=template.payload is not None,
    )
    payload = {"flow_results": to_builtins(results)}
    return replace(template, payload=payload, execute_at=now, created_at=now, updated_at=now)


def flow_results(task: Task[Any]) -> FlowResults:
    """What the join task `task` was given. Raises `TypeError` for a task that is no join."""
    try:
        return msgspec.convert(task.payload["flow_results"], FlowResults)
    except (KeyError, TypeError, msgspec.ValidationError):
        raise TypeError(f"task {task.id} ({task.type}) is not the join of a flow") from None


def early_end(join: Task[Any]) -> FlowEnd | None:
    """Whether the flow of the join task `join` was aborted or timed out; else None."""
    try:
        results = flow_results(join)
    except TypeError:
        return None
    if results.aborted:
        return "aborted"
    return "timed_out" if results.timed_out else None


def check_flow(
    steps: Sequence[FlowStep],
    join: FlowJoin,
    failure_policy: str,
    timeout: Seconds | None,
    entity: EntityRef | None,
) -> timedelta | None:
    """The timeout, if there is one.

    Raises `InvalidFlowError`, `InvalidTaskError` or `TypeError`, naming the option.
    """
    if not steps:
        raise InvalidFlowError("steps: a flow needs at least one")
    for step in steps:
        if not isinstance(step, FlowStep):
            raise TypeError(f"steps: expected FlowStep values, not {type(step).__name__}")
    if not isinstance(join, FlowJoin):
        raise TypeError(f"join: expected a FlowJoin, not {type(join).__name__}")
    if failure_policy not in ("continue", "abort"):
        raise InvalidFlowError(
            f'failure_policy: must be "continue" or "abort", not {failure_policy!r:.80}'
        )
    if entity is not None:
        check_entity(entity)
    if timeout is None:
        return None
    limit = seconds(timeout, "timeout")
    if limit <= 0:
        raise InvalidFlowError("timeout: must be more than 0 seconds; None means no timeout")
    return timedelta(seconds=limit)
