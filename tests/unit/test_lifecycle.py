"""Event values: flat, complete, cheap to make; and the settings of their delivery."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from taskloom import lifecycle
from taskloom.errors import ConfigurationError, TaskloomError
from taskloom.lifecycle import (
    EVENTS,
    LifecycleConfig,
    QueueStats,
    TaskBatchCompleted,
    TaskCompleted,
    TaskContext,
    TaskFailed,
    TaskLifecycleProvider,
    TaskNotificationProvider,
    TaskScheduled,
    TaskStarted,
    WorkerLifecycleProvider,
    task_context,
)
from taskloom.listeners import Listeners
from taskloom.task import Task, TaskMetadata

TIMES = ("queued_duration", "processing_duration", "total_duration")
NOW = datetime(2026, 11, 21, 12, 0, 5, tzinfo=UTC)


def a_task(**fields: Any) -> Task[Any]:
    return Task(**{"type": "send", "queue_id": "email", "payload": {"to": "a@b.c"}} | fields)


def test_the_context_names_the_task_and_its_attempt() -> None:
    task = a_task(
        retry_count=2,
        task_hash="h",
        created_at=NOW,
        metadata=TaskMetadata(log_context={"request": "r1"}),
    )
    event = TaskContext(**task_context(task, max_retries=5, worker_id="w", consumer_id="c"))
    assert event.task_id == task.id
    assert (event.task_type, event.queue_id, event.task_hash) == ("send", "email", "h")
    assert (event.attempt, event.max_retries) == (3, 5)
    assert event.scheduled_at == NOW
    assert (event.worker_id, event.consumer_id) == ("w", "c")
    assert event.log_context == {"request": "r1"}


def test_the_payload_is_there_only_when_asked_for() -> None:
    task = a_task()
    assert task_context(task, max_retries=0)["payload"] == {}
    shown = TaskContext(**task_context(task, max_retries=0, include_payload=True))
    assert shown.payload == {"to": "a@b.c"}


def test_a_task_without_log_context_has_an_empty_one() -> None:
    assert TaskContext(**task_context(a_task(), max_retries=0)).log_context == {}


def test_an_event_is_flat_and_cannot_be_changed() -> None:
    context = task_context(a_task(), max_retries=0)
    event = TaskStarted(**context, started_at=NOW, queued_duration=0.5)
    assert event.task_type == "send"
    assert event.queued_duration == 0.5
    with pytest.raises(AttributeError):
        event.attempt = 2  # type: ignore[misc]


def test_no_result_and_the_result_none_differ() -> None:
    context = task_context(a_task(), max_retries=0)
    timing: dict[str, Any] = dict(zip(TIMES, (0.1, 0.2, 0.3), strict=True))
    assert TaskCompleted(**context, **timing).result is msgspec.UNSET
    assert TaskCompleted(**context, **timing, result=None).result is None


def test_a_failure_carries_the_real_error() -> None:
    error = ConnectionError("refused")
    event = TaskFailed(
        **task_context(a_task(), max_retries=1),
        queued_duration=0.1,
        processing_duration=0.2,
        total_duration=0.3,
        error=error,
        will_retry=True,
        next_attempt_at=NOW,
    )
    assert event.error is error


def test_a_batch_says_who_succeeded_and_who_failed() -> None:
    tasks = [TaskContext(**task_context(a_task(), max_retries=0)) for _ in range(2)]
    event = TaskBatchCompleted(
        task_type="send",
        queue_id="email",
        tasks=tasks,
        started_at=NOW,
        succeeded=[tasks[0].task_id],
        failed=[tasks[1].task_id],
        batch_duration=0.4,
    )
    assert [task.task_id for task in event.tasks] == event.succeeded + event.failed


def test_every_duration_is_called_so_and_is_a_float() -> None:
    for name in lifecycle.__all__:
        cls = getattr(lifecycle, name)
        if isinstance(cls, type) and issubclass(cls, msgspec.Struct):
            for field in msgspec.structs.fields(cls):
                assert not field.name.endswith(("_ms", "_mb", "_seconds"))
                if field.name.endswith("_duration"):
                    assert field.type is float


@pytest.mark.parametrize(
    ("provider", "methods"),
    [
        (
            TaskLifecycleProvider,
            "task_scheduled task_started task_completed task_failed task_exhausted "
            "task_cancelled task_batch_started task_batch_completed",
        ),
        (
            WorkerLifecycleProvider,
            "worker_started worker_heartbeat worker_stopped batch_started "
            "batch_completed consumer_started consumer_stopped",
        ),
        (
            TaskNotificationProvider,
            "queue_stats tasks_discarded task_error final_stats",
        ),
    ],
)
def test_the_methods_of_a_provider_do_nothing(provider: type, methods: str) -> None:
    names = [f"on_{method}" for method in methods.split()]
    assert [name for name in vars(provider) if name.startswith("on_")] == names
    for name in names:
        assert EVENTS[name] is vars(provider)[name]
        assert getattr(provider(), name)(object()) is None


def test_intervals_may_be_given_as_timedelta() -> None:
    config = LifecycleConfig(heartbeat_interval=timedelta(milliseconds=500))
    assert config.heartbeat_interval == 0.5


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("mode", "later"),
        ("heartbeat_interval", 0),
        ("heartbeat_interval", -1),
        ("heartbeat_interval", float("nan")),
        ("heartbeat_interval", "5"),
    ],
)
def test_a_wrong_setting_is_named(field: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=field) as caught:
        LifecycleConfig(**{field: value})
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, TaskloomError)


# Who is told


class OnlyStarted(TaskLifecycleProvider, WorkerLifecycleProvider):
    async def on_task_started(self, event: TaskStarted) -> None: ...


class StillOnlyStarted(OnlyStarted):
    def on_task_scheduled(self, event: TaskScheduled) -> None: ...


def test_only_overridden_methods_are_wanted() -> None:
    listening = Listeners(OnlyStarted())
    assert listening.wants("on_task_started")
    assert not listening.wants("on_task_scheduled")
    assert not listening.wants("on_worker_heartbeat")
    assert Listeners(OnlyStarted(), StillOnlyStarted()).wants("on_task_scheduled")


def test_a_method_set_on_the_object_counts_as_overridden() -> None:
    provider = TaskLifecycleProvider()
    provider.on_task_failed = lambda event: None  # type: ignore[method-assign]
    assert Listeners(provider).wants("on_task_failed")


class Duck:
    def on_task_started(self, event: object) -> None: ...


def test_duck_typed_objects_are_asked_for_their_methods() -> None:
    assert Listeners(Duck()).wants("on_task_started")
    assert not Listeners(Duck()).wants("on_task_failed")
    assert not Listeners(None).wants("on_task_started")


def test_a_misspelt_event_is_an_error() -> None:
    with pytest.raises(KeyError):
        Listeners().wants("on_task_begun")


async def test_final_stats_arrive_as_a_list() -> None:
    told: list[QueueStats] = []

    class Notified(TaskNotificationProvider):
        def on_final_stats(self, event: list[QueueStats]) -> None:
            told.extend(event)

    figures = QueueStats(
        queue_id="q", success=1, failed=0, handed_off=0, ignored=0, instance_id="i"
    )
    await Listeners(Notified(), mode="sync").emit("on_final_stats", [figures])
    assert told == [figures]
