"""The engines that behaviour tests run on. Helpers to import are in `harness`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from flowing import KINDS as FLOW_KINDS
from flowing import FlowEngines, open_flow_engines

from harness import Engines, open_engines
from servers import url_of
from taskloom import Clock, SystemClock
from taskloom.testing import ManualClock

KINDS = ("memory", "sqlite", "postgresql", "redis", "mongodb")


@asynccontextmanager
async def _opened(
    request: pytest.FixtureRequest, clock: Clock, folder: Path
) -> AsyncIterator[Engines]:
    """The engines that the fixture's parameter names."""
    async with (
        url_of(request.param, request) as url,
        open_engines(request.param, clock, folder, url) as opened,
    ):
        yield opened


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`engines` and `still` on each engine, or on those that a module's mark `on` names."""
    on = metafunc.definition.get_closest_marker("on")
    given = {mark.args[0] for mark in metafunc.definition.iter_markers("parametrize")}
    for name in ("engines", "still"):
        if name in metafunc.fixturenames and name not in given:
            metafunc.parametrize(name, KINDS if on is None else on.args, indirect=True)


@pytest.fixture
def no_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    """A claim that waits is woken, or finds nothing for longer than a test has patience."""
    for poll in ("consumer.POLL", "storage_queue.LOOK_EVERY", "redis.queue._LOOK_EVERY"):
        monkeypatch.setattr(f"taskloom.{poll}", 3600.0)


@pytest.fixture
async def engines(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Engines]:
    """Each engine in real time."""
    async with _opened(request, SystemClock(), tmp_path) as opened:
        yield opened


@pytest.fixture
async def still(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Engines]:
    """Each engine whose time is ours, standing still: `await still.pass_time(seconds)` moves it.

    On a database use it with `process_batch`, `move_mature_tasks` and `drain`, not with `serve`: a
    claim that waits there waits in real time.
    """
    async with _opened(request, ManualClock(), tmp_path) as opened:
        yield opened


@pytest.fixture
async def memory(tmp_path: Path) -> AsyncIterator[Engines]:
    """The memory engines with time standing still; `serve` works too."""
    async with open_engines("memory", ManualClock(), tmp_path) as opened:
        yield opened


@pytest.fixture(params=("sqlite", "postgresql"))
async def sql(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Engines]:
    """Each database whose storage is its queue, in real time."""
    async with _opened(request, SystemClock(), tmp_path) as opened:
        yield opened


@pytest.fixture
async def sqlite(tmp_path: Path) -> AsyncIterator[Engines]:
    """SQLite in real time; its file is `engines.file`."""
    async with open_engines("sqlite", SystemClock(), tmp_path) as opened:
        yield opened


@pytest.fixture(params=FLOW_KINDS)
async def flows(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[FlowEngines]:
    """Engines with a barrier and projections, alike or mixed, with time standing still.

    Fewer of them: `parametrize("flows", ["memory", "sqlite"], indirect=True)`.
    """
    async with (
        url_of(request.param, request) as url,
        open_flow_engines(request.param, ManualClock(), tmp_path, url) as opened,
    ):
        yield opened
