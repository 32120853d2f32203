"""The watchdog: a blocked event loop is told within about a second, with the stack. FAULTS R14."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Awaitable

import pytest

from taskloom.watchdog import BLOCKED_AFTER, LoopWatchdog


class Told(logging.Handler):
    """Says when, and with which words, the watchdog spoke."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.happened = threading.Event()
        self.at = 0.0
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.at = time.monotonic()
        self.texts.append(record.getMessage())
        self.happened.set()


@pytest.fixture
async def told() -> AsyncIterator[Told]:
    handler = Told()
    logger = logging.getLogger("taskloom.watchdog")
    logger.addHandler(handler)
    watchdog = LoopWatchdog()
    watchdog.start()
    yield handler
    watchdog.stop()
    logger.removeHandler(handler)


def block_until(told: Told, limit: float) -> float:
    """Block the loop until the watchdog spoke; how long that took."""
    started = time.monotonic()
    told.happened.wait(limit)
    return told.at - started


async def turned(told: Told) -> None:
    """The loop has turned again, and the watchdog has seen it."""
    told.happened.clear()
    beats = asyncio.Event()
    asyncio.get_running_loop().call_later(0.25, beats.set)
    await beats.wait()


async def test_a_blocked_loop_is_told_within_a_second_with_its_stack(told: Told) -> None:
    for _ in range(5):  # one that is late: the machine stood still, but not each time
        took = block_until(told, 8.0)
        assert told.happened.is_set()
        if took <= 1.1:
            break
        await turned(told)
    assert took <= 1.1
    assert "block_until" in told.texts[0]
    assert "leases are not renewed" in told.texts[0]


async def test_each_blockage_is_told_once(told: Told) -> None:
    block_until(told, 5.0)
    told.happened.clear()
    assert not told.happened.wait(0.5)  # still blocked, and silent about it
    await turned(told)
    block_until(told, 5.0)
    assert len(told.texts) == 2


async def longest_turn(while_it_runs: Awaitable[object]) -> float:
    """Seconds of the longest turn that the loop took meanwhile."""
    running, longest = asyncio.ensure_future(while_it_runs), 0.0
    while not running.done():
        since = time.monotonic()
        await asyncio.wait({running}, timeout=0.02)
        longest = max(longest, time.monotonic() - since)
    return longest


async def test_a_thread_that_blocks_is_nobodys_business(told: Told) -> None:
    while await longest_turn(asyncio.to_thread(told.happened.wait, 1.3)) > BLOCKED_AFTER:
        told.happened.clear()  # the machine stood still, which is the loop's business
        told.texts.clear()
    assert told.texts == []


async def test_starting_and_stopping_twice_is_harmless() -> None:
    watchdog = LoopWatchdog()
    watchdog.start()
    watchdog.start()
    threads = [t for t in threading.enumerate() if t.name == "taskloom-watchdog"]
    assert len(threads) == 1
    watchdog.stop()
    watchdog.stop()
    assert not any(t.name == "taskloom-watchdog" for t in threading.enumerate())
