"""The virtual loop: time jumps, nothing hangs, everything repeats."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest

from simulation.loop import DeadlockError, EndlessError, VirtualClock, VirtualLoop


@pytest.fixture
def loop() -> Iterator[VirtualLoop]:
    made = VirtualLoop(longest=100_000.0, turns=10_000)
    yield made
    made.finish()


def run(loop: VirtualLoop, work: Coroutine[Any, Any, Any]) -> Any:
    return loop.run_until_complete(work)


def test_sleeping_takes_virtual_time_only(loop: VirtualLoop) -> None:
    clock, began = VirtualClock(loop), time.monotonic()
    start, monotonic = clock.now(), clock.monotonic()
    run(loop, clock.sleep(3600))
    assert clock.now() - start == timedelta(hours=1)
    assert clock.monotonic() - monotonic == 3600
    assert time.monotonic() - began < 60


def test_timers_ring_in_order_at_their_time(loop: VirtualLoop) -> None:
    rung: list[tuple[str, float]] = []

    async def wait(name: str, seconds: float) -> None:
        await asyncio.sleep(seconds)
        rung.append((name, loop.time()))

    async def both() -> None:
        await asyncio.gather(wait("late", 0.3), wait("early", 0.1))

    run(loop, both())
    assert rung == [("early", 0.1), ("late", 0.3)]


def test_a_sleep_until_a_moment_ends_when_it_has_come(loop: VirtualLoop) -> None:
    clock = VirtualClock(loop)
    start = clock.now()

    async def wait_for(moment: datetime) -> bool:
        await clock.sleep((moment - clock.now()).total_seconds())
        return clock.now() == moment

    moments = [start + timedelta(microseconds=n * 33_333) for n in range(1, 50)]
    assert all(run(loop, wait_for(moment)) for moment in moments)


def test_a_timeout_ends_what_would_wait_for_ever(loop: VirtualLoop) -> None:
    async def wait() -> None:
        async with asyncio.timeout(5):
            await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        run(loop, wait())
    assert loop.time() == 5


def test_a_deadlock_is_an_error(loop: VirtualLoop) -> None:
    with pytest.raises(DeadlockError):
        run(loop, asyncio.Event().wait())


@pytest.mark.parametrize("pause", [0, 10])
def test_an_endless_run_is_an_error(loop: VirtualLoop, pause: float) -> None:
    async def go_on() -> None:
        while True:  # noqa: ASYNC110 (nothing ever comes)
            await asyncio.sleep(pause)

    with pytest.raises(EndlessError):
        run(loop, go_on())


def test_threads_are_refused(loop: VirtualLoop) -> None:
    with pytest.raises(RuntimeError, match="real time"):
        run(loop, asyncio.to_thread(time.monotonic))


def test_finish_cancels_what_is_left() -> None:
    loop, ended = VirtualLoop(), []

    async def wait() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    with pytest.raises(DeadlockError):
        loop.run_until_complete(wait())
    loop.finish()
    assert ended
    assert loop.is_closed()
