"""PostgreSQL: how it looks up the rows of a batch, as planned once and kept for every batch.

A connection keeps the plan it made while the tables were small. None may read a table from end to
end, or the batch once more for each row of a table.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from sqlalchemy import Connection
from sqlalchemy.dialects.postgresql.asyncpg import dialect

from taskloom.sql import (
    SqlDatabase,
    cache_rows,
    changing,
    claims,
    flows,
    postgres,
    postgres_connections,
    settling,
)

STATEMENTS = {
    "lease due": claims._lease_due,
    "of_ids": claims._of_ids,
    "leased": claims._leased,
    "bodies": claims._bodies,
    "extend": claims._extend,
    "release": claims._release,
    "put back": claims._put_back,
    "in force": claims._in_force,
    "end": settling._end,
    "end alike": settling._end_alike,
    "end free": settling._end_free,
    "states": settling._states,
    "fetch": changing._fetch,
    "lock all": changing._lock_all,
    "keep": changing._keep,
    "values": cache_rows._values,
    "unlock": cache_rows._unlock,
    "flows": flows._lock,
    "flow steps": flows._steps,
    "write flows": flows._write,
}
_FILL = """
    INSERT INTO taskloom_tasks
        (id, queue_id, type, status, due_at, epoch, created_at, updated_at, body)
        SELECT 'id-' || n, 'q', 't', 'processing', n, 1, n, n, '{}' FROM generate_series($1, $2) n;
    INSERT INTO taskloom_cache (key, owner) SELECT n, 'me' FROM generate_series($1, $2) n;
    INSERT INTO taskloom_flows (flow_id, total, counted, failed, state, started_at)
        SELECT n, 1, 0, 0, 'open', n FROM generate_series($1, $2) n;
    INSERT INTO taskloom_flow_steps SELECT n, 1, '', '', '' FROM generate_series($1, $2) n
"""


@pytest.fixture
async def conn(postgres_url: str) -> AsyncIterator[Any]:
    async with SqlDatabase.from_url(postgres_url):
        pass
    conn = await asyncpg.connect(postgres_url, server_settings=postgres._SETTINGS)
    yield conn
    await conn.close()


async def fill(conn: Any, last: int, *, first: int = 1) -> None:
    for statement in _FILL.replace("$1", str(first)).replace("$2", str(last)).split(";"):
        await conn.execute(statement)


async def plan_of(conn: Any, name: str) -> str:
    compiled = STATEMENTS[name]().compile(dialect=dialect())
    prepared = f'"{name}"'
    nothing = ", ".join(["NULL"] * len(compiled.positiontup or ()))
    await conn.execute(f"PREPARE {prepared} AS {compiled.string}")
    lines = await conn.fetch(f"EXPLAIN EXECUTE {prepared}({nothing})")
    await conn.execute(f"DEALLOCATE {prepared}")
    return "\n".join(line for (line,) in lines)


@pytest.mark.parametrize("rows", [0, 50])
async def test_a_batch_is_looked_up_by_an_index(conn: Any, rows: int) -> None:
    if rows:
        await fill(conn, rows)
        await conn.execute("VACUUM ANALYZE")
    for name in STATEMENTS:
        plan = await plan_of(conn, name)
        scans = re.findall(r"(\w+ Scan)[^\n]* on taskloom_\w+[^\n]*\n *(\w+ Cond)?", plan)
        assert scans, plan
        assert all(cond for _, cond in scans), f"{name}: {plan}"


async def test_plans_do_not_outlive_a_table_that_was_nearly_empty(
    conn: Any, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_connections, "PLANS_LAST", 0.0)
    await conn.execute("ALTER TABLE taskloom_tasks SET (autovacuum_enabled = false)")
    await fill(conn, 1)
    await conn.execute("VACUUM ANALYZE")

    def fetched(conn: Connection) -> int:
        assert claims.extend(conn, [(f"id-{n}", 1) for n in range(1, 3)], 9)[1:] == []
        query = "SELECT idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relname = "
        found: int = conn.exec_driver_sql(query + "'taskloom_tasks'").scalar_one()
        return found

    async with SqlDatabase.from_url(postgres_url) as database:
        for _ in range(10):  # PostgreSQL keeps a plan after the fifth time
            await database.write(fetched)
        await fill(conn, 5_000, first=2)
        assert await database.write(fetched) < 100
