"""What MongoDB does beyond the suites."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from pymongo import AsyncMongoClient
from pymongo.monitoring import CommandListener, CommandStartedEvent

from taskloom import StorageUnavailableError, Task
from taskloom.errors import ConfigurationError, InvalidTaskError
from taskloom.flows import FlowStep, FlowStepResult, flow_results, new_flow
from taskloom.mongodb import (
    MongoDBDatabase,
    MongoDBFlowBarrier,
    MongoDBQueue,
    MongoDBStorage,
    asking,
    claims,
    rows,
    schema,
    settling,
)
from taskloom.mongodb.schema import claimable
from taskloom.outcomes import Delivery, Ending, Settlement
from taskloom.task import FlowJoin, TaskStatus

LEASE = 60.0
PATIENCE = 10.0
QUEUE = "q"


@pytest.fixture
async def database(mongodb_emptied: str) -> AsyncIterator[MongoDBDatabase]:
    async with MongoDBDatabase.from_url(mongodb_emptied) as database:
        yield database


@pytest.fixture
async def without_transactions(mongodb_emptied: str) -> AsyncIterator[MongoDBDatabase]:
    async with MongoDBDatabase.from_url(mongodb_emptied, _transactions=False) as database:
        yield database


def task(**fields: Any) -> Task[Any]:
    return Task(**({"type": "t", "queue_id": QUEUE, "payload": None} | fields))


async def take(queue: MongoDBQueue) -> Delivery:
    (delivery,) = await queue.claim(QUEUE, 1, lease=LEASE)
    assert isinstance(delivery, Delivery)
    return delivery


# What the reference could not


async def test_a_retry_goes_back_any_number_of_times(database: MongoDBDatabase) -> None:
    queue = MongoDBQueue(MongoDBStorage(database))
    await queue.put(QUEUE, [task(id="again")])
    for attempt in range(1, 5):
        delivery = await take(queue)
        retry = delivery.task.replace(retry_count=attempt)
        assert await queue.release([delivery], tasks=[retry]) == []
        await queue.put(QUEUE, [retry])  # and to insert it once more is no error
        assert await queue.depth(QUEUE) == 1
    delivery = await take(queue)
    assert (delivery.task.id, delivery.task.retry_count) == ("again", 4)


async def test_workers_never_get_one_task_twice(
    database: MongoDBDatabase, mongodb_emptied: str
) -> None:
    async with MongoDBQueue.from_url(mongodb_emptied) as elsewhere:
        queues = [MongoDBQueue(MongoDBStorage(database)), elsewhere]
        made = [task() for _ in range(60)]
        await elsewhere.put(QUEUE, made)

        async def work(queue: MongoDBQueue) -> list[str]:
            taken: list[str] = []
            while found := await queue.claim(QUEUE, 7, lease=LEASE):
                taken += [each.task.id for each in found if isinstance(each, Delivery)]
            return taken

        shares = await asyncio.gather(*(work(queue) for queue in queues * 2))
    assert sorted(id for share in shares for id in share) == sorted(each.id for each in made)


async def test_who_is_overtaken_gets_what_is_left(
    database: MongoDBDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = MongoDBQueue(MongoDBStorage(database))
    made = [task() for _ in range(6)]
    await queue.put(QUEUE, made)
    found, go_on, lease = asyncio.Event(), asyncio.Event(), claims._lease

    async def held_up(*args: Any) -> list[Any]:
        found.set()
        await asyncio.wait_for(go_on.wait(), PATIENCE)
        return await lease(*args)

    with monkeypatch.context() as meddling:
        meddling.setattr(claims, "_lease", held_up)
        overtaken = asyncio.create_task(queue.claim(QUEUE, 6, lease=LEASE))
        await asyncio.wait_for(found.wait(), PATIENCE)
    quick = await queue.claim(QUEUE, 4, lease=LEASE)
    go_on.set()
    left = await asyncio.wait_for(overtaken, PATIENCE)
    assert [_id(each) for each in quick] == [each.id for each in made[:4]]
    assert [_id(each) for each in left] == [each.id for each in made[4:]]


def _id(delivery: object) -> str:
    assert isinstance(delivery, Delivery)
    return delivery.task.id


# Order, and many at a time


@pytest.mark.usefixtures("database")
async def test_those_due_at_one_time_come_as_they_were_added(mongodb_emptied: str) -> None:
    at = datetime.now(UTC)
    made = [task(id=f"{(n * 7) % 10}", execute_at=at) for n in range(10)]
    async with MongoDBQueue.from_url(mongodb_emptied) as queue:
        await queue.put(QUEUE, made[:5])
        await queue.put(QUEUE, made[5:])
        found = await queue.claim(QUEUE, 4, lease=LEASE)
        found += await queue.claim(QUEUE, 9, lease=LEASE)
    assert [each.task.id for each in found] == [each.id for each in made]


class Asked(CommandListener):
    """Notes how many ids each condition of a statement names."""

    def __init__(self) -> None:
        self.ids: list[int] = []

    def started(self, event: CommandStartedEvent) -> None:
        self._look(event.command)

    def _look(self, value: Any) -> None:
        if isinstance(value, Mapping):
            self.ids += [len(value["$in"])] if "$in" in value else []
            value = list(value.values())
        for each in value if isinstance(value, list) else ():
            self._look(each)

    def succeeded(self, event: object) -> None: ...

    def failed(self, event: object) -> None: ...


async def test_a_statement_names_only_so_many_ids(
    mongodb_emptied: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "_PIECE", 2)
    asked = Asked()
    client = AsyncMongoClient[dict[str, Any]](mongodb_emptied, event_listeners=[asked])
    async with client, MongoDBStorage(client.get_default_database()) as storage:
        made = [task(id=f"{n}") for n in range(5)]
        await storage.add(made)
        held = await storage.claim_due(9, lease=LEASE)
        assert [each.task.id for each in held] == ["0", "1", "2", "3", "4"]
        assert await storage.extend_leases(held, LEASE) == []
        assert await storage.give_back(held[:3]) == []
        assert await storage.extend_leases(held, LEASE) == held[:3]
        assert await storage.mark_executed(held) == held[:3]
        found = await storage.get(["4", "0", "x", "0", "2"])
        assert [each.id for each in found] == ["4", "0", "0", "2"]
    assert {2, 1} == set(asked.ids)


def test_pieces_name_each_id_once() -> None:
    ids = [f"{n}" for n in range(150)]
    assert [*asking.pieces([*ids, *ids])] == [ids[:100], ids[100:]]
    assert [*asking.pieces([])] == []


# A settle without transactions


async def test_who_dies_after_the_children_makes_them_again(
    without_transactions: MongoDBDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = MongoDBStorage(without_transactions)
    await storage.add([task(id="parent")])
    (parent,) = await storage.claim_due(1, lease=LEASE)
    child = task(id="child", queue_id="children")
    plan = Settlement((Ending(parent, TaskStatus.EXECUTED, children=(child,)),))

    async def die(*args: object) -> list[str]:
        raise StorageUnavailableError("gone")

    with monkeypatch.context() as dying:
        dying.setattr(settling, "finish", die)
        with pytest.raises(StorageUnavailableError):
            await storage.settle(plan)
    # The acknowledgement is the last write: the parent is held still, the child is there.
    statuses = [each.status for each in await storage.get(["parent", "child"])]
    assert statuses == [TaskStatus.PROCESSING, TaskStatus.SCHEDULED]
    assert await storage.settle(plan) == []
    statuses = [each.status for each in await storage.get(["parent", "child"])]
    assert statuses == [TaskStatus.EXECUTED, TaskStatus.SCHEDULED]


async def test_in_a_transaction_there_is_no_child_without_its_parents_end(
    database: MongoDBDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = MongoDBStorage(database)
    await storage.add([task(id="parent")])
    (parent,) = await storage.claim_due(1, lease=LEASE)
    plan = Settlement((Ending(parent, TaskStatus.EXECUTED, children=(task(id="child"),)),))

    async def die(*args: object) -> list[str]:
        raise StorageUnavailableError("gone")

    monkeypatch.setattr(settling, "finish", die)
    with pytest.raises(StorageUnavailableError):
        await storage.settle(plan)
    assert [each.id for each in await storage.get(["parent", "child"])] == ["parent"]


async def test_a_renewal_meanwhile_waits_for_a_settle_and_does_not_undo_it(
    database: MongoDBDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = MongoDBStorage(database)
    await storage.add([task(id="parent")])
    (parent,) = await storage.claim_due(1, lease=LEASE)
    follow, renewals = settling.add_what_follows, list[asyncio.Task[Any]]()
    tries = 0

    async def renewed_meanwhile(*args: Any) -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            renewals.append(asyncio.create_task(storage.extend_leases([parent], LEASE)))
            await asyncio.wait(renewals, timeout=0.5)  # it waits, and is no signal then
        await follow(*args)

    monkeypatch.setattr(settling, "add_what_follows", renewed_meanwhile)
    plan = Settlement((Ending(parent, TaskStatus.EXECUTED, children=(task(id="child"),)),))
    assert await storage.settle(plan) == []
    assert tries == 1
    assert await asyncio.wait_for(renewals[0], PATIENCE) == [parent]  # ended: nobody's by then


# Waking


async def test_a_change_stream_wakes_who_waits_elsewhere(
    database: MongoDBDatabase, mongodb_emptied: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskloom.storage_queue.LOOK_EVERY", 3600.0)
    looked, look = asyncio.Event(), claims.next_due

    async def next_due(*args: Any) -> int | None:
        due = await look(*args)
        looked.set()
        return due

    monkeypatch.setattr(claims, "next_due", next_due)
    here = MongoDBQueue(MongoDBStorage(database))
    await asyncio.wait_for(database._listener.hears.wait(), PATIENCE)

    async def wait_here() -> asyncio.Task[list[Any]]:
        looked.clear()
        waiting = asyncio.create_task(here.claim(QUEUE, 1, lease=LEASE, wait=PATIENCE))
        await asyncio.wait_for(looked.wait(), PATIENCE)
        return waiting

    async with MongoDBQueue.from_url(mongodb_emptied) as elsewhere:
        waiting = await wait_here()
        await elsewhere.put(QUEUE, [task(id="new")])
        (delivery,) = await asyncio.wait_for(waiting, PATIENCE / 2)
        waiting = await wait_here()
        await elsewhere.release([delivery])  # says not which queue, so all look
        (again,) = await asyncio.wait_for(waiting, PATIENCE / 2)
    assert again.task.id == "new"


# Documents and indexes


async def test_a_claim_goes_by_the_index(database: MongoDBDatabase) -> None:
    due = {"queue": QUEUE, **claimable(database.now_micros())}
    plan = await database.collections.tasks.find(due).sort([("due", 1), ("seq", 1)]).explain()
    assert "'indexName': 'due'" in str(plan["queryPlanner"]["winningPlan"])


async def test_what_takes_long_is_left_to_init(
    mongodb_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with MongoDBStorage.from_url(mongodb_url) as storage:
        await storage.add([task()])
        await storage.kept.tasks.drop_index("due")
    monkeypatch.setattr(schema, "_QUICK", 0)
    with pytest.raises(ConfigurationError, match="Run: taskloom init --url mongodb://"):
        await MongoDBStorage.from_url(mongodb_url).open()
    await MongoDBStorage.from_url(mongodb_url).upgrade()
    async with MongoDBStorage.from_url(mongodb_url) as storage:
        assert "due" in await storage.kept.tasks.index_information()


async def test_a_task_beyond_a_document_is_refused_by_its_field(database: MongoDBDatabase) -> None:
    large = task(execution_stats={"notes": "x" * (16 * 1024 * 1024)})
    with pytest.raises(InvalidTaskError, match=r"^execution_stats: 16,777"):
        await MongoDBStorage(database).add([task(), large])
    assert await MongoDBStorage(database).counts() == {}


@pytest.mark.parametrize("transactions", [True, False])
async def test_a_join_beyond_a_document_goes_without_its_largest_results(
    mongodb_emptied: str, transactions: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "_MOST", 5_000)
    made = [FlowStep("step", QUEUE, n) for n in range(4)]
    new, steps = new_flow("f", made, FlowJoin("join", QUEUE), now=datetime.now(UTC))
    async with MongoDBDatabase.from_url(mongodb_emptied, _transactions=transactions) as database:
        barrier = MongoDBFlowBarrier(MongoDBStorage(database))
        await barrier.settle(Settlement(added=tuple(steps), flows=(new,)))
        held = await barrier.storage.claim_due(9, lease=LEASE)
        results = ["x" * size for size in (1, 3_000, 1_000, 2_000)]
        endings = [
            Ending(
                each, TaskStatus.EXECUTED, result=result, step=FlowStepResult(n, "success", result)
            )
            for n, (each, result) in enumerate(zip(held, results, strict=True))
        ]
        settled = await barrier.settle(Settlement(tuple(endings)))
        assert settled.refused == []
        (join,) = await barrier.storage.claim_due(9, lease=LEASE)
    told = [step.result for step in flow_results(join.task).steps]
    assert told == ["x", {"result_dropped": 3_002}, "x" * 1_000, "x" * 2_000]


async def test_it_can_be_opened_again(mongodb_emptied: str) -> None:
    queue = MongoDBQueue.from_url(mongodb_emptied)
    await queue.upgrade()
    async with queue:
        await queue.put(QUEUE, [task(id="kept")])
    with pytest.raises(ConfigurationError, match="is not open"):
        await queue.depth(QUEUE)
    async with queue:
        assert await queue.depth(QUEUE) == 1
        assert (await take(queue)).task.id == "kept"


async def test_a_client_that_was_given_stays_open(mongodb_emptied: str) -> None:
    async with AsyncMongoClient[dict[str, Any]](mongodb_emptied, tz_aware=True) as client:
        async with MongoDBStorage(client.get_default_database()) as storage:
            await storage.add([task(id="kept")])
        assert await client.get_default_database()["taskloom_tasks"].count_documents({}) == 1
