"""Settling the parts of a plan each by itself, where somebody holds a record of one of them.

A worker that dies within a transaction holds what it wrote until the server gives the transaction
up, a minute later unless the server was told otherwise. What has nothing to do with it goes on.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

from msgspec.structs import replace

from taskloom.mongodb.faults import InTheWayError
from taskloom.mongodb.transacting import FEW_ATTEMPTS
from taskloom.outcomes import Settlement

__all__ = ["settle_apart"]

T = TypeVar("T")


async def settle_apart(
    plan: Settlement, settle: Callable[[Settlement, int | None], Awaitable[T]]
) -> list[T]:
    """`settle(plan, attempts)`, or that of each part; the answers.

    Raises `InTheWayError` once all parts were tried, if one could not be written: the whole is to
    be repeated then, which passes over those that were.
    """
    try:
        return [await settle(plan, None)]
    except InTheWayError:
        if len(plan.endings) < 2:
            raise
    answers: list[T] = []
    held: InTheWayError | None = None
    for part in _parts(plan):
        try:
            answers.append(await settle(part, FEW_ATTEMPTS))
        except InTheWayError as error:
            held = error
    if held is not None:
        raise held
    return answers


def _parts(plan: Settlement) -> Iterator[Settlement]:
    for ending in plan.endings:
        yield Settlement((ending,), fenced=plan.fenced, projecting=plan.projecting)
    yield replace(plan, endings=())
