"""Awaiting user code in a context of its own, without a new asyncio task for it.

An asyncio task per Taskloom task would cost more than everything else the path does for it. So a
lane's slot is one asyncio task that runs one piece of user code after another, each step of it in a
fresh `contextvars.Context`: what one task sets, the next one does not see.
"""

from __future__ import annotations

import asyncio
import inspect
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from concurrent.futures import Executor as ThreadPool
from contextvars import Context
from typing import Any

__all__ = ["begin", "call_in_thread", "runs_in_thread"]


def runs_in_thread(function: Callable[..., Any]) -> bool:
    """Whether calling `function` may block: anything that is not plainly `async def`."""
    target = getattr(function, "func", function)  # functools.partial
    if inspect.iscoroutinefunction(target):
        return False
    return not inspect.iscoroutinefunction(getattr(target, "__call__", None))  # noqa: B004


def begin(context: Context, coroutine: Coroutine[Any, Any, Any]) -> Awaitable[None] | None:
    """Run `coroutine` in `context` up to where it first waits; None: it is done already.

    Await what is returned for the rest. Work that never waits costs no further frame.
    """
    try:
        waits_for = context.run(coroutine.send, None)
    except StopIteration:
        return None
    return _go_on(context, coroutine, waits_for)


async def call_in_thread(
    context: Context, function: Callable[..., Any], threads: ThreadPool, *args: Any
) -> None:
    """Call `function(*args)` in a thread, in `context`; await what it returns, if that is wanted.

    Cancelling it does not stop the thread.
    """
    loop = asyncio.get_running_loop()
    answer = await loop.run_in_executor(threads, context.run, function, *args)
    if inspect.iscoroutine(answer):
        rest = begin(context, answer)
        if rest is not None:
            await rest
    elif inspect.isawaitable(answer):
        await answer


@types.coroutine
def _go_on(
    context: Context, coroutine: Coroutine[Any, Any, Any], waits_for: Any
) -> Generator[Any, Any, None]:
    """Await the rest of `coroutine`, running each of its steps in `context`."""
    send, throw, run = coroutine.send, coroutine.throw, context.run
    try:
        while True:
            try:
                answer = yield waits_for
            except GeneratorExit:
                run(coroutine.close)
                raise
            except BaseException as error:
                waits_for = run(throw, error)
            else:
                waits_for = run(send, answer)
    except StopIteration:
        return
