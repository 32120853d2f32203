"""The tables. Times are microseconds since the epoch, UTC; everything else is text or a number.

Whoever changes them raises `SCHEMA_VERSION` and adds the step to `upgrades`.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    or_,
)

from taskloom.task import TaskStatus

__all__ = [
    "ENDED_ODDLY",
    "SCHEMA_VERSION",
    "cache",
    "dead_records",
    "flow_steps",
    "flows",
    "meta",
    "metadata",
    "projections",
    "shard_locks",
    "shard_readers",
    "spell_for_postgres",
    "tallies",
    "tasks",
    "workers",
]

SCHEMA_VERSION = 4

metadata = MetaData()

# SQLite numbers rows by itself only where the key is spelled INTEGER.
_Serial = BigInteger().with_variant(Integer(), "sqlite")
# By code points, as Python and SQLite compare: a language's order costs PostgreSQL more.
_Key = Text().with_variant(Text(collation="C"), "postgresql")

# PostgreSQL copies a row at each change, so vacuum comes after a small share of the table, which is
# mostly history. To give empty pages back it would lock everybody out, and soon they are needed.
_CHURNING = {
    "autovacuum_vacuum_scale_factor": 0.01,
    "autovacuum_analyze_scale_factor": 0.02,
    "autovacuum_vacuum_cost_limit": 2000,
}
_TASKS = {**_CHURNING, "vacuum_truncate": "false"}
# A change of what no index speaks of touches none, as long as the copy has room on the row's page.
# With `tasks` no room would help: to be claimed and to end is to change place in an index.
_COUNTING = {**_CHURNING, "fillfactor": 50}
_PROJECTED = {**_CHURNING, "fillfactor": 85}


def _partial(name: str, *columns: Column[Any], where: ColumnElement[bool]) -> Index:
    """An index of the rows for which `where` holds, and of no others."""
    return Index(name, *columns, sqlite_where=where, info={"where": where})


def spell_for_postgres() -> None:
    """Say in PostgreSQL's words what was said in SQLite's. Safe to repeat.

    Not from the start: they load the dialect, which takes as long as all the rest of Taskloom.
    """
    for table in metadata.tables.values():
        table.dialect_kwargs["postgresql_with"] = table.info.get("with", {})
        for index in table.indexes:
            if (where := index.info.get("where")) is not None:
                index.dialect_kwargs["postgresql_where"] = where


tasks = Table(
    "taskloom_tasks",
    metadata,
    Column("seq", _Serial, primary_key=True, autoincrement=True),
    Column("id", _Key, nullable=False),
    Column("queue_id", _Key, nullable=False),
    Column("type", _Key, nullable=False),
    Column("status", _Key, nullable=False),
    # When the row may be claimed (again): the time to run while it waits, the end of the lease
    # while it is processed, NULL when it is not to be claimed.
    Column("due_at", BigInteger),
    # `due_at` as it was while the row waited, so that a claim can be put in order.
    Column("was_due", BigInteger),
    # A claim increases it, and so does every other change but the settle by the lease's owner.
    Column("epoch", BigInteger, nullable=False, server_default="0"),
    Column("deliveries", Integer, nullable=False, server_default="0"),
    Column("expires_at", BigInteger),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    # NULL: as `body` says.
    Column("started_at", BigInteger),
    Column("entity_id", _Key),
    Column("entity_type", _Key),
    # The task as JSON, complete as far as no column here differs. Empty: it was set aside.
    Column("body", Text, nullable=False),
    # `execution_stats` and `execution_result` as an ending wrote them; NULL: as `body` says.
    Column("stats", Text),
    Column("result", Text),
    UniqueConstraint("id", name="taskloom_tasks_id"),
    info={"with": _TASKS},
)

ENDED_ODDLY = (
    TaskStatus.QUEUED,
    TaskStatus.FAILED,
    TaskStatus.EXPIRED,
    TaskStatus.IGNORED,
    TaskStatus.CANCELLED,
)
"""What stands in the index of statuses: all that is neither claimable nor simply executed."""

_c = tasks.c

# One index for waiting tasks and expired leases alike; what has ended is not in it. Claims go by
# `due_at` and `seq`, with which every index of SQLite ends anyway.
_waiting = _c.due_at.is_not(None)
_partial("taskloom_tasks_due", _c.queue_id, _c.due_at, where=_waiting).ddl_if(dialect="sqlite")
_partial("taskloom_tasks_due", _c.queue_id, _c.due_at, _c.seq, where=_waiting).ddl_if(
    dialect="postgresql"
)
# What is under a lease, so that upkeep finds the lapsed ones without walking what waits.
_leased = _c.status == TaskStatus.PROCESSING.value
_partial("taskloom_tasks_leased", _c.due_at, where=_leased)
# Spelled with OR: SQLite sees that `status = 'failed'` is covered by it, with IN it does not.
_oddly = or_(*(_c.status == status.value for status in ENDED_ODDLY))
_partial("taskloom_tasks_status", _c.status, _c.created_at, where=_oddly)
# This and the next grow at their end only, which is cheap. Searches show the newest first.
Index("taskloom_tasks_created", _c.created_at)
# Without it every upkeep would read the whole table.
_partial("taskloom_tasks_executed", _c.updated_at, where=_c.status == TaskStatus.EXECUTED.value)
_partial("taskloom_tasks_expiring", _c.expires_at, where=_c.expires_at.is_not(None))
_of_entity = _c.entity_id.is_not(None)
_partial("taskloom_tasks_entity", _c.entity_id, _c.entity_type, where=_of_entity)

# How many tasks ended in each status. Several slots can share one sum, so that writers of an
# engine with row locks do not queue up behind one row.
tallies = Table(
    "taskloom_tallies",
    metadata,
    Column("queue_id", _Key, primary_key=True),
    Column("status", _Key, primary_key=True),
    Column("slot", Integer, primary_key=True, autoincrement=False),
    Column("n", BigInteger, nullable=False),
    info={"with": _COUNTING},
)

dead_records = Table(
    "taskloom_dead_records",
    metadata,
    Column("seq", _Serial, primary_key=True, autoincrement=True),
    Column("digest", _Key, nullable=False, unique=True),
    Column("queue_id", _Key, nullable=False),
    Column("raw", LargeBinary, nullable=False),
    Column("reason", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
)

workers = Table(
    "taskloom_workers",
    metadata,
    Column("worker_id", _Key, primary_key=True),
    Column("body", Text, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
)

# Values and locks side by side: `owner` is set for locks. NULL in `expires_at`: for ever.
cache = Table(
    "taskloom_cache",
    metadata,
    Column("key", _Key, primary_key=True),
    Column("value", Text),
    Column("owner", Text),
    Column("expires_at", BigInteger),
    info={"with": _CHURNING},
)

_partial("taskloom_cache_over", cache.c.expires_at, where=cache.c.expires_at.is_not(None))

# `schema_version`, and `database`: a name that no other database has.
meta = Table(
    "taskloom_meta",
    metadata,
    Column("key", _Key, primary_key=True),
    Column("value", Text, nullable=False),
)

# `counted` and `failed` grow with the steps, so that nobody has to count those.
flows = Table(
    "taskloom_flows",
    metadata,
    Column("flow_id", _Key, primary_key=True),
    Column("total", Integer, nullable=False),
    Column("counted", Integer, nullable=False),
    Column("failed", Integer, nullable=False),
    Column("state", Text, nullable=False),
    # How it ended; NULL while it is open.
    Column("end_", Text),
    # The index of the step whose failure aborted it.
    Column("trigger", Integer),
    # The join without results, as JSON; NULL: it was opened without one.
    Column("join_body", Text),
    Column("started_at", BigInteger, nullable=False),
    Column("ended_at", BigInteger),
    Column("sent_at", BigInteger),
    info={"with": _COUNTING},
)

# Searches show the newest first.
Index("taskloom_flows_started", flows.c.started_at)
_partial("taskloom_flows_ready", flows.c.ended_at, where=flows.c.state == "ready")
_partial("taskloom_flows_sent", flows.c.sent_at, where=flows.c.sent_at.is_not(None))

# Read only when a join is made. `result` and `error` are JSON: a text may hold a NUL.
flow_steps = Table(
    "taskloom_flow_steps",
    metadata,
    Column("flow_id", _Key, primary_key=True),
    Column("step_index", Integer, primary_key=True, autoincrement=False),
    Column("status", _Key, nullable=False),
    Column("result", Text, nullable=False),
    Column("error", Text, nullable=False),
)

# What tasks on entities have come to; the key is a task's id, or a flow's.
projections = Table(
    "taskloom_projections",
    metadata,
    Column("task_id", _Key, primary_key=True),
    Column("entity_id", _Key, nullable=False),
    Column("entity_type", _Key, nullable=False),
    Column("task_type", _Key, nullable=False),
    Column("queue_id", _Key, nullable=False),
    Column("status", _Key, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    # Payload and result as JSON. NULL: none was given, which is not `null`.
    Column("payload", Text),
    Column("error", Text),
    Column("result", Text),
    info={"with": _PROJECTED},
)

# Without `updated_at`, by which an entity's few rows are sorted: so no change of a row touches it.
Index(
    "taskloom_projections_entity",
    projections.c.entity_type,
    projections.c.entity_id,
)

# Which instance reads a shard of a stream, and how far it has come; the checkpoint is JSON.
shard_locks = Table(
    "taskloom_shard_locks",
    metadata,
    Column("key", _Key, primary_key=True),
    Column("owner", _Key),
    Column("expires_at", BigInteger),
    Column("checkpoint", Text),
    info={"with": _COUNTING},
)

shard_readers = Table(
    "taskloom_shard_readers",
    metadata,
    Column("stream", _Key, primary_key=True),
    Column("instance", _Key, primary_key=True),
    Column("expires_at", BigInteger, nullable=False),
    info={"with": _COUNTING},
)
