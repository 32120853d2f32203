"""The engines that behaviour tests run on. Helpers to import are in `harness`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from harness import Engines, open_engines
from taskloom import SystemClock
from taskloom.testing import ManualClock

KINDS = ("memory", "sqlite")


@pytest.fixture(params=(*KINDS, "redis"))
async def engines(
    request: pytest.FixtureRequest, tmp_path: Path, redis_url: str
) -> AsyncIterator[Engines]:
    """Each engine in real time."""
    async with open_engines(request.param, SystemClock(), tmp_path, redis_url) as opened:
        yield opened


@pytest.fixture(params=KINDS)
async def still(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Engines]:
    """Each engine whose time is ours, standing still: `await still.pass_time(seconds)` moves it.

    On SQLite use it with `process_batch`, `move_mature_tasks` and `drain`, not with `serve`: a
    claim that waits there waits in real time.
    """
    async with open_engines(request.param, ManualClock(), tmp_path) as opened:
        yield opened


@pytest.fixture
async def memory(tmp_path: Path) -> AsyncIterator[Engines]:
    """The memory engines with time standing still; `serve` works too."""
    async with open_engines("memory", ManualClock(), tmp_path) as opened:
        yield opened


@pytest.fixture
async def sqlite(tmp_path: Path) -> AsyncIterator[Engines]:
    """SQLite in real time; its file is `engines.file`."""
    async with open_engines("sqlite", SystemClock(), tmp_path) as opened:
        yield opened
