"""Cases of storages: what people ask and change."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from msgspec import UNSET

from taskloom.interfaces.task_storage import WorkerRecord
from taskloom.task import EntityRef, Task, TaskStatus
from taskloom.testing.storage_base import LONG, Storage, StorageSuite, ids, kept

__all__ = ["ArchiveCases"]

EXECUTED, FAILED, SCHEDULED = TaskStatus.EXECUTED, TaskStatus.FAILED, TaskStatus.SCHEDULED
PROCESSING, QUEUED = TaskStatus.PROCESSING, TaskStatus.QUEUED


class ArchiveCases(StorageSuite):
    """The whole of TaskArchive."""

    async def test_update_sets_fields(self, storage: Storage) -> None:
        first, second = self.tasks(self.new_queue_id(), 2)
        await storage.add([first, second])
        at = self.now() + timedelta(seconds=3600)
        stats: dict[str, Any] = {"a": [1]}
        await storage.update(
            {
                first.id: {"execute_at": at, "execution_stats": stats, "execution_result": None},
                "unknown": {"status": EXECUTED},
            }
        )
        stats["a"].append(2)
        stored = await self.one(storage, first.id)
        assert (stored.execute_at, stored.execution_stats) == (at, {"a": [1]})
        assert stored.execution_result is None
        assert stored.payload == first.payload
        assert await self.one(storage, second.id) == second
        assert await storage.get(["unknown"]) == []

    async def test_an_update_moves_a_task(self, storage: Storage) -> None:
        queue_id = self.new_queue_id()
        now_due, no_longer = self.tasks(queue_id, 2)
        later = self.now() + timedelta(seconds=3600)
        await storage.add([now_due.replace(execute_at=later), no_longer])
        await storage.update(
            {
                now_due.id: {"execute_at": now_due.execute_at},
                no_longer.id: {"execute_at": later},
            }
        )
        assert ids(await storage.claim_due(5, lease=LONG, queue_id=queue_id)) == [now_due.id]

    async def test_an_update_asks_for_no_lease(self, storage: Storage) -> None:
        queue_id, (delivery,) = await self.add_and_claim(storage)
        await storage.update({delivery.task.id: {"status": SCHEDULED}})
        assert (await storage.counts()).get((queue_id, SCHEDULED)) == 1
        assert await self.end(storage, delivery, EXECUTED) == [delivery.task.id]
        assert len(await self.claim(storage, queue_id)) == 1

    async def test_an_update_of_stats_leaves_the_lease(self, storage: Storage) -> None:
        queue_id, (delivery,) = await self.add_and_claim(storage)
        await storage.update({delivery.task.id: {"execution_stats": {"progress": 50}}})
        await self.assert_nothing_due(storage, queue_id)
        assert await storage.extend_leases([delivery], LONG) == []
        assert await self.end(storage, delivery, EXECUTED) == []

    async def test_upsert_keeps_new_tasks(self, storage: Storage) -> None:
        task = self.full_task(self.new_queue_id(), execution_result=[1])
        await storage.upsert([task])
        assert await storage.get([task.id]) == [task]
        assert len(await self.claim(storage, task.queue_id)) == 1

    async def test_upsert_of_a_known_id_changes_how_it_went(self, storage: Storage) -> None:
        first = self.full_task(self.new_queue_id())
        await storage.add([first])
        at = self.now() + timedelta(seconds=3600)
        how: dict[str, Any] = {
            "status": FAILED,
            "execute_at": at,
            "updated_at": at,
            "processing_started_at": at,
            "execution_stats": {"last_error": "x"},
            "execution_result": None,
            "retry_count": 5,
        }
        what = {"payload": "other", "type": "other", "metadata": self.task("q").metadata}
        await storage.upsert([first.replace(**how, **what)])
        assert await self.one(storage, first.id) == first.replace(**how)

    async def test_what_upsert_was_given_is_not_the_task(self, storage: Storage) -> None:
        task = self.task(self.new_queue_id(), execution_stats={"a": [1]})
        await storage.upsert([task])
        task.execution_stats["a"].append(2)
        assert (await self.one(storage, task.id)).execution_stats == {"a": [1]}

    async def _searchable(self, storage: Storage) -> list[Task[Any]]:
        """Six tasks of one queue that differ in what can be searched for."""
        queue_id = self.new_queue_id()
        fields: list[dict[str, Any]] = [
            {"type": "a", "status": FAILED},
            {"type": "a", "entity": EntityRef(id="1", type="user")},
            {"type": "b", "entity": EntityRef(id="1", type="order")},
            {"type": "b", "status": FAILED, "entity": EntityRef(id="1", type="user")},
            {"type": "a", "status": EXECUTED},
            {"type": "c"},
        ]
        tasks = [self.task(queue_id, number, **each) for number, each in enumerate(fields)]
        await storage.add([tasks[i] for i in (2, 0, 5, 1, 4, 3)])
        await storage.add([self.task(self.new_queue_id(), 7, type="a", status=FAILED)])
        return tasks

    async def test_search_finds_the_newest_first(self, storage: Storage) -> None:
        tasks = await self._searchable(storage)
        found = await storage.search(queue_id=tasks[0].queue_id)
        assert found == list(reversed(tasks))

    async def test_search_combines_what_is_asked(self, storage: Storage) -> None:
        tasks = await self._searchable(storage)
        queue_id, user = tasks[0].queue_id, EntityRef(id="1", type="user")
        asked: list[tuple[dict[str, Any], list[int]]] = [
            ({"type": "a"}, [4, 1, 0]),
            ({"status": FAILED}, [3, 0]),
            ({"status": FAILED, "type": "a"}, [0]),
            ({"entity": user}, [3, 1]),
            ({"entity": user, "status": FAILED}, [3]),
            ({"entity": EntityRef(id="2", type="user")}, []),
            ({"type": "unknown"}, []),
        ]
        for filters, numbers in asked:
            found = await storage.search(queue_id=queue_id, **filters)
            assert ids(found) == [tasks[number].id for number in numbers], filters
        assert len(await storage.search(status=FAILED, type="a")) == 2

    async def test_search_goes_page_by_page(self, storage: Storage) -> None:
        queue_id = self.new_queue_id()
        at = self.now() - timedelta(seconds=5)
        # Half of them made at the same moment: pages must not skip or repeat among equals.
        tasks = [*self.tasks(queue_id, 5), *(self.task(queue_id, created_at=at) for _ in range(6))]
        await storage.add(tasks)
        whole = ids(await storage.search(queue_id=queue_id))
        paged: list[str] = []
        while page := await storage.search(
            queue_id=queue_id, limit=3, after=paged[-1] if paged else None
        ):
            assert len(page) <= 3
            paged += ids(page)
        assert paged == whole
        assert sorted(paged) == sorted(ids(tasks))

    async def test_counts_follow_each_transition(self, storage: Storage) -> None:
        queue_id = self.new_queue_id()

        async def counts() -> dict[TaskStatus, int]:
            counted = await storage.counts()
            return {status: n for (queue, status), n in counted.items() if queue == queue_id}

        assert await counts() == {}
        await storage.add(self.tasks(queue_id, 3))
        assert await counts() == {SCHEDULED: 3}
        first, second = await self.claim(storage, queue_id, 2)
        assert await counts() == {SCHEDULED: 1, PROCESSING: 2}
        await self.end(storage, first, EXECUTED)
        await self.end(storage, second, SCHEDULED, next=self.retry_of(second))
        assert await counts() == {SCHEDULED: 2, EXECUTED: 1}
        later = self.now() + timedelta(days=1)
        assert await storage.prune(EXECUTED, ended_before=later, limit=10) == 1
        assert await counts() == {SCHEDULED: 2}

    async def test_the_oldest_waiting_task_of_each_queue(self, storage: Storage) -> None:
        queues = [self.new_queue_id() for _ in range(3)]
        tasks = self.tasks(queues[0], 3)
        other = self.task(queues[1], 7)
        await storage.add([tasks[1], tasks[0], tasks[2], other])
        later = self.now() + timedelta(seconds=3600)
        await storage.add([self.task(queues[2], execute_at=later)])
        oldest = await storage.oldest_waiting()
        assert oldest[queues[0]] == tasks[0].execute_at
        assert oldest[queues[1]] == other.execute_at
        assert queues[2] not in oldest
        await self.claim(storage, queues[0], 2)
        await self.claim(storage, queues[1], 1)
        oldest = await storage.oldest_waiting()
        assert oldest[queues[0]] == tasks[2].execute_at
        assert queues[1] not in oldest

    def _worker(self, number: int, running: int = 0) -> WorkerRecord:
        return WorkerRecord(
            worker_id=f"worker-{number}",
            hostname="höst",
            pid=number,
            queues=["a", "b.c$"],
            started_at=self.now(),
            seen_at=self.now(),
            running=running,
            processed=7,
        )

    async def test_workers_are_known_until_their_ttl(self, storage: Storage) -> None:
        second, first = self._worker(2), self._worker(1)
        await storage.record_worker(second, LONG)
        await storage.record_worker(first, LONG)
        assert await storage.workers() == [first, second]
        again = self._worker(2, running=3)
        await storage.record_worker(again, LONG)
        assert await storage.workers() == [first, again]
        await storage.record_worker(first, self.lease)
        await self.outlive_lease()
        assert await storage.workers() == [again]
        await storage.record_worker(again, 0)
        assert await storage.workers() == []

    async def test_cleanup_deletes_what_was_lost_and_what_expired(self, storage: Storage) -> None:
        _, (orphan,) = await self.add_and_claim(storage, 1, self.lease)
        _, (running,) = await self.add_and_claim(storage)
        queue_id, now = self.new_queue_id(), self.now()
        expired = self.task(queue_id, expires_at=now - timedelta(seconds=10))
        fresh = self.task(queue_id, expires_at=now + timedelta(seconds=3600))
        plain = self.task(queue_id)
        await storage.add([expired, fresh, plain])
        await self.outlive_lease()
        stats = await storage.cleanup_stats()
        assert (stats.orphaned_tasks, stats.expired_tasks) == (1, 1)
        long_ago = now - timedelta(days=1)
        assert await storage.cleanup(orphaned_before=long_ago, expired_before=long_ago) == 0
        assert await storage.cleanup(orphaned_before=self.now(), expired_before=long_ago) == 1
        assert await storage.cleanup(orphaned_before=long_ago, expired_before=self.now()) == 1
        assert await storage.get([orphan.task.id, expired.id]) == []
        left = [running.task.id, fresh.id, plain.id]
        assert ids(await storage.get(left)) == left
        stats = await storage.cleanup_stats()
        assert (stats.orphaned_tasks, stats.expired_tasks) == (0, 0)

    async def test_prune_deletes_what_ended_before(self, storage: Storage) -> None:
        old = [await self.ended_task(storage, EXECUTED) for _ in range(3)]
        failed = await self.ended_task(storage, FAILED)
        await self.pass_time(0.1)
        before = self.now()
        await self.pass_time(0.1)
        recent = await self.ended_task(storage, EXECUTED)
        _, (running,) = await self.add_and_claim(storage)
        assert await storage.prune(EXECUTED, ended_before=before, limit=2) == 2
        assert len(await storage.get(ids(old))) == 1
        assert await storage.prune(EXECUTED, ended_before=before, limit=2) == 1
        assert await storage.prune(EXECUTED, ended_before=before, limit=2) == 0
        assert await storage.get(ids(old)) == []
        left = [failed.id, recent.id, running.task.id]
        assert ids(await storage.get(left)) == left

    async def test_a_repeated_settle_does_not_renew_the_end(self, storage: Storage) -> None:
        _, (delivery,) = await self.add_and_claim(storage)
        await self.end(storage, delivery, EXECUTED)
        ended = await self.one(storage, delivery.task.id)
        await self.pass_time(0.1)
        before = self.now()
        await self.pass_time(0.1)
        await self.end(storage, delivery, EXECUTED)
        assert kept(await self.one(storage, ended.id)) == kept(ended)
        assert await storage.prune(EXECUTED, ended_before=before, limit=1) == 1

    async def test_the_result_is_searchable_as_it_was(self, storage: Storage) -> None:
        queue_id, deliveries = await self.add_and_claim(storage, 2)
        await self.end(storage, deliveries[0], EXECUTED, result=None)
        await self.end(storage, deliveries[1], EXECUTED)
        found = await storage.search(queue_id=queue_id, status=EXECUTED)
        assert [task.execution_result for task in found] == [UNSET, None]
