"""J1 to J4, R11: steps repeated and late, barriers that are lost, joins left behind."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from flowing import (
    ALBUM,
    JOIN,
    WORKERS,
    FlowDiary,
    FlowEngines,
    Joins,
    Told,
    steps_of,
    work_or_fail,
)

from harness import PATIENCE, QUEUE, Runs, make_task, parallel, single, until
from taskloom import (
    FlowStep,
    FlowStepResult,
    Task,
    TaskHandler,
    TaskStatus,
)
from taskloom.flows import join_id, step_id
from taskloom.memory import InMemoryFlowBarrier

workers = pytest.mark.parametrize("flows", WORKERS, indirect=True)
foreign = pytest.mark.parametrize("flows", ["memory", "beside", "separate"], indirect=True)
"""Engines whose barrier is not in the transaction of a settle."""
lost_ones = pytest.mark.parametrize("flows", ["memory", "beside"], indirect=True)
"""Engines whose barrier lives and dies with a process."""


async def finish(handler: TaskHandler) -> None:
    await handler.drain(PATIENCE)


async def outlast(flows: FlowEngines, handler: TaskHandler) -> None:
    """`finish`, while time goes on for whoever waits to try again."""
    work = asyncio.create_task(finish(handler))
    while not work.done():
        await flows.pass_time(0.1)
        await asyncio.wait([work], timeout=0.01)
    await work


# J1


@workers
@pytest.mark.parametrize("policy", ["continue", "abort"])
async def test_j1_what_a_late_worker_says_of_a_step_does_not_count(
    flows: FlowEngines, policy: Any
) -> None:
    joins, entered, gate = Joins(), asyncio.Event(), asyncio.Event()

    async def late(task: Task[Any], actions: Any) -> None:
        entered.set()
        await gate.wait()
        actions.fail(task, "late")

    parts = flows.meddled()
    parts.storage = flows.storage  # the one that the barrier knows; only the queue is meddled with
    if parts.queue.storage is not None:
        parts.queue.storage = flows.storage
    first = flows.handler({"step": single(late), "join": single(joins)}, parts=parts)
    await first.start_flow(steps_of(1), join=JOIN, failure_policy=policy)
    work = asyncio.create_task(first.process_batch(QUEUE, 1))
    await until(entered)
    parts.break_down("queue.extend")
    await flows.pass_time(61)
    parts.repair("queue.extend")
    second = flows.flow_handler(joins)
    await finish(second)
    assert joins.outcomes == [[1]]
    gate.set()
    assert (await work).released == 1
    await finish(second)
    assert joins.outcomes == [[1]]
    assert not joins[0].aborted


@foreign
async def test_j1_a_settle_that_is_repeated_counts_once(flows: FlowEngines) -> None:
    parts, joins = flows.meddled(), Joins()
    settles = "queue.ack" if flows.kind != "beside" else "storage.settle"
    handler = flows.flow_handler(joins, parts=parts)
    await handler.start_flow(steps_of(1, "bad", 2), join=JOIN)
    parts.fail_after(settles)
    await outlast(flows, handler)
    assert joins.outcomes == [[1, "spoiled", 2]]


# J2 and R11


@foreign
async def test_r11_a_join_that_could_not_be_added_is_added_later(flows: FlowEngines) -> None:
    parts, joins, diary = flows.meddled(), Joins(), FlowDiary()
    handler = flows.flow_handler(joins, parts=parts, diary=diary)
    flow_id = await handler.start_flow(steps_of(1, 2), join=JOIN)
    parts.fail("storage.add", 2)
    await outlast(flows, handler)
    assert [results.flow_id for results in joins] == [flow_id]
    assert len(diary.of("on_flow_completed")) == 1


@workers
async def test_r11_a_join_left_ready_is_handed_over_by_the_sweep(
    flows: FlowEngines, caplog: pytest.LogCaptureFixture
) -> None:
    joins, diary = Joins(), FlowDiary()
    handler = flows.flow_handler(joins, diary=diary)
    flow_id = await handler.start_flow([FlowStep("step", "elsewhere", 1)], join=JOIN)
    # The worker that counted the last step died before it added the join.
    await flows.barrier.record_steps(flow_id, [FlowStepResult(0, "success", "counted")])
    await handler.move_mature_tasks()
    await finish(handler)
    assert joins == []  # its worker may still be at it
    await flows.pass_time(6)
    await handler.move_mature_tasks()
    await finish(handler)
    assert joins.outcomes == [["counted"]]
    assert len(diary.of("on_flow_completed")) == 1
    assert "left by a worker that is gone" in caplog.text
    await flows.pass_time(6)
    await finish(handler)
    assert len(joins) == 1


@workers
async def test_r11_the_sweep_ends_the_rest_of_an_aborted_flow(flows: FlowEngines) -> None:
    joins, told, diary = Joins(), Told(), FlowDiary()
    handler = flows.flow_handler(joins, diary=diary, entity_projections=told)
    step = FlowStep("step", "elsewhere", 1)
    flow_id = await handler.start_flow(
        [step, step], join=JOIN, failure_policy="abort", entity=ALBUM
    )
    bad = FlowStepResult(0, "fail", None, "spoiled")
    await flows.barrier.record_steps(flow_id, [bad], abort=True)
    await flows.pass_time(6)
    await handler.move_mature_tasks()
    assert told.of(flow_id) == ["processing", "failed"]
    assert told.last[flow_id].error == "flow_aborted"
    [waiting] = await handler.get_tasks([step_id(flow_id, 1)])
    assert waiting.status is TaskStatus.CANCELLED
    assert [event.trigger_step_index for event in diary.of("on_flow_aborted")] == [0]


@workers
async def test_r11_a_join_that_was_handed_over_twice_runs_once(flows: FlowEngines) -> None:
    joins = Joins()
    handler = flows.flow_handler(joins)
    flow_id = await handler.start_flow([FlowStep("step", "elsewhere", 1)], join=JOIN)
    await flows.barrier.record_steps(flow_id, [FlowStepResult(0, "success", 1)])
    await flows.pass_time(6)
    others = [flows.flow_handler(joins) for _ in range(3)]
    await asyncio.gather(*(each._flows.sweep() for each in others if each._flows))
    await finish(handler)
    await finish(others[0])
    assert [results.flow_id for results in joins] == [flow_id]


# J3


@lost_ones
@pytest.mark.parametrize("policy", ["continue", "abort"])
async def test_j3_a_lost_barrier_is_told_in_the_join(
    flows: FlowEngines, policy: Any, caplog: pytest.LogCaptureFixture
) -> None:
    joins = Joins()
    before = flows.flow_handler(joins)
    steps = [*steps_of(1), FlowStep("step", "elsewhere", 2), FlowStep("step", "elsewhere", 3)]
    flow_id = await before.start_flow(steps, join=JOIN, failure_policy=policy, entity=ALBUM)
    await finish(before)
    assert joins == []
    after = flows.handler(
        {("elsewhere", "step"): parallel(work_or_fail), "join": single(joins)},
        flow_barrier=InMemoryFlowBarrier(flows.clock),
    )
    await finish(after)
    [results] = joins
    assert (results.flow_id, results.barrier_lost, results.aborted) == (flow_id, True, False)
    assert joins.outcomes == [[1, 2, 3]]
    assert "is gone from its barrier" in caplog.text
    assert await flows.row_status(flow_id) == ("executed", None)


@lost_ones
async def test_j3_a_failure_that_the_storage_knows_still_aborts(flows: FlowEngines) -> None:
    joins = Joins()
    steps = [*steps_of("bad"), *(FlowStep("step", "elsewhere", n) for n in (2, 3))]
    starter = flows.flow_handler(joins)
    await starter.start_flow(steps, join=JOIN, failure_policy="abort")
    # Counted, and lost together with what came of that.
    await finish(flows.flow_handler(joins, flow_barrier=None))
    after = flows.handler(
        {("elsewhere", "step"): single(Runs()), "join": single(joins)},
        flow_barrier=InMemoryFlowBarrier(flows.clock),
    )
    await after.process_batch("elsewhere", 1)
    await flows.pass_time(6)
    await finish(after)
    assert [(r.aborted, r.barrier_lost) for r in joins] == [(True, True)]
    assert joins.outcomes[0][0] == "spoiled"


@lost_ones
async def test_j3_a_barrier_lost_after_the_join_makes_no_second_one(
    flows: FlowEngines, caplog: pytest.LogCaptureFixture
) -> None:
    joins = Joins()
    before = flows.flow_handler(joins)
    steps = [*steps_of("bad"), FlowStep("step", "elsewhere", 2)]
    gate, entered = asyncio.Event(), asyncio.Event()

    async def slow(task: Task[Any], actions: Any) -> None:
        entered.set()
        await gate.wait()
        actions.success(task)

    after = flows.handler(
        {("elsewhere", "step"): single(slow)}, flow_barrier=InMemoryFlowBarrier(flows.clock)
    )
    flow_id = await before.start_flow(steps, join=JOIN, failure_policy="abort")
    work = asyncio.create_task(after.process_batch("elsewhere", 1))
    await until(entered)
    await finish(before)
    gate.set()
    assert (await work).succeeded == 1
    await flows.pass_time(6)
    await after.move_mature_tasks()
    await finish(before)
    assert [(r.flow_id, r.aborted, r.barrier_lost) for r in joins] == [(flow_id, True, False)]
    assert "is gone from its barrier" not in caplog.text


@lost_ones
async def test_j3_a_time_out_finds_a_lost_flow(flows: FlowEngines) -> None:
    joins = Joins()
    before = flows.flow_handler(joins)
    steps = [*steps_of(1), FlowStep("step", "elsewhere", 2)]
    await before.start_flow(steps, join=JOIN, timeout=60)
    await finish(before)
    await flows.pass_time(61)
    after = flows.flow_handler(joins, flow_barrier=InMemoryFlowBarrier(flows.clock))
    await finish(after)
    assert [(r.timed_out, r.barrier_lost) for r in joins] == [(True, True)]
    assert joins.outcomes == [[1]]


@workers
async def test_a_worker_without_the_barrier_says_that_nobody_counts(
    flows: FlowEngines, caplog: pytest.LogCaptureFixture
) -> None:
    handler = flows.flow_handler(Joins())
    await handler.start_flow(steps_of(1), join=JOIN)
    await finish(flows.flow_handler(Joins(), flow_barrier=None))
    assert "without a flow_barrier" in caplog.text


# J4


@foreign
async def test_j4_steps_that_could_not_be_added_are_added_later(flows: FlowEngines) -> None:
    parts, joins = flows.meddled(), Joins()

    async def starts(task: Task[Any], actions: Any) -> None:
        actions.start_flow(steps_of(1, 2), join=JOIN)
        actions.success(task)

    handler = flows.handler(
        {"work": single(starts), "step": parallel(Runs()), "join": single(joins)}, parts=parts
    )
    await handler.add_tasks([make_task()])
    parts.fail("storage.settle" if flows.kind == "beside" else "storage.add")
    await outlast(flows, handler)
    assert joins.outcomes == [[1, 2]]
    assert len(await flows.barrier.search()) == 1


@workers
async def test_j4_a_task_that_runs_again_starts_the_same_flow(flows: FlowEngines) -> None:
    joins, ids, entered = Joins(), [], asyncio.Event()

    async def starts(task: Task[Any], actions: Any) -> None:
        ids.append(await handler.start_flow(steps_of(1, 2), join=JOIN, timeout=900))
        ids.append(actions.start_flow(steps_of(3), join=JOIN))
        if not entered.is_set():
            entered.set()
            await asyncio.Event().wait()
        actions.success(task)

    handler = flows.handler(
        {"work": single(starts), "step": parallel(Runs()), "join": single(joins)}
    )
    await handler.add_tasks([make_task()])
    work = asyncio.create_task(handler.process_batch(QUEUE, 1))
    await until(entered)
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)
    await flows.pass_time(2)
    await finish(handler)
    assert ids[:2] == ids[2:]
    assert sorted(joins.outcomes) == [[1, 2], [3]]
    assert len(await flows.by_type("step")) == 3
    assert {task.id for task in await flows.by_type("join")} == {join_id(id) for id in ids}


@workers
async def test_a_flow_costs_nothing_to_tasks_without_one(flows: FlowEngines) -> None:
    """No call of the barrier for tasks that belong to no flow."""
    calls: list[str] = []

    class Watched(InMemoryFlowBarrier):
        def __getattribute__(self, name: str) -> Any:
            if name in ("record_steps", "get_flow", "init_barrier", "mark_joined"):
                calls.append(name)
            return super().__getattribute__(name)

    runs = Runs()
    handler = flows.handler({"work": parallel(runs)}, flow_barrier=Watched(flows.clock))
    await handler.add_tasks([make_task(n) for n in range(100)])
    await finish(handler)
    assert len(runs) == 100
    assert calls == []
