"""Engines on a SQL database: SQLite, the embedded default, and PostgreSQL."""

from taskloom.sql.cache import SqlCache
from taskloom.sql.database import SqlDatabase
from taskloom.sql.entity_projections import SqlProjections
from taskloom.sql.flow_barrier import SqlFlowBarrier
from taskloom.sql.queue import SqlQueue
from taskloom.sql.shard_locks import SqlShardLocks
from taskloom.sql.storage import SqlStorage

__all__ = [
    "SqlCache",
    "SqlDatabase",
    "SqlFlowBarrier",
    "SqlProjections",
    "SqlQueue",
    "SqlShardLocks",
    "SqlStorage",
]
