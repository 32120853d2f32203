"""Reader: fills the window of one shard, from its checkpoint to its end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Sequence

from taskloom.clock import Clock
from taskloom.interfaces.adaptive_strategy import AdaptiveStrategy, BatchResult
from taskloom.kinesis.client import KinesisClient, Page
from taskloom.kinesis.faults import ExpiredError, ThrottledError, UnknownPlaceError
from taskloom.kinesis.holding import Holding
from taskloom.kinesis.records import record_of
from taskloom.kinesis.seen import Seen
from taskloom.kinesis.shard_map import Shard
from taskloom.kinesis.timing import Timing
from taskloom.outage import Outage

__all__ = ["Reader"]

_log = logging.getLogger(__name__)

LARGEST_WINDOW = 10_000
"""Records of a shard in memory: no more is read until the oldest of them are settled."""
BATCH = 1000
"""Records of one read, without an adaptive strategy."""
LATE = 20 * 3600.0
"""Seconds behind the newest record from which the retention, a day at least, may be over."""
CHECK_EVERY = 60.0
"""Seconds between two questions whether it is."""


class Reader:
    """Reads on until cancelled or at the shard's end; never raises.

    It goes on after the last record it has read. What was read and failed stays in the window, so
    nothing is passed over; what another instance did not settle is read from the checkpoint.
    """

    def __init__(
        self,
        client: KinesisClient,
        holding: Holding,
        shard_of: Callable[[], Shard | None],
        seen: Seen,
        strategy: AdaptiveStrategy | None,
        timing: Timing,
        clock: Clock,
        on_news: Callable[[], None],
    ) -> None:
        self.error: Exception | None = None
        """Why nothing comes, while that is so."""
        self._client, self._holding, self._window = client, holding, holding.window
        self._shard_of, self._seen, self._strategy = shard_of, seen, strategy
        self._timing, self._clock, self._on_news = timing, clock, on_news
        self._last = holding.window.mark
        self._check_at = 0.0
        self._stream, self._shard_id = holding.window.queue_id, holding.window.shard_id
        self._hurry = asyncio.Event()
        self._asking: dict[asyncio.Future[None], bool] = {}
        """Who waits to hear how far it is, and whether some records are enough."""
        self._outage = Outage(f"reading {self._shard_id} of {self._stream!r}", clock)

    def hurry(self) -> None:
        """There may be something to read, or room for it."""
        self._hurry.set()

    async def caught_up(self, *, or_some: bool = False) -> None:
        """Return when everything put before this call was read, or the window is full.

        `or_some`: or when there is anything in it.
        """
        if self._holding.is_ended or not self._has_room or (or_some and len(self._window)):
            return
        asked = asyncio.get_running_loop().create_future()
        self._asking[asked] = or_some
        self.hurry()
        await asked

    async def run(self) -> None:
        """Read; each failure is followed by another try."""
        iterator: str | None = None
        try:
            while not self._holding.is_ended:
                try:
                    await self._room()
                    asked = tuple(self._asking)
                    if iterator is None:
                        iterator = await self._iterator()
                    page = await self._client.read(iterator, self._batch_size())
                    if await self._is_past_retention(page):
                        iterator = None
                        continue
                except ExpiredError:
                    iterator = None
                except ThrottledError:
                    await self._throttled()
                except Exception as error:  # whoever claims is told; a fault of ours, too
                    iterator = None
                    await self._failed(error)
                else:
                    iterator = page.iterator
                    self._take(page)
                    self._answer(asked, page)
                    await self._pause(page)
        finally:
            self._release(self._asking)

    @property
    def _has_room(self) -> bool:
        return len(self._window) < LARGEST_WINDOW

    async def _room(self) -> None:
        while not self._has_room or self._backs_off():
            self._release(self._asking)
            await self._sleep(self._timing.idle)

    def _backs_off(self) -> bool:
        return self._strategy is not None and self._strategy.should_backoff(self._shard_id)

    def _batch_size(self) -> int:
        if self._strategy is None:
            return BATCH
        return self._strategy.get_batch_size(self._shard_id)

    async def _iterator(self) -> str:
        try:
            return await self._client.iterator(self._stream, self._shard_id, self._last)
        except UnknownPlaceError as error:
            if self._last is None:
                raise
            self._start_again(str(error))
            return await self._client.iterator(self._stream, self._shard_id, None)

    async def _is_past_retention(self, page: Page) -> bool:
        """Whether the oldest record there is comes after the place where this read began.

        AWS documents no answer for a place past the retention. Seen were `InvalidArgumentException`
        (harlow/kinesis-consumer#175), empty reads without end that stay a whole retention behind
        (its #125), and the oldest record without a word (influxdata/telegraf#19508).
        """
        now = self._clock.monotonic()
        if page.behind < LATE or self._last is None or now < self._check_at:
            return False
        self._check_at = now + CHECK_EVERY
        oldest = await self._client.iterator(self._stream, self._shard_id, None)
        first = await self._client.read(oldest, 1)
        if not first.records or int(first.records[0]["SequenceNumber"]) <= self._last:
            return False
        self._start_again("the oldest record comes after it")
        return True

    def _start_again(self, reason: str) -> None:
        _log.error(
            "%s of %r: record %d, up to which all was read, is past the stream's retention, or of "
            "a stream that had its name before; what came after it and is as old IS LOST. Going "
            "on with the oldest record there is (%s). Give the stream a longer retention, or more "
            "workers",
            self._shard_id,
            self._stream,
            self._last,
            reason,
        )
        self._last = None

    def _take(self, page: Page) -> None:
        self.error = None
        self._outage.over()
        for answer in page.records:
            record = record_of(answer)
            copy = bool(record.id) and self._seen.is_copy(record.id, record.data)
            self._window.add(record, settled=copy)
            self._last = record.number
        shard = self._shard_of()
        ending = None if shard is None else shard.ending
        over = ending is not None and (self._last or 0) >= ending and not page.behind
        if page.iterator is None or over:
            self._holding.is_ended = True
        if page.records or self._holding.is_ended:
            self._on_news()

    def _answer(self, asked: Sequence[asyncio.Future[None]], page: Page) -> None:
        if not page.behind or not self._has_room or self._holding.is_ended:
            self._release(asked)
        if len(self._window):  # also who asked while this page was on its way
            self._release(each for each, or_some in self._asking.items() if or_some)

    def _release(self, asked: Iterable[asyncio.Future[None]]) -> None:
        for each in tuple(asked):
            self._asking.pop(each, None)
            if not each.done():
                each.set_result(None)

    async def _pause(self, page: Page) -> None:
        await self._clock.sleep(self._timing.gap)
        if not page.records and not page.behind and not self._asking:
            delay = self._timing.idle
            if self._strategy is not None:
                delay = self._strategy.get_processing_delay(self._shard_id)
            await self._sleep(delay)
        self._hurry.clear()

    async def _throttled(self) -> None:
        """Not an error: others read this shard as well."""
        if self._strategy is not None:
            self._strategy.record_batch_result(self._shard_id, BatchResult(throttled=True))
            await self._clock.sleep(self._strategy.get_processing_delay(self._shard_id))
        else:
            await self._clock.sleep(self._timing.idle)

    async def _failed(self, error: Exception) -> None:
        self.error = error
        self._release(self._asking)
        self._on_news()
        await self._outage.wait(error)

    async def _sleep(self, seconds: float) -> None:
        """So long, or until there is a reason to hurry."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._hurry.wait()
        self._hurry.clear()
