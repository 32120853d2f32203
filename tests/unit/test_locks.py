"""Task locks: two tasks with one hash never run at once; who may unlock what."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from taskloom import Task, UnavailableError
from taskloom.locks import TaskLocks
from taskloom.memory import InMemoryCache
from taskloom.outcomes import Delivery
from taskloom.testing import ManualClock


class CountingCache(InMemoryCache):
    """Counts calls; fails or waits as told."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock)
        self.calls: list[list[str]] = []
        self.away = False
        self.gate = asyncio.Event()
        self.gate.set()

    async def acquire_many(self, keys: Sequence[str], owner: str, ttl: float) -> set[str]:
        self.calls.append(list(keys))
        await self.gate.wait()
        if self.away:
            raise UnavailableError("away")
        return await super().acquire_many(keys, owner, ttl)


def delivery(id: str, task_hash: str | None = None) -> Delivery:
    task: Task[Any] = Task(type="t", queue_id="q", payload=None, id=id, task_hash=task_hash)
    return Delivery(task, None)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def cache(clock: ManualClock) -> CountingCache:
    return CountingCache(clock)


def locks(cache: CountingCache, owner: str = "w1", *, every_task: bool = False) -> TaskLocks:
    return TaskLocks(cache, owner, ttl=60.0, every_task=every_task)


async def test_without_hashes_exclusive_claims_need_no_call(cache: CountingCache) -> None:
    assert await locks(cache).take([delivery("a"), delivery("b")]) == []
    assert cache.calls == []


async def test_all_locks_of_a_claim_are_one_call(cache: CountingCache) -> None:
    mine = locks(cache, every_task=True)
    assert await mine.take([delivery("a"), delivery("b", "h"), delivery("c")]) == []
    assert cache.calls == [["task_lock_a", "task_lock_h", "task_lock_c"]]


async def test_of_one_claim_the_first_of_a_hash_runs(cache: CountingCache) -> None:
    first, second = delivery("a", "h"), delivery("b", "h")
    assert await locks(cache).take([first, second]) == [second]


async def test_the_same_hash_is_locked_for_a_later_claim_of_the_same_worker(
    cache: CountingCache,
) -> None:
    mine = locks(cache)
    await mine.take([delivery("a", "h")])
    second = delivery("b", "h")
    assert await mine.take([second]) == [second]


async def test_the_same_hash_is_locked_for_another_worker(cache: CountingCache) -> None:
    await locks(cache, "w1").take([delivery("a", "h")])
    second, free = delivery("b", "h"), delivery("c", "other")
    assert await locks(cache, "w2").take([second, free]) == [second]


async def test_a_task_delivered_again_to_its_own_worker_is_not_locked_out(
    cache: CountingCache,
) -> None:
    mine = locks(cache)
    await mine.take([delivery("a", "h")])
    assert await mine.take([delivery("a", "h")]) == []


async def test_after_the_release_the_next_one_runs(cache: CountingCache) -> None:
    mine, first = locks(cache), delivery("a", "h")
    await mine.take([first])
    await mine.release([first])
    await mine.release([first])
    assert await locks(cache, "w2").take([delivery("b", "h")]) == []


async def test_who_was_locked_out_releases_nothing(cache: CountingCache) -> None:
    mine, second = locks(cache), delivery("b", "h")
    await mine.take([delivery("a", "h"), second])
    await mine.release([second])
    third = delivery("c", "h")
    assert await locks(cache, "w2").take([third]) == [third]


async def test_a_lock_ends_with_the_lease_unless_renewed(
    cache: CountingCache, clock: ManualClock
) -> None:
    mine, other, second = locks(cache, "w1"), locks(cache, "w2"), delivery("b", "h")
    await mine.take([delivery("a", "h")])
    await clock.advance(40)
    await mine.renew()
    await clock.advance(40)
    assert await other.take([second]) == [second]
    await clock.advance(21)
    assert await other.take([second]) == []


async def test_a_cache_that_is_away_leaves_nothing_held(cache: CountingCache) -> None:
    mine, first = locks(cache), delivery("a", "h")
    cache.away = True
    with pytest.raises(UnavailableError):
        await mine.take([first])
    cache.away = False
    assert await mine.take([delivery("b", "h")]) == []


async def test_two_claims_of_one_worker_at_once_do_not_both_get_the_lock(
    cache: CountingCache,
) -> None:
    mine, second = locks(cache), delivery("b", "h")
    cache.gate.clear()
    claim = asyncio.create_task(mine.take([delivery("a", "h")]))
    await asyncio.sleep(0)
    assert cache.calls == [["task_lock_h"]]
    assert await mine.take([second]) == [second]
    cache.gate.set()
    assert await claim == []
