"""What a type checker says about steps and joins. The marked lines it must refuse."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, assert_type

from taskloom.actions import ExecutorActions
from taskloom.app import Loom
from taskloom.flows import FlowResults, FlowStep
from taskloom.task import EntityRef, FlowJoin, Task

loom = Loom("memory://")


@dataclass
class Row:
    id: int


@loom.task
async def resize(path: str, width: int = 800) -> None: ...


@loom.task(handoff_after=30)
async def audit(task: Task[Any], actions: ExecutorActions, what: str) -> None: ...


@loom.task
def backwards(actions: ExecutorActions, task: Task[Any], what: str) -> None: ...


@loom.task
def with_task(task: Task[Any], count: int) -> None: ...


@loom.task
def with_actions(actions: ExecutorActions, count: int) -> None: ...


@loom.task(batch=10)
async def insert(tasks: list[Task[Row]], actions: ExecutorActions) -> None: ...


@loom.task
async def publish(results: FlowResults, loud: bool = False) -> int:
    return len(results.steps)


def steps() -> None:
    assert_type(resize.step("a.png"), FlowStep)
    resize.step(path="a.png", width=3)
    audit.step("x")
    backwards.step("x")
    with_task.step(1)
    with_actions.step(count=1)
    assert_type(insert.step(Row(1)), FlowStep)
    assert_type(resize.with_(entity=EntityRef("a_1", "album")).step("a.png"), FlowStep)
    insert.with_(entity=EntityRef("a_1", "album")).step(Row(1))


def refused_steps() -> None:
    resize.step(1)  # E: [arg-type]
    resize.step()  # E: [call-arg]
    resize.step("a.png", height=3)  # E: [call-arg]
    audit.step(1)  # E: [call-overload]
    backwards.step()  # E: [call-overload]
    with_task.step("x")  # E: [call-overload]
    with_actions.step("x")  # E: [call-overload]
    insert.step(1)  # E: [arg-type]
    resize.with_(entity=None).step(1)  # E: [arg-type]
    resize.with_(entity="a_1")  # E: [arg-type]


async def flows(results: FlowResults) -> None:
    assert_type(publish.join(), FlowJoin)
    assert_type(await publish(results), int)
    start = [resize.step("a.png"), insert.step(Row(1))]
    assert_type(await loom.start_flow(start, join=publish.join()), str)
    await loom.start_flow(start, join=publish.join(), failure_policy="abort", timeout=60)
    await loom.start_flow(start, join=publish)  # E: [arg-type]
    await loom.start_flow(start, join=publish.join(), failure_policy="stop")  # E: [arg-type]
    await loom.start_flow([Row(1)], join=publish.join())  # E: [list-item]
    publish.join(results)  # E: [call-arg]


loom.task(batch=3, handoff_after=3)  # E: [call-overload]
