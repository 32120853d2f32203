"""Executors that do what the payload says, and note that they did."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from itertools import count
from typing import Any

from simulation.flow_plans import JOINS, QUEUE, options_of, steps_of, tasks_of_flow
from simulation.nemesis import Life
from taskloom import (
    Clock,
    MultiTaskExecutor,
    ParallelTaskExecutor,
    SingleTaskExecutor,
    Task,
    TaskQueuesManager,
)
from taskloom.interfaces import MessageQueue

__all__ = ["Script", "build_task"]

Add = Callable[[list[Task[Any]]], Awaitable[Any]]
Start = Callable[..., Awaitable[str]]


class Script:
    """The user code of one process. Runs are numbered over all processes by `numbers`."""

    def __init__(self, life: Life, clock: Clock, numbers: count[int]) -> None:
        self._life = life
        self._clock = clock
        self._numbers = numbers
        self.add: Add | None = None
        """`handler.add_tasks`, noted; set when the handler is there."""
        self.start_flow: Start | None = None
        """`handler.start_flow`."""

    def register(self, queue: MessageQueue) -> TaskQueuesManager:
        queues = TaskQueuesManager(queue)
        for type, executor in (
            ("work", ParallelTaskExecutor(self.one, store_on_failure=True, chunk_size=2)),
            ("brief", ParallelTaskExecutor(self.one, store_on_failure=False, chunk_size=2)),
            ("single", SingleTaskExecutor(self.one, store_on_failure=True)),
            ("batch", MultiTaskExecutor(self.many, store_on_failure=True, max_batch=3)),
            (
                "step",
                ParallelTaskExecutor(
                    self.one, store_on_failure=True, default_retries=1, chunk_size=3
                ),
            ),
            *((type, SingleTaskExecutor(self.one, **_OF_JOINS)) for type in JOINS),
        ):
            queues.register(QUEUE, type, executor)
        return queues

    async def one(self, task: Task[Any], actions: Any) -> None:
        run = self._start(task)
        try:
            await self._prepare(task)
            self._speak(task, actions, run)
        except BaseException as error:
            word = "raise" if isinstance(error, Exception) else "cut"
            self._life.note("end", task.id, run=run, word=word, children=())
            raise

    async def many(self, tasks: list[Task[Any]], actions: Any) -> None:
        runs = {task.id: self._start(task) for task in tasks}
        try:
            for task in tasks:
                await self._prepare(task)
            for task in tasks:
                self._speak(task, actions, runs[task.id])
                del runs[task.id]
        except BaseException as error:
            word = "raise" if isinstance(error, Exception) else "cut"
            for id, run in runs.items():
                self._life.note("end", id, run=run, word=word, children=())
            raise

    def _start(self, task: Task[Any]) -> int:
        run = next(self._numbers)
        self._life.note(
            "start",
            task.id,
            run=run,
            attempt=task.retry_count,
            due=task.execute_at,
            expires=task.expires_at,
            now=self._clock.now(),
        )
        return run

    async def _prepare(self, task: Task[Any]) -> None:
        payload = _wishes(task)
        if payload.get("kills"):
            self._life.crash()
        if nap := payload.get("nap"):
            await self._clock.sleep(nap)
        if inner := self._children(task, "inner"):
            assert self.add is not None
            await self.add(inner)
        if plan := payload.get("inner_flow"):
            assert self.start_flow is not None
            await self.start_flow(steps_of(plan), **options_of(plan))

    def _speak(self, task: Task[Any], actions: Any, run: int) -> None:
        """Say the word that the payload asks for at this attempt, and add the children."""
        word = _word(task)
        children = [] if word == "silent" else self._children(task, "children")
        if children:
            actions.add_tasks(children, parent=task)
        ids = [child.id for child in children]
        if (plan := _wishes(task).get("flow")) and word != "silent":
            flow_id = actions.start_flow(steps_of(plan), parent=task, **options_of(plan))
            ids += tasks_of_flow(flow_id, len(plan["steps"]), timed=plan.get("timeout") is not None)
        if word == "success":
            actions.success(task, {"run": run})
        elif word == "fail":
            actions.fail(task, "as the payload says", {"run": run})
        elif word == "again":
            self._again(task, actions)
        elif word == "raise":
            raise _WantedError("as the payload says")
        self._life.note("end", task.id, run=run, word=word, children=tuple(ids))

    def _children(self, task: Task[Any], name: str) -> list[Task[Any]]:
        specs = _wishes(task).get(name, ())
        if task.type == "batch":
            # In a batch only `parent=` gives derived ids, and later than they are noted here.
            origin = f"{task.id}/{task.retry_count}/{task.payload.get('turns')}/{name}"
            specs = [{**spec, "id": f"{origin}{n}"} for n, spec in enumerate(specs)]
        return [build_task(spec, self._clock.now()) for spec in specs]

    def _again(self, task: Task[Any], actions: Any) -> None:
        payload = {**task.payload, "turns": task.payload["turns"] - 1}
        later = self._clock.now() + timedelta(seconds=0.5)
        actions.add_tasks([task.replace(payload=payload, execute_at=later)])


_OF_JOINS: dict[str, Any] = {"store_on_failure": True, "default_retries": 2}


def _wishes(task: Task[Any]) -> dict[str, Any]:
    """What the runs of a task are to do."""
    wishes: dict[str, Any] = JOINS.get(task.type, task.payload)
    return wishes


def _word(task: Task[Any]) -> str:
    """How this attempt is to end; a batch as a whole does not raise for one of its tasks."""
    payload = _wishes(task)
    if task.retry_count < payload.get("fails", 0):
        how: str = payload["how"]
        return "fail" if how == "raise" and task.type == "batch" else how
    return "again" if payload.get("turns") else "success"


class _WantedError(Exception):
    """An executor's own."""


def build_task(fields: dict[str, Any], now: datetime) -> Task[Any]:
    """A task of a spec; `delay` and `expires_in` count from `now`."""
    given: dict[str, Any] = {"created_at": now, "updated_at": now, **fields}
    given["execute_at"] = now + timedelta(seconds=given.pop("delay", 0.0))
    if (expires_in := given.pop("expires_in", None)) is not None:
        given["expires_at"] = now + timedelta(seconds=expires_in)
    return Task(queue_id=QUEUE, **given)
