"""Scripts of Redis with one guard removed: a case notices each of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from hashlib import sha1
from typing import Any, NamedTuple

import pytest

from taskloom.identity import new_id
from taskloom.redis import RedisFlowBarrier, RedisQueue, RedisServer, RedisShardLocks, RedisStorage
from taskloom.redis.keys import GROUP
from taskloom.redis.scripts import Script, script
from taskloom.testing import (
    BarrierConformance,
    QueueConformance,
    ShardLocksConformance,
    StorageConformance,
)
from taskloom.testing.queue_base import LONG, QueueSuite, ids


class StreamCases(QueueSuite):
    """What a stream could do wrong beyond what every queue could."""

    async def test_what_is_in_flight_outlives_what_comes_later(self, queue: RedisQueue) -> None:
        queue_id, [early] = await self.put_and_take(queue)
        later = self.tasks(queue_id, 3)
        await queue.put(queue_id, later)
        assert await queue.ack(await self.take(queue, queue_id, 3, LONG)) == []
        assert await queue.extend([early], self.lease) == []
        await self.outlive_lease()
        assert ids(await self.take(queue, queue_id)) == [early.task.id]

    async def test_of_a_batch_what_is_done_is_over(self, queue: RedisQueue) -> None:
        queue_id, [first, second] = await self.put_and_take(queue, 2, lease=LONG)
        assert await queue.ack([first]) == []
        assert await queue.ack([first, second]) == [first]
        assert await queue.ack([second]) == [second]
        batches = queue.server.keys.queue(queue_id).batches
        assert await queue.server.client.exists(batches) == 0

    async def test_a_group_made_again_knows_no_old_claims(self, queue: RedisQueue) -> None:
        queue_id, [before] = await self.put_and_take(queue, lease=LONG)
        await queue.server.client.xgroup_destroy(queue.server.keys.queue(queue_id).stream, GROUP)
        async with RedisQueue(queue.server) as other:
            (held,) = await self.take(other, queue_id, 1, LONG)
            assert await queue.ack([before]) == [before]
            assert await other.ack([held]) == []

    async def test_lost_leases_come_back_in_order(self, queue: RedisQueue) -> None:
        queue_id = await self.make_queue(queue)
        await queue.put(queue_id, self.tasks(queue_id, 12))
        lost = await self.in_time(queue, queue_id, lambda taken: queue.ack(taken[3:4]))
        await self.outlive_lease()
        assert await queue.depth(queue_id) == 11
        expected = [each for each in ids(lost) if each != lost[3].task.id]
        assert ids(await self.take(queue, queue_id, 11)) == expected


class TestRedisStream(StreamCases):
    @pytest.fixture
    async def queue(self, server: RedisServer) -> AsyncIterator[RedisQueue]:
        async with RedisQueue(server) as queue:
            yield queue


class Guard(NamedTuple):
    """What stands in a script, what would stand there without the guard, the case that notices."""

    script: str
    text: str
    without: str
    suite: type[Any]
    case: str


ENGINES = {
    BarrierConformance: RedisFlowBarrier,
    QueueConformance: RedisQueue,
    ShardLocksConformance: RedisShardLocks,
    StorageConformance: RedisStorage,
    StreamCases: RedisQueue,
}

HELD = ("if claims == each[3] then", "if true then")
HOLDER = ("from, upto, count, consumer)", "from, upto, count)")
ALONE = ("whole = whole and not lease", "whole = true")
LOCKED = ("if holder() ~= owner then", "if false then")

GUARDS = [
    Guard("queue_ack", *HELD, QueueConformance, "test_a_late_ack_is_inert"),
    Guard("queue_ack", *HOLDER, QueueConformance, "test_after_a_release_nothing_else_works"),
    Guard("queue_ack", *ALONE, QueueConformance, "test_after_a_release_nothing_else_works"),
    Guard(
        "queue_ack",
        "not redis.call('ZSCORE', batches, batch)",
        "false",
        StreamCases,
        "test_a_group_made_again_knows_no_old_claims",
    ),
    Guard(
        "queue_ack",
        "count == #entries or",
        "true or",
        StreamCases,
        "test_of_a_batch_what_is_done_is_over",
    ),
    Guard("queue_claim", "'NX', ", "", QueueConformance, "test_an_extended_lease_holds"),
    Guard(
        "queue_claim",
        "redis.call('DEL', batches, leases, released)",
        "",
        StreamCases,
        "test_a_group_made_again_knows_no_old_claims",
    ),
    Guard("queue_extend", *HELD, QueueConformance, "test_a_late_extend_is_inert"),
    Guard("queue_release", *HELD, QueueConformance, "test_a_late_release_is_inert"),
    Guard("queue_replace", *HELD, QueueConformance, "test_a_late_retry_is_inert"),
    Guard(
        "queue_put",
        "redis.call('XADD', stream, '*'",
        "redis.call('XADD', stream, 'MAXLEN', '3', '*'",
        StreamCases,
        "test_what_is_in_flight_outlives_what_comes_later",
    ),
    Guard(
        "queue_put",
        "if not known[id] then",
        "if true then",
        QueueConformance,
        "test_an_id_put_while_in_flight_is_one_task",
    ),
    Guard(
        "queue_claim",
        "group, '0', 'MKSTREAM'",
        "group, '$', 'MKSTREAM'",
        QueueConformance,
        "test_a_task_comes_out_once",
    ),
    Guard(
        "tasks_settle",
        "tonumber(row.epoch) ~= ending.epoch",
        "false",
        StorageConformance,
        "test_a_late_settle_is_inert",
    ),
    Guard(
        "tasks_settle",
        "if row and TERMINAL[row.status] then\n    return",
        "if false then\n    return",
        StorageConformance,
        "test_a_queues_delivery_changes_no_ended_task",
    ),
    Guard(
        "tasks_extend",
        "and tonumber(row.epoch) == each[2]",
        "",
        StorageConformance,
        "test_a_late_extend_is_inert",
    ),
    Guard("flows_send", "~= 'ready'", "== ''", BarrierConformance, "test_a_join_is_marked_once"),
    Guard(
        "flows_count",
        "redis.call('HSETNX', steps_key(id), step[1], step[3]) == 1",
        "redis.call('HSET', steps_key(id), step[1], step[3])",
        BarrierConformance,
        "test_of_each_index_the_first_result_stays",
    ),
    Guard("locks_renew", *LOCKED, ShardLocksConformance, "test_only_the_owner_renews"),
    Guard(
        "locks_checkpoint",
        *LOCKED,
        ShardLocksConformance,
        "test_only_the_owner_moves_a_checkpoint",
    ),
    Guard(
        "locks_acquire",
        "other and other ~= owner",
        "false",
        ShardLocksConformance,
        "test_of_racing_owners_one_wins",
    ),
]


@pytest.fixture
async def server(redis_url: str) -> AsyncIterator[RedisServer]:
    async with RedisServer.from_url(redis_url, prefix=f"test-{new_id()}") as server:
        yield server


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: f"{guard.script}-{guard.case}")
async def test_a_case_notices(
    guard: Guard, server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = script(guard.script).text
    assert guard.text in whole
    text = whole.replace(guard.text, guard.without)
    broken = Script(text, sha1(text.encode(), usedforsecurity=False).hexdigest())
    monkeypatch.setattr(
        "taskloom.redis.server.script",
        lambda name: broken if name == guard.script else script(name),
    )
    suite = guard.suite()
    case = getattr(suite, guard.case)
    async with ENGINES[guard.suite](server) as engine:
        with pytest.raises(AssertionError):
            await case(engine)
