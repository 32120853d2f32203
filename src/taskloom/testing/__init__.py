"""For tests of your own: a clock to move by hand, and the suites that say when an engine is right.

The suites need pytest; this package does not, until one of them is asked for.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

from taskloom.testing.clock import ManualClock

if TYPE_CHECKING:
    from taskloom.testing.barrier import BarrierConformance
    from taskloom.testing.cache import CacheConformance
    from taskloom.testing.projections import ProjectionsConformance
    from taskloom.testing.queue import QueueConformance
    from taskloom.testing.shard_locks import ShardLocksConformance
    from taskloom.testing.storage import StorageConformance

__all__ = [
    "BarrierConformance",
    "CacheConformance",
    "ManualClock",
    "ProjectionsConformance",
    "QueueConformance",
    "ShardLocksConformance",
    "StorageConformance",
]

_SUITES = {
    "BarrierConformance": (
        "barrier",
        ("barrier_base", "barrier_counting", "barrier_ending", "barrier_settling"),
    ),
    "CacheConformance": ("cache", ()),
    "ProjectionsConformance": ("projections", ()),
    "QueueConformance": ("queue", ("queue_carrying", "queue_leases", "queue_waiting")),
    "ShardLocksConformance": ("shard_locks", ()),
    "StorageConformance": (
        "storage",
        ("storage_keeping", "storage_leases", "storage_settling", "storage_archive"),
    ),
}


def __getattr__(name: str) -> Any:
    if name not in _SUITES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import pytest

    module, parts = _SUITES[name]
    names = [f"{__name__}.{part}" for part in (module, *parts)]
    # So that a failing assert of a suite shows its values like one in a test file.
    pytest.register_assert_rewrite(*(part for part in names if part not in sys.modules))
    return getattr(importlib.import_module(names[0]), name)
