"""Settlement: from how a run ended to what is written. Values in, values out."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from taskloom import SingleTaskExecutor, Task, TaskStatus
from taskloom.executors import Executor
from taskloom.failures import failure_of
from taskloom.outcomes import Delivery, Outcome, Word
from taskloom.settlement import LIBRARY_STATS, Circumstances, Verdict, decide

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
HORIZON = timedelta(seconds=120)

ONE = Circumstances(now=NOW, integrated=True, can_delay=True, horizon=HORIZON)
TWO = Circumstances(now=NOW, integrated=False, can_delay=True, horizon=HORIZON)
NO_DELAY = Circumstances(now=NOW, integrated=False, can_delay=False, horizon=HORIZON)

KEEPING = SingleTaskExecutor(lambda t, a: None, store_on_failure=True)
FORGETTING = SingleTaskExecutor(lambda t, a: None, store_on_failure=False)


def outcome(word: Word, *, status: TaskStatus = TaskStatus.SCHEDULED, **fields: Any) -> Outcome:
    names = {"retries", "retry_count", "retry_after", "execution_stats"}
    own = {name: fields.pop(name) for name in names & fields.keys()}
    task: Task[Any] = Task(type="t", queue_id="q", payload=1, id="t1", status=status, **own)
    if word is Word.FAILURE:
        fields.setdefault("failure", failure_of("no"))
    return Outcome(Delivery(task, None, fields.pop("count", 1)), word, **fields)


def decided(outcome: Outcome, executor: Executor | None, around: Circumstances) -> Verdict:
    return decide(outcome, lambda task: executor, around)


def child() -> Task[Any]:
    return Task(type="c", queue_id="q", payload=None)


# Success


def test_success_where_the_storage_is_the_queue_is_written() -> None:
    made = child()
    verdict = decided(
        outcome(Word.SUCCESS, result=msgspec.Raw(b"1"), children=(made,)), KEEPING, ONE
    )
    assert verdict.status is TaskStatus.EXECUTED
    assert verdict.ending is not None
    assert verdict.ending.result == msgspec.Raw(b"1")
    assert verdict.ending.children == (made,)
    assert verdict.ending.stats is None
    assert verdict.back is None


def test_success_of_what_only_the_queue_knows_writes_nothing() -> None:
    verdict = decided(outcome(Word.SUCCESS), KEEPING, TWO)
    assert (verdict.status, verdict.ending, verdict.back) == (TaskStatus.EXECUTED, None, None)


def test_success_of_a_stored_task_is_written_beside_the_queue() -> None:
    verdict = decided(outcome(Word.SUCCESS, status=TaskStatus.QUEUED), KEEPING, TWO)
    assert verdict.ending is not None
    assert verdict.ending.status is TaskStatus.EXECUTED
    assert verdict.ending.result is UNSET


def test_a_note_joins_the_earlier_stats() -> None:
    noted = outcome(Word.SUCCESS, notes={"result_dropped": 9}, execution_stats={"mine": 1})
    verdict = decided(noted, KEEPING, ONE)
    assert verdict.ending is not None
    assert verdict.ending.stats == {"mine": 1, "result_dropped": 9}


# Failure, to be tried again


def test_a_retry_counts_one_up_keeps_its_id_and_is_due_later() -> None:
    verdict = decided(outcome(Word.FAILURE, retries=2, retry_count=1), KEEPING, ONE)
    assert verdict.will_retry
    assert verdict.next_attempt_at == NOW + timedelta(seconds=8)
    assert verdict.status is TaskStatus.SCHEDULED
    assert verdict.ending is not None
    retry = verdict.ending.next
    assert retry is not None
    assert (retry.id, retry.retry_count) == ("t1", 2)
    assert retry.execute_at == NOW + timedelta(seconds=8)
    assert retry.execution_stats == {"last_error": "no"}


def test_a_retry_of_what_only_the_queue_knows_goes_back_to_it() -> None:
    verdict = decided(outcome(Word.FAILURE, retries=1), FORGETTING, TWO)
    assert verdict.ending is None
    assert verdict.back is not None
    assert verdict.back.retry_count == 1
    assert verdict.status is TaskStatus.SCHEDULED


@pytest.mark.parametrize(
    ("executor", "status"),
    [
        (KEEPING, TaskStatus.SCHEDULED),
        (FORGETTING, TaskStatus.QUEUED),
        (KEEPING, TaskStatus.QUEUED),
    ],
)
def test_a_retry_of_what_is_or_should_be_stored_is_stored_and_queued(
    executor: SingleTaskExecutor, status: TaskStatus
) -> None:
    verdict = decided(outcome(Word.FAILURE, status=status, retries=1), executor, TWO)
    assert verdict.status is TaskStatus.QUEUED
    assert verdict.ending is not None
    assert verdict.ending.next is not None
    assert verdict.ending.next.status is TaskStatus.QUEUED
    assert verdict.back == verdict.ending.next


def test_a_retry_beyond_the_horizon_waits_in_the_storage() -> None:
    verdict = decided(outcome(Word.FAILURE, retries=1, retry_after=121.0), FORGETTING, TWO)
    assert verdict.back is None
    assert verdict.ending is not None
    assert verdict.ending.status is TaskStatus.SCHEDULED


def test_a_retry_at_the_horizon_still_goes_to_the_queue() -> None:
    verdict = decided(outcome(Word.FAILURE, retries=1, retry_after=120.0), FORGETTING, TWO)
    assert verdict.back is not None


def test_a_retry_waits_in_the_storage_where_the_queue_cannot_delay() -> None:
    verdict = decided(outcome(Word.FAILURE, retries=1), FORGETTING, NO_DELAY)
    assert verdict.back is None
    assert verdict.ending is not None
    assert verdict.ending.status is TaskStatus.SCHEDULED


# Failure for good


def test_the_last_failure_of_a_stored_task_is_failed_in_the_storage() -> None:
    verdict = decided(outcome(Word.FAILURE, status=TaskStatus.QUEUED), FORGETTING, TWO)
    assert verdict.status is TaskStatus.FAILED
    assert not verdict.discarded
    assert verdict.ending is not None
    assert verdict.ending.stats == {"last_error": "no", "failed_at": NOW.isoformat()}


def test_the_last_failure_with_store_on_failure_is_stored() -> None:
    verdict = decided(outcome(Word.FAILURE), KEEPING, TWO)
    assert verdict.ending is not None
    assert verdict.ending.status is TaskStatus.FAILED


def test_the_last_failure_that_nobody_wants_is_discarded() -> None:
    verdict = decided(outcome(Word.FAILURE), FORGETTING, TWO)
    assert verdict.discarded
    assert (verdict.status, verdict.ending) == (TaskStatus.FAILED, None)


def test_where_the_storage_is_the_queue_nothing_is_discarded() -> None:
    verdict = decided(outcome(Word.FAILURE), FORGETTING, ONE)
    assert not verdict.discarded
    assert verdict.ending is not None


def test_a_failed_attempt_that_spoke_keeps_its_children() -> None:
    made = child()
    verdict = decided(outcome(Word.FAILURE, retries=1, children=(made,)), KEEPING, ONE)
    assert verdict.ending is not None
    assert verdict.ending.children == (made,)


# Stats


def test_meta_cannot_set_what_is_the_librarys(caplog: pytest.LogCaptureFixture) -> None:
    meta = dict.fromkeys(LIBRARY_STATS, "mine") | {"step": 3}
    verdict = decided(outcome(Word.FAILURE, meta=meta), KEEPING, ONE)
    assert verdict.ending is not None
    stats = verdict.ending.stats
    assert stats == {"step": 3, "last_error": "no", "failed_at": NOW.isoformat()}
    assert caplog.text.count("cannot set") == len(LIBRARY_STATS)


def test_the_stack_is_there_for_exceptions_only() -> None:
    with_stack = decided(outcome(Word.FAILURE, failure=failure_of(KeyError("k"))), KEEPING, ONE)
    assert with_stack.ending is not None
    assert with_stack.ending.stats is not None
    assert "KeyError" in with_stack.ending.stats["last_error_stack"]
    without = decided(outcome(Word.FAILURE), KEEPING, ONE)
    assert without.ending is not None
    assert without.ending.stats is not None
    assert "last_error_stack" not in without.ending.stats


@given(
    earlier=st.dictionaries(st.text(max_size=5), st.integers(), max_size=4),
    meta=st.none() | st.dictionaries(st.text(max_size=5), st.integers(), max_size=4),
)
def test_earlier_stats_stay_and_the_users_are_added(
    earlier: dict[str, int], meta: dict[str, int] | None
) -> None:
    verdict = decided(outcome(Word.FAILURE, meta=meta, execution_stats=earlier), KEEPING, ONE)
    assert verdict.ending is not None
    expected = {**earlier, **(meta or {})}
    assert verdict.ending.stats is not None
    assert {k: v for k, v in verdict.ending.stats.items() if k in expected} == expected


# The other words


@pytest.mark.parametrize("around", [ONE, TWO], ids=["one", "two"])
def test_what_has_no_executor_is_kept_as_ignored(around: Circumstances) -> None:
    verdict = decided(outcome(Word.IGNORED), None, around)
    assert verdict.status is TaskStatus.IGNORED
    assert verdict.ending is not None
    assert verdict.ending.stats is not None
    assert verdict.ending.stats["ignored_reason"] == "unknown_executor"


@pytest.mark.parametrize("around", [ONE, TWO], ids=["one", "two"])
def test_what_came_too_late_is_kept_as_expired(around: Circumstances) -> None:
    verdict = decided(outcome(Word.EXPIRED), KEEPING, around)
    assert verdict.ending is not None
    assert verdict.ending.status is TaskStatus.EXPIRED


def test_poison_is_failed_for_good_whatever_retries_are_left() -> None:
    verdict = decided(outcome(Word.POISON, retries=9, count=6), KEEPING, TWO)
    assert (verdict.status, verdict.will_retry) == (TaskStatus.FAILED, False)
    assert verdict.ending is not None
    assert verdict.ending.stats is not None
    assert verdict.ending.stats["poison"] == 6


@pytest.mark.parametrize("word", [Word.RELEASED, Word.LOST])
@pytest.mark.parametrize("around", [ONE, TWO], ids=["one", "two"])
def test_what_is_given_up_writes_nothing(word: Word, around: Circumstances) -> None:
    verdict = decided(outcome(word), KEEPING, around)
    assert verdict.released
    assert (verdict.ending, verdict.back) == (None, None)


def test_a_task_that_rescheduled_itself_goes_on_as_it_said() -> None:
    ended = outcome(Word.RESCHEDULED)
    task = ended.delivery.task
    again = task.replace(payload=2, execute_at=NOW + timedelta(hours=1))
    verdict = decided(msgspec.structs.replace(ended, next=again), KEEPING, ONE)
    assert not verdict.will_retry
    assert verdict.ending is not None
    assert verdict.ending.next is not None
    assert (verdict.ending.next.payload, verdict.ending.next.retry_count) == (2, 0)
    assert verdict.next_attempt_at == again.execute_at


# What holds for all of them


@given(
    word=st.sampled_from([word for word in Word if word is not Word.RESCHEDULED]),
    integrated=st.booleans(),
    can_delay=st.booleans(),
    stored=st.booleans(),
    keeping=st.booleans(),
    retries=st.none() | st.integers(0, 3),
    retry_count=st.integers(0, 4),
    retry_after=st.none() | st.floats(0, 1000),
)
def test_every_outcome_has_one_verdict_that_holds_together(
    word: Word,
    integrated: bool,
    can_delay: bool,
    stored: bool,
    keeping: bool,
    retries: int | None,
    retry_count: int,
    retry_after: float | None,
) -> None:
    around = Circumstances(now=NOW, integrated=integrated, can_delay=can_delay, horizon=HORIZON)
    ended = outcome(
        word,
        status=TaskStatus.QUEUED if stored else TaskStatus.SCHEDULED,
        retries=retries,
        retry_count=retry_count,
        retry_after=retry_after,
    )
    _holds_together(decided(ended, KEEPING if keeping else FORGETTING, around), around)


def _holds_together(verdict: Verdict, around: Circumstances) -> None:
    ending, back = verdict.ending, verdict.back
    # Going on and having ended exclude each other.
    going_on = verdict.will_retry
    assert going_on == (verdict.next_attempt_at is not None)
    assert not (going_on and verdict.status.terminal)
    if ending is not None:
        assert ending.status is verdict.status
        assert (ending.next is not None) == going_on
    # What goes on is somewhere: on the queue, in the storage, or both.
    assert not going_on or ending is not None or back is not None
    # One row is one place: an integrated engine is never told twice.
    assert not (around.integrated and back is not None)
    # A failure is kept or counted as discarded, never neither.
    if verdict.status is TaskStatus.FAILED and not verdict.released:
        assert (ending is not None) != verdict.discarded
