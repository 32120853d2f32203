"""AIMDStrategy: the figures of SPEC 12.7."""

from __future__ import annotations

import pytest

from taskloom.interfaces import AdaptiveSnapshot, BatchResult
from taskloom.kinesis import AIMDStrategy
from taskloom.testing import ManualClock

GOOD = BatchResult(succeeded=5)
BAD = BatchResult(succeeded=4, failed=1)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def aimd(clock: ManualClock) -> AIMDStrategy:
    return AIMDStrategy(clock=clock)


def hear(aimd: AIMDStrategy, result: BatchResult, times: int, shard: str = "s") -> None:
    for _ in range(times):
        aimd.record_batch_result(shard, result)


def test_it_starts_at_50_and_a_second(aimd: AIMDStrategy) -> None:
    nothing = AdaptiveSnapshot(50, 1.0, 0, 0, 0.0, ())
    assert aimd.get_snapshot("s") == aimd.get_snapshot() == nothing
    assert not aimd.should_backoff("s")


def test_three_successes_add_ten_up_to_500(aimd: AIMDStrategy) -> None:
    sizes = []
    for _ in range(6):
        hear(aimd, GOOD, 1)
        sizes.append(aimd.get_batch_size("s"))
    assert sizes == [50, 50, 60, 60, 60, 70]
    hear(aimd, GOOD, 500)
    assert aimd.get_batch_size("s") == 500


@pytest.mark.parametrize(
    "result", [BAD, BatchResult(throttled=True), BatchResult(succeeded=1, poison_pill=True)]
)
def test_failure_throttle_and_poison_halve_down_to_10(
    aimd: AIMDStrategy, result: BatchResult
) -> None:
    sizes = []
    for _ in range(4):
        hear(aimd, result, 1)
        sizes.append(aimd.get_batch_size("s"))
    assert sizes == [25, 12, 10, 10]


def test_a_failure_starts_the_run_of_successes_again(aimd: AIMDStrategy) -> None:
    hear(aimd, GOOD, 2)
    hear(aimd, BAD, 1)
    hear(aimd, GOOD, 2)
    assert aimd.get_batch_size("s") == 25
    hear(aimd, GOOD, 1)
    assert aimd.get_batch_size("s") == 35


def test_the_delay_grows_by_half_up_to_30_and_is_reset(aimd: AIMDStrategy) -> None:
    delays = []
    for _ in range(3):
        hear(aimd, BAD, 1)
        delays.append(aimd.get_processing_delay("s"))
    assert delays == [1.5, 2.25, 3.375]
    hear(aimd, BAD, 20)
    assert aimd.get_processing_delay("s") == 30.0
    hear(aimd, GOOD, 1)
    assert aimd.get_processing_delay("s") == 1.0


async def test_ten_failures_in_a_row_back_off(aimd: AIMDStrategy, clock: ManualClock) -> None:
    hear(aimd, BAD, 9)
    assert not aimd.should_backoff("s")
    pauses = []
    for _ in range(8):
        hear(aimd, BAD, 1)
        pauses.append(round(aimd.get_snapshot("s").backoff_remaining, 6))
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]
    assert aimd.should_backoff("s")
    await clock.advance(60.1)
    assert not aimd.should_backoff("s"), "it ends by itself"
    hear(aimd, BAD, 5_000)
    assert aimd.should_backoff("s")
    hear(aimd, GOOD, 1)
    assert not aimd.should_backoff("s"), "or by a success"


def test_shards_are_apart(aimd: AIMDStrategy) -> None:
    hear(aimd, BAD, 1, "a")
    assert (aimd.get_batch_size("a"), aimd.get_batch_size("b")) == (25, 50)


def test_types_that_mostly_fail_are_hot(aimd: AIMDStrategy) -> None:
    hear(aimd, BatchResult(succeeded=1, succeeded_types=("mail", "half")), 2)
    hear(aimd, BatchResult(failed=1, failed_types=("half",)), 2)
    hear(aimd, BatchResult(failed=1, failed_types=("mail", "pay")), 3)
    assert aimd.get_snapshot().hot_types == ("mail", "pay")
    hear(aimd, BatchResult(succeeded=1, succeeded_types=("pay",)), 100)
    assert aimd.get_snapshot().hot_types == (), "only the last 100 count"


async def test_a_snapshot_of_all_shards(aimd: AIMDStrategy, clock: ManualClock) -> None:
    hear(aimd, GOOD, 3, "a")
    hear(aimd, BAD, 11, "b")
    everything = aimd.get_snapshot()
    assert everything.batch_size == 35
    assert everything.processing_delay == pytest.approx((1.0 + 30.0) / 2)
    assert (everything.consecutive_successes, everything.consecutive_failures) == (3, 11)
    assert everything.backoff_remaining == pytest.approx(2.0)


@pytest.mark.parametrize(
    "options",
    [
        {"min_batch_size": 0},
        {"min_batch_size": 20, "max_batch_size": 10},
        {"decrease_factor": 1.0},
        {"delay_multiplier": 0.5},
        {"window_size": 0},
        {"base_delay": -1.0},
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(options)).split("_")[0]):
        AIMDStrategy(**options)  # type: ignore[arg-type]
