"""SPEC 9.1, 9.2, 9.4: who starts a flow, what its steps are, what its join gets."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from flowing import ALBUM, JOIN, WORKERS, FlowEngines, Joins, steps_of
from msgspec.structs import replace

from harness import PATIENCE, QUEUE, Runs, make_task, parallel, single
from taskloom import (
    EntityRef,
    FlowJoin,
    FlowStep,
    FlowStepResult,
    InvalidFlowError,
    MultiTaskExecutor,
    Task,
    TaskHandler,
    TaskStatus,
    TooManyChildrenError,
    flow_results,
)
from taskloom.flows import join_id

USER = EntityRef("u_1", "user")


async def finish(handler: TaskHandler) -> None:
    await handler.drain(PATIENCE)


# 9.1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": []}, "^steps: "),
        ({"timeout": 0}, "^timeout: "),
        ({"timeout": timedelta()}, "^timeout: "),
        ({"timeout": -1}, "timeout"),
        ({"failure_policy": "sometimes"}, "^failure_policy: "),
        ({"steps": [FlowStep("", "q", 1)]}, "^type: "),
        ({"join": FlowJoin("join", "")}, "^queue_id: "),
        ({"steps": [FlowStep("step", "q", object())]}, "payload: "),
        ({"steps": [FlowStep("step", "q", 1, EntityRef("", "user"))]}, r"^entity\.id: "),
        ({"entity": EntityRef("", "album")}, r"^entity\.id: "),
    ],
)
@pytest.mark.parametrize("flows", ["memory", "sqlite", "postgresql"], indirect=True)
async def test_9_1_a_flow_that_could_never_end_is_refused(
    flows: FlowEngines, arguments: dict[str, Any], message: str
) -> None:
    told: list[BaseException] = []

    async def starts(task: Task[Any], actions: Any) -> None:
        with pytest.raises(ValueError, match=message) as caught:
            actions.start_flow(**given)
        told.append(caught.value)
        actions.success(task)

    given: dict[str, Any] = {"steps": steps_of(1), "join": JOIN} | arguments
    handler = flows.handler({"work": single(starts)})
    with pytest.raises(ValueError, match=message):
        await handler.start_flow(**given)
    assert await flows.is_empty()
    await handler.add_tasks([make_task()])
    await finish(handler)
    assert len(told) == 1
    assert await flows.barrier.search() == []


@pytest.mark.parametrize("flows", ["memory", "sqlite", "postgresql"], indirect=True)
async def test_9_1_without_a_barrier_there_are_no_flows(flows: FlowEngines) -> None:
    async def starts(task: Task[Any], actions: Any) -> None:
        with pytest.raises(InvalidFlowError, match="flow_barrier"):
            actions.start_flow(steps_of(1), join=JOIN)
        actions.success(task, "refused")

    handler = flows.handler({"work": single(starts)}, flow_barrier=None)
    with pytest.raises(ValueError, match="flow_barrier"):
        await handler.start_flow(steps_of(1), join=JOIN)
    [task] = await handler.add_tasks([make_task(force_store=True)])
    await finish(handler)
    assert (await handler.get_tasks([task.id]))[0].execution_result == "refused"


async def test_9_1_from_outside_it_returns_the_id_and_the_steps_exist(flows: FlowEngines) -> None:
    joins = Joins()
    handler = flows.flow_handler(joins)
    flow_id = await handler.start_flow(steps_of(1, 2), join=JOIN)
    if flows.kind == "inline":
        assert joins.outcomes == [[1, 2]]
    else:
        assert [task.payload for task in await flows.by_type("step")] == [1, 2]
    await finish(handler)
    assert [results.flow_id for results in joins] == [flow_id]


@pytest.mark.parametrize("how", ["single", "parallel", "multi", "multi, naming its parent"])
async def test_9_1_steps_are_added_when_the_task_that_started_it_settles(
    flows: FlowEngines, how: str
) -> None:
    joins, before = Joins(), []

    async def starts(given: Any, actions: Any) -> None:
        task = given if isinstance(given, Task) else given[0]
        parent = {"parent": task} if "parent" in how else {}
        flow_id = actions.start_flow(steps_of("a", "b"), join=JOIN, **parent)
        before.append((flow_id, await flows.by_type("step")))
        actions.success(task)

    kind = MultiTaskExecutor if "multi" in how else {"single": single, "parallel": parallel}[how]
    executor = kind(starts, store_on_failure=True)
    handler = flows.handler({"work": executor, "step": parallel(Runs()), "join": single(joins)})
    await handler.add_tasks([make_task()])
    await finish(handler)
    [(flow_id, there)] = before
    assert there == []
    assert [(results.flow_id, results.aborted) for results in joins] == [(flow_id, False)]
    assert joins.outcomes == [["a", "b"]]


@pytest.mark.parametrize("word", ["exception", "silence", "fail", "success"])
async def test_9_1_an_attempt_that_did_not_speak_has_started_nothing(
    flows: FlowEngines, word: str
) -> None:
    joins = Joins()

    async def starts(task: Task[Any], actions: Any) -> None:
        actions.start_flow(steps_of(1), join=JOIN)
        if word == "exception":
            raise RuntimeError("no")
        if word != "silence":
            getattr(actions, word)(task)

    handler = flows.handler({"work": single(starts), "step": single(Runs()), "join": single(joins)})
    await handler.add_tasks([make_task()])
    await finish(handler)
    assert len(joins) == len(await flows.barrier.search()) == int(word in ("fail", "success"))


async def test_9_1_inside_an_executor_the_handler_starts_it_at_once(flows: FlowEngines) -> None:
    joins, made, attempts = Joins(), set(), []

    async def starts(task: Task[Any], actions: Any) -> None:
        made.add(await handler.start_flow(steps_of(1, 2), join=JOIN))
        attempts.append(len(await flows.by_type("step")))
        if len(attempts) == 1:
            raise RuntimeError("after it had started the flow")
        actions.success(task)

    handler = flows.handler(
        {"work": single(starts), "step": parallel(Runs()), "join": single(joins)}
    )
    await handler.add_tasks([make_task(retries=1, retry_after=0)])
    await finish(handler)
    assert attempts[0] == 2
    # Another attempt is another flow; the same attempt run again is the same one.
    assert {results.flow_id for results in joins} == made
    assert len(made) == len(joins) == 2


@pytest.mark.parametrize("flows", WORKERS, indirect=True)
async def test_9_1_inside_a_call_on_many_the_handler_starts_one_too(flows: FlowEngines) -> None:
    joins = Joins()

    async def starts(tasks: list[Task[Any]], actions: Any) -> None:
        await handler.start_flow(steps_of(*(task.payload for task in tasks)), join=JOIN)
        for task in tasks:
            actions.success(task)

    executor = MultiTaskExecutor(starts, store_on_failure=True)
    handler = flows.handler({"work": executor, "step": parallel(Runs()), "join": single(joins)})
    await handler.add_tasks([make_task(n) for n in range(3)])
    await handler.process_batch(QUEUE, 10)
    await finish(handler)
    assert [sorted(outcome) for outcome in joins.outcomes] == [[0, 1, 2]]


@pytest.mark.parametrize("way", ["actions", "handler"])
async def test_9_1_steps_are_children_and_there_may_be_too_many(
    flows: FlowEngines, way: str
) -> None:
    async def starts(task: Task[Any], actions: Any) -> None:
        async def by_actions(steps: Any, join: Any) -> str:
            return str(actions.start_flow(steps, join=join))

        start: Any = by_actions if way == "actions" else handler.start_flow
        with pytest.raises(TooManyChildrenError, match="max_children is 3"):
            await start(steps_of(1, 2, 3, 4), join=JOIN)
        actions.success(task)  # counts for nothing any more

    handler = flows.handler({"work": single(starts)}, max_children=3)
    [task] = await handler.add_tasks([make_task(force_store=True)])
    await finish(handler)
    assert await flows.status(task) is TaskStatus.FAILED
    assert await flows.barrier.search() == []
    assert await flows.by_type("step") == []


# 9.2


async def test_9_2_steps_are_ordinary_tasks_that_are_stored(flows: FlowEngines) -> None:
    runs = Runs()
    handler = flows.handler({"step": single(runs), "join": single(Joins())})
    payload = {"flow_results": "mine", "n": [1]}
    steps = [FlowStep("step", QUEUE, payload, USER), FlowStep("step", QUEUE, None)]
    await handler.start_flow(steps, join=JOIN, failure_policy="abort", entity=ALBUM)
    await finish(handler)
    assert [task.payload for task in runs] == [payload, None]
    assert [task.entity for task in runs] == [USER, None]
    metas = [task.metadata.flow for task in runs]
    assert [meta.step_index for meta in metas if meta] == [0, 1]
    assert {(m.total_steps, m.join, m.failure_policy, m.entity) for m in metas if m} == {
        (2, JOIN, "abort", ALBUM)
    }
    stored = await flows.by_type("step")
    assert [task.status for task in stored] == [TaskStatus.EXECUTED] * 2
    assert all(task.force_store for task in stored)


@pytest.mark.parametrize("way", ["actions", "handler"])
async def test_9_2_steps_and_join_inherit_the_starters_log_context(
    flows: FlowEngines, way: str
) -> None:
    seen: list[tuple[str, Any]] = []

    async def note(task: Task[Any], actions: Any) -> None:
        seen.append((task.type, task.metadata.log_context))
        actions.success(task)

    async def starts(task: Task[Any], actions: Any) -> None:
        if way == "actions":
            actions.start_flow(steps_of(1, 2), join=JOIN)
        else:
            await handler.start_flow(steps_of(1, 2), join=JOIN)
        actions.success(task)

    handler = flows.handler({"work": single(starts), "step": parallel(note), "join": single(note)})
    metadata = replace(make_task().metadata, log_context={"request": "r1"})
    await handler.add_tasks([make_task(metadata=metadata)])
    await finish(handler)
    context = {"request": "r1"}
    assert seen == [("step", context), ("step", context), ("join", context)]


# 9.4


@pytest.mark.parametrize("total", [1, 2, 50])
async def test_9_4_the_join_gets_every_step_in_order(flows: FlowEngines, total: int) -> None:
    joins = Joins()
    handler = flows.flow_handler(joins)
    flow_id = await handler.start_flow(steps_of(*range(total)), join=JOIN)
    await finish(handler)
    [results], [join] = joins, joins.tasks
    assert results.flow_id == flow_id
    assert results.steps == [FlowStepResult(n, "success", n) for n in range(total)]
    assert (results.aborted, results.timed_out, results.barrier_lost) == (False, False, False)
    assert join.payload.keys() == {"flow_results"}
    assert flow_results(join) == results
    assert join.metadata.flow is not None
    assert join.metadata.flow.is_join
    assert await flows.status(join) is TaskStatus.EXECUTED
    assert await flows.barrier.is_complete(flow_id)


async def test_9_4_the_id_of_the_join_derives_from_the_flows(flows: FlowEngines) -> None:
    joins = Joins()
    handler = flows.flow_handler(joins)
    flow_id = await handler.start_flow(steps_of(1), join=JOIN)
    await finish(handler)
    assert [task.id for task in joins.tasks] == [join_id(flow_id)]


async def test_9_4_a_dropped_result_is_visible(
    flows: FlowEngines, caplog: pytest.LogCaptureFixture
) -> None:
    joins = Joins()
    large = "x" * (256 * 1024)

    async def step(task: Task[Any], actions: Any) -> None:
        actions.success(task, {1: "large", 2: object(), 3: None}.get(task.payload))

    async def sized(task: Task[Any], actions: Any) -> None:
        actions.success(task, large)

    handler = flows.handler({"step": parallel(step), "sized": single(sized), "join": single(joins)})
    await handler.start_flow([*steps_of(2, 3), *steps_of(0, type="sized")], join=JOIN)
    await finish(handler)
    assert joins.outcomes == [[{"result_dropped": 0}, None, {"result_dropped": len(large) + 2}]]
    assert "dropped" in caplog.text
