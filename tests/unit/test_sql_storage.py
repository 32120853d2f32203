"""SqlStorage and SqlQueue beyond what every engine promises."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection

from taskloom.errors import InvalidTaskError
from taskloom.outcomes import Delivery, Ending, Settlement, UnreadableRecord
from taskloom.sql import SqlQueue, SqlStorage
from taskloom.task import Task, TaskStatus


@pytest.fixture
async def storage(tmp_path: Path) -> AsyncIterator[SqlStorage]:
    async with SqlStorage.from_url(f"sqlite:///{tmp_path}/tasks.db") as storage:
        yield storage


@pytest.fixture
def queue(storage: SqlStorage) -> SqlQueue:
    return SqlQueue(storage)


def some(count: int, **fields: Any) -> list[Task[int]]:
    return [Task(type="t", queue_id="q", payload=number, **fields) for number in range(count)]


def sql(text: str) -> Any:
    """A function of a connection that executes `text` and gives its rows, if it has any."""

    def run(conn: Connection) -> list[tuple[Any, ...]]:
        result = conn.exec_driver_sql(text)
        return [tuple(row) for row in result] if result.returns_rows else []

    return run


def executed(*deliveries: Any) -> Settlement:
    endings = tuple(Ending(each, TaskStatus.EXECUTED, result=1) for each in deliveries)
    return Settlement(endings=endings)


@pytest.mark.parametrize(
    "damage",
    [
        "'{broken'",
        "CAST(x'ff00fe' AS TEXT)",
        "x'ff00fe'",
        """'{"type":"t","queue_id":"q","payload":1}'""",
        "'[1, 2]'",
        "'null'",
    ],
)
async def test_a_damaged_row_is_set_aside_and_its_neighbours_run(
    storage: SqlStorage, queue: SqlQueue, damage: str
) -> None:
    before, bad, after = some(3)
    await queue.put("q", [before, bad, after])
    spoil = f"UPDATE taskloom_tasks SET body = {damage} WHERE id = '{bad.id}'"
    await storage.database.write(sql(spoil))
    assert [task.id for task in await storage.get([bad.id])] == [bad.id]
    first, record, last = await queue.claim("q", 10, lease=60)
    assert isinstance(record, UnreadableRecord)
    assert isinstance(first, Delivery)
    assert isinstance(last, Delivery)
    assert [first.task.id, last.task.id] == [before.id, after.id]
    for _ in range(2):
        await storage.set_aside([record])
    [dead] = await storage.dead_records()
    assert (dead.raw, dead.queue_id) == (record.raw, "q")
    [stand_in] = await storage.get([bad.id])
    assert stand_in.status is TaskStatus.FAILED
    assert "unreadable" in stand_in.execution_stats
    assert [task.id for task in await storage.search(status=TaskStatus.FAILED)] == [bad.id]
    counts = await storage.counts()
    assert counts == {("q", TaskStatus.PROCESSING): 2, ("q", TaskStatus.FAILED): 1}
    assert await storage.settle(Settlement(revived=(stand_in,))) == [bad.id]


async def test_claim_due_sets_damaged_rows_aside_itself(
    storage: SqlStorage, caplog: pytest.LogCaptureFixture
) -> None:
    good, bad = some(2)
    await storage.add([good, bad])
    await storage.database.write(
        sql(f"UPDATE taskloom_tasks SET body = '{{' WHERE id = '{bad.id}'")
    )
    assert [each.task.id for each in await storage.claim_due(10, lease=60)] == [good.id]
    assert [dead.raw for dead in await storage.dead_records()] == [b"{"]
    assert "set aside" in caplog.text


async def test_a_settle_said_again_changes_nothing(storage: SqlStorage, queue: SqlQueue) -> None:
    await queue.put("q", some(4))
    deliveries = await queue.claim("q", 4, lease=60)
    children = some(2)
    plan = executed(*deliveries[:3])
    retry = Ending(deliveries[3], TaskStatus.SCHEDULED, next=deliveries[3].task)
    parent = Ending(deliveries[0], TaskStatus.EXECUTED, result=1, children=tuple(children))
    plan = Settlement(endings=(parent, *plan.endings[1:], retry))
    rows = "SELECT * FROM taskloom_tasks ORDER BY seq"
    assert await storage.settle(plan) == []
    once = await storage.database.read(sql(rows))
    assert await storage.settle(plan) == []
    assert await storage.database.read(sql(rows)) == once
    assert (await storage.counts())["q", TaskStatus.EXECUTED] == 3


async def test_of_a_batch_only_lost_leases_are_refused(
    storage: SqlStorage, queue: SqlQueue
) -> None:
    await queue.put("q", some(5))
    lapsed = await queue.claim("q", 2, lease=0)
    held = await queue.claim("q", 5, lease=60)
    assert len(held) == 5
    fresh = [each for each in held if each.task.id not in {old.task.id for old in lapsed}]
    children = tuple(some(1))
    late = tuple(Ending(each, TaskStatus.FAILED, children=children) for each in lapsed)
    plan = Settlement(endings=(*late, *executed(*fresh).endings))
    assert await storage.settle(plan) == [each.task.id for each in lapsed]
    assert await storage.get([children[0].id]) == []
    counts = await storage.counts()
    assert counts == {("q", TaskStatus.PROCESSING): 2, ("q", TaskStatus.EXECUTED): 3}


async def test_cancelled_claims_lose_nothing(storage: SqlStorage, queue: SqlQueue) -> None:
    tasks = some(40)
    await queue.put("q", tasks)
    taken: list[Any] = []
    rng = random.Random(7)
    for _ in range(150):
        claim = asyncio.create_task(queue.claim("q", 3, lease=600, wait=0.05))
        for _ in range(rng.randrange(12)):
            await asyncio.sleep(0)
        await asyncio.wait({claim}, timeout=rng.choice((0, 0.0002, 0.001)))
        claim.cancel()
        done = await asyncio.gather(claim, return_exceptions=True)
        if not isinstance(done[0], BaseException):
            await queue.release(done[0])
    while found := await queue.claim("q", 10, lease=600):
        taken += found
    assert Counter(each.task.id for each in taken) == Counter(task.id for task in tasks)
    assert {each.delivery_count for each in taken} == {1}


async def test_the_tallies_say_what_the_rows_say(storage: SqlStorage, queue: SqlQueue) -> None:
    rng = random.Random(3)
    ends = [status for status in TaskStatus if status.terminal]
    known: list[str] = []
    for _ in range(120):
        new = some(rng.randrange(4))
        await storage.add(new)
        known += [task.id for task in new]
        held = await queue.claim("q", rng.randrange(1, 5), lease=rng.choice((0, 60)))
        endings = tuple(Ending(each, rng.choice(ends)) for each in held)
        for _ in range(rng.randrange(1, 3)):
            await storage.settle(Settlement(endings=endings, fenced=rng.random() < 0.7))
        some_ids = tuple(rng.sample(known, min(3, len(known))))
        again = tuple(
            task.replace(status=TaskStatus.SCHEDULED) for task in await storage.get(some_ids)
        )
        await storage.settle(Settlement(cancelled=some_ids, reason="test"))
        if rng.random() < 0.3:
            await storage.settle(Settlement(revived=again))
            await storage.update({id: {"status": rng.choice(ends)} for id in some_ids[:1]})
            later = datetime.now(UTC) + timedelta(seconds=1)
            await storage.prune(rng.choice(ends), ended_before=later, limit=2)
        rows = await storage.database.read(
            sql("SELECT queue_id, status, count(*) FROM taskloom_tasks GROUP BY 1, 2")
        )
        assert await storage.counts() == {(q, TaskStatus(status)): n for q, status, n in rows}


async def test_many_children_are_written_in_pieces(storage: SqlStorage, queue: SqlQueue) -> None:
    await queue.put("q", some(1))
    [parent] = await queue.claim("q", 1, lease=60)
    children = tuple(some(5_001))
    ending = Ending(parent, TaskStatus.EXECUTED, children=children)
    assert await storage.settle(Settlement(endings=(ending,))) == []
    assert await queue.depth("q") == 5_001


async def test_what_no_row_can_hold_is_refused_whole(storage: SqlStorage) -> None:
    good = some(1)
    for payload in (object(), {"bad": "\ud800"}):
        bad = Task(type="t", queue_id="q", payload=payload)
        with pytest.raises(InvalidTaskError, match="payload"):
            await storage.add([*good, bad])
    with pytest.raises(InvalidTaskError, match="id"):
        await storage.add([*good, Task(type="t", queue_id="q", payload=1, id="")])
    assert await storage.counts() == {}


async def test_an_idle_wait_takes_no_write_lock(storage: SqlStorage, queue: SqlQueue) -> None:
    assert await queue.claim("q", 1, lease=60) == []
    writes = 0
    run = storage.database.write

    async def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal writes
        writes += 1
        return await run(*args, **kwargs)

    storage.database.write = counted  # type: ignore[method-assign]
    assert await queue.claim("q", 1, lease=60, wait=0.3) == []
    assert writes == 0


async def test_a_waiting_claim_wakes_when_a_task_falls_due(
    queue: SqlQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskloom.storage_queue.LOOK_EVERY", 60)  # only the due time can help
    soon = datetime.now(UTC) + timedelta(seconds=0.2)
    await queue.put("q", some(1, execute_at=soon))
    async with asyncio.timeout(20):
        [delivery] = await queue.claim("q", 1, lease=60, wait=60)
    assert datetime.now(UTC) >= soon
    assert isinstance(delivery, Delivery)
