"""Cases of storages: a settle is one step, fenced, and safe to repeat."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from msgspec import UNSET

from taskloom.outcomes import Delivery, Ending, Settlement
from taskloom.task import Task, TaskStatus
from taskloom.testing.storage_base import LONG, Storage, StorageSuite, ids, kept

__all__ = ["SettlingCases"]

EXECUTED, FAILED, SCHEDULED = TaskStatus.EXECUTED, TaskStatus.FAILED, TaskStatus.SCHEDULED
QUEUED, CANCELLED = TaskStatus.QUEUED, TaskStatus.CANCELLED


class SettlingCases(StorageSuite):
    """`settle`."""

    async def test_an_empty_plan_is_fine(self, storage: Storage) -> None:
        assert await storage.settle(Settlement()) == []

    async def test_a_task_ends_in_each_terminal_status(self, storage: Storage) -> None:
        for status in (each for each in TaskStatus if each.terminal):
            task = await self.ended_task(storage, status)
            assert task.status is status
            await self.assert_nothing_due(storage, task.queue_id)

    async def test_an_ending_writes_result_and_stats(self, storage: Storage) -> None:
        _, (delivery,) = await self.add_and_claim(storage)
        result: dict[str, Any] = {"$a.b": [1]}
        stats: dict[str, Any] = {"last_error": "ü", "$x.y": [1]}
        await self.end(storage, delivery, EXECUTED, result=result, stats=stats)
        result["$a.b"].append(2)
        stats["$x.y"].append(2)
        task = await self.one(storage, delivery.task.id)
        assert task.execution_result == {"$a.b": [1]}
        assert task.execution_stats == {"last_error": "ü", "$x.y": [1]}
        assert task.payload == {"number": 0}

    async def test_no_result_is_not_the_result_none(self, storage: Storage) -> None:
        _, (first, second) = await self.add_and_claim(storage, 2)
        await self.end(storage, first, EXECUTED)
        await self.end(storage, second, EXECUTED, result=None)
        assert (await self.one(storage, first.task.id)).execution_result is UNSET
        assert (await self.one(storage, second.task.id)).execution_result is None

    async def test_stats_of_none_leave_the_stats(self, storage: Storage) -> None:
        queue_id = self.new_queue_id()
        await storage.add([self.task(queue_id, execution_stats={"old": 1})])
        (delivery,) = await self.claim(storage, queue_id)
        await self.end(storage, delivery, FAILED)
        assert (await self.one(storage, delivery.task.id)).execution_stats == {"old": 1}

    async def test_a_retry_waits_again(self, storage: Storage) -> None:
        queue_id, (first,) = await self.add_and_claim(storage, 1, self.lease)
        await self.outlive_lease()
        (first,) = await self.claim(storage, queue_id)
        stats = {"last_error": "x"}
        retry = self.retry_of(first)
        assert await self.end(storage, first, SCHEDULED, next=retry, stats=stats) == []
        stored = await self.one(storage, first.task.id)
        assert (stored.status, stored.retry_count) == (SCHEDULED, 1)
        assert stored.execute_at == retry.execute_at
        assert stored.execution_stats == stats
        (second,) = await self.claim(storage, queue_id)
        assert second.delivery_count == 1, "a retry starts again at one delivery"
        assert second.receipt != first.receipt

    async def test_a_task_goes_on_as_next_says(self, storage: Storage) -> None:
        queue_id, (delivery,) = await self.add_and_claim(storage)
        following = self.retry_of(delivery, payload={"new": [1]}, retries=9, status=QUEUED)
        await self.end(storage, delivery, QUEUED, next=following)
        following.payload["new"].append(2)
        stored = await self.one(storage, delivery.task.id)
        assert (stored.status, stored.payload, stored.retries) == (QUEUED, {"new": [1]}, 9)
        await self.assert_nothing_due(storage, queue_id)

    async def test_a_late_settle_is_inert(self, storage: Storage) -> None:
        late, current = await self.lost_and_retaken(storage)
        child = self.task(late.task.queue_id, 1)
        missed = await self.end(storage, late, EXECUTED, result="late", children=(child,))
        assert missed == [late.task.id]
        assert await storage.get([child.id]) == []
        stored = await self.one(storage, late.task.id)
        assert (stored.status, stored.execution_result) == (TaskStatus.PROCESSING, UNSET)
        assert await self.end(storage, current, EXECUTED, result="mine") == []
        assert (await self.one(storage, late.task.id)).execution_result == "mine"

    async def test_a_late_retry_is_inert(self, storage: Storage) -> None:
        late, current = await self.lost_and_retaken(storage)
        missed = await self.end(storage, late, SCHEDULED, next=self.retry_of(late))
        assert missed == [late.task.id]
        await self.assert_nothing_due(storage, late.task.queue_id)
        assert await self.end(storage, current, EXECUTED) == []

    async def test_only_the_lost_endings_are_missed(self, storage: Storage) -> None:
        late, current = await self.lost_and_retaken(storage)
        queue_id, (good, other) = await self.add_and_claim(storage, 2)
        children = self.tasks(queue_id, 3)
        endings = tuple(
            Ending(delivery, EXECUTED, children=(child,))
            for delivery, child in zip((good, late, other), children, strict=True)
        )
        assert await storage.settle(Settlement(endings=endings)) == [late.task.id]
        found = await storage.get(ids([good, other]))
        assert [task.status for task in found] == [EXECUTED, EXECUTED]
        assert ids(await storage.get(ids(children))) == [children[0].id, children[2].id]
        assert await storage.extend_leases([current], LONG) == []

    async def test_an_unknown_task_is_missed(self, storage: Storage) -> None:
        _, (delivery,) = await self.add_and_claim(storage)
        unknown = Delivery(self.task(self.new_queue_id()), delivery.receipt)
        child = self.task(unknown.task.queue_id, 1)
        assert await self.end(storage, unknown, EXECUTED, children=(child,)) == [unknown.task.id]
        assert await storage.get([unknown.task.id, child.id]) == []

    async def test_a_settle_repeated_changes_nothing(self, storage: Storage) -> None:
        queue_id, deliveries = await self.add_and_claim(storage, 3)
        children, added = self.tasks(queue_id, 2), self.task(queue_id, 9)
        endings = (
            Ending(deliveries[0], EXECUTED, result=1, children=tuple(children)),
            Ending(deliveries[1], SCHEDULED, next=self.retry_of(deliveries[1])),
            Ending(deliveries[2], FAILED, stats={"x": 1}),
        )
        plan = Settlement(endings=endings, added=(added,))
        everything = [*ids(deliveries), *ids(children), added.id]
        assert await storage.settle(plan) == []
        before = await storage.get(everything)
        counts = await storage.counts()
        assert await storage.settle(plan) == []
        assert list(map(kept, await storage.get(everything))) == list(map(kept, before))
        assert await storage.counts() == counts

    async def test_a_repeat_leaves_children_that_have_moved_on(self, storage: Storage) -> None:
        queue_id, (delivery,) = await self.add_and_claim(storage)
        child = self.task(queue_id, 1)
        plan = Settlement(endings=(Ending(delivery, EXECUTED, children=(child,)),))
        await storage.settle(plan)
        (claimed,) = await self.claim(storage, queue_id)
        await self.end(storage, claimed, EXECUTED, result="done")
        await storage.settle(plan)
        stored = await self.one(storage, child.id)
        assert (stored.status, stored.execution_result) == (EXECUTED, "done")

    async def test_a_repeat_comes_too_late_after_a_new_claim(self, storage: Storage) -> None:
        queue_id, (delivery,) = await self.add_and_claim(storage)
        plan = Settlement(endings=(Ending(delivery, SCHEDULED, next=self.retry_of(delivery)),))
        assert await storage.settle(plan) == []
        (current,) = await self.claim(storage, queue_id)
        assert await storage.settle(plan) == [delivery.task.id]
        await self.assert_nothing_due(storage, queue_id)
        assert await self.end(storage, current, EXECUTED) == []

    async def test_of_two_concurrent_settles_one_counts(self, storage: Storage) -> None:
        queue_id, (delivery,) = await self.add_and_claim(storage)
        child = self.task(queue_id, 1)
        plan = Settlement(endings=(Ending(delivery, EXECUTED, children=(child,)),))
        assert await asyncio.gather(*(storage.settle(plan) for _ in range(4))) == [[]] * 4
        assert ids(await self.claim(storage, queue_id)) == [child.id]

    async def test_a_terminal_status_stays(self, storage: Storage) -> None:
        for ending in (EXECUTED, FAILED):
            queue_id, (delivery,) = await self.add_and_claim(storage)
            await self.end(storage, delivery, ending, result="first")
            other = FAILED if ending is EXECUTED else EXECUTED
            await self.end(storage, delivery, other, result="second")
            await self.end(storage, delivery, SCHEDULED, next=self.retry_of(delivery))
            stored = await self.one(storage, delivery.task.id)
            assert (stored.status, stored.execution_result) == (ending, "first")
            await self.assert_nothing_due(storage, queue_id)

    async def test_a_settle_is_all_or_nothing(self, storage: Storage) -> None:
        queue_id, (first, second) = await self.add_and_claim(storage, 2)
        waiting, child = self.task(queue_id, 3), self.task(queue_id, 4)
        await storage.add([waiting])
        bad = self.task(queue_id, 5, payload=object())
        for broken in (
            {"added": (bad,)},
            {"endings": (Ending(second, EXECUTED, children=(bad,)),)},
            {"endings": (Ending(second, EXECUTED, result=object()),)},
        ):
            good = Ending(first, EXECUTED, children=(child,))
            parts: dict[str, Any] = {"cancelled": (waiting.id,)} | broken
            parts["endings"] = (good, *parts.get("endings", ()))
            with pytest.raises((TypeError, ValueError)):
                await storage.settle(Settlement(**parts))
            found = await storage.get([first.task.id, second.task.id, waiting.id, child.id])
            assert [task.status for task in found] == [TaskStatus.PROCESSING] * 2 + [SCHEDULED]

    async def test_children_and_added_tasks_are_as_given(self, storage: Storage) -> None:
        queue_id, (delivery,) = await self.add_and_claim(storage)
        child, added = self.full_task(queue_id), self.full_task(queue_id, status=QUEUED)
        ending = Ending(delivery, EXECUTED, children=(child,))
        assert await storage.settle(Settlement(endings=(ending,), added=(added,))) == []
        assert await storage.get([child.id, added.id]) == [child, added]

    async def test_an_added_id_that_is_known_is_left(self, storage: Storage) -> None:
        ended = await self.ended_task(storage, EXECUTED)
        again = ended.replace(status=SCHEDULED, payload="other")
        assert await storage.settle(Settlement(added=(again,))) == []
        assert await self.one(storage, ended.id) == ended

    async def _queued(self, storage: Storage) -> tuple[Task[Any], Delivery]:
        """A stored task that a queue of its own delivered."""
        task = self.task(self.new_queue_id(), status=QUEUED, execution_stats={"old": 1})
        await storage.add([task])
        return task, Delivery(task, "a receipt of the queue")

    async def test_a_queues_delivery_ends_whatever_the_lease(self, storage: Storage) -> None:
        task, delivery = await self._queued(storage)
        child = self.task(task.queue_id, 1)
        ending = Ending(delivery, EXECUTED, result=[1], children=(child,))
        assert await storage.settle(Settlement(endings=(ending,), fenced=False)) == []
        stored = await self.one(storage, task.id)
        assert (stored.status, stored.execution_result) == (EXECUTED, [1])
        assert stored.execution_stats == {"old": 1}
        assert await storage.get([child.id]) == [child]

    async def test_a_queues_delivery_takes_the_lease_of_another(self, storage: Storage) -> None:
        _, (claimed,) = await self.add_and_claim(storage)
        ending = Ending(Delivery(claimed.task, "a receipt of the queue"), EXECUTED, result=1)
        assert await storage.settle(Settlement(endings=(ending,), fenced=False)) == []
        assert await storage.extend_leases([claimed], LONG) == [claimed]
        for late in (FAILED, EXECUTED):
            assert await self.end(storage, claimed, late, result=2) == [claimed.task.id]
            stored = await self.one(storage, claimed.task.id)
            assert (stored.status, stored.execution_result) == (EXECUTED, 1)

    async def test_a_queues_delivery_is_stored_when_it_ends(self, storage: Storage) -> None:
        queue_id = self.new_queue_id()
        task = self.full_task(queue_id)
        ending = Ending(Delivery(task, "r"), FAILED, result=None, stats={"last_error": "x"})
        plan = Settlement(endings=(ending,), fenced=False)
        assert await storage.settle(plan) == []
        await storage.settle(plan)
        stored = await self.one(storage, task.id)
        expected = task.replace(
            status=FAILED, execution_result=None, execution_stats={"last_error": "x"}
        )
        assert kept(stored) == kept(expected)

    async def test_a_queues_delivery_is_stored_when_it_goes_on(self, storage: Storage) -> None:
        queue_id = self.new_queue_id()
        delivery = Delivery(self.task(queue_id), "r")
        retry = self.retry_of(delivery, execution_stats={"last_error": "x"})
        ending = Ending(delivery, SCHEDULED, next=retry)
        plan = Settlement(endings=(ending,), fenced=False)
        assert await storage.settle(plan) == []
        await storage.settle(plan)
        assert kept(await self.one(storage, retry.id)) == kept(retry)
        (claimed,) = await self.claim(storage, queue_id)
        assert (claimed.delivery_count, claimed.task.retry_count) == (1, 1)

    async def test_a_queues_delivery_changes_no_ended_task(self, storage: Storage) -> None:
        task, delivery = await self._queued(storage)
        await storage.settle(Settlement(cancelled=(task.id,)))
        child = self.task(task.queue_id, 1)
        ended = Ending(delivery, EXECUTED, result=1, children=(child,))
        retried = Ending(delivery, SCHEDULED, next=self.retry_of(delivery), children=(child,))
        for ending in (ended, retried):
            plan = Settlement(endings=(ending,), fenced=False)
            assert await storage.settle(plan) == [task.id]
            assert (await self.one(storage, task.id)).status is CANCELLED
            assert await storage.get([child.id]) == []

    async def test_waiting_tasks_are_cancelled(self, storage: Storage) -> None:
        queue_id = self.new_queue_id()
        tasks = [
            self.task(queue_id, execution_stats={"old": 1}),
            self.task(queue_id, status=QUEUED),
        ]
        await storage.add(tasks)
        plan = Settlement(cancelled=tuple(ids(tasks)), reason="no longer wanted")
        assert await storage.settle(plan) == []
        for task in await storage.get(ids(tasks)):
            assert task.status is CANCELLED
            assert "no longer wanted" in task.execution_stats.values()
        assert (await self.one(storage, tasks[0].id)).execution_stats["old"] == 1
        await self.assert_nothing_due(storage, queue_id)
        assert set(await storage.settle(plan)) == set(ids(tasks))

    async def test_what_does_not_wait_is_not_cancelled(self, storage: Storage) -> None:
        _, (running,) = await self.add_and_claim(storage)
        ended = await self.ended_task(storage, EXECUTED)
        asked = (running.task.id, ended.id, "unknown")
        assert set(await storage.settle(Settlement(cancelled=asked))) == set(asked)
        assert (await self.one(storage, ended.id)).status is EXECUTED
        assert await self.end(storage, running, EXECUTED) == []
        assert await storage.get(["unknown"]) == []

    async def test_a_cancellation_is_a_new_epoch(self, storage: Storage) -> None:
        _, (delivery,) = await self.add_and_claim(storage)
        ending = Ending(delivery, QUEUED, next=self.retry_of(delivery, status=QUEUED))
        await storage.settle(Settlement(endings=(ending,)))
        await storage.settle(Settlement(cancelled=(delivery.task.id,)))
        assert await storage.settle(Settlement(endings=(ending,))) == [delivery.task.id]
        assert await self.end(storage, delivery, CANCELLED) == [delivery.task.id]
        assert (await self.one(storage, delivery.task.id)).status is CANCELLED

    async def test_ended_tasks_are_revived(self, storage: Storage) -> None:
        queue_id, (delivery,) = await self.add_and_claim(storage)
        await self.end(storage, delivery, FAILED, result=1, stats={"last_error": "x"})
        fresh = self.task(queue_id, id=delivery.task.id, payload="again")
        assert await storage.settle(Settlement(revived=(fresh,))) == []
        assert kept(await self.one(storage, fresh.id)) == kept(fresh)
        assert await self.end(storage, delivery, FAILED) == [fresh.id]
        (claimed,) = await self.claim(storage, queue_id)
        assert (claimed.delivery_count, claimed.task.payload) == (1, "again")

    async def test_what_has_not_ended_is_not_revived(self, storage: Storage) -> None:
        queue_id, (running,) = await self.add_and_claim(storage)
        waiting, unknown = self.task(queue_id, 1), self.task(queue_id, 2)
        await storage.add([waiting])
        asked = tuple(
            task.replace(status=SCHEDULED, payload="again")
            for task in (running.task, waiting, unknown)
        )
        missed = await storage.settle(Settlement(revived=asked))
        assert set(missed) == {task.id for task in asked}
        assert await storage.get([waiting.id, unknown.id]) == [waiting]
        assert await self.end(storage, running, EXECUTED) == []

    async def test_one_plan_does_everything(self, storage: Storage) -> None:
        queue_id, (delivery,) = await self.add_and_claim(storage)
        ended = await self.ended_task(storage, FAILED)
        waiting, added, child = (self.task(queue_id, number) for number in (1, 2, 3))
        await storage.add([waiting])
        plan = Settlement(
            endings=(Ending(delivery, EXECUTED, children=(child,)),),
            added=(added,),
            cancelled=(waiting.id, "unknown"),
            revived=(ended.replace(status=SCHEDULED),),
        )
        assert await storage.settle(plan) == ["unknown"]
        tasks = await storage.get([delivery.task.id, child.id, added.id, waiting.id, ended.id])
        assert [task.status for task in tasks] == [
            EXECUTED,
            SCHEDULED,
            SCHEDULED,
            CANCELLED,
            SCHEDULED,
        ]
