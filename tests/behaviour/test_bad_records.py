"""SPEC 3.5, FAULTS D3, R6: a record that is no task is set aside with its bytes.

Neighbours go on, and people can still look at the rest.
"""

from __future__ import annotations

import sqlite3
from typing import Any

import pytest

from harness import QUEUE, TYPE, Engines, Meddled, Runs, make_task, serving, single
from taskloom import Task, TaskStatus
from taskloom.interfaces import UnreadableRecord

BODIES: dict[str, bytes] = {
    "no UTF-8": b"\xff\xfe\x00\x80",
    "broken JSON": b'{"type": "work", "queue_id": "q", "payl',
    "nothing": b"",
    "a NUL byte": b"\x00",
    "an array": b"[]",
    "a number": b"7",
    "null": b"null",
    "missing fields": b"{}",
    "missing payload": b'{"type": "work", "queue_id": "q"}',
    "a number as type": b'{"type": 7, "queue_id": "q", "payload": null}',
    "a naive time": b'{"type":"work","queue_id":"q","payload":1,"created_at":"2030-01-01T00:00"}',
    "an unknown status": b'{"type":"work","queue_id":"q","payload":1,"status":"resting"}',
    "a text as retries": b'{"type":"work","queue_id":"q","payload":1,"retries":"x"}',
    "10^5 levels": b'{"type":"work","queue_id":"q","payload":'
    + b"[" * 100_000
    + b"]" * 100_000
    + b"}",
    "no UTF-8 inside": b'{"type":"work","queue_id":"q","payload":"\xff\xfe"}',
}


def _damage(engines: Engines, task: Task[Any], column: str, value: Any) -> None:
    """Write into a row behind everybody's back."""
    connection = sqlite3.connect(engines.file)
    try:
        with connection:
            sql = f"UPDATE taskloom_tasks SET {column} = CAST(? AS TEXT) WHERE id = ?"
            assert connection.execute(sql, (value, task.id)).rowcount == 1
    finally:
        connection.close()


async def _damaged(
    engines: Engines, column: str, value: bytes
) -> tuple[Runs, Any, Task[Any], list[Task[Any]]]:
    runs = Runs()
    handler = engines.handler({TYPE: single(runs)})
    tasks = await handler.add_tasks([make_task(n) for n in range(3)])
    _damage(engines, tasks[1], column, value)
    return runs, handler, tasks[1], [tasks[0], tasks[2]]


@pytest.mark.parametrize("why", BODIES)
async def test_3_5_a_record_that_cannot_be_decoded_is_set_aside_and_the_queue_goes_on(
    sqlite: Engines, caplog: pytest.LogCaptureFixture, why: str
) -> None:
    runs, handler, bad, neighbours = await _damaged(sqlite, "body", BODIES[why])
    async with serving(handler):
        await runs.finished.reach(2)
        late = await handler.add_tasks([make_task("later")])
        await runs.finished.reach(3)
    await handler.drain(10)
    assert runs.payloads == [0, 2, "later"]
    (dead,) = await sqlite.storage.dead_records()
    assert (dead.raw, dead.queue_id) == (BODIES[why], QUEUE)
    assert dead.reason
    assert any(record.levelname == "WARNING" for record in caplog.records)
    assert await sqlite.status(bad) is TaskStatus.FAILED
    for task in [*neighbours, *late]:
        assert await sqlite.status(task) is TaskStatus.EXECUTED


@pytest.mark.parametrize("why", BODIES)
async def test_d3_what_cannot_be_decoded_can_still_be_looked_at(sqlite: Engines, why: str) -> None:
    _, handler, bad, _ = await _damaged(sqlite, "body", BODIES[why])
    found = await handler.get_tasks([bad.id])
    assert [task.id for task in found] == [bad.id]
    assert len(await sqlite.storage.search()) == 3


@pytest.mark.parametrize("column", ["id", "type", "status"])
async def test_d3_undecodable_bytes_in_another_column_do_not_stop_the_neighbours(
    sqlite: Engines, column: str
) -> None:
    runs, handler, _, neighbours = await _damaged(sqlite, column, b"\xff\xfe")
    async with serving(handler):
        await runs.finished.reach(2)
    for task in neighbours:
        assert task.payload in runs.payloads


@pytest.mark.parametrize("column", ["stats", "result"])
async def test_d3_undecodable_stats_or_results_can_still_be_looked_at(
    sqlite: Engines, column: str
) -> None:
    runs, handler, bad, _ = await _damaged(sqlite, column, b"\xff{")
    found = await handler.get_tasks([bad.id])
    assert [task.id for task in found] == [bad.id]
    await handler.drain(10)
    assert {0, 2} <= set(runs.payloads)


async def test_d3_what_was_set_aside_can_be_retried_without_harm(sqlite: Engines) -> None:
    runs, handler, bad, _ = await _damaged(sqlite, "body", b"\xff")
    await handler.drain(10)
    await handler.retry_tasks([bad.id])
    await handler.drain(10)
    assert set(runs.payloads) >= {0, 2}
    assert len(await sqlite.storage.dead_records()) == 1


async def test_d3_known_ids_beside_a_damaged_record_can_be_added_again(sqlite: Engines) -> None:
    _, handler, bad, neighbours = await _damaged(sqlite, "body", b"\xff")
    kept = await handler.add_tasks([*neighbours, bad, make_task("new")])
    assert [task.id for task in kept][:3] == [neighbours[0].id, neighbours[1].id, bad.id]


class _WithARecord(Meddled):
    """A queue whose first claim brings a record that is no task."""

    record = UnreadableRecord(b"\xff\x00raw", "no task", ("q", "x", 1), 1, QUEUE)

    async def meddle(self, name: str, work: Any, args: Any, kwargs: Any) -> Any:
        first = name == "queue.claim" and name not in self.names()
        answer = await super().meddle(name, work, args, kwargs)
        return [self.record, *answer] if first else answer


async def test_r6_a_record_is_kept_before_it_is_acknowledged(memory: Engines) -> None:
    parts, runs = _WithARecord(memory.parts), Runs()
    handler = memory.handler({TYPE: single(runs)}, parts=parts)
    await handler.add_tasks([make_task("neighbour")])
    summary = await handler.process_batch(QUEUE)
    assert (summary.claimed, summary.succeeded) == (1, 1)
    assert parts.names("queue.ack", "storage.set_aside")[:2] == ["storage.set_aside", "queue.ack"]
    (dead,) = await memory.storage.dead_records()
    assert dead.raw == b"\xff\x00raw"


async def test_r6_a_record_that_cannot_be_kept_is_not_acknowledged(memory: Engines) -> None:
    parts, runs = _WithARecord(memory.parts), Runs()
    parts.break_down("storage.set_aside")
    handler = memory.handler({TYPE: single(runs)}, parts=parts)
    await handler.add_tasks([make_task("neighbour")])
    async with serving(handler):
        await memory.pass_time(120)
        await runs.finished.reach(1)
    acked = [args[0] for name, args, _ in parts.calls if name == "queue.ack"]
    assert all(_WithARecord.record not in records for records in acked)


async def test_r6_neighbours_of_a_record_that_cannot_be_kept_go_on(memory: Engines) -> None:
    parts, runs = _WithARecord(memory.parts), Runs()
    parts.fail("storage.set_aside")
    handler = memory.handler({TYPE: single(runs)}, parts=parts)
    await handler.add_tasks([make_task("neighbour")])
    assert (await handler.process_batch(QUEUE)).succeeded == 1
    assert runs.payloads == ["neighbour"]
