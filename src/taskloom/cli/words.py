"""How things are put into words on a terminal: times, numbers, statuses, other people's text.

Whatever comes from tasks is shown as it is, on one line: markup and control characters in it do
nothing.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.text import Text

from taskloom.codec import cut, one_line
from taskloom.task import Task, TaskStatus

__all__ = [
    "age",
    "as_status",
    "attempts_of",
    "count",
    "duration",
    "errors_to",
    "local_time",
    "one_line_of",
    "print_line",
    "prints_to",
    "program",
    "reason_of",
    "size",
    "took",
]

_FILE_WIDTH = 250
"""Columns where there is no terminal to ask: wide enough to cut off nothing of interest."""

_STYLES = {
    TaskStatus.SCHEDULED: "cyan",
    TaskStatus.QUEUED: "cyan",
    TaskStatus.PROCESSING: "blue",
    TaskStatus.EXECUTED: "green",
    TaskStatus.FAILED: "red",
    TaskStatus.EXPIRED: "yellow",
    TaskStatus.IGNORED: "yellow",
    TaskStatus.CANCELLED: "yellow",
}


def prints_to() -> Console:
    """Where a command's answer goes: stdout."""
    return _console(stderr=False)


def errors_to() -> Console:
    """Where errors and remarks go: stderr."""
    return _console(stderr=True)


def _console(*, stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else _FILE_WIDTH
    return Console(stderr=stderr, width=width, highlight=False)


def print_line(console: Console, *parts: str | tuple[str, str]) -> None:
    """One line, never wrapped by us; a part may carry a style."""
    console.print(Text.assemble(*parts), soft_wrap=True)


def one_line_of(text: str, limit: int = 300) -> str:
    """`text` without line breaks and control characters, cut to `limit` bytes."""
    return one_line(cut(text, limit))


def age(since: datetime, now: datetime | None = None) -> str:
    """How long ago: `3 min`; `in 3 min` when it is still to come."""
    seconds = ((now or datetime.now(UTC)) - since).total_seconds()
    return _span(seconds) if seconds > -1 else f"in {_span(-seconds)}"


def _span(seconds: float) -> str:
    if seconds < 60:
        return f"{max(0, seconds):.0f} s"
    for size, unit, until in ((60, "min", 60), (3600, "h", 48)):
        if seconds < size * until:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86_400:.0f} d"


def duration(seconds: float) -> str:
    """How long something took: `0.213 s`, `12.5 s`, `3 min 20 s`, `2 h 5 min`."""
    if seconds < 60:
        return f"{max(0.0, seconds):.{3 if seconds < 10 else 1}f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60:,} h {minutes % 60} min"


def local_time(moment: datetime) -> str:
    """A time as clocks here show it, with its distance from now."""
    return f"{moment.astimezone():%Y-%m-%d %H:%M:%S %Z}  ({_distance(moment)})"


def _distance(moment: datetime) -> str:
    words = age(moment)
    return words if words.startswith("in ") else f"{words} ago"


def count(number: int, one: str, many: str | None = None) -> str:
    """`1 task`, `2,000 tasks`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def size(number: int) -> str:
    """Bytes, as people say them."""
    value, units = float(number), ["bytes", "kB", "MB", "GB", "TB"]
    while value >= 1000 and len(units) > 1:
        value /= 1000
        units.pop(0)
    return f"{value:.0f} {units[0]}" if units[0] == "bytes" else f"{value:.1f} {units[0]}"


def as_status(status: TaskStatus) -> Text:
    """A status in its colour."""
    return Text(status.value, _STYLES[status])


def attempts_of(task: Task[object]) -> int:
    """How often it was started, the run under way included."""
    started = task.status is not TaskStatus.SCHEDULED and task.processing_started_at is not None
    return task.retry_count + started


def took(task: Task[object], now: datetime) -> float | None:
    """Seconds of its last attempt, until `now` if it runs; None for one that never ran."""
    started, status = task.processing_started_at, task.status
    if started is None or status not in _RAN:
        return None
    ended = now if status is TaskStatus.PROCESSING else task.updated_at
    return max(0.0, (ended - started).total_seconds())


_RAN = (TaskStatus.PROCESSING, TaskStatus.EXECUTED, TaskStatus.FAILED)

_REASONS = ("last_error", "ignored_reason", "cancelled_reason", "unreadable")


def reason_of(task: Task[object]) -> str:
    """Why a task is where it is, on one line: its last error, or why it was put aside."""
    for key in _REASONS:
        if reason := task.execution_stats.get(key):
            return one_line_of(str(reason), 500)
    return ""


def program() -> str:
    """How this program was called, to be repeated in advice."""
    called = Path(sys.argv[0])
    if called.name == "__main__.py":
        return "python -m taskloom"
    # A path that was spelled out will be needed again; a bare name was found on the PATH.
    return "taskloom" if called.parent.name == "bin" and _on_path(called) else str(called)


def _on_path(called: Path) -> bool:
    import shutil

    found = shutil.which(called.name)
    return found is not None and Path(found).resolve() == called.resolve()
