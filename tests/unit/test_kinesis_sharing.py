"""Instances share a stream: shares, hand-over, lost locks, shards that change while tasks flow."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from kinesis_cluster import LONG, QUICK, Cluster, cluster, held, keyed, take

from kinesis_flow import TASKS, Flow
from taskloom.errors import QueueUnavailableError, StorageUnavailableError
from taskloom.interfaces import ShardLocks
from taskloom.kinesis import FileShardLocks, KinesisQueue
from taskloom.kinesis.progress import FINISHED, Progress, read_progress
from taskloom.kinesis.timing import Timing
from taskloom.outcomes import Delivery


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[Cluster]:
    async with cluster(tmp_path) as found:
        yield found


async def until(
    queues: Sequence[KinesisQueue], holds: Callable[[list[list[str]]], bool], limit: float = 5
) -> list[list[str]]:
    """Claim, and let nobody work, until the shards held by each are as wanted."""
    async with asyncio.timeout(limit):
        while not holds([held(queue) for queue in queues]):
            for queue in queues:
                found = await queue.claim("s", 1, lease=LONG, wait=0.01)
                await queue.release([each for each in found if isinstance(each, Delivery)])
    return [held(queue) for queue in queues]


def counts(*wanted: int) -> Callable[[list[list[str]]], bool]:
    return lambda found: [len(each) for each in found] == list(wanted)


async def test_a_new_instance_gets_its_share_and_no_shard_moves_twice(here: Cluster) -> None:
    here.fake.stream("s", 5)
    one, two = await here.instance(), await here.instance()
    await until([one], counts(5))
    before = await until([one, two], counts(3, 2))
    three = await here.instance()
    after = await until([one, two, three], counts(2, 2, 1))
    assert after[1] == before[1]
    assert set(after[0]) < set(before[0])


async def test_the_shards_of_one_who_leaves_go_on_at_once(here: Cluster) -> None:
    here.fake.stream("s", 4)
    one, two = await here.instance(), await here.instance()
    before = await until([one, two], counts(2, 2))
    await one.put("s", [keyed(number, f"k{number}") for number in range(20)])
    await one.close()
    after = await until([two], counts(4), limit=QUICK.lock_ttl / 2)
    assert set(before[1]) < set(after[0])
    assert len(await take(two, 20)) == 20


async def test_a_shard_is_not_given_up_under_a_running_task(here: Cluster) -> None:
    """The reference released the lock without waiting: both ran the batch."""
    here.fake.stream("s", 1)
    late = await here.instance()
    early = await here.instance()
    here.fake.stream("s", 2)
    await early.put("s", [keyed(number, f"k{number}") for number in range(12)])
    running = await take(early, 12)
    other: list[Delivery] = []
    for _ in range(40):
        found = await late.claim("s", 5, lease=LONG, wait=0.02)
        other += [each for each in found if isinstance(each, Delivery)]
    assert other == []
    assert len(held(early)) == 2
    assert await early.ack(running) == []
    await until([late, early], counts(1, 1))


async def test_a_lost_lock_stops_everything_at_once(here: Cluster, tmp_path: Path) -> None:
    here.fake.stream("s")
    ours = await here.instance()
    await ours.put("s", [keyed(1), keyed(2)])
    taken = await take(ours, 2)
    await _steal(here, "s/shardId-000000000000")
    assert sorted(await ours.ack(taken), key=id) == sorted(taken, key=id)
    assert (await progress(here)).mark is None
    assert await ours.extend(taken, LONG) == taken
    assert await ours.release(taken) == taken
    assert held(ours) == []


async def test_a_renewal_finds_that_a_lock_is_lost(here: Cluster) -> None:
    here.fake.stream("s")
    ours = await here.instance()
    await ours.put("s", [keyed(1)])
    taken = await take(ours)
    await _steal(here, "s/shardId-000000000000")
    await until([ours], counts(0))
    assert await ours.extend(taken, LONG) == taken


async def test_a_lock_that_is_not_renewed_is_given_up(here: Cluster) -> None:
    """Stopped past its lock and continued: what it held counts for nothing."""
    here.fake.stream("s")
    stopped = await here.instance(
        timing=msgspec.structs.replace(QUICK, lock_ttl=0.3, renew=60.0, look=60.0)
    )
    await stopped.put("s", [keyed(1)])
    taken = await take(stopped)
    other = await here.instance()
    (again,) = await take(other)
    assert again.task.id == taken[0].task.id
    assert await stopped.extend(taken, LONG) == taken, "nobody needs to be asked"
    assert await stopped.ack(taken) == taken
    assert await other.ack([again]) == []


async def _steal(here: Cluster, key: str) -> None:
    """Somebody else has a lock, as if its time had run out."""
    assert isinstance(here.locks, FileShardLocks)
    with here.locks._files.changing(f"lock:{key}") as lock:
        lock["owner"] = "thief"


async def progress(here: Cluster) -> Progress:
    return read_progress(await here.locks.get_checkpoint("s/shardId-000000000000"))


class Deaf(ShardLocks):
    """Locks of which a call can be made to fail."""

    def __init__(self, locks: ShardLocks) -> None:
        self._locks = locks
        self.refuses: set[str] = set()

    async def _call(self, name: str, *args: Any) -> Any:
        if name in self.refuses:
            raise StorageUnavailableError("away")
        return await getattr(self._locks, name)(*args)

    async def acquire_lock(self, key: str, owner: str, ttl: float) -> bool:
        return bool(await self._call("acquire_lock", key, owner, ttl))

    async def renew_lock(self, key: str, owner: str, ttl: float) -> bool:
        return bool(await self._call("renew_lock", key, owner, ttl))

    async def release_lock(self, key: str, owner: str) -> None:
        await self._call("release_lock", key, owner)

    async def set_checkpoint(self, key: str, value: str, owner: str) -> bool:
        return bool(await self._call("set_checkpoint", key, value, owner))

    async def get_checkpoint(self, key: str) -> str | None:
        found: str | None = await self._call("get_checkpoint", key)
        return found

    async def send_heartbeat(self, stream: str, instance: str, ttl: float) -> None:
        await self._call("send_heartbeat", stream, instance, ttl)

    async def get_active_instances(self, stream: str) -> list[str]:
        found: list[str] = await self._call("get_active_instances", stream)
        return found


async def test_locks_that_are_away_are_told_and_what_was_settled_is_saved_later(
    here: Cluster,
) -> None:
    here.fake.stream("s")
    locks = Deaf(here.locks)
    queue = await here.instance(locks=locks)
    await queue.put("s", [keyed(1)])
    taken = await take(queue)
    locks.refuses.add("set_checkpoint")
    with pytest.raises(Exception, match="shard locks of 's'"):
        await queue.ack(taken)
    locks.refuses.clear()
    async with asyncio.timeout(5):
        while (await progress(here)).mark is None:
            await queue.claim("s", 1, lease=LONG, wait=0.02)


async def test_renewals_that_fail_for_a_while_lose_nothing(here: Cluster) -> None:
    here.fake.stream("s")
    locks = Deaf(here.locks)
    queue = await here.instance(locks=locks)
    await queue.put("s", [keyed(1)])
    taken = await take(queue)
    locks.refuses.add("renew_lock")
    assert await queue.claim("s", 1, lease=LONG, wait=3 * QUICK.renew) == []
    locks.refuses.clear()
    assert await queue.ack(taken) == []


async def test_a_renewal_that_goes_wrong_is_not_the_last(here: Cluster) -> None:
    """One did, when a shard was lost in the middle of a round: no lock was renewed any more."""

    class Faulty(Deaf):
        async def renew_lock(self, key: str, owner: str, ttl: float) -> bool:
            self.rounds += 1
            if self.rounds == 1:
                raise KeyError(key)
            return await super().renew_lock(key, owner, ttl)

        rounds = 0

    here.fake.stream("s")
    timing = msgspec.structs.replace(QUICK, lock_ttl=0.6, renew=0.05)
    queue = await here.instance(timing=timing, locks=Faulty(here.locks))
    await queue.put("s", [keyed(1)])
    taken = await take(queue)
    await queue.claim("s", 1, lease=LONG, wait=3 * timing.lock_ttl)
    assert await queue.ack(taken) == []


async def test_who_does_not_claim_any_more_leaves_the_stream_to_others(here: Cluster) -> None:
    here.fake.stream("s", 2)
    idle = await here.instance(timing=msgspec.structs.replace(QUICK, lock_ttl=0.3))
    await until([idle], counts(2))
    busy = await here.instance()
    await until([busy], counts(2))
    assert held(idle) == []
    await until([idle, busy], counts(1, 1))


async def test_an_instance_is_found_by_its_name(here: Cluster) -> None:
    here.fake.stream("s")
    one = await here.instance(instance_id="shop-1")
    other = await here.instance(instance_id="shop-1")
    assert one.instance.endswith(":shop-1")
    assert one.instance < other.instance, "the older one comes first"


# Shards that change while tasks flow

ROUNDS = 8


async def test_a_shard_map_that_changes_under_two_instances(here: Cluster) -> None:
    """Split, merge, split of a split: nothing lost, nothing twice, each key in its order."""
    here.fake.stream("s", 2)
    one, two, flow = await here.instance(), await here.instance(), Flow()
    flow.join(one, "s")
    flow.join(two, "s")
    for turn in range(ROUNDS):
        await flow.put(one, "s", turn)
        if turn == 1:
            here.fake.split("s", "shardId-000000000000")  # 2, 3
        elif turn == 3:
            here.fake.split("s", "shardId-000000000002")  # 4, 5
        elif turn == 5:
            here.fake.merge("s", "shardId-000000000005", "shardId-000000000003")
    await flow.end()
    assert len(flow.runs) == ROUNDS * TASKS
    assert flow.in_order
    for closed in (0, 2, 3, 5):
        key = f"s/shardId-{closed:012d}"
        assert await here.locks.get_checkpoint(key) == FINISHED


async def test_an_instance_that_comes_and_one_that_goes(here: Cluster) -> None:
    here.fake.stream("s", 4)
    one, two, flow = await here.instance(), await here.instance(), Flow()
    flow.join(one, "s")
    flow.join(two, "s")
    for turn in range(ROUNDS):
        await flow.put(one, "s", turn)
        if turn == 2:
            three = await here.instance()
            flow.join(three, "s")
            async with asyncio.timeout(5):
                while not held(three):
                    await flow.until_run(turn * TASKS)
                    await asyncio.sleep(QUICK.look)
        elif turn == 5:
            await flow.leave(two)
            await two.close()
    await flow.end()
    assert len(flow.runs) == ROUNDS * TASKS
    assert flow.in_order


async def test_an_instance_that_dies_has_its_shards_read_again(here: Cluster) -> None:
    here.fake.stream("s", 3)
    short = msgspec.structs.replace(QUICK, lock_ttl=0.5)
    dies, lives, flow = await here.instance(timing=short), await here.instance(), Flow()
    await until([dies, lives], counts(2, 1))
    flow.join(lives, "s")
    await flow.put(lives, "s", 0)
    taken = await take(dies, 3)
    _kill(dies)
    for turn in range(1, ROUNDS):
        await flow.put(lives, "s", turn)
    await flow.end()
    assert len(flow.runs) == ROUNDS * TASKS
    assert flow.in_order
    assert await dies.ack(taken) == taken


async def test_deliveries_are_counted_over_all_who_held_the_shard(here: Cluster) -> None:
    """Each of them dies with the first two records in hand; one has settled another since."""
    here.fake.stream("s")
    short = msgspec.structs.replace(QUICK, lock_ttl=0.3, renew=0.05)
    counts = []
    for turn in range(3):
        dies = await here.instance(timing=short)
        await dies.put("s", [keyed(turn)] if turn else [keyed(7), keyed(8), keyed(9)])
        taken = await take(dies, 2)
        counts.append([(each.task.payload, each.delivery_count) for each in taken])
        if turn == 1:
            await dies.ack(await take(dies))
        _kill(dies)
    assert counts == [[(7, number), (8, number)] for number in (1, 2, 3)]


async def test_what_was_settled_behind_the_checkpoint_is_not_delivered_again(here: Cluster) -> None:
    here.fake.stream("s")
    dies = await here.instance(timing=msgspec.structs.replace(QUICK, lock_ttl=0.3, renew=0.05))
    await dies.put("s", [keyed(number) for number in range(6)])
    taken = await take(dies, 5)
    await dies.ack([taken[place] for place in (1, 2, 4)])
    _kill(dies)
    lives = await here.instance()
    again = await take(lives, 3)
    assert [(each.task.payload, each.delivery_count) for each in again] == [(0, 2), (3, 2), (5, 1)]
    assert await lives.ack(again) == []
    numbers = [number for number, _, _ in here.fake.streams["s"]["shardId-000000000000"].records]
    assert await progress(here) == Progress(numbers[-1])


async def test_what_was_given_back_was_not_delivered(here: Cluster) -> None:
    here.fake.stream("s")
    dies = await here.instance(timing=msgspec.structs.replace(QUICK, lock_ttl=0.3, renew=0.05))
    await dies.put("s", [keyed(number) for number in range(3)])
    taken = await take(dies, 3)
    await dies.release(taken[1:])
    _kill(dies)
    again = await take(await here.instance(), 3)
    assert [each.delivery_count for each in again] == [2, 1, 1]


async def test_a_claim_that_cannot_be_written_takes_nothing(here: Cluster) -> None:
    here.fake.stream("s")
    locks = Deaf(here.locks)
    queue = await here.instance(locks=locks)
    assert await queue.claim("s", 1, lease=LONG) == []
    await queue.put("s", [keyed(1)])
    locks.refuses.add("set_checkpoint")
    with pytest.raises(QueueUnavailableError, match="shard locks of 's'"):
        await queue.claim("s", 1, lease=LONG, wait=1)
    locks.refuses.clear()
    (only,) = await take(queue)
    assert only.delivery_count == 1


def _kill(queue: KinesisQueue) -> None:
    """Nothing of an instance runs any more, and nothing is given back."""
    stream = queue._stream("s")
    assert stream._loops is not None
    for task in (*stream._loops, *(each.running for each in stream._held.values())):
        task.cancel()


def test_the_intervals_are_those_that_were_promised() -> None:
    timing = Timing()
    assert (timing.lock_ttl, timing.renew) == (35.0, 10.0)
    assert timing.look + timing.drain < 5.0, "a new instance has its share within 5 s"
