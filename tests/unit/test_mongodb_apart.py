"""Settling on MongoDB while a transaction of somebody else holds a record of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest

from taskloom import Task
from taskloom.flows import FlowStep, FlowStepResult, new_flow
from taskloom.mongodb import (
    MongoDBDatabase,
    MongoDBFlowBarrier,
    MongoDBStorage,
    apart,
    transacting,
)
from taskloom.mongodb.faults import InTheWayError
from taskloom.mongodb.schema import Collection
from taskloom.outcomes import Ending, Settlement
from taskloom.task import FlowJoin, TaskStatus

LEASE = 60.0
EXECUTED, PROCESSING = TaskStatus.EXECUTED, TaskStatus.PROCESSING


@pytest.fixture
async def database(
    mongodb_emptied: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[MongoDBDatabase]:
    monkeypatch.setattr(transacting, "_ATTEMPTS", 2)
    monkeypatch.setattr(apart, "FEW_ATTEMPTS", 2)
    async with MongoDBDatabase.from_url(mongodb_emptied) as database:
        yield database


def task(id: str) -> Task[Any]:
    return Task(type="t", queue_id="q", payload=None, id=id)


class Settles:
    """Notes how many endings each `_settle` of an engine has; an open transaction is gone on with.

    A server ends one of which it has not heard for long.
    """

    def __init__(self, engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.endings: list[int] = []
        self.held: Any = None
        settle = engine._settle

        async def noted(plan: Settlement, attempts: int | None) -> Any:
            self.endings.append(len(plan.endings))
            if self.held is not None:
                kept, id, session = self.held
                assert await kept.find_one({"_id": id}, session=session)
            return await settle(plan, attempts)

        monkeypatch.setattr(engine, "_settle", noted)

    @asynccontextmanager
    async def holding(self, kept: Collection, id: str) -> AsyncIterator[None]:
        """A transaction that has written this record, and comes to nothing in the end."""
        client = kept.database.client
        async with client.start_session() as session:
            await session.start_transaction()
            await kept.update_one({"_id": id}, {"$set": {"note": 1}}, session=session)
            self.held = kept, id, session
            yield
            self.held = None
            await session.abort_transaction()


async def test_one_record_that_is_held_does_not_stop_its_neighbours(
    database: MongoDBDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = MongoDBStorage(database)
    ids = ["a", "held", "z"]
    await storage.add([task(id) for id in ids])
    endings = tuple(
        Ending(each, EXECUTED, children=(task(f"child of {each.task.id}"),))
        for each in await storage.claim_due(9, lease=LEASE)
    )
    plan = Settlement(endings, added=(task("beside"),))
    settles = Settles(storage, monkeypatch)
    async with settles.holding(storage.kept.tasks, "held"):
        with pytest.raises(InTheWayError, match="others change the same records"):
            await storage.settle(plan)
        assert settles.endings == [3, 1, 1, 1, 0]
        assert await _statuses(storage, ids) == [EXECUTED, PROCESSING, EXECUTED]
        children = [f"child of {id}" for id in ids]
        found = [each.id for each in await storage.get([*children, "beside"])]
        assert found == ["child of a", "child of z", "beside"]
    # The whole once more passes over what is written.
    assert await storage.settle(plan) == []
    assert await _statuses(storage, ids) == [EXECUTED] * 3
    assert len(await storage.search(type="t")) == 7


async def test_one_ending_has_no_neighbours(
    database: MongoDBDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = MongoDBStorage(database)
    await storage.add([task("held")])
    (held,) = await storage.claim_due(1, lease=LEASE)
    settles = Settles(storage, monkeypatch)
    async with settles.holding(storage.kept.tasks, "held"):
        with pytest.raises(InTheWayError):
            await storage.settle(Settlement((Ending(held, EXECUTED, children=(task("child"),)),)))
    assert settles.endings == [1]
    assert await storage.get(["child"]) == []


async def test_a_flow_that_is_held_does_not_stop_other_flows(
    database: MongoDBDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    barrier = MongoDBFlowBarrier(MongoDBStorage(database))
    now = datetime.now(UTC)
    step, join = FlowStep("step", "q", None), FlowJoin("join", "joins")
    for id in ("held", "free"):
        new, steps = new_flow(id, [step], join, now=now)
        await barrier.settle(Settlement(added=tuple(steps), flows=(new,)))
    endings = tuple(
        Ending(each, EXECUTED, result=None, step=FlowStepResult(0, "success"))
        for each in await barrier.storage.claim_due(9, lease=LEASE, queue_id="q")
    )
    settles = Settles(barrier, monkeypatch)
    async with settles.holding(database.collections.flows, "held"):
        with pytest.raises(InTheWayError):
            await barrier.settle(Settlement(endings))
        (join_of,) = await barrier.storage.claim_due(9, lease=LEASE, queue_id="joins")
        assert _flow_of(join_of.task) == "free"
    await barrier.settle(Settlement(endings))
    (join_of,) = await barrier.storage.claim_due(9, lease=LEASE, queue_id="joins")
    assert _flow_of(join_of.task) == "held"


async def _statuses(storage: MongoDBStorage, ids: list[str]) -> list[TaskStatus]:
    return [each.status for each in await storage.get(ids)]


def _flow_of(task: Task[Any]) -> str:
    assert task.metadata.flow is not None
    return task.metadata.flow.flow_id
