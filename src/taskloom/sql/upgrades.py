"""The steps from one version of the tables to the next, in order.

A step is for databases as the version before made them; `schema` is what all steps together come
to. Once released it is never changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import Connection

__all__ = ["OLDEST", "UPGRADES", "Upgrade"]

OLDEST = 2
"""The version that the first step starts from."""


class Upgrade(NamedTuple):
    """One step. Its statements run in one transaction, with all that follow."""

    version: int
    """What the tables are afterwards."""
    is_quick: bool
    """No matter how many rows there are it takes no time, and workers of the version before can go
    on beside it: whoever opens the database does it in passing. Otherwise people do."""
    sqlite: Sequence[str] = ()
    postgresql: Sequence[str] = ()

    def statements(self, conn: Connection) -> Sequence[str]:
        """What to execute on this database."""
        return self.postgresql if conn.dialect.name == "postgresql" else self.sqlite


UPGRADES = (
    Upgrade(
        3,
        is_quick=True,
        sqlite=("INSERT INTO taskloom_meta VALUES ('database', lower(hex(randomblob(16))))",),
        postgresql=(
            "INSERT INTO taskloom_meta "
            "VALUES ('database', replace(CAST(gen_random_uuid() AS TEXT), '-', ''))",
            "ALTER TABLE taskloom_tasks SET (vacuum_truncate = false)",
            "ALTER TABLE taskloom_projections SET (autovacuum_vacuum_scale_factor = 0.01, "
            "autovacuum_analyze_scale_factor = 0.02, autovacuum_vacuum_cost_limit = 2000, "
            "fillfactor = 85)",
        ),
    ),
    Upgrade(
        4,
        is_quick=True,
        sqlite=(
            'CREATE TABLE taskloom_shard_locks ( "key" TEXT NOT NULL, owner TEXT, '
            'expires_at BIGINT, checkpoint TEXT, PRIMARY KEY ("key") )',
            "CREATE TABLE taskloom_shard_readers ( stream TEXT NOT NULL, instance TEXT NOT NULL, "
            "expires_at BIGINT NOT NULL, PRIMARY KEY (stream, instance) )",
        ),
        postgresql=(
            'CREATE TABLE taskloom_shard_locks (key TEXT COLLATE "C" NOT NULL, '
            'owner TEXT COLLATE "C", expires_at BIGINT, checkpoint TEXT, PRIMARY KEY (key)) '
            "WITH (autovacuum_vacuum_scale_factor = 0.01, autovacuum_analyze_scale_factor = 0.02, "
            "autovacuum_vacuum_cost_limit = 2000, fillfactor = 50)",
            'CREATE TABLE taskloom_shard_readers (stream TEXT COLLATE "C" NOT NULL, '
            'instance TEXT COLLATE "C" NOT NULL, expires_at BIGINT NOT NULL, '
            "PRIMARY KEY (stream, instance)) "
            "WITH (autovacuum_vacuum_scale_factor = 0.01, autovacuum_analyze_scale_factor = 0.02, "
            "autovacuum_vacuum_cost_limit = 2000, fillfactor = 50)",
        ),
    ),
)
