"""When a failed task is tried again: a pure function of the task and its executor."""

from __future__ import annotations

import logging
from typing import Any

from taskloom.executors import Executor
from taskloom.task import Task

__all__ = ["DEFAULT_RETRY_AFTER", "MAX_RETRY_DELAY", "max_retries", "retry_delay"]

DEFAULT_RETRY_AFTER = 2.0
MAX_RETRY_DELAY = 300.0
LONGEST_POLICY_DELAY = 1e9
"""Thirty years: what a policy may ask for and a calendar still hold."""

_log = logging.getLogger(__name__)


def max_retries(task: Task[Any], executor: Executor | None) -> int:
    """How many retries this task has in all: its own number, else its executor's, else none."""
    if task.retries is not None:
        return task.retries
    return executor.default_retries if executor is not None else 0


def retry_delay(task: Task[Any], executor: Executor, error: BaseException) -> float | None:
    """Seconds until the next attempt after this one failed; None: this was the last."""
    if executor.retry_policy is not None:
        try:
            delay = executor.retry_policy(task, error)
            return None if delay is None else min(max(0.0, float(delay)), LONGEST_POLICY_DELAY)
        except BaseException:
            # The policy is the user's code: its fault must not cost the task its retries.
            _log.exception("retry_policy of %r failed; the default applies", task.type)
    if task.retry_count >= max_retries(task, executor):
        return None
    base = DEFAULT_RETRY_AFTER if task.retry_after is None else task.retry_after
    return min(base * (task.retry_count + 1) ** 2, MAX_RETRY_DELAY)
