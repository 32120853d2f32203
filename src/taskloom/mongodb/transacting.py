"""Transactions where the deployment has them; where not, the same steps one after the other."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from msgspec import Struct
from pymongo import AsyncMongoClient, WriteConcern
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.errors import PyMongoError
from pymongo.read_concern import ReadConcern

from taskloom.mongodb.faults import is_conflict

__all__ = ["FEW_ATTEMPTS", "Writing", "in_transaction"]

T = TypeVar("T")

_ATTEMPTS = 12
"""Of a transaction that others get in the way of; together they take about two seconds."""
FEW_ATTEMPTS = 4
"""Where many wait behind it: a few hundredths."""


class Writing(Struct, frozen=True):
    """Where work writes: inside a transaction, or (no session) each step for itself."""

    session: AsyncClientSession | None = None
    careful: bool = False
    """An insert found its `_id` taken, which ends a transaction: look before inserting."""


async def in_transaction(
    client: AsyncMongoClient[Any],
    work: Callable[[Writing], Awaitable[T]],
    attempts: int | None = None,
) -> T:
    """`work` as one transaction, again where another one got in its way.

    The driver's own `with_transaction` goes on for two minutes, also while the server is away.
    """
    attempts = attempts or _ATTEMPTS
    async with client.start_session() as session:
        for attempt in range(attempts):
            try:
                async with await session.start_transaction(
                    ReadConcern("snapshot"), WriteConcern("majority")
                ):
                    return await work(Writing(session, careful=attempt > 0))
            except PyMongoError as error:
                if attempt == attempts - 1 or not is_conflict(error):
                    raise
            # Jitter: those who met once must not meet again.
            await asyncio.sleep(random.uniform(0.0, 0.002 * 2 ** min(attempt, 7)))
    raise AssertionError("the last attempt returns or raises")
