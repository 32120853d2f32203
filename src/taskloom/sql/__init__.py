"""Engines on a SQL database: SQLite, the embedded default."""

from taskloom.sql.cache import SqlCache
from taskloom.sql.database import SqlDatabase
from taskloom.sql.queue import SqlQueue
from taskloom.sql.storage import SqlStorage

__all__ = ["SqlCache", "SqlDatabase", "SqlQueue", "SqlStorage"]
