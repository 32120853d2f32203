"""How many shards each instance holds: a pure function that all instances compute alike."""

from __future__ import annotations

from collections.abc import Collection

__all__ = ["share"]


def share(shards: int, instances: Collection[str], me: str) -> int:
    """How many of `shards` are for `me`, one of `instances`. Counts differ by at most one.

    What does not divide evenly goes to those first in order. Names sort by the time an instance
    started, so a new one comes last and nobody's share grows at its coming; when one goes, nobody's
    share shrinks. So no shard changes hands but those of the one that comes or goes.
    """
    ordered = sorted({*instances, me})
    return (shards + len(ordered) - 1 - ordered.index(me)) // len(ordered)
