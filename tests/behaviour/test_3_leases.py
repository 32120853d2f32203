"""SPEC 3.2 and 3.5, FAULTS R3, R4, R7-R9: who holds a task, for how long, and how often."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from harness import (
    QUEUE,
    TYPE,
    Diary,
    Engines,
    Runs,
    make_task,
    parallel,
    serving,
    single,
    until,
)
from taskloom import Task, TaskHandler, TaskStatus

# 3.2 leases


async def test_3_2_every_claim_is_under_the_handlers_lease(engines: Engines) -> None:
    parts, runs = engines.meddled(), Runs()
    handler = engines.handler({TYPE: single(runs)}, parts=parts, lease=7)
    await handler.add_tasks([make_task()])
    async with serving(handler):
        await runs.reach(1)
    leases = {kwargs["lease"] for name, _, kwargs in parts.calls if name == "queue.claim"}
    assert leases == {7}


async def test_3_2_a_lease_is_renewed_every_third_of_its_length(memory: Engines) -> None:
    parts, runs = memory.meddled(), Runs(gate=asyncio.Event())
    assert runs.gate is not None
    handler = memory.handler({TYPE: single(runs)}, parts=parts, lease=60)
    await handler.add_tasks([make_task()])
    async with serving(handler):
        await runs.reach(1)
        await memory.pass_time(10 * 60)
        assert 20 <= len(parts.names("queue.extend")) <= 31
        runs.gate.set()


async def test_3_2_a_task_that_runs_for_hours_stays_with_its_worker(memory: Engines) -> None:
    runs, other = Runs(gate=asyncio.Event()), Runs()
    assert runs.gate is not None
    handler, helper = memory.handler({TYPE: single(runs)}), memory.handler({TYPE: single(other)})
    await handler.add_tasks([make_task()])
    batch = asyncio.create_task(handler.process_batch(QUEUE))
    await runs.reach(1)
    for _ in range(6):
        await memory.pass_time(1800)
        assert (await helper.process_batch(QUEUE)).claimed == 0
    runs.gate.set()
    assert (await batch).succeeded == 1
    assert (len(runs), other) == (1, [])


async def test_3_2_a_task_that_runs_longer_than_its_lease_runs_once(still: Engines) -> None:
    parts, runs, other = still.meddled(), Runs(gate=asyncio.Event()), Runs()
    assert runs.gate is not None
    handler = still.handler({TYPE: single(runs)}, parts=parts, lease=60)
    helper = still.handler({TYPE: single(other)})
    (task,) = await handler.add_tasks([make_task(force_store=True)])
    batch = asyncio.create_task(handler.process_batch(QUEUE))
    await runs.reach(1)
    for _ in range(5):  # thirds of its lease
        await still.pass_renewed(parts, 20)
        assert (await helper.process_batch(QUEUE)).claimed == 0
    runs.gate.set()
    assert (await batch).succeeded == 1
    assert (len(runs), other) == (1, [])
    assert await still.status(task) is TaskStatus.EXECUTED


class Usurped:
    """A worker that loses its lease in the middle of a task, and another one that gets it."""

    def __init__(self, engines: Engines, executor: Any, **config: Any) -> None:
        self.engines = engines
        self.parts = engines.meddled()
        self.parts.break_down("queue.extend")
        self.first_diary, self.second_diary = Diary(), Diary()
        self.first = engines.handler(
            executor, parts=self.parts, diary=self.first_diary, lease=0.5, **config
        )

    async def second_runs(self, executor: Any) -> None:
        """The second worker gets the task and settles it."""
        second = self.engines.handler(executor, diary=self.second_diary, lease=5)
        async with serving(second):
            await self.second_diary.told("on_task_completed")


def _says(gate: asyncio.Event | None, started: asyncio.Event, word: str) -> Any:
    async def work(task: Task[Any], actions: Any) -> None:
        started.set()
        actions.add_tasks([make_task(word, queue_id="children")])
        if gate is not None:
            try:
                await gate.wait()
            except asyncio.CancelledError:
                await gate.wait()  # one that cannot be stopped reports in the end
        actions.success(task, word)

    return work


@pytest.mark.parametrize("healed", [True, False])
async def test_3_2_what_the_first_worker_still_reports_is_not_applied(
    engines: Engines, healed: bool
) -> None:
    gate, started = asyncio.Event(), asyncio.Event()
    case = Usurped(engines, {TYPE: single(_says(gate, started, "first"))})
    (task,) = await case.first.add_tasks([make_task(force_store=True)])
    async with serving(case.first):
        await until(started)
        await case.second_runs({TYPE: single(_says(None, asyncio.Event(), "second"))})
        if healed:
            case.parts.repair("queue.extend")
        gate.set()
    found = await engines.stored(task)
    assert found is not None
    assert (found.status, found.execution_result) == (TaskStatus.EXECUTED, "second")
    assert case.first_diary.of("on_task_completed") == []
    children = await engines.queue.claim("children", 10, lease=1)
    assert [each.task.payload for each in children] == ["second"]


async def test_3_2_a_lease_known_to_be_lost_cancels_the_run(engines: Engines) -> None:
    cancelled, started = asyncio.Event(), asyncio.Event()

    async def work(task: Task[Any], actions: Any) -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    case = Usurped(engines, {TYPE: single(work)})
    await case.first.add_tasks([make_task(force_store=True)])
    async with serving(case.first):
        await until(started)
        await case.second_runs({TYPE: single(Runs())})
        case.parts.repair("queue.extend")
        await until(cancelled)


async def test_r3_an_outcome_after_a_lost_lease_is_counted_and_told(
    engines: Engines, caplog: pytest.LogCaptureFixture
) -> None:
    gate, started = asyncio.Event(), asyncio.Event()
    case = Usurped(engines, {TYPE: single(_says(gate, started, "first"))})
    await case.first.add_tasks([make_task(force_store=True)])
    async with serving(case.first):
        await until(started)
        await case.second_runs({TYPE: single(_says(None, asyncio.Event(), "second"))})
        case.parts.repair("queue.extend")
        gate.set()
    assert "refused" in caplog.text


@pytest.mark.parametrize("still", ["memory", "redis"], indirect=True)
async def test_3_2_a_row_that_was_not_taken_and_is_not_over_is_looked_at_again(
    still: Engines,
) -> None:
    """A queue beside its storage: its record must not be given up, or nobody would run the task."""
    parts, runs = still.meddled(), Runs()
    handler = still.handler({TYPE: single(runs)}, parts=parts)
    (task,) = await handler.add_tasks([make_task(force_store=True)])
    parts.answer("storage.take_over", [])
    assert (await handler.process_batch(QUEUE)).released == 1
    assert (runs, await still.status(task)) == ([], TaskStatus.QUEUED)
    await still.pass_time(1)
    assert (await handler.process_batch(QUEUE)).succeeded == 1
    assert await still.status(task) is TaskStatus.EXECUTED


async def test_r4_a_renewal_that_hung_is_tried_again_in_time(still: Engines) -> None:
    parts, runs, other = still.meddled(), Runs(gate=asyncio.Event()), Runs()
    assert runs.gate is not None
    hangs = parts.hold("queue.extend")
    handler = still.handler({TYPE: single(runs)}, parts=parts, lease=0.6)
    helper = still.handler({TYPE: single(other)})
    await handler.add_tasks([make_task()])
    batch = asyncio.create_task(handler.process_batch(QUEUE))
    await runs.reach(1)
    await still.pass_time(0.2)
    await until(hangs.left)  # after a third of the lease, in real time
    await still.pass_time(0.2)
    await parts.done.reach(1, lambda name: name == "queue.extend")
    await still.pass_time(0.25)  # the first lease would be over
    assert (await helper.process_batch(QUEUE)).claimed == 0
    runs.gate.set()
    assert (await batch).succeeded == 1
    assert other == []


async def test_r4_what_took_long_to_claim_is_renewed_before_it_starts(still: Engines) -> None:
    parts, runs, other = still.meddled(), Runs(gate=asyncio.Event()), Runs()
    assert runs.gate is not None
    claim = parts.hold_answer("queue.claim")
    handler = still.handler({TYPE: single(runs)}, parts=parts, lease=10)
    helper = still.handler({TYPE: single(other)})
    await handler.add_tasks([make_task()])
    batch = asyncio.create_task(handler.process_batch(QUEUE))
    await until(claim.reached)
    await still.pass_time(8)
    claim.open.set()
    await runs.reach(1)
    assert parts.done.count("queue.extend") == 1
    await still.pass_time(3)  # the lease of the claim would be over
    assert (await helper.process_batch(QUEUE)).claimed == 0
    runs.gate.set()
    assert (await batch).succeeded == 1
    assert other == []


async def test_r4_what_was_lost_while_it_was_claimed_does_not_start(still: Engines) -> None:
    parts, runs, other = still.meddled(), Runs(), Runs()
    claim = parts.hold_answer("queue.claim")
    handler = still.handler({TYPE: single(runs)}, parts=parts, lease=10)
    helper = still.handler({TYPE: single(other)}, lease=10)
    await handler.add_tasks([make_task()])
    batch = asyncio.create_task(handler.process_batch(QUEUE))
    await until(claim.reached)
    await still.pass_time(11)
    assert (await helper.process_batch(QUEUE)).succeeded == 1
    claim.open.set()
    await batch
    assert (runs, len(other)) == ([], 1)


async def test_r4_what_took_long_to_claim_and_cannot_be_renewed_is_released(
    still: Engines,
) -> None:
    parts, runs = still.meddled(), Runs()
    claim = parts.hold_answer("queue.claim")
    parts.fail("queue.extend")
    handler = still.handler({TYPE: single(runs)}, parts=parts, lease=10)
    await handler.add_tasks([make_task()])
    batch = asyncio.create_task(handler.process_batch(QUEUE))
    await until(claim.reached)
    await still.pass_time(8)
    claim.open.set()
    assert (await batch).released == 1
    assert runs == []
    await still.pass_time(1)  # what is released for want of an answer comes back after a second
    assert (await handler.process_batch(QUEUE)).succeeded == 1


async def test_r4_a_waiting_task_whose_lease_cannot_be_trusted_is_not_started(
    memory: Engines,
) -> None:
    parts, runs = memory.meddled(), Runs(gate=asyncio.Event())
    assert runs.gate is not None
    parts.break_down("queue.extend")
    handler = memory.handler({TYPE: single(runs)}, parts=parts, lease=10)
    await handler.add_tasks([make_task(1), make_task(2)])
    batch = asyncio.create_task(handler.process_batch(QUEUE))
    await runs.reach(1)
    await memory.pass_time(9.5)
    runs.gate.set()
    await asyncio.wait([batch])
    assert runs.payloads == [1]


# 3.5 deliveries are counted


async def _die(still: Engines, times: int) -> list[int]:
    """So many workers claim the task and are never heard of again; what they saw counted."""
    counts = []
    for _ in range(times):
        (delivery,) = await still.queue.claim(QUEUE, 1, lease=5)
        counts.append(delivery.delivery_count)
        await still.pass_time(6)
    return counts


async def test_3_5_a_lease_that_ran_out_counts_as_a_delivery(still: Engines) -> None:
    await still.handler().add_tasks([make_task()])
    assert await _die(still, 3) == [1, 2, 3]


async def test_3_5_a_release_does_not_count(still: Engines) -> None:
    stuck = Runs(gate=asyncio.Event())
    handler = still.handler({TYPE: single(stuck)})
    await handler.add_tasks([make_task()])
    for number in range(7):
        work = asyncio.create_task(handler.process_batch(QUEUE))
        await stuck.reach(number + 1)
        work.cancel()
        await asyncio.wait([work])
    assert await _die(still, 1) == [1]


async def test_3_5_up_to_max_deliveries_a_task_runs(still: Engines) -> None:
    runs = Runs()
    handler = still.handler({TYPE: single(runs)}, max_deliveries=3)
    await handler.add_tasks([make_task()])
    await _die(still, 2)
    assert (await handler.process_batch(QUEUE)).succeeded == 1


async def _poison(still: Engines, **fields: Any) -> tuple[TaskHandler, Task[Any], Runs, Diary]:
    runs, diary = Runs(), Diary()
    executors = {TYPE: single(runs, store_on_failure=False, default_retries=9)}
    handler = still.handler(executors, max_deliveries=3, diary=diary)
    (task,) = await handler.add_tasks([make_task("killer", **fields)])
    await _die(still, 3)
    return handler, task, runs, diary


@pytest.mark.parametrize("fields", [{}, {"force_store": True}])
async def test_3_5_beyond_max_deliveries_a_task_is_failed_as_poison(
    still: Engines, fields: dict[str, Any]
) -> None:
    handler, task, runs, _ = await _poison(still, **fields)
    await handler.add_tasks([make_task("neighbour")])
    summary = await handler.process_batch(QUEUE)
    assert (summary.failed, summary.succeeded) == (1, 1)
    assert runs.payloads == ["neighbour"]
    found = await still.stored(task)
    assert found is not None
    assert found.status is TaskStatus.FAILED
    assert found.execution_stats["poison"]
    assert found.payload == "killer"


async def test_3_5_poison_never_runs_again_by_itself_but_by_retry_tasks(still: Engines) -> None:
    handler, task, runs, _ = await _poison(still)
    await handler.process_batch(QUEUE)
    await still.pass_time(7 * 86_400)
    await handler.drain(10)
    assert runs == []
    assert await handler.retry_tasks([task.id]) == [task.id]
    await handler.drain(10)
    assert runs.payloads == ["killer"]


async def test_3_5_poison_is_told_as_failed_and_exhausted(still: Engines) -> None:
    handler, task, _, diary = await _poison(still)
    await handler.process_batch(QUEUE)
    (failed,) = diary.of("on_task_failed")
    assert (failed.task_id, failed.will_retry) == (task.id, False)
    assert len(diary.of("on_task_exhausted")) == 1


async def test_3_5_a_settled_attempt_starts_the_count_again(still: Engines) -> None:
    async def fail(task: Task[Any], actions: Any) -> None:
        actions.fail(task, "no")

    handler = still.handler({TYPE: single(fail)})
    await handler.add_tasks([make_task(retries=5, retry_after=0)])
    await _die(still, 3)
    assert (await handler.process_batch(QUEUE)).retried == 1
    assert await _die(still, 1) == [1]


# FAULTS R7, R9


async def test_r7_a_worker_id_is_new_with_each_start(engines: Engines) -> None:
    assert len({engines.handler().worker_id for _ in range(20)}) == 20


async def test_r7_the_engine_counts_deliveries_not_the_worker(still: Engines) -> None:
    runs = Runs()
    await still.handler().add_tasks([make_task()])
    await _die(still, 5)
    fresh = still.handler({TYPE: single(runs)}, max_deliveries=5)
    assert (await fresh.process_batch(QUEUE)).failed == 1
    assert runs == []


@pytest.mark.parametrize("fields", [{}, {"force_store": True}])
async def test_r9_a_task_that_runs_is_not_rescued_by_its_age(
    still: Engines, fields: dict[str, Any]
) -> None:
    runs, other = Runs(gate=asyncio.Event()), Runs()
    assert runs.gate is not None
    handler = still.handler({TYPE: parallel(runs)}, stale_after=5)
    helper = still.handler({TYPE: parallel(other)}, stale_after=5)
    (task,) = await handler.add_tasks([make_task(**fields)])
    batch = asyncio.create_task(handler.process_batch(QUEUE))
    await runs.reach(1)
    await still.pass_time(30)
    await helper.move_mature_tasks()
    assert (await helper.process_batch(QUEUE)).claimed == 0
    runs.gate.set()
    assert (await batch).succeeded == 1
    await still.pass_time(120)
    await helper.drain(10)
    assert (len(runs), other) == (1, [])
    assert await still.status(task) in (TaskStatus.EXECUTED, None)
