"""The collections and their indexes.

Seen on the server of the wheel secantusdb 0.7.0b3, which takes a partial index only where the query
spells out its condition; so does every query here, and MongoDB's planner takes it as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from bson.codec_options import CodecOptions
from pymongo import ASCENDING, DESCENDING, IndexModel, ReadPreference, WriteConcern
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.read_concern import ReadConcern

from taskloom.errors import ConfigurationError
from taskloom.mongodb.rows import Document

__all__ = ["EVER", "Collection", "Collections", "claimable", "create_indexes", "upgrade_indexes"]

Collection = AsyncCollection[Document]

EVER = -(2**62)
"""Earlier than every time: who asks for what is later asks for what has a time at all."""
_QUICK = 100_000
"""Documents up to which making an index takes about a second."""


def claimable(now: int | None = None) -> Document:
    """The condition that a task may be claimed by now, or at any time."""
    later: Document = {"$gt": EVER}
    # Not `$lte`: of an index the wheel's server then leaves out what is equal.
    return {"due": later if now is None else {**later, "$lt": now + 1}}


def _there(field: str) -> Document:
    return {field: {"$gt": EVER}}


_INDEXES = {
    "tasks": [
        # What is due, in order. Without the rows that have ended: those are in no backlog.
        IndexModel(
            [("queue", ASCENDING), ("due", ASCENDING), ("seq", ASCENDING)],
            name="due",
            partialFilterExpression=_there("due"),
        ),
        IndexModel(
            [("status", ASCENDING), ("updated", ASCENDING), ("queue", ASCENDING)], name="status"
        ),
        IndexModel([("created", DESCENDING), ("_id", DESCENDING)], name="newest"),
        IndexModel(
            [("entity", ASCENDING), ("created", DESCENDING)],
            name="entity",
            partialFilterExpression={"entity": {"$gt": ""}},
        ),
        IndexModel(
            [("expires", ASCENDING)], name="expires", partialFilterExpression=_there("expires")
        ),
    ],
    "dead": [IndexModel([("at", DESCENDING)], name="newest")],
    "flows": [
        IndexModel([("started", DESCENDING), ("_id", DESCENDING)], name="newest"),
        IndexModel([("state", ASCENDING), ("ended", ASCENDING)], name="ready"),
        IndexModel([("sent", ASCENDING)], name="sent", partialFilterExpression=_there("sent")),
    ],
    "flow_steps": [IndexModel([("flow", ASCENDING), ("index", ASCENDING)], name="flow")],
    "projections": [
        IndexModel([("entity", ASCENDING), ("updated", DESCENDING)], name="entity"),
    ],
    # The server deletes what is over; until it has, `until` says so.
    "cache": [IndexModel([("gone", ASCENDING)], name="gone", expireAfterSeconds=0)],
}


class Collections(NamedTuple):
    """Everything that Taskloom keeps in one database."""

    tasks: Collection
    dead: Collection
    workers: Collection
    flows: Collection
    flow_steps: Collection
    projections: Collection
    cache: Collection
    shards: Collection

    @classmethod
    def within(cls, database: AsyncDatabase[Any], prefix: str) -> Collections:
        """Those of `prefix`, whatever the client was set to.

        Reads go to the primary and writes wait for a majority: what a replica has not heard of, and
        what a failover can undo, is no answer.
        """
        options: dict[str, Any] = {
            "codec_options": CodecOptions(unicode_decode_error_handler="backslashreplace"),
            "read_preference": ReadPreference.PRIMARY,
            "write_concern": WriteConcern("majority"),
            "read_concern": ReadConcern("local"),
        }
        return cls(*(database.get_collection(prefix + name, **options) for name in cls._fields))


async def create_indexes(collections: Collections, place: str) -> None:
    """Make the indexes that are missing, where that is quick. Safe from many processes at once.

    Raises `ConfigurationError` where it would take long.
    """
    lacking = await _lacking(collections)
    for collection in lacking.values():
        if await collection.estimated_document_count() > _QUICK:
            raise ConfigurationError(
                f"{place}: indexes of {collection.name} are missing, and making them may take "
                f"long. Run: taskloom init --url {place}"
            )
    await _create(lacking)


async def upgrade_indexes(collections: Collections) -> None:
    """As `create_indexes`, however long it takes."""
    await _create(await _lacking(collections))


async def _create(lacking: Mapping[str, Collection]) -> None:
    for name, collection in lacking.items():
        await collection.create_indexes(_INDEXES[name])


async def _lacking(collections: Collections) -> dict[str, Collection]:
    """The collections that do not have all their indexes."""
    lacking: dict[str, Collection] = {}
    # One after the other: all at once would open a connection for each.
    for name, indexes in _INDEXES.items():
        collection: Collection = getattr(collections, name)
        known = await collection.index_information()
        if not {index.document["name"] for index in indexes} <= known.keys():
            lacking[name] = collection
    return lacking
