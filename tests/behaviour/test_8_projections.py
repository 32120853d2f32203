"""SPEC 8: what becomes of tasks on entities, on every route and by every end."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from flowing import WORKERS, FlowEngines, Told, work_or_fail
from msgspec import UNSET

from harness import (
    PATIENCE,
    QUEUE,
    TYPE,
    Runs,
    make_task,
    multi,
    parallel,
    serving,
    single,
    until,
)
from taskloom import (
    EntityRef,
    EntityTaskProjection,
    StorageUnavailableError,
    Task,
    TaskHandler,
)

USER = EntityRef("u_1", "user")
ORDER = EntityRef("o_1", "order")
workers = pytest.mark.parametrize("flows", WORKERS, indirect=True)


async def finish(handler: TaskHandler) -> None:
    await handler.drain(PATIENCE)


def on_user(payload: Any = None, **fields: Any) -> Task[Any]:
    return make_task(payload, entity=USER, **fields)


# 8.1


@pytest.mark.parametrize("stored", [True, False])
async def test_8_1_a_task_is_scheduled_processing_executed(
    flows: FlowEngines, stored: bool
) -> None:
    told = Told()
    handler = flows.handler({TYPE: parallel(Runs())}, entity_projections=told)
    good, none = on_user([1], force_store=stored), make_task(2, force_store=stored)
    await handler.add_tasks([good, none])
    await finish(handler)
    assert told.of(good.id) == ["scheduled", "processing", "executed"]
    assert set(told.last) == {good.id}
    row = told.last[good.id]
    assert (row.entity_id, row.entity_type, row.task_type, row.queue_id) == (
        "u_1",
        "user",
        TYPE,
        QUEUE,
    )
    assert (row.result, row.error, row.payload) == ([1], None, UNSET)
    assert row.created_at == good.created_at
    assert row.updated_at == flows.clock.now()


async def test_8_1_engines_that_keep_rows_have_them(flows: FlowEngines) -> None:
    handler = flows.handler({TYPE: parallel(work_or_fail)})
    tasks = await handler.add_tasks([on_user("good"), on_user("bad"), make_task("no entity")])
    if flows.kind != "inline":
        rows = [await flows.row_status(task.id) for task in tasks]
        assert rows == [("scheduled", None), ("scheduled", None), None]
    await finish(handler)
    rows = [await flows.row_status(task.id) for task in tasks]
    assert rows == [("executed", None), ("failed", "spoiled"), None]
    of_user = await flows.projections.of_entity(USER)
    assert {row.task_id for row in of_user} == {task.id for task in tasks[:2]}
    executed = await flows.row(tasks[0].id)
    assert executed is not None
    assert executed.result == "good"


@workers
async def test_8_1_a_future_task_is_scheduled_when_it_is_added(flows: FlowEngines) -> None:
    told = Told()
    handler = flows.handler({TYPE: single(Runs())}, entity_projections=told)
    [task] = await handler.add_tasks([on_user(execute_at=flows.clock.now() + timedelta(hours=1))])
    assert told.of(task.id) == ["scheduled"]
    await flows.pass_time(3601)
    await finish(handler)
    assert told.of(task.id) == ["scheduled", "processing", "executed"]


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("how", ["actions", "handler", "multi"])
async def test_8_1_children_are_projected_like_any_task(
    flows: FlowEngines, how: str, own: bool
) -> None:
    told = flows.projections if own else Told()
    children: list[Task[Any]] = []

    async def spawn(given: Any, actions: Any) -> None:
        task = given if isinstance(given, Task) else given[0]
        children.extend([on_user(1, type="child"), on_user(2, type="child")])
        if how == "handler":
            await handler.add_tasks(children)
        else:
            actions.add_tasks(children)
        actions.success(task)

    kind = multi if how == "multi" else single
    handler = flows.handler(
        {TYPE: kind(spawn), "child": single(Runs(), default_retries=0)}, entity_projections=told
    )
    stop_at = flows.handler({TYPE: kind(spawn)}, entity_projections=told)
    await (handler if flows.kind == "inline" else stop_at).add_tasks([on_user()])
    if flows.kind != "inline":
        await stop_at.process_batch(QUEUE, 1)
        rows = await told.get([child.id for child in children])
        assert [row.status for row in rows] == ["scheduled", "scheduled"]
    await finish(handler)
    rows = await told.get([child.id for child in children])
    assert [(row.status, row.result) for row in rows] == [("executed", 1), ("executed", 2)]
    if not own:
        assert [told.of(child.id) for child in children] == [
            ["scheduled", "processing", "executed"]
        ] * 2


@workers
async def test_8_1_retries_project_nothing(flows: FlowEngines) -> None:
    told = Told()

    async def third_time(task: Task[Any], actions: Any) -> None:
        actions.fail(task, "not yet") if task.retry_count < 2 else actions.success(task, "ok")

    handler = flows.handler({TYPE: single(third_time)}, entity_projections=told)
    [task] = await handler.add_tasks([on_user(retries=2, retry_after=0)])
    await handler.process_batch(QUEUE, 1)
    assert told.of(task.id) == ["scheduled", "processing"]
    await finish(handler)
    assert told.of(task.id) == ["scheduled", "processing", "executed"]
    assert told.last[task.id].result == "ok"


@pytest.mark.parametrize("kept", [True, False])
async def test_8_1_retries_used_up_or_discarded_is_failed(flows: FlowEngines, kept: bool) -> None:
    for told in (Told(), flows.projections):
        work = single(work_or_fail, store_on_failure=kept)
        handler = flows.handler({TYPE: work}, entity_projections=told)
        [task] = await handler.add_tasks([on_user("bad", retries=1, retry_after=0)])
        await finish(handler)
        [row] = await told.get([task.id])
        assert (row.status, row.error, row.result) == ("failed", "spoiled", UNSET)


@pytest.mark.parametrize("how", ["ignored", "expired"])
async def test_8_3_what_never_runs_is_failed_with_the_reason(flows: FlowEngines, how: str) -> None:
    told = Told()
    handler = flows.handler({TYPE: single(Runs())}, entity_projections=told)
    if how == "ignored":
        task = on_user(type="nobody", force_store=True)
    else:
        task = on_user(expires_at=flows.clock.now() - timedelta(seconds=1))
    await handler.add_tasks([task])
    await finish(handler)
    assert told.of(task.id) == ["scheduled", "failed"]
    reason = {"ignored": "ignored: no executor is registered", "expired": "expired"}[how]
    assert told.last[task.id].error == reason


@workers
async def test_8_3_poison_is_failed_with_the_reason(flows: FlowEngines) -> None:
    told = Told()
    handler = flows.handler({TYPE: single(Runs())}, entity_projections=told, max_deliveries=1)
    [task] = await handler.add_tasks([on_user()])
    assert len(await flows.queue.claim(QUEUE, 1, lease=1)) == 1
    await flows.pass_time(2)
    await finish(handler)
    assert told.of(task.id) == ["scheduled", "failed"]
    assert "delivered 2 times" in str(told.last[task.id].error)


@workers
async def test_8_3_a_cancelled_task_is_failed_with_the_reason(flows: FlowEngines) -> None:
    for told in (Told(), flows.projections):
        handler = flows.handler({TYPE: single(Runs())}, entity_projections=told)
        [task] = await handler.add_tasks([on_user(force_store=True)])
        assert await handler.cancel_tasks([task.id], reason="withdrawn") == [task.id]
        await finish(handler)
        [row] = await told.get([task.id])
        assert (row.status, row.error) == ("failed", "cancelled: withdrawn")
        if isinstance(told, Told):
            # Again when the queue beside the storage delivers it, to nobody.
            assert told.of(task.id)[:2] == ["scheduled", "failed"]
            assert set(told.of(task.id)[2:]) <= {"failed"}


@workers
async def test_8_1_a_run_that_was_released_is_not_at_its_end(flows: FlowEngines) -> None:
    told, entered = Told(), asyncio.Event()

    async def hangs(task: Task[Any], actions: Any) -> None:
        entered.set()
        await asyncio.Event().wait()

    handler = flows.handler({TYPE: single(hangs)}, entity_projections=told)
    [task] = await handler.add_tasks([on_user()])
    work = asyncio.create_task(handler.process_batch(QUEUE, 1))
    await until(entered)
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)
    assert told.of(task.id) == ["scheduled", "processing"]
    await flows.pass_time(2)
    await finish(flows.handler({TYPE: single(Runs())}, entity_projections=told))
    assert told.last[task.id].status == "executed"


async def test_8_1_a_task_that_reschedules_itself_is_not_at_its_end(flows: FlowEngines) -> None:
    told = Told()

    async def again(task: Task[Any], actions: Any) -> None:
        if task.payload == 1:
            actions.add_tasks([task.replace(payload=2)])
        else:
            actions.success(task, "done")

    handler = flows.handler({TYPE: single(again)}, entity_projections=told)
    [task] = await handler.add_tasks([on_user(1)])
    await finish(handler)
    assert [status for status in told.of(task.id) if status != "processing"] == [
        "scheduled",
        "executed",
    ]


# 8.2


async def test_8_2_one_call_for_a_settled_batch(flows: FlowEngines) -> None:
    told = Told()
    handler = flows.handler({TYPE: parallel(work_or_fail)}, entity_projections=told)
    tasks = [
        *(on_user(n) for n in range(20)),
        make_task("none"),
        on_user("bad"),
        on_user(type="nobody"),
        make_task(3, entity=ORDER),
    ]
    await handler.add_tasks(tasks)
    if flows.kind != "inline":
        await handler.process_batch(QUEUE, 100)
    calls = [sorted({row.status for row in call}) for call in told.calls]
    assert calls[0] == ["scheduled"]
    assert calls[1] == ["processing"]
    ends = [call for call in told.calls if call[0].status in ("executed", "failed")]
    assert sum(len(call) for call in ends) == 23
    # A task without an executor ends a moment before those that run.
    assert len(ends) <= 2


@workers
async def test_8_2_one_call_for_a_call_on_many(flows: FlowEngines) -> None:
    told = Told()

    async def together(tasks: Sequence[Task[Any]], actions: Any) -> None:
        for task in tasks:
            await work_or_fail(task, actions)

    handler = flows.handler({TYPE: multi(together)}, entity_projections=told)
    await handler.add_tasks([on_user(n) for n in (1, "bad", 2)])
    await handler.process_batch(QUEUE, 10)
    assert [sorted(row.status for row in call) for call in told.calls] == [
        ["scheduled"] * 3,
        ["processing"] * 3,
        ["executed", "executed", "failed"],
    ]


async def test_8_2_tasks_without_an_entity_cause_no_call(flows: FlowEngines) -> None:
    told = Told()
    handler = flows.handler({TYPE: parallel(work_or_fail)}, entity_projections=told)
    await handler.add_tasks([make_task(n) for n in range(50)])
    await finish(handler)
    assert told.calls == []


# 8.3, 2.4


@pytest.mark.parametrize("wanted", [True, False])
async def test_8_3_the_payload_is_there_when_it_was_asked_for(
    flows: FlowEngines, wanted: bool
) -> None:
    told = Told()
    handler = flows.handler(
        {TYPE: single(Runs())}, entity_projections=told, projection_include_payload=wanted
    )
    [task] = await handler.add_tasks([on_user({"a": [1]})])
    await finish(handler)
    payloads = [row.payload for call in told.calls for row in call if row.task_id == task.id]
    assert payloads == [{"a": [1]} if wanted else UNSET] * 3


@workers
async def test_8_3_the_first_terminal_status_stays(flows: FlowEngines) -> None:
    handler = flows.handler({TYPE: single(work_or_fail)})
    [task] = await handler.add_tasks([on_user("bad", force_store=True)])
    await finish(handler)
    assert await flows.row_status(task.id) == ("failed", "spoiled")
    good = flows.handler({TYPE: single(Runs())})
    assert await good.retry_tasks([task.id]) == [task.id]
    await finish(good)
    assert await flows.row_status(task.id) == ("failed", "spoiled")
    await good.add_tasks([on_user("again", id=task.id)])
    assert await flows.row_status(task.id) == ("failed", "spoiled")


@workers
async def test_2_4_a_known_id_is_not_scheduled_again(flows: FlowEngines) -> None:
    told = Told()
    handler = flows.handler({TYPE: single(Runs())}, entity_projections=told)
    [task] = await handler.add_tasks([on_user(1, force_store=True)])
    await finish(handler)
    await handler.add_tasks([on_user(1, force_store=True, id=task.id)])
    await finish(handler)
    assert told.of(task.id) == ["scheduled", "processing", "executed"]


@pytest.mark.parametrize("way", ["added", "children"])
async def test_2_4_scheduled_is_told_before_a_worker_can_have_it(
    flows: FlowEngines, way: str
) -> None:
    class Looks(Told):
        async def upsert_projections(self, entries: Sequence[EntityTaskProjection]) -> None:
            if entries[0].status == "scheduled":
                waiting.append(await flows.queue.depth("children"))
            await super().upsert_projections(entries)

    async def spawn(task: Task[Any], actions: Any) -> None:
        actions.add_tasks([on_user(queue_id="children")])
        actions.success(task)

    waiting: list[int] = []
    handler = flows.handler({TYPE: single(spawn)}, entity_projections=Looks())
    new = make_task() if way == "children" else on_user(queue_id="children")
    await handler.add_tasks([new])
    await finish(handler)
    assert waiting == [0]


@pytest.mark.parametrize("stored", [True, False])
async def test_2_4_scheduled_comes_first_however_quick_the_worker_is(
    engines: Any, stored: bool
) -> None:
    told = Told()
    handler = engines.handler({TYPE: parallel(Runs())}, entity_projections=told)
    async with serving(handler):
        tasks = [on_user(n, force_store=stored) for n in range(20)]
        await asyncio.gather(*(handler.add_tasks([task]) for task in tasks))
        await told.calls.reach(1, lambda _: len(told.last) == 20 and _all_over(told))
    assert {tuple(told.of(task.id)) for task in tasks} == {("scheduled", "processing", "executed")}


def _all_over(told: Told) -> bool:
    return all(row.status == "executed" for row in told.last.values())


@pytest.mark.parametrize("flows", ["memory", "separate"], indirect=True)
async def test_2_4_what_the_storage_refuses_was_never_scheduled(flows: FlowEngines) -> None:
    told, parts = Told(), flows.meddled()
    handler = flows.handler({TYPE: single(Runs())}, entity_projections=told, parts=parts)
    parts.fail("storage.add")
    with pytest.raises(StorageUnavailableError):
        await handler.add_tasks([on_user(force_store=True)])
    assert told.calls == []


@workers
async def test_8_1_without_projections_nothing_changes(flows: FlowEngines) -> None:
    runs = Runs()
    handler = flows.handler({TYPE: single(runs)}, entity_projections=None)
    [task] = await handler.add_tasks([on_user(1)])
    await finish(handler)
    assert runs.payloads == [1]
    assert await flows.row(task.id) is None
