"""Holding: a shard that this instance has locked, its window, and its checkpoint."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Self

from taskloom.clock import Clock
from taskloom.errors import StorageUnavailableError
from taskloom.interfaces.shard_locks import ShardLocks
from taskloom.kinesis.progress import FINISHED, read_progress
from taskloom.kinesis.timing import Timing
from taskloom.kinesis.window import Window

__all__ = ["Holding", "lock_key"]

_log = logging.getLogger(__name__)


def lock_key(stream: str, shard_id: str) -> str:
    """The name of a shard's lock, and of its checkpoint."""
    return f"{stream}/{shard_id}"


class Holding:
    """One lock, under an owner that no other holding ever has: its fencing token.

    It is trusted until the start of the call that set its time, plus that time, minus a margin, on
    the monotonic clock. All methods raise `StorageUnavailableError`.
    """

    def __init__(
        self, locks: ShardLocks, key: str, owner: str, window: Window, timing: Timing, clock: Clock
    ) -> None:
        self.window = window
        self.is_ended = False
        """Nothing comes after what is in the window."""
        self.is_finished = False
        """The shard's end is its checkpoint."""
        self.on_saved: Callable[[str], None] = lambda checkpoint: None
        """Called whenever the place up to which all is settled was written, with that place."""
        self._locks, self._key, self._owner = locks, key, owner
        self._timing, self._clock = timing, clock
        self._trusted_until = 0.0
        self._saved = window.changes
        self._mark = window.mark
        self._saving = asyncio.Lock()

    @classmethod
    async def acquire(
        cls, locks: ShardLocks, stream: str, shard_id: str, owner: str, timing: Timing, clock: Clock
    ) -> Self | None:
        """The shard from its checkpoint on; None: somebody else has it, or it is finished."""
        key = lock_key(stream, shard_id)
        since = clock.monotonic()
        if not await locks.acquire_lock(key, owner, timing.lock_ttl):
            return None
        # After the lock is taken: nobody moves it any more.
        checkpoint = await locks.get_checkpoint(key)
        if checkpoint == FINISHED:
            await locks.release_lock(key, owner)
            return None
        window = Window(stream, shard_id, read_progress(checkpoint))
        holding = cls(locks, key, owner, window, timing, clock)
        holding._trust(since)
        return holding

    @property
    def is_ours(self) -> bool:
        """Whether the lock can be trusted."""
        return self.window.is_open and self._clock.monotonic() < self._trusted_until

    async def renew(self) -> bool:
        """Hold on. False: the lock is not ours any more."""
        since = self._clock.monotonic()
        if await self._locks.renew_lock(self._key, self._owner, self._timing.lock_ttl):
            self._trust(since)
            return True
        self._trusted_until = 0.0
        return False

    def _trust(self, since: float) -> None:
        self._trusted_until = since + self._timing.lock_ttl * (1 - self._timing.margin)

    async def save(self) -> bool:
        """Write the progress, if there is any. False: refused, the lock is not ours any more.

        Calls that come while one is written wait for it, and then find theirs written too.
        """
        async with self._saving:
            changes = self.window.changes
            if changes != self._saved:
                progress = self.window.progress()
                if not await self._write(progress.text()):
                    return False
                self._saved = changes
                self._tell(progress.mark)
            if self.is_ended and self.window.is_done and not self.is_finished:
                self.is_finished = await self._write(FINISHED)
                if self.is_finished:
                    self.on_saved(FINISHED)
                return self.is_finished
            return True

    async def _write(self, value: str) -> bool:
        written = await self._locks.set_checkpoint(self._key, value, self._owner)
        if not written:
            self._trusted_until = 0.0
        return written

    def _tell(self, mark: int | None) -> None:
        if mark != self._mark:
            self._mark = mark
            self.on_saved(str(mark))

    async def let_go(self) -> None:
        """Save, and unlock for somebody else at once. Without an answer the lock ends by itself."""
        try:
            if self.window.is_open:
                await self.save()
            await self._locks.release_lock(self._key, self._owner)
        except StorageUnavailableError as error:
            _log.warning("the lock of %s could not be released: %s", self._key, error)
