"""Settlement: from how runs ended to what is to be written. Pure functions, no I/O.

For each outcome there is one `Verdict`: the task's new status, what the storage writes about it,
and whether its delivery is acknowledged, put back, or released. Carrying it out is the settler's.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from msgspec import UNSET, Struct
from msgspec.structs import replace

from taskloom.codec import cut
from taskloom.executors import Executor
from taskloom.flows import FlowStepResult
from taskloom.outcomes import Delivery, Ending, Outcome, Word
from taskloom.retry import retry_delay
from taskloom.task import Task, TaskStatus

__all__ = [
    "HANDED_OFF",
    "LIBRARY_STATS",
    "Circumstances",
    "Verdict",
    "decide",
    "lives_used",
    "reason_of",
    "step_result",
    "waits_in_row",
]

HANDED_OFF = "handed_off"
"""How often the task left a queue that cannot wait for it, since it last had an outcome."""

LIBRARY_STATS = frozenset(
    {
        HANDED_OFF,
        "failed_at",
        "ignored_at",
        "ignored_reason",
        "last_error",
        "last_error_stack",
        "poison",
        "result_dropped",
        "retry_count",
    }
)
"""Keys of `execution_stats` that the user's `meta` cannot overwrite."""

_log = logging.getLogger(__name__)


class Circumstances(Struct, frozen=True, kw_only=True):
    """What a decision depends on besides the outcome itself."""

    now: datetime
    integrated: bool
    """The storage is the queue, or alone holds the task: its row is there, and settling it is
    acknowledging it."""
    can_delay: bool
    """The queue keeps a task until its time."""
    inline: bool = False
    """The queue runs everything at once, whatever its time."""
    horizon: timedelta
    """What is due later than this waits in the storage."""

    @classmethod
    def without_engines(cls, now: datetime) -> Circumstances:
        """For saying how runs ended where nothing will be written."""
        return cls(now=now, integrated=True, can_delay=True, horizon=timedelta())


class Verdict(Struct, frozen=True, eq=False, gc=False):
    """What follows from one outcome."""

    outcome: Outcome
    status: TaskStatus
    """The task's status from now on."""
    ending: Ending | None = None
    """What the storage writes; None: it knows nothing of this task and need not."""
    back: Task[Any] | None = None
    """What goes back onto a separate queue in place of the delivery, which is not acknowledged."""
    will_retry: bool = False
    next_attempt_at: datetime | None = None
    discarded: bool = False
    """It failed for good and nobody wanted it kept."""

    @property
    def released(self) -> bool:
        """Given up without a word on the task: nothing is written."""
        word = self.outcome.word
        return word is Word.RELEASED or word is Word.LOST


def decide(
    outcome: Outcome, executor_of: Callable[[Task[Any]], Executor | None], around: Circumstances
) -> Verdict:
    """What follows from `outcome`."""
    match outcome.word:
        case Word.SUCCESS:
            return _succeeded(outcome, around)
        case Word.FAILURE:
            return _failed(outcome, executor_of(outcome.delivery.task), around)
        case Word.RESCHEDULED:
            return _rescheduled(outcome, around)
        case Word.IGNORED:
            stats = {"ignored_reason": "unknown_executor", "ignored_at": _text(around.now)}
            return _ended(outcome, around, TaskStatus.IGNORED, stats)
        case Word.EXPIRED:
            return _ended(outcome, around, TaskStatus.EXPIRED, {})
        case Word.POISON:
            return _poison(outcome, around)
        case Word.CANCELLED:
            return _ended(outcome, around, TaskStatus.CANCELLED, {})
        case Word.RELEASED | Word.LOST:
            return Verdict(outcome, outcome.delivery.task.status)


def waits_in_row(outcome: Outcome, now: datetime) -> Verdict:
    """A released task that no queue holds any more: it is due in the storage."""
    task = outcome.delivery.task
    stats, at = _stats(outcome, {}), now + timedelta(seconds=outcome.delay)
    task = replace(task, status=TaskStatus.SCHEDULED, execute_at=at, execution_stats=stats)
    ending = Ending(outcome.delivery, TaskStatus.SCHEDULED, UNSET, stats, task)
    return Verdict(outcome, TaskStatus.SCHEDULED, ending)


def lives_used(delivery: Delivery) -> int:
    """How often the task was begun without an outcome, this time included."""
    handed_off: int = delivery.task.execution_stats.get(HANDED_OFF, 0)
    return delivery.delivery_count + handed_off


def _succeeded(outcome: Outcome, around: Circumstances) -> Verdict:
    status = TaskStatus.EXECUTED
    if not around.integrated and not _stored(outcome):
        return Verdict(outcome, status)
    # The stats stay as they are unless there is something to note: nothing to encode or write.
    marked = outcome.notes is not None or HANDED_OFF in outcome.delivery.task.execution_stats
    stats = _stats(outcome, {}) if marked else None
    ending = Ending(
        outcome.delivery,
        status,
        outcome.result,
        stats,
        None,
        _with(outcome, around),
        outcome.flows,
        None if outcome.delivery.task.metadata.flow is None else _step(outcome, None),
    )
    return Verdict(outcome, status, ending)


def _failed(outcome: Outcome, executor: Executor | None, around: Circumstances) -> Verdict:
    task, failure = outcome.delivery.task, outcome.failure
    assert failure is not None, "a failure says why"
    delay = None if executor is None else retry_delay(task, executor, failure.error)
    wanted = executor is not None and executor.store_on_failure
    news: dict[str, Any] = {"last_error": failure.message}
    if failure.stack is not None:
        news["last_error_stack"] = failure.stack
    if delay is not None:
        retry = replace(
            task,
            status=TaskStatus.SCHEDULED,
            retry_count=task.retry_count + 1,
            execute_at=around.now + timedelta(seconds=delay),
            execution_stats=_stats(outcome, news),
        )
        return _goes_on(outcome, retry, around, keep=wanted, will_retry=True)
    if not (around.integrated or wanted or _stored(outcome)):
        return Verdict(outcome, TaskStatus.FAILED, discarded=True)
    news["failed_at"] = _text(around.now)
    return _ended(outcome, around, TaskStatus.FAILED, news)


def _rescheduled(outcome: Outcome, around: Circumstances) -> Verdict:
    assert outcome.next is not None, "a task that reschedules itself says how"
    task = outcome.next
    if (flow := outcome.delivery.task.metadata.flow) != task.metadata.flow:
        # A step stays one, also as a task that was made anew: its flow waits for it.
        task = replace(task, metadata=replace(task.metadata, flow=flow))
    stats = {key: value for key, value in task.execution_stats.items() if key != HANDED_OFF}
    again = replace(
        task, status=TaskStatus.SCHEDULED, execution_result=UNSET, execution_stats=stats
    )
    return _goes_on(outcome, again, around, keep=False, will_retry=False)


def _goes_on(
    outcome: Outcome, task: Task[Any], around: Circumstances, *, keep: bool, will_retry: bool
) -> Verdict:
    """The task runs again as `task`: where time is kept, and stored if it is or should be."""
    delivery, children = outcome.delivery, _with(outcome, around)
    near = task.execute_at - around.now <= around.horizon
    waits_in_queue = around.inline or (around.can_delay and near)
    if around.integrated or not waits_in_queue:
        status, back = TaskStatus.SCHEDULED, None
    elif _stored(outcome) or keep:
        status, back = TaskStatus.QUEUED, replace(task, status=TaskStatus.QUEUED)
    else:
        # Only the queue knows it, and it takes it back in one step.
        return Verdict(outcome, task.status, None, task, will_retry, task.execute_at)
    task = replace(task, status=status)
    ending = Ending(delivery, status, UNSET, task.execution_stats, task, children, outcome.flows)
    return Verdict(outcome, status, ending, back, will_retry, task.execute_at)


def _poison(outcome: Outcome, around: Circumstances) -> Verdict:
    deliveries = lives_used(outcome.delivery)
    message = f"delivered {deliveries} times without an outcome: it may kill its worker"
    stats = {"poison": deliveries, "last_error": message, "failed_at": _text(around.now)}
    return _ended(outcome, around, TaskStatus.FAILED, stats)


def _ended(
    outcome: Outcome, around: Circumstances, status: TaskStatus, news: dict[str, Any]
) -> Verdict:
    stats = _stats(outcome, news)
    ends_step = outcome.delivery.task.metadata.flow is not None
    step = _step(outcome, reason_of(status, stats)) if ends_step else None
    children = _with(outcome, around)
    ending = Ending(outcome.delivery, status, UNSET, stats, None, children, outcome.flows, step)
    return Verdict(outcome, status, ending)


def reason_of(status: TaskStatus, stats: dict[str, Any]) -> str:
    """Why a task did not execute, in words, by its `execution_stats`."""
    match status:
        case TaskStatus.EXPIRED:
            return "expired"
        case TaskStatus.IGNORED:
            return "ignored: no executor is registered"
        case TaskStatus.CANCELLED:
            return cut(f"cancelled: {stats.get('cancelled_reason') or 'no reason given'}")
        case _:
            return str(stats.get("last_error", "failed"))


def step_result(task: Task[Any]) -> FlowStepResult | None:
    """What a step that a storage has as ended counts as; None for what is no step."""
    meta = task.metadata.flow
    if meta is None or meta.is_join or meta.is_timeout:
        return None
    stats = task.execution_stats
    if task.status is not TaskStatus.EXECUTED:
        return FlowStepResult(meta.step_index, "fail", None, reason_of(task.status, stats))
    result = None if task.execution_result is UNSET else task.execution_result
    if "result_dropped" in stats:
        result = {"result_dropped": stats["result_dropped"]}
    return FlowStepResult(meta.step_index, "success", result)


def _step(outcome: Outcome, error: str | None) -> FlowStepResult | None:
    """What the end of a flow's step counts as; None for its join and its sentinel."""
    meta = outcome.delivery.task.metadata.flow
    if meta is None or meta.is_join or meta.is_timeout:
        return None
    if error is not None:
        return FlowStepResult(meta.step_index, "fail", None, error)
    result = None if outcome.result is UNSET else outcome.result
    if outcome.notes and "result_dropped" in outcome.notes:
        result = {"result_dropped": outcome.notes["result_dropped"]}
    return FlowStepResult(meta.step_index, "success", result)


def _with(outcome: Outcome, around: Circumstances) -> tuple[Task[Any], ...]:
    """The children that are written with the ending; beside a separate queue they are added."""
    return outcome.children if around.integrated else ()


def _stored(outcome: Outcome) -> bool:
    """Whether a storage beside the queue has a row of this task."""
    return outcome.delivery.task.status is TaskStatus.QUEUED


def _stats(outcome: Outcome, news: dict[str, Any]) -> dict[str, Any]:
    """Earlier entries stay, the user's are added, the library's win."""
    stats = dict(outcome.delivery.task.execution_stats)
    stats.pop(HANDED_OFF, None)
    if outcome.meta:
        for key, value in outcome.meta.items():
            if key in LIBRARY_STATS:
                _log.warning("meta of task %s cannot set %r", outcome.delivery.task.id, key)
            else:
                stats[key] = value
    if outcome.notes:
        stats.update(outcome.notes)
    stats.update(news)
    return stats


def _text(moment: datetime) -> str:
    return moment.isoformat()
