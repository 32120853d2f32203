"""When things happen, in seconds."""

from __future__ import annotations

from msgspec import Struct

__all__ = ["Timing"]


class Timing(Struct, frozen=True):
    """Intervals of an instance. Tests make them short; all instances should have the same."""

    lock_ttl: float = 35.0
    renew: float = 10.0
    """Between two renewals of a lock."""
    look: float = 2.0
    """Between two looks at who else is there; an instance that is new has its share soon after."""
    beat_ttl: float = 10.0
    """How long an instance counts after it was last heard of."""
    list_shards: float = 10.0
    """Between two listings of shards. One that ends is followed at once."""
    gap: float = 0.2
    """Between two reads of a shard: AWS allows five in a second, to all readers together."""
    idle: float = 1.0
    """Between two reads of a shard that had nothing, without an adaptive strategy."""
    drain: float = 2.0
    """How long a shard that is to go to somebody else waits for what is running of it."""
    margin: float = 0.1
    """The part of a lock's time that is never trusted."""
