"""SPEC 8.2, FAULTS D12 and I10: providers that raise, hang or are slow, and tasks that go on."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import pytest
from flowing import ALBUM, JOIN, FlowEngines, Joins, Told, steps_of, work_or_fail
from msgspec.structs import replace

from harness import (
    PATIENCE,
    QUEUE,
    TYPE,
    Engines,
    Runs,
    make_task,
    parallel,
    serving,
    single,
    until,
)
from taskloom import EntityRef, EntityTaskProjection, Task, TaskHandler, TaskStatus, projector
from taskloom.interfaces import EntityProjections
from taskloom.memory import InMemoryProjections

USER = EntityRef("u_1", "user")
TYPES = {TYPE: parallel(work_or_fail)}


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A provider is given up quickly."""
    monkeypatch.setattr(projector, "PROVIDER_LIMIT", 0.05)


async def finish(handler: TaskHandler) -> None:
    await handler.drain(PATIENCE)


def on_user(payload: Any = None, **fields: Any) -> Task[Any]:
    return make_task(payload, entity=USER, force_store=True, **fields)


class Raises(EntityProjections):
    """Fails on every call."""

    def __init__(self, error: BaseException) -> None:
        self.error = error
        self.calls = 0

    async def upsert_projections(self, entries: Sequence[EntityTaskProjection]) -> None:
        self.calls += 1
        raise self.error


class Hangs(Told):
    """Hangs until `gate` opens; `deaf` ones do not even end when they are cancelled."""

    def __init__(self, *, deaf: bool) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.deaf = deaf

    async def upsert_projections(self, entries: Sequence[EntityTaskProjection]) -> None:
        while not self.gate.is_set():
            try:
                await self.gate.wait()
            except asyncio.CancelledError:
                if not self.deaf:
                    raise
        await super().upsert_projections(entries)


@pytest.mark.parametrize(
    "error", [ValueError("no"), SystemExit(1), KeyboardInterrupt(), asyncio.CancelledError()]
)
async def test_8_2_a_provider_that_raises_is_told_of_once_and_the_tasks_go_on(
    flows: FlowEngines, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    provider, joins = Raises(error), Joins()
    executors = TYPES | {"step": parallel(work_or_fail), "join": single(joins)}
    handler = flows.handler(executors, entity_projections=provider)
    tasks = await handler.add_tasks([on_user(1), on_user("bad")])
    await handler.start_flow(steps_of(1, "bad"), join=JOIN, entity=ALBUM)
    await finish(handler)
    statuses = [task.status for task in await handler.get_tasks([task.id for task in tasks])]
    assert statuses == [TaskStatus.EXECUTED, TaskStatus.FAILED]
    assert joins.outcomes == [[1, "spoiled"]]
    assert provider.calls > 3
    assert caplog.text.count("Raises failed on") == 1


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("deaf", [False, True])
async def test_d12_a_provider_that_hangs_holds_up_nothing(
    flows: FlowEngines, deaf: bool, caplog: pytest.LogCaptureFixture
) -> None:
    provider, joins = Hangs(deaf=deaf), Joins()
    executors = TYPES | {"step": parallel(work_or_fail), "join": single(joins)}
    handler = flows.handler(executors, entity_projections=provider)
    tasks = await handler.add_tasks([on_user(n) for n in range(20)])
    await handler.start_flow(steps_of(1, 2), join=JOIN, entity=ALBUM)
    await finish(handler)
    found = await handler.get_tasks([task.id for task in tasks])
    assert {task.status for task in found} == {TaskStatus.EXECUTED}
    assert joins.outcomes == [[1, 2]]
    provider.gate.set()
    await handler.close()
    assert caplog.text.count("Hangs failed on") == 1


@pytest.mark.usefixtures("impatient")
async def test_d12_a_plain_function_that_blocks_holds_up_nothing(engines: Engines) -> None:
    gate, calls = threading.Event(), []

    class Blocks(EntityProjections):
        def upsert_projections(self, entries: Any) -> None:  # type: ignore[override]
            calls.append(len(entries))
            gate.wait(PATIENCE)

    handler = engines.handler(TYPES, entity_projections=Blocks())
    try:
        tasks = await handler.add_tasks([on_user(n) for n in range(20)])
        await finish(handler)
        assert {await engines.status(task) for task in tasks} == {TaskStatus.EXECUTED}
    finally:
        gate.set()
    await handler.close()
    assert calls


@pytest.mark.usefixtures("impatient")
async def test_d12_it_is_told_again_when_it_answers_again(
    engines: Engines, caplog: pytest.LogCaptureFixture
) -> None:
    provider = Hangs(deaf=False)
    handler = engines.handler(TYPES, entity_projections=provider)
    await handler.add_tasks([on_user(1)])
    await finish(handler)
    provider.gate.set()
    [task] = await handler.add_tasks([on_user(2)])
    await finish(handler)
    await handler.close()
    assert provider.of(task.id)[-1] == "executed"
    assert "works again" in caplog.text


async def test_d12_closing_the_handler_waits_for_what_was_handed_over(engines: Engines) -> None:
    entered, slow = asyncio.Event(), asyncio.Event()

    class Slow(Told):
        async def upsert_projections(self, entries: Sequence[EntityTaskProjection]) -> None:
            entered.set()
            await slow.wait()
            await super().upsert_projections(entries)

    provider = Slow()
    handler = engines.handler(TYPES, entity_projections=provider)
    task = on_user(1)
    adding = asyncio.create_task(handler.add_tasks([task]))
    await until(entered)
    adding.cancel()
    await asyncio.gather(adding, return_exceptions=True)
    assert provider.calls == []
    asyncio.get_running_loop().call_later(0.05, slow.set)
    await handler.close()
    assert provider.of(task.id) == ["scheduled"]


class Shuffled(EntityProjections):
    """Writes calls down in the reverse of their order, each of them twice."""

    def __init__(self) -> None:
        self.kept: list[Sequence[EntityTaskProjection]] = []
        self.inner = InMemoryProjections()

    async def upsert_projections(self, entries: Sequence[EntityTaskProjection]) -> None:
        self.kept.append(entries)

    async def settle(self) -> None:
        for entries in [*reversed(self.kept), *reversed(self.kept)]:
            await self.inner.upsert_projections(list(reversed(entries)))


async def test_i10_late_and_out_of_order_never_goes_back(flows: FlowEngines) -> None:
    provider = Shuffled()
    executors = TYPES | {"step": parallel(work_or_fail), "join": single(Joins())}
    handler = flows.handler(executors, entity_projections=provider)
    tasks = await handler.add_tasks([on_user(1), on_user("bad")])
    flow_id = await handler.start_flow(
        steps_of("bad", 2), join=JOIN, failure_policy="abort", entity=ALBUM
    )
    await finish(handler)
    await provider.settle()
    rows = await provider.inner.get([*(task.id for task in tasks), flow_id])
    assert [(row.status, row.error) for row in rows] == [
        ("executed", None),
        ("failed", "spoiled"),
        ("failed", "flow_aborted"),
    ]


async def test_i10_rows_of_a_late_worker_change_nothing(flows: FlowEngines) -> None:
    handler = flows.handler(TYPES)
    [task] = await handler.add_tasks([on_user(1)])
    await finish(handler)
    row = await flows.row(task.id)
    assert row is not None
    late = [
        replace(row, status="scheduled"),
        replace(row, status="processing"),
        replace(row, status="failed", error="late"),
    ]
    for entry in late:
        await flows.projections.upsert_projections([entry])
    assert await flows.row(task.id) == row


async def test_8_2_many_workers_many_batches_each_task_its_rows(engines: Engines) -> None:
    told = Told()
    handlers = [engines.handler({TYPE: parallel(Runs())}, entity_projections=told) for _ in "ab"]
    tasks = await handlers[0].add_tasks([on_user(n) for n in range(200)])
    async with serving(handlers[0]), serving(handlers[1]):
        await told.calls.reach(
            1, lambda _: len(told.last) == 200 and {r.status for r in told.last.values()} == DONE
        )
    assert {told.of(task.id)[-1] for task in tasks} == DONE
    assert all(len(told.of(task.id)) == 3 for task in tasks)
    assert await engines.queue.depth(QUEUE) == 0


DONE = {"executed"}
