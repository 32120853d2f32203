"""RedisShardLocks: a hash per lock."""

from __future__ import annotations

from typing import Any, Self

from taskloom.interfaces import ShardLocks
from taskloom.redis.clients import Client
from taskloom.redis.server import RedisServer, server_of

__all__ = ["RedisShardLocks"]


class RedisShardLocks(ShardLocks):
    """Locks that everyone on this Redis shares; every method is one script.

    Their time is that of the server: instances whose clocks differ agree on who holds a shard.

    async with RedisShardLocks.from_url("redis://localhost:6379/0") as locks:
        if await locks.acquire_lock("orders:shard-1", "instance-7", ttl=35):
            await locks.set_checkpoint("orders:shard-1", "4711", "instance-7")
    """

    def __init__(self, source: Client | RedisServer) -> None:
        self.server = server_of(source)

    @classmethod
    def from_url(cls, url: str, *, prefix: str = "taskloom") -> Self:
        """Locks with connections of their own: see `RedisServer.from_url`."""
        return cls(RedisServer.from_url(url, prefix=prefix))

    async def open(self) -> None:
        await self.server.open(self)

    async def close(self) -> None:
        await self.server.close(self)

    async def acquire_lock(self, key: str, owner: str, ttl: float) -> bool:
        """Lock what is free, or already the owner's, for `ttl` seconds."""
        return bool(await self._run("locks_acquire", f"lock:{key}", owner, _micros(ttl)))

    async def renew_lock(self, key: str, owner: str, ttl: float) -> bool:
        """Hold for `ttl` seconds from now what is still the owner's."""
        return bool(await self._run("locks_renew", f"lock:{key}", owner, _micros(ttl)))

    async def release_lock(self, key: str, owner: str) -> None:
        """Unlock the key if it is the owner's. The checkpoint stays."""
        await self._run("locks_release", f"lock:{key}", owner)

    async def set_checkpoint(self, key: str, value: str, owner: str) -> bool:
        """Keep `value`. False, nothing written: the lock is not the owner's."""
        return bool(await self._run("locks_checkpoint", f"lock:{key}", owner, value))

    async def get_checkpoint(self, key: str) -> str | None:
        """The last checkpoint. It stays until the next one, whatever becomes of the lock."""
        name = self.server.keys.locks + f"lock:{key}"
        async with self.server.calling():
            found = await self.server.client.hget(name, "checkpoint")
        return None if found is None else found.decode()

    async def send_heartbeat(self, stream: str, instance: str, ttl: float) -> None:
        """Note that an instance reads this stream."""
        await self._run("instances_note", f"instances:{stream}", instance, _micros(ttl))

    async def get_active_instances(self, stream: str) -> list[str]:
        """The instances that reported within their `ttl`, sorted."""
        found = await self._run("instances_list", f"instances:{stream}")
        return sorted(instance.decode() for instance in found)

    async def _run(self, script: str, name: str, *args: Any) -> Any:
        return await self.server.run(script, [self.server.keys.locks + name], *args)


def _micros(ttl: float) -> int:
    return round(ttl * 1_000_000)
