"""ShardLocksConformance: what all ShardLocks do.

class TestMyLocks(ShardLocksConformance):
    @pytest.fixture
    async def locks(self):
        async with MyLocks(...) as locks:
            yield locks
"""

from __future__ import annotations

import asyncio

from taskloom.identity import new_id
from taskloom.interfaces.shard_locks import ShardLocks
from taskloom.testing.suite import Suite

__all__ = ["ShardLocksConformance"]

LONG = 60.0


class ShardLocksConformance(Suite):
    """Subclass it with a fixture `locks`: open ShardLocks. Needs pytest-asyncio in auto mode.

    No case can be skipped. Override `pass_time` for a virtual clock, `lease`, the time to live of
    what is to run out, for slow ones.
    """

    def key(self) -> str:
        """A shard, or a stream, that no other case uses."""
        return f"conformance:{new_id()}:ü $."

    async def test_a_free_shard_is_locked_once(self, locks: ShardLocks) -> None:
        one, other = self.key(), self.key()
        assert await locks.acquire_lock(one, "a", LONG)
        assert not await locks.acquire_lock(one, "b", LONG)
        assert await locks.acquire_lock(other, "b", LONG)

    async def test_of_racing_owners_one_wins(self, locks: ShardLocks) -> None:
        key = self.key()
        won = await asyncio.gather(
            *(locks.acquire_lock(key, f"owner-{number}", LONG) for number in range(8))
        )
        assert won.count(True) == 1

    async def test_a_lock_ends_with_its_ttl(self, locks: ShardLocks) -> None:
        key = self.key()
        assert await locks.acquire_lock(key, "a", self.lease)
        await self.outlive_lease()
        assert await locks.acquire_lock(key, "b", LONG)

    async def test_acquiring_again_holds_on(self, locks: ShardLocks) -> None:
        key = self.key()
        await locks.acquire_lock(key, "a", self.lease)
        assert await locks.acquire_lock(key, "a", LONG)
        await self.outlive_lease()
        assert not await locks.acquire_lock(key, "b", LONG)

    async def test_renewing_holds_on(self, locks: ShardLocks) -> None:
        key = self.key()
        while not await self._renewed(locks, key):
            pass
        await self.outlive_lease()
        assert not await locks.acquire_lock(key, "b", LONG)

    async def _renewed(self, locks: ShardLocks, key: str) -> bool:
        """Whether a lock was renewed in time, for long."""
        since = self.now()
        assert await locks.acquire_lock(key, "a", self.lease)
        if await locks.renew_lock(key, "a", LONG):
            return True
        self.assert_late(since)
        return False

    async def test_only_the_owner_renews(self, locks: ShardLocks) -> None:
        key = self.key()
        assert not await locks.renew_lock(key, "a", LONG)
        await locks.acquire_lock(key, "a", self.lease)
        assert not await locks.renew_lock(key, "b", LONG)
        await self.outlive_lease()
        assert await locks.acquire_lock(key, "b", LONG)
        assert not await locks.renew_lock(key, "a", LONG)

    async def test_what_ran_out_is_not_renewed(self, locks: ShardLocks) -> None:
        """Somebody may have held it in between."""
        key = self.key()
        await locks.acquire_lock(key, "a", self.lease)
        await self.outlive_lease()
        assert not await locks.renew_lock(key, "a", LONG)
        assert await locks.acquire_lock(key, "b", LONG)

    async def test_only_the_owner_unlocks(self, locks: ShardLocks) -> None:
        key = self.key()
        await locks.acquire_lock(key, "a", LONG)
        await locks.release_lock(key, "b")
        assert not await locks.acquire_lock(key, "b", LONG)
        await locks.release_lock(key, "a")
        await locks.release_lock(key, "a")
        assert await locks.acquire_lock(key, "b", LONG)
        assert not await locks.renew_lock(key, "a", LONG)

    async def test_a_checkpoint_is_kept(self, locks: ShardLocks) -> None:
        key, other = self.key(), self.key()
        await locks.acquire_lock(key, "a", LONG)
        assert await locks.get_checkpoint(key) is None
        # One may be long: it tells of all that is in hand, too.
        number = "49590338271490256608559692538361571095921575989136588898"
        for value in (number, number * 2_000, "ü \x00"):
            assert await locks.set_checkpoint(key, value, "a")
            assert await locks.get_checkpoint(key) == value
        assert await locks.get_checkpoint(other) is None

    async def test_a_checkpoint_outlives_its_lock(self, locks: ShardLocks) -> None:
        released, over = self.key(), self.key()
        await locks.acquire_lock(released, "a", LONG)
        await locks.acquire_lock(over, "a", LONG)
        for key in (released, over):
            assert await locks.set_checkpoint(key, "1", "a")
        await locks.release_lock(released, "a")
        await locks.renew_lock(over, "a", self.lease)
        await self.outlive_lease()
        for key in (released, over):
            assert await locks.get_checkpoint(key) == "1"
            assert await locks.acquire_lock(key, "b", LONG)
            assert await locks.get_checkpoint(key) == "1"

    async def test_only_the_owner_moves_a_checkpoint(self, locks: ShardLocks) -> None:
        key = self.key()
        assert not await locks.set_checkpoint(key, "0", "a")
        await locks.acquire_lock(key, "a", LONG)
        assert await locks.set_checkpoint(key, "1", "a")
        assert not await locks.set_checkpoint(key, "2", "b")
        await locks.renew_lock(key, "a", self.lease)
        await self.outlive_lease()
        assert not await locks.set_checkpoint(key, "2", "a")
        await locks.acquire_lock(key, "b", LONG)
        assert not await locks.set_checkpoint(key, "2", "a")
        assert await locks.get_checkpoint(key) == "1"
        assert await locks.set_checkpoint(key, "3", "b")

    async def test_instances_are_known_while_they_report(self, locks: ShardLocks) -> None:
        stream, other = self.key(), self.key()
        assert await locks.get_active_instances(stream) == []
        for instance in ("b", "a"):
            await locks.send_heartbeat(stream, instance, self.lease)
        for instance in ("b", "a", "short"):
            await locks.send_heartbeat(stream, instance, LONG)
        assert await locks.get_active_instances(stream) == ["a", "b", "short"]
        await locks.send_heartbeat(stream, "short", self.lease)
        await self.outlive_lease()
        assert await locks.get_active_instances(stream) == ["a", "b"]
        assert await locks.get_active_instances(other) == []

    async def test_an_instance_leaves_at_once(self, locks: ShardLocks) -> None:
        stream = self.key()
        await locks.send_heartbeat(stream, "a", LONG)
        await locks.send_heartbeat(stream, "a", 0)
        assert await locks.get_active_instances(stream) == []

    async def test_opening_again_changes_nothing(self, locks: ShardLocks) -> None:
        key = self.key()
        await locks.acquire_lock(key, "a", LONG)
        await locks.open()
        assert await locks.renew_lock(key, "a", LONG)
