"""Which records have been read a moment ago: a put that was repeated is one task."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["Seen"]


class Seen:
    """The last `limit` records by task id, each with a hash of its bytes.

    A copy has the same id and the same bytes: what was retried or revived differs, and is no copy.
    In memory: another instance does not know it.
    """

    def __init__(self, limit: int = 100_000) -> None:
        self._limit = limit
        self._known: dict[str, int] = {}

    def is_copy(self, id: str, data: bytes) -> bool:
        """Whether this very record was seen before; it is from now on."""
        mark = hash(data)
        if self._known.get(id) == mark:
            return True
        self._known[id] = mark
        if len(self._known) > self._limit:
            del self._known[next(iter(self._known))]
        return False

    def forget(self, ids: Iterable[str]) -> None:
        """These are to be read again."""
        for id in ids:
            self._known.pop(id, None)
