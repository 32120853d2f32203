"""What MongoDB itself can do for pymongo: claims of 100 by a mark: no library, fence or lease."""

from __future__ import annotations

import json
from time import perf_counter
from typing import Any
from uuid import uuid4

from pymongo import ASCENDING, MongoClient
from pymongo.collection import Collection

from benchmarks.harness import Result
from benchmarks.work import Tally, payload

__all__ = ["add", "drain", "fill"]

BATCH = 100
PER_CALL = 1_000
_WAITS, _TAKEN, _DONE = 0, 1, 2


def fill(url: str, tasks: int) -> Result:
    """Put `tasks` documents into a collection."""
    return add(url, tasks)


def add(url: str, tasks: int) -> Result:
    """`rate` of inserts, 1,000 at once, making the bodies included."""
    with MongoClient[dict[str, Any]](url) as client:
        kept = client.get_default_database()["raw"]
        kept.create_index([("state", ASCENDING), ("due", ASCENDING)])
        start = perf_counter()
        for first in range(0, tasks, PER_CALL):
            last = min(first + PER_CALL, tasks)
            kept.insert_many([_document(index) for index in range(first, last)], ordered=False)
        seconds = perf_counter() - start
        assert kept.count_documents({"state": _WAITS}) == tasks
    return {"rate": tasks / seconds}


def _document(index: int) -> dict[str, Any]:
    body = json.dumps(payload(index)).encode()
    return {"_id": uuid4().hex, "state": _WAITS, "due": index, "body": body}


def drain(url: str, tasks: int) -> Result:
    """`rate` of finding 100, marking them, reading and decoding them, and marking them as done."""
    tally = Tally(tasks, lambda: None)
    with MongoClient[dict[str, Any]](url) as client:
        kept = client.get_default_database()["raw"]
        start = perf_counter()
        while taken := _taken(kept):
            for each in taken:
                tally.ran(json.loads(each["body"])["number"])
            done = {"_id": {"$in": [each["_id"] for each in taken]}}
            kept.update_many(done, {"$set": {"state": _DONE}})
        seconds = perf_counter() - start
        assert kept.count_documents({"state": _DONE}) == tasks
    tally.check_once()
    return {"rate": tasks / seconds}


def _taken(kept: Collection[dict[str, Any]]) -> list[dict[str, Any]]:
    found = kept.find({"state": _WAITS}, {"_id": 1}).sort("due").limit(BATCH)
    ids, mark = [each["_id"] for each in found], uuid4().hex
    if not ids:
        return []
    wanted = {"_id": {"$in": ids}, "state": _WAITS}
    kept.update_many(wanted, {"$set": {"state": _TAKEN, "mark": mark}})
    return list(kept.find({"_id": {"$in": ids}, "mark": mark}))
