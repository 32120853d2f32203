"""The watchdog: a blocked event loop is told within about a second, with the stack. FAULTS R14."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator

import pytest

from taskloom.watchdog import LoopWatchdog


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


async def test_a_blocked_loop_is_told_within_a_second_with_its_stack(told: Told) -> None:
    took = block_until(told, 5.0)
    assert told.happened.is_set()
    assert took <= 1.1
    assert "block_until" in told.texts[0]
    assert "leases are not renewed" in told.texts[0]


async def test_each_blockage_is_told_once(told: Told) -> None:
    block_until(told, 5.0)
    told.happened.clear()
    assert not told.happened.wait(0.5)  # still blocked, and silent about it
    beats = asyncio.Event()
    asyncio.get_running_loop().call_later(0.25, beats.set)  # the loop turns again
    await beats.wait()
    block_until(told, 5.0)
    assert len(told.texts) == 2


async def test_a_thread_that_blocks_is_nobodys_business(told: Told) -> None:
    await asyncio.to_thread(told.happened.wait, 1.3)
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
