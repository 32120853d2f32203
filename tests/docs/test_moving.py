"""The script that moves tasks: none is lost or doubled wherever it stops, however often it runs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pages import DOCS, blocks_of

from taskloom import FlowJoin, FlowStep, Loom, Task, TaskStatus

IN_A_WEEK = datetime.now(UTC) + timedelta(days=7)


@pytest.fixture
def move() -> Callable[[Loom, Loom], Any]:
    """`move` of the page's script."""
    (script,) = [each for each in blocks_of(DOCS / "engines/moving.md") if each.title == "move.py"]
    names: dict[str, Any] = {"__name__": "move"}
    exec(compile(script.text, "move.py", "exec"), names)
    return names["move"]


@pytest.fixture
async def looms() -> AsyncIterator[tuple[Loom, Loom]]:
    """An old and a new one, open."""
    async with AsyncExitStack() as held:
        yield (
            await held.enter_async_context(Loom("sqlite://")),
            await held.enter_async_context(Loom("sqlite://")),
        )


def waiting(count: int) -> list[Task[Any]]:
    return [
        Task(type="t", queue_id="q", payload=n, execute_at=IN_A_WEEK, retry_count=1)
        for n in range(count)
    ]


async def stored(loom: Loom, status: TaskStatus) -> list[Task[Any]]:
    archive: Any = loom.handler.storage
    found: list[Task[Any]] = await archive.search(status=status, limit=1000)
    return sorted(found, key=lambda task: task.id)


async def test_all_tasks_move_under_their_ids(move: Any, looms: tuple[Loom, Loom]) -> None:
    old, new = looms
    tasks = await old.add_tasks(waiting(250))
    assert await move(old, new) == 250
    moved = await stored(new, TaskStatus.SCHEDULED)
    assert [(t.id, t.payload, t.execute_at, t.retry_count) for t in moved] == [
        (t.id, t.payload, t.execute_at, t.retry_count) for t in tasks
    ]
    assert await stored(old, TaskStatus.SCHEDULED) == []


async def test_a_move_that_was_cut_off_is_completed(
    move: Any, looms: tuple[Loom, Loom], monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = looms
    tasks = await old.add_tasks(waiting(250))
    calls = 0

    async def add(given: list[Task[Any]]) -> list[Task[Any]]:
        nonlocal calls
        calls += 1
        added = await new.handler.add_tasks(given)
        if calls == 2:
            raise ConnectionError("added, and the answer is lost")
        return added

    monkeypatch.setattr(new, "add_tasks", add)
    with pytest.raises(ConnectionError):
        await move(old, new)
    assert await move(old, new) == 150
    assert {t.id for t in await stored(new, TaskStatus.SCHEDULED)} == {t.id for t in tasks}


async def test_moving_again_moves_nothing_even_when_the_new_engine_has_forgotten(
    move: Any, looms: tuple[Loom, Loom]
) -> None:
    old, new = looms
    await old.add_tasks(waiting(3))
    await move(old, new)
    async with Loom("sqlite://") as forgetful:
        assert await move(old, forgetful) == 0
        assert await stored(forgetful, TaskStatus.SCHEDULED) == []


async def test_what_others_cancelled_and_flows_stay(move: Any, looms: tuple[Loom, Loom]) -> None:
    old, new = looms
    (cancelled,) = await old.add_tasks(waiting(1))
    await old.cancel_tasks([cancelled.id], reason="not wanted")
    await old.start_flow([FlowStep("t", "q", 1)], join=FlowJoin("j", "q"), timeout=600)
    assert await move(old, new) == 0
    assert {t.metadata.flow is not None for t in await stored(old, TaskStatus.SCHEDULED)} == {True}
