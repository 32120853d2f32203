"""TaskHandler: the door. Adds tasks, wires the rooms together, serves."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from taskloom.actions import check_barrier
from taskloom.adding import Adder
from taskloom.attempt import Attempt
from taskloom.batch_call import BatchCall
from taskloom.batch_summary import BatchSummary
from taskloom.changes import TaskChanges
from taskloom.clock import Seconds, seconds
from taskloom.config import TaskHandlerConfig, make_worker_id
from taskloom.current import running
from taskloom.errors import ConfigurationError
from taskloom.executors import Executor
from taskloom.flow_keeper import FlowKeeper
from taskloom.flow_reporter import FlowReporter
from taskloom.flows import FlowStep, NewFlow, new_flow
from taskloom.handoff import AsyncTaskManager
from taskloom.identity import new_id
from taskloom.interfaces.cache import Cache
from taskloom.interfaces.message_queue import MessageQueue
from taskloom.interfaces.task_storage import TaskStorage
from taskloom.lifecycle import TaskNotificationProvider
from taskloom.listeners import Listeners
from taskloom.maturity import Maturity
from taskloom.outcomes import Settlement
from taskloom.projector import Projector
from taskloom.registry import TaskQueuesManager
from taskloom.reporter import Reporter
from taskloom.runner import TaskRunner
from taskloom.task import EntityRef, FailurePolicy, FlowJoin, Task
from taskloom.transactions import Transactions
from taskloom.worker import Worker, WorkerParts

if TYPE_CHECKING:
    from taskloom.interfaces.transaction import SqlConnection

__all__ = ["BatchSummary", "TaskHandler"]

_log = logging.getLogger(__name__)


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
        async_task_manager: AsyncTaskManager | None = None,
        notification_provider: TaskNotificationProvider | None = None,
        config: TaskHandlerConfig | None = None,
    ) -> None:
        _check_parts(message_queue, task_queues, storage, cache)
        if not isinstance(async_task_manager, AsyncTaskManager | None):
            kind = type(async_task_manager).__name__
            raise TypeError(f"async_task_manager must be an AsyncTaskManager, not {kind}")
        self.config = config = config or TaskHandlerConfig()
        if config.flow_lifecycle_provider is not None and config.flow_barrier is None:
            raise ConfigurationError("flow_lifecycle_provider needs a flow_barrier")
        self.worker_id = make_worker_id()
        self.message_queue = message_queue
        self.task_queues = task_queues
        self.storage = storage
        self.cache = cache
        self._listeners = Listeners(
            config.lifecycle_provider,
            config.worker_provider,
            config.flow_lifecycle_provider,
            notification_provider,
            mode=config.lifecycle.mode,
        )
        self._reporter = Reporter(self._listeners, self.worker_id, config, message_queue)
        self._projector = Projector(config.entity_projections, config, config.clock)
        self._flows = self._flow_keeper()
        self._runner = TaskRunner(
            task_queues,
            cache,
            async_task_manager=async_task_manager,
            worker_id=self.worker_id,
            config=config,
            reporter=self._reporter,
            lock_every_task=not message_queue.features.exclusive,
        )
        self._flow_reporter = FlowReporter(
            self._listeners,
            self._reporter,
            self._projector,
            storage,
            self._executor_of,
            self.worker_id,
            self._runner.cancel_steps,
        )
        horizon = timedelta(seconds=seconds(config.storage_horizon, "storage_horizon"))
        self._adder = Adder(message_queue, storage, config.clock, horizon, self._project_added)
        self._transactions = Transactions(
            message_queue,
            storage,
            config.entity_projections,
            self._projector,
            self._flows,
            self._listeners,
            self._reporter,
            self._flow_reporter,
            self._executor_of,
        )
        self._changes = TaskChanges(
            storage,
            self._flows,
            self._projector,
            self._listeners,
            self._reporter,
            self._flow_reporter,
            self._executor_of,
            config.clock,
        )
        self._maturity = Maturity(
            message_queue,
            storage,
            cache,
            self.worker_id,
            config,
            self._adder.put_stored,
            self._flows,
            self._flow_reporter.found_ended,
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
                projector=self._projector,
                flows=self._flows,
                flow_reporter=self._flow_reporter,
                config=config,
                worker_id=self.worker_id,
                executor_of=self._executor_of,
                add_children=self._add_admitted,
            )
        )

    # Adding

    async def add_tasks(
        self, tasks: Iterable[Task[Any]], *, connection: SqlConnection | None = None
    ) -> list[Task[Any]]:
        """Accept `tasks`, all or none, and return them as they are kept, in order.

        Once it returns, they will reach one terminal state as long as the engine keeps its own
        promise. An id that the storage already knows changes nothing; the task that is there is
        returned. Inside an executor the tasks become children of the running one, added at once.

        Raises `InvalidTaskError` naming the field (nothing is added), `StorageUnavailableError`
        (nothing is added), `QueueUnavailableError` (saying what was and what was not).
        Cancelling it leaves unknown whether they were added; adding them again is safe.

        With a `connection` (or session) of SQLAlchemy that leads to the storage's database, they
        are written in its transaction: there once you commit it, nowhere if you do not. Then errors
        of the database are SQLAlchemy's, and `ConfigurationError` says what cannot be.
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
        if connection is not None:
            return await self._transactions.add(admitted, connection)
        kept = await self._add_admitted(admitted)
        if self.message_queue.features.inline and parent is None:
            await self._worker.run_inline({task.queue_id for task in kept})
        return kept

    async def _add_admitted(self, tasks: Sequence[Task[Any]]) -> list[Task[Any]]:
        async with self._reporter.announcing(tasks, self._executor_of) as announce:
            added = await self._adder.add(tasks)
            announce(added.new)
        return added.kept

    async def _project_added(self, tasks: Sequence[Task[Any]]) -> None:
        if rows := self._projector.added(tasks):
            await self._projector.write(rows)

    async def start_flow(
        self,
        steps: Sequence[FlowStep],
        *,
        join: FlowJoin,
        failure_policy: FailurePolicy = "continue",
        timeout: Seconds | None = None,
        entity: EntityRef | None = None,
        connection: SqlConnection | None = None,
    ) -> str:
        """Run `steps` side by side, then `join` once with what became of each; the flow's id.

        Once it returns, the flow will come to its end as `add_tasks` promises for its tasks.
        `"abort"`: the first step that fails for good hands the join over at once. `timeout`: so do
        so many seconds. `entity`: what the whole flow works on, projected under the flow's id.
        `connection`: as of `add_tasks`.

        Raises `InvalidFlowError` for what could never end or cannot be counted, and as `add_tasks`.
        Cancelling it, or an error, leaves unknown whether the flow was started.
        """
        check_barrier(self._flows is not None)
        options: dict[str, Any] = {"failure_policy": failure_policy, "timeout": timeout}
        parent = running.get()
        if isinstance(parent, Attempt | BatchCall):
            flow, tasks = parent.make_flow(steps, join, entity=entity, **options)
        else:
            now, admit = self.config.clock.now(), self._runner.admission.admit
            flow, tasks = new_flow(
                new_id(), steps, join, entity=entity, now=now, adopt=admit, **options
            )
        if connection is not None:
            await self._transactions.start_flow(flow, tasks, connection)
            return flow.flow_id
        await self._add_flow(flow, tasks)
        if self.message_queue.features.inline and parent is None:
            await self._worker.run_inline({task.queue_id for task in tasks})
        return flow.flow_id

    async def _add_flow(self, flow: NewFlow, tasks: list[Task[Any]]) -> None:
        assert self._flows is not None, "checked when the flow was made"
        rows = self._projector.flows_started([flow])
        if self._flows.integrated and self._integrated:
            await self._projector.write([*rows, *self._projector.added(tasks)])
            async with self._reporter.announcing(tasks, self._executor_of) as announce:
                plan = Settlement(added=tuple(tasks), flows=(flow,))
                await self._flows.barrier.settle(plan)
                announce(tasks)
        else:
            await self._flows.open([flow])
            await self._projector.write(rows)
            await self._add_admitted(tasks)
        await self._flow_reporter.started(flow, tasks)

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

        What is handed off is not waited for; it is settled when it ends, at the latest when the
        handler is closed. Raises `QueueUnavailableError`. Cancelling it releases what has not
        ended.
        """
        if limit < 1:
            raise ValueError(f"limit must be at least 1, not {limit}")
        claim = await self._worker.process(queue_id, limit)
        return BatchSummary(claimed=claim.size, handed_off=len(claim.open), **claim.tally)

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

        A task that runs, has ended, or lives on a separate queue only is left alone. A step of a
        flow counts as failed.
        """
        return await self._changes.cancel(ids, reason)

    async def retry_tasks(self, ids: Iterable[str]) -> list[str]:
        """Schedule ended tasks again, now, with a fresh `retry_count`. Returns their ids.

        Unknown ids and tasks that have not ended are left alone. A task that expired runs without
        its `expires_at`. A step of a flow that has counted does not count again.
        """
        return await self._changes.retry(ids)

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
        await self._transactions.close()
        await self._worker.close()

    @property
    def _integrated(self) -> bool:
        return self.message_queue.storage is self.storage

    def _flow_keeper(self) -> FlowKeeper | None:
        config = self.config
        if config.flow_barrier is None:
            return None
        keep = config.retention.executed
        return FlowKeeper(
            config.flow_barrier,
            self.storage,
            self._add_admitted,
            config.clock,
            forgotten_after=None if keep is None else seconds(keep, "retention"),
        )

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
