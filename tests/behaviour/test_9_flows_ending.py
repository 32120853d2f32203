"""SPEC 9.5 to 9.7: flows that end early, and races about how they end."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from flowing import JOIN, WORKERS, FlowEngines, Joins, steps_of, work_or_fail

from harness import PATIENCE, QUEUE, Diary, Runs, parallel, single, until
from taskloom import FlowStep, FlowStepResult, Task, TaskHandler, TaskStatus
from taskloom.flows import step_id, timeout_id

workers = pytest.mark.parametrize("flows", WORKERS, indirect=True)
"""Engines on which tasks wait for a worker."""


async def finish(handler: TaskHandler) -> None:
    await handler.drain(PATIENCE)


# 9.5


async def test_9_5_continue_counts_failures_like_results(flows: FlowEngines) -> None:
    joins = Joins()
    handler = flows.flow_handler(joins)
    flow_id = await handler.start_flow(steps_of("bad", 1, "bad", 2), join=JOIN)
    await finish(handler)
    [results] = joins
    assert results.steps == [
        FlowStepResult(0, "fail", error="spoiled"),
        FlowStepResult(1, "success", 1),
        FlowStepResult(2, "fail", error="spoiled"),
        FlowStepResult(3, "success", 2),
    ]
    assert not results.aborted
    assert await flows.barrier.is_complete(flow_id)


@workers
async def test_9_5_abort_ends_the_flow_with_what_there_is(flows: FlowEngines) -> None:
    joins = Joins()
    handler = flows.flow_handler(joins)
    good = FlowStep("step", QUEUE, "good")
    later = FlowStep("step", "elsewhere", "later")
    flow_id = await handler.start_flow(
        [good, *steps_of("bad"), later, later], join=JOIN, failure_policy="abort"
    )
    await finish(handler)
    [results] = joins
    assert results.aborted
    assert results.steps == [
        FlowStepResult(0, "success", "good"),
        FlowStepResult(1, "fail", error="spoiled"),
    ]
    assert not await flows.barrier.is_complete(flow_id)
    waited = await handler.get_tasks([step_id(flow_id, 2), step_id(flow_id, 3)])
    assert [task.status for task in waited] == [TaskStatus.CANCELLED] * 2
    assert {task.execution_stats["cancelled_reason"] for task in waited} == {"flow_aborted"}
    runs = Runs()
    await finish(flows.handler({("elsewhere", "step"): single(runs)}))
    assert runs == []


@workers
async def test_9_5_a_failure_that_is_retried_aborts_nothing(flows: FlowEngines) -> None:
    joins = Joins()

    async def second_time(task: Task[Any], actions: Any) -> None:
        if not task.retry_count:
            raise RuntimeError("not yet")
        actions.success(task, "at last")

    handler = flows.handler(
        {"step": parallel(second_time, default_retries=1), "join": single(joins)}
    )
    await handler.start_flow(steps_of(1, 2), join=JOIN, failure_policy="abort")
    await finish(handler)
    assert joins == []
    await flows.pass_time(3)
    await finish(handler)
    assert joins.outcomes == [["at last"] * 2]
    assert not joins[0].aborted


@workers
async def test_9_5_what_runs_goes_on_and_is_late(flows: FlowEngines) -> None:
    joins, gate, slow = Joins(), asyncio.Event(), asyncio.Event()

    async def step(task: Task[Any], actions: Any) -> None:
        if task.payload == "slow":
            slow.set()
            await gate.wait()
        elif task.payload == "bad":
            await slow.wait()
        await work_or_fail(task, actions)

    handler = flows.flow_handler(joins, step)
    flow_id = await handler.start_flow(steps_of("slow", "bad"), join=JOIN, failure_policy="abort")
    work = asyncio.create_task(finish(handler))
    await joins.reach(1)
    assert joins.outcomes == [["spoiled"]]
    gate.set()
    await work
    await finish(handler)
    [task] = await handler.get_tasks([step_id(flow_id, 0)])
    assert (task.status, task.execution_result) == (TaskStatus.EXECUTED, "slow")
    assert len(joins) == 1
    assert [r.step_index for r in await flows.barrier.get_step_results(flow_id)] == [1]


@workers
async def test_9_5_steps_that_wait_in_the_worker_are_cancelled_too(flows: FlowEngines) -> None:
    joins, gate, ran, diary = Joins(), asyncio.Event(), list[Any](), Diary()

    async def step(task: Task[Any], actions: Any) -> None:
        ran.append(task.payload)
        if task.payload == "slow":
            await gate.wait()
        await work_or_fail(task, actions)

    handler = flows.handler({"step": single(step), "join": single(joins)}, diary=diary)
    steps = steps_of("bad", "slow", "later", "last")
    flow_id = await handler.start_flow(steps, join=JOIN, failure_policy="abort")
    work = asyncio.create_task(finish(handler))
    told = await diary.told("on_task_cancelled", 2)
    gate.set()
    await work
    assert ran == ["bad", "slow"]
    rest = await handler.get_tasks([step_id(flow_id, 2), step_id(flow_id, 3)])
    assert [task.status for task in rest] == [TaskStatus.CANCELLED] * 2
    assert {task.execution_stats["cancelled_reason"] for task in rest} == {"flow_aborted"}
    assert sorted(event.task_id for event in told) == sorted(task.id for task in rest)
    assert {event.reason for event in told} == {"flow_aborted"}


async def test_9_5_a_failure_of_the_last_step_aborts_all_the_same(flows: FlowEngines) -> None:
    joins = Joins()
    handler = flows.flow_handler(joins)
    for steps in (steps_of("bad"), steps_of(1, "bad"), steps_of("bad", "bad")):
        await handler.start_flow(steps, join=JOIN, failure_policy="abort")
        await finish(handler)
        assert joins[-1].aborted
        assert joins[-1].steps[-1].error == "spoiled"
    assert len(joins) == 3


@workers
async def test_9_5_a_cancelled_step_aborts(flows: FlowEngines) -> None:
    joins, runs = Joins(), Runs()
    handler = flows.flow_handler(joins, runs)
    flow_id = await handler.start_flow(steps_of(1, 2, 3), join=JOIN, failure_policy="abort")
    cancelled = await handler.cancel_tasks([step_id(flow_id, 1)], reason="withdrawn")
    assert cancelled == [step_id(flow_id, 1)]
    await finish(handler)
    assert runs == []
    assert joins.outcomes == [["cancelled: withdrawn"]]
    assert joins[0].aborted
    statuses = [task.status for task in await flows.by_type("step")]
    assert statuses == [TaskStatus.CANCELLED] * 3


# 9.6


@workers
async def test_9_6_the_time_out_needs_no_executor(flows: FlowEngines) -> None:
    joins = Joins()
    handler = flows.flow_handler(joins)
    later = FlowStep("step", "elsewhere", "later")
    flow_id = await handler.start_flow([*steps_of(1), later], join=JOIN, timeout=600)
    await finish(handler)
    await flows.pass_time(599)
    await finish(handler)
    assert joins == []
    await flows.pass_time(2)
    await finish(handler)
    [results] = joins
    assert (results.timed_out, results.aborted) == (True, False)
    assert joins.outcomes == [[1]]
    sentinel, step = await handler.get_tasks([timeout_id(flow_id), step_id(flow_id, 1)])
    assert sentinel.status is TaskStatus.EXECUTED
    assert step.status is TaskStatus.CANCELLED
    assert step.execution_stats["cancelled_reason"] == "flow_timeout"


@pytest.mark.parametrize("timeout", [1.5, 600, timedelta(hours=3)])
async def test_9_6_after_the_barrier_is_met_it_is_nothing(flows: FlowEngines, timeout: Any) -> None:
    joins = Joins()
    handler = flows.flow_handler(joins)
    flow_id = await handler.start_flow(steps_of(1, 2), join=JOIN, timeout=timeout)
    await finish(handler)
    assert joins.outcomes == [[1, 2]]
    await flows.pass_time(timeout)
    await flows.pass_time(1)
    await finish(handler)
    [sentinel] = await handler.get_tasks([timeout_id(flow_id)])
    assert sentinel.status is TaskStatus.EXECUTED
    assert len(joins) == 1
    assert not joins[0].timed_out
    assert await flows.barrier.is_complete(flow_id)


async def test_9_6_time_is_not_over_while_a_step_is_tried_again(flows: FlowEngines) -> None:
    joins = Joins()

    async def second_time(task: Task[Any], actions: Any) -> None:
        actions.success(task, "done") if task.retry_count else actions.fail(task)

    step = single(second_time, retry_policy=lambda task, _: None if task.retry_count else 0.0)
    handler = flows.handler({"step": step, "join": single(joins)})
    await handler.start_flow(steps_of(1), join=JOIN, timeout=60)
    await finish(handler)
    assert joins.outcomes == [["done"]]


@workers
async def test_9_6_a_sentinel_that_turns_to_poison_counts(
    flows: FlowEngines,
) -> None:
    joins = Joins()
    handler = flows.flow_handler(joins, max_deliveries=1)
    await handler.start_flow([FlowStep("step", "elsewhere", 1)], join=JOIN, timeout=10)
    await flows.pass_time(11)
    await handler.move_mature_tasks()
    assert len(await flows.queue.claim(QUEUE, 10, lease=1)) == 1
    await flows.pass_time(2)
    await finish(handler)
    assert [results.timed_out for results in joins] == [True]


@workers
async def test_9_6_a_step_that_hangs_does_not_hold_up_the_time_out(flows: FlowEngines) -> None:
    joins, gate = Joins(), asyncio.Event()
    entered = asyncio.Event()

    async def hangs(task: Task[Any], actions: Any) -> None:
        entered.set()
        await gate.wait()
        actions.success(task)

    handler = flows.handler({"step": single(hangs), "join": single(joins)})
    await handler.start_flow(steps_of(1, 2), join=JOIN, timeout=10)
    work = asyncio.create_task(finish(handler))
    await until(entered)
    await flows.pass_time(11)
    await joins.reach(1)
    assert joins[0].timed_out
    assert joins[0].steps == []
    gate.set()
    await work


# 9.7


@workers
@pytest.mark.parametrize("policy", ["continue", "abort"])
async def test_9_7_steps_and_sentinel_settled_together_complete_it(
    flows: FlowEngines, policy: Any
) -> None:
    joins = Joins()
    handler = flows.flow_handler(joins)
    await handler.start_flow(steps_of(1, 2), join=JOIN, timeout=5, failure_policy=policy)
    await flows.pass_time(6)
    await handler.move_mature_tasks()
    assert (await handler.process_batch(QUEUE, 10)).succeeded == 3
    await finish(handler)
    assert joins.outcomes == [[1, 2]]
    assert not joins[0].timed_out


@workers
async def test_9_7_a_flow_has_one_join_however_it_races(flows: FlowEngines) -> None:
    joins = Joins()
    handler = flows.flow_handler(joins)
    for _ in range(20):
        await handler.start_flow(
            steps_of(1, "bad", 2), join=JOIN, failure_policy="abort", timeout=5
        )
    await flows.pass_time(6)
    await asyncio.gather(*(finish(each) for each in (handler, flows.flow_handler(joins))))
    assert len({results.flow_id for results in joins}) == len(joins) == 20
    assert len(await flows.by_type("join")) == 20


@workers
async def test_9_7_a_flow_that_is_complete_is_never_reopened(flows: FlowEngines) -> None:
    joins, results = Joins(), iter(["good", "bad"])

    async def step(task: Task[Any], actions: Any) -> None:
        if next(results) == "bad":
            actions.fail(task, "spoiled")
        else:
            actions.success(task, "good")

    handler = flows.handler({"step": single(step), "join": single(joins)})
    flow_id = await handler.start_flow(steps_of(1), join=JOIN, failure_policy="abort", timeout=60)
    await finish(handler)
    assert await handler.retry_tasks([step_id(flow_id, 0)]) == [step_id(flow_id, 0)]
    await finish(handler)
    await flows.pass_time(61)
    await finish(handler)
    assert await flows.barrier.is_complete(flow_id)
    assert [(r.aborted, r.timed_out) for r in joins] == [(False, False)]
    assert await flows.barrier.get_step_results(flow_id) == [FlowStepResult(0, "success", "good")]
