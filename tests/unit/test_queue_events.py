"""Events of queues: told by one place for all engines, and never in the way of the work."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine

from taskloom import (
    ConfigurationError,
    ConsumerCheckpoint,
    ConsumerConnected,
    ConsumerDisconnected,
    Loom,
    MessageConsumed,
    MessagePublished,
    QueueLifecycleConfig,
    QueueLifecycleProvider,
    QueueUnavailableError,
    Task,
    queue_reporter,
)
from taskloom.memory import ImmediateQueue, InMemoryCache, InMemoryQueue, InMemoryStorage
from taskloom.sql import SqlFlowBarrier, SqlQueue, SqlStorage
from taskloom.testing import ManualClock


class Recorder(QueueLifecycleProvider):
    """Keeps all it is told, in order."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self._news = asyncio.Event()

    def note(self, event: Any) -> None:
        self.seen.append(event)
        self._news.set()

    on_message_published = on_message_consumed = on_consumer_connected = note
    on_consumer_disconnected = on_consumer_checkpoint = note

    def of(self, kind: type) -> list[Any]:
        return [event for event in self.seen if type(event) is kind]

    async def heard(self, count: int) -> None:
        """Return once so many were told."""
        async with asyncio.timeout(10):
            while len(self.seen) < count:
                self._news.clear()
                await self._news.wait()


class Held(Recorder):
    """Takes its first event and keeps it until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.entered = asyncio.Event()
        self.let_go = asyncio.Event()

    async def on_message_published(self, event: MessagePublished) -> None:
        self.entered.set()
        await self.let_go.wait()
        self.note(event)


def task(number: int = 0, **fields: Any) -> Task[Any]:
    return Task(type="send", queue_id="mail", payload=number, **fields)


def listen(queue: InMemoryQueue | SqlQueue, provider: Any, mode: Any = "sync") -> None:
    queue.set_lifecycle(QueueLifecycleConfig(provider, mode))


@pytest.fixture
def queue() -> InMemoryQueue:
    return InMemoryQueue()


# Without a listener


def test_without_a_listener_calls_go_to_the_engine_as_they_are(queue: InMemoryQueue) -> None:
    assert not vars(queue).keys() & set(queue_reporter.TOLD)
    queue.tell_shard("mail", "shard-0", connected=True)
    queue.tell_checkpoint("mail", "shard-0", "17")
    listen(queue, Recorder())
    assert vars(queue).keys() >= set(queue_reporter.TOLD)


async def test_no_event_is_made_that_nobody_wants(
    queue: InMemoryQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Checkpoints(QueueLifecycleProvider):
        def on_consumer_checkpoint(self, event: ConsumerCheckpoint) -> None: ...

    def refuse(**fields: Any) -> Any:
        raise AssertionError("an event was made")

    monkeypatch.setattr(queue_reporter, "MessagePublished", refuse)
    monkeypatch.setattr(queue_reporter, "MessageConsumed", refuse)
    listen(queue, Checkpoints())
    assert not queue.tells_published
    await queue.put("mail", [task()])
    assert len(await queue.claim("mail", 1, lease=60)) == 1
    listen(queue, Recorder())
    assert queue.tells_published
    with pytest.raises(AssertionError):
        await queue.put("mail", [task()])


async def test_a_batch_is_handed_over_in_one_call(
    queue: InMemoryQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    post = queue_reporter.Listeners.post

    def counted(self: Any, name: str, events: Sequence[object]) -> None:
        calls.append(len(events))
        post(self, name, events)

    monkeypatch.setattr(queue_reporter.Listeners, "post", counted)
    listen(queue, Recorder(), "async")
    await queue.put("mail", [task(number) for number in range(50)])
    await queue.claim("mail", 50, lease=60)
    assert calls == [50, 50]


# What is told


async def test_the_age_is_by_the_clock_of_the_queue() -> None:
    clock, recorder = ManualClock(datetime(2026, 3, 1, tzinfo=UTC)), Recorder()
    queue = InMemoryQueue(clock)
    listen(queue, recorder)
    made = clock.now()
    await queue.put("mail", [task(created_at=made, execute_at=made)])
    await clock.advance(90)
    await queue.claim("mail", 1, lease=60)
    published, consumed = recorder.seen
    assert published.at == made
    assert (consumed.at - made).total_seconds() == consumed.age == 90


async def test_a_task_from_the_future_has_no_negative_age() -> None:
    clock, recorder = ManualClock(datetime(2026, 3, 1, tzinfo=UTC)), Recorder()
    queue = InMemoryQueue(clock)
    listen(queue, recorder)
    later = datetime(2026, 3, 1, 0, 1, tzinfo=UTC)
    await queue.put("mail", [task(created_at=later, execute_at=clock.now())])
    await queue.claim("mail", 1, lease=60)
    assert recorder.of(MessageConsumed)[0].age == 0.0


async def test_of_a_put_that_fails_half_way_the_accepted_are_told() -> None:
    class Half(InMemoryQueue):
        async def put(self, queue_id: str, tasks: Sequence[Task[Any]]) -> None:
            await super().put(queue_id, tasks[:1])
            raise QueueUnavailableError("gone", accepted=tasks[:1], rejected=tasks[1:])

    queue, recorder = Half(), Recorder()
    listen(queue, recorder)
    first, second = task(1), task(2)
    with pytest.raises(QueueUnavailableError):
        await queue.put("mail", [first, second])
    assert [event.task_id for event in recorder.seen] == [first.id]


async def test_a_subclass_that_extends_put_tells_once() -> None:
    class Counting(InMemoryQueue):
        async def put(self, queue_id: str, tasks: Sequence[Task[Any]]) -> None:
            await super().put(queue_id, tasks)

    queue, recorder = Counting(), Recorder()
    listen(queue, recorder)
    await queue.put("mail", [task()])
    assert len(recorder.of(MessagePublished)) == 1


async def test_a_second_listener_replaces_the_first(queue: InMemoryQueue) -> None:
    first, second = Recorder(), Recorder()
    listen(queue, first)
    listen(queue, second)
    await queue.put("mail", [task()])
    assert not first.seen
    assert len(second.seen) == 1


def test_a_wrong_mode_is_named() -> None:
    with pytest.raises(ConfigurationError, match="mode"):
        QueueLifecycleConfig(Recorder(), "later")  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["async", "sync"])
async def test_shards_and_checkpoints_are_told_in_order(queue: InMemoryQueue, mode: str) -> None:
    recorder = Recorder()
    listen(queue, recorder, mode)
    queue.tell_shard("orders", "shard-7", connected=True)
    queue.tell_checkpoint("orders", "shard-7", "4711")
    queue.tell_shard("orders", "shard-7", connected=False)
    await queue.close()
    connected, checkpoint, disconnected = recorder.seen
    assert [type(event) for event in recorder.seen] == [
        ConsumerConnected,
        ConsumerCheckpoint,
        ConsumerDisconnected,
    ]
    for event in recorder.seen:
        assert (event.queue_id, event.shard_id, event.provider) == ("orders", "shard-7", "memory")
        assert event.consumer_id == connected.consumer_id
    assert checkpoint.checkpoint == "4711"
    assert connected.at <= disconnected.at


# A listener and the work


async def test_beside_the_work_nobody_waits_for_a_listener(
    queue: InMemoryQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_reporter, "IN_PLACE", 60.0)
    held = Held()
    listen(queue, held, "async")
    async with asyncio.timeout(10):
        await queue.put("mail", [task()])
        await held.entered.wait()
        await queue.put("mail", [task()])
        assert len(await queue.claim("mail", 2, lease=60)) == 2
    assert not held.seen
    held.let_go.set()
    await queue.close()
    assert [type(event) for event in held.seen] == [MessagePublished] * 2 + [MessageConsumed] * 2


async def test_in_place_a_put_waits_for_its_listener(queue: InMemoryQueue) -> None:
    held = Held()
    listen(queue, held)
    putting = asyncio.create_task(queue.put("mail", [task()]))
    await held.entered.wait()
    assert not putting.done()
    held.let_go.set()
    await putting
    assert len(held.seen) == 1


async def test_in_place_a_listener_that_hangs_is_waited_for_once(
    queue: InMemoryQueue, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(queue_reporter, "IN_PLACE", 0.05)
    held = Held()
    listen(queue, held)
    with caplog.at_level(logging.WARNING):
        await queue.put("mail", [task()])
    assert "beside the work" in caplog.text
    monkeypatch.setattr(queue_reporter, "IN_PLACE", 60.0)
    async with asyncio.timeout(10):  # none of these waits for it
        for number in range(5):
            await queue.put("mail", [task(number)])
        assert len(await queue.claim("mail", 6, lease=60)) == 6
    held.let_go.set()
    await held.heard(12)
    await queue.put("mail", [task()])
    assert len(held.seen) == 13, "having caught up, it is waited for again"


async def test_a_listener_that_hangs_does_not_stop_claims_with_short_patience(
    queue: InMemoryQueue,
) -> None:
    class Stuck(QueueLifecycleProvider):
        async def on_message_consumed(self, event: MessageConsumed) -> None:
            await asyncio.Event().wait()

    listen(queue, Stuck())
    await queue.put("mail", [task()])
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02):
            await queue.claim("mail", 1, lease=60)
    async with asyncio.timeout(0.5):
        (delivery,) = await queue.claim("mail", 1, lease=60)
    assert delivery.delivery_count == 1, "what the cancelled claim took was given back"


async def test_a_listener_that_puts_does_not_wait_for_itself(
    queue: InMemoryQueue, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Forwarding(Recorder):
        async def on_message_consumed(self, event: MessageConsumed) -> None:
            await queue.put("audit", [task()])

    monkeypatch.setattr(queue_reporter, "IN_PLACE", 60.0)
    recorder = Forwarding()
    listen(queue, recorder)
    await queue.put("mail", [task()])
    async with asyncio.timeout(10):
        await queue.claim("mail", 1, lease=60)
    assert await queue.depth("audit") == 1


async def test_closing_leaves_a_hanging_listener_behind(
    queue: InMemoryQueue, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    close = queue_reporter.Listeners.close
    monkeypatch.setattr(queue_reporter.Listeners, "close", lambda self: close(self, 0.05))
    held = Held()
    listen(queue, held, "async")
    await queue.put("mail", [task()])
    async with asyncio.timeout(10):
        await queue.close()
    assert "was not told of 1 events" in caplog.text
    await queue.open()
    await queue.put("mail", [task()])
    held.let_go.set()
    await queue.close()
    assert len(held.seen) == 1, "open takes events again"


# In a handler


def of_memory(recorder: Recorder) -> Loom:
    queue = InMemoryQueue()
    listen(queue, recorder)
    return Loom(None, queue=queue, storage=InMemoryStorage(), cache=InMemoryCache())


def of_sql(recorder: Recorder) -> Loom:
    queue = SqlQueue(SqlStorage.from_url("sqlite://"))
    listen(queue, recorder)
    return Loom(None, queue=queue, cache=InMemoryCache())


def beside_sql(recorder: Recorder) -> Loom:
    queue = InMemoryQueue()
    listen(queue, recorder)
    storage = SqlStorage.from_url("sqlite://")
    return Loom(None, queue=queue, storage=storage, cache=InMemoryCache())


def immediate(recorder: Recorder) -> Loom:
    queue = ImmediateQueue()
    listen(queue, recorder)
    return Loom(None, queue=queue, storage=InMemoryStorage(), cache=InMemoryCache())


@pytest.fixture(params=[of_memory, of_sql, beside_sql, immediate])
async def served(request: pytest.FixtureRequest) -> tuple[Loom, Recorder]:
    recorder = Recorder()
    return request.param(recorder), recorder


async def test_each_task_of_a_handler_is_published_once_and_consumed_once(
    served: tuple[Loom, Recorder],
) -> None:
    loom, recorder = served

    @loom.task(queue="mail")
    async def child(number: int) -> None: ...

    @loom.task(queue="mail")
    async def parent() -> None:
        await child.enqueue(1)
        await child.enqueue(2)

    async with loom:
        added = await parent.enqueue()
        await loom.handler.drain()
    published, consumed = recorder.of(MessagePublished), recorder.of(MessageConsumed)
    assert len(published) == len(consumed) == 3
    assert {event.task_id for event in published} == {event.task_id for event in consumed}
    assert published[0].task_id == added.id
    assert {event.queue_id for event in recorder.seen} == {"mail"}


async def test_a_flow_is_published_with_its_join() -> None:
    recorder = Recorder()
    storage = SqlStorage.from_url("sqlite://")
    queue = SqlQueue(storage)
    listen(queue, recorder)
    loom = Loom(None, queue=queue, cache=InMemoryCache(), flow_barrier=SqlFlowBarrier(storage))

    @loom.task(queue="mail")
    async def step(number: int) -> int:
        return number

    @loom.task(queue="mail")
    async def join(task: Task[Any]) -> None: ...

    async with loom:
        await loom.start_flow([step.step(1), step.step(2)], join=join.join())
        await loom.handler.drain()
    types = [event.task_type for event in recorder.of(MessagePublished)]
    assert sorted(types) == ["join", "step", "step"]
    assert len(recorder.of(MessageConsumed)) == 3


async def test_a_worker_connects_and_disconnects_each_queue(
    served: tuple[Loom, Recorder],
) -> None:
    loom, recorder = served
    done = asyncio.Event()

    @loom.task(queue="mail")
    async def send() -> None:
        done.set()

    @loom.task(queue="other")
    async def rest() -> None: ...

    stop = asyncio.Event()
    async with loom:
        serving = asyncio.create_task(loom.run_worker(stop=stop))
        await send.enqueue()
        await done.wait()
        stop.set()
        await serving
        worker = loom.handler.worker_id
    expected = [f"{worker}:mail", f"{worker}:other"]
    connected, gone = recorder.of(ConsumerConnected), recorder.of(ConsumerDisconnected)
    assert sorted(event.consumer_id for event in connected) == expected
    assert sorted(event.consumer_id for event in gone) == expected
    assert all(event.shard_id is None for event in connected + gone)
    assert recorder.seen.index(connected[0]) < recorder.seen.index(gone[0])


async def test_what_a_transaction_rolls_back_is_not_published(tmp_path: Path) -> None:
    recorder = Recorder()
    engine = create_engine(f"sqlite:///{tmp_path}/tasks.db")
    queue = SqlQueue(SqlStorage(engine))
    listen(queue, recorder)
    loom = Loom(None, queue=queue, cache=InMemoryCache())

    @loom.task(queue="mail")
    async def send(number: int) -> None: ...

    async with loom:
        with engine.connect() as connection:
            await send.with_(connection=connection).enqueue(1)
            connection.rollback()
        with engine.begin() as connection:
            kept = await send.with_(connection=connection).enqueue(2)
    assert [event.task_id for event in recorder.of(MessagePublished)] == [kept.id]
    engine.dispose()
