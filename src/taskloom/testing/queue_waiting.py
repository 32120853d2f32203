"""Cases of queues: waiting for work, and giving up waiting."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

from taskloom.interfaces.message_queue import MessageQueue
from taskloom.testing.queue_base import LONG, PROMPT, WAIT, QueueSuite, ids
from taskloom.testing.suite import COARSE

__all__ = ["WaitingCases"]


class WaitingCases(QueueSuite):
    """`wait` of a claim."""

    async def test_waiting_ends_with_nothing(self, queue: MessageQueue) -> None:
        queue_id = await self.make_queue(queue)
        since = self.now()
        claim = await self.start_timed_claim(queue, queue_id, wait=0.3)
        await self.pass_time(0.4)
        found, at = await asyncio.wait_for(claim, PROMPT)
        assert found == []
        assert at > since + timedelta(seconds=0.3) - COARSE, "did not wait"

    async def test_a_put_ends_the_waiting(self, queue: MessageQueue) -> None:
        queue_id = await self.make_queue(queue)
        claim = await self.start_claim(queue, queue_id, wait=WAIT)
        task = self.task(queue_id)
        await queue.put(queue_id, [task])
        assert ids(await asyncio.wait_for(claim, PROMPT)) == [task.id]

    async def test_a_put_ends_the_waiting_of_as_many(self, queue: MessageQueue) -> None:
        queue_id = await self.make_queue(queue)
        claims = [await self.start_claim(queue, queue_id, wait=WAIT) for _ in range(3)]
        tasks = self.tasks(queue_id, 3)
        await queue.put(queue_id, tasks)
        found = await asyncio.wait_for(asyncio.gather(*claims), PROMPT)
        assert sorted(each[0].task.id for each in found) == sorted(ids(tasks))

    async def test_a_release_ends_the_waiting(self, queue: MessageQueue) -> None:
        queue_id, deliveries = await self.put_and_take(queue)
        claim = await self.start_claim(queue, queue_id, wait=WAIT)
        await queue.release(deliveries)
        assert ids(await asyncio.wait_for(claim, PROMPT)) == ids(deliveries)

    async def test_a_retry_ends_the_waiting(self, queue: MessageQueue) -> None:
        queue_id, deliveries = await self.put_and_take(queue)
        claim = await self.start_claim(queue, queue_id, wait=WAIT)
        await queue.release(deliveries, tasks=[deliveries[0].task.replace(retry_count=1)])
        assert ids(await asyncio.wait_for(claim, PROMPT)) == ids(deliveries)

    async def test_a_lost_lease_ends_the_waiting(self, queue: MessageQueue) -> None:
        queue_id, deliveries = await self.put_and_take(queue, 1, self.lease)
        claim = await self.start_claim(queue, queue_id, wait=WAIT)
        await self.outlive_lease()
        (again,) = await asyncio.wait_for(claim, PROMPT)
        assert again.task.id == deliveries[0].task.id
        assert again.delivery_count == 2

    async def test_a_shortened_lease_ends_the_waiting(self, queue: MessageQueue) -> None:
        queue_id, deliveries = await self.put_and_take(queue)
        claim = await self.start_claim(queue, queue_id, wait=WAIT)
        await queue.extend(deliveries, self.lease)
        await self.outlive_lease()
        assert ids(await asyncio.wait_for(claim, PROMPT)) == ids(deliveries)

    async def test_a_due_time_ends_the_waiting(self, queue: MessageQueue) -> None:
        self.need(queue, "delay")
        queue_id = await self.make_queue(queue)
        later = self.task(queue_id, execute_at=self.now() + timedelta(seconds=3600))
        await queue.put(queue_id, [later])
        claim = await self.start_timed_claim(queue, queue_id, wait=WAIT)
        sooner = self.task(queue_id, execute_at=self.now() + timedelta(seconds=0.4))
        await queue.put(queue_id, [sooner])
        await self.pass_time(0.5)
        found, at = await asyncio.wait_for(claim, PROMPT)
        assert ids(found) == [sooner.id]
        assert at > sooner.execute_at - COARSE, "delivered too early"

    async def test_other_queues_do_not_end_the_waiting(self, queue: MessageQueue) -> None:
        queue_id, other = await self.make_queue(queue), await self.make_queue(queue)
        since = self.now()
        claim = await self.start_timed_claim(queue, queue_id, wait=0.4)
        await queue.put(other, [self.task(other)])
        await self.pass_time(0.5)
        found, at = await asyncio.wait_for(claim, PROMPT)
        assert found == []
        assert at > since + timedelta(seconds=0.4) - COARSE, "did not wait"

    async def test_a_claim_given_up_while_waiting_takes_nothing(self, queue: MessageQueue) -> None:
        queue_id = await self.make_queue(queue)
        claim = await self.start_claim(queue, queue_id, wait=WAIT)
        claim.cancel()
        await asyncio.wait({claim})
        task = self.task(queue_id)
        await queue.put(queue_id, [task])
        (delivery,) = await self.take(queue, queue_id)
        assert delivery.delivery_count == 1

    async def test_cancelling_a_claim_loses_nothing(self, queue: MessageQueue) -> None:
        """Whenever a claim is cancelled: it returns the task, or the next claim has it at once."""
        queue_id = await self.make_queue(queue)
        for turns in range(24):
            task = self.task(queue_id, turns)
            claim: asyncio.Task[list[Any]]
            claim = asyncio.create_task(queue.claim(queue_id, 1, lease=LONG, wait=WAIT))
            if turns % 2:
                await asyncio.sleep(0)
            await queue.put(queue_id, [task])
            for _ in range(turns // 2):
                await asyncio.sleep(0)
            claim.cancel()
            await asyncio.wait({claim})
            if claim.cancelled():
                got = await self.take(queue, queue_id)
            else:
                got = claim.result()
            (delivery,) = got
            assert delivery.task.id == task.id
            assert delivery.delivery_count == 1
            assert await queue.ack([delivery]) == []

    async def test_cancelling_one_claim_leaves_the_work_to_another(
        self, queue: MessageQueue
    ) -> None:
        queue_id = await self.make_queue(queue)
        claims = [await self.start_claim(queue, queue_id, wait=WAIT) for _ in range(2)]
        task = self.task(queue_id)
        await queue.put(queue_id, [task])
        claims[0].cancel()
        await asyncio.wait({claims[0]})
        if claims[0].cancelled():
            got = await asyncio.wait_for(claims[1], PROMPT)
        else:
            got = claims[0].result()
            claims[1].cancel()
            await asyncio.wait({claims[1]})
        assert ids(got) == [task.id]
