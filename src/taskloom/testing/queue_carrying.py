"""Cases of queues: what is put comes out, once, as it was, in order."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from msgspec import UNSET

from taskloom.interfaces.message_queue import MessageQueue
from taskloom.outcomes import Delivery
from taskloom.task import Task
from taskloom.testing.queue_base import LONG, PROMPT, WAIT, QueueSuite, ids
from taskloom.testing.suite import AWKWARD_PAYLOADS, COARSE

__all__ = ["CarryingCases"]


class CarryingCases(QueueSuite):
    """Putting and claiming."""

    across_puts: bool = True
    """Whether due tasks of different puts come by due time; False: by arrival (SPEC 13)."""

    async def test_a_task_comes_out_once(self, queue: MessageQueue) -> None:
        queue_id, (delivery,) = await self.put_and_take(queue)
        assert delivery.task.payload == {"number": 0}
        assert delivery.delivery_count == 1
        assert await queue.ack([delivery]) == []
        await self.assert_nothing(queue, queue_id)

    async def test_empty_calls_are_fine(self, queue: MessageQueue) -> None:
        queue_id = await self.make_queue(queue)
        await queue.put(queue_id, [])
        await self.assert_nothing(queue, queue_id)
        assert await queue.ack([]) == []
        assert await queue.extend([], LONG) == []
        assert await queue.release([]) == []
        assert await queue.depth(queue_id) == 0

    async def test_register_and_open_are_safe_to_repeat(self, queue: MessageQueue) -> None:
        queue_id, _ = await self.put_and_take(queue)
        queue.register(queue_id)
        await queue.open()
        await queue.put(queue_id, [self.task(queue_id, 1)])
        assert len(await self.take(queue, queue_id)) == 1

    async def test_a_claim_takes_at_most_its_limit(self, queue: MessageQueue) -> None:
        queue_id = await self.make_queue(queue)
        await queue.put(queue_id, self.tasks(queue_id, 5))
        assert len(await queue.claim(queue_id, 2, lease=LONG, wait=self.patience)) <= 2
        assert await queue.claim(queue_id, 0, lease=LONG) == []

    async def test_queues_are_apart(self, queue: MessageQueue) -> None:
        one, other = await self.make_queue(queue), await self.make_queue(queue)
        await queue.put(one, [self.task(one)])
        await self.assert_nothing(queue, other)
        assert await queue.depth(other) == 0
        assert len(await self.take(queue, one)) == 1

    async def test_an_id_put_twice_is_one_task(self, queue: MessageQueue) -> None:
        queue_id = await self.make_queue(queue)
        first = self.task(queue_id)
        await queue.put(queue_id, [first, first])
        await queue.put(queue_id, [first])
        (delivery,) = await self.take(queue, queue_id)
        await self.assert_nothing(queue, queue_id)
        await queue.ack([delivery])
        await self.assert_nothing(queue, queue_id)

    async def test_an_id_put_while_in_flight_is_one_task(self, queue: MessageQueue) -> None:
        queue_id, (delivery,) = await self.put_and_take(queue)
        await queue.put(queue_id, [delivery.task])
        await self.assert_nothing(queue, queue_id)
        assert await queue.ack([delivery]) == []
        await self.assert_nothing(queue, queue_id)

    async def test_the_first_of_an_id_stays(self, queue: MessageQueue) -> None:
        queue_id = await self.make_queue(queue)
        first = self.task(queue_id)
        await queue.put(queue_id, [first])
        await queue.put(queue_id, [first.replace(payload="other")])
        (delivery,) = await self.take(queue, queue_id)
        assert delivery.task.payload == first.payload

    async def test_payloads_come_back_as_they_were(self, queue: MessageQueue) -> None:
        queue_id = await self.make_queue(queue)
        tasks = [
            self.task(queue_id, number, payload=payload)
            for number, payload in enumerate(AWKWARD_PAYLOADS)
        ]
        await queue.put(queue_id, tasks)
        found = {each.task.id: each.task for each in await self.take(queue, queue_id, len(tasks))}
        for task in tasks:
            assert found[task.id].payload == task.payload
            assert type(found[task.id].payload) is type(task.payload)

    async def test_every_field_comes_back_as_it_was(self, queue: MessageQueue) -> None:
        queue_id = await self.make_queue(queue)
        task = self.full_task(queue_id)
        await queue.put(queue_id, [task])
        (delivery,) = await self.take(queue, queue_id)
        assert _travels(delivery.task) == _travels(task)

    async def test_what_is_not_set_stays_not_set(self, queue: MessageQueue) -> None:
        queue_id = await self.make_queue(queue)
        plain = self.task(queue_id)
        nothing = self.task(queue_id, 1, execution_result=None)
        await queue.put(queue_id, [plain, nothing])
        found = {each.task.id: each.task for each in await self.take(queue, queue_id, 2)}
        assert _travels(found[plain.id]) == _travels(plain)
        assert found[plain.id].retries is None
        assert found[plain.id].execution_result is UNSET
        assert found[nothing.id].execution_result is None

    async def test_what_the_caller_keeps_is_not_the_task(self, queue: MessageQueue) -> None:
        queue_id = await self.make_queue(queue)
        task = self.full_task(queue_id, payload={"list": [1]})
        await queue.put(queue_id, [task])
        task.payload["list"].append(2)
        task.execution_stats["x"] = 1
        assert task.metadata.log_context is not None
        task.metadata.log_context["x"] = "1"
        (delivery,) = await self.take(queue, queue_id)
        assert delivery.task.payload == {"list": [1]}
        assert "x" not in delivery.task.execution_stats
        assert "x" not in (delivery.task.metadata.log_context or {})

    async def test_what_a_worker_changes_is_not_the_task(self, queue: MessageQueue) -> None:
        queue_id, (first,) = await self.put_and_take(queue)
        first.task.payload["number"] = -1
        first.task.execution_stats["x"] = 1
        await queue.release([first])
        (second,) = await self.take(queue, queue_id)
        assert second.task.payload == {"number": 0}
        assert second.task.execution_stats == {}

    async def test_a_payload_without_json_is_refused(self, queue: MessageQueue) -> None:
        queue_id = await self.make_queue(queue)
        with pytest.raises((TypeError, ValueError)):
            await queue.put(queue_id, [self.task(queue_id, payload=object())])
        await self.assert_nothing(queue, queue_id)

    async def test_tasks_come_in_the_order_they_are_due(self, queue: MessageQueue) -> None:
        queue_id = await self.make_queue(queue)
        tasks = [self.task(queue_id, number, partition_key="k") for number in range(9)]
        await queue.put(queue_id, tasks[:4])
        await queue.put(queue_id, tasks[4:])
        if not queue.features.fifo_per_key:
            assert ids(await self.take(queue, queue_id, 9)) == ids(tasks)
            return
        for task in tasks:
            taken = await queue.claim(queue_id, 9, lease=LONG, wait=self.patience)
            assert [record.task.id for record in taken if isinstance(record, Delivery)] == [task.id]
            await self.assert_nothing(queue, queue_id)
            assert await queue.ack(taken) == []

    async def test_one_put_is_sorted_by_due_time(self, queue: MessageQueue) -> None:
        if queue.features.fifo_per_key:
            pytest.skip(f"{queue.name} declares fifo_per_key: order is that of putting")
        queue_id = await self.make_queue(queue)
        tasks = self.tasks(queue_id, 8)
        await queue.put(queue_id, [tasks[i] for i in (3, 0, 7, 1, 6, 2, 5, 4)])
        assert ids(await self.take(queue, queue_id, 8)) == ids(tasks)

    async def test_later_puts_may_be_due_first(self, queue: MessageQueue) -> None:
        if queue.features.fifo_per_key or not self.across_puts:
            pytest.skip(f"{queue.name} orders by arrival")
        queue_id = await self.make_queue(queue)
        tasks = self.tasks(queue_id, 8)
        for i in (3, 0, 7, 1, 6, 2, 5, 4):
            await queue.put(queue_id, [tasks[i]])
        assert ids(await self.take(queue, queue_id, 8)) == ids(tasks)

    async def test_delayed_tasks_wait_for_their_time(self, queue: MessageQueue) -> None:
        self.need(queue, "delay")
        queue_id = await self.make_queue(queue)
        soon = [self._due_in(queue_id, seconds) for seconds in (0.3, 0.4, 0.5)]
        await queue.put(queue_id, [soon[2], soon[0], self._due_in(queue_id, 3600), soon[1]])
        ahead = self.now() < soon[0].execute_at
        claim = await self.start_timed_claim(queue, queue_id, wait=WAIT)
        await self.pass_time(0.6)
        first, at = await asyncio.wait_for(claim, PROMPT)
        assert at > soon[0].execute_at - COARSE, "delivered too early"
        found = ids(first) + ids(await self.take(queue, queue_id, 2))
        # What was due before it was put may come in the order of its coming.
        assert found == ids(soon) or not ahead
        assert sorted(found) == sorted(ids(soon))
        await self.assert_nothing(queue, queue_id)

    async def test_a_delayed_id_put_twice_is_one_task(self, queue: MessageQueue) -> None:
        self.need(queue, "delay")
        queue_id = await self.make_queue(queue)
        task = self._due_in(queue_id, 0.2)
        await queue.put(queue_id, [task])
        await queue.put(queue_id, [task.replace(execute_at=self.now())])
        await self.pass_time(0.4)
        assert len(await self.take(queue, queue_id)) == 1
        await self.assert_nothing(queue, queue_id)

    async def test_depth_counts_what_is_due_and_waits(self, queue: MessageQueue) -> None:
        queue_id = await self.make_queue(queue)
        await queue.put(queue_id, self.tasks(queue_id, 5))
        if queue.features.delay:
            await queue.put(queue_id, [self._due_in(queue_id, 3600)])
        assert await queue.depth(queue_id) == 5
        taken = await self.take(queue, queue_id, 2)
        assert await queue.depth(queue_id) == 3
        await queue.ack(taken)
        assert await queue.depth(queue_id) == 3

    async def test_concurrent_claimers_share_the_tasks(self, queue: MessageQueue) -> None:
        queue_id = await self.make_queue(queue)
        tasks = self.tasks(queue_id, 200)
        for start in range(0, 200, 50):
            await queue.put(queue_id, tasks[start : start + 50])
        got: list[str] = []

        async def claimer(limit: int) -> None:
            while records := await queue.claim(queue_id, limit, lease=LONG, wait=self.patience):
                taken = [record for record in records if isinstance(record, Delivery)]
                got.extend(ids(taken))
                assert await queue.ack(taken) == []

        await asyncio.gather(*(claimer(limit) for limit in (1, 3, 7, 10, 20)))
        assert len(got) == len(set(got)), "a task was delivered twice"
        assert set(got) == set(ids(tasks))

    async def test_concurrent_puts_of_an_id_are_one_task(self, queue: MessageQueue) -> None:
        queue_id = await self.make_queue(queue)
        task = self.task(queue_id)
        await asyncio.gather(*(queue.put(queue_id, [task]) for _ in range(8)))
        await self.take(queue, queue_id)
        await self.assert_nothing(queue, queue_id)

    async def test_a_batch_is_processed_and_acknowledged(self, queue: MessageQueue) -> None:
        queue_id = await self.make_queue(queue)
        await queue.put(queue_id, self.tasks(queue_id, 3))
        seen: list[Any] = []
        while len(seen) != 3:
            before = len(seen)
            count = await queue.consume_messages_batch(
                queue_id, lambda _, tasks: seen.extend(tasks)
            )
            assert count == len(seen) - before
        assert len(set(ids(seen))) == 3
        await self.assert_nothing(queue, queue_id)

    async def test_a_failing_processor_releases_its_batch(self, queue: MessageQueue) -> None:
        queue_id = await self.make_queue(queue)
        await queue.put(queue_id, [self.task(queue_id)])

        async def fail(_: str, tasks: list[Task[Any]]) -> None:
            raise LookupError("processor")

        async def process() -> None:
            while True:
                await queue.consume_messages_batch(queue_id, fail)

        with pytest.raises(LookupError):
            await process()
        (delivery,) = await self.take(queue, queue_id)
        assert delivery.delivery_count == 1

    def _due_in(self, queue_id: str, seconds: float) -> Task[Any]:
        return self.task(queue_id, execute_at=self.now() + timedelta(seconds=seconds))


def _travels(task: Task[Any]) -> Task[Any]:
    """The task without what an engine may set when it is claimed."""
    return task.replace(status="scheduled", updated_at=task.created_at, processing_started_at=None)
