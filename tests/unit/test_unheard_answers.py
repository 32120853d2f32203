"""What a worker or a caller does about calls that may have been done, and whose answer was lost."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from taskloom import QueueUnavailableError, SingleTaskExecutor, Task, TaskHandler, TaskQueuesManager
from taskloom.errors import StorageUnavailableError
from taskloom.leases import Claim
from taskloom.memory import InMemoryCache, InMemoryQueue, InMemoryStorage
from taskloom.outcomes import Delivery, Outcome, Settlement, Word
from taskloom.settler import Settled, _each_task_once


class AwayQueue(InMemoryQueue):
    away = False

    async def put(self, queue_id: str, tasks: Sequence[Task[Any]]) -> None:
        if self.away:
            raise QueueUnavailableError("away on purpose", accepted=[], rejected=list(tasks))
        await super().put(queue_id, tasks)


class AwayStorage(InMemoryStorage):
    away = False

    async def settle(self, plan: Settlement) -> list[str]:
        if self.away:
            raise StorageUnavailableError("away on purpose")
        return await super().settle(plan)


class Parts:
    """A handler on a queue and a storage that are two things, and what ran."""

    def __init__(self) -> None:
        self.queue, self.storage = AwayQueue(), AwayStorage()
        self.ran: list[str] = []
        queues = TaskQueuesManager(self.queue)
        queues.register("work", "note", SingleTaskExecutor(self._note, store_on_failure=True))
        self.handler = TaskHandler(self.queue, queues, self.storage, InMemoryCache())

    def _note(self, task: Task[Any], actions: Any) -> None:
        self.ran.append(task.id)
        actions.success(task)


def planned(*, ago: float, ahead: float, **more: Any) -> Task[Any]:
    """A task made so many seconds ago, due in so many."""
    now = datetime.now(UTC)
    made, due = now - timedelta(seconds=ago), now + timedelta(seconds=ahead)
    return Task(type="note", queue_id="work", payload={}, created_at=made, execute_at=due, **more)


@pytest.mark.parametrize("force_store", [False, True])
async def test_a_task_that_an_earlier_call_has_stored_is_not_put_on_the_queue_too(
    force_store: bool,
) -> None:
    """The first call came when it was not due for long, and stored it; the second one is late."""
    parts = Parts()
    task = planned(ago=300, ahead=-1, force_store=force_store)
    async with parts.handler:
        await parts.storage.add([task])
        await parts.handler.add_tasks([task])
        await parts.handler.drain(10)
    assert parts.ran == [task.id]


async def test_neither_queue_nor_storage_answers_after_a_task_was_stored() -> None:
    """It would wait for two days: the caller is told, adds it again, and it runs once."""
    parts = Parts()
    task = planned(ago=0, ahead=0, force_store=True)
    async with parts.handler:
        parts.queue.away = parts.storage.away = True
        with pytest.raises(QueueUnavailableError) as raised:
            await parts.handler.add_tasks([task])
        assert [each.id for each in raised.value.rejected] == [task.id]
        assert raised.value.accepted == []
        parts.queue.away = parts.storage.away = False
        await parts.handler.add_tasks([task])
        await parts.handler.drain(10)
    assert parts.ran == [task.id]


def test_no_task_is_twice_in_one_settle() -> None:
    def settled(id: str, epoch: int) -> Settled:
        delivery = Delivery(Task(type="note", queue_id="work", payload={}, id=id), epoch, epoch)
        claim = Claim("work", [delivery], 0.0, lambda outcome, claim: None)
        return Outcome(delivery, Word.SUCCESS), claim

    group = [settled("a", 1), settled("b", 1), settled("a", 2), settled("a", 3), settled("c", 1)]
    parts = list(_each_task_once(group))
    assert parts == [[group[0], group[1], group[4]], [group[2]], [group[3]]]
