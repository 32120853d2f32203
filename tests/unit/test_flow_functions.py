"""Decorated functions as the steps and the join of a flow."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, cast

import pytest
from msgspec.structs import replace

from taskloom.actions import ExecutorActions
from taskloom.app import Loom
from taskloom.codec import to_builtins
from taskloom.errors import InvalidFlowError, InvalidTaskError
from taskloom.flows import FlowResults, FlowStep, FlowStepResult, flow_results
from taskloom.task import EntityRef, FlowJoin, FlowMeta, Task, TaskMetadata, TaskStatus

RESULTS = FlowResults(
    "f_1",
    [FlowStepResult(0, "success", {"width": 3}), FlowStepResult(1, "fail", error="too large")],
    aborted=True,
)
ALBUM = EntityRef("a_1", "album")


@dataclass
class Row:
    id: int


@pytest.fixture
async def loom() -> AsyncIterator[Loom]:
    async with Loom("memory://") as loom:
        yield loom


def join_task(type: str) -> Task[Any]:
    """What a flow hands over to its join."""
    meta = FlowMeta(
        flow_id="f_1", step_index=-1, total_steps=2, join=FlowJoin(type, "default"), is_join=True
    )
    return Task(
        type=type,
        queue_id="default",
        payload={"flow_results": to_builtins(RESULTS)},
        metadata=TaskMetadata(flow=meta),
        force_store=True,
    )


async def run(loom: Loom, task: Task[Any]) -> Task[Any]:
    """Work until nothing is left; the task as it ended."""
    await loom.add_tasks([task])
    await loom.handler.drain(timeout=5)
    [ended] = await loom.get_tasks([task.id])
    return ended


# Steps.


def test_a_step_is_what_enqueue_would_add(loom: Loom) -> None:
    @loom.task("image.resize", queue="images")
    async def resize(task: Task[Any], row: Row, width: int = 800) -> None: ...

    payload = {"row": {"id": 1}, "width": 800}
    assert resize.step(Row(1)) == FlowStep("image.resize", "images", payload)
    assert resize.step(row=Row(1), width=3).payload == {"row": {"id": 1}, "width": 3}
    assert resize.with_(entity=ALBUM).step(Row(1)) == FlowStep(
        "image.resize", "images", payload, ALBUM
    )


def test_a_step_of_a_batch_function_is_a_row(loom: Loom) -> None:
    @loom.task(batch=10, queue="rows")
    async def insert(tasks: list[Task[Row]], actions: ExecutorActions) -> None: ...

    assert insert.step(Row(1)) == FlowStep("insert", "rows", {"id": 1})
    assert insert.with_(entity=ALBUM).step(Row(1)).entity == ALBUM
    with pytest.raises(TypeError, match=r"^insert\.step\(\): row: expected object, got int$"):
        insert.step(cast(Any, 1))
    with pytest.raises(TypeError, match=r"^insert\.step\(\): a step has no 'delay'"):
        insert.with_(delay=3).step(Row(1))


def test_the_arguments_of_a_step_are_checked_at_once(loom: Loom) -> None:
    @loom.task
    async def resize(path: str) -> None: ...

    wrong = cast(Any, resize)
    with pytest.raises(TypeError, match=r"^resize\.step\(\): argument 'path': expected str, got i"):
        wrong.step(1)
    with pytest.raises(TypeError, match=r"^resize\.step\(\) missing a required argument: 'path'"):
        wrong.step()
    with pytest.raises(InvalidTaskError, match=r"^resize\.step\(\): argument 'path': "):
        resize.step("\ud800")


@pytest.mark.parametrize(
    "options", [{"delay": 1}, {"retries": 0}, {"force_store": False}, {"log_context": {"a": "b"}}]
)
def test_an_option_that_a_step_does_not_have_is_named(loom: Loom, options: Any) -> None:
    @loom.task
    async def resize(path: str) -> None: ...

    [name] = options
    with pytest.raises(
        TypeError, match=rf"^resize\.step\(\): a step has no '{name}'.* only entity$"
    ):
        resize.with_(entity=ALBUM, **options).step("a.png")
    assert resize.with_(entity=ALBUM, **{name: None}).step("a.png").entity == ALBUM


# The join.


def test_a_join_is_a_type_and_a_queue(loom: Loom) -> None:
    @loom.task("album.publish", queue="albums")
    async def publish(
        results: FlowResults, actions: ExecutorActions, loud: bool = False
    ) -> None: ...

    assert publish.join() == FlowJoin("album.publish", "albums")


async def test_the_results_are_injected_and_the_rest_takes_its_defaults(loom: Loom) -> None:
    seen: list[Any] = []

    @loom.task
    async def publish(task: Task[Any], results: FlowResults, *, loud: bool = False) -> int:
        seen.append((task.id, results, loud))
        return len(results.steps)

    task = join_task("publish")
    ended = await run(loom, task)
    assert (ended.status, ended.execution_result) == (TaskStatus.EXECUTED, 2)
    assert seen == [(task.id, RESULTS, False)]


async def test_a_join_may_read_its_results_from_the_task(loom: Loom) -> None:
    @loom.task
    async def publish(task: Task[Any], loud: bool = False) -> list[Any]:
        return [flow_results(task).flow_id, loud]

    assert publish.join() == FlowJoin("publish", "default")
    assert (await run(loom, join_task("publish"))).execution_result == ["f_1", False]


async def test_a_parameter_of_that_name_gets_the_results_as_annotated(loom: Loom) -> None:
    @loom.task
    async def publish(flow_results: dict[str, Any]) -> str:
        return str(flow_results["flow_id"])

    assert publish.join() == FlowJoin("publish", "default")
    assert (await run(loom, join_task("publish"))).execution_result == "f_1"


async def test_only_a_join_may_have_results_that_no_parameter_takes(loom: Loom) -> None:
    @loom.task(retries=0)
    async def work() -> None: ...

    join = join_task("work")
    meta = cast(FlowMeta, join.metadata.flow)
    step = join.replace(metadata=TaskMetadata(flow=replace(meta, step_index=0, is_join=False)))
    ended = await run(loom, step)
    assert ended.status is TaskStatus.FAILED
    assert "argument 'flow_results' is not known" in ended.execution_stats["last_error"]


async def test_a_join_function_has_no_other_door(loom: Loom) -> None:
    @loom.task(retries=0)
    async def publish(results: FlowResults) -> None: ...

    door = cast(Any, publish)
    words = r": it takes FlowResults, so only a flow .* join=publish\.join\(\)\)$"
    with pytest.raises(TypeError, match=rf"^publish\.enqueue\(\){words}"):
        await door.enqueue()
    with pytest.raises(TypeError, match=rf"^publish\.enqueue_many\(\): item 0{words}"):
        await door.enqueue_many([()])
    with pytest.raises(TypeError, match=rf"^publish\.step\(\){words}"):
        door.step()
    ended = await run(loom, Task(type="publish", queue_id="default", payload={}))
    assert ended.status is TaskStatus.FAILED
    assert "is not the join of a flow" in ended.execution_stats["last_error"]


async def test_a_join_has_no_value_for_a_parameter_without_a_default() -> None:
    loom = Loom("memory://")

    @loom.task
    async def resize(path: str, width: int = 3) -> None: ...

    words = (
        r": a join is called with the results of its flow alone: parameter 'path' needs a default$"
    )
    with pytest.raises(TypeError, match=rf"^resize\.join\(\){words}"):
        resize.join()

    @loom.task
    async def publish(results: FlowResults, path: str) -> None: ...

    with pytest.raises(TypeError, match=rf"^publish{words}"):
        await loom.__aenter__()


# A whole flow.


async def test_functions_make_a_flow(loom: Loom) -> None:
    published: list[Any] = []

    @loom.task
    async def double(number: int) -> int:
        return number * 2

    @loom.task(batch=10)
    async def insert(tasks: list[Task[Row]], actions: ExecutorActions) -> None:
        for task in tasks:
            actions.success(task, task.payload.id)

    @loom.task
    async def publish(results: FlowResults) -> None:
        published.append((results.flow_id, [step.result for step in results.steps]))

    steps = [double.step(4), insert.step(Row(7)), double.step(number=5)]
    flow_id = await loom.start_flow(steps, join=publish.join())
    await loom.handler.drain(timeout=5)
    assert published == [(flow_id, [8, 7, 10])]


async def test_the_options_of_a_flow_reach_it(loom: Loom) -> None:
    seen: list[FlowMeta | None] = []

    @loom.task
    async def look(task: Task[Any]) -> None:
        seen.append(task.metadata.flow)

    join = look.join()
    flow_id = await loom.start_flow(
        [look.step()], join=join, failure_policy="abort", timeout=60, entity=ALBUM
    )
    await loom.handler.drain(timeout=5)
    step = FlowMeta(
        flow_id=flow_id,
        step_index=0,
        total_steps=1,
        join=join,
        failure_policy="abort",
        entity=ALBUM,
    )
    assert seen == [step, replace(step, step_index=-1, is_join=True)]
    with pytest.raises(InvalidFlowError, match=r"^timeout"):
        await loom.start_flow([look.step()], join=join, timeout=0)
