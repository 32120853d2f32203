"""Group commit: the one batching primitive, under every writer.

While one write is under way, what arrives collects; the next write takes it all. Idle, nothing
waits; busy, the groups grow by themselves, and an engine sees one call where there were hundreds.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextvars import copy_context
from typing import Generic, NamedTuple, TypeVar

from taskloom.errors import UnavailableError

__all__ = ["GroupCommit"]

T = TypeVar("T")
R = TypeVar("R")


class _Submission(NamedTuple, Generic[T, R]):
    items: Sequence[T]
    answer: asyncio.Future[list[R]] | None


class GroupCommit(Generic[T, R]):
    """Writes items in groups of about `limit`, one group at a time, in the order they came.

    `write(items)` answers with one result per item, in order. Items handed in together are never
    torn apart. When a write for several callers raises, each one's items are written again on their
    own, so that nobody fails for another's fault (an engine that is away fails them all); a writer
    must therefore be safe to repeat.
    """

    def __init__(
        self, write: Callable[[list[T]], Awaitable[Sequence[R]]], *, limit: int = 1000
    ) -> None:
        self._write = write
        self._limit = limit
        self._waiting: deque[_Submission[T, R]] = deque()
        self._driver: asyncio.Task[None] | None = None
        # Not the context of whoever hands something in: a write is nobody's in particular.
        self._context = copy_context()

    @property
    def busy(self) -> bool:
        """Whether anything is being written or waits to be."""
        return self._driver is not None

    def add(self, items: Sequence[T]) -> None:
        """Write `items` soon; nobody waits for the answer, so `write` must not raise."""
        self._submit(_Submission(items, None))

    async def __call__(self, items: Sequence[T]) -> list[R]:
        """Write `items` and return their results. Cancelling the caller does not stop the write."""
        if not items:
            return []
        answer: asyncio.Future[list[R]] = asyncio.get_running_loop().create_future()
        self._submit(_Submission(items, answer))
        return await answer

    async def join(self) -> None:
        """Return when everything handed in so far, and meanwhile, has been written."""
        while self._driver is not None:
            await asyncio.wait([self._driver])

    def _submit(self, submission: _Submission[T, R]) -> None:
        self._waiting.append(submission)
        if self._driver is None:
            self._driver = asyncio.create_task(
                self._drive(), name="taskloom-group-commit", context=self._context.copy()
            )

    async def _drive(self) -> None:
        try:
            while self._waiting:
                await self._write_group(self._take())
        finally:
            self._driver = None
            for submission in self._waiting:  # only when the loop is being torn down
                if submission.answer is not None:
                    submission.answer.cancel()
            self._waiting.clear()

    def _take(self) -> list[_Submission[T, R]]:
        group = [self._waiting.popleft()]
        size = len(group[0].items)
        while self._waiting and size + len(self._waiting[0].items) <= self._limit:
            group.append(self._waiting.popleft())
            size += len(group[-1].items)
        return group

    async def _write_group(self, group: list[_Submission[T, R]]) -> None:
        try:
            results = await self._write([item for part in group for item in part.items])
        except Exception as error:
            if len(group) == 1 or isinstance(error, UnavailableError):
                for part in group:
                    _fail(part, error)
                return
            for part in group:
                await self._write_group([part])
            return
        except BaseException:
            for part in group:
                if part.answer is not None:
                    part.answer.cancel()
            raise
        start = 0
        for part in group:
            end = start + len(part.items)
            if part.answer is not None and not part.answer.done():
                part.answer.set_result(list(results[start:end]))
            start = end


def _fail(submission: _Submission[T, R], error: Exception) -> None:
    if submission.answer is None:
        raise error
    if not submission.answer.done():
        submission.answer.set_exception(error)
