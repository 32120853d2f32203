"""SPEC 9.4, 9.9 and J5: joins that fail, flows within flows, small and large, many at once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from flowing import ALBUM, JOIN, WORKERS, FlowEngines, Joins, open_flow_engines, steps_of

from harness import PATIENCE, QUEUE, Runs, make_task, multi, parallel, serving, single
from servers import url_of
from taskloom import (
    FlowResults,
    FlowStep,
    Loom,
    Retention,
    SystemClock,
    Task,
    TaskHandler,
    TaskHandlerConfig,
    TaskStatus,
    flow_results,
)
from taskloom.flows import step_id

LARGE = 10_000


async def finish(handler: TaskHandler, limit: float = PATIENCE) -> None:
    await handler.drain(limit)


async def test_9_4_a_join_that_fails_is_retried_like_any_task(flows: FlowEngines) -> None:
    given: list[FlowResults] = []

    async def join(task: Task[Any], actions: Any) -> None:
        given.append(flow_results(task))
        if task.retry_count < 2:
            raise RuntimeError("not yet")
        actions.success(task)

    retried = single(join, retry_policy=lambda task, _: 0.0 if task.retry_count < 2 else None)
    handler = flows.handler({"step": parallel(Runs()), "join": retried})
    await handler.start_flow(steps_of(1, 2), join=JOIN)
    await finish(handler)
    assert len(given) == 3
    assert [[step.result for step in results.steps] for results in given] == [[1, 2]] * 3
    [join_row] = await flows.by_type("join")
    assert (join_row.status, join_row.retry_count) == (TaskStatus.EXECUTED, 2)


async def test_9_9_a_join_may_start_another_flow_five_deep(flows: FlowEngines) -> None:
    seen: list[list[Any]] = []

    async def join(task: Task[Any], actions: Any) -> None:
        steps = flow_results(task).steps
        seen.append([step.result for step in steps])
        level = steps[0].result + 1
        if level < 5:
            actions.start_flow(steps_of(level, level), join=JOIN)
        actions.success(task)

    handler = flows.flow_handler(join)
    await handler.start_flow(steps_of(0, 0), join=JOIN)
    await finish(handler)
    assert seen == [[level, level] for level in range(5)]


async def test_9_9_a_step_may_start_a_flow_five_deep(flows: FlowEngines) -> None:
    joins = Joins()

    async def step(task: Task[Any], actions: Any) -> None:
        if task.payload:
            actions.start_flow(steps_of(task.payload - 1, task.payload - 1), join=JOIN)
        actions.success(task, task.payload)

    handler = flows.flow_handler(joins, step)
    await handler.start_flow(steps_of(4), join=JOIN)
    await finish(handler)
    levels = sorted(outcome[0] for outcome in joins.outcomes)
    assert levels == [0] * 8 + [1] * 4 + [2] * 2 + [3] + [4]
    assert len({results.flow_id for results in joins}) == 16


async def test_9_9_the_join_of_one_flow_may_be_a_step_by_type(flows: FlowEngines) -> None:
    joins = Joins()

    async def both(task: Task[Any], actions: Any) -> None:
        if task.metadata.flow is not None and task.metadata.flow.is_join:
            await joins(task, actions)
        else:
            actions.success(task, task.payload)

    handler = flows.handler({"join": single(both)})
    await handler.start_flow(steps_of(1, 2, type="join"), join=JOIN)
    await finish(handler)
    assert joins.outcomes == [[1, 2]]


@pytest.mark.parametrize("flows", WORKERS, indirect=True)
async def test_9_3_flows_that_share_a_call_are_counted_apart(flows: FlowEngines) -> None:
    joins, calls = Joins(), []

    async def together(tasks: Sequence[Task[Any]], actions: Any) -> None:
        calls.append(len(tasks))
        for task in tasks:
            if task.payload == "bad":
                actions.fail(task, "spoiled")
            else:
                actions.success(task, task.payload)

    handler = flows.handler({"step": multi(together), "join": parallel(joins)})
    ids = [
        await handler.start_flow(steps_of(1, 2), join=JOIN),
        await handler.start_flow(steps_of(3, "bad"), join=JOIN),
        await handler.start_flow(steps_of("bad", 4), join=JOIN, failure_policy="abort"),
        await handler.start_flow([*steps_of(5), FlowStep("step", "elsewhere", 6)], join=JOIN),
    ]
    await handler.process_batch(QUEUE, 100)
    assert calls == [7]
    await finish(handler)
    by_flow = dict(zip([r.flow_id for r in joins], joins.outcomes, strict=True))
    assert by_flow == {ids[0]: [1, 2], ids[1]: [3, "spoiled"], ids[2]: ["spoiled", 4]}
    assert [r.step_index for r in await flows.barrier.get_step_results(ids[3])] == [0]


async def test_9_1_each_task_of_a_call_may_start_flows_of_its_own(flows: FlowEngines) -> None:
    joins = Joins()

    async def starts(tasks: Sequence[Task[Any]], actions: Any) -> None:
        for task in tasks:
            actions.start_flow(steps_of(task.payload), join=JOIN, parent=task)
            actions.fail(task) if task.payload == "bad" else actions.success(task)
        raise RuntimeError("after they all spoke")

    handler = flows.handler(
        {"work": multi(starts), "step": parallel(Runs()), "join": parallel(joins)}
    )
    await handler.add_tasks([make_task(n) for n in (1, 2, "bad")])
    await finish(handler)
    assert sorted(map(str, joins.outcomes)) == ["['bad']", "[1]", "[2]"]


async def test_9_9_barrier_state_is_removed_after_the_flows_retention(flows: FlowEngines) -> None:
    joins = Joins()
    handler = flows.flow_handler(joins, retention=Retention(executed=100))
    ended = await handler.start_flow(steps_of(1), join=JOIN, timeout=500)
    await finish(handler)
    going_on = await handler.start_flow([FlowStep("later", "elsewhere", 1)], join=JOIN)
    await flows.pass_time(99)
    await handler.move_mature_tasks()
    assert await flows.barrier.get_flow(ended) is not None
    await flows.pass_time(2)
    await handler.move_mature_tasks()
    assert await flows.barrier.get_flow(ended) is None
    assert await flows.barrier.get_step_results(ended) == []
    # Run inline, the other one has ended, too.
    assert (await flows.barrier.get_flow(going_on) is None) == (flows.kind == "inline")
    await flows.pass_time(500)  # the sentinel finds nothing, and makes nothing up
    await finish(handler)
    assert [results.flow_id for results in joins if results.flow_id == ended] == [ended]
    assert await flows.barrier.get_flow(ended) is None


@pytest.mark.parametrize("flows", WORKERS, indirect=True)
async def test_9_9_a_step_of_a_forgotten_flow_starts_nothing(flows: FlowEngines) -> None:
    joins = Joins()
    handler = flows.flow_handler(joins, retention=Retention(executed=100, cancelled=None))
    flow_id = await handler.start_flow(
        [*steps_of("bad"), FlowStep("step", "elsewhere", 1)], join=JOIN, failure_policy="abort"
    )
    await finish(handler)
    await flows.pass_time(101)
    await handler.move_mature_tasks()
    assert await flows.barrier.get_flow(flow_id) is None
    assert await handler.retry_tasks([step_id(flow_id, 1)]) == [step_id(flow_id, 1)]
    late = flows.handler(
        {("elsewhere", "step"): single(Runs()), "join": single(joins)},
        retention=Retention(executed=100),
    )
    await finish(late)
    assert len(joins) == 1
    assert await flows.barrier.get_flow(flow_id) is None


@pytest.mark.timeout(180)
async def test_j5_a_flow_of_ten_thousand_steps(flows: FlowEngines) -> None:
    joins = Joins()
    handler = flows.flow_handler(joins)
    large = flows.sized(LARGE)
    await handler.start_flow(steps_of(*range(large)), join=JOIN, entity=ALBUM)
    await finish(handler, 150)
    assert joins.outcomes == [list(range(large))]


async def test_j5_a_step_that_starts_a_thousand_more(flows: FlowEngines) -> None:
    joins, more = Joins(), flows.sized(1_000)

    async def starts(task: Task[Any], actions: Any) -> None:
        actions.start_flow(steps_of(*range(more)), join=JOIN)
        actions.success(task)

    handler = flows.handler(
        {"start": single(starts), "step": parallel(Runs()), "join": single(joins)}
    )
    await handler.start_flow(steps_of(0, type="start"), join=JOIN)
    await finish(handler)
    assert sorted(len(outcome) for outcome in joins.outcomes) == [1, more]


@pytest.mark.parametrize("kind", WORKERS)
async def test_9_4_workers_that_serve_hand_every_join_over_once(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    joins = Joins()
    async with (
        url_of(kind, request) as url,
        open_flow_engines(kind, SystemClock(), tmp_path, url) as flows,
    ):
        workers = [flows.flow_handler(joins) for _ in range(2)]
        async with serving(workers[0]), serving(workers[1]):
            start = workers[0].start_flow
            started = [start(steps_of(*range(10)), join=JOIN, timeout=60) for _ in range(30)]
            ids = await asyncio.gather(*started)
            await joins.reach(30)
        assert sorted(results.flow_id for results in joins) == sorted(ids)
        assert joins.outcomes == [list(range(10))] * 30


@pytest.mark.parametrize("url", ["memory://", "sqlite:///{}/flows.db"])
async def test_9_1_a_loom_starts_flows_of_functions(url: str, tmp_path: Path) -> None:
    loom = Loom(url.format(tmp_path), config=TaskHandlerConfig())
    published: list[list[Any]] = []

    @loom.task
    async def resize(path: str, width: int = 100) -> dict[str, int]:
        if path == "bad.png":
            raise ValueError("cannot be read")
        return {path: width}

    @loom.task(batch=10)
    async def check(tasks: list[Task[str]], actions: Any) -> None:
        for task in tasks:
            actions.success(task, len(task.payload))

    @loom.task
    async def publish(results: FlowResults) -> int:
        published.append([step.result or step.error for step in results.steps])
        return len(results.steps)

    async with loom:
        steps = [resize.step("a.png"), resize.step("b.png", width=3), check.step("four")]
        flow_id = await loom.start_flow(steps, join=publish.join(), entity=ALBUM)
        await loom.handler.drain(PATIENCE)
        assert published == [[{"a.png": 100}, {"b.png": 3}, 4]]
        assert loom.entity_projections is not None
        [row] = await loom.entity_projections.get([flow_id])  # type: ignore[attr-defined]
        assert (row.status, row.result) == ("executed", 3)
        with pytest.raises(ValueError, match=r"^steps: "):
            await loom.start_flow([], join=publish.join())
