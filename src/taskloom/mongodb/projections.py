"""Rows of entity projections as documents; in each, what is JSON stands as bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import UNSET

from taskloom.codec import decode, encode
from taskloom.mongodb.asking import by_ids
from taskloom.mongodb.changing import rewrite
from taskloom.mongodb.rows import Document, entity_name, micros, moment
from taskloom.mongodb.schema import Collection
from taskloom.mongodb.transacting import Writing
from taskloom.projections import EntityTaskProjection, may_become
from taskloom.task import EntityRef

__all__ = ["fetch", "of_entity", "upsert"]


async def upsert(at: Writing, kept: Collection, entries: Sequence[EntityTaskProjection]) -> None:
    """Write rows by `task_id`; what would go back is passed over."""
    by_id: dict[str, list[Document]] = {}
    for entry in entries:
        by_id.setdefault(entry.task_id, []).append(_document(entry))

    def merged(id: str, old: Document | None) -> Document | None:
        now = old
        for new in by_id[id]:
            if now is None:
                now = new
            elif may_become(now["status"], new["status"]):
                now = _over(now, new)
        return None if now is old else now

    await rewrite(at, kept, list(by_id), merged)


def _over(old: Document, new: Document) -> Document:
    said = ("status", "updated", "error", "result")
    kept = {name: value for name, value in old.items() if name not in said}
    changes = {name: new[name] for name in said if name in new}
    payload = {name: each[name] for each in (new, old) for name in ("payload",) if name in each}
    return {**kept, **changes, **payload}


def _document(entry: EntityTaskProjection) -> Document:
    given: dict[str, Any] = {
        "_id": entry.task_id,
        "entity": entity_name(EntityRef(entry.entity_id, entry.entity_type)),
        "type": entry.task_type,
        "queue": entry.queue_id,
        "status": entry.status,
        "created": micros(entry.created_at),
        "updated": micros(entry.updated_at),
        "payload": None if entry.payload is UNSET else encode(entry.payload),
        "error": entry.error,
        "result": None if entry.result is UNSET else encode(entry.result),
    }
    return {name: value for name, value in given.items() if value is not None}


async def fetch(kept: Collection, ids: Sequence[str]) -> dict[str, EntityTaskProjection]:
    """The rows that exist, by task id."""
    return {each["_id"]: _read(each) for each in await by_ids(Writing(), kept, ids)}


async def of_entity(kept: Collection, entity: EntityRef, limit: int) -> list[EntityTaskProjection]:
    """At most `limit` rows of one entity, the last changed first."""
    if limit <= 0:  # to MongoDB 0 means all
        return []
    found = kept.find({"entity": entity_name(entity)}).sort([("updated", -1), ("_id", -1)])
    return [_read(each) async for each in found.limit(limit)]


def _read(found: Document) -> EntityTaskProjection:
    """The row of a document; a new value that nobody else holds."""
    entity_type, _, entity_id = found["entity"].partition("\x1f")
    return EntityTaskProjection(
        found["_id"],
        entity_id,
        entity_type,
        found["type"],
        found["queue"],
        found["status"],
        moment(found["created"]),
        moment(found["updated"]),
        decode(found["payload"]) if "payload" in found else UNSET,
        found.get("error"),
        decode(found["result"]) if "result" in found else UNSET,
    )
