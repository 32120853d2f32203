"""Asking for documents by their ids, however many."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from taskloom.mongodb.rows import Document
from taskloom.mongodb.schema import Collection
from taskloom.mongodb.transacting import Writing

__all__ = ["by_ids", "pieces"]

_PIECE = 100
"""Ids in one statement. MongoDB sends 101 documents at first, so that each is one round trip; the
wheel's server compares every document with every id."""


def pieces(ids: Iterable[str]) -> Iterator[list[str]]:
    """Ids, each once, by the hundred."""
    unique = list(dict.fromkeys(ids))
    for start in range(0, len(unique), _PIECE):
        yield unique[start : start + _PIECE]


async def by_ids(
    at: Writing,
    kept: Collection,
    ids: Iterable[str],
    only: Mapping[str, Any] | None = None,
    **fields: Any,
) -> list[Document]:
    """The documents that exist and whose `fields` are these, each once, in no order.

    `only`: what of each is wanted, as a projection.
    """
    found: list[Document] = []
    for piece in pieces(ids):
        asked = {"_id": {"$in": piece}, **fields}
        found += await kept.find(asked, only, session=at.session).to_list()
    return found
