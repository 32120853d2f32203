"""What the tasks of the rig do: each notes its start and its end, outside the system under test."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from generator import QUEUE
from recorder import Recorder

from taskloom import (
    EntityRef,
    ExecutorActions,
    FlowJoin,
    FlowStep,
    Loom,
    MultiTaskExecutor,
    ParallelTaskExecutor,
    Task,
    flow_results,
)
from taskloom.executors import AsyncConfig
from taskloom.flows import join_id, step_id
from taskloom.identity import derive_id

__all__ = ["KillsWhenEncoded", "register"]

SLOTS = 8
HANDED_OFF_AFTER = 0.05


class KillsWhenEncoded:
    """A result during whose encoding the process dies."""

    def model_dump(self, mode: str) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)


class Bodies:
    """The functions of one worker process."""

    def __init__(self, loom: Loom, recorder: Recorder, marks: Path) -> None:
        self._loom = loom
        self._recorder = recorder
        self._marks = marks
        self._numbers = itertools.count(1)

    # Around each run

    def start(self, task: Task[Any]) -> str:
        """Note that a run begins; its name."""
        run = f"{self._recorder.pid}.{next(self._numbers)}"
        lock, attempt = task.task_hash or "", task.retry_count
        self._recorder.write("run.start", task=task.id, run=run, attempt=attempt, lock=lock)
        return run

    def end(self, task: Task[Any], run: str, word: str = "ok", **fields: Any) -> None:
        """Note how it ended; before the library hears of it."""
        self._recorder.write("run.end", task=task.id, run=run, word=word, **fields)

    @contextmanager
    def noted(self, task: Task[Any]) -> Iterator[str]:
        """A run that ends as its body does; a good end is noted by the body, with its result."""
        run = self.start(task)
        try:
            yield run
        except asyncio.CancelledError:
            self.end(task, run, "cancelled")
            raise
        except BaseException:
            self.end(task, run, "fail")
            raise

    def first_time(self, task: Task[Any]) -> bool:
        """True once per task, over all processes."""
        try:
            os.close(os.open(self._marks / task.id, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return False
        return True

    # Bodies

    async def plain(self, task: Task[Any], actions: ExecutorActions) -> None:
        """Wait, and succeed."""
        with self.noted(task) as run:
            await asyncio.sleep(task.payload["for"])
            self.end(task, run, result=task.payload["n"])
            actions.success(task, task.payload["n"])

    def threaded(self, task: Task[Any], actions: ExecutorActions) -> None:
        """The same in a thread."""
        with self.noted(task) as run:
            time.sleep(task.payload["for"])
            self.end(task, run, result=task.payload["n"])
            actions.success(task, task.payload["n"])

    async def flaky(self, task: Task[Any], actions: ExecutorActions) -> None:
        """Fail so many attempts."""
        with self.noted(task) as run:
            await asyncio.sleep(task.payload["for"])
            if task.retry_count < task.payload["fails"]:
                raise RuntimeError("as it was told to")
            self.end(task, run, result=task.payload["n"])
            actions.success(task, task.payload["n"])

    async def parent(self, task: Task[Any], actions: ExecutorActions) -> None:
        """Add children that exist exactly if this succeeds."""
        with self.noted(task) as run:
            children = self._children(task, run)
            actions.add_tasks(children)
            await asyncio.sleep(task.payload["for"])
            ids = [child.id for child in children]
            self.end(task, run, result=task.payload["n"], children=ids)
            actions.success(task, task.payload["n"])

    async def eager(self, task: Task[Any], actions: ExecutorActions) -> None:
        """Add children at once, before this has ended."""
        with self.noted(task) as run:
            children = self._children(task, run)
            await self._loom.add_tasks(children)
            await asyncio.sleep(task.payload["for"])
            ids = [child.id for child in children]
            self.end(task, run, result=task.payload["n"], children=ids)
            actions.success(task, task.payload["n"])

    def _children(self, task: Task[Any], run: str) -> list[Task[Any]]:
        children: list[Task[Any]] = [
            Task(
                type="plain",
                queue_id=QUEUE,
                payload={"parent": task.id, "n": n, "for": 0.005},
                retries=0,
            )
            for n in range(task.payload["children"])
        ]
        ids = [child.id for child in children]
        self._recorder.write("spawn", task=task.id, run=run, children=ids)
        return children

    async def flow(self, task: Task[Any], actions: ExecutorActions) -> None:
        """Start a flow; its steps are children of this."""
        with self.noted(task) as run:
            payload = task.payload
            steps = [self._step(task, index) for index in range(payload["steps"])]
            flow_id = actions.start_flow(
                steps,
                join=FlowJoin("join", QUEUE),
                failure_policy=payload["policy"],
                timeout=payload.get("timeout"),
                entity=EntityRef("whole", "thing"),
            )
            ids = [step_id(flow_id, index) for index in range(len(steps))]
            others = [derive_id(flow_id, "timeout"), join_id(flow_id)]
            self._recorder.write("spawn", task=task.id, run=run, children=ids + others)
            await asyncio.sleep(payload["for"] / 4)
            self.end(task, run, result=payload["n"], children=ids)
            actions.success(task, payload["n"])

    def _step(self, task: Task[Any], index: int) -> FlowStep:
        bad = index in task.payload["bad"]
        payload = {"parent": task.id, "bad": bad, "for": task.payload["for"] * (index % 3) / 2}
        return FlowStep("step", QUEUE, payload, EntityRef(f"part_{index}", "thing"))

    async def step(self, task: Task[Any], actions: ExecutorActions) -> None:
        """Succeed with a result that no other run has, or fail."""
        with self.noted(task) as run:
            await asyncio.sleep(task.payload["for"])
            if task.payload["bad"]:
                raise RuntimeError("as it was told to")
            self.end(task, run, result=run)
            actions.success(task, run)

    async def join(self, task: Task[Any], actions: ExecutorActions) -> None:
        """Count what the flow came to."""
        with self.noted(task) as run:
            counted = len(flow_results(task).steps)
            self.end(task, run, result=counted)
            actions.success(task, counted)

    async def batch(self, tasks: list[Task[Any]], actions: ExecutorActions) -> None:
        """Many at a time."""
        runs = [self.start(task) for task in tasks]
        try:
            await asyncio.sleep(max(task.payload["for"] for task in tasks))
        except BaseException:
            for task, run in zip(tasks, runs, strict=True):
                self.end(task, run, "cancelled")
            raise
        for task, run in zip(tasks, runs, strict=True):
            self.end(task, run, result=task.payload["n"])
            actions.success(task, task.payload["n"])

    async def poison(self, task: Task[Any], actions: ExecutorActions) -> None:
        """End the process, in the way the payload says."""
        with self.noted(task):
            await asyncio.sleep(task.payload["for"])
            self._recorder.write("fault", word="own-end", target=self._recorder.pid)
            _END_OF_PROCESS[task.payload.get("way", "kill")]()

    async def dies_once(self, task: Task[Any], actions: ExecutorActions) -> None:
        """End the process after the body's effect, the first time; then succeed."""
        with self.noted(task) as run:
            if self.first_time(task):
                self._recorder.write("fault", word="own-end", target=self._recorder.pid)
                os.kill(os.getpid(), signal.SIGKILL)
            self.end(task, run, result=task.payload["n"])
            actions.success(task, task.payload["n"])

    async def lingers(self, task: Task[Any], actions: ExecutorActions) -> None:
        """Take a minute, the first time; then succeed at once."""
        with self.noted(task) as run:
            if self.first_time(task):
                await asyncio.sleep(60)
            self.end(task, run, result=task.payload["n"])
            actions.success(task, task.payload["n"])

    async def unencodable(self, task: Task[Any], actions: ExecutorActions) -> None:
        """The process dies while the result is encoded, the first time."""
        with self.noted(task) as run:
            first = self.first_time(task)
            self.end(task, run, result=task.payload["n"])
            if first:
                self._recorder.write("fault", word="own-end", target=self._recorder.pid)
            actions.success(task, KillsWhenEncoded() if first else task.payload["n"])

    async def raises(self, task: Task[Any], actions: ExecutorActions) -> None:
        """Raise what user code should not; succeed at the second attempt."""
        run = self.start(task)
        if task.retry_count == 0:
            self.end(task, run, "fail")
            raise _RAISED[task.payload["raise"]]
        self.end(task, run, result=task.payload["n"])
        actions.success(task, task.payload["n"])

    async def stops_itself(self, task: Task[Any], actions: ExecutorActions) -> None:
        """Stop the whole process until someone continues it, the first time; then succeed."""
        with self.noted(task) as run:
            if self.first_time(task):
                await asyncio.sleep(0.2)  # so that the claim's transactions are likely over
                self._recorder.write("fault", word="stop", target=self._recorder.pid)
                os.kill(os.getpid(), signal.SIGSTOP)
            self.end(task, run, result=task.payload["n"])
            actions.success(task, task.payload["n"])

    async def blocks(self, task: Task[Any], actions: ExecutorActions) -> None:
        """Block the event loop, the first time."""
        with self.noted(task) as run:
            if self.first_time(task):
                self._recorder.write("fault", word="block", target=self._recorder.pid)
                time.sleep(task.payload["block"])  # noqa: ASYNC251 (the fault under test)
            self.end(task, run, result=task.payload["n"])
            actions.success(task, task.payload["n"])


def _segfault() -> None:
    signal.signal(signal.SIGSEGV, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGSEGV)


_END_OF_PROCESS: dict[str, Callable[[], None]] = {
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "exit": lambda: os._exit(3),
    "segv": _segfault,
}
_RAISED: dict[str, type[BaseException]] = {
    kind.__name__: kind
    for kind in (
        SystemExit,
        KeyboardInterrupt,
        asyncio.CancelledError,
        RecursionError,
        MemoryError,
    )
}


def register(loom: Loom, recorder: Recorder, marks: Path) -> None:
    """Give `loom` every kind of task."""
    bodies = Bodies(loom, recorder, marks)
    singles: dict[str, Callable[..., Any]] = {
        "plain": bodies.plain,
        "delayed": bodies.plain,
        "expiring": bodies.plain,
        "keyed": bodies.plain,
        "threaded": bodies.threaded,
        "flaky": bodies.flaky,
        "hopeless": bodies.flaky,
        "parent": bodies.parent,
        "eager": bodies.eager,
        "poison": bodies.poison,
        "dies-once": bodies.dies_once,
        "lingers": bodies.lingers,
        "unencodable": bodies.unencodable,
        "raises": bodies.raises,
        "stops-itself": bodies.stops_itself,
        "blocks": bodies.blocks,
        "on-entity": bodies.plain,
        "in-order": bodies.plain,
        "flow": bodies.flow,
        "flow-aborted": bodies.flow,
        "flow-timed": bodies.flow,
        "step": bodies.step,
        "join": bodies.join,
    }
    for kind, body in singles.items():
        executor = ParallelTaskExecutor(body, store_on_failure=True, chunk_size=SLOTS)
        loom.queues.register(QUEUE, kind, executor)
    long = {"handed-off": bodies.plain, "handed-off-lingers": bodies.lingers}
    for kind, body in long.items():
        executor = ParallelTaskExecutor(
            body,
            store_on_failure=True,
            chunk_size=SLOTS,
            async_config=AsyncConfig(HANDED_OFF_AFTER),
        )
        loom.queues.register(QUEUE, kind, executor)
    loom.queues.register(
        QUEUE, "batch", MultiTaskExecutor(bodies.batch, store_on_failure=True, max_batch=SLOTS)
    )
