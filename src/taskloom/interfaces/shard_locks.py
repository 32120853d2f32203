"""ShardLocks: which instance reads a shard, and how far it has come."""

from __future__ import annotations

from abc import ABC, abstractmethod

from taskloom.interfaces.opening import Opening

__all__ = ["ShardLocks"]


class ShardLocks(Opening, ABC):
    """Locks by key, each with a checkpoint, and the instances that live, by stream.

    An `owner` is one instance since its start, never a name that comes again: that keeps an
    instance which lost its lock from moving the checkpoint. A `ttl` is in seconds. Each method is
    atomic and safe to repeat; all raise `StorageUnavailableError`.
    """

    @abstractmethod
    async def acquire_lock(self, key: str, owner: str, ttl: float) -> bool:
        """Lock what is free, or already the owner's, for `ttl` seconds. Of two owners one wins."""

    @abstractmethod
    async def renew_lock(self, key: str, owner: str, ttl: float) -> bool:
        """Hold for `ttl` seconds from now what is still the owner's.

        False: it is not, or ran out, even if nobody has it. Work on the shard must stop then.
        """

    @abstractmethod
    async def release_lock(self, key: str, owner: str) -> None:
        """Unlock the key if it is the owner's. The checkpoint stays."""

    @abstractmethod
    async def set_checkpoint(self, key: str, value: str, owner: str) -> bool:
        """Keep `value` for whoever holds the lock next. False, nothing written: not the owner's."""

    @abstractmethod
    async def get_checkpoint(self, key: str) -> str | None:
        """The last checkpoint, whoever wrote it; None when there is none. It never runs out."""

    @abstractmethod
    async def send_heartbeat(self, stream: str, instance: str, ttl: float) -> None:
        """Note that an instance reads this stream. Forgotten after `ttl` seconds; at once for 0."""

    @abstractmethod
    async def get_active_instances(self, stream: str) -> list[str]:
        """The instances that reported within their `ttl`, sorted."""
