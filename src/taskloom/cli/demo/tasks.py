"""The demo's Loom: what the worker processes run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from msgspec import convert

from taskloom.app import Loom
from taskloom.cli.demo.places import DATABASE_VARIABLE, QUEUE, Places
from taskloom.cli.demo.reading import measure
from taskloom.cli.demo.report import Failure, Found, Report, make_report, write_report
from taskloom.config import Retention, TaskHandlerConfig
from taskloom.flows import FlowResults, step_id
from taskloom.task import Task

__all__ = ["demo_config", "index_file", "loom", "report_on_folder"]


def demo_config() -> TaskHandlerConfig:
    """A killed demo goes on after 10 s, and what it found is kept until someone deletes it."""
    return TaskHandlerConfig(lease=10, retention=Retention(executed=None))


_places = Places(Path(os.environ.get(DATABASE_VARIABLE, "taskloom-demo.db")))

loom = Loom(_places.url, config=demo_config())


def _twice_and_soon(task: Task[Any], error: BaseException) -> float | None:
    return 0.2 if task.retry_count < 2 else None


@loom.task(queue=QUEUE, retry_policy=_twice_and_soon, concurrency=4)
def index_file(folder: str, path: str) -> Found:
    """A step of the flow: measure one file."""
    return Found(path, **measure(Path(folder, path)))


@loom.task(queue=QUEUE)
async def report_on_folder(results: FlowResults) -> Report:
    """The join of the flow: runs once, when every file was measured or has failed for good."""
    found = [convert(step.result, Found) for step in results.steps if step.status == "success"]
    failed = [step_id(results.flow_id, s.step_index) for s in results.steps if s.status == "fail"]
    failures = [_failure(task) for task in await loom.get_tasks(failed)]
    write_report(_places.report, found, failures)
    return make_report(found, failures)


def _failure(task: Task[Any]) -> Failure:
    error = task.execution_stats.get("last_error", task.status.value)
    return Failure(task.payload["path"], task.retry_count + 1, error)
