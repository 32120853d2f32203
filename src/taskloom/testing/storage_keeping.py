"""Cases of storages: what is added is kept as it was."""

from __future__ import annotations

import asyncio

import pytest
from msgspec import UNSET

from taskloom.outcomes import UnreadableRecord
from taskloom.task import TaskStatus
from taskloom.testing.storage_base import Storage, StorageSuite, ids
from taskloom.testing.suite import AWKWARD_PAYLOADS

__all__ = ["KeepingCases"]


class KeepingCases(StorageSuite):
    """`add`, `get` and `set_aside`."""

    async def test_added_tasks_are_kept(self, storage: Storage) -> None:
        tasks = self.tasks(self.new_queue_id(), 3)
        assert ids(await storage.add(tasks)) == ids(tasks)
        assert await storage.get(ids(tasks)) == tasks

    async def test_get_answers_in_the_order_asked_for(self, storage: Storage) -> None:
        tasks = self.tasks(self.new_queue_id(), 3)
        await storage.add(tasks)
        asked = [tasks[2].id, "unknown", tasks[0].id, tasks[1].id]
        assert ids(await storage.get(asked)) == [tasks[2].id, tasks[0].id, tasks[1].id]

    async def test_empty_calls_are_fine(self, storage: Storage) -> None:
        assert await storage.add([]) == []
        assert await storage.get([]) == []
        assert await storage.extend_leases([], 1.0) == []
        await storage.set_aside([])
        await storage.upsert([])
        await storage.update({})

    async def test_opening_again_changes_nothing(self, storage: Storage) -> None:
        task = self.task(self.new_queue_id())
        await storage.add([task])
        await asyncio.gather(storage.open(), storage.open())
        assert await storage.get([task.id]) == [task]

    async def test_ids_are_new(self, storage: Storage) -> None:
        made = {storage.generate_id() for _ in range(100)}
        assert len(made) == 100
        assert all(made)

    async def test_a_known_id_is_left_as_it_is(self, storage: Storage) -> None:
        first, second = self.tasks(self.new_queue_id(), 2)
        await storage.add([first])
        changed = first.replace(payload="other", retry_count=3)
        assert ids(await storage.add([changed, second])) == [second.id]
        assert await storage.get([first.id]) == [first]

    async def test_a_known_id_is_left_as_it_is_after_its_end(self, storage: Storage) -> None:
        ended = await self.ended_task(storage, TaskStatus.EXECUTED)
        assert await storage.add([ended.replace(status=TaskStatus.SCHEDULED)]) == []
        assert (await self.one(storage, ended.id)).status is TaskStatus.EXECUTED

    async def test_an_id_twice_in_one_call_is_one_task(self, storage: Storage) -> None:
        task = self.task(self.new_queue_id())
        assert ids(await storage.add([task, task.replace(payload="other")])) == [task.id]
        assert await storage.get([task.id]) == [task]

    async def test_concurrent_adds_of_an_id_are_one_task(self, storage: Storage) -> None:
        task = self.task(self.new_queue_id())
        answers = await asyncio.gather(*(storage.add([task]) for _ in range(8)))
        assert sorted(len(answer) for answer in answers) == [0] * 7 + [1]

    async def test_all_are_added_or_none(self, storage: Storage) -> None:
        queue_id = self.new_queue_id()
        good, bad = self.task(queue_id), self.task(queue_id, payload=object())
        with pytest.raises((TypeError, ValueError)):
            await storage.add([good, bad])
        assert await storage.get([good.id, bad.id]) == []

    async def test_payloads_come_back_as_they_were(self, storage: Storage) -> None:
        queue_id = self.new_queue_id()
        tasks = [self.task(queue_id, payload=payload) for payload in AWKWARD_PAYLOADS]
        await storage.add(tasks)
        for task, found in zip(tasks, await storage.get(ids(tasks)), strict=True):
            assert found.payload == task.payload
            assert type(found.payload) is type(task.payload)

    async def test_every_field_comes_back_as_it_was(self, storage: Storage) -> None:
        task = self.full_task(self.new_queue_id(), execution_result={"$r.1": [None, "ü"]})
        await storage.add([task])
        assert await storage.get([task.id]) == [task]

    async def test_what_is_not_set_stays_not_set(self, storage: Storage) -> None:
        queue_id = self.new_queue_id()
        plain, nothing = self.task(queue_id), self.task(queue_id, execution_result=None)
        await storage.add([plain, nothing])
        found = await storage.get([plain.id, nothing.id])
        assert found[0].retries is None
        assert found[0].execution_result is UNSET
        assert found[1].execution_result is None

    async def test_tasks_keep_the_status_they_are_added_with(self, storage: Storage) -> None:
        queue_id = self.new_queue_id()
        tasks = [
            self.task(queue_id, status=status)
            for status in (TaskStatus.QUEUED, TaskStatus.FAILED, TaskStatus.IGNORED)
        ]
        await storage.add(tasks)
        assert await storage.get(ids(tasks)) == tasks

    async def test_what_the_caller_keeps_is_not_the_task(self, storage: Storage) -> None:
        task = self.task(self.new_queue_id(), payload={"list": [1]}, execution_stats={"a": [1]})
        await storage.add([task])
        task.payload["list"].append(2)
        task.execution_stats["a"].append(2)
        found = await self.one(storage, task.id)
        assert found.payload == {"list": [1]}
        assert found.execution_stats == {"a": [1]}
        found.payload["list"].append(3)
        found.execution_stats["a"].append(3)
        again = await self.one(storage, task.id)
        assert again.payload == {"list": [1]}
        assert again.execution_stats == {"a": [1]}

    async def test_unreadable_records_are_kept_once(self, storage: Storage) -> None:
        queue_id = self.new_queue_id()
        raw = bytes(range(256))
        record = UnreadableRecord(raw, "no JSON", "receipt", 1, queue_id)
        await storage.set_aside([record])
        await self.pass_time(0.01)
        await storage.set_aside([record, UnreadableRecord(b"", "empty", "other", 1, queue_id)])
        dead = [each for each in await storage.dead_records() if each.queue_id == queue_id]
        assert [(each.raw, each.reason) for each in dead] == [(b"", "empty"), (raw, "no JSON")]
        assert all(each.at.tzinfo is not None for each in dead)
        assert len(await storage.dead_records(limit=1)) == 1
