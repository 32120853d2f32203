"""A Kinesis in the process, for what moto does not do: null iterators, throttling, expired ones,
records past the retention, requests that are carried out in part. Quick, and told what to do.
"""

from __future__ import annotations

import bisect
import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

from botocore.exceptions import ClientError

__all__ = ["FakeKinesis", "FakeShard"]

_WHOLE = 1 << 128


class FakeShard:
    """One shard; `records` as (number, key, data), oldest first."""

    def __init__(self, id: str, first: int, last: int, parents: Sequence[str] = ()) -> None:
        self.id, self.first, self.last, self.parents = id, first, last, tuple(parents)
        self.records: list[tuple[int, str, bytes]] = []
        self.ending: int | None = None
        self.trimmed = 0

    def describe(self) -> dict[str, Any]:
        numbers = {"StartingSequenceNumber": "1"}
        if self.ending is not None:
            numbers["EndingSequenceNumber"] = str(self.ending)
        found: dict[str, Any] = {"ShardId": self.id, "SequenceNumberRange": numbers}
        names = ("ParentShardId", "AdjacentParentShardId")
        return found | dict(zip(names, self.parents, strict=False))


class FakeKinesis:
    """The service, its session and its client in one. Shards page by two.

    `fail[name]` are error codes that the next calls of a method raise; `calls` counts them.
    `refuse` is asked about each record that is put, with its place in the request: an error code
    or None.
    """

    def __init__(self) -> None:
        self.streams: dict[str, dict[str, FakeShard]] = {}
        self.fail: dict[str, list[str]] = {}
        self.refuse: Callable[[int, dict[str, Any]], str | None] = lambda place, record: None
        self.requests: list[list[dict[str, Any]]] = []
        self.calls: Counter[str] = Counter()
        self.generation = 0
        """Iterators of an earlier one have expired."""
        self.empty_reads = 0
        """So many reads come back empty although there is something."""
        self.past_retention = "InvalidArgumentException"
        """What is answered for a place past it: this error, else `empty` reads, or the `oldest`."""
        self._numbers = count(4_959_000_000_000_000_000_001)

    # What a test does

    def stream(self, name: str, shards: int = 1) -> dict[str, FakeShard]:
        edges = [_WHOLE * each // shards for each in range(shards + 1)]
        ids = [f"shardId-{each:012d}" for each in range(shards)]
        found = {
            id: FakeShard(id, first, last)
            for id, first, last in zip(ids, edges[:-1], edges[1:], strict=True)
        }
        self.streams[name] = found
        return found

    def split(self, stream: str, shard_id: str) -> list[FakeShard]:
        shard = self.streams[stream][shard_id]
        middle = (shard.first + shard.last) // 2
        self._close(shard)
        return [
            self._new(stream, shard.first, middle, [shard_id]),
            self._new(stream, middle, shard.last, [shard_id]),
        ]

    def merge(self, stream: str, one: str, other: str) -> FakeShard:
        a, b = self.streams[stream][one], self.streams[stream][other]
        self._close(a)
        self._close(b)
        return self._new(stream, min(a.first, b.first), max(a.last, b.last), [one, other])

    def trim(self, stream: str, shard_id: str, keep: int) -> None:
        """Only the last `keep` records are within the retention."""
        shard = self.streams[stream][shard_id]
        gone = shard.records[: len(shard.records) - keep]
        shard.trimmed = gone[-1][0]
        shard.records = shard.records[len(gone) :]

    def put_raw(self, stream: str, key: str, data: bytes) -> FakeShard:
        place = int(hashlib.md5(key.encode()).hexdigest(), 16)
        shard = next(
            each
            for each in self.streams[stream].values()
            if each.ending is None and each.first <= place < each.last
        )
        shard.records.append((next(self._numbers), key, data))
        return shard

    def _close(self, shard: FakeShard) -> None:
        shard.ending = next(self._numbers)  # as on AWS: later than its last record

    def _new(self, stream: str, first: int, last: int, parents: list[str]) -> FakeShard:
        shards = self.streams[stream]
        shard = FakeShard(f"shardId-{len(shards):012d}", first, last, parents)
        shards[shard.id] = shard
        return shard

    # The session

    @asynccontextmanager
    async def create_client(self, name: str, **options: Any) -> AsyncIterator[FakeKinesis]:
        assert name == "kinesis"
        yield self

    # The client

    async def list_shards(self, **asked: str) -> dict[str, Any]:
        self._called("list_shards")
        name, _, start = (asked.get("NextToken") or f"{asked.get('StreamName')} 0").partition(" ")
        if name not in self.streams:
            raise _error("ResourceNotFoundException")
        every, at = list(self.streams[name].values()), int(start)
        answer: dict[str, Any] = {"Shards": [each.describe() for each in every[at : at + 2]]}
        if at + 2 < len(every):
            answer["NextToken"] = f"{name} {at + 2}"
        return answer

    async def get_shard_iterator(self, **asked: str) -> dict[str, str]:
        self._called("get_shard_iterator")
        shard = self.streams[asked["StreamName"]][asked["ShardId"]]
        after = 0
        if asked["ShardIteratorType"] == "AFTER_SEQUENCE_NUMBER":
            after = int(asked["StartingSequenceNumber"])
            if after < shard.trimmed and self.past_retention == "InvalidArgumentException":
                raise _error(self.past_retention)
        return {"ShardIterator": self._iterator(asked["StreamName"], shard.id, after)}

    async def get_records(self, **asked: Any) -> dict[str, Any]:
        self._called("get_records")
        generation, stream, shard_id, after = asked["ShardIterator"].split()
        if int(generation) != self.generation:
            raise _error("ExpiredIteratorException")
        shard, limit = self.streams[stream][shard_id], asked["Limit"]
        start = bisect.bisect_right(shard.records, int(after), key=lambda record: record[0])
        late = 0 < int(after) < shard.trimmed
        if self.empty_reads or (late and self.past_retention == "empty"):
            self.empty_reads -= not late
            limit = 0
        found = shard.records[start : start + limit]
        last = found[-1][0] if found else int(after)
        is_over = shard.ending is not None and start + len(found) >= len(shard.records)
        return {
            "Records": [
                {"SequenceNumber": str(number), "PartitionKey": key, "Data": data}
                for number, key, data in found
            ],
            "NextShardIterator": None if is_over else self._iterator(stream, shard_id, last),
            "MillisBehindLatest": 86_400_000
            if late
            else 1000 * (len(shard.records) - start - len(found)),
        }

    async def put_records(self, **asked: Any) -> dict[str, Any]:
        self._called("put_records")
        self.requests.append(asked["Records"])
        return {
            "Records": [
                self._put(asked["StreamName"], record, self.refuse(place, record))
                for place, record in enumerate(asked["Records"])
            ]
        }

    def _put(self, stream: str, record: dict[str, Any], code: str | None) -> dict[str, str]:
        if code is not None:
            return {"ErrorCode": code, "ErrorMessage": "refused"}
        shard = self.put_raw(stream, record["PartitionKey"], record["Data"])
        return {"SequenceNumber": str(shard.records[-1][0]), "ShardId": shard.id}

    def _iterator(self, stream: str, shard_id: str, after: int) -> str:
        return f"{self.generation} {stream} {shard_id} {after}"

    def _called(self, name: str) -> None:
        self.calls[name] += 1
        if codes := self.fail.get(name):
            raise _error(codes.pop(0))


def _error(code: str) -> ClientError:
    status = {"ResponseMetadata": {"HTTPStatusCode": 400}}
    return ClientError({"Error": {"Code": code, "Message": code}, **status}, "Test")
