"""Answers for scripts: JSON on stdout, in ASCII, so that no text can act on a terminal."""

from __future__ import annotations

import json
import sys
from typing import Any

from msgspec import UNSET

from taskloom.cli.flow_picture import FlowPicture, Step, state_of
from taskloom.codec import to_builtins
from taskloom.interfaces import FlowRecord
from taskloom.task import Task, TaskStatus

__all__ = ["flow_summary", "print_json", "task_summary", "whole_flow", "whole_task"]


def print_json(value: Any) -> None:
    """One JSON value, indented. Times are ISO 8601, UTC."""
    sys.stdout.write(json.dumps(to_builtins(value), indent=2) + "\n")


def task_summary(task: Task[Any]) -> dict[str, Any]:
    """A task without its payload, its result and its stack; the same keys for every task."""
    stats = task.execution_stats
    return {
        "id": task.id,
        "status": task.status.value,
        "queue_id": task.queue_id,
        "type": task.type,
        "retry_count": task.retry_count,
        "retries": task.retries,
        "execute_at": task.execute_at,
        "created_at": task.created_at,
        "updated_at": task.updated_at,
        "processing_started_at": task.processing_started_at,
        "last_error": stats.get("last_error"),
    }


def whole_task(task: Task[Any]) -> dict[str, Any]:
    """Everything that is known of a task. Without a result there is no key `execution_result`."""
    fields: dict[str, Any] = {}
    for name in Task.__struct_fields__:
        value = getattr(task, name)
        if value is not UNSET:
            fields[name] = value
    return fields


def flow_summary(record: FlowRecord, join: TaskStatus | None) -> dict[str, Any]:
    """A flow without its steps; `join` is the status of its join. The same keys for every flow."""
    template = record.flow.join
    meta = template.metadata.flow
    return {
        "id": record.flow.flow_id,
        "state": state_of(record),
        "total_steps": record.flow.total_steps,
        "counted": record.counted,
        "failed": record.failed,
        "aborted_by_step": record.trigger,
        "failure_policy": None if meta is None else meta.failure_policy,
        "entity": None if meta is None else meta.entity,
        "started_at": record.started_at,
        "ended_at": record.ended_at,
        "join": {
            "id": template.id,
            "status": join,
            "type": template.type,
            "queue_id": template.queue_id,
        },
    }


def whole_flow(picture: FlowPicture) -> dict[str, Any]:
    """A flow with its join and all its steps, results included, payloads not.

    `status` is null for a step of which nothing is known, and for a join that is not there yet.
    """
    join = picture.join
    summary = flow_summary(picture.record, None if join is None else join.status)
    if join is not None:
        summary["join"] = {**task_summary(join), **_result(join.execution_result)}
    counts = {status or "unknown": number for status, number in picture.counts().items()}
    return {
        **summary,
        "times_out_at": picture.times_out_at,
        "over": picture.over,
        "counts": counts,
        "steps": [_whole_step(step) for step in picture.steps],
    }


def _whole_step(step: Step) -> dict[str, Any]:
    return {
        "index": step.index,
        "id": step.id,
        "status": step.status,
        "type": step.type,
        "queue_id": step.queue_id,
        "attempts": step.attempts,
        "seconds": step.seconds,
        "error": step.reason or None,
        **_result(step.result),
    }


def _result(result: Any) -> dict[str, Any]:
    """No key without a result, as in `whole_task`."""
    return {} if result is UNSET else {"execution_result": result}
