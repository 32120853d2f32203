"""AIMDStrategy: add a little after success, halve after trouble."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterable

from msgspec import Struct

from taskloom.clock import SYSTEM_CLOCK, Clock, Seconds, seconds
from taskloom.interfaces.adaptive_strategy import AdaptiveSnapshot, AdaptiveStrategy, BatchResult

__all__ = ["AIMDStrategy"]

START = 50
HOT = 0.5
_MOST_DOUBLINGS = 32
"""More would overflow long after every `max_backoff` was reached."""


class _Shard(Struct):
    """What is known of one shard."""

    batch_size: float
    delay: float
    successes: int = 0
    failures: int = 0
    run: int = 0
    """Successes since the batch last grew."""
    back_off_until: float = -math.inf


class AIMDStrategy(AdaptiveStrategy):
    """Additive increase, multiplicative decrease, for each shard by itself.

    A result is a failure if anything failed, was throttled or was set aside. Durations are seconds.
    After `backoff_threshold` failures in a row it backs off for 1, 2, 4, ... seconds up to
    `max_backoff`; a success ends that. Raises `ValueError` for options that make no sense.

        KinesisQueue(session, shard_locks=locks, adaptive_strategy=AIMDStrategy(max_batch_size=200))
    """

    def __init__(
        self,
        *,
        successes_before_increase: int = 3,
        add_step: int = 10,
        decrease_factor: float = 0.5,
        min_batch_size: int = 10,
        max_batch_size: int = 500,
        base_delay: Seconds = 1.0,
        delay_multiplier: float = 1.5,
        max_delay: Seconds = 30.0,
        backoff_threshold: int = 10,
        max_backoff: Seconds = 60.0,
        window_size: int = 100,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        if not 1 <= min_batch_size <= max_batch_size:
            raise ValueError("min_batch_size: at least 1, and at most max_batch_size")
        if not 0 < decrease_factor < 1:
            raise ValueError("decrease_factor: more than 0, less than 1")
        if delay_multiplier < 1:
            raise ValueError("delay_multiplier: at least 1")
        if min(successes_before_increase, add_step, backoff_threshold, window_size) < 1:
            raise ValueError(
                "successes_before_increase, add_step, backoff_threshold, window_size: at least 1"
            )
        self._every, self._step, self._factor = successes_before_increase, add_step, decrease_factor
        self._min, self._max = min_batch_size, max_batch_size
        self._base, self._multiplier = seconds(base_delay, "base_delay"), delay_multiplier
        self._max_delay = seconds(max_delay, "max_delay")
        self._threshold = backoff_threshold
        self._max_backoff = seconds(max_backoff, "max_backoff")
        self._now = clock.monotonic
        self._shards: dict[str, _Shard] = {}
        self._types: deque[tuple[str, bool]] = deque(maxlen=window_size)
        """The last types of batches, each with whether it failed there."""

    def get_batch_size(self, shard_id: str) -> int:
        return int(self._of(shard_id).batch_size)

    def get_processing_delay(self, shard_id: str) -> float:
        return self._of(shard_id).delay

    def should_backoff(self, shard_id: str) -> bool:
        return self._of(shard_id).back_off_until > self._now()

    def record_batch_result(self, shard_id: str, result: BatchResult) -> None:
        shard = self._shards.setdefault(shard_id, self._new())
        self._types.extend((name, False) for name in result.succeeded_types)
        self._types.extend((name, True) for name in result.failed_types)
        if result.is_good:
            self._succeed(shard)
        else:
            self._fail(shard)

    def _succeed(self, shard: _Shard) -> None:
        shard.successes += 1
        shard.run += 1
        shard.failures = 0
        shard.delay, shard.back_off_until = self._base, -math.inf
        if shard.run >= self._every:
            shard.run = 0
            shard.batch_size = min(shard.batch_size + self._step, self._max)

    def _fail(self, shard: _Shard) -> None:
        shard.failures += 1
        shard.successes = shard.run = 0
        shard.batch_size = max(math.floor(shard.batch_size * self._factor), self._min)
        shard.delay = min(shard.delay * self._multiplier, self._max_delay)
        beyond = shard.failures - self._threshold
        if beyond >= 0:
            pause = min(2.0 ** min(beyond, _MOST_DOUBLINGS), self._max_backoff)
            shard.back_off_until = self._now() + pause

    def get_snapshot(self, shard_id: str | None = None) -> AdaptiveSnapshot:
        shards = [self._of(shard_id)] if shard_id is not None else list(self._shards.values())
        shards = shards or [self._new()]
        until = max(each.back_off_until for each in shards)
        return AdaptiveSnapshot(
            batch_size=round(_mean(each.batch_size for each in shards)),
            processing_delay=_mean(each.delay for each in shards),
            consecutive_successes=sum(each.successes for each in shards),
            consecutive_failures=sum(each.failures for each in shards),
            backoff_remaining=max(0.0, until - self._now()),
            hot_types=self._hot_types(),
        )

    def _hot_types(self) -> tuple[str, ...]:
        seen = Counter(name for name, _ in self._types)
        failed = Counter(name for name, has_failed in self._types if has_failed)
        return tuple(sorted(name for name in failed if failed[name] / seen[name] > HOT))

    def _of(self, shard_id: str) -> _Shard:
        return self._shards.get(shard_id) or self._new()

    def _new(self) -> _Shard:
        return _Shard(min(max(START, self._min), self._max), self._base)


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found)
