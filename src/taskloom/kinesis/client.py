"""KinesisClient: the calls that the engine makes, with errors translated and every wait bounded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from aiobotocore.config import AioConfig
from msgspec import Struct

from taskloom.errors import ConfigurationError
from taskloom.kinesis.faults import translated
from taskloom.kinesis.records import Outgoing
from taskloom.kinesis.shard_map import ShardMap, shard_of

__all__ = ["KinesisClient", "Page"]

CALL_LIMIT = 10.0
"""Seconds within which every answer must come."""
CONNECT_LIMIT = 3.0
MOST_CONNECTIONS = 100


class Page(Struct, frozen=True):
    """One answer of GetRecords."""

    records: list[Any]
    iterator: str | None
    """Where to go on; None: the shard is closed, and this was its end."""
    behind: float
    """Seconds between these records and the newest ones; 0: there are no newer ones."""


class KinesisClient:
    """One client of an aiobotocore session. It belongs to the event loop that opened it."""

    def __init__(self, session: Any, *, endpoint_url: str | None, region_name: str | None) -> None:
        self.place = f"Kinesis at {endpoint_url}" if endpoint_url else "Kinesis"
        self._session = session
        self._where = {"endpoint_url": endpoint_url, "region_name": region_name}
        self._open = AsyncExitStack()
        self._client: Any = None

    async def open(self) -> None:
        """Make the client; nothing is asked yet. Safe to repeat."""
        if self._client is not None:
            return
        # Retries are ours: who waits must know, and the order of a key depends on it.
        config = AioConfig(
            retries={"total_max_attempts": 1},
            connect_timeout=CONNECT_LIMIT,
            read_timeout=CALL_LIMIT,
            max_pool_connections=MOST_CONNECTIONS,
        )
        with translated(self.place):
            self._client = await self._open.enter_async_context(
                self._session.create_client("kinesis", config=config, **self._where)
            )

    async def close(self) -> None:
        """Let go of connections. Safe to repeat."""
        self._client = None
        await self._open.aclose()

    async def list_shards(self, stream: str) -> ShardMap:
        """All shards that are within the retention, the closed ones too; as many pages as it takes.

        A page's token stands for the stream and is asked for alone; AWS takes it for five minutes.
        Raises `QueueUnavailableError`, also for a stream that does not exist.
        """
        found: list[Any] = []
        async with self._calling() as client:
            answer = await client.list_shards(StreamName=stream)
            found += answer["Shards"]
            while token := answer.get("NextToken"):
                answer = await client.list_shards(NextToken=token)
                found += answer["Shards"]
        return ShardMap(map(shard_of, found))

    async def iterator(self, stream: str, shard_id: str, after: int | None) -> str:
        """Where to read on `after` a sequence number, or from the oldest record.

        Raises `UnknownPlaceError` for a number that AWS finds wrong: of another shard, of a stream
        that had this name before, or, as people saw, past the retention.
        """
        place: dict[str, str] = {"ShardIteratorType": "TRIM_HORIZON"}
        if after is not None:
            place = {
                "ShardIteratorType": "AFTER_SEQUENCE_NUMBER",
                "StartingSequenceNumber": str(after),
            }
        async with self._calling() as client:
            answer = await client.get_shard_iterator(StreamName=stream, ShardId=shard_id, **place)
        iterator: str = answer["ShardIterator"]
        return iterator

    async def read(self, iterator: str, limit: int) -> Page:
        """At most `limit` records; there may be none, and more behind them.

        AWS answers five reads of a shard in a second, to all together, with 2 MiB in a second, and
        gives no iterator at the end of a closed shard (API Reference, GetRecords; November 2026).
        """
        async with self._calling() as client:
            answer = await client.get_records(ShardIterator=iterator, Limit=limit)
        behind = (answer.get("MillisBehindLatest") or 0) / 1000
        return Page(answer["Records"], answer.get("NextShardIterator"), behind)

    async def put(self, stream: str, records: Sequence[Outgoing]) -> list[str | None]:
        """For each record None, if it was taken, or why it was not."""
        entries = [{"Data": record.data, "PartitionKey": record.key} for record in records]
        async with self._calling() as client:
            answer = await client.put_records(StreamName=stream, Records=entries)
        return [each.get("ErrorCode") for each in answer["Records"]]

    @asynccontextmanager
    async def _calling(self) -> AsyncIterator[Any]:
        if self._client is None:
            raise ConfigurationError(
                f"{self.place} is not open: use `async with`, or `await ....open()` first"
            )
        with translated(self.place):
            async with asyncio.timeout(CALL_LIMIT):
                yield self._client
