"""A function under `@loom.task(batch=…)`: many tasks in one call, and a door to them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar, Unpack

from taskloom.actions import ExecutorActions
from taskloom.enqueue_options import EnqueueOptions
from taskloom.flows import FlowStep
from taskloom.own_tasks import OwnTasks, place_of
from taskloom.signature import BatchSignature
from taskloom.task import Task

__all__ = ["BatchEnqueue", "BatchFunction"]

R = TypeVar("R")
RowT = TypeVar("RowT")


class BatchEnqueue(Generic[RowT]):
    """Adds tasks of a batch function: what its `with_` returns, and what it can do itself."""

    def __init__(self, signature: BatchSignature, tasks: OwnTasks) -> None:
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

    def step(self, row: RowT) -> FlowStep:
        """One step of a flow with `row` as its payload; as of `TaskFunction.step`.

        await loom.start_flow([insert_rows.step(row) for row in rows], join=publish.join())
        """
        where = f"{self._signature.name}.step()"
        return self._tasks.step(self._signature.payload(row, where), where)


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
        tasks: OwnTasks,
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
        return f"<batch task {self.type!r} in queue {self.queue!r}: {place_of(self.function)}>"
