"""The steps of a flow in short: a bar with counts, and one line for each that tells something."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from msgspec import UNSET
from rich.cells import cell_len, set_cell_size
from rich.console import RenderableType
from rich.text import Text

from taskloom.cli.flow_picture import Step
from taskloom.cli.words import as_status, count, duration, one_line_of, program
from taskloom.codec import to_builtins
from taskloom.task import TaskStatus

__all__ = ["FEW", "in_short", "steps_in_short"]

FEW = 20
"""Steps that are shown one by one, unless all are asked for."""
_BAR = 60
_WIDE = 110
"""Columns from which there is room for the ids of steps."""
_CELL = 500

# In the order of the bar. What stands for a status says without a colour what it is.
_MARKS: dict[TaskStatus | None, str] = {
    TaskStatus.EXECUTED: "█",
    TaskStatus.FAILED: "x",
    TaskStatus.EXPIRED: "e",
    TaskStatus.IGNORED: "i",
    TaskStatus.CANCELLED: "c",
    TaskStatus.PROCESSING: "▒",
    TaskStatus.QUEUED: "q",
    TaskStatus.SCHEDULED: "·",
    None: "?",
}
_TELLING = (TaskStatus.FAILED, TaskStatus.EXPIRED, TaskStatus.IGNORED, TaskStatus.PROCESSING)
"""What a flow is looked at for, in this order."""

_Counts = Mapping[TaskStatus | None, int]


def steps_in_short(
    steps: Sequence[Step], counts: _Counts, width: int, *, rows: int = FEW, every: bool = False
) -> list[RenderableType]:
    """A bar, its legend, and `rows` steps one by one, or `every` one; all within `width`."""
    parts: list[RenderableType] = [
        _bar(counts, max(len(_MARKS), min(_BAR, width - 4))),
        _legend(counts),
    ]
    chosen = _choose(steps, rows, every=every)
    if chosen.steps:
        parts.append(_lines(chosen.steps, width))
    if chosen.more:
        parts.append(Text(f"  and {chosen.more:,} more that failed or run: --all", "dim"))
    elif len(chosen.steps) < len(steps):
        parts.append(Text("  for every step: --all", "dim"))
    failed = next((step for step in chosen.steps if step.status is TaskStatus.FAILED), None)
    if failed is not None and width < _WIDE:
        # Where ids have no room, the one that will be asked for.
        parts.append(Text(f"  {program()} tasks show {failed.id}", "dim", overflow="fold"))
    return parts


def in_short(result: object) -> str:
    """A result as JSON, on one line."""
    if result is UNSET:
        return ""
    return one_line_of(json.dumps(to_builtins(result), ensure_ascii=False), _CELL)


def _bar(counts: _Counts, width: int) -> Text:
    """Every status that occurs has a cell at least; the one that occurs most gives way for it."""
    there = _there(counts)
    total = sum(counts.values())
    cells = {status: max(1, counts[status] * width // total) for status in there}
    most = max(there, key=lambda status: counts[status])
    cells[most] += width - sum(cells.values())
    return Text.assemble("  ", *((_MARKS[s] * cells[s], _style(s)) for s in there))


def _legend(counts: _Counts) -> Text:
    parts = [(f"{_MARKS[s]} {counts[s]:,} {_word(s)}", _style(s)) for s in _there(counts)]
    text = Text(f"  {count(sum(counts.values()), 'step')}")
    for part in parts:
        text.append("  ").append(*part)
    return text


def _there(counts: _Counts) -> list[TaskStatus | None]:
    return [status for status in _MARKS if counts.get(status)]


def _word(status: TaskStatus | None) -> str:
    return "unknown" if status is None else status.value


def _style(status: TaskStatus | None) -> str:
    return "dim" if status is None else str(as_status(status).style)


class _Chosen(NamedTuple):
    steps: list[Step]
    more: int
    """How many that tell something had no room."""


def _choose(steps: Sequence[Step], rows: int, *, every: bool) -> _Chosen:
    if every or len(steps) <= rows:
        return _Chosen(list(steps), 0)
    telling = [step for status in _TELLING for step in steps if step.status is status]
    telling += [step for step in steps if step.attempts and step.status is TaskStatus.SCHEDULED]
    return _Chosen(telling[:rows], max(0, len(telling) - rows))


_HEAD = ("step", "status", "attempts", "took", "type", "id", "result or error")
_STATUS, _TYPE, _ID = 1, 4, 5
_RIGHT = (0, 2, 3)


def _lines(steps: Sequence[Step], width: int) -> Text:
    """A table made by hand: rich takes seconds for one of 10,000 rows."""
    rows = [_cells(step) for step in steps]
    shown = [0, 1, 2, 3]
    if len({step.type for step in steps}) > 1:
        shown.append(_TYPE)
    if width >= _WIDE:
        shown.append(_ID)
    widths = {i: max(cell_len(row[i]) for row in (_HEAD, *rows)) for i in shown}
    room = max(10, width - 2 - sum(widths.values()) - 2 * len(shown))
    text = Text(no_wrap=True, overflow="ignore")
    text.append("  " + "".join(_padded(_HEAD, widths)) + _HEAD[-1], "bold")
    for step, row in zip(steps, rows, strict=True):
        text.append("\n  ")
        for column, cell in zip(shown, _padded(row, widths), strict=True):
            text.append(cell, _style(step.status) if column == _STATUS else "")
        text.append(_cut_to(row[-1], room), "red" if step.reason else "")
    return text


def _cells(step: Step) -> tuple[str, ...]:
    """The cells of a step, as many as `_HEAD` has."""
    return (
        str(step.index),
        _word(step.status),
        str(step.attempts or "-"),
        "-" if step.seconds is None else duration(step.seconds),
        one_line_of(step.type, 24),
        step.id,
        one_line_of(step.reason, _CELL) if step.reason else in_short(step.result),
    )


def _padded(row: Sequence[str], widths: Mapping[int, int]) -> list[str]:
    """The cells of these columns, each as wide as its column, with two blanks after it."""
    cells = []
    for column, width in widths.items():
        blanks = " " * (width - cell_len(row[column]))
        cells.append(blanks + row[column] if column in _RIGHT else row[column] + blanks)
    return [cell + "  " for cell in cells]


def _cut_to(text: str, width: int) -> str:
    if cell_len(text) <= width:
        return text
    return set_cell_size(text, width - 1) + "…"
