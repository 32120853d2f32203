"""Loom: the parts assembled from a URL, and functions made tasks by a decorator."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload

from taskloom.batch_function import BatchFunction
from taskloom.clock import Clock, Seconds
from taskloom.config import TaskHandlerConfig
from taskloom.errors import NotOpenError, RegistrationError
from taskloom.executors import RetryPolicy
from taskloom.flows import FlowStep
from taskloom.handler import TaskHandler
from taskloom.handoff import AsyncTaskManager
from taskloom.interfaces import (
    Cache,
    EntityProjections,
    FlowBarrier,
    MessageQueue,
    TaskStorage,
)
from taskloom.lifecycle import TaskNotificationProvider
from taskloom.own_tasks import tasks_of
from taskloom.parts import assemble, distinct, shown
from taskloom.registry import TaskQueuesManager
from taskloom.signature import BatchSignature, TaskSignature
from taskloom.task import EntityRef, FailurePolicy, FlowJoin, Task
from taskloom.task_decorator import BatchDecorator, FunctionOptions, TaskDecorator, check_name
from taskloom.task_function import TaskFunction

if TYPE_CHECKING:
    from taskloom.interfaces.transaction import SqlConnection

__all__ = ["Loom"]

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])

_AnyFunction = TaskFunction[Any] | BatchFunction[Any, Any]


class Loom:
    """Everything Taskloom needs, in one object.

        loom = Loom("sqlite:///taskloom.db")

        @loom.task(queue="email")
        async def send_email(to: str, subject: str) -> None: ...

        async with loom:
            await send_email.enqueue("a@b.c", "Hi")    # in the process that produces
            await loom.run_worker()                    # in the process that works

    `url` is `memory://`, `sqlite:///file`, `sqlite:////absolute/file`, `sqlite://` (in memory),
    `postgresql://user@host/database` or `redis://host:6379/0`.
    `queue`, `storage` and `cache` replace those of the url; with all three, or `url=None`, it is
    not looked at. A queue that is its own storage (`SqlQueue`) brings the storage along. Without an
    `async_task_manager` there is one with its defaults, for executors with an `AsyncConfig`.

    Making a Loom does no I/O. `async with` opens every part and closes it again, those given by
    name included; a Loom may be entered again, also while it is open: the last one out closes.
    Raises `ConfigurationError` for a url or parts that do not fit.
    """

    handler: TaskHandler
    queues: TaskQueuesManager

    def __init__(
        self,
        url: str | None = "sqlite:///taskloom.db",
        *,
        queue: MessageQueue | None = None,
        storage: TaskStorage | None = None,
        cache: Cache | None = None,
        flow_barrier: FlowBarrier | None = None,
        entity_projections: EntityProjections | None = None,
        async_task_manager: AsyncTaskManager | None = None,
        notification_provider: TaskNotificationProvider | None = None,
        config: TaskHandlerConfig | None = None,
    ) -> None:
        config = config or TaskHandlerConfig()
        self.clock: Clock = config.clock
        named = (
            queue,
            storage,
            cache,
            flow_barrier or config.flow_barrier,
            entity_projections or config.entity_projections,
        )
        self._parts = assemble(url, *named, self.clock)
        self._shown = shown(url, self._parts, named)
        self.flow_barrier = self._parts.flow_barrier
        self.entity_projections = self._parts.entity_projections
        self.queues = TaskQueuesManager(self._parts.queue)
        self.handler = TaskHandler(
            self._parts.queue,
            self.queues,
            self._parts.storage,
            self._parts.cache,
            async_task_manager or AsyncTaskManager(clock=self.clock),
            notification_provider=notification_provider,
            config=replace(
                config,
                flow_barrier=self.flow_barrier,
                entity_projections=self.entity_projections,
            ),
        )
        self._functions: dict[tuple[str, str], _AnyFunction] = {}
        self._signatures: list[TaskSignature | BatchSignature] = []
        self._users = 0
        self._gate = asyncio.Lock()
        self._opened: AsyncExitStack | None = None

    def __repr__(self) -> str:
        return f"Loom({self._shown})"

    # Functions.

    @overload
    def task(self, type: FunctionT, /) -> TaskFunction[FunctionT]: ...
    @overload
    def task(
        self,
        type: str | None = None,
        *,
        batch: int,
        queue: str = "default",
        retries: int = 3,
        store_on_failure: bool = True,
        partition_key: Callable[[Task[Any]], str | None] | None = None,
        timeout: Seconds | None = None,
        retry_policy: RetryPolicy | None = None,
    ) -> BatchDecorator: ...
    @overload
    def task(
        self,
        type: str | None = None,
        *,
        queue: str = "default",
        retries: int = 3,
        concurrency: int = 16,
        sequential: bool = False,
        batch: None = None,
        store_on_failure: bool = True,
        handoff_after: Seconds | None = None,
        partition_key: Callable[[Task[Any]], str | None] | None = None,
        timeout: Seconds | None = None,
        retry_policy: RetryPolicy | None = None,
    ) -> TaskDecorator: ...
    def task(
        self,
        type: str | Callable[..., Any] | None = None,
        *,
        queue: str = "default",
        retries: int = 3,
        concurrency: int = 16,
        sequential: bool = False,
        batch: int | None = None,
        store_on_failure: bool = True,
        handoff_after: Seconds | None = None,
        partition_key: Callable[[Task[Any]], str | None] | None = None,
        timeout: Seconds | None = None,
        retry_policy: RetryPolicy | None = None,
    ) -> Any:
        """Make a function a task; bare or with options.

            @loom.task
            def resize(path: str, width: int = 800) -> str: ...     # plain: runs in a thread

            @loom.task("invoice.send", queue="billing", sequential=True, timeout=30)
            async def send_invoice(invoice: Invoice, actions: ExecutorActions) -> None: ...

            @loom.task(batch=100)
            async def insert(tasks: list[Task[Row]], actions: ExecutorActions) -> None: ...

        `type` is the function's name unless given. A worker runs `concurrency` tasks of the
        function at once, or one with `sequential`, or up to `batch` in one call. `retries` of a
        failed task; `timeout` of one attempt, in seconds. A run that takes longer than
        `handoff_after` seconds leaves its slot to the next task and goes on beside it.
        `partition_key` is a function of the task that fills its key when it is added. The
        arguments are the payload, the return value is the result, an exception is a failure;
        parameters annotated `Task`, `ExecutorActions` or, in the join of a flow, `FlowResults` get
        those instead.

        `ValueError` names an option that makes no sense, `TypeError` a parameter that no payload
        can hold, `RegistrationError` both functions when two share type and queue.
        """
        options = FunctionOptions(
            queue=queue,
            retries=retries,
            concurrency=concurrency,
            sequential=sequential,
            batch=batch,
            store_on_failure=store_on_failure,
            handoff_after=handoff_after,
            partition_key=partition_key,
            timeout=timeout,
            retry_policy=retry_policy,
        )
        if callable(type):
            return self._make_task(type, None, options)
        if type is not None:
            check_name(type, "type")

        def decorate(function: Callable[..., Any]) -> _AnyFunction:
            return self._make_task(function, type, options)

        return decorate

    def _make_task(
        self, function: Callable[..., Any], type: str | None, options: FunctionOptions
    ) -> _AnyFunction:
        made: _AnyFunction
        signature: TaskSignature | BatchSignature
        if options.batch is None:
            signature = TaskSignature(function)
            executor = options.executor(signature)
            tasks = tasks_of(type or signature.name, options.queue, self)
            made = TaskFunction(function, signature, tasks)
        else:
            signature = BatchSignature(function)
            executor = options.batch_executor(signature)
            tasks = tasks_of(type or signature.name, options.queue, self)
            made = BatchFunction(function, signature, tasks)
        self._refuse_namesake(made)
        self.queues.register(made.queue, made.type, executor)
        self._functions[made.queue, made.type] = made
        self._signatures.append(signature)
        return made

    def _refuse_namesake(self, new: _AnyFunction) -> None:
        old = self._functions.get((new.queue, new.type))
        if old is not None:
            raise RegistrationError(
                f"two functions for tasks of one type in one queue: {old!r} and {new!r}. "
                'Give one of them a type of its own: @loom.task("another_name")'
            )

    # Open and closed.

    async def __aenter__(self) -> Self:
        async with self._gate:
            if self._opened is None:
                self._opened = await self._open()
            self._users += 1
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._users -= 1
        async with self._gate:
            if self._users > 0 or self._opened is None:
                return
            # Open until the end: what still runs in the handler may add tasks.
            try:
                await self._opened.__aexit__(kind, error, trace)
            finally:
                self._opened = None

    async def _open(self) -> AsyncExitStack:
        for signature in self._signatures:
            signature.prepare()
        async with AsyncExitStack() as stack:
            for part in distinct(self._parts):
                # Before `open`: one that fails half way has something to close, too.
                stack.push_async_callback(part.close)
                await part.open()
            await stack.enter_async_context(self.handler)
            return stack.pop_all()

    async def upgrade(self) -> None:
        """Create what is missing, and bring up to date what an earlier Taskloom made.

            await loom.upgrade()    # as `taskloom init` does

        Opening does the same where that is quick. Safe to repeat, and from many processes at once.
        """
        for part in distinct(self._parts):
            await part.upgrade()

    def _open_handler(self) -> TaskHandler:
        if self._opened is None:
            raise NotOpenError("this Loom is not open; use it inside `async with loom:`")
        return self.handler

    # The door.

    async def run_worker(
        self, queues: Sequence[str] | None = None, stop: asyncio.Event | None = None
    ) -> None:
        """Run tasks of `queues` (None: of every function's) until `stop` is set; opens if needed.

            await loom.run_worker(["email"])

        After `stop` what runs is given the grace period of the configuration to finish.
        """
        async with self:
            await self.handler.serve(queues, stop)

    async def add_tasks(
        self, tasks: Iterable[Task[Any]], *, connection: SqlConnection | None = None
    ) -> list[Task[Any]]:
        """Add tasks made by hand; returns them once they are accepted.

            await loom.add_tasks([Task(type="resize", queue_id="default", payload={"path": "a"})])

        With a `connection` or session of SQLAlchemy they are part of its transaction.
        """
        return await self._open_handler().add_tasks(tasks, connection=connection)

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

            await loom.start_flow([resize.step(path) for path in paths], join=publish.join())

        With `failure_policy="abort"` the first step that fails for good hands the join over at
        once, as does the end of `timeout` seconds. `InvalidFlowError` for a flow that could never
        end, or when there is no flow barrier.
        """
        return await self._open_handler().start_flow(
            steps,
            join=join,
            failure_policy=failure_policy,
            timeout=timeout,
            entity=entity,
            connection=connection,
        )

    async def get_tasks(self, ids: Iterable[str]) -> list[Task[Any]]:
        """What the storage knows of these tasks; unknown ids are left out.

        [task] = await loom.get_tasks([task.id])
        """
        return await self._open_handler().get_tasks(ids)

    async def cancel_tasks(self, ids: Iterable[str], *, reason: str) -> list[str]:
        """Cancel what has not started; returns the ids that were cancelled.

        await loom.cancel_tasks([task.id], reason="the order was withdrawn")
        """
        return await self._open_handler().cancel_tasks(ids, reason=reason)

    async def retry_tasks(self, ids: Iterable[str]) -> list[str]:
        """Run ended tasks again, with all their retries; returns the ids that are.

        await loom.retry_tasks([task.id])
        """
        return await self._open_handler().retry_tasks(ids)
