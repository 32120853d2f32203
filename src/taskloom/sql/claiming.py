"""Claims as transactions: of tasks that are too big together, fewer at a time."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy.exc import DBAPIError

from taskloom.sql import claims
from taskloom.sql.claims import Claimed
from taskloom.sql.database import SqlDatabase
from taskloom.sql.faults import is_too_big

__all__ = ["claim", "take_over"]


async def claim(
    database: SqlDatabase, queue_id: str | None, limit: int, now: int, until: int
) -> list[Claimed]:
    """Lease at most `limit` due tasks, of a queue or of all; see `claims`."""
    while True:
        try:
            if queue_id is None:
                return await database.write(claims.claim_any, limit, now, until)
            return await database.write_at_once(claims.claim, queue_id, limit, now, until)
        except DBAPIError as error:
            if limit == 1 or not is_too_big(error):
                raise
        limit //= 2


async def take_over(
    database: SqlDatabase, ids: Sequence[str], now: int, until: int
) -> list[Claimed]:
    """Lease tasks by id, whoever held them; see `claims`."""
    try:
        return await database.write(claims.take_over, ids, now, until)
    except DBAPIError as error:
        if len(ids) == 1 or not is_too_big(error):
            raise
    half = len(ids) // 2
    first = await take_over(database, ids[:half], now, until)
    return first + await take_over(database, ids[half:], now, until)
