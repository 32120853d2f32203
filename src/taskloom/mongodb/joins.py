"""Joins whose results are more than a document holds."""

from __future__ import annotations

import logging
from typing import Any

from msgspec.structs import replace

from taskloom.codec import encode, to_builtins
from taskloom.flows import FlowResults, flow_results
from taskloom.task import Task

__all__ = ["fitting"]

logger = logging.getLogger("taskloom.mongodb")


def fitting(task: Task[Any], excess: int) -> Task[Any] | None:
    """A join without so many of its largest results that it has `excess` bytes less.

    In place of each stands `{"result_dropped": bytes}`, as of a result that was too large by
    itself. None for a task that is no join.
    """
    if task.metadata.flow is None or not task.metadata.flow.is_join or task.payload is None:
        return None
    smaller = _without_the_largest(flow_results(task), excess)
    return replace(task, payload={**task.payload, "flow_results": to_builtins(smaller)})


def _without_the_largest(results: FlowResults, excess: int) -> FlowResults:
    sizes = [len(encode(step.result)) for step in results.steps]
    steps, dropped = list(results.steps), 0
    for index in sorted(range(len(steps)), key=sizes.__getitem__, reverse=True):
        if excess <= 0:
            break
        mark = {"result_dropped": sizes[index]}
        steps[index] = replace(steps[index], result=mark)
        excess -= sizes[index] - len(encode(mark))
        dropped += 1
    logger.warning(
        "flow %s: the results of %d of its %d steps are dropped: its join would be larger than a "
        "document of MongoDB. Store large data elsewhere and pass a reference to it",
        results.flow_id,
        dropped,
        len(steps),
    )
    return replace(results, steps=steps)
