"""SqlFlowBarrier beyond what every barrier promises."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, event

from taskloom import wakeups
from taskloom.flows import FlowStep, FlowStepResult, NewFlow, flow_results, new_flow
from taskloom.outcomes import Ending, Settlement
from taskloom.sql import SqlFlowBarrier, projections
from taskloom.task import EntityRef, FlowJoin, Task, TaskStatus

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
async def barrier(tmp_path: Path) -> AsyncIterator[SqlFlowBarrier]:
    async with SqlFlowBarrier.from_url(f"sqlite:///{tmp_path}/tasks.db") as barrier:
        yield barrier


def flow_of(flow_id: str, steps: int, **options: Any) -> tuple[NewFlow, list[Task[Any]]]:
    step = FlowStep("step", "q", None)
    return new_flow(flow_id, [step] * steps, FlowJoin("join", "joins"), now=NOW, **options)


def started(*made: tuple[NewFlow, list[Task[Any]]], **fields: Any) -> Settlement:
    tasks = tuple(task for _, each in made for task in each)
    return Settlement(added=tasks, flows=tuple(flow for flow, _ in made), **fields)


async def run_all(barrier: SqlFlowBarrier, **fields: Any) -> Settlement:
    """The plan that ends every due task of the steps' queue."""
    deliveries = await barrier.storage.claim_due(10_000, lease=60, queue_id="q")
    endings = [
        Ending(each, TaskStatus.EXECUTED, step=FlowStepResult(meta.step_index, "success", 1))
        for each in deliveries
        if (meta := each.task.metadata.flow) is not None
    ]
    return Settlement(tuple(endings), **fields)


def sql(text: str) -> Any:
    """A function of a connection that executes `text`."""

    def run(conn: Connection) -> list[Any]:
        result = conn.exec_driver_sql(text)
        return list(result) if result.returns_rows else []

    return run


async def statements(work: Any) -> list[str]:
    """What was executed on any engine while `work` ran."""
    seen: list[str] = []

    def listen(conn: Any, cursor: Any, statement: str, *_: Any) -> None:
        seen.append(statement)

    event.listen(Engine, "before_cursor_execute", listen)
    try:
        await work
    finally:
        event.remove(Engine, "before_cursor_execute", listen)
    return seen


async def test_a_thousand_steps_of_a_hundred_flows_are_a_handful_of_statements(
    barrier: SqlFlowBarrier,
) -> None:
    await barrier.settle(started(*(flow_of(f"flow-{number}", 10) for number in range(100))))
    plan = await run_all(barrier)
    assert len(plan.endings) == 1_000
    assert len(await statements(barrier.settle(plan))) <= 10
    assert len(await barrier.storage.claim_due(1_000, lease=60, queue_id="joins")) == 100


async def test_counting_reads_no_step_that_counted_before(barrier: SqlFlowBarrier) -> None:
    await barrier.init_barrier("flow", 3)
    await barrier.record_steps("flow", [FlowStepResult(0, "success")])
    last = [FlowStepResult(1, "success"), FlowStepResult(2, "success")]
    seen = await statements(barrier.record_steps("flow", last))
    assert [each.split()[0] for each in seen] == ["SELECT", "INSERT", "UPDATE"]
    assert "taskloom_flow_steps" not in seen[0]


async def test_a_damaged_join_stops_no_neighbour(
    barrier: SqlFlowBarrier, caplog: pytest.LogCaptureFixture
) -> None:
    await barrier.settle(started(flow_of("bad", 1), flow_of("good", 1)))
    spoil = "UPDATE taskloom_flows SET join_body = CAST(x'ff00' AS TEXT) WHERE flow_id = 'bad'"
    await barrier.storage.database.write(sql(spoil))
    settled = await barrier.settle(await run_all(barrier))
    assert [each.record.flow.flow_id for each in settled.news] == ["good"]
    assert "flow bad cannot hand over its join" in caplog.text
    assert await barrier.is_complete("bad")
    assert [each.flow.flow_id for each in await barrier.search()] == ["good"]


async def test_a_damaged_result_leaves_the_others(barrier: SqlFlowBarrier) -> None:
    await barrier.settle(started(flow_of("flow", 2)))
    await barrier.record_steps("flow", [FlowStepResult(0, "success", 1)])
    await barrier.storage.database.write(sql("UPDATE taskloom_flow_steps SET result = '{broken'"))
    (news,) = (await barrier.settle(await run_all(barrier))).news
    broken, good = flow_results(news.join).steps
    assert (broken.step_index, broken.status, broken.result) == (0, "success", None)
    assert broken.error is not None
    assert broken.error.startswith("unreadable: ")
    assert good == FlowStepResult(1, "success", 1)


@pytest.mark.parametrize("projecting", [False, True])
async def test_the_entity_of_a_flow(barrier: SqlFlowBarrier, projecting: bool) -> None:
    entity = EntityRef("1", "order")
    made = flow_of("flow", 1, entity=entity, timeout=60)

    async def rows() -> list[Any]:
        query = sql("SELECT task_id, task_type, status, error FROM taskloom_projections")
        return [tuple(row) for row in await barrier.storage.database.read(query)]

    await barrier.settle(started(made, projecting=projecting))
    assert await rows() == ([("flow", "join", "processing", None)] if projecting else [])
    (sentinel,) = await barrier.storage.take_over([made[1][-1].id], lease=60)
    plan = Settlement((Ending(sentinel, TaskStatus.EXECUTED),), projecting=projecting)
    await barrier.settle(plan)
    assert await rows() == ([("flow", "join", "failed", "flow_timeout")] if projecting else [])


async def test_a_settle_that_fails_writes_nothing(
    barrier: SqlFlowBarrier, monkeypatch: pytest.MonkeyPatch
) -> None:
    await barrier.settle(started(flow_of("flow", 1)))
    plan = await run_all(barrier, projecting=True)

    def broken(conn: Connection, entries: Any) -> None:
        raise RuntimeError

    with monkeypatch.context() as patched:
        patched.setattr(projections, "upsert", broken)
        with pytest.raises(RuntimeError):
            await barrier.settle(plan)
    assert await barrier.get_step_results("flow") == []
    assert len((await barrier.settle(plan)).news) == 1


async def test_a_claim_that_waits_for_the_join_is_woken(
    barrier: SqlFlowBarrier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wakeups, "_LOOK_EVERY", 3600.0)  # not by looking at who has committed
    await barrier.settle(started(flow_of("flow", 1)))
    plan = await run_all(barrier)
    change = barrier.storage.database.wakeups.expect("joins")
    await barrier.settle(plan)
    assert await change is True
