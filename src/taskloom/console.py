"""ConsoleHealthProvider: what a worker does, on a terminal or in a log file, for people."""

from __future__ import annotations

from datetime import datetime

from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from taskloom.codec import cut, one_line
from taskloom.errors import TaskFailedError
from taskloom.failures import message_of
from taskloom.flow_events import (
    FlowAborted,
    FlowCompleted,
    FlowContext,
    FlowLifecycleProvider,
    FlowStarted,
    FlowTimedOut,
)
from taskloom.lifecycle import (
    BatchCompleted,
    ConsumerStarted,
    ConsumerStopped,
    TaskBatchCompleted,
    TaskBatchStarted,
    TaskCancelled,
    TaskCompleted,
    TaskContext,
    TaskExhausted,
    TaskFailed,
    TaskLifecycleProvider,
    TaskScheduled,
    TaskStarted,
    WorkerHeartbeat,
    WorkerLifecycleProvider,
    WorkerStarted,
    WorkerStopped,
)

__all__ = ["ConsoleHealthProvider"]

_MAX_ERROR = 240
_MAX_TYPE = 60
_TYPE_WIDTH = 24

_PLAIN = str.maketrans(
    {"✓": "+", "✗": "x", "↻": "~", "■": "#", "▶": ">", "♥": "*", "·": "-", "…": "..", "⊘": "/"}
)
"""For consoles that can only show ASCII."""


class ConsoleHealthProvider(TaskLifecycleProvider, WorkerLifecycleProvider, FlowLifecycleProvider):
    """Prints one line per failed attempt, given-up or cancelled task, ended flow, and heartbeat.

    `verbose` prints every task: when it was accepted, started and ended, and when a flow started.
    What comes from tasks is shown as it is, on one line: markup and control characters in it do
    nothing.
    """

    def __init__(self, console: Console | None = None, verbose: bool = False) -> None:
        self._console = console or Console()
        self._verbose = verbose
        self._batches = 0
        self._last_beat: dict[str, tuple[float, int]] = {}
        self._last_failed = ""

    # Tasks

    def on_task_scheduled(self, event: TaskScheduled) -> None:
        if self._verbose:
            self._task_line("·", "dim", event, None, f"accepted for {_safe(event.queue_id)}")

    def on_task_started(self, event: TaskStarted) -> None:
        if self._verbose:
            waited = f"started after {_duration(event.queued_duration)}{_attempt(event)}"
            self._task_line("▶", "dim", event, None, waited)

    def on_task_completed(self, event: TaskCompleted) -> None:
        if self._verbose:
            self._task_line("✓", "green", event, event.processing_duration, _attempt(event)[2:])

    def on_task_failed(self, event: TaskFailed) -> None:
        self._last_failed = event.task_id
        what = _attempt(event, always=True)[2:] + self._again(event)
        symbol, style = ("↻", "yellow") if event.will_retry else ("✗", "red")
        self._task_line(symbol, style, event, event.processing_duration, what, event.error)

    def on_task_exhausted(self, event: TaskExhausted) -> None:
        attempts = _count(event.total_attempts, "attempt")
        what = f"gave up after {attempts} and {_duration(event.total_duration)}"
        # Its error stands one line above, unless other tasks' lines came in between.
        error = None if event.task_id == self._last_failed else event.error
        self._task_line("■", "bold red", event, None, what, error)

    def on_task_cancelled(self, event: TaskCancelled) -> None:
        self._task_line("⊘", "yellow", event, None, f"cancelled: {_safe(event.reason)}")

    def on_task_batch_started(self, event: TaskBatchStarted) -> None:
        if self._verbose:
            tasks = _count(len(event.tasks), "task")
            self._line("▶", "dim", event.task_type, "", None, f"started with {tasks}")

    def on_task_batch_completed(self, event: TaskBatchCompleted) -> None:
        if not (self._verbose or event.failed):
            return
        what = f"{len(event.succeeded):,} of {_count(len(event.tasks), 'task')} succeeded"
        if event.failed:
            what += f", {len(event.failed):,} failed"
        symbol, style = ("✗", "red") if event.failed else ("✓", "green")
        self._line(symbol, style, event.task_type, "", event.batch_duration, what)

    # Flows

    def on_flow_started(self, event: FlowStarted) -> None:
        if self._verbose:
            types = ", ".join(_safe(type) for type in event.step_types)
            steps = _count(event.total_steps, "step")
            self._flow_line("▶", "dim", event, None, f"flow of {steps} started: {types}")

    def on_flow_completed(self, event: FlowCompleted) -> None:
        what = f"flow of {_count(event.total_steps, 'step')} complete"
        if event.steps_failed:
            what += f", {event.steps_failed:,} failed"
        style = "yellow" if event.steps_failed else "green"
        self._flow_line("✓", style, event, event.flow_duration, what)

    def on_flow_aborted(self, event: FlowAborted) -> None:
        step = "" if event.trigger_step_index is None else f" by step {event.trigger_step_index:,}"
        what = f"flow aborted{step} with {_steps_done(event, event.steps_completed)}"
        self._flow_line("■", "bold red", event, event.flow_duration, what)

    def on_flow_timed_out(self, event: FlowTimedOut) -> None:
        what = f"flow timed out with {_steps_done(event, event.steps_completed)}"
        self._flow_line("■", "bold red", event, event.flow_duration, what)

    # Workers

    def on_worker_started(self, event: WorkerStarted) -> None:
        queues = ", ".join(_safe(queue) for queue in event.enabled_queues)
        rows = {
            "worker": _safe(event.worker_id),
            "host": f"{_safe(event.hostname)}, process {event.pid}",
            "queues": queues or "none",
        }
        self._last_beat[event.worker_id] = (self._console.get_time(), 0)
        self._panel("Taskloom worker started", "green", rows)

    def on_worker_heartbeat(self, event: WorkerHeartbeat) -> None:
        parts = [
            f"{event.tasks_processed:,} processed",
            f"{self._rate(event):,.1f}/s",
            f"{event.tasks_running:,} running",
            f"{event.tasks_failed:,} failed",
            _size(event.memory_usage),
            f"up {_duration(self._age(event.started_at))}",
        ]
        if self._batches:
            parts.insert(2, _count(self._batches, "batch", "batches"))
        self._batches = 0
        beat = Text.assemble(("♥ ", "red" if event.tasks_failed else "green"), " · ".join(parts))
        self._print(beat)

    def on_worker_stopped(self, event: WorkerStopped) -> None:
        done = f"{event.tasks_processed:,} processed"
        if event.tasks_processed:
            done += f", {_duration(event.avg_processing_duration)} each on average"
        rows = {
            "worker": _safe(event.worker_id),
            "reason": _safe(event.reason),
            "tasks": done,
            "failed": f"{event.tasks_failed:,}",
            "up": _duration(self._age(event.started_at)),
        }
        self._last_beat.pop(event.worker_id, None)
        self._panel("Taskloom worker stopped", "red" if event.tasks_failed else "blue", rows)

    def on_batch_completed(self, event: BatchCompleted) -> None:
        self._batches += 1

    def on_consumer_started(self, event: ConsumerStarted) -> None:
        if self._verbose:
            self._print(Text(f"▶ consumer {_safe(event.consumer_id)} started", "dim"))

    def on_consumer_stopped(self, event: ConsumerStopped) -> None:
        if self._verbose:
            done = f"{event.tasks_processed:,} processed, {event.tasks_failed:,} failed"
            self._print(Text(f"■ consumer {_safe(event.consumer_id)} stopped · {done}", "dim"))

    # Figures

    def _rate(self, event: WorkerHeartbeat) -> float:
        """Tasks per second since the heartbeat before."""
        now = self._console.get_time()
        then, processed = self._last_beat.get(event.worker_id, (now, event.tasks_processed))
        self._last_beat[event.worker_id] = (now, event.tasks_processed)
        return (event.tasks_processed - processed) / (now - then) if now > then else 0.0

    def _age(self, since: datetime) -> float:
        return max(0.0, self._console.get_datetime().timestamp() - since.timestamp())

    def _again(self, event: TaskFailed) -> str:
        if not event.will_retry:
            return ""
        if event.next_attempt_at is None:
            return ", will be tried again"
        return f", again at {event.next_attempt_at.astimezone():%H:%M:%S}"

    # Printing

    def _task_line(
        self,
        symbol: str,
        style: str,
        event: TaskContext,
        duration: float | None,
        what: str,
        error: BaseException | None = None,
    ) -> None:
        self._line(symbol, style, event.task_type, _short(event.task_id), duration, what, error)

    def _flow_line(
        self, symbol: str, style: str, event: FlowContext, duration: float | None, what: str
    ) -> None:
        """A flow is shown by the type of its join, and its own id."""
        self._line(symbol, style, event.join.type, _short(event.flow_id), duration, what)

    def _line(
        self,
        symbol: str,
        style: str,
        type: str,
        id: str,
        duration: float | None,
        what: str,
        error: BaseException | None = None,
    ) -> None:
        spent = "" if duration is None else _duration(duration)
        line = Text.assemble(
            (f"{symbol} {_safe(type):<{_TYPE_WIDTH}} ", style),
            (f"{id:<9}", "dim"),
            f" {spent:>8}  ",
        )
        line.append(what)
        if error is not None:
            line.append("  " if what else "").append(_error(error), "red")
        line.rstrip()
        self._print(line)

    def _print(self, line: Text) -> None:
        stamp = Text(f"{self._console.get_datetime():%H:%M:%S} ", "dim")
        # soft_wrap: a line stays one line in a file and when copied; the terminal wraps it.
        self._console.print(self._shown(stamp + line), soft_wrap=True, highlight=False)

    def _panel(self, title: str, style: str, rows: dict[str, str]) -> None:
        table = Table.grid(padding=(0, 2))
        table.add_column(style="dim")
        table.add_column(overflow="fold")
        for name, value in rows.items():
            table.add_row(name, self._shown(Text(value)))
        panel = Panel(table, title=title, title_align="left", border_style=style, expand=False)
        self._console.print(panel, highlight=False)

    def _shown(self, text: Text) -> Text:
        if not self._console.options.ascii_only:
            return text
        plain = text.plain.translate(_PLAIN).encode("ascii", "backslashreplace")
        return Text(plain.decode())


def _safe(text: str, limit: int = _MAX_ERROR) -> str:
    return one_line(cut(text, limit))


def _error(error: BaseException) -> str:
    message = message_of(error)
    if not isinstance(error, TaskFailedError) and message != type(error).__name__:
        message = f"{type(error).__name__}: {message}"
    return _safe(message)


def _short(id: str) -> str:
    # The end of an id, since UUIDv7s of one minute begin alike.
    return _safe(id) if len(id) <= 9 else "…" + _safe(id[-8:])


def _attempt(event: TaskContext, *, always: bool = False) -> str:
    if event.attempt == 1 and not always:
        return ""
    return f", attempt {event.attempt} of {max(event.attempt, event.max_retries + 1)}"


def _steps_done(event: FlowContext, done: int) -> str:
    return f"{done:,} of {_count(event.total_steps, 'step')} done"


def _count(number: int, one: str, many: str | None = None) -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def _size(number: int) -> str:
    megabytes = number / 1_000_000
    return f"{megabytes / 1000:.1f} GB" if megabytes >= 1000 else f"{megabytes:.0f} MB"


def _duration(seconds: float) -> str:
    if seconds < 0.9995:
        return f"{max(seconds, 0) * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} m {rest:02} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} m" if hours < 48 else f"{hours // 24} d {hours % 24} h"
