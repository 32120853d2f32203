"""Stream: this instance's part of one stream, the shards it holds and what it knows of the rest."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from itertools import count
from typing import NamedTuple, Protocol

from taskloom.clock import Clock
from taskloom.errors import StorageUnavailableError, UnavailableError
from taskloom.interfaces.adaptive_strategy import AdaptiveStrategy
from taskloom.interfaces.shard_locks import ShardLocks
from taskloom.kinesis.balance import Balance
from taskloom.kinesis.client import KinesisClient
from taskloom.kinesis.holding import Holding
from taskloom.kinesis.news import News
from taskloom.kinesis.reader import Reader
from taskloom.kinesis.seen import Seen
from taskloom.kinesis.timing import Timing
from taskloom.kinesis.window import Window
from taskloom.outcomes import Delivery, UnreadableRecord
from taskloom.waiting import within

__all__ = ["Stream", "StreamParts"]

_log = logging.getLogger(__name__)

LOOK_LIMIT = 30.0
"""Seconds that a look at shards and instances may take."""
DRAIN_STEP = 0.1
"""Seconds between two looks at a shard that is to be given up, if nothing is heard of it."""


class Listener(Protocol):
    """Hears which shards are held here, and how far they are settled."""

    def tell_shard(self, queue_id: str, shard_id: str, *, connected: bool) -> None: ...
    def tell_checkpoint(self, queue_id: str, shard_id: str, checkpoint: str) -> None: ...


class StreamParts(NamedTuple):
    """What all streams of a queue share."""

    client: KinesisClient
    locks: ShardLocks
    instance: str
    """Sorts by the time the instance started, and never comes again."""
    strategy: AdaptiveStrategy | None
    timing: Timing
    clock: Clock
    listener: Listener


class Held(NamedTuple):
    """A shard of ours, and who reads it."""

    holding: Holding
    reader: Reader
    running: asyncio.Task[None]


class Stream:
    """One stream as this instance reads it; nothing happens before `start`."""

    def __init__(self, name: str, parts: StreamParts) -> None:
        self.name = name
        self._parts = parts
        self._balance = Balance(
            parts.client, parts.locks, name, parts.instance, parts.timing, parts.clock
        )
        self._held: dict[str, Held] = {}
        self._seen = Seen()
        self._tokens = count(1)
        self._asked: dict[str, str] = {}
        """The owner under which a lock was asked for that nobody has answered for yet."""
        self._loops: tuple[asyncio.Task[None], asyncio.Task[None]] | None = None
        """What watches and what renews, while this instance takes part."""
        self._looked: asyncio.Future[None] | None = None
        self._error: Exception | None = None
        self._look_now = asyncio.Event()
        self._news = News()
        self._used_at = 0.0

    # Starting and stopping

    @property
    def is_read(self) -> bool:
        """Whether this instance takes part in reading the stream."""
        return self._loops is not None

    async def start(self) -> None:
        """Take part. Returns when the shards of the first look are held, and something of each was
        read, if there is anything.

        Raises what kept it from looking.
        """
        self._used_at = self._parts.clock.monotonic()
        if self._loops is None:
            self._looked = asyncio.get_running_loop().create_future()
            self._loops = asyncio.create_task(self._watch()), asyncio.create_task(self._renew())
        if self._looked is not None:
            await asyncio.shield(self._looked)
            if self._error is None:
                readers = [each.reader for each in self._held.values()]
                await asyncio.gather(*(reader.caught_up(or_some=True) for reader in readers))
            self._looked = None

    async def stop(self) -> None:
        """Give everything to others at once: shards, and the name among the instances."""
        watching, renewing = self._loops or (None, None)
        self._loops = None
        if watching is None or renewing is None:
            return
        # Not cancelled: a lock that is just being taken would be nobody's until its time is over.
        self._look_now.set()
        await asyncio.wait([watching])
        await _cancelled([renewing])
        await self._leave()

    async def _leave(self) -> None:
        held, self._held = self._held, {}
        await _cancelled([each.running for each in held.values()])
        await asyncio.gather(*(each.holding.let_go() for each in held.values()))
        for each in held.values():
            self._close(each.holding.window)
        try:
            await self._parts.locks.send_heartbeat(self.name, self._parts.instance, 0)
        except StorageUnavailableError as error:
            _log.warning("%r could not be left: %s", self.name, error)
        self.ring()

    # What runs beside

    async def _watch(self) -> None:
        """Look again and again; leave when nobody has claimed for long."""
        while self._loops is not None:
            await self._look()
            if self._looked is not None and not self._looked.done():
                self._looked.set_result(None)
            if self._loops is not None and self._is_idle():
                renewing, self._loops = self._loops[1], None
                await _cancelled([renewing])
                await self._leave()
                return
            await within(self._look_now.wait(), self._parts.timing.look)
            self._look_now.clear()

    def _is_idle(self) -> bool:
        unused = self._parts.clock.monotonic() - self._used_at
        in_use = self._news.is_awaited or any(
            each.holding.window.held for each in self._held.values()
        )
        return unused > self._parts.timing.lock_ttl and not in_use

    async def _look(self) -> None:
        try:
            async with asyncio.timeout(LOOK_LIMIT):
                await self._save_all()
                await self._balance.look()
                await self._give_up_excess()
                await self._take_wanted()
            self._error = None
        except (UnavailableError, TimeoutError) as error:
            self._error = error
            self.ring()
        except Exception as error:
            _log.exception("looking at the shards of %r failed", self.name)
            self._error = error
            self.ring()

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self._parts.timing.renew)
            holdings = [(id, held.holding) for id, held in self._held.items()]
            await asyncio.gather(*(self._renew_one(*each) for each in holdings))

    async def _renew_one(self, shard_id: str, holding: Holding) -> None:
        """Never raises: the other locks, and this one later, must go on being renewed."""
        try:
            async with asyncio.timeout(self._parts.timing.renew):
                await holding.renew()
        except (UnavailableError, TimeoutError) as error:
            _log.warning("the lock of %s of %r is not renewed: %s", shard_id, self.name, error)
        except Exception:
            _log.exception("renewing the lock of %s of %r failed", shard_id, self.name)
        if not holding.is_ours:
            self._lose(shard_id, holding)

    def _lose(self, shard_id: str, holding: Holding) -> None:
        """Stop at once: somebody else may have the shard by now."""
        held = self._held.get(shard_id)
        if held is None or held.holding is not holding:
            return
        _log.warning(
            "the lock of %s of %r is lost; what runs of it here may run elsewhere too",
            shard_id,
            self.name,
        )
        self._drop(shard_id)
        self.ring()
        self._look_now.set()

    def _drop(self, shard_id: str) -> Held:
        held = self._held.pop(shard_id)
        held.running.cancel()
        self._close(held.holding.window)
        return held

    def _close(self, window: Window) -> None:
        self._seen.forget(window.close())
        self._parts.listener.tell_shard(self.name, window.shard_id, connected=False)

    # Shards that come and go

    async def _save_all(self) -> None:
        """Write what could not be written before, and see which shards are finished."""
        for shard_id, (holding, _, _) in list(self._held.items()):
            if await self.save(holding.window) and holding.is_finished:
                await self._drop(shard_id).holding.let_go()
                self._balance.note_finished(shard_id)

    async def _give_up_excess(self) -> None:
        """Give what is more than the share to others, the shards with least at work first.

        What is running of them may end before; a shard whose tasks take longer is kept for now.
        """
        excess = self._balance.excess(len(self._held))
        by_work = sorted(self._held, key=lambda id: self._held[id].holding.window.held)
        await asyncio.gather(*(self._give_up(shard_id) for shard_id in by_work[:excess]))

    async def _give_up(self, shard_id: str) -> None:
        window = self._held[shard_id].holding.window
        window.gives = False
        await within(self._drained(shard_id), self._parts.timing.drain)
        if window.held:
            window.gives = True
            self.ring()
        elif window.is_open:
            held = self._held.pop(shard_id)
            await _cancelled([held.running])
            await held.holding.let_go()
            self._close(window)

    async def _drained(self, shard_id: str) -> None:
        window = self._held[shard_id].holding.window
        while window.held and window.is_open and self._loops is not None:
            await self.news(DRAIN_STEP)

    async def _take_wanted(self) -> None:
        for shard_id in self._balance.wanted(self._held):
            if not self._balance.is_short(len(self._held)):
                return
            parts = self._parts
            # Without an answer the lock may be ours all the same: it is asked for again as it was.
            token = self._asked.setdefault(shard_id, f"{parts.instance}#{next(self._tokens)}")
            holding = await Holding.acquire(
                parts.locks, self.name, shard_id, token, parts.timing, parts.clock
            )
            del self._asked[shard_id]
            if holding is not None:
                self._hold(shard_id, holding)

    def _hold(self, shard_id: str, holding: Holding) -> None:
        parts = self._parts
        reader = Reader(
            parts.client,
            holding,
            lambda: self._balance.shard(shard_id),
            self._seen,
            parts.strategy,
            parts.timing,
            parts.clock,
            lambda: self._heard_from(holding),
        )
        listener = parts.listener
        holding.on_saved = lambda value: listener.tell_checkpoint(self.name, shard_id, value)
        self._held[shard_id] = Held(holding, reader, asyncio.create_task(reader.run()))
        listener.tell_shard(self.name, shard_id, connected=True)

    def _heard_from(self, holding: Holding) -> None:
        self.ring()
        if holding.is_ended and holding.window.is_done:
            self._look_now.set()

    # Claims and what follows

    async def take(self, limit: int, lease: float) -> list[Delivery | UnreadableRecord]:
        """Lease up to `limit` records of the shards held, a like part of each.

        That they are delivered is written first. Cancelled, or if that fails, nothing was taken.
        """
        taken = self._take(limit, lease)
        windows = list({each.receipt.window for each in taken})
        try:
            saved = await asyncio.gather(*map(self.save, windows))
        except BaseException:
            for each in taken:
                if each.receipt.is_current():
                    each.receipt.window.give_back(each.receipt.item, 0.0)
            self.ring()
            raise
        ours = {window for window, is_ours in zip(windows, saved, strict=True) if is_ours}
        return [each for each in taken if each.receipt.window in ours]

    def _take(self, limit: int, lease: float) -> list[Delivery | UnreadableRecord]:
        self._used_at = now = self._parts.clock.monotonic()
        taken: list[Delivery | UnreadableRecord] = []
        held = [each for each in self._held.values() if each.holding.is_ours]
        for number, each in enumerate(held):
            part = -(-(limit - len(taken)) // (len(held) - number))
            taken += each.holding.window.take(part, lease, now)
        for each in held:  # what the others left over
            taken += each.holding.window.take(limit - len(taken), lease, now)
        for each in held:
            each.reader.hurry()
        return taken

    @property
    def trouble(self) -> Exception | None:
        """Why nothing may come."""
        errors = [each.reader.error for each in self._held.values()]
        return self._error or (errors[0] if all(errors) and errors else None)

    def hurry(self) -> None:
        """Something was put."""
        for each in self._held.values():
            each.reader.hurry()

    async def news(self, longest: float) -> None:
        """Wait until there may be something to take, at most so long."""
        now = self._parts.clock.monotonic()
        pauses = [each.holding.window.pause(now) for each in self._held.values()]
        await self._news.wait(min([longest, *pauses]))

    def ring(self) -> None:
        """Wake everyone who waits."""
        self._news.tell()

    def touch(self) -> None:
        """Somebody works on what was claimed."""
        self._used_at = self._parts.clock.monotonic()

    def holds(self, window: Window) -> bool:
        """Whether the shard of this window is ours; one that cannot be trusted is lost from now on.

        Not if it was lost and is held again: that is another window.
        """
        held = self._held.get(window.shard_id)
        if held is None or held.holding.window is not window:
            return False
        if not held.holding.is_ours:
            self._lose(window.shard_id, held.holding)
            return False
        return True

    async def save(self, window: Window) -> bool:
        """Write how far the shard is. False: it is not ours any more."""
        if not self.holds(window):
            return False
        holding = self._held[window.shard_id].holding
        if not await holding.save():
            self._lose(window.shard_id, holding)
            return False
        if holding.is_finished:
            self._look_now.set()
        return True

    def forget(self, ids: Iterable[str]) -> None:
        """These are put again, and are no copies."""
        self._seen.forget(ids)

    async def waiting(self) -> tuple[int, Sequence[str]]:
        """How much of what is held here waits, and which shards are held elsewhere or by nobody."""
        await asyncio.gather(*(each.reader.caught_up() for each in self._held.values()))
        now = self._parts.clock.monotonic()
        waiting = sum(each.holding.window.waiting(now) for each in self._held.values())
        return waiting, self._balance.unread(self._held)


async def _cancelled(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Cancel tasks and wait for their end."""
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
