"""Entity projections do what they promise, and on SQL they are written with the task's end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, text

from taskloom import EntityRef, Task, TaskStatus
from taskloom.memory import InMemoryProjections
from taskloom.outcomes import Delivery, Ending, Settlement
from taskloom.projections import EntityTaskProjection, ProjectionStatus, build_projection
from taskloom.sql import SqlProjections, SqlStorage
from taskloom.testing import ProjectionsConformance

USER = EntityRef("u_1", "user")


class TestInMemoryProjections(ProjectionsConformance):
    @pytest.fixture
    def projections(self) -> InMemoryProjections:
        return InMemoryProjections()


class TestSqliteProjections(ProjectionsConformance):
    @pytest.fixture
    async def projections(self, tmp_path: Path) -> AsyncIterator[SqlProjections]:
        async with SqlProjections.from_url(f"sqlite:///{tmp_path}/tasks.db") as projections:
            yield projections


class TestSqliteProjectionsInMemory(ProjectionsConformance):
    @pytest.fixture
    async def projections(self) -> AsyncIterator[SqlProjections]:
        async with SqlProjections.from_url("sqlite://") as projections:
            yield projections


@pytest.fixture
async def storage() -> AsyncIterator[SqlStorage]:
    async with SqlStorage.from_url("sqlite://") as storage:
        yield storage


def of_user(status: ProjectionStatus, task: Task[Any], **fields: Any) -> EntityTaskProjection:
    row = build_projection(task, status, **fields)
    assert row is not None
    return row


def some(count: int) -> list[Task[Any]]:
    return [Task(type="t", queue_id="q", payload=n, entity=USER) for n in range(count)]


async def claimed(storage: SqlStorage, count: int) -> list[Delivery]:
    await storage.add(some(count))
    deliveries = await storage.claim_due(count, lease=60)
    assert len(deliveries) == count
    return deliveries


def ending(delivery: Delivery, status: TaskStatus = TaskStatus.EXECUTED, **fields: Any) -> Ending:
    told: ProjectionStatus = "executed" if status is TaskStatus.EXECUTED else "failed"
    row = of_user(told, delivery.task, result=fields.get("result", 1))
    return Ending(delivery, status, projections=(row,), **fields)


async def told(projections: SqlProjections, *deliveries: Delivery) -> list[str]:
    rows = await projections.get([delivery.task.id for delivery in deliveries])
    return [row.status for row in rows]


@pytest.mark.parametrize("engine", ["memory", "sql"])
async def test_rows_are_found_by_their_entity_the_last_changed_first(engine: str) -> None:
    one = InMemoryProjections() if engine == "memory" else SqlProjections.from_url("sqlite://")
    now = datetime.now(UTC)
    made_before = reversed(some(4))  # by their ids, they would come in the opposite order
    tasks = [
        task.replace(updated_at=now + timedelta(seconds=n)) for n, task in enumerate(made_before)
    ]
    other = EntityRef(USER.id, "order")
    rows = [of_user("scheduled", task) for task in tasks]
    strangers = [
        of_user("scheduled", some(1)[0].replace(entity=entity))
        for entity in (other, EntityRef("u_2", USER.type))
    ]
    async with one as projections:
        await projections.upsert_projections([*rows, *strangers])
        assert await projections.of_entity(USER) == rows[::-1]
        assert await projections.of_entity(USER, limit=2) == [rows[3], rows[2]]
        assert await projections.of_entity(other) == [strangers[0]]
        assert await projections.of_entity(EntityRef("u_3", "user")) == []


async def test_an_accepted_ending_writes_its_rows(storage: SqlStorage) -> None:
    projections = SqlProjections(storage)
    assert projections.storage is storage
    first, second, silent = await claimed(storage, 3)
    plan = Settlement(
        endings=(
            ending(first, result=[1]),
            ending(second, TaskStatus.FAILED),
            Ending(silent, TaskStatus.EXECUTED),
        )
    )
    for _ in range(2):
        assert await storage.settle(plan) == []
        found = await projections.get([d.task.id for d in (first, second, silent)])
        assert [(row.status, row.result) for row in found] == [("executed", [1]), ("failed", 1)]


async def test_a_fenced_ending_writes_none(storage: SqlStorage) -> None:
    projections = SqlProjections(storage)
    await storage.add(some(1))
    (late,) = await storage.claim_due(1, lease=0)
    (current,) = await storage.claim_due(1, lease=60)
    (good,) = await claimed(storage, 1)
    plan = Settlement(endings=(ending(late, TaskStatus.FAILED), ending(good)))
    assert await storage.settle(plan) == [late.task.id]
    assert await told(projections, current, good) == ["executed"]
    assert await storage.settle(Settlement(endings=(ending(current),))) == []
    assert await told(projections, current, good) == ["executed", "executed"]


async def test_a_queues_delivery_writes_rows_unless_the_task_had_ended(
    storage: SqlStorage,
) -> None:
    projections = SqlProjections(storage)
    ended, waiting = some(2)
    await storage.add([ended.replace(status=TaskStatus.CANCELLED), waiting])
    endings = tuple(ending(Delivery(task, "a receipt of the queue")) for task in (ended, waiting))
    assert await storage.settle(Settlement(endings=endings, fenced=False)) == [ended.id]
    assert [row.task_id for row in await projections.of_entity(USER)] == [waiting.id]


async def test_rows_and_endings_are_written_together_or_not_at_all(storage: SqlStorage) -> None:
    projections = SqlProjections(storage)
    (delivery,) = await claimed(storage, 1)
    await storage.database.write(_refuse, "taskloom_projections")
    with pytest.raises(Exception, match="refused"):
        await storage.settle(Settlement(endings=(ending(delivery),)))
    (task,) = await storage.get([delivery.task.id])
    assert task.status is TaskStatus.PROCESSING
    await storage.database.write(_refuse_no_more)
    # What is written after the rows of projections takes them back, too.
    await storage.database.write(_refuse, "taskloom_tallies")
    with pytest.raises(Exception, match="refused"):
        await storage.settle(Settlement(endings=(ending(delivery),)))
    assert await told(projections, delivery) == []
    await storage.database.write(_refuse_no_more)
    assert await storage.settle(Settlement(endings=(ending(delivery),))) == []
    assert await told(projections, delivery) == ["executed"]


def _refuse(conn: Connection, table: str) -> None:
    conn.execute(
        text(
            f"CREATE TRIGGER refusing BEFORE INSERT ON {table} "
            "BEGIN SELECT RAISE(ABORT, 'refused'); END"
        )
    )


def _refuse_no_more(conn: Connection) -> None:
    conn.execute(text("DROP TRIGGER refusing"))


async def test_a_settled_row_does_not_go_back(storage: SqlStorage) -> None:
    projections = SqlProjections(storage)
    (delivery,) = await claimed(storage, 1)
    await projections.upsert_projections(
        [of_user("processing", delivery.task, include_payload=True)]
    )
    await storage.settle(Settlement(endings=(ending(delivery),)))
    await projections.upsert_projections([of_user("scheduled", delivery.task)])
    (row,) = await projections.get([delivery.task.id])
    assert (row.status, row.payload, row.result) == ("executed", 0, 1)


async def test_rows_outlive_their_process(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/tasks.db"
    (task,) = some(1)
    row = of_user("scheduled", task)
    async with SqlProjections.from_url(url) as projections:
        await projections.upsert_projections([row])
    async with SqlProjections.from_url(url) as projections:
        assert await projections.get([task.id]) == [row]
