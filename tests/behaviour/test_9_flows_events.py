"""Flow events, and SPEC 9.8: the entity of a flow."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from flowing import ALBUM, JOIN, WORKERS, FlowDiary, FlowEngines, Joins, Told, steps_of

from harness import PATIENCE, Runs, make_task, parallel, single
from taskloom import (
    ConfigurationError,
    EntityRef,
    FlowStep,
    LifecycleConfig,
    Task,
    TaskHandler,
)
from taskloom.flows import step_id

USER = EntityRef("u_1", "user")
NAMES = ("on_flow_started", "on_flow_completed", "on_flow_aborted", "on_flow_timed_out")
workers = pytest.mark.parametrize("flows", WORKERS, indirect=True)


async def finish(handler: TaskHandler) -> None:
    await handler.drain(PATIENCE)


def told(diary: FlowDiary) -> list[str]:
    """What was told of flows, in order."""
    return [name for name, _ in diary.entries if name in NAMES]


def test_a_provider_of_flow_events_needs_a_barrier(memory: Any) -> None:
    with pytest.raises(ConfigurationError, match="flow_barrier"):
        memory.handler(flow_lifecycle_provider=FlowDiary())
    assert issubclass(ConfigurationError, ValueError)


@workers
async def test_a_flow_from_outside_is_started_and_completed(flows: FlowEngines) -> None:
    diary = FlowDiary()
    handler = flows.flow_handler(Joins(), diary=diary)
    began = flows.clock.now()
    steps = [*steps_of(1, "bad"), FlowStep("step", "q", 2), FlowStep("nobody", "q", 3)]
    flow_id = await handler.start_flow(steps, join=JOIN, timeout=60, entity=ALBUM)
    assert told(diary) == ["on_flow_started"]
    await flows.pass_time(7)
    await finish(handler)
    started, completed = (event for name, event in diary.entries if name in NAMES)
    assert told(diary) == ["on_flow_started", "on_flow_completed"]
    for event in (started, completed):
        assert (event.flow_id, event.total_steps, event.join) == (flow_id, 4, JOIN)
        assert (event.failure_policy, event.entity) == ("continue", ALBUM)
        assert event.worker_id == handler.worker_id
        assert event.consumer_id is None
    assert started.started_at == began
    assert started.step_types == ["step", "nobody"]
    assert completed.flow_duration == 7.0
    assert (completed.steps_succeeded, completed.steps_failed) == (2, 2)


async def test_a_flow_of_a_task_names_its_consumer_and_is_told_when_that_settles(
    flows: FlowEngines,
) -> None:
    diary, before = FlowDiary(), []

    async def starts(task: Task[Any], actions: Any) -> None:
        actions.start_flow(steps_of(1), join=JOIN)
        before.append(told(diary))
        actions.success(task)

    handler = flows.handler(
        {"work": single(starts), "step": single(Runs()), "join": single(Joins())}, diary=diary
    )
    await handler.add_tasks([make_task()])
    await finish(handler)
    assert before == [[]]
    assert told(diary) == ["on_flow_started", "on_flow_completed"]
    [started] = diary.of("on_flow_started")
    assert started.consumer_id == f"{handler.worker_id}:q"


@workers
async def test_an_abort_is_told_with_the_step_that_did_it(flows: FlowEngines) -> None:
    diary = FlowDiary()
    handler = flows.flow_handler(Joins(), diary=diary)
    steps = [*steps_of(1, "bad"), FlowStep("step", "elsewhere", 2)]
    flow_id = await handler.start_flow(steps, join=JOIN, failure_policy="abort")
    await flows.pass_time(2)
    await finish(handler)
    assert told(diary) == ["on_flow_started", "on_flow_aborted"]
    [event] = diary.of("on_flow_aborted")
    assert (event.trigger_step_index, event.steps_completed, event.flow_duration) == (1, 2, 2.0)
    [cancelled] = diary.of("on_task_cancelled")
    assert (cancelled.task_id, cancelled.reason) == (step_id(flow_id, 2), "flow_aborted")


@workers
async def test_a_time_out_is_told(flows: FlowEngines) -> None:
    diary = FlowDiary()
    handler = flows.flow_handler(Joins(), diary=diary)
    steps = [*steps_of(1), FlowStep("step", "elsewhere", 2)]
    await handler.start_flow(steps, join=JOIN, timeout=30)
    await finish(handler)
    await flows.pass_time(31)
    await finish(handler)
    assert told(diary) == ["on_flow_started", "on_flow_timed_out"]
    [event] = diary.of("on_flow_timed_out")
    assert (event.steps_completed, event.flow_duration) == (1, 31.0)
    assert [event.reason for event in diary.of("on_task_cancelled")] == ["flow_timeout"]


@workers
async def test_a_flow_that_ends_by_a_cancellation_is_told(flows: FlowEngines) -> None:
    diary = FlowDiary()
    handler = flows.flow_handler(Joins(), diary=diary)
    flow_id = await handler.start_flow(steps_of(1), join=JOIN)
    await handler.cancel_tasks([step_id(flow_id, 0)], reason="no")
    assert told(diary) == ["on_flow_started", "on_flow_completed"]
    [event] = diary.of("on_flow_completed")
    assert (event.steps_succeeded, event.steps_failed) == (0, 1)


async def test_a_provider_that_raises_harms_nothing(
    flows: FlowEngines, caplog: pytest.LogCaptureFixture
) -> None:
    class Bad(FlowDiary):
        def on_flow_started(self, event: Any) -> None:
            raise RuntimeError("no")

        async def on_flow_completed(self, event: Any) -> None:
            raise RuntimeError("no")

    joins = Joins()
    handler = flows.flow_handler(joins, flow_lifecycle_provider=Bad())
    await handler.start_flow(steps_of(1), join=JOIN)
    await finish(handler)
    await handler.close()
    assert joins.outcomes == [[1]]
    assert "Bad.on_flow_started" in caplog.text
    assert "Bad.on_flow_completed" in caplog.text


# 9.8


@pytest.mark.parametrize("way", ["outside", "actions", "handler"])
async def test_9_8_the_entity_of_a_flow_is_processing_then_executed(
    flows: FlowEngines, way: str
) -> None:
    told, ids = Told(), []

    async def starts(task: Task[Any], actions: Any) -> None:
        if way == "actions":
            ids.append(actions.start_flow(steps_of(1, 2), join=JOIN, entity=ALBUM))
        else:
            ids.append(await handler.start_flow(steps_of(1, 2), join=JOIN, entity=ALBUM))
        actions.success(task)

    handler = flows.handler(
        {"work": single(starts), "step": parallel(Runs()), "join": single(Joins())},
        entity_projections=told,
    )
    if way == "outside":
        ids.append(await handler.start_flow(steps_of(1, 2), join=JOIN, entity=ALBUM))
    else:
        await handler.add_tasks([make_task()])
    await finish(handler)
    [flow_id] = ids
    assert told.of(flow_id) == ["processing", "executed"]
    row = told.last[flow_id]
    assert (row.entity_id, row.entity_type, row.task_type, row.queue_id) == (
        "a_1",
        "album",
        "join",
        "q",
    )
    assert row.result == 2  # what the join returned
    assert set(told.last) == {flow_id}  # steps carry no entity of the flow


async def test_9_8_processing_is_told_before_a_step_can_run(flows: FlowEngines) -> None:
    class Looks(Told):
        async def upsert_projections(self, entries: Any) -> None:
            if any(row.status in ("scheduled", "processing") for row in entries):
                there.append(len(await flows.by_type("step")))
            await super().upsert_projections(entries)

    there: list[int] = []
    handler = flows.handler({"work": single(_starts)}, entity_projections=Looks())
    await handler.start_flow(steps_of(1, 2), join=JOIN, entity=ALBUM)
    await handler.add_tasks([make_task()])
    await finish(handler)
    assert there == [0, 2]  # none of the first flow's, and only those when the second one began


async def _starts(task: Task[Any], actions: Any) -> None:
    actions.start_flow(steps_of(1, 2), join=JOIN, entity=ALBUM)
    actions.success(task)


async def test_9_8_rows_are_kept_by_the_engine_too(flows: FlowEngines) -> None:
    handler = flows.flow_handler(Joins())
    flow_id = await handler.start_flow(steps_of(1), join=JOIN, entity=ALBUM)
    if flows.kind != "inline":
        assert await flows.row_status(flow_id) == ("processing", None)
    await finish(handler)
    assert await flows.row_status(flow_id) == ("executed", None)


async def test_9_8_it_fails_when_the_join_does_for_good(flows: FlowEngines) -> None:
    told = Told()

    async def join(task: Task[Any], actions: Any) -> None:
        actions.fail(task, "could not be published")

    retried = single(join, retry_policy=lambda task, _: None if task.retry_count else 0.0)
    for projections in (told, flows.projections):
        handler = flows.handler(
            {"step": single(Runs()), "join": retried}, entity_projections=projections
        )
        flow_id = await handler.start_flow(steps_of(1), join=JOIN, entity=ALBUM)
        await finish(handler)
        row = (await projections.get([flow_id]))[0]
        assert (row.status, row.error) == ("failed", "could not be published")
    assert sorted(told.of(flow) for flow in told.last) == [["processing", "failed"]]


@workers
@pytest.mark.parametrize("way", ["abort", "timeout", "cancelled step"])
@pytest.mark.parametrize("own", [True, False])
async def test_9_8_it_fails_at_once_when_the_flow_ends_early(
    flows: FlowEngines, way: str, own: bool
) -> None:
    projections = flows.projections if own else Told()
    types = {"step": parallel(_works), "join": single(Joins())}
    starter = flows.handler({"step": types["step"]}, entity_projections=projections)
    later = FlowStep("step", "elsewhere", 1)
    first = steps_of("bad" if way == "abort" else 1)[0]
    timeout = 10 if way == "timeout" else None
    policy: Any = "continue" if way == "timeout" else "abort"
    flow_id = await starter.start_flow(
        [first, later], join=JOIN, failure_policy=policy, timeout=timeout, entity=ALBUM
    )
    if way == "cancelled step":
        await starter.cancel_tasks([step_id(flow_id, 1)], reason="no")
    else:
        await starter.process_batch("q", 1)
    await flows.pass_time(11)
    await starter.move_mature_tasks()
    if way == "timeout":
        assert (await starter.process_batch("q", 1)).succeeded == 1
    error = "flow_timeout" if way == "timeout" else "flow_aborted"
    [row] = await projections.get([flow_id])
    assert (row.status, row.error) == ("failed", error)
    assert [task.status.terminal for task in await flows.by_type("join")] == [False]
    await finish(flows.handler(types, entity_projections=projections))
    [row] = await projections.get([flow_id])
    assert (row.status, row.error) == ("failed", error)  # and never back


async def _works(task: Task[Any], actions: Any) -> None:
    actions.fail(task, "spoiled") if task.payload == "bad" else actions.success(task)


@workers
async def test_9_8_steps_on_entities_of_their_own_have_their_own_rows(flows: FlowEngines) -> None:
    for told in (Told(), flows.projections):
        handler = flows.flow_handler(Joins(), entity_projections=told)
        steps = [
            FlowStep("step", "q", "good", USER),
            FlowStep("step", "q", "bad", USER),
            FlowStep("step", "elsewhere", "later", USER),
        ]
        flow_id = await handler.start_flow(steps, join=JOIN, failure_policy="abort", entity=ALBUM)
        ids = [step_id(flow_id, index) for index in range(3)]
        waiting = await told.get(ids)
        assert [(row.status, row.entity_id) for row in waiting] == [("scheduled", "u_1")] * 3
        await finish(handler)
        assert [(row.status, row.error) for row in await told.get([*ids, flow_id])] == [
            ("executed", None),
            ("failed", "spoiled"),
            ("failed", "cancelled: flow_aborted"),
            ("failed", "flow_aborted"),
        ]


async def test_events_come_in_the_default_mode_too(flows: FlowEngines) -> None:
    diary, joins = FlowDiary(), Joins()
    config = LifecycleConfig(mode="async")
    handler = flows.flow_handler(joins, diary=diary, lifecycle=config)
    await asyncio.gather(*(handler.start_flow(steps_of(n), join=JOIN) for n in range(5)))
    await finish(handler)
    await handler.close()
    assert len(diary.of("on_flow_started")) == len(diary.of("on_flow_completed")) == 5
