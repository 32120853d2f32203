"""FileShardLocks: locks in files, for the processes of one machine."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from taskloom.errors import ConfigurationError
from taskloom.interfaces.shard_locks import ShardLocks
from taskloom.kinesis.private_files import PrivateFiles

__all__ = ["FileShardLocks"]

T = TypeVar("T")


class FileShardLocks(ShardLocks):
    """Locks that all processes of this user on this machine share, in a folder of their own.

    `open` makes the folder, for this user alone, and raises `ConfigurationError` for one that is
    open to others. Their time is the machine's clock. After a power cut an older checkpoint may
    come back, so that more is delivered again. Not for network file systems.

        async with FileShardLocks("/var/lib/shop/locks") as locks:
            queue = KinesisQueue(session, shard_locks=locks)
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._files = PrivateFiles(Path(folder))
        self._thread: ThreadPoolExecutor | None = None

    async def open(self) -> None:
        """Make the folder. Safe to repeat."""
        if self._thread is None:
            # One thread: what was asked for first is done first, also when nobody waits for it.
            self._thread = ThreadPoolExecutor(1, "taskloom-locks")
        await self._run(self._files.prepare)

    async def close(self) -> None:
        """Let go of the thread, after what is under way. Safe to repeat."""
        thread, self._thread = self._thread, None
        if thread is not None:
            await asyncio.get_running_loop().run_in_executor(None, thread.shutdown)

    async def acquire_lock(self, key: str, owner: str, ttl: float) -> bool:
        """Lock what is free, or already the owner's, for `ttl` seconds."""

        def acquire() -> bool:
            with self._files.changing(_lock(key)) as lock:
                if lock.get("owner") != owner and lock.get("until", 0.0) > time.time():
                    return False
                lock.update(owner=owner, until=time.time() + ttl)
            return True

        return await self._run(acquire)

    async def renew_lock(self, key: str, owner: str, ttl: float) -> bool:
        """Hold for `ttl` seconds from now what is still the owner's."""

        def renew() -> bool:
            with self._files.changing(_lock(key)) as lock:
                if not _is_held(lock, owner):
                    return False
                lock["until"] = time.time() + ttl
            return True

        return await self._run(renew)

    async def release_lock(self, key: str, owner: str) -> None:
        """Unlock the key if it is the owner's. The checkpoint stays."""

        def release() -> None:
            with self._files.changing(_lock(key)) as lock:
                if lock.get("owner") == owner:
                    del lock["owner"], lock["until"]

        await self._run(release)

    async def set_checkpoint(self, key: str, value: str, owner: str) -> bool:
        """Keep `value`. False, nothing written: the lock is not the owner's."""

        def keep() -> bool:
            with self._files.changing(_lock(key)) as lock:
                if not _is_held(lock, owner):
                    return False
                lock["checkpoint"] = value
            return True

        return await self._run(keep)

    async def get_checkpoint(self, key: str) -> str | None:
        """The last checkpoint. It stays until the next one, whatever becomes of the lock."""
        lock = await self._run(lambda: self._files.read(_lock(key)))
        checkpoint: str | None = lock.get("checkpoint")
        return checkpoint

    async def send_heartbeat(self, stream: str, instance: str, ttl: float) -> None:
        """Note that an instance reads this stream; those that ran out are forgotten."""

        def note() -> None:
            with self._files.changing(_instances(stream)) as beats:
                now = time.time()
                beats[instance] = now + ttl
                for over in [name for name, until in beats.items() if until <= now]:
                    del beats[over]

        await self._run(note)

    async def get_active_instances(self, stream: str) -> list[str]:
        """The instances that reported within their `ttl`, sorted."""
        beats = await self._run(lambda: self._files.read(_instances(stream)))
        return sorted(name for name, until in beats.items() if until > time.time())

    async def _run(self, work: Callable[[], T]) -> T:
        if self._thread is None:
            raise ConfigurationError(
                "FileShardLocks are not open: use `async with`, or `await ....open()` first"
            )
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


def _is_held(lock: dict[str, object], owner: str) -> bool:
    until = lock.get("until")
    return lock.get("owner") == owner and isinstance(until, float) and until > time.time()


def _lock(key: str) -> str:
    return f"lock:{key}"


def _instances(stream: str) -> str:
    return f"instances:{stream}"
