"""Cases of queues: a delivery is leased, and a late worker changes nothing."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from taskloom.interfaces.message_queue import MessageQueue
from taskloom.outcomes import Delivery, Ending, Settlement
from taskloom.task import TaskStatus
from taskloom.testing.queue_base import LONG, PROMPT, WAIT, QueueSuite, ids
from taskloom.testing.suite import COARSE

__all__ = ["LeaseCases"]


class LeaseCases(QueueSuite):
    """Extending, acknowledging, releasing; in time and too late."""

    async def test_nobody_else_gets_a_leased_task(self, queue: MessageQueue) -> None:
        queue_id, _ = await self.put_and_take(queue, 3)
        await self.assert_nothing(queue, queue_id)
        await self.outlive_lease()
        await self.assert_nothing(queue, queue_id)

    async def test_a_lost_lease_delivers_again(self, queue: MessageQueue) -> None:
        queue_id = await self.make_queue(queue)
        await queue.put(queue_id, self.tasks(queue_id, 3))
        claimed = await queue.claim(queue_id, 3, lease=self.lease, wait=self.patience)
        lost = {each.task.id: 2 for each in claimed if isinstance(each, Delivery)}
        assert lost
        await self.outlive_lease()
        second = await self.take(queue, queue_id, 3)
        counts = {each.task.id: each.delivery_count for each in second}
        assert counts == dict.fromkeys(counts, 1) | lost
        assert sorted(each.task.payload["number"] for each in second) == [0, 1, 2]

    async def test_each_lost_lease_counts(self, queue: MessageQueue) -> None:
        queue_id, _ = await self.put_and_take(queue, 1, self.lease)
        for count in (2, 3):
            await self.outlive_lease()
            (delivery,) = await self.take(queue, queue_id, 1, self.lease)
            assert delivery.delivery_count == count

    async def test_a_lost_lease_counts_as_waiting(self, queue: MessageQueue) -> None:
        queue_id, _ = await self.put_and_take(queue, 2, self.lease)
        await self.outlive_lease()
        await self.take(queue, queue_id, 1)
        assert await queue.depth(queue_id) == 1

    async def test_an_acknowledged_task_never_returns(self, queue: MessageQueue) -> None:
        queue_id = await self.make_queue(queue)
        await queue.put(queue_id, self.tasks(queue_id, 3))
        await self.in_time(queue, queue_id, queue.ack)
        await self.outlive_lease()
        await self.assert_nothing(queue, queue_id)
        assert await queue.depth(queue_id) == 0

    async def test_a_delivery_is_acknowledged_by_itself(self, queue: MessageQueue) -> None:
        self.need(queue, "single_ack")
        queue_id = await self.make_queue(queue)
        await queue.put(queue_id, self.tasks(queue_id, 3))
        first, _, third = await self.in_time(queue, queue_id, lambda taken: queue.ack(taken[1:2]))
        await self.outlive_lease()
        assert sorted(ids(await self.take(queue, queue_id, 2))) == sorted(ids([first, third]))
        await self.assert_nothing(queue, queue_id)

    async def test_a_second_ack_is_too_late(self, queue: MessageQueue) -> None:
        _, (delivery,) = await self.put_and_take(queue)
        assert await queue.ack([delivery]) == []
        assert ids(await queue.ack([delivery])) == [delivery.task.id]

    async def _lost_and_retaken(self, queue: MessageQueue) -> tuple[str, Delivery, Delivery]:
        """A delivery whose lease ran out, and the one that someone else has now."""
        queue_id, (late,) = await self.put_and_take(queue, 1, self.lease)
        await self.outlive_lease()
        (current,) = await self.take(queue, queue_id)
        return queue_id, late, current

    async def _assert_holds(self, queue: MessageQueue, queue_id: str, current: Delivery) -> None:
        """`current` is still the one delivery of its task."""
        await self.assert_nothing(queue, queue_id)
        assert await queue.extend([current], LONG) == []
        assert await queue.ack([current]) == []
        await self.assert_nothing(queue, queue_id)

    async def test_a_late_ack_is_inert(self, queue: MessageQueue) -> None:
        queue_id, late, current = await self._lost_and_retaken(queue)
        assert await queue.ack([late]) == [late]
        await self._assert_holds(queue, queue_id, current)

    async def test_a_late_ack_does_not_save_the_task(self, queue: MessageQueue) -> None:
        queue_id, (late,) = await self.put_and_take(queue, 1, self.lease)
        await self.outlive_lease()
        await self.take(queue, queue_id, 1, self.lease)
        await queue.ack([late])
        await self.outlive_lease()
        (third,) = await self.take(queue, queue_id)
        assert third.delivery_count == 3

    async def test_a_late_extend_is_inert(self, queue: MessageQueue) -> None:
        queue_id, (late,) = await self.put_and_take(queue, 1, self.lease)
        await self.outlive_lease()
        await self.take(queue, queue_id, 1, self.lease)
        assert await queue.extend([late], LONG) == [late]
        await self.outlive_lease()
        assert len(await self.take(queue, queue_id)) == 1

    async def test_a_late_release_is_inert(self, queue: MessageQueue) -> None:
        queue_id, late, current = await self._lost_and_retaken(queue)
        assert await queue.release([late]) == [late]
        await self._assert_holds(queue, queue_id, current)

    async def test_a_late_retry_is_inert(self, queue: MessageQueue) -> None:
        queue_id, late, current = await self._lost_and_retaken(queue)
        retry = late.task.replace(retry_count=9, execute_at=self.now())
        assert await queue.release([late], tasks=[retry]) == [late]
        await self._assert_holds(queue, queue_id, current)

    async def test_after_an_ack_nothing_else_works(self, queue: MessageQueue) -> None:
        queue_id, (delivery,) = await self.put_and_take(queue)
        await queue.ack([delivery])
        assert await queue.extend([delivery], LONG) == [delivery]
        assert await queue.release([delivery]) == [delivery]
        assert await queue.release([delivery], tasks=[delivery.task]) == [delivery]
        await self.assert_nothing(queue, queue_id)

    async def test_after_a_release_nothing_else_works(self, queue: MessageQueue) -> None:
        queue_id, (delivery,) = await self.put_and_take(queue)
        assert await queue.release([delivery]) == []
        assert await queue.release([delivery]) == [delivery]
        assert await queue.extend([delivery], LONG) == [delivery]
        assert await queue.ack([delivery]) == [delivery]
        (again,) = await self.take(queue, queue_id)
        await self._assert_holds(queue, queue_id, again)

    async def test_only_the_lost_ones_are_returned(self, queue: MessageQueue) -> None:
        self.need(queue, "single_ack")
        queue_id, (late, kept, other) = await self.put_and_take(queue, 3)
        assert await queue.extend([late], self.lease) == []
        await self.outlive_lease()
        (current,) = await self.take(queue, queue_id)
        assert current.task.id == late.task.id
        assert await queue.extend([kept, late, other], LONG) == [late]
        assert await queue.release([late, other]) == [late]
        assert await queue.ack([late, kept]) == [late]
        assert ids(await self.take(queue, queue_id)) == [other.task.id]
        await self.assert_nothing(queue, queue_id)
        assert await queue.ack([current]) == []

    async def test_an_extended_lease_holds(self, queue: MessageQueue) -> None:
        queue_id = await self.make_queue(queue)
        await queue.put(queue_id, self.tasks(queue_id, 2))
        while not (taken := await self._held_by_extending(queue, queue_id)):
            await self.outlive_lease()
        await self.assert_nothing(queue, queue_id)
        assert await queue.ack(taken) == []
        await self.assert_nothing(queue, queue_id)

    async def _held_by_extending(self, queue: MessageQueue, queue_id: str) -> list[Delivery]:
        """Both deliveries of the queue, extended in the middle of each lease; none: too late."""
        since = self.now()
        taken = await self.take(queue, queue_id, 2, self.lease)
        for lease in (self.lease, self.lease, LONG):
            await self.pass_time(self.lease * 0.5)
            asked = self.now()
            if await queue.extend(taken, lease):
                self.assert_late(since)
                return []
            since = asked
        return taken

    async def test_an_extended_lease_ends_too(self, queue: MessageQueue) -> None:
        queue_id = await self.make_queue(queue)
        await queue.put(queue_id, [self.task(queue_id)])
        (first,) = await self.in_time(
            queue, queue_id, lambda taken: queue.extend(taken, self.lease)
        )
        await self.outlive_lease()
        (again,) = await self.take(queue, queue_id)
        assert again.delivery_count == first.delivery_count + 1

    async def test_a_lease_counts_from_the_last_extend(self, queue: MessageQueue) -> None:
        queue_id, deliveries = await self.put_and_take(queue)
        assert await queue.extend(deliveries, self.lease) == []
        await self.outlive_lease()
        assert len(await self.take(queue, queue_id)) == 1

    async def test_a_released_task_is_claimable_at_once(self, queue: MessageQueue) -> None:
        queue_id, deliveries = await self.put_and_take(queue, 3)
        assert await queue.release(deliveries) == []
        assert await queue.depth(queue_id) == 3
        again = await self.take(queue, queue_id, 3)
        assert sorted(ids(again)) == sorted(ids(deliveries))
        assert [each.task.payload for each in again] == [{"number": n} for n in range(3)]

    async def test_a_release_does_not_count(self, queue: MessageQueue) -> None:
        queue_id, (delivery,) = await self.put_and_take(queue, 1, self.lease)
        await self.outlive_lease()
        (delivery,) = await self.take(queue, queue_id)
        for _ in range(3):
            assert delivery.delivery_count == 2
            await queue.release([delivery])
            (delivery,) = await self.take(queue, queue_id)

    async def test_a_release_waits_for_its_delay(self, queue: MessageQueue) -> None:
        self.need(queue, "delay")
        queue_id, (later, sooner) = await self.put_and_take(queue, 2)
        since = self.now()
        assert await queue.release([later], delay=3600) == []
        assert await queue.release([sooner], delay=0.3) == []
        claim = await self.start_timed_claim(queue, queue_id, wait=WAIT)
        await self.pass_time(0.4)
        (again,), at = await asyncio.wait_for(claim, PROMPT)
        assert at > since + timedelta(seconds=0.3) - COARSE, "delivered too early"
        assert again.delivery_count == 1
        assert again.task.id == sooner.task.id
        assert again.task.payload == sooner.task.payload
        await self.assert_nothing(queue, queue_id)
        assert await queue.depth(queue_id) == 0

    async def test_a_release_can_change_the_task(self, queue: MessageQueue) -> None:
        queue_id, (delivery,) = await self.put_and_take(queue, 1, self.lease)
        await self.outlive_lease()
        (delivery,) = await self.take(queue, queue_id)
        retry = delivery.task.replace(
            retry_count=1, payload={"new": [1]}, execution_stats={"last_error": "x"}
        )
        assert await queue.release([delivery], tasks=[retry]) == []
        retry.payload["new"].append(2)
        (again,) = await self.take(queue, queue_id)
        assert again.task.id == delivery.task.id
        assert again.task.retry_count == 1
        assert again.task.payload == {"new": [1]}
        assert again.task.execution_stats == {"last_error": "x"}
        assert again.delivery_count == 1, "a retry starts again at one delivery"
        assert await queue.ack([delivery]) == [delivery]
        await self._assert_holds(queue, queue_id, again)

    async def test_a_changed_task_waits_for_its_time(self, queue: MessageQueue) -> None:
        self.need(queue, "delay")
        queue_id, deliveries = await self.put_and_take(queue, 3)
        now = self.now()
        times = [now + timedelta(seconds=seconds) for seconds in (0.4, 0.3, 3600)]
        retries = [
            each.task.replace(execute_at=at) for each, at in zip(deliveries, times, strict=True)
        ]
        assert await queue.release(deliveries, tasks=retries) == []
        ahead = self.now() < times[1]
        claim = await self.start_timed_claim(queue, queue_id, wait=WAIT)
        await self.pass_time(0.5)
        first, at = await asyncio.wait_for(claim, PROMPT)
        assert at > times[1] - COARSE, "delivered too early"
        found = ids(first) + ids(await self.take(queue, queue_id))
        # What was due before it came back may come in the order of its coming.
        assert found == ids([retries[1], retries[0]]) or not ahead
        assert sorted(found) == sorted(ids(retries[:2]))
        await self.assert_nothing(queue, queue_id)

    async def test_of_two_who_end_a_delivery_one_wins(self, queue: MessageQueue) -> None:
        queue_id, (delivery,) = await self.put_and_take(queue)
        answers = await asyncio.gather(queue.ack([delivery]), queue.release([delivery]))
        assert sorted(len(answer) for answer in answers) == [0, 1]
        left = 0 if answers[0] == [] else 1
        assert len(await queue.claim(queue_id, 2, lease=LONG, wait=self.patience * left)) == left

    async def test_a_settled_task_is_acknowledged_where_storage_is_the_queue(
        self, queue: MessageQueue
    ) -> None:
        if queue.storage is None:
            pytest.skip(f"{queue.name} has no storage of its own")
        storage = queue.storage
        queue_id = await self.make_queue(queue)
        await queue.put(queue_id, [self.task(queue_id)])

        async def settle(taken: list[Delivery]) -> list[str]:
            ending = Ending(taken[0], TaskStatus.EXECUTED, result={"ok": 1})
            return await storage.settle(Settlement(endings=(ending,)))

        (delivery,) = await self.in_time(queue, queue_id, settle)
        await self.outlive_lease()
        await self.assert_nothing(queue, queue_id)
        (stored,) = await storage.get([delivery.task.id])
        assert stored.status is TaskStatus.EXECUTED
        assert stored.execution_result == {"ok": 1}
        assert await queue.extend([delivery], LONG) == [delivery]
