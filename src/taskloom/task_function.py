"""A function under `@loom.task`: still itself, and a door to its own tasks."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, Unpack, overload

from taskloom.actions import ExecutorActions
from taskloom.enqueue_options import EnqueueOptions
from taskloom.flows import FlowStep
from taskloom.own_tasks import OwnTasks, place_of
from taskloom.signature import TaskSignature
from taskloom.task import FlowJoin, Task

__all__ = ["Enqueue", "TaskFunction"]

FunctionT_co = TypeVar("FunctionT_co", bound=Callable[..., Any], covariant=True)
P = ParamSpec("P")
R = TypeVar("R")


class Enqueue(Generic[FunctionT_co]):
    """Adds tasks of a function: what `with_` returns, and what the function itself can do."""

    def __init__(self, signature: TaskSignature, tasks: OwnTasks) -> None:
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

    # The same overloads as of `enqueue`: no type can say it once for both.
    @overload
    def step(
        self: Enqueue[Callable[Concatenate[Task[Any], ExecutorActions, P], Any]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> FlowStep: ...
    @overload
    def step(
        self: Enqueue[Callable[Concatenate[ExecutorActions, Task[Any], P], Any]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> FlowStep: ...
    @overload
    def step(
        self: Enqueue[Callable[Concatenate[Task[Any], P], Any]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> FlowStep: ...
    @overload
    def step(
        self: Enqueue[Callable[Concatenate[ExecutorActions, P], Any]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> FlowStep: ...
    @overload
    def step(self: Enqueue[Callable[P, Any]], /, *args: P.args, **kwargs: P.kwargs) -> FlowStep: ...
    def step(self, /, *args: Any, **kwargs: Any) -> FlowStep:
        """One step of a flow with these arguments; adds nothing by itself.

            await loom.start_flow([resize.step(path) for path in paths], join=publish.join())

        Checked like the arguments of `enqueue`. Of the options of `with_` a step has only `entity`:
        `TypeError` names another one.
        """
        where = f"{self._signature.name}.step()"
        return self._tasks.step(self._signature.payload(args, kwargs, where), where)

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

    def __init__(self, function: FunctionT_co, signature: TaskSignature, tasks: OwnTasks) -> None:
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
        `force_store`, `retries`, `retry_after`, `connection`. Durations are seconds or a
        `timedelta` and count from the call of `enqueue`; None is as if not given. `ValueError`
        names a wrong option. The result may be kept and used again.
        """
        return Enqueue(self._signature, self._tasks.with_options(options))

    def join(self) -> FlowJoin:
        """The function as the join of a flow: called once, with the results of all steps.

            @loom.task
            async def publish(results: FlowResults) -> None: ...

            await loom.start_flow(steps, join=publish.join())

        A parameter annotated `FlowResults` gets them. `TypeError` for another one without a
        default.
        """
        self._signature.check_join(f"{self._signature.name}.join()")
        return FlowJoin(self.type, self.queue)

    def __repr__(self) -> str:
        return f"<task {self.type!r} in queue {self.queue!r}: {place_of(self.function)}>"
