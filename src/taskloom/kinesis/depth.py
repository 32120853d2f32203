"""Depth: what stands in shards that are not read here, found by reading it."""

from __future__ import annotations

from collections.abc import Sequence

from taskloom.errors import QueueUnavailableError, StorageUnavailableError
from taskloom.interfaces.shard_locks import ShardLocks
from taskloom.kinesis.client import KinesisClient
from taskloom.kinesis.holding import lock_key
from taskloom.kinesis.progress import FINISHED, read_progress

__all__ = ["count_unread"]

MOST = 10_000
"""Records that are counted of one shard."""
MOST_READS = 20


async def count_unread(
    client: KinesisClient, locks: ShardLocks, stream: str, shards: Sequence[str] | None
) -> int:
    """How many records follow the checkpoints of `shards` (None: of all); no lock is taken.

    Raises `QueueUnavailableError`.
    """
    if shards is None:
        shards = list((await client.list_shards(stream)).shards)
    return sum([await _count(client, locks, stream, shard_id) for shard_id in shards])


async def _count(client: KinesisClient, locks: ShardLocks, stream: str, shard_id: str) -> int:
    try:
        checkpoint = await locks.get_checkpoint(lock_key(stream, shard_id))
    except StorageUnavailableError as error:
        raise QueueUnavailableError(f"the shard locks of {stream!r}: {error}") from error
    if checkpoint == FINISHED:
        return 0
    progress = read_progress(checkpoint)
    iterator: str | None = await client.iterator(stream, shard_id, progress.mark)
    found = 0
    for _ in range(MOST_READS):
        if iterator is None or found >= MOST:
            break
        page = await client.read(iterator, MOST)
        numbers = [int(each["SequenceNumber"]) for each in page.records]
        found += sum(not progress.is_done(number) for number in numbers)
        iterator = page.iterator if page.behind else None
    return found
