"""A function under `@loom.task`: still itself, and a door to its own tasks."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar, Unpack, overload

from taskloom.actions import ExecutorActions
from taskloom.clock import Clock
from taskloom.enqueue_options import EnqueueOptions, TaskFields
from taskloom.signature import BatchSignature, TaskSignature
from taskloom.task import Task

__all__ = [
    "BatchEnqueue",
    "BatchFunction",
    "Door",
    "Enqueue",
    "TaskFunction",
    "tasks_of",
]

FunctionT_co = TypeVar("FunctionT_co", bound=Callable[..., Any], covariant=True)
P = ParamSpec("P")
R = TypeVar("R")
RowT = TypeVar("RowT")


class Door(Protocol):
    """Where a function's tasks go in: a Loom."""

    @property
    def clock(self) -> Clock:
        """What `delay` and `expires_in` count from."""
        ...

    async def add_tasks(self, tasks: Iterable[Task[Any]]) -> list[Task[Any]]:
        """As on the handler."""
        ...


class _Tasks:
    """Makes and adds the tasks of one function, with one set of options."""

    def __init__(self, type: str, queue: str, door: Door, fields: TaskFields) -> None:
        self.type = type
        self.queue = queue
        self.door = door
        self._fields = fields

    def with_options(self, options: EnqueueOptions) -> _Tasks:
        return _Tasks(self.type, self.queue, self.door, TaskFields(options))

    async def add(self, payloads: list[Any]) -> list[Task[Any]]:
        """One task per payload, in one call of `add_tasks`; none for none."""
        if not payloads:
            return []
        fields = self._fields.at(self.door.clock.now())
        type, queue = self.type, self.queue
        return await self.door.add_tasks(
            [Task(type=type, queue_id=queue, payload=payload, **fields) for payload in payloads]
        )


class Enqueue(Generic[FunctionT_co]):
    """Adds tasks of a function: what `with_` returns, and what the function itself can do."""

    def __init__(self, signature: TaskSignature, tasks: _Tasks) -> None:
        self._signature = signature
        self._tasks = tasks

    # What is injected leaves the signature. Chosen by `self`, not where the function is decorated:
    # there an `Any` in its annotations would make the choice ambiguous and lose all types.
    @overload
    async def enqueue(
        self: Enqueue[Callable[Concatenate[Task[Any], ExecutorActions, P], Any]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Task[Any]: ...
    @overload
    async def enqueue(
        self: Enqueue[Callable[Concatenate[ExecutorActions, Task[Any], P], Any]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Task[Any]: ...
    @overload
    async def enqueue(
        self: Enqueue[Callable[Concatenate[Task[Any], P], Any]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Task[Any]: ...
    @overload
    async def enqueue(
        self: Enqueue[Callable[Concatenate[ExecutorActions, P], Any]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Task[Any]: ...
    @overload
    async def enqueue(
        self: Enqueue[Callable[P, Any]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Task[Any]: ...
    async def enqueue(self, /, *args: Any, **kwargs: Any) -> Task[Any]:
        """Add one task with these arguments; returns it once it is accepted.

            task = await send_email.enqueue("a@b.c", subject="Hi")

        The arguments are those of the function, without injected ones. They are checked here:
        `TypeError` for a missing one or one that its annotation does not allow,
        `InvalidTaskError` for what JSON cannot hold; then nothing is added.
        """
        where = f"{self._signature.name}.enqueue()"
        payload = self._signature.payload(args, kwargs, where)
        [task] = await self._tasks.add([payload])
        return task

    async def enqueue_many(
        self, calls: Iterable[tuple[Any, ...] | Mapping[str, Any]]
    ) -> list[Task[Any]]:
        """Add one task per call in one step; returns them in order.

            await send_email.enqueue_many([("a@b.c", "Hi"), {"to": "d@e.f", "subject": "Ho"}])

        A call is a tuple of arguments or a mapping of keyword arguments. All are checked before
        any is added; the errors are those of `enqueue` and name the item.
        """
        payloads = [self._call(call, index) for index, call in enumerate(calls)]
        return await self._tasks.add(payloads)

    def _call(self, call: object, index: int) -> dict[str, Any]:
        where = f"{self._signature.name}.enqueue_many(): item {index}"
        if isinstance(call, tuple):
            return self._signature.payload(call, {}, where)
        if isinstance(call, Mapping):
            return self._signature.payload((), call, where)
        raise TypeError(
            f"{where}: a tuple of arguments or a mapping of keyword arguments, "
            f"not {type(call).__name__}"
        )


class TaskFunction(Enqueue[FunctionT_co]):
    """A function whose calls can be tasks. Made by `@loom.task`.

        @loom.task(queue="email")
        async def send_email(to: str, subject: str) -> None: ...

        await send_email("a@b.c", "Hi")           # calls it, here and now
        await send_email.enqueue("a@b.c", "Hi")   # a worker calls it

    `type` and `queue` are those of its tasks, `function` is what was decorated.
    """

    __name__: str
    type: str
    queue: str
    function: FunctionT_co

    def __init__(self, function: FunctionT_co, signature: TaskSignature, tasks: _Tasks) -> None:
        super().__init__(signature, tasks)
        functools.update_wrapper(self, function)
        self.function = function
        self.type, self.queue = tasks.type, tasks.queue

    def __call__(self: TaskFunction[Callable[P, R]], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function itself: no queue, no checks, injected parameters given by hand."""
        return self.function(*args, **kwargs)

    def with_(self, /, **options: Unpack[EnqueueOptions]) -> Enqueue[FunctionT_co]:
        """The function's `enqueue` and `enqueue_many`, with options.

            await send_email.with_(delay=60, retries=5).enqueue("a@b.c", "Hi")

        `delay` or `at`, `expires_in`, `entity`, `log_context`, `partition_key`, `task_hash`,
        `force_store`, `retries`, `retry_after`. Durations are seconds or a `timedelta` and count
        from the call of `enqueue`; None is as if not given. `ValueError` names a wrong option. The
        result may be kept and used again.
        """
        return Enqueue(self._signature, self._tasks.with_options(options))

    def __repr__(self) -> str:
        return f"<task {self.type!r} in queue {self.queue!r}: {_place_of(self.function)}>"


class BatchEnqueue(Generic[RowT]):
    """Adds tasks of a batch function: what its `with_` returns, and what it can do itself."""

    def __init__(self, signature: BatchSignature, tasks: _Tasks) -> None:
        self._signature = signature
        self._tasks = tasks

    async def enqueue(self, row: RowT) -> Task[Any]:
        """Add one task with `row` as its payload; returns it once it is accepted.

            task = await insert_rows.enqueue(Row(id=1))

        `TypeError` or `InvalidTaskError` when it is not a `Row`; then nothing is added.
        """
        payload = self._signature.payload(row, f"{self._signature.name}.enqueue()")
        [task] = await self._tasks.add([payload])
        return task

    async def enqueue_many(self, rows: Iterable[RowT]) -> list[Task[Any]]:
        """Add one task per row in one step; returns them in order.

            await insert_rows.enqueue_many(Row(id=number) for number in range(1000))

        All are checked before any is added; an error names the item.
        """
        where = f"{self._signature.name}.enqueue_many(): item "
        payloads = [
            self._signature.payload(row, f"{where}{index}") for index, row in enumerate(rows)
        ]
        return await self._tasks.add(payloads)


class BatchFunction(BatchEnqueue[RowT], Generic[RowT, R]):
    """A function that takes many tasks in one call. Made by `@loom.task(batch=…)`.

        @loom.task(batch=100)
        async def insert_rows(tasks: list[Task[Row]], actions: ExecutorActions) -> None:
            await database.insert([task.payload for task in tasks])
            for task in tasks:
                actions.success(task)

        await insert_rows.enqueue(Row(id=1))

    It speaks for each task itself: one it says nothing about has failed. `type` and `queue` are
    those of its tasks, `function` is what was decorated.
    """

    __name__: str
    type: str
    queue: str
    function: Callable[[list[Task[RowT]], ExecutorActions], R]

    def __init__(
        self,
        function: Callable[[list[Task[RowT]], ExecutorActions], R],
        signature: BatchSignature,
        tasks: _Tasks,
    ) -> None:
        super().__init__(signature, tasks)
        functools.update_wrapper(self, function)
        self.function = function
        self.type, self.queue = tasks.type, tasks.queue

    def __call__(self, tasks: list[Task[RowT]], actions: ExecutorActions) -> R:
        """Call the function itself."""
        return self.function(tasks, actions)

    def with_(self, /, **options: Unpack[EnqueueOptions]) -> BatchEnqueue[RowT]:
        """The function's `enqueue` and `enqueue_many`, with options as of `TaskFunction.with_`.

        await insert_rows.with_(delay=60).enqueue(Row(id=1))
        """
        return BatchEnqueue(self._signature, self._tasks.with_options(options))

    def __repr__(self) -> str:
        return f"<batch task {self.type!r} in queue {self.queue!r}: {_place_of(self.function)}>"


def tasks_of(type: str, queue: str, door: Door) -> _Tasks:
    """What a decorated function adds its tasks with, before any options."""
    return _Tasks(type, queue, door, TaskFields({}))


def _place_of(function: Callable[..., Any]) -> str:
    return f"{function.__module__}.{function.__qualname__}"
