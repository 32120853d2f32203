"""Tasks as they stand at the end of a history."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec
from history import History
from recorder import Final, FlowPart

from taskloom import Task, flow_results

__all__ = ["final_of", "without_rows"]


def final_of(task: Task[Any], told: Mapping[str, str]) -> Final:
    """A task as storage has it; `told`: rows of projections, by id."""
    payload = task.payload if isinstance(task.payload, dict) else {}
    result = None if task.execution_result is msgspec.UNSET else task.execution_result
    return Final(
        task.id,
        task.status.value,
        result,
        task.retry_count,
        "poison" in task.execution_stats,
        payload.get("parent", ""),
        None if task.metadata.flow is None else _part(task),
        _told(task, told),
    )


def without_rows(ids: Iterable[str], history: History) -> Iterator[Final]:
    """Tasks that a queue remembers as done, and nobody stored: only those that executed are not.

    Their result is nowhere; it is taken to be that of their last good run.
    """
    for id in ids:
        good = [run.result for run in history.runs.get(id, []) if run.word == "ok"]
        parent = history.spawned.get(id, "")
        yield Final(id, "executed", good[-1] if good else None, parent=parent, stored=False)


def _part(task: Task[Any]) -> FlowPart:
    meta = task.metadata.flow
    assert meta is not None, "asked for tasks of flows"
    kind = "join" if meta.is_join else "sentinel" if meta.is_timeout else "step"
    part = FlowPart(meta.flow_id, kind, meta.step_index, meta.total_steps, meta.failure_policy)
    if kind == "join":
        results = flow_results(task)
        part.aborted, part.timed_out = results.aborted, results.timed_out
        part.lost = results.barrier_lost
        part.steps = [(step.step_index, step.status, step.result) for step in results.steps]
    return part


def _told(task: Task[Any], told: Mapping[str, str]) -> str | None:
    """What the projection of a task says; a join's is that of its flow."""
    meta = task.metadata.flow
    if meta is not None and meta.is_join:
        return told.get(meta.flow_id, "") if meta.entity is not None else None
    return told.get(task.id, "") if task.entity is not None else None
