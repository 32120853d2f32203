"""One worker in this process, from its start to its end."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

from taskloom.app import Loom
from taskloom.cli.stopping import Stops

__all__ = ["Moment", "lost_parent", "serve"]

Moment: TypeAlias = Literal["ready", "stopping"]

_PARENT_INTERVAL = 0.5


def serve(
    loom: Loom,
    queues: Sequence[str],
    stops: Stops,
    say: Callable[[Moment], None],
    *,
    parent: int | None = None,
) -> None:
    """Run tasks of `queues` until `stops`, or until the process `parent` is gone.

    `say` is called with "ready" when the Loom is open, and with "stopping" when told so.
    Returns when everything is settled or given back, with the process about to end, whatever hangs
    in it.
    """
    asyncio.run(_serve(loom, queues, stops, say, parent))


async def _serve(
    loom: Loom,
    queues: Sequence[str],
    stops: Stops,
    say: Callable[[Moment], None],
    parent: int | None,
) -> None:
    stops.attach()
    watching = asyncio.create_task(lost_parent(parent, stops.asked))
    code = 1
    try:
        async with loom:
            if not stops.asked.is_set():
                say("ready")
                await _work(loom, queues, stops, say)
        code = 0
    finally:
        # Before the loop is torn down: that waits for what ignores its cancellation.
        stops.over(code)
        watching.cancel()


async def _work(
    loom: Loom, queues: Sequence[str], stops: Stops, say: Callable[[Moment], None]
) -> None:
    """Run tasks until the first signal has done its work, or the second one cuts it short."""
    working = asyncio.create_task(loom.run_worker(queues, stops.asked))
    insisting = asyncio.create_task(_insisted(stops, say))
    await asyncio.wait([working, insisting], return_when=asyncio.FIRST_COMPLETED)
    insisting.cancel()
    if not working.done():
        working.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await working
        return
    working.result()


async def _insisted(stops: Stops, say: Callable[[Moment], None]) -> None:
    await stops.asked.wait()
    say("stopping")
    await stops.insisted.wait()


async def lost_parent(parent: int | None, stop: asyncio.Event) -> None:
    """Set `stop` when `parent` is gone: a worker whose supervisor was killed stops by itself."""
    if parent is None:
        return
    while os.getppid() == parent:  # noqa: ASYNC110 (nothing tells us; we have to look)
        await asyncio.sleep(_PARENT_INTERVAL)
    stop.set()
