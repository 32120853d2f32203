"""Cases of storages: claiming due tasks, leases, and what is lost."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from taskloom.task import TaskStatus
from taskloom.testing.storage_base import LONG, Storage, StorageSuite, ids

__all__ = ["LeaseCases"]


class LeaseCases(StorageSuite):
    """`claim_due`, `extend_leases` and `recover_stale`."""

    async def test_a_due_task_goes_to_one_caller(self, storage: Storage) -> None:
        queue_id, (delivery,) = await self.add_and_claim(storage)
        assert delivery.delivery_count == 1
        assert delivery.task.status is TaskStatus.PROCESSING
        stored = await self.one(storage, delivery.task.id)
        assert stored.status is TaskStatus.PROCESSING
        assert stored.payload == {"number": 0}
        await self.assert_nothing_due(storage, queue_id)

    async def test_due_tasks_come_in_due_order(self, storage: Storage) -> None:
        queue_id = self.new_queue_id()
        tasks = self.tasks(queue_id, 6)
        await storage.add([tasks[i] for i in (3, 0, 5, 1, 4, 2)])
        assert ids(await self.claim(storage, queue_id, 2)) == ids(tasks[:2])
        assert ids(await self.claim(storage, queue_id, 4)) == ids(tasks[2:])

    async def test_a_claim_takes_at_most_its_limit(self, storage: Storage) -> None:
        queue_id = self.new_queue_id()
        await storage.add(self.tasks(queue_id, 3))
        assert await storage.claim_due(0, lease=LONG, queue_id=queue_id) == []
        assert len(await storage.claim_due(2, lease=LONG, queue_id=queue_id)) == 2
        assert len(await storage.claim_due(2, lease=LONG, queue_id=queue_id)) == 1

    async def test_nothing_is_claimed_before_its_time(self, storage: Storage) -> None:
        queue_id = self.new_queue_id()
        at = self.now() + timedelta(seconds=3600)
        await storage.add([self.task(queue_id, execute_at=at)])
        await self.assert_nothing_due(storage, queue_id)
        early = at - timedelta(seconds=1)
        assert await storage.claim_due(1, lease=LONG, queue_id=queue_id, now=early) == []
        assert len(await storage.claim_due(1, lease=LONG, queue_id=queue_id, now=at)) == 1

    async def test_a_claim_without_queue_takes_from_all_in_due_order(
        self, storage: Storage
    ) -> None:
        queues = [self.new_queue_id(), self.new_queue_id()]
        tasks = [self.task(queues[number % 2], number) for number in range(6)]
        await storage.add([tasks[i] for i in (3, 0, 5, 1, 4, 2)])
        found = ids(await storage.claim_due(5, lease=LONG))
        assert found == ids(tasks[:5])

    async def test_a_claim_of_one_queue_leaves_the_others(self, storage: Storage) -> None:
        queue_id, other = self.new_queue_id(), self.new_queue_id()
        await storage.add([self.task(other)])
        await self.assert_nothing_due(storage, queue_id)
        assert len(await self.claim(storage, other)) == 1

    async def test_only_scheduled_tasks_are_claimed(self, storage: Storage) -> None:
        queue_id = self.new_queue_id()
        others = [each for each in TaskStatus if each.terminal] + [TaskStatus.QUEUED]
        await storage.add([self.task(queue_id, status=status) for status in others])
        await self.assert_nothing_due(storage, queue_id)

    async def test_queued_tasks_are_taken_over_by_id(self, storage: Storage) -> None:
        queue_id = self.new_queue_id()
        tasks = [self.task(queue_id, n, status=TaskStatus.QUEUED) for n in range(3)]
        await storage.add(tasks)
        wanted = [tasks[2].id, "unknown", tasks[0].id]
        deliveries = await storage.take_over(wanted, lease=LONG)
        assert ids(deliveries) == [tasks[2].id, tasks[0].id]
        assert all(d.task.status is TaskStatus.PROCESSING for d in deliveries)
        stored = await storage.get(ids(tasks))
        assert [task.status for task in stored] == ["processing", "queued", "processing"]
        assert await self.end(storage, deliveries[0], TaskStatus.EXECUTED) == []
        await self.assert_nothing_due(storage, queue_id)

    async def test_taking_over_ends_the_lease_of_the_former_holder(self, storage: Storage) -> None:
        _, (former,) = await self.add_and_claim(storage)
        (current,) = await storage.take_over([former.task.id], lease=LONG)
        assert await self.end(storage, former, TaskStatus.FAILED) == [former.task.id]
        assert await storage.extend_leases([former, current], LONG) == [former]
        assert await self.end(storage, current, TaskStatus.EXECUTED) == []

    async def test_what_has_ended_is_not_taken_over(self, storage: Storage) -> None:
        for status in (TaskStatus.EXECUTED, TaskStatus.FAILED, TaskStatus.CANCELLED):
            ended = await self.ended_task(storage, status)
            assert await storage.take_over([ended.id], lease=LONG) == []
            assert (await self.one(storage, ended.id)).status is status

    async def test_a_lease_taken_over_runs_out_too(self, storage: Storage) -> None:
        queue_id = self.new_queue_id()
        task = self.task(queue_id, status=TaskStatus.QUEUED)
        await storage.add([task])
        (taken,) = await storage.take_over([task.id], lease=self.lease)
        await self.outlive_lease()
        (again,) = await self.claim(storage, queue_id)
        assert await self.end(storage, taken, TaskStatus.EXECUTED) == [task.id]
        assert await self.end(storage, again, TaskStatus.EXECUTED) == []

    async def test_concurrent_claims_share_the_tasks(self, storage: Storage) -> None:
        queue_id = self.new_queue_id()
        await storage.add(self.tasks(queue_id, 100))
        got: list[str] = []

        async def claimer(limit: int) -> None:
            misses = 0
            # A claim may find nothing while another holds the rows it looks at.
            while len(got) < 100 and misses < 20:
                found = ids(await storage.claim_due(limit, lease=LONG, queue_id=queue_id))
                misses = 0 if found else misses + 1
                got.extend(found)
                await asyncio.sleep(0)

        await asyncio.gather(*(claimer(limit) for limit in (1, 3, 7, 10)))
        assert len(got) == len(set(got)) == 100

    async def test_a_lost_lease_is_due_again(self, storage: Storage) -> None:
        late, current = await self.lost_and_retaken(storage)
        assert current.task.id == late.task.id
        assert current.delivery_count == 2
        assert current.receipt != late.receipt

    async def test_a_lost_lease_is_due_again_at_the_time_given(self, storage: Storage) -> None:
        queue_id, _ = await self.add_and_claim(storage)
        soon = self.now() + timedelta(seconds=LONG - 10)
        assert await storage.claim_due(1, lease=LONG, queue_id=queue_id, now=soon) == []
        then = self.now() + timedelta(seconds=LONG + 10)
        (again,) = await storage.claim_due(1, lease=LONG, queue_id=queue_id, now=then)
        assert again.delivery_count == 2

    async def test_lost_leases_keep_their_place(self, storage: Storage) -> None:
        queue_id, lost = await self.add_and_claim(storage, 2, self.lease)
        later = self.task(queue_id, 5)
        await storage.add([later])
        await self.outlive_lease()
        assert ids(await self.claim(storage, queue_id, 3)) == [*ids(lost), later.id]

    async def test_what_a_worker_changes_is_not_the_task(self, storage: Storage) -> None:
        _, (delivery,) = await self.add_and_claim(storage)
        delivery.task.payload["number"] = -1
        delivery.task.execution_stats["x"] = 1
        stored = await self.one(storage, delivery.task.id)
        assert stored.payload == {"number": 0}
        assert stored.execution_stats == {}

    async def test_an_extended_lease_holds(self, storage: Storage) -> None:
        queue_id = self.new_queue_id()
        await storage.add(self.tasks(queue_id, 2))
        while not await self._extended(storage, queue_id):
            await self.outlive_lease()
        await self.outlive_lease()
        await self.assert_nothing_due(storage, queue_id)
        assert await storage.recover_stale(now=self.now(), stale_after=3600) == 0

    async def _extended(self, storage: Storage, queue_id: str) -> bool:
        """Whether the leases of both tasks of the queue were extended in time, for long."""
        since = self.now()
        deliveries = await self.claim(storage, queue_id, 2, self.lease)
        if not await storage.extend_leases(deliveries, LONG):
            return True
        self.assert_late(since)
        return False

    async def test_an_extended_lease_ends_too(self, storage: Storage) -> None:
        queue_id, deliveries = await self.add_and_claim(storage)
        assert await storage.extend_leases(deliveries, self.lease) == []
        await self.outlive_lease()
        assert len(await self.claim(storage, queue_id)) == 1

    async def test_a_late_extend_is_inert(self, storage: Storage) -> None:
        queue_id, (late, kept) = await self.add_and_claim(storage, 2)
        assert await storage.extend_leases([late], self.lease) == []
        await self.outlive_lease()
        await self.claim(storage, queue_id, 1, self.lease)
        assert await storage.extend_leases([late, kept], LONG) == [late]
        await self.outlive_lease()
        assert ids(await self.claim(storage, queue_id)) == [late.task.id]

    async def test_an_extend_after_the_settle_is_inert(self, storage: Storage) -> None:
        queue_id, (first, second) = await self.add_and_claim(storage, 2)
        await self.end(storage, first, TaskStatus.EXECUTED)
        await self.end(storage, second, TaskStatus.SCHEDULED, next=self.retry_of(second))
        lost = await storage.extend_leases([first, second], LONG)
        assert ids(lost) == ids([first, second])
        assert len(await self.claim(storage, queue_id)) == 1

    async def test_recovery_frees_lost_leases_only(self, storage: Storage) -> None:
        queue_id, (late,) = await self.add_and_claim(storage)
        _, (living,) = await self.add_and_claim(storage)
        assert await storage.recover_stale(now=self.now(), stale_after=0.0) == 0
        assert await storage.extend_leases([late], self.lease) == []
        await self.outlive_lease()
        assert await storage.recover_stale(now=self.now(), stale_after=0.0) == 1
        assert (await self.one(storage, late.task.id)).status is TaskStatus.SCHEDULED
        assert (await self.one(storage, living.task.id)).status is TaskStatus.PROCESSING
        assert await storage.recover_stale(now=self.now(), stale_after=0.0) == 0
        (again,) = await self.claim(storage, queue_id)
        assert again.delivery_count == 2

    async def test_recovery_is_a_new_epoch(self, storage: Storage) -> None:
        _, (late,) = await self.add_and_claim(storage, 1, self.lease)
        await self.outlive_lease()
        await storage.recover_stale(now=self.now(), stale_after=3600)
        assert await storage.extend_leases([late], LONG) == [late]
        retry = self.retry_of(late)
        assert await self.end(storage, late, TaskStatus.SCHEDULED, next=retry) == [late.task.id]
        assert await self.end(storage, late, TaskStatus.EXECUTED) == [late.task.id]
        assert (await self.one(storage, late.task.id)).status is TaskStatus.SCHEDULED

    async def test_recovery_frees_what_a_queue_lost(self, storage: Storage) -> None:
        queue_id, (old,) = await self.add_and_claim(storage)
        queued = self.retry_of(old, retry_count=0, status=TaskStatus.QUEUED)
        await self.end(storage, old, TaskStatus.QUEUED, next=queued)
        await self.assert_nothing_due(storage, queue_id)
        assert await storage.recover_stale(now=self.now(), stale_after=3600) == 0
        later = self.now() + timedelta(seconds=3601)
        assert await storage.recover_stale(now=later, stale_after=3600) == 1
        assert (await self.one(storage, old.task.id)).status is TaskStatus.SCHEDULED
        assert ids(await self.claim(storage, queue_id)) == [old.task.id]

    async def test_recovery_leaves_ended_and_waiting_tasks(self, storage: Storage) -> None:
        queue_id = self.new_queue_id()
        statuses = [each for each in TaskStatus if each.terminal] + [TaskStatus.SCHEDULED]
        tasks = [self.task(queue_id, status=status) for status in statuses]
        await storage.add(tasks)
        later = self.now() + timedelta(days=30)
        assert await storage.recover_stale(now=later, stale_after=1.0) == 0
        assert await storage.get(ids(tasks)) == tasks
