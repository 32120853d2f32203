"""What tests of the projector share: tasks, how they ended, a provider that can be held up."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from taskloom import EntityRef, SingleTaskExecutor, Task
from taskloom.config import TaskHandlerConfig
from taskloom.failures import failure_of
from taskloom.interfaces import EntityProjections
from taskloom.outcomes import Delivery, Outcome, Word
from taskloom.projections import EntityTaskProjection, build_projection
from taskloom.projector import Projector
from taskloom.settlement import Circumstances, Verdict, decide
from taskloom.testing import ManualClock

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
BEFORE = NOW - timedelta(hours=1)
USER = EntityRef("u_1", "user")
ORDER = EntityRef("o_1", "order")

KEEPING = SingleTaskExecutor(lambda t, a: None, store_on_failure=True)
FORGETTING = SingleTaskExecutor(lambda t, a: None, store_on_failure=False)

HORIZON = timedelta(seconds=120)
ONE = Circumstances(now=NOW, integrated=True, can_delay=True, horizon=HORIZON)
TWO = Circumstances(now=NOW, integrated=False, can_delay=True, horizon=HORIZON)


class Provider(EntityProjections):
    """Notes each call; waits for `gate` in it; raises `error`."""

    def __init__(self) -> None:
        self.calls: list[list[EntityTaskProjection]] = []
        self.entered = asyncio.Semaphore(0)
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: BaseException | None = None
        self.cancelled = 0
        self.deaf = False
        """Whether it goes on when it is cancelled."""

    async def upsert_projections(self, entries: Sequence[EntityTaskProjection]) -> None:
        self.calls.append(list(entries))
        self.entered.release()
        while not self.gate.is_set():
            try:
                await self.gate.wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                if not self.deaf:
                    raise
        if self.error is not None:
            raise self.error

    @property
    def ids(self) -> list[list[str]]:
        return [[row.task_id for row in call] for call in self.calls]


def make(provider: EntityProjections | None, *, payload: bool = False) -> Projector:
    config = TaskHandlerConfig(projection_include_payload=payload)
    return Projector(provider, config, ManualClock(NOW))


def task(number: int = 1, **fields: Any) -> Task[Any]:
    defaults: dict[str, Any] = {"created_at": BEFORE, "updated_at": BEFORE, "entity": USER}
    return Task(type="t", queue_id="q", payload=[number], id=f"t{number}", **(defaults | fields))


def verdict(
    word: Word,
    around: Circumstances = ONE,
    *,
    executor: SingleTaskExecutor | None = FORGETTING,
    of: Task[Any] | None = None,
    **fields: Any,
) -> Verdict:
    if word is Word.FAILURE:
        fields.setdefault("failure", failure_of("no"))
    if word is Word.RESCHEDULED:
        fields.setdefault("next", task(execute_at=NOW + timedelta(hours=1)))
    outcome = Outcome(Delivery(of or task(), None), word, **fields)
    return decide(outcome, lambda _: executor, around)


def row(number: int = 1) -> EntityTaskProjection:
    made = build_projection(task(number), "scheduled")
    assert made is not None
    return made
