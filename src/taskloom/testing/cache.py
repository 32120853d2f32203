"""CacheConformance: what every Cache does.

class TestMyCache(CacheConformance):
    @pytest.fixture
    async def cache(self):
        async with MyCache(...) as cache:
            yield cache
"""

from __future__ import annotations

import asyncio
from typing import Any

from taskloom.identity import new_id
from taskloom.interfaces.cache import Cache
from taskloom.testing.suite import AWKWARD_PAYLOADS, Suite

__all__ = ["CacheConformance"]

LONG = 60.0


class CacheConformance(Suite):
    """Subclass it with a fixture `cache`: an open cache. Needs pytest-asyncio in auto mode.

    No case can be skipped. Override `pass_time` for a virtual clock, `lease`, the time to live of
    what is to run out, for a slow engine.
    """

    def keys(self, count: int) -> list[str]:
        """Keys that no other case uses."""
        return [f"conformance:{new_id()}:ü $.{number}" for number in range(count)]

    async def test_a_value_is_kept(self, cache: Cache) -> None:
        (key,) = self.keys(1)
        assert await cache.get(key) is None
        await cache.set(key, {"a": 1})
        assert await cache.get(key) == {"a": 1}
        await cache.set(key, [2])
        assert await cache.get(key) == [2]

    async def test_values_come_back_as_they_were(self, cache: Cache) -> None:
        keys = self.keys(len(AWKWARD_PAYLOADS))
        for key, value in zip(keys, AWKWARD_PAYLOADS, strict=True):
            await cache.set(key, value, LONG)
            found = await cache.get(key)
            assert found == value
            assert type(found) is type(value)

    async def test_what_the_caller_keeps_is_not_the_value(self, cache: Cache) -> None:
        (key,) = self.keys(1)
        value: dict[str, Any] = {"list": [1]}
        await cache.set(key, value)
        value["list"].append(2)
        found = await cache.get(key)
        assert found == {"list": [1]}
        found["list"].append(3)
        assert await cache.get(key) == {"list": [1]}
        (await cache.get_many([key]))[key]["list"].append(4)
        assert await cache.get_many([key]) == {key: {"list": [1]}}

    async def test_many_are_got_by_key(self, cache: Cache) -> None:
        keys = self.keys(3)
        await cache.set(keys[0], 1)
        await cache.set(keys[2], 0)
        assert await cache.get_many(keys) == {keys[0]: 1, keys[2]: 0}
        assert await cache.get_many([]) == {}

    async def test_a_value_lives_as_long_as_it_should(self, cache: Cache) -> None:
        short, long, forever = self.keys(3)
        await cache.set(short, 1, self.lease)
        await cache.set(long, 2, LONG)
        await cache.set(forever, 3)
        await self.outlive_lease()
        assert await cache.get_many([short, long, forever]) == {long: 2, forever: 3}
        assert await cache.get(short) is None

    async def test_setting_again_starts_the_ttl_again(self, cache: Cache) -> None:
        longer, forever, shorter = self.keys(3)
        await cache.set(longer, 1, self.lease)
        await cache.set(forever, 1, self.lease)
        await cache.set(shorter, 1, LONG)
        await cache.set(longer, 2, LONG)
        await cache.set(forever, 2)
        await cache.set(shorter, 2, self.lease)
        await self.outlive_lease()
        assert await cache.get_many([longer, forever, shorter]) == {longer: 2, forever: 2}

    async def test_a_deleted_key_is_gone(self, cache: Cache) -> None:
        key, other = self.keys(2)
        await cache.set(key, 1)
        await cache.set(other, 2)
        await cache.delete(key)
        await cache.delete(key)
        assert await cache.get_many([key, other]) == {other: 2}

    async def test_incr_starts_at_zero_and_adds(self, cache: Cache) -> None:
        (key,) = self.keys(1)
        assert await cache.incr(key) == 1
        assert await cache.incr(key, 5) == 6
        assert await cache.incr(key, -8) == -2
        assert await cache.get(key) == -2

    async def test_incr_adds_to_a_value(self, cache: Cache) -> None:
        (key,) = self.keys(1)
        await cache.set(key, 40)
        assert await cache.incr(key, 2) == 42

    async def test_concurrent_incrs_all_count(self, cache: Cache) -> None:
        (key,) = self.keys(1)
        sums = await asyncio.gather(*(cache.incr(key, ttl=LONG) for _ in range(20)))
        assert sorted(sums) == list(range(1, 21))

    async def test_incrs_ttl_counts_from_the_first(self, cache: Cache) -> None:
        longer, shorter = self.keys(2)
        await cache.incr(longer, ttl=LONG)
        await cache.incr(longer, ttl=self.lease)
        while not await self._counted_twice(cache, shorter, self.lease, LONG):
            await cache.delete(shorter)
        await self.outlive_lease()
        assert await cache.get_many([longer, shorter]) == {longer: 2}
        assert await cache.incr(shorter, ttl=LONG) == 1

    async def _counted_twice(
        self, cache: Cache, key: str, first: float, second: float | None
    ) -> bool:
        """Whether the second `incr` came while the key lived of the first; each has its ttl."""
        since = self.now()
        assert await cache.incr(key, ttl=first) == 1
        if await cache.incr(key, ttl=second) == 2:
            return True
        self.assert_late(since)
        return False

    async def test_incr_without_ttl_keeps_the_one_there_is(self, cache: Cache) -> None:
        limited, forever = self.keys(2)
        while not await self._counted_twice(cache, limited, self.lease, None):
            await cache.delete(limited)
        await cache.incr(forever)
        await self.outlive_lease()
        assert await cache.get_many([limited, forever]) == {forever: 1}

    async def test_a_free_key_is_locked(self, cache: Cache) -> None:
        keys = self.keys(3)
        assert await cache.acquire_many(keys, "a", LONG) == set(keys)
        assert await cache.acquire_many(keys, "b", LONG) == set()
        assert await cache.acquire_many([], "b", LONG) == set()

    async def test_what_is_free_is_locked_although_others_are_not(self, cache: Cache) -> None:
        keys = self.keys(3)
        await cache.acquire_many([keys[1]], "a", LONG)
        assert await cache.acquire_many(keys, "b", LONG) == {keys[0], keys[2]}
        assert await cache.acquire_many(keys, "a", LONG) == {keys[1]}

    async def test_the_owner_renews_its_lock(self, cache: Cache) -> None:
        (key,) = self.keys(1)
        await cache.acquire_many([key], "a", self.lease)
        assert await cache.acquire_many([key], "a", LONG) == {key}
        await self.outlive_lease()
        assert await cache.acquire_many([key], "b", LONG) == set()

    async def test_a_lock_ends_with_its_ttl(self, cache: Cache) -> None:
        (key,) = self.keys(1)
        await cache.acquire_many([key], "a", self.lease)
        await self.outlive_lease()
        assert await cache.acquire_many([key], "b", LONG) == {key}
        await cache.release_many([key], "a")
        assert await cache.acquire_many([key], "a", LONG) == set()

    async def test_only_the_owner_unlocks(self, cache: Cache) -> None:
        keys = self.keys(2)
        await cache.acquire_many([keys[0]], "a", LONG)
        await cache.acquire_many([keys[1]], "b", LONG)
        await cache.release_many(keys, "b")
        assert await cache.acquire_many(keys, "c", LONG) == {keys[1]}
        await cache.release_many(keys, "a")
        await cache.release_many(keys, "a")
        assert await cache.acquire_many(keys, "d", LONG) == {keys[0]}

    async def test_delete_unlocks_whoever_owns_it(self, cache: Cache) -> None:
        (key,) = self.keys(1)
        await cache.acquire_many([key], "a", LONG)
        await cache.delete(key)
        assert await cache.acquire_many([key], "b", LONG) == {key}

    async def test_of_racing_owners_one_wins_each_key(self, cache: Cache) -> None:
        keys = self.keys(10)
        held = await asyncio.gather(
            *(
                cache.acquire_many(keys if number % 2 else keys[::-1], f"owner-{number}", LONG)
                for number in range(6)
            )
        )
        assert sorted(key for each in held for key in each) == sorted(keys)

    async def test_opening_again_changes_nothing(self, cache: Cache) -> None:
        (key,) = self.keys(1)
        await cache.set(key, 1)
        await cache.open()
        assert await cache.get(key) == 1
