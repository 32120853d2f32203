"""SPEC 3.7, FAULTS R1, R5, R6, D11: the engine goes away, or half of a settle does."""

from __future__ import annotations

from typing import Any

import pytest

from harness import (
    QUEUE,
    TYPE,
    Diary,
    Engines,
    Meddled,
    Runs,
    make_task,
    parallel,
    serving,
    single,
    until,
)
from taskloom import QueueUnavailableError, Task, TaskStatus

# 3.7 claiming


async def test_3_7_the_consumer_goes_on_when_the_engine_is_back(engines: Engines) -> None:
    parts, runs = engines.meddled(), Runs()
    handler = engines.handler({TYPE: single(runs)}, parts=parts)
    async with serving(handler):
        await parts.called("queue.claim")
        parts.break_down("queue.claim")
        await engines.handler().add_tasks([make_task()])
        failing = len(parts.names("queue.claim"))
        await parts.called("queue.claim", failing + 3)
        parts.repair("queue.claim")
        await runs.reach(1)


async def test_3_7_an_outage_is_told_once(
    engines: Engines, caplog: pytest.LogCaptureFixture
) -> None:
    parts, runs = engines.meddled(), Runs()
    parts.fail("queue.claim", times=4)
    handler = engines.handler({TYPE: single(runs)}, parts=parts)
    await handler.add_tasks([make_task()])
    async with serving(handler):
        await runs.finished.reach(1)
    told = [record.getMessage() for record in caplog.records if "claiming" in record.getMessage()]
    assert len([text for text in told if "failed on purpose" in text]) == 1
    assert len([text for text in told if "works again" in text]) == 1


async def test_3_7_a_second_outage_is_told_again(
    engines: Engines, caplog: pytest.LogCaptureFixture
) -> None:
    parts, runs = engines.meddled(), Runs()
    handler = engines.handler({TYPE: single(runs)}, parts=parts)
    async with serving(handler):
        for number in range(2):
            failed = len(parts.names("queue.claim"))
            parts.fail("queue.claim", times=2)
            await handler.add_tasks([make_task(number)])
            await runs.finished.reach(number + 1)
            await parts.called("queue.claim", failed + 4)
    texts = [record.getMessage() for record in caplog.records]
    assert len([text for text in texts if "claiming" in text and "on purpose" in text]) == 2


async def test_3_7_it_backs_off_from_a_tenth_of_a_second_to_five(memory: Engines) -> None:
    parts = memory.meddled()
    parts.break_down("queue.claim")
    async with serving(memory.handler({TYPE: single(Runs())}, parts=parts)):
        await memory.pass_time(0.35)
        assert 3 <= len(parts.names("queue.claim")) <= 5  # after 0.1 and 0.2 more, or their halves
        await memory.pass_time(60)
        begun = len(parts.names("queue.claim"))
        await memory.pass_time(100)
        assert 20 <= len(parts.names("queue.claim")) - begun <= 41  # each 2.5 to 5 s


async def test_3_7_a_batch_of_its_own_raises(engines: Engines) -> None:
    parts = engines.meddled()
    parts.fail("queue.claim")
    with pytest.raises(QueueUnavailableError):
        await engines.handler({TYPE: single(Runs())}, parts=parts).process_batch(QUEUE)


# 3.7 settling


def _settling(engines: Engines) -> list[str]:
    return ["storage.settle"] if engines.integrated else ["storage.settle", "queue.ack"]


async def _settled_once(engines: Engines, parts: Meddled) -> None:
    runs, diary = Runs(), Diary()
    handler = engines.handler({TYPE: single(runs)}, parts=parts, diary=diary)
    (task,) = await handler.add_tasks([make_task("x", force_store=True)])
    async with serving(handler):
        await diary.told("on_task_completed")
    found = await engines.stored(task)
    assert found is not None
    assert (found.status, found.execution_result) == (TaskStatus.EXECUTED, "x")
    await handler.drain(10)
    assert len(runs) == 1
    assert len(diary.of("on_task_completed")) == 1


@pytest.mark.parametrize("call", [0, 1])
@pytest.mark.parametrize("done", [False, True])
async def test_3_7_nothing_settled_is_lost(engines: Engines, call: int, done: bool) -> None:
    parts, names = engines.meddled(), _settling(engines)
    (parts.fail_after if done else parts.fail)(names[call % len(names)], times=2)
    await _settled_once(engines, parts)


async def test_3_7_nothing_unsettled_is_acknowledged(engines: Engines) -> None:
    parts, first, second = engines.meddled(), Runs(), Runs()
    handler = engines.handler({TYPE: single(first)}, parts=parts, lease=0.5)
    (task,) = await handler.add_tasks([make_task(force_store=True)])
    parts.break_down("storage.settle")
    parts.break_down("queue.extend")
    async with serving(handler):
        await parts.called("storage.settle")
        parts.break_down("queue.claim")  # or it might always be the first to find it again
        async with serving(engines.handler({TYPE: single(second)})):
            await second.finished.reach(1)
        assert "queue.ack" not in parts.names()
    assert await engines.status(task) is TaskStatus.EXECUTED


async def test_3_7_a_settler_that_gave_up_goes_on_afterwards(engines: Engines) -> None:
    parts, runs, diary = engines.meddled(), Runs(), Diary()
    handler = engines.handler({TYPE: parallel(runs)}, parts=parts, diary=diary, lease=0.5)
    parts.break_down("storage.settle")
    parts.break_down("queue.extend")
    await handler.add_tasks([make_task("lost", force_store=True)])
    async with serving(handler):
        await runs.reach(2)  # its lease ran out, and it came again
        parts.repair("storage.settle")
        parts.repair("queue.extend")
        (task,) = await handler.add_tasks([make_task("next", force_store=True)])
        await diary.told("on_task_completed", 2)
    assert await engines.status(task) is TaskStatus.EXECUTED


async def test_3_7_locks_that_cannot_be_released_end_by_themselves(engines: Engines) -> None:
    parts, diary = engines.meddled(), Diary()
    parts.fail("cache.release_many")
    handler = engines.handler({TYPE: single(Runs())}, parts=parts, diary=diary)
    async with serving(handler):
        await handler.add_tasks([make_task(task_hash="h")])
        await diary.told("on_task_completed")


# FAULTS R1, D11


def _parent(fail: bool = False) -> Any:
    async def parent(task: Task[Any], actions: Any) -> None:
        actions.add_tasks([make_task("child", queue_id="children")])
        if fail:
            actions.fail(task, "no")
        else:
            actions.success(task)

    return parent


@pytest.mark.parametrize("fail", [False, True])
async def test_r1_the_acknowledgement_is_the_last_write(memory: Engines, fail: bool) -> None:
    parts = memory.meddled()
    handler = memory.handler({TYPE: single(_parent(fail))}, parts=parts)
    await handler.add_tasks([make_task(force_store=True)])
    begun = len(parts.done)
    await handler.process_batch(QUEUE)
    claiming = (".get", ".claim", ".take_over")
    writes = [name for name in parts.done[begun:] if not name.endswith(claiming)]
    assert writes[0] == "storage.settle"
    assert writes[-1] == "queue.ack"
    assert "queue.put" in writes


@pytest.mark.parametrize("done", [False, True])
@pytest.mark.parametrize("call", ["storage.settle", "queue.put", "queue.ack"])
async def test_d11_a_settle_broken_between_two_writes_makes_each_child_once(
    engines: Engines, call: str, done: bool
) -> None:
    parts, runs = engines.meddled(), Runs()
    executors = {TYPE: single(_parent()), ("children", TYPE): single(runs)}
    handler = engines.handler(executors, parts=parts)
    (task,) = await handler.add_tasks([make_task()])
    (parts.fail_after if done else parts.fail)(call)
    batch = await handler.process_batch(QUEUE)
    assert batch.succeeded == 1
    await handler.drain(10)
    assert runs.payloads == ["child"]
    assert await engines.status(task) in (TaskStatus.EXECUTED, None)


@pytest.mark.parametrize("done", [False, True])
@pytest.mark.parametrize("call", ["storage.settle", "queue.release"])
async def test_d11_a_retry_broken_between_two_writes_happens_once(
    engines: Engines, call: str, done: bool
) -> None:
    attempts: list[int] = []

    async def flaky(task: Task[Any], actions: Any) -> None:
        attempts.append(task.retry_count)
        if task.retry_count < 1:
            raise RuntimeError("once")
        actions.success(task)

    parts = engines.meddled()
    (parts.fail_after if done else parts.fail)(call)
    handler = engines.handler({TYPE: single(flaky)}, parts=parts)
    (task,) = await handler.add_tasks([make_task(retries=3, retry_after=0, force_store=True)])
    await handler.drain(10)
    assert attempts == [0, 1]
    assert await engines.status(task) is TaskStatus.EXECUTED


# FAULTS R5


@pytest.mark.parametrize("call", ["cache.acquire_many", "storage.settle", "cache.release_many"])
async def test_r5_a_call_that_hangs_does_not_stop_the_worker(engines: Engines, call: str) -> None:
    parts, runs, diary = engines.meddled(), Runs(), Diary()
    executors = {TYPE: parallel(runs)}
    handler = engines.handler(executors, parts=parts, diary=diary, lease=0.5, mature_interval=60)
    async with serving(handler):
        # The pass of upkeep at the start uses the cache as well.
        await parts.done.reach(1, lambda name: name == "cache.release_many")
        gate = parts.hold(call)
        await handler.add_tasks([make_task("hangs", task_hash="h", force_store=True)])
        await until(gate.reached)
        await handler.add_tasks([make_task("next", force_store=True)])
        try:
            await diary.told("on_task_completed")
        finally:
            gate.open.set()


# FAULTS R6


@pytest.mark.parametrize("fields", [{}, {"force_store": True}])
async def test_r6_a_task_of_an_unknown_type_is_kept_with_its_payload(
    engines: Engines, fields: dict[str, Any]
) -> None:
    runs = Runs()
    handler = engines.handler({TYPE: single(runs)})
    task, _ = await handler.add_tasks(
        [make_task({"precious": 1}, type="unknown", **fields), make_task("neighbour")]
    )
    await handler.drain(10)
    found = await engines.stored(task)
    assert found is not None
    assert (found.status, found.payload) == (TaskStatus.IGNORED, {"precious": 1})
    assert runs.payloads == ["neighbour"]
