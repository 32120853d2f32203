"""SPEC 9.3: a step counts when it is final, however it ends, and once."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from flowing import JOIN, WORKERS, FlowEngines, Joins, steps_of

from harness import PATIENCE, QUEUE, Runs, make_task, single
from taskloom import FlowStep, FlowStepResult, Task, TaskHandler


async def finish(handler: TaskHandler) -> None:
    await handler.drain(PATIENCE)


async def test_9_3_a_step_counts_when_it_is_final(flows: FlowEngines) -> None:
    joins, attempts = Joins(), []

    async def third_time(task: Task[Any], actions: Any) -> None:
        attempts.append(task.retry_count)
        if task.retry_count < 2:
            raise RuntimeError("not yet")
        actions.success(task, "at last")

    executor = single(third_time, default_retries=2, retry_policy=_at_once(2))
    handler = flows.handler({"step": executor, "join": single(joins)})
    await handler.start_flow(steps_of(1), join=JOIN)
    await finish(handler)
    assert attempts == [0, 1, 2]
    assert joins.outcomes == [["at last"]]


def _at_once(times: int) -> Any:
    return lambda task, error: 0.0 if task.retry_count < times else None


@pytest.mark.parametrize(
    ("type", "change", "error"),
    [
        ("fails", {}, "spoiled"),
        ("raises", {}, "oh no"),
        ("nobody", {}, "ignored: no executor is registered"),
        ("expires", {}, "expired"),
    ],
)
async def test_9_3_however_a_step_ends_it_counts(
    flows: FlowEngines, type: str, change: dict[str, Any], error: str
) -> None:
    joins = Joins()

    async def fails(task: Task[Any], actions: Any) -> None:
        actions.fail(task, "spoiled")

    async def raises(task: Task[Any], actions: Any) -> None:
        raise RuntimeError("oh no")

    async def expires(task: Task[Any], actions: Any) -> None:
        actions.add_tasks([task.replace(expires_at=flows.clock.now() - timedelta(seconds=1))])

    handler = flows.handler(
        {
            "fails": single(fails),
            "raises": single(raises),
            "expires": single(expires),
            "step": single(Runs()),
            "join": single(joins),
        }
    )
    await handler.start_flow([*steps_of(1), *steps_of(2, type=type)], join=JOIN)
    await finish(handler)
    [results] = joins
    first, second = results.steps
    assert first == FlowStepResult(0, "success", 1)
    assert (second.step_index, second.status, second.result) == (1, "fail", None)
    assert error in str(second.error)
    assert not results.aborted


@pytest.mark.parametrize("flows", WORKERS, indirect=True)
async def test_9_3_a_cancelled_step_counts(flows: FlowEngines) -> None:
    joins, runs = Joins(), Runs()
    handler = flows.flow_handler(joins, runs)
    await handler.start_flow(steps_of(1, 2), join=JOIN)
    first, second = await flows.by_type("step")
    assert await handler.cancel_tasks([second.id], reason="withdrawn") == [second.id]
    assert joins == []
    await finish(handler)
    assert runs.payloads == [1]
    assert joins.outcomes == [[1, "cancelled: withdrawn"]]
    assert await handler.cancel_tasks([first.id, second.id], reason="again") == []
    assert len(joins) == 1


@pytest.mark.parametrize("flows", WORKERS, indirect=True)
async def test_9_3_when_all_steps_are_cancelled_the_join_runs(flows: FlowEngines) -> None:
    joins = Joins()
    handler = flows.flow_handler(joins)
    await handler.start_flow(steps_of(1, 2), join=JOIN)
    ids = [task.id for task in await flows.by_type("step")]
    assert await handler.cancel_tasks(ids, reason="no") == ids
    await finish(handler)
    assert joins.outcomes == [["cancelled: no"] * 2]


@pytest.mark.parametrize("flows", WORKERS, indirect=True)
async def test_9_3_poison_counts(flows: FlowEngines) -> None:
    joins = Joins()
    handler = flows.flow_handler(joins, max_deliveries=2)
    await handler.start_flow(steps_of(1), join=JOIN)
    for _ in range(2):  # two workers that died with it
        assert len(await flows.queue.claim(QUEUE, 10, lease=1)) == 1
        await flows.pass_time(2)
    await finish(handler)
    [[error]] = joins.outcomes
    assert error.startswith("delivered 3 times without an outcome")


async def test_9_3_a_step_that_reschedules_itself_is_still_that_step(flows: FlowEngines) -> None:
    joins, runs = Joins(), []

    async def again(task: Task[Any], actions: Any) -> None:
        runs.append(task.payload)
        if task.payload == "later":
            fresh = make_task("done", type="step", id=task.id)  # made anew: it knows no flow
            actions.add_tasks([fresh])
        else:
            actions.success(task, task.payload)

    handler = flows.flow_handler(joins, again)
    await handler.start_flow(steps_of("later"), join=JOIN)
    await finish(handler)
    assert runs == ["later", "done"]
    assert joins.outcomes == [["done"]]


@pytest.mark.parametrize("at_once", [True, False])
async def test_9_3_what_a_step_adds_is_not_taken_for_it(flows: FlowEngines, at_once: bool) -> None:
    joins = Joins()

    async def spawns(task: Task[Any], actions: Any) -> None:
        if task.payload == "child":
            actions.fail(task, "a child failed")
        elif task.retry_count:
            actions.success(task, task.payload)
        else:
            child = task.replace(id=f"child-of-{task.id}", payload="child")
            await handler.add_tasks([child]) if at_once else actions.add_tasks([child])
            actions.fail(task)

    def later(task: Task[Any], error: BaseException) -> float | None:
        return None if task.retry_count or task.payload == "child" else 5.0

    again = single(spawns, retry_policy=later)
    handler = flows.handler({"step": again, "join": single(joins)})
    await handler.start_flow(steps_of(1, 2), join=JOIN)
    await finish(handler)
    await flows.pass_time(11)
    await finish(handler)
    assert joins.outcomes == [[1, 2]]


@pytest.mark.parametrize("ended", [True, False])
async def test_9_3_a_step_that_is_retried_by_hand_does_not_count_twice(
    flows: FlowEngines, ended: bool
) -> None:
    if flows.kind == "inline":
        ended = True  # whoever starts a flow there runs it to its end
    joins = Joins()
    results = iter(["first", "second", "third"])

    async def step(task: Task[Any], actions: Any) -> None:
        actions.success(task, next(results))

    types = {"step": single(step), "join": single(joins)}
    handler = flows.handler(types)
    steps = steps_of(1) if ended else [*steps_of(1), FlowStep("other", "elsewhere", 2)]
    await handler.start_flow(steps, join=JOIN)
    await finish(handler)
    [task] = await flows.by_type("step")
    assert await handler.retry_tasks([task.id]) == [task.id]
    await finish(handler)
    assert (await flows.by_type("step"))[0].execution_result == "second"
    if not ended:
        assert joins == []
        other = flows.handler({("elsewhere", "other"): single(Runs())} | types)
        await finish(other)
    assert joins.outcomes == [["first"] if ended else ["first", 2]]
