"""One flow for people: where it stands, its steps in short, its join."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from taskloom.cli.flow_picture import FlowPicture, FlowState, state_of
from taskloom.cli.flow_steps import FEW, in_short, steps_in_short
from taskloom.cli.words import (
    as_status,
    attempts_of,
    count,
    duration,
    local_time,
    one_line_of,
    reason_of,
    took,
)
from taskloom.task import Task, TaskStatus

__all__ = ["as_state", "flow_page", "join_word"]

_STATES: dict[FlowState, tuple[str, str]] = {
    "running": ("running", "blue"),
    "completed": ("complete", "green"),
    "aborted": ("aborted", "red"),
    "timed_out": ("timed out", "yellow"),
}


def as_state(state: FlowState) -> Text:
    """A state in words, in its colour."""
    word, style = _STATES[state]
    return Text(word, style)


def join_word(state: FlowState, status: TaskStatus | None, *, sent: bool) -> Text:
    """How far a join is, for one whose task has that status; None: there is no such task."""
    if status is not None:
        return as_status(status)
    if state == "running":
        return Text("waits", "dim")
    return Text("deleted" if sent else "due", "dim")


def flow_page(picture: FlowPicture, width: int, *, rows: int = FEW, every: bool = False) -> Group:
    """All of it, to be printed in `width` columns; `rows` of its steps one by one, or `every`."""
    steps = steps_in_short(picture.steps, picture.counts(), width, rows=rows, every=every)
    return Group(
        _grid(_facts(picture)),
        Text("\nSteps", "bold"),
        *steps,
        Text("\nJoin", "bold"),
        _grid(_join_facts(picture)),
    )


def _grid(rows: Iterable[tuple[str, Text]]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, value)
    return table


def _facts(picture: FlowPicture) -> list[tuple[str, Text]]:
    record = picture.record
    rows = [
        ("flow", Text(one_line_of(record.flow.flow_id, 600), "bold")),
        ("state", as_state(state_of(record))),
        *_why(picture),
    ]
    meta = record.flow.join.metadata.flow
    if meta is not None:
        then = "goes on" if meta.failure_policy == "continue" else "ends early"
        rows.append(("policy", Text(f"{meta.failure_policy}: {then} when a step fails")))
    if meta is not None and meta.entity is not None:
        rows.append(("entity", Text(one_line_of(f"{meta.entity.type} {meta.entity.id}"))))
    return rows + [(name, Text(text)) for name, text in _times(picture)]


def _why(picture: FlowPicture) -> list[tuple[str, Text]]:
    """What the flow waits for, and why it ended early."""
    record, said = picture.record, []
    if record.end == "aborted":
        said.append(("aborted by", Text(_trigger(picture), "red")))
    elif record.end == "timed_out" and record.ended_at is not None:
        limit = duration((record.ended_at - record.started_at).total_seconds())
        steps = f"{record.counted:,} of {count(record.flow.total_steps, 'step')}"
        said.append(("timed out", Text(f"after {limit}, when {steps} had ended", "yellow")))
    if record.end is None:
        left = record.flow.total_steps - record.counted
        said.append(("waits for", Text(f"{left:,} of {count(record.flow.total_steps, 'step')}")))
    elif not picture.over:
        said.append(("waits for", Text("its join")))
    return said


def _trigger(picture: FlowPicture) -> str:
    index = picture.record.trigger
    if index is None:
        return "nobody knows which step"
    step = picture.steps[index]
    attempts = f" after {count(step.attempts, 'attempt')}" if step.attempts else ""
    return f"step {index}{attempts}: {one_line_of(step.reason, 500)}"


def _times(picture: FlowPicture) -> list[tuple[str, str]]:
    record = picture.record
    rows = [("started", local_time(record.started_at))]
    if picture.times_out_at is not None and record.end is None:
        rows.append(("times out", local_time(picture.times_out_at)))
    if not picture.over:
        so_far = (picture.seen_at - record.started_at).total_seconds()
        rows.append(("took", f"{duration(so_far)} so far"))
    elif picture.ended_at is not None:
        rows.append(("ended", local_time(picture.ended_at)))
        seconds = (picture.ended_at - record.started_at).total_seconds()
        rows.append(("took", duration(seconds)))
    return rows


def _join_facts(picture: FlowPicture) -> list[tuple[str, Text]]:
    record, task = picture.record, picture.join
    template = record.flow.join
    sent = record.state == "sent"
    status = None if task is None else task.status
    rows = [
        ("task", Text(one_line_of(template.id, 600))),
        ("status", join_word(state_of(record), status, sent=sent)),
        ("type", Text(one_line_of(f"{template.type} in the queue {template.queue_id}"))),
    ]
    if task is not None:
        rows += _run_facts(task, picture.seen_at)
    return rows


def _run_facts(task: Task[Any], now: datetime) -> list[tuple[str, Text]]:
    rows = [("attempts", Text(f"{attempts_of(task)}"))] if attempts_of(task) else []
    if (seconds := took(task, now)) is not None:
        rows.append(("took", Text(duration(seconds))))
    if reason := reason_of(task):
        rows.append(("error", Text(reason, "red")))
    if result := in_short(task.execution_result):
        rows.append(("result", Text(result)))
    return rows
