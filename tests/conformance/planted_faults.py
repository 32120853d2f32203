"""Engines broken on purpose, one rule at a time: do the suites notice?

As a script it prints which case noticed which fault first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import planted_in_barriers
import planted_in_caches
import planted_in_projections
import planted_in_queues
import planted_in_storages
import pytest
from planting import FAULTS, Fault
from test_memory import Virtual

from taskloom.memory import (
    InMemoryCache,
    InMemoryFlowBarrier,
    InMemoryProjections,
    InMemoryQueue,
    InMemoryStorage,
)
from taskloom.sql import SqlFlowBarrier
from taskloom.testing import (
    BarrierConformance,
    CacheConformance,
    ManualClock,
    ProjectionsConformance,
    QueueConformance,
    StorageConformance,
)
from taskloom.testing.barrier_settling import SettlingFlowCases

__all__ = ["ENGINES", "FAULTS", "Fault", "first_to_notice"]

_PLANTED = (
    planted_in_queues,
    planted_in_storages,
    planted_in_caches,
    planted_in_projections,
    planted_in_barriers,
)
"""Importing them fills `FAULTS`."""


def _sqlite_barrier(clock: ManualClock) -> SqlFlowBarrier:
    return SqlFlowBarrier.from_url("sqlite://", clock=clock)


ENGINES = {
    "queue": (QueueConformance, InMemoryQueue),
    "storage": (StorageConformance, InMemoryStorage),
    "cache": (CacheConformance, InMemoryCache),
    "projections": (ProjectionsConformance, lambda clock: InMemoryProjections()),
    "barrier": (BarrierConformance, InMemoryFlowBarrier),
    "flows on SQLite": (SettlingFlowCases, _sqlite_barrier),
}


def first_to_notice(suite: str) -> str | None:
    """The name of the first case of a suite that fails now; None when all pass."""
    cases, engine = ENGINES[suite]
    virtual = type("Broken", (Virtual, cases), {})
    names = [name for part in virtual.__mro__ for name in vars(part) if name.startswith("test_")]
    with asyncio.Runner() as runner:
        return next(
            (name for name in names if not runner.run(_passes(virtual, engine, name))), None
        )


async def _passes(virtual: Any, engine: Any, name: str) -> bool:
    case = virtual()
    case.clock = ManualClock()
    try:
        async with engine(case.clock) as opened:
            await _in_ticks(getattr(case, name)(opened))
    except pytest.skip.Exception:
        return True
    except (Exception, pytest.fail.Exception):
        return False
    return True


async def _in_ticks(case: Coroutine[Any, Any, None]) -> None:
    """Run a case for a second. One that would wait for ever has noticed something, too.

    Counted in small pieces, for a machine that stands still for a while says nothing of the case.
    """
    running = asyncio.create_task(case)
    for _ in range(100):
        if (await asyncio.wait({running}, timeout=0.01))[0]:
            return await running
    running.cancel()
    await asyncio.wait({running})
    raise TimeoutError


if __name__ == "__main__":
    for each in FAULTS:
        with each.planted():
            print(f"{each.suite:15} {each.name:60} {first_to_notice(each.suite) or 'NOBODY'}")
