"""What all conformance suites share: time, names and tasks."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

from taskloom.identity import new_id
from taskloom.task import EntityRef, Task, TaskMetadata

__all__ = ["AWKWARD_PAYLOADS", "COARSE", "Suite", "far_future"]

COARSE = timedelta(milliseconds=20)
"""How much too early is in time: servers round times, and their clocks are not quite ours."""

AWKWARD_PAYLOADS: list[Any] = [
    None,
    True,
    0,
    "",
    [],
    {},
    {"": {"": []}},
    {"$set": {"a.b": 1, "$": [{"$where": "x"}]}, "__class__": "x", "self": 1},
    {"nul\x00key": "nul\x00value", "lines": "a\r\nb\u2028c\x1b"},
    "'; DROP TABLE tasks; -- %s :name ? {x}",
    "grüße 日本 🧵 \U0010ffff e\u0301",
    [2**53 + 1, 2**63, -(2**63), 2**64 + 1, 10**30, 0.1, 1e300, -0.5, 1e-9],
    {"id": "x", "_id": "y", "status": "executed", "nested": [[[[{"deep": [None, False]}]]]]},
    "x" * 100_000,
]
"""Values that come back exactly as they were from every engine."""


class Suite:
    """Base of the suites. Real time unless `pass_time` and `now` are overridden.

    A machine may stand still between any two statements of a case. So only what must be over gets
    a lease of `self.lease`, and what must still be there a long one; what has to happen within a
    short lease is tried again when it came too late, see `assert_late`.
    """

    lease: float = 0.3
    """Seconds of the leases that cases let run out. Longer where an engine is slow to answer."""
    shrink: int = 1
    """By what the sizes of the largest cases are divided: for a server that is slow per record."""

    async def pass_time(self, seconds: float) -> None:
        """Let the engine's clock go on by so much; a virtual clock overrides it."""
        await asyncio.sleep(seconds)

    def now(self) -> datetime:
        """The engine's time of day."""
        return datetime.now(UTC)

    async def outlive_lease(self) -> None:
        """Let every lease of `self.lease` seconds run out."""
        await self.pass_time(self.lease * 1.5)

    def assert_late(self, since: datetime) -> None:
        """A lease of `self.lease` seconds, given after `since`, was rightly called over."""
        assert self.now() - since > timedelta(seconds=self.lease) - COARSE, "over before its time"

    def task(self, queue_id: str, number: int = 0, **fields: Any) -> Task[Any]:
        """A due task; tasks with a higher `number`, up to 1,000, are due and made later."""
        at = self.now() - timedelta(seconds=60) + timedelta(milliseconds=number)
        defaults: dict[str, Any] = {
            "type": "conformance",
            "payload": {"number": number},
            "execute_at": at,
            "created_at": at,
            "updated_at": at,
        }
        return Task(queue_id=queue_id, **(defaults | fields))

    def tasks(self, queue_id: str, count: int) -> list[Task[Any]]:
        """So many due tasks, in the order they are due."""
        return [self.task(queue_id, number) for number in range(count)]

    def full_task(self, queue_id: str, **fields: Any) -> Task[Any]:
        """A task with a value in every field that travels."""
        defaults: dict[str, Any] = {
            "retries": 7,
            "retry_after": 0.25,
            "retry_count": 2,
            "expires_at": self.now() + timedelta(days=1, microseconds=1),
            "task_group": "group $1",
            "task_hash": "hash.1",
            "partition_key": "schlüssel",
            "entity": EntityRef(id="user.1", type="$user"),
            "metadata": TaskMetadata(log_context={"request.id": "r:1", "$": "ü"}, depth=3),
            "execution_stats": {"last_error": "früher", "a.b": {"$c": [1, None]}},
        }
        return self.task(queue_id, **(defaults | fields))

    def new_queue_id(self) -> str:
        """A queue that no other case uses."""
        return f"conformance-{new_id()}"


def far_future() -> datetime:
    """Later than any test."""
    return datetime.now(UTC) + timedelta(days=3650)
