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
    # Not a test of being callable, which B004 takes it for: is the object's call a coroutine?
    return not inspect.iscoroutinefunction(getattr(target, "__call__", None))  # noqa: B004


def begin(
    context: Context, function: Callable[..., Awaitable[Any]], *args: Any
) -> Awaitable[None] | None:
    """Call `function(*args)` in `context` up to where it first waits; None: it is done already.

    Await what is returned for the rest. A coroutine that never waits costs no further frame.
    """
    try:
        coroutine, waits_for = context.run(_first_step, function, args)
    except StopIteration:
        return None
    except GeneratorExit as error:
        raise _disguised(error) from error
    return _go_on(context, coroutine, waits_for)


def _first_step(
    function: Callable[..., Awaitable[Any]], args: tuple[Any, ...]
) -> tuple[Coroutine[Any, Any, Any], Any]:
    work = function(*args)
    coroutine = work if isinstance(work, types.CoroutineType) else _awaited(work)
    return coroutine, coroutine.send(None)


async def call_in_thread(
    context: Context, function: Callable[..., Any], threads: ThreadPool, *args: Any
) -> None:
    """Call `function(*args)` in a thread, in `context`; await what it returns, if that is wanted.

    Cancelling it does not stop the thread.
    """
    loop = asyncio.get_running_loop()
    answer, error = await loop.run_in_executor(threads, context.run, _caught, function, *args)
    if isinstance(error, StopIteration | GeneratorExit):
        raise _disguised(error) from error
    if error is not None:
        raise error
    if inspect.isawaitable(answer):
        rest = begin(context, _awaited, answer)
        if rest is not None:
            await rest


def _caught(function: Callable[..., Any], *args: Any) -> tuple[Any, BaseException | None]:
    # A future refuses to carry a StopIteration, and would wait for ever.
    try:
        return function(*args), None
    except BaseException as error:
        return None, error


async def _awaited(answer: Awaitable[Any]) -> None:
    await answer


@types.coroutine
def _go_on(
    context: Context, coroutine: Coroutine[Any, Any, Any], waits_for: Any
) -> Generator[Any, Any, None]:
    """Await the rest of `coroutine`, running each of its steps in `context`."""
    step: Callable[[Any], Any]
    while True:
        try:
            answer = yield waits_for
            step = coroutine.send
        except GeneratorExit:  # it is we who are being closed
            context.run(coroutine.close)
            raise
        except BaseException as error:
            step, answer = coroutine.throw, error
        try:
            waits_for = context.run(step, answer)
        except StopIteration:
            return
        except GeneratorExit as error:
            raise _disguised(error) from error


def _disguised(error: BaseException) -> RuntimeError:
    """What user code raised, as something that does not end our own coroutine like a close."""
    return RuntimeError(f"the executor raised {type(error).__name__}")
