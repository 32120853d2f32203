"""SPEC 1.1: every task has an id, and what follows from a task has one that follows too."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

from harness import (
    QUEUE,
    TYPE,
    Engines,
    Notes,
    Runs,
    make_task,
    multi,
    parallel,
    single,
)
from taskloom import Task, TaskHandler

# 1.1 ids


def test_1_1_a_task_has_a_uuid7_from_the_moment_it_is_made() -> None:
    before, after = make_task(), make_task()
    assert uuid.UUID(before.id).version == 7
    assert before.id < after.id


async def test_1_1_an_id_given_explicitly_stays(engines: Engines) -> None:
    runs = Runs()

    async def parent(task: Task[Any], actions: Any) -> None:
        actions.add_tasks([make_task("child", id="mine")])
        actions.success(task)

    handler = engines.handler({TYPE: single(runs), "parent": single(parent)})
    await handler.add_tasks([make_task(type="parent", id="also-mine")])
    await handler.drain(10)
    assert [task.id for task in runs] == ["mine"]


class Interrupted:
    """A parent whose runs never end by themselves: each is taken away and run again."""

    def __init__(self, add: Any) -> None:
        self.made: Notes[list[str]] = Notes()
        self.add = add

    async def __call__(self, task: Task[Any], actions: Any) -> None:
        self.made.note(await self.add(task, actions, len(self.made)))
        await asyncio.Event().wait()

    async def run(self, handler: TaskHandler, times: int = 2) -> list[list[str]]:
        """Start it so many times; the ids it made in each run."""
        await handler.add_tasks([make_task("p", type="parent")])
        for number in range(times):
            work = asyncio.create_task(handler.process_batch(QUEUE))
            await self.made.reach(number + 1)
            work.cancel()
            await asyncio.wait([work])
        return list(self.made)


def _children(count: int = 3) -> list[Task[Any]]:
    return [make_task({"n": n}) for n in range(count)]


async def test_1_1_a_parent_that_runs_again_makes_the_same_ids(engines: Engines) -> None:
    async def add(task: Task[Any], actions: Any, run: int) -> list[str]:
        children = _children()
        actions.add_tasks(children)
        return [child.id for child in children]

    parent = Interrupted(add)
    first, second = await parent.run(engines.handler({"parent": single(parent)}))
    assert first == second
    assert len(set(first)) == 3
    assert {uuid.UUID(id).version for id in first} == {5}


async def test_1_1_ids_do_not_depend_on_the_order_of_different_children(engines: Engines) -> None:
    async def add(task: Task[Any], actions: Any, run: int) -> list[str]:
        numbers = [0, 1, 2] if run == 0 else [2, 0, 1]
        made = {n: make_task({"n": n}).id for n in numbers}
        return [made[n] for n in sorted(made)]

    parent = Interrupted(add)
    first, second = await parent.run(engines.handler({"parent": parallel(parent)}))
    assert first == second


async def test_1_1_equal_children_get_different_ids(engines: Engines) -> None:
    async def add(task: Task[Any], actions: Any, run: int) -> list[str]:
        return [make_task("same").id, make_task("same").id]

    parent = Interrupted(add)
    first, second = await parent.run(engines.handler({"parent": single(parent)}))
    assert first == second
    assert first[0] != first[1]


async def test_1_1_ids_depend_on_type_queue_and_payload(engines: Engines) -> None:
    async def add(task: Task[Any], actions: Any, run: int) -> list[str]:
        return [
            make_task("x").id,
            make_task("y").id,
            make_task("x", type="other").id,
            make_task("x", queue_id="other").id,
        ]

    parent = Interrupted(add)
    (ids,) = await parent.run(engines.handler({"parent": single(parent)}), times=1)
    assert len(set(ids)) == 4


async def test_1_1_ids_are_the_same_through_actions_and_through_the_handler(
    engines: Engines,
) -> None:
    async def add(task: Task[Any], actions: Any, run: int) -> list[str]:
        child = make_task("child")
        if run == 0:
            actions.add_tasks([child])
        else:
            (child,) = await handler.add_tasks([child])
        return [child.id]

    parent = Interrupted(add)
    handler = engines.handler({"parent": single(parent)})
    first, second = await parent.run(handler)
    assert first == second


async def test_1_1_children_added_at_once_are_added_once_when_the_parent_runs_again(
    engines: Engines,
) -> None:
    async def add(task: Task[Any], actions: Any, run: int) -> list[str]:
        tasks = [make_task("child", queue_id="children")]
        return [child.id for child in await handler.add_tasks(tasks)]

    parent, runs = Interrupted(add), Runs()
    handler = engines.handler({"parent": single(parent)})
    await parent.run(handler, times=3)
    children = engines.handler({("children", TYPE): single(runs)})
    await children.drain(10)
    assert runs.payloads == ["child"]


async def test_1_1_a_retry_makes_other_ids(engines: Engines) -> None:
    made: list[str] = []

    async def parent(task: Task[Any], actions: Any) -> None:
        made.append(make_task("child").id)
        actions.fail(task, "again")

    handler = engines.handler({"parent": single(parent)})
    await handler.add_tasks([make_task(type="parent", retries=1, retry_after=0)])
    await handler.drain(10)
    assert len(set(made)) == 2


async def test_1_1_in_a_multi_executor_ids_are_new(engines: Engines) -> None:
    made: list[str] = []

    async def parents(tasks: list[Task[Any]], actions: Any) -> None:
        made.append(make_task("child").id)
        for task in tasks:
            actions.success(task)

    handler = engines.handler({"parent": multi(parents)})
    await handler.add_tasks([make_task(type="parent")])
    await handler.drain(10)
    assert uuid.UUID(made[0]).version == 7


async def test_1_1_in_a_multi_executor_a_named_parent_gives_derived_ids(engines: Engines) -> None:
    runs = Runs()

    async def parents(tasks: list[Task[Any]], actions: Any) -> None:
        for task in tasks:
            actions.add_tasks([make_task("derived"), make_task("own", id="own")], parent=task)
            actions.success(task)

    handler = engines.handler({"parent": multi(parents), TYPE: single(runs)})
    await handler.add_tasks([make_task(type="parent")])
    await handler.drain(10)
    ids = {task.payload: task.id for task in runs}
    assert uuid.UUID(ids["derived"]).version == 5
    assert ids["own"] == "own"


async def test_1_1_a_plain_def_executor_derives_ids_too(engines: Engines) -> None:
    made: list[str] = []

    def parent(task: Task[Any], actions: Any) -> None:
        made.append(make_task("child").id)
        actions.success(task)

    handler = engines.handler({"parent": single(parent)})
    await handler.add_tasks([make_task(type="parent")])
    await handler.drain(10)
    assert uuid.UUID(made[0]).version == 5
