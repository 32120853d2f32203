"""Cache: small values and locks that workers share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, TypeAlias

from taskloom.interfaces.opening import Opening

__all__ = ["Cache"]

_Keys: TypeAlias = set[str]  # inside the class, `set` is a method


class Cache(Opening, ABC):
    """Values by key, each with a time to live, and locks by key and owner.

    Values are what JSON can hold. A `ttl` is in seconds; None means for ever. Locks and values live
    side by side under the same keys.
    """

    @abstractmethod
    async def get(self, key: str) -> Any:
        """The value, or None when there is none (any more)."""

    @abstractmethod
    async def get_many(self, keys: Sequence[str]) -> dict[str, Any]:
        """The values that exist, by key; one round trip."""

    @abstractmethod
    async def set(self, key: str, value: Any, ttl: float | None = None) -> None:
        """Keep `value` for `ttl` seconds."""

    @abstractmethod
    async def delete(self, key: str) -> None:
        """Forget the key, whoever owns it. Safe to repeat."""

    @abstractmethod
    async def incr(self, key: str, by: int = 1, ttl: float | None = None) -> int:
        """Add `by` atomically, starting at 0, and return the sum.

        `ttl` counts from the first increment.
        """

    @abstractmethod
    async def acquire_many(self, keys: Sequence[str], owner: str, ttl: float) -> _Keys:
        """Lock what is free, or already the owner's, for `ttl` seconds. Returns the keys held.

        Atomic per key: of two owners one wins.
        """

    @abstractmethod
    async def release_many(self, keys: Sequence[str], owner: str) -> None:
        """Unlock those of `keys` that are the owner's; others stay as they are."""
