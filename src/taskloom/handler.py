"""TaskHandler: the door. Adds tasks, wires the rooms together, serves."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

from msgspec import UNSET, Struct
from msgspec.structs import replace

from taskloom.actions import Attempt, BatchCall
from taskloom.adding import Adder
from taskloom.clock import seconds
from taskloom.config import TaskHandlerConfig, make_worker_id
from taskloom.current import running
from taskloom.errors import ConfigurationError
from taskloom.executors import Executor
from taskloom.interfaces.cache import Cache
from taskloom.interfaces.message_queue import MessageQueue
from taskloom.interfaces.task_storage import TaskStorage
from taskloom.lifecycle import TaskNotificationProvider
from taskloom.listeners import Listeners
from taskloom.maturity import Maturity
from taskloom.outcomes import Settlement
from taskloom.registry import TaskQueuesManager
from taskloom.reporter import Reporter
from taskloom.runner import TaskRunner
from taskloom.task import Task, TaskStatus
from taskloom.worker import Worker, WorkerParts

__all__ = ["BatchSummary", "TaskHandler"]

_log = logging.getLogger(__name__)


class BatchSummary(Struct, frozen=True):
    """What became of one claim."""

    claimed: int = 0
    succeeded: int = 0
    failed: int = 0
    """Failed for good."""
    retried: int = 0
    """Failed, or rescheduled itself, and will run again."""
    ignored: int = 0
    """Without an executor, or expired."""
    released: int = 0
    """Not run, or no longer ours."""
    handed_off: int = 0


class TaskHandler:
    """Adds tasks to a queue and runs them: the parts are given, nothing is global.

        handler = TaskHandler(queue, queues, storage, cache)
        async with handler:
            await handler.add_tasks([Task(type="send", queue_id="email", payload={...})])
            await handler.serve()

    The parts are opened and closed by whoever made them.
    """

    def __init__(
        self,
        message_queue: MessageQueue,
        task_queues: TaskQueuesManager,
        storage: TaskStorage,
        cache: Cache,
        *,
        notification_provider: TaskNotificationProvider | None = None,
        config: TaskHandlerConfig | None = None,
    ) -> None:
        _check_parts(message_queue, task_queues, storage, cache)
        self.config = config = config or TaskHandlerConfig()
        self.worker_id = make_worker_id()
        self.message_queue = message_queue
        self.task_queues = task_queues
        self.storage = storage
        self.cache = cache
        self._listeners = Listeners(
            config.lifecycle_provider,
            config.worker_provider,
            notification_provider,
            mode=config.lifecycle.mode,
        )
        self._reporter = Reporter(self._listeners, self.worker_id, config)
        self._runner = TaskRunner(
            task_queues,
            cache,
            worker_id=self.worker_id,
            config=config,
            reporter=self._reporter,
            lock_every_task=not message_queue.features.exclusive,
        )
        horizon = timedelta(seconds=seconds(config.storage_horizon, "storage_horizon"))
        self._adder = Adder(message_queue, storage, config.clock, horizon)
        self._maturity = Maturity(
            message_queue, storage, cache, self.worker_id, config, self._adder.put_stored
        )
        self._worker = Worker(
            WorkerParts(
                queue=message_queue,
                storage=storage,
                cache=cache,
                runner=self._runner,
                maturity=self._maturity,
                listeners=self._listeners,
                reporter=self._reporter,
                config=config,
                worker_id=self.worker_id,
                executor_of=self._executor_of,
                add_children=self._add_admitted,
            )
        )

    # Adding

    async def add_tasks(self, tasks: Iterable[Task[Any]]) -> list[Task[Any]]:
        """Accept `tasks`, all or none, and return them as they are kept, in order.

        Once it returns, they will reach one terminal state as long as the engine keeps its own
        promise. An id that the storage already knows changes nothing; the task that is there is
        returned. Inside an executor the tasks become children of the running one, added at once.

        Raises `InvalidTaskError` naming the field (nothing is added), `StorageUnavailableError`
        (nothing is added), `QueueUnavailableError` (saying what was and what was not).
        Cancelling it leaves unknown whether they were added; adding them again is safe.
        """
        given = list(tasks)
        parent = running.get()
        if isinstance(parent, Attempt | BatchCall):
            parent.claim_room(len(given))
            admitted = [parent.adopt(task) for task in given]
        else:
            admitted = [self._runner.admission.admit(task) for task in given]
        if not admitted:
            return []
        kept = await self._add_admitted(admitted)
        if self.message_queue.features.inline and parent is None:
            await self._worker.run_inline({task.queue_id for task in kept})
        return kept

    async def _add_admitted(self, tasks: Sequence[Task[Any]]) -> list[Task[Any]]:
        async with self._reporter.announcing(tasks, self._executor_of) as announce:
            added = await self._adder.add(tasks)
            announce(added.new)
        return added.kept

    # Working

    async def serve(
        self, queues: Sequence[str] | None = None, stop: asyncio.Event | None = None
    ) -> None:
        """Be a worker for `queues` (all registered ones unless told) until `stop` is set.

        Then: no more claims; what has not started is released; what runs gets
        `shutdown_grace_period` to finish and is settled; the rest is cancelled and released.
        Cancelling it does the same without the grace period.
        """
        await self._worker.serve(self._known(queues), stop or asyncio.Event())

    async def consume_queue(self, queue_id: str, stop: asyncio.Event | None = None) -> None:
        """`serve` for one queue, without moving mature tasks."""
        queues = self._known([queue_id])
        await self._worker.serve(queues, stop or asyncio.Event(), upkeep=False)

    async def process_batch(self, queue_id: str, limit: int = 10) -> BatchSummary:
        """Claim once, run, settle, and say what became of it: for cron jobs and tests.

        Raises `QueueUnavailableError`. Cancelling it releases what has not ended.
        """
        if limit < 1:
            raise ValueError(f"limit must be at least 1, not {limit}")
        claim = await self._worker.process(queue_id, limit)
        return BatchSummary(claimed=claim.size, **claim.tally)

    async def process_mature_tasks(self, stop: asyncio.Event | None = None) -> None:
        """Move due tasks and do upkeep every `mature_interval` until `stop` is set."""
        await self._worker.run_until(self._maturity.run(), stop or asyncio.Event())

    async def move_mature_tasks(self) -> int:
        """One pass of upkeep. Returns how many due tasks went from the storage to their queues.

        0 where the storage is the queue: a due task can be claimed there as it is.
        """
        return await self._maturity.one_pass()

    async def drain(self, timeout: float | None = None) -> None:
        """Process everything registered until nothing is due or running: for tests.

        What is due later stays. Raises `TimeoutError` after `timeout` seconds.
        """
        await self._worker.drain(self.task_queues.get_queues(), timeout)

    # Looking and changing

    async def get_tasks(self, ids: Iterable[str]) -> list[Task[Any]]:
        """The tasks that the storage knows, in the order asked for."""
        return await self.storage.get(list(ids))

    async def cancel_tasks(self, ids: Iterable[str], *, reason: str) -> list[str]:
        """Cancel tasks that wait in the storage. Returns the ids that were cancelled.

        A task that runs, has ended, or lives on a separate queue only is left alone.
        """
        wanted = list(dict.fromkeys(ids))
        if not wanted:
            return []
        plan = Settlement(cancelled=tuple(wanted), reason=reason)
        not_done = set(await self.storage.settle(plan))
        done = [id for id in wanted if id not in not_done]
        if done and self._listeners.wants("on_task_cancelled"):
            tasks = await self.storage.get(done)
            await self._reporter.cancelled(tasks, reason, self._executor_of)
        return done

    async def retry_tasks(self, ids: Iterable[str]) -> list[str]:
        """Schedule ended tasks again, now, with a fresh `retry_count`. Returns their ids.

        Unknown ids and tasks that have not ended are left alone. A task that expired runs without
        its `expires_at`.
        """
        now = self.config.clock.now()
        ended = [task for task in await self.storage.get(list(ids)) if task.status.terminal]
        if not ended:
            return []
        again = tuple(
            replace(
                task,
                status=TaskStatus.SCHEDULED,
                execute_at=now,
                expires_at=None,
                retry_count=0,
                execution_result=UNSET,
                execution_stats={},
            )
            for task in ended
        )
        not_done = set(await self.storage.settle(Settlement(revived=again)))
        return [task.id for task in again if task.id not in not_done]

    async def __aenter__(self) -> Self:
        self._worker.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Stop what serves, settle, deliver events. Safe to repeat."""
        await self._worker.close()

    def _known(self, queues: Sequence[str] | None) -> list[str]:
        known = self.task_queues.get_queues()
        if queues is None:
            if not known:
                raise ConfigurationError("nothing to serve: no executor is registered")
            return known
        unknown = [queue_id for queue_id in queues if queue_id not in known]
        if unknown:
            raise ConfigurationError(
                f"no executor is registered for queue {unknown[0]!r}; "
                f"there are: {', '.join(known) or 'none'}"
            )
        return list(dict.fromkeys(queues))

    def _executor_of(self, task: Task[Any]) -> Executor | None:
        return self.task_queues.get_executor(task.queue_id, task.type)


def _check_parts(queue: object, queues: object, storage: object, cache: object) -> None:
    for value, kind, name in (
        (queue, MessageQueue, "message_queue"),
        (queues, TaskQueuesManager, "task_queues"),
        (storage, TaskStorage, "storage"),
        (cache, Cache, "cache"),
    ):
        if not isinstance(value, kind):
            raise TypeError(f"{name} must be a {kind.__name__}, not {type(value).__name__}")
    if isinstance(queue, MessageQueue) and queue.storage not in (None, storage):
        raise ConfigurationError(
            f"{queue.name}: its tasks live in a storage of its own; pass that one as storage"
        )
