"""When a failed task is tried again: SPEC 5.3 at its corners."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskloom import SingleTaskExecutor, Task
from taskloom.retry import DEFAULT_RETRY_AFTER, MAX_RETRY_DELAY, max_retries, retry_delay

ERROR = RuntimeError("no")


def executor(**options: Any) -> SingleTaskExecutor:
    return SingleTaskExecutor(lambda task, actions: None, store_on_failure=False, **options)


def task(**fields: Any) -> Task[Any]:
    return Task(type="t", queue_id="q", payload=None, **fields)


@pytest.mark.parametrize(
    ("own", "default", "expected"), [(None, 0, 0), (None, 3, 3), (0, 3, 0), (5, 3, 5), (1, 0, 1)]
)
def test_the_tasks_own_number_wins_over_the_executors(
    own: int | None, default: int, expected: int
) -> None:
    assert max_retries(task(retries=own), executor(default_retries=default)) == expected


def test_without_an_executor_only_the_tasks_own_number_counts() -> None:
    assert max_retries(task(), None) == 0
    assert max_retries(task(retries=2), None) == 2


@pytest.mark.parametrize(
    ("count", "after", "delay"),
    [
        (0, None, 2.0),
        (1, None, 8.0),
        (2, None, 18.0),
        (11, None, 288.0),
        (12, None, 300.0),  # 2 * 13**2 = 338
        (0, 0.0, 0.0),
        (7, 0.0, 0.0),
        (0, 300.0, 300.0),
        (0, 300.5, 300.0),
        (3, 0.5, 8.0),
        (10**6, 1e300, 300.0),
    ],
)
def test_the_delay_grows_with_the_square_of_the_attempt(
    count: int, after: float | None, delay: float
) -> None:
    failed = task(retries=count + 1, retry_count=count, retry_after=after)
    assert retry_delay(failed, executor(), ERROR) == delay


@pytest.mark.parametrize(("retries", "count"), [(0, 0), (1, 1), (3, 3), (3, 4)])
def test_no_delay_when_the_retries_are_used_up(retries: int, count: int) -> None:
    assert retry_delay(task(retries=retries, retry_count=count), executor(), ERROR) is None


@given(
    retries=st.integers(0, 50),
    count=st.integers(0, 60),
    after=st.none() | st.floats(0, 1e9, allow_nan=False),
)
def test_a_retry_has_a_delay_within_bounds_exactly_while_some_are_left(
    retries: int, count: int, after: float | None
) -> None:
    delay = retry_delay(
        task(retries=retries, retry_count=count, retry_after=after), executor(), ERROR
    )
    assert (delay is not None) == (count < retries)
    if delay is not None:
        base = DEFAULT_RETRY_AFTER if after is None else after
        assert 0 <= delay <= MAX_RETRY_DELAY
        assert delay in (MAX_RETRY_DELAY, base * (count + 1) ** 2)


def test_a_policy_replaces_the_delay_and_the_count() -> None:
    seen: list[tuple[int, BaseException]] = []

    def policy(failed: Task[Any], error: BaseException) -> float:
        seen.append((failed.retry_count, error))
        return 7

    used_up = task(retries=0, retry_count=9, retry_after=1.0)
    assert retry_delay(used_up, executor(retry_policy=policy), ERROR) == 7.0
    assert seen == [(9, ERROR)]


def test_a_policy_that_says_none_ends_it_although_retries_are_left() -> None:
    assert retry_delay(task(retries=5), executor(retry_policy=lambda t, e: None), ERROR) is None


def test_a_policy_below_zero_means_at_once() -> None:
    assert retry_delay(task(), executor(retry_policy=lambda t, e: -3.0), ERROR) == 0.0


@pytest.mark.parametrize("answer", [math.nan, math.inf, 1e300])
def test_a_policy_that_names_no_time_on_the_calendar_costs_no_task_its_retry(
    answer: float,
) -> None:
    """What comes out can be added to a time; otherwise the attempt could never be settled."""
    delay = retry_delay(task(retries=1), executor(retry_policy=lambda t, e: answer), ERROR)
    assert delay is not None
    assert 0 <= delay <= 10**9


def _raising(error: BaseException) -> Any:
    def policy(failed: Task[Any], why: BaseException) -> float:
        raise error

    return policy


@pytest.mark.parametrize(
    "raised", [ValueError("mine"), SystemExit(1)], ids=lambda error: type(error).__name__
)
def test_a_policy_that_raises_leaves_the_default(
    raised: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    policy = executor(retry_policy=_raising(raised))
    assert retry_delay(task(retries=1), policy, ERROR) == 2.0
    assert retry_delay(task(retries=0), policy, ERROR) is None
    assert "retry_policy of 't' failed" in caplog.text


def test_a_policy_that_answers_nonsense_leaves_the_default() -> None:
    policy = executor(retry_policy=lambda t, e: "soon")  # type: ignore[arg-type,return-value]
    assert retry_delay(task(retries=1), policy, ERROR) == 2.0
