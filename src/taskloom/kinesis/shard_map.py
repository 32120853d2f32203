"""The shards of a stream as a family: which may be read now, so that parents come first."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from msgspec import Struct

__all__ = ["Shard", "ShardMap", "shard_of"]


class Shard(Struct, frozen=True):
    """One shard. A split has one parent, a merge has two."""

    id: str
    parents: tuple[str, ...] = ()
    ending: int | None = None
    """The last sequence number it can have; None while it takes records."""


def shard_of(answer: Mapping[str, Any]) -> Shard:
    """A shard as ListShards describes it."""
    names = (answer.get("ParentShardId"), answer.get("AdjacentParentShardId"))
    ending = answer["SequenceNumberRange"].get("EndingSequenceNumber")
    return Shard(
        answer["ShardId"],
        tuple(name for name in names if name),
        None if ending is None else int(ending),
    )


class ShardMap:
    """The shards of one listing, in its order."""

    def __init__(self, shards: Iterable[Shard] = ()) -> None:
        self.shards = {shard.id: shard for shard in shards}

    def readable(self, finished: Collection[str]) -> list[str]:
        """The shards to read: not `finished`, and nothing that came before them is left.

        A parent that is not listed any more is past the retention: nothing of it can be left.
        """
        return [
            shard.id
            for shard in self.shards.values()
            if shard.id not in finished
            and all(each in finished or each not in self.shards for each in shard.parents)
        ]

    def closed(self, finished: Collection[str]) -> list[str]:
        """Shards that take no records any more, but for those `finished`."""
        return [
            shard.id
            for shard in self.shards.values()
            if shard.ending is not None and shard.id not in finished
        ]
