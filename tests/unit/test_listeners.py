"""Delivery of events: in order, contained, bounded, never in the way of work."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from taskloom.current import running
from taskloom.listeners import Listeners
from taskloom.log_context import log_context


class Recorder:
    """Notes what it is told; by its methods only, without a base class."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    async def on_task_started(self, event: Any) -> None:
        await asyncio.sleep(0)
        self.seen.append(event)

    def on_task_scheduled(self, event: Any) -> None:
        self.seen.append(event)


class Hanging:
    """Holds its first event until it is let go."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.let_go = asyncio.Event()
        self.seen: list[Any] = []

    async def on_task_started(self, event: Any) -> None:
        self.entered.set()
        await self.let_go.wait()
        self.seen.append(event)


class Raising:
    """Raises what it is told."""

    def on_task_started(self, event: BaseException) -> None:
        raise event

    async def on_task_failed(self, event: BaseException) -> None:
        raise event


class Fields:
    def log_fields(self) -> dict[str, str]:
        return {"task_id": "t1"}


class StillClock:
    """Time stands until a test moves it."""

    def __init__(self) -> None:
        self.time = 0.0

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.time += seconds


Made = Callable[..., Listeners]


@pytest.fixture
async def listeners() -> AsyncIterator[Made]:
    """Makes listeners that are closed after the test."""
    made: list[Listeners] = []

    def make(*providers: object, **options: Any) -> Listeners:
        made.append(Listeners(*providers, **options))
        return made[-1]

    yield make
    for each in made:
        await each.close(timeout=0)


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]


async def test_a_provider_given_twice_is_told_once(listeners: Made) -> None:
    recorder = Recorder()
    listening = listeners(recorder, recorder)
    await listening.emit("on_task_started", 1)
    assert await listening.flush()
    assert recorder.seen == [1]


async def test_sync_waits_for_the_callback(listeners: Made) -> None:
    hanging, recorder = Hanging(), Recorder()
    listening = listeners(hanging, recorder, mode="sync")
    emitting = asyncio.create_task(listening.emit("on_task_started", 1))
    await hanging.entered.wait()
    assert not emitting.done()
    hanging.let_go.set()
    await emitting
    assert hanging.seen == recorder.seen == [1]


async def test_async_does_not_wait_for_a_hanging_callback(listeners: Made) -> None:
    hanging, recorder = Hanging(), Recorder()
    listening = listeners(hanging, recorder)
    for number in range(3):
        await listening.emit("on_task_started", number)
    await hanging.entered.wait()
    assert not await listening.flush(timeout=0.01)
    assert recorder.seen == [0, 1, 2]  # nor does the next provider
    hanging.let_go.set()
    assert await listening.flush()
    assert hanging.seen == [0, 1, 2]


async def test_order_is_kept_over_plain_and_async_callbacks_and_many_emitters(
    listeners: Made,
) -> None:
    recorder = Recorder()
    listening = listeners(recorder)
    emitted: list[tuple[str, int]] = []

    async def emitter(name: str) -> None:
        for number in range(50):
            emitted.append((name, number))
            method = "on_task_started" if number % 2 else "on_task_scheduled"
            await listening.emit(method, (name, number))
            await asyncio.sleep(0)

    await asyncio.gather(*(emitter(name) for name in "abc"))
    assert await listening.flush()
    assert recorder.seen == emitted
    assert len(emitted) == 150


async def test_flush_waits_for_what_is_queued_now_and_no_longer(listeners: Made) -> None:
    listening: Listeners

    class Echo:
        def __init__(self) -> None:
            self.count = 0

        async def on_task_started(self, event: int) -> None:
            self.count += 1
            await listening.emit("on_task_started", event)  # without end

    echo = Echo()
    listening = listeners(echo)
    await listening.emit("on_task_started", 1)
    assert await listening.flush()
    assert echo.count >= 1


async def test_many_events_leave_the_loop_to_others(listeners: Made) -> None:
    loop = asyncio.get_running_loop()
    done: list[int] = []

    class Busy:
        def on_task_started(self, event: int) -> None:
            until = loop.time() + 0.002
            while loop.time() < until:
                pass
            done.append(event)

    listening = listeners(Busy())
    for number in range(50):
        await listening.emit("on_task_started", number)
    await asyncio.sleep(0)  # the delivery begins
    await asyncio.sleep(0)
    assert 0 < len(done) < 50
    assert await listening.flush()
    assert done == list(range(50))


async def test_callbacks_run_outside_the_task_that_emitted(listeners: Made) -> None:
    seen: list[Any] = []

    class Watching:
        def on_task_started(self, event: object) -> None:
            seen.append((log_context(), running.get()))

    async def a_run() -> None:
        running.set(Fields())
        listening = listeners(Watching())
        await listening.emit("on_task_started", 1)
        assert await listening.flush()

    await asyncio.create_task(a_run())
    assert seen == [({}, None)]


# Errors


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("name", ["on_task_started", "on_task_failed"])
@pytest.mark.parametrize(
    "error",
    [
        ValueError("boom"),
        SystemExit(1),
        KeyboardInterrupt(),
        asyncio.CancelledError(),
        RecursionError(),
        StopIteration(),
    ],
    ids=repr,
)
async def test_an_error_is_logged_with_its_names_and_changes_nothing(
    listeners: Made,
    caplog: pytest.LogCaptureFixture,
    mode: str,
    name: str,
    error: BaseException,
) -> None:
    if name == "on_task_failed" and isinstance(error, StopIteration):
        error = RuntimeError("what Python makes of it in a coroutine")
    recorder = Recorder()
    listening = listeners(Raising(), recorder, mode=mode)
    await listening.emit(name, error)
    await listening.emit("on_task_scheduled", "after")
    assert await listening.flush()
    assert recorder.seen[-1] == "after"
    assert errors(caplog) == [f"Raising.{name} failed on {type(error).__name__}; the work goes on"]
    assert caplog.records[0].exc_info is not None
    assert isinstance(caplog.records[0].exc_info[1], type(error))


async def test_an_error_that_cannot_be_shown_is_contained_too(
    listeners: Made, caplog: pytest.LogCaptureFixture
) -> None:
    class Unspeakable(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no")

    listening = listeners(Raising(), mode="sync")
    await listening.emit("on_task_started", Unspeakable())
    assert len(errors(caplog)) == 1


async def test_the_same_error_is_told_once_a_minute_with_a_count(
    listeners: Made, caplog: pytest.LogCaptureFixture
) -> None:
    clock = StillClock()
    listening = listeners(Raising(), mode="sync", clock=clock)
    for _ in range(3):
        await listening.emit("on_task_started", ValueError())
    await listening.emit("on_task_started", TypeError())
    assert len(errors(caplog)) == 2  # one of each kind
    clock.time = 60.0
    await listening.emit("on_task_started", ValueError())
    assert "and 2 times since" in errors(caplog)[-1]
    await listening.emit("on_task_started", ValueError())
    await listening.close()
    assert errors(caplog)[-1] == "Raising.on_task_started failed 1 more times with ValueError"


async def test_a_sync_callback_does_not_hide_the_cancellation_of_the_work(
    listeners: Made, caplog: pytest.LogCaptureFixture
) -> None:
    hanging = Hanging()
    listening = listeners(hanging, mode="sync")
    emitting = asyncio.create_task(listening.emit("on_task_started", 1))
    await hanging.entered.wait()
    emitting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await emitting
    assert errors(caplog) == []


async def test_nor_when_it_swallows_it(listeners: Made) -> None:
    entered = asyncio.Event()

    class Swallowing:
        async def on_task_started(self, event: object) -> None:
            entered.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                return

    emitting = asyncio.create_task(listeners(Swallowing(), mode="sync").emit("on_task_started", 1))
    await entered.wait()
    emitting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await emitting


# Bounds


async def test_a_slow_provider_loses_the_oldest_with_one_warning(
    listeners: Made, caplog: pytest.LogCaptureFixture
) -> None:
    hanging = Hanging()
    listening = listeners(hanging, limit=3)
    await listening.emit("on_task_started", 0)
    await hanging.entered.wait()
    for number in range(1, 8):
        await listening.emit("on_task_started", number)
    assert listening.dropped == 4
    hanging.let_go.set()
    assert await listening.flush()
    assert hanging.seen == [0, 5, 6, 7]
    assert sum("too slow" in record.getMessage() for record in caplog.records) == 1


async def test_close_delivers_what_is_queued_and_leaves_no_task(listeners: Made) -> None:
    before = asyncio.all_tasks()
    recorder = Recorder()
    listening = listeners(recorder)
    for number in range(5):
        await listening.emit("on_task_started", number)
    await listening.close()
    assert recorder.seen == [0, 1, 2, 3, 4]
    assert asyncio.all_tasks() == before
    await listening.emit("on_task_started", 5)
    await listening.close()
    assert recorder.seen == [0, 1, 2, 3, 4]


async def test_without_close_no_task_waits_either(listeners: Made) -> None:
    before = asyncio.all_tasks()
    listening = listeners(Recorder())
    await listening.emit("on_task_started", 1)
    assert asyncio.all_tasks() != before
    assert await listening.flush()
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before


async def test_close_is_bounded_when_a_callback_hangs(
    listeners: Made, caplog: pytest.LogCaptureFixture
) -> None:
    before = asyncio.all_tasks()
    hanging = Hanging()
    listening = listeners(hanging)
    for number in range(3):
        await listening.emit("on_task_started", number)
    await listening.close(timeout=0.01)
    assert asyncio.all_tasks() == before
    assert hanging.seen == []
    assert "was not told of 3 events" in caplog.text


async def test_close_is_bounded_when_a_callback_refuses_to_end(
    listeners: Made, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskloom.listeners.END_TIMEOUT", 0.01)
    release, left = asyncio.Event(), asyncio.Event()

    class Stubborn:
        async def on_task_started(self, event: object) -> None:
            while not release.is_set():
                try:
                    await release.wait()
                except asyncio.CancelledError:
                    continue
            left.set()

    listening = listeners(Stubborn())
    await listening.emit("on_task_started", 1)
    await asyncio.sleep(0)
    await listening.close(timeout=0.01)
    assert "ignores its cancellation" in caplog.text
    release.set()
    await left.wait()


async def test_delivery_goes_on_after_its_task_was_cancelled_from_outside(
    listeners: Made,
) -> None:
    hanging = Hanging()
    before = asyncio.all_tasks()
    listening = listeners(hanging)
    await listening.emit("on_task_started", 0)
    await listening.emit("on_task_started", 1)
    await hanging.entered.wait()
    (delivering,) = asyncio.all_tasks() - before
    delivering.cancel()
    await asyncio.wait([delivering])
    hanging.let_go.set()
    assert await listening.flush()
    assert hanging.seen == [1]
