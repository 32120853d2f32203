"""ManualClock: time passes only when a test says so, and in order."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta, timezone

import pytest

from taskloom.testing import ManualClock

START = datetime(2030, 5, 1, 12, tzinfo=UTC)


async def test_time_stands_still_until_it_is_advanced() -> None:
    clock = ManualClock(START)
    monotonic = clock.monotonic()
    await asyncio.sleep(0)
    assert clock.now() == START
    await clock.advance(1.5)
    assert clock.now() == START + timedelta(seconds=1.5)
    assert clock.monotonic() - monotonic == 1.5


async def test_it_takes_a_timedelta_and_keeps_microseconds() -> None:
    clock = ManualClock(START)
    for _ in range(10):
        await clock.advance(0.1)
    await clock.advance(timedelta(days=1, microseconds=1))
    assert clock.now() == START + timedelta(days=1, seconds=1, microseconds=1)


def test_it_starts_at_the_present_and_is_utc() -> None:
    before = datetime.now(UTC)
    assert before <= ManualClock().now() <= datetime.now(UTC)
    elsewhere = START.astimezone(timezone(timedelta(hours=5)))
    assert ManualClock(elsewhere).now().tzinfo is UTC
    assert ManualClock(elsewhere).now() == START


def test_a_start_without_a_time_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="start"):
        ManualClock(datetime(2030, 5, 1))


def test_monotonic_is_never_zero() -> None:
    assert ManualClock(START).monotonic() > 0


async def test_time_does_not_go_back() -> None:
    clock = ManualClock(START)
    with pytest.raises(ValueError, match="back"):
        await clock.advance(-1)
    assert clock.now() == START


async def test_a_sleeper_wakes_exactly_at_its_time() -> None:
    clock = ManualClock(START)
    sleeping = asyncio.create_task(clock.sleep(10))
    await clock.advance(9.999999)
    assert not sleeping.done()
    await clock.advance(0.000001)
    assert sleeping.done()


@pytest.mark.parametrize("seconds", [0, -1.0])
async def test_no_time_at_all_is_one_turn_of_the_loop(seconds: float) -> None:
    clock, turns = ManualClock(START), []
    asyncio.get_running_loop().call_soon(turns.append, 1)
    await clock.sleep(seconds)
    assert turns == [1]
    assert clock.now() == START


async def test_sleepers_wake_in_order_each_at_its_own_time() -> None:
    clock = ManualClock(START)
    woken: list[tuple[str, float]] = []

    async def sleep(name: str, seconds: float) -> None:
        await clock.sleep(seconds)
        woken.append((name, (clock.now() - START).total_seconds()))

    tasks = [
        asyncio.create_task(sleep(*each)) for each in (("c", 3), ("a", 1), ("b", 2), ("a2", 1))
    ]
    await clock.advance(10)
    await asyncio.gather(*tasks)
    assert woken == [("a", 1), ("a2", 1), ("b", 2), ("c", 3)]
    assert clock.now() == START + timedelta(seconds=10)


async def test_what_a_wake_up_starts_happens_within_the_same_advance() -> None:
    clock = ManualClock(START)
    beats: list[float] = []

    async def beat() -> None:
        while True:
            await clock.sleep(1)
            beats.append((clock.now() - START).total_seconds())

    beating = asyncio.create_task(beat())
    await clock.advance(3.5)
    assert beats == [1, 2, 3]
    beating.cancel()
    await asyncio.gather(beating, return_exceptions=True)


async def test_a_cancelled_sleeper_holds_nobody_up() -> None:
    clock = ManualClock(START)
    gone, other = asyncio.create_task(clock.sleep(1)), asyncio.create_task(clock.sleep(2))
    await clock.advance(0)
    gone.cancel()
    await clock.advance(2)
    assert gone.cancelled()
    assert other.done()
