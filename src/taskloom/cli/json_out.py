"""Answers for scripts: JSON on stdout, in ASCII, so that no text can act on a terminal."""

from __future__ import annotations

import json
import sys
from typing import Any

from msgspec import UNSET

from taskloom.codec import to_builtins
from taskloom.task import Task

__all__ = ["print_json", "task_summary", "whole_task"]


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
