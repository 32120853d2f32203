"""A provider of projections cannot harm the work: it may raise, hang, block or be slow."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from projecting import (
    Provider,
    make,
    row,
    task,
    verdict,
)

from taskloom import projector as module
from taskloom.interfaces import EntityProjections
from taskloom.outcomes import Word
from taskloom.projections import EntityTaskProjection


class PlainProvider(EntityProjections):
    """Writes in a plain function; waits for `gate` in it."""

    def __init__(self) -> None:
        self.threads: list[threading.Thread] = []
        self.done: list[list[str]] = []
        self.entered = threading.Event()
        self.gate = threading.Event()
        self.gate.set()

    def upsert_projections(self, entries: Sequence[EntityTaskProjection]) -> None:  # type: ignore[override]
        self.threads.append(threading.current_thread())
        self.entered.set()
        self.gate.wait(10)
        self.done.append([row.task_id for row in entries])


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A provider is given up quickly."""
    monkeypatch.setattr(module, "PROVIDER_LIMIT", 0.05)


async def test_rows_written_together_are_one_call_with_plain_results() -> None:
    provider = Provider()
    projector = make(provider)
    verdicts = [verdict(Word.SUCCESS, of=task(n), result=msgspec.Raw(b"[1]")) for n in range(3)]
    await projector.write(projector.ended(verdicts))
    await projector.write([])
    assert provider.ids == [["t0", "t1", "t2"]]
    assert [each.result for each in provider.calls[0]] == [[1]] * 3


async def test_a_plain_function_runs_in_a_thread() -> None:
    provider = PlainProvider()
    projector = make(provider)
    await projector.write([row()])
    await projector.write([row()])
    await projector.join()
    assert provider.done == [["t1"]] * 2
    assert threading.main_thread() not in provider.threads


async def test_what_a_plain_function_returns_is_awaited() -> None:
    inner = Provider()

    class Wrapping(EntityProjections):
        def upsert_projections(self, entries: Any) -> Any:
            return inner.upsert_projections(entries)

    projector = make(Wrapping())
    await projector.write([row()])
    await projector.join()
    assert inner.ids == [["t1"]]


async def test_calls_are_made_one_at_a_time_in_order() -> None:
    provider = Provider()
    provider.gate.clear()
    projector = make(provider)
    first = asyncio.create_task(projector.write([row(1)]))
    await provider.entered.acquire()
    others = [asyncio.create_task(projector.write([row(n)])) for n in (2, 3)]
    await asyncio.sleep(0)
    assert provider.ids == [["t1"]]
    provider.gate.set()
    await asyncio.gather(first, *others)
    assert provider.ids == [["t1"], ["t2", "t3"]]


@pytest.mark.parametrize(
    "error",
    [ValueError("away"), SystemExit(1), KeyboardInterrupt(), asyncio.CancelledError("own")],
    ids=repr,
)
async def test_an_error_is_logged_once_for_each_outage(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    provider = Provider()
    projector = make(provider)
    for outage in (1, 2):
        provider.error = error
        for _ in range(3):
            await projector.write([row()])
        provider.error = None
        for _ in range(2):
            await projector.write([row()])
        failed = [each for each in caplog.records if "failed on 1 rows" in each.message]
        works = [each for each in caplog.records if "works again" in each.message]
        assert (len(failed), len(works)) == (outage, outage)
        assert failed[-1].exc_info is not None
        assert failed[-1].exc_info[1] is error
        assert "3 rows were lost" in works[-1].message
    assert len(provider.calls) == 10


async def test_our_own_cancellation_is_ours_and_the_call_goes_on() -> None:
    provider = Provider()
    provider.gate.clear()
    projector = make(provider)
    write = asyncio.create_task(projector.write([row()]))
    await provider.entered.acquire()
    write.cancel()
    with pytest.raises(asyncio.CancelledError):
        await write
    provider.gate.set()
    await projector.join()
    assert provider.cancelled == 0


@pytest.mark.usefixtures("limit")
async def test_a_provider_that_hangs_is_waited_for_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    provider = Provider()
    provider.gate.clear()
    projector = make(provider)
    await projector.write([row(1)])
    for number in (2, 3, 4):
        write = projector.write([row(number)])
        with pytest.raises(StopIteration):  # it is done without having waited
            write.send(None)
        if number == 3:
            await projector.join()
    await projector.join()
    assert provider.cancelled == len(provider.calls)
    assert sum("no answer within" in str(each.exc_info) for each in caplog.records) == 1
    provider.gate.set()
    await projector.write([row(5)])
    await projector.join()
    assert "works again; 4 rows were lost" in caplog.text
    monkeypatch.setattr(module, "PROVIDER_LIMIT", 10.0)
    provider.gate.clear()
    waiting = asyncio.create_task(projector.write([row(6)]))
    while "t6" not in provider.ids[-1]:
        await provider.entered.acquire()
    assert not waiting.done()
    provider.gate.set()
    await waiting


@pytest.mark.usefixtures("limit")
async def test_nobody_waits_longer_because_others_came_first() -> None:
    provider = Provider()
    provider.gate.clear()
    projector = make(provider)
    first = asyncio.create_task(projector.write([row(1)]))
    await provider.entered.acquire()
    second = asyncio.create_task(projector.write([row(2)]))
    await asyncio.wait([first, second])
    assert provider.cancelled <= 1  # the second call had not had its time
    provider.gate.set()
    await projector.join()
    assert provider.ids == [["t1"], ["t2"]]


@pytest.mark.usefixtures("limit")
async def test_a_call_that_cannot_be_cancelled_bars_the_next_ones() -> None:
    provider = Provider()
    provider.gate.clear()
    provider.deaf = True
    projector = make(provider)
    try:
        for number in (1, 2):
            await projector.write([row(number)])
            await projector.join()
        assert provider.ids == [["t1"]]
    finally:
        provider.gate.set()  # otherwise the loop would never end
    await projector.write([row(3)])
    await projector.join()
    assert provider.ids == [["t1"], ["t3"]]


@pytest.mark.usefixtures("limit")
async def test_a_thread_that_hangs_holds_up_later_calls_only() -> None:
    provider = PlainProvider()
    provider.gate.clear()
    projector = make(provider)
    try:
        await projector.write([row(1)])
        await projector.write([row(2)])
    finally:
        provider.gate.set()
    await projector.join()
    await projector.write([row(3)])
    await projector.join()
    assert provider.done[0] == ["t1"]
    assert provider.done[-1] == ["t3"]
    assert len(set(provider.threads)) <= 2


@pytest.mark.usefixtures("limit")
async def test_what_waits_for_a_slow_provider_is_bounded(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "BACKLOG", 2)
    provider = Provider()
    provider.gate.clear()
    projector = make(provider)
    await projector.write([row(1)])
    for number in range(2, 7):
        await projector.write([row(number)])
    await projector.join()
    provider.gate.set()
    await projector.write([row(7)])
    await projector.join()
    assert provider.ids == [["t1"], ["t2", "t3"], ["t7"]]
    assert "6 rows were lost" in caplog.text
