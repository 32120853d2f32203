"""What PostgreSQL itself can do for asyncpg: one connection, no library, no leases, no history."""

from __future__ import annotations

import asyncio
import json
from time import perf_counter, time_ns

import asyncpg
from uuid_utils import uuid7

from benchmarks.harness import Result
from benchmarks.work import Tally, payload

__all__ = ["add", "drain", "fill"]

BATCH = 100
PER_CALL = 1_000

_SCHEMA = """
CREATE TABLE tasks (
    seq BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, id TEXT COLLATE "C" NOT NULL UNIQUE,
    status TEXT NOT NULL, due_at BIGINT NOT NULL, body TEXT NOT NULL
);
CREATE INDEX tasks_due ON tasks (due_at, seq) WHERE status = 'waiting';
"""
_ADD = """
INSERT INTO tasks (id, status, due_at, body)
SELECT id, 'waiting', due_at, body
FROM unnest($1::text[], $2::bigint[], $3::text[]) AS new(id, due_at, body)
"""
_CLAIM = """
UPDATE tasks SET status = 'running', due_at = $1 + 60000000 WHERE seq IN (
    SELECT seq FROM tasks WHERE status = 'waiting' AND due_at <= $1
    ORDER BY due_at, seq LIMIT $2 FOR UPDATE SKIP LOCKED
) RETURNING seq, body
"""
_FINISH = """
UPDATE tasks SET status = 'done' FROM unnest($1::bigint[]) AS ended(seq)
WHERE tasks.seq = ended.seq
"""


def fill(url: str, tasks: int) -> Result:
    """Put `tasks` tasks into a new table."""
    return add(url, tasks)


def add(url: str, tasks: int) -> Result:
    """`rate` of an INSERT of 1,000 rows from arrays, making the rows included."""
    return {"rate": tasks / asyncio.run(_add(url, tasks))}


async def _add(url: str, tasks: int) -> float:
    conn = await asyncpg.connect(url)
    await conn.execute(_SCHEMA)
    start = perf_counter()
    for first in range(0, tasks, PER_CALL):
        indexes = range(first, min(first + PER_CALL, tasks))
        bodies = [json.dumps(payload(index)) for index in indexes]
        dues = [time_ns() // 1000] * len(bodies)
        await conn.execute(_ADD, [str(uuid7()) for _ in bodies], dues, bodies)
    seconds = perf_counter() - start
    await conn.close()
    return seconds


def drain(url: str, tasks: int) -> Result:
    """`rate` of claiming 100, decoding them, finishing them in one statement, and so on."""
    return {"rate": tasks / asyncio.run(_drain(url, tasks))}


async def _drain(url: str, tasks: int) -> float:
    tally = Tally(tasks, lambda: None)
    conn = await asyncpg.connect(url)
    start = perf_counter()
    while claimed := await conn.fetch(_CLAIM, time_ns() // 1000, BATCH):
        for _, body in claimed:
            tally.ran(json.loads(body)["number"])
        await conn.execute(_FINISH, [seq for seq, _ in claimed])
    seconds = perf_counter() - start
    done = await conn.fetchval("SELECT count(*) FROM tasks WHERE status = 'done'")
    await conn.close()
    tally.check_once()
    assert done == tasks, done
    return seconds
