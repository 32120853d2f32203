"""What people see of a worker."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from rich.console import Console

from taskloom.console import ConsoleHealthProvider
from taskloom.errors import TaskFailedError
from taskloom.flow_events import FlowAborted, FlowCompleted, FlowStarted, FlowTimedOut
from taskloom.lifecycle import (
    EVENTS,
    BatchCompleted,
    TaskBatchCompleted,
    TaskCancelled,
    TaskCompleted,
    TaskContext,
    TaskExhausted,
    TaskFailed,
    TaskScheduled,
    TaskStarted,
    WorkerHeartbeat,
    WorkerStarted,
    WorkerStopped,
)
from taskloom.listeners import Listeners
from taskloom.task import FlowJoin

NOW = datetime(2026, 11, 21, 12, 0, 5).astimezone()
TIMES: dict[str, Any] = {
    "queued_duration": 0.5,
    "processing_duration": 1.234,
    "total_duration": 75.0,
}
WORKER: dict[str, Any] = {
    "worker_id": "host-1-2",
    "hostname": "host",
    "pid": 4711,
    "started_at": NOW - timedelta(seconds=3725),
    "enabled_queues": ["email", "reports"],
}


class Screen:
    """A provider and what it prints, with a clock that the test moves."""

    def __init__(self, encoding: str = "utf-8", **options: Any) -> None:
        self.time = 0.0
        self.raw = io.BytesIO()
        self.console = Console(
            file=io.TextIOWrapper(self.raw, encoding=encoding, write_through=True),
            width=100,
            get_time=lambda: self.time,
            get_datetime=lambda: NOW,
        )
        self.provider = ConsoleHealthProvider(self.console, **options)

    @property
    def text(self) -> str:
        return self.raw.getvalue().decode(self.console.encoding)

    @property
    def lines(self) -> list[str]:
        return self.text.split("\n")[:-1]


@pytest.fixture
def screen() -> Screen:
    return Screen()


def about(**fields: Any) -> dict[str, Any]:
    return {
        "task_id": "0199f0a2-7c11-7abc-8def-0123456789ab",
        "task_type": "send_email",
        "queue_id": "email",
        "attempt": 1,
        "max_retries": 3,
        "scheduled_at": NOW,
    } | fields


def failed(error: BaseException, **fields: Any) -> TaskFailed:
    return TaskFailed(**about(), **TIMES, **dict[str, Any](error=error, will_retry=False) | fields)


def beat(**fields: Any) -> WorkerHeartbeat:
    figures: dict[str, Any] = {
        "tasks_processed": 0,
        "tasks_succeeded": 0,
        "tasks_failed": 0,
        "memory_usage": 61_000_000,
        "active_consumers": 1,
    }
    return WorkerHeartbeat(**WORKER, **figures | fields)


def test_a_failed_attempt_says_what_when_and_what_next(screen: Screen) -> None:
    again = (NOW + timedelta(seconds=8)).astimezone(UTC)
    screen.provider.on_task_failed(
        failed(ConnectionError("refused"), will_retry=True, next_attempt_at=again)
    )
    assert screen.lines == [
        "12:00:05 ↻ send_email               …456789ab    1.2 s  "
        "attempt 1 of 4, again at 12:00:13  ConnectionError: refused"
    ]


def test_an_exhausted_task_does_not_repeat_the_line_above(screen: Screen) -> None:
    error = ConnectionError("refused")
    gave_up = TaskExhausted(**about(attempt=4), **TIMES, error=error, total_attempts=4)
    screen.provider.on_task_failed(failed(error))
    screen.provider.on_task_exhausted(gave_up)
    assert screen.text.count("refused") == 1
    assert screen.lines[1].endswith("gave up after 4 attempts and 1 m 15 s")


def test_but_shows_the_error_when_it_was_not_there(screen: Screen) -> None:
    gave_up = TaskExhausted(**about(), **TIMES, error=OSError("gone"), total_attempts=1)
    screen.provider.on_task_exhausted(gave_up)
    assert "gave up after 1 attempt and 1 m 15 s  OSError: gone" in screen.text


def test_a_text_failure_is_shown_as_it_was_said(screen: Screen) -> None:
    screen.provider.on_task_failed(failed(TaskFailedError("no such user")))
    assert screen.lines[0].endswith("attempt 1 of 4  no such user")


@pytest.mark.parametrize(
    "evil",
    [
        "[bold red]x[/bold red]",
        "[/]",
        "[link=http://x]y[/link]",
        ":smile:",
        "a\nb\r\x1b[31mc\x07",
        "a\u2028b\x85c",
        "lone \ud800 surrogate",
    ],
)
def test_what_comes_from_tasks_is_one_line_and_no_markup(screen: Screen, evil: str) -> None:
    screen.provider.on_task_failed(failed(ValueError(evil)))
    screen.provider.on_task_cancelled(TaskCancelled(**about(task_id=evil), reason=evil))
    assert len(screen.lines) == 2
    assert len(screen.text.splitlines()) == 2
    assert not {"\x1b", "\r", "\x07", "\ud800"} & set(screen.text)
    if evil.isprintable():
        assert screen.text.count(evil) >= 2


def test_long_errors_are_cut_and_stay_one_line(screen: Screen) -> None:
    screen.provider.on_task_failed(failed(ValueError("x" * 100_000)))
    assert len(screen.lines) == 1
    assert len(screen.text) < 400
    assert "…" in screen.text[-5:]


def test_an_error_that_cannot_be_shown(screen: Screen) -> None:
    class UnspeakableError(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no")

    screen.provider.on_task_failed(failed(UnspeakableError()))
    assert "UnspeakableError" in screen.text


def test_a_quiet_console_shows_no_task_that_went_well(screen: Screen) -> None:
    for provider in (screen.provider, (loud := Screen(verbose=True)).provider):
        provider.on_task_scheduled(TaskScheduled(**about()))
        provider.on_task_started(TaskStarted(**about(), started_at=NOW, queued_duration=0.034))
        provider.on_task_completed(TaskCompleted(**about(attempt=2), **TIMES))
    assert screen.text == ""
    assert [line[9:] for line in loud.lines] == [
        "· send_email               …456789ab           accepted for email",
        "▶ send_email               …456789ab           started after 34 ms",
        "✓ send_email               …456789ab    1.2 s  attempt 2 of 4",
    ]


@pytest.mark.parametrize(("bad", "shown"), [(0, False), (2, True)])
def test_a_call_with_failures_is_noteworthy(screen: Screen, bad: int, shown: bool) -> None:
    tasks = [TaskContext(**about()) for _ in range(10)]
    event = TaskBatchCompleted(
        task_type="rows",
        queue_id="email",
        tasks=tasks,
        started_at=NOW,
        succeeded=["i"] * (10 - bad),
        failed=["i"] * bad,
        batch_duration=0.5,
    )
    screen.provider.on_task_batch_completed(event)
    assert ("8 of 10 tasks succeeded, 2 failed" in screen.text) == shown


def of_flow(**fields: Any) -> dict[str, Any]:
    return {
        "flow_id": "0199f0a2-7c11-7abc-8def-0123456789ab",
        "total_steps": 1000,
        "join": FlowJoin("publish", "albums"),
        "failure_policy": "continue",
        "flow_duration": 75.0,
    } | fields


def test_a_flow_is_a_line_when_it_ends(screen: Screen) -> None:
    one = of_flow(total_steps=1)
    screen.provider.on_flow_completed(FlowCompleted(**one, steps_succeeded=1, steps_failed=0))
    completed = FlowCompleted(**of_flow(), steps_succeeded=998, steps_failed=2)
    screen.provider.on_flow_completed(completed)
    aborted = FlowAborted(**of_flow(), steps_completed=7, trigger_step_index=0)
    screen.provider.on_flow_aborted(aborted)
    early = FlowAborted(**one, steps_completed=0, trigger_step_index=None)
    screen.provider.on_flow_aborted(early)
    screen.provider.on_flow_timed_out(FlowTimedOut(**of_flow(), steps_completed=7))
    assert [line[9:] for line in screen.lines] == [
        "✓ publish                  …456789ab 1 m 15 s  flow of 1 step complete",
        "✓ publish                  …456789ab 1 m 15 s  flow of 1,000 steps complete, 2 failed",
        "■ publish                  …456789ab 1 m 15 s  "
        "flow aborted by step 0 with 7 of 1,000 steps done",
        "■ publish                  …456789ab 1 m 15 s  flow aborted with 0 of 1 step done",
        "■ publish                  …456789ab 1 m 15 s  flow timed out with 7 of 1,000 steps done",
    ]


def test_a_flow_that_starts_is_shown_to_those_who_want_everything(screen: Screen) -> None:
    fields = of_flow()
    del fields["flow_duration"]
    event = FlowStarted(**fields, started_at=NOW, step_types=["resize", "[b]check[/b]\n"])
    for provider in (screen.provider, (loud := Screen(verbose=True)).provider):
        provider.on_flow_started(event)
    assert screen.text == ""
    assert [line[9:] for line in loud.lines] == [
        "▶ publish                  …456789ab           "
        "flow of 1,000 steps started: resize, [b]check[/b]\\n"
    ]


def test_a_heartbeat_is_one_status_line_with_the_rate_since_the_last(screen: Screen) -> None:
    screen.provider.on_worker_started(WorkerStarted(**WORKER))
    above = len(screen.lines)
    screen.time = 5.0
    screen.provider.on_worker_heartbeat(beat(tasks_processed=500))
    batch = BatchCompleted(
        **WORKER, queue_id="email", batch_size=3, succeeded=3, failed=0, batch_duration=0.1
    )
    screen.provider.on_batch_completed(batch)
    screen.provider.on_batch_completed(batch)
    screen.time = 15.0
    screen.provider.on_worker_heartbeat(beat(tasks_processed=1525, tasks_failed=2, tasks_running=7))
    assert screen.lines[above:] == [
        "12:00:05 ♥ 500 processed · 100.0/s · 0 running · 0 failed · 61 MB · up 1 h 02 m",
        "12:00:05 ♥ 1,525 processed · 102.5/s · 2 batches · 7 running · 2 failed · 61 MB"
        " · up 1 h 02 m",
    ]
    screen.provider.on_worker_heartbeat(beat())
    assert "batch" not in screen.lines[-1]


def test_a_worker_starts_and_stops_in_a_panel(screen: Screen) -> None:
    screen.provider.on_worker_started(WorkerStarted(**WORKER))
    assert "email, reports" in screen.text
    assert "host-1-2" in screen.text
    screen.provider.on_worker_stopped(
        WorkerStopped(
            **WORKER,
            tasks_processed=1525,
            tasks_succeeded=1523,
            tasks_failed=2,
            avg_processing_duration=0.0123,
            reason="[b]SIGTERM[/b]\n",
        )
    )
    assert "[b]SIGTERM[/b]\\n" in screen.text
    assert "1,525 processed, 12 ms each on average" in screen.text


def test_a_console_that_knows_only_ascii_gets_ascii() -> None:
    screen = Screen(encoding="ascii", verbose=True)
    screen.provider.on_worker_started(WorkerStarted(**WORKER))
    screen.provider.on_task_failed(failed(ValueError("schön")))
    screen.provider.on_worker_heartbeat(beat())
    assert "x send_email" in screen.text
    assert "sch\\xf6n" in screen.text


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.0, "0 ms"),
        (0.9994, "999 ms"),
        (0.9999, "1.0 s"),
        (59.96, "1 m 00 s"),
        (3599.7, "1 h 00 m"),
        (200_000, "2 d 7 h"),
    ],
)
def test_durations_read_well(screen: Screen, seconds: float, shown: str) -> None:
    times = TIMES | {"processing_duration": seconds}
    screen.provider.on_task_failed(
        TaskFailed(**about(), **times, error=ValueError(), will_retry=False)
    )
    assert f" {shown}  attempt" in screen.text


def test_it_listens_to_what_it_prints() -> None:
    listening = Listeners(ConsoleHealthProvider())
    wanted = {name for name in EVENTS if listening.wants(name)}
    assert {"on_task_failed", "on_worker_heartbeat", "on_worker_stopped"} <= wanted
    assert {"on_flow_completed", "on_flow_aborted", "on_flow_timed_out"} <= wanted
    assert not {"on_batch_started", "on_queue_stats"} & wanted
