"""TaskStorage: remembers tasks that must not be forgotten. TaskArchive: answers people."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from msgspec import Struct

from taskloom.errors import ConfigurationError
from taskloom.identity import new_id
from taskloom.interfaces.opening import Opening
from taskloom.outcomes import Delivery, Settlement, UnreadableRecord
from taskloom.task import EntityRef, Task, TaskStatus

__all__ = ["CleanupStats", "DeadRecord", "TaskArchive", "TaskStorage", "WorkerRecord"]


class TaskStorage(Opening, ABC):
    """What work needs of a storage.

    Every method takes many tasks and is one atomic write where the engine has transactions. All
    raise `StorageUnavailableError` when the engine cannot be reached; repeating a call whose fate
    is unknown is safe.
    """

    def generate_id(self) -> str:
        """An id that this storage likes; a UUIDv7 unless the engine has a reason."""
        return new_id()

    @abstractmethod
    async def add(self, tasks: Sequence[Task[Any]]) -> list[Task[Any]]:
        """Keep `tasks` with the status they have. Returns those that were new, in order.

        A known id is left as it is. All are kept or none (Redis: of each thousand).
        """

    @abstractmethod
    async def claim_due(
        self, limit: int, *, lease: float, queue_id: str | None = None, now: datetime | None = None
    ) -> list[Delivery]:
        """Due `scheduled` tasks (of one queue, or of any), each to one caller only, in due order.

        They become `processing` under a lease of `lease` seconds; the receipt is the lease's epoch.
        A task whose lease ran out is due again, at the place it had. `now` replaces the engine's
        time, for tests.
        """

    @abstractmethod
    async def take_over(self, ids: Sequence[str], *, lease: float) -> list[Delivery]:
        """Lease tasks by id, whoever held them: a queue beside this storage has delivered them.

        They become `processing` under a new epoch, so that what an earlier holder still settles is
        refused. Tasks that have ended and unknown ids are left out; the others come in the order
        asked for.
        """

    @abstractmethod
    async def extend_leases(self, deliveries: Sequence[Delivery], lease: float) -> list[Delivery]:
        """Lease for `lease` seconds from now. Returns the deliveries that were no longer ours."""

    @abstractmethod
    async def settle(self, plan: Settlement) -> list[str]:
        """Write `plan` in one step. Returns the ids for which nothing was written.

        Those are endings whose lease was no longer ours (with their children), tasks to cancel that
        do not wait, tasks to revive that have not ended. Repeating a settle changes nothing more.
        """

    @abstractmethod
    async def get(self, ids: Sequence[str]) -> list[Task[Any]]:
        """The tasks that exist, in the order asked for."""

    @abstractmethod
    async def recover_stale(self, *, now: datetime, stale_after: float) -> int:
        """Make `scheduled` again what someone lost. Returns how many.

        That is: `processing` with a lease that ran out before `now`, and `queued` since more than
        `stale_after` seconds (a queue that lost it).
        """

    @abstractmethod
    async def set_aside(self, records: Sequence[UnreadableRecord]) -> None:
        """Keep the bytes of records that are not tasks. Safe to repeat."""

    def within(
        self, connection: Any, *, ended: Callable[[bool], None] | None = None
    ) -> TaskStorage:
        """This storage inside the transaction that a caller has under way on `connection`.

            async with storage.within(connection) as inside:
                await inside.add(tasks)

        The caller commits or rolls back, after which `ended` is called on the event loop: False
        says that nothing was committed; True, that what the storage now knows was. Opening it
        raises `ConfigurationError` for a connection that leads elsewhere.
        """
        raise ConfigurationError(
            f"connection: {type(self).__name__} has no transaction to be part of. Keep the tasks "
            "in the database of that transaction (Loom('postgresql://...'), Loom('sqlite:///...')),"
            " or add them after its commit"
        )

    @abstractmethod
    async def open(self) -> None:
        """Connect and create what is missing. Safe to repeat, and from many processes at once."""

    @abstractmethod
    async def close(self) -> None:
        """Let go of connections. Safe to repeat."""


class DeadRecord(Struct, frozen=True):
    """Bytes that arrived as a task and were none."""

    raw: bytes
    reason: str
    queue_id: str
    at: datetime


class CleanupStats(Struct, frozen=True):
    """What `cleanup` could remove."""

    orphaned_tasks: int
    """`processing` with a lease that ran out."""
    expired_tasks: int
    """Past their `expires_at`."""


class WorkerRecord(Struct, frozen=True):
    """A worker as it last reported itself."""

    worker_id: str
    hostname: str
    pid: int
    queues: list[str]
    started_at: datetime
    seen_at: datetime
    running: int = 0
    """Tasks in hand."""
    processed: int = 0
    """Tasks ended since it started."""


class TaskArchive(ABC):
    """What people need of a storage. Every storage of Taskloom is both."""

    @abstractmethod
    async def update(self, changes: Mapping[str, Mapping[str, Any]]) -> None:
        """Set fields of existing tasks, by id. Unknown ids are skipped; no lease is looked at."""

    @abstractmethod
    async def upsert(self, tasks: Sequence[Task[Any]]) -> None:
        """Keep `tasks`. Of a known id only status, times, stats, result and retry_count change."""

    @abstractmethod
    async def search(
        self,
        *,
        status: TaskStatus | None = None,
        queue_id: str | None = None,
        type: str | None = None,
        entity: EntityRef | None = None,
        limit: int = 50,
        after: str | None = None,
    ) -> list[Task[Any]]:
        """Tasks, the newest first. `after`: the last id of the page before."""

    @abstractmethod
    async def counts(self) -> dict[tuple[str, TaskStatus], int]:
        """How many tasks each queue holds in each status; no entry where there are none."""

    @abstractmethod
    async def oldest_waiting(self) -> dict[str, datetime]:
        """For each queue with due tasks, since when the oldest one has been due."""

    @abstractmethod
    async def dead_records(self, *, limit: int = 50) -> list[DeadRecord]:
        """What was set aside, the newest first."""

    @abstractmethod
    async def record_worker(self, worker: WorkerRecord, ttl: float) -> None:
        """Note that a worker lives. Forgotten after `ttl` seconds; at once when that is 0."""

    @abstractmethod
    async def workers(self) -> list[WorkerRecord]:
        """The workers that reported within their `ttl`, by id."""

    @abstractmethod
    async def cleanup_stats(self) -> CleanupStats:
        """What `cleanup` with the present time could remove."""

    @abstractmethod
    async def cleanup(self, *, orphaned_before: datetime, expired_before: datetime) -> int:
        """Delete `processing` tasks whose lease ended, and tasks that expired, before a time."""

    @abstractmethod
    async def prune(self, status: TaskStatus, *, ended_before: datetime, limit: int) -> int:
        """Delete at most `limit` tasks that ended in `status` before a time. Returns how many."""
