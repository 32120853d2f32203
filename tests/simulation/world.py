"""One simulation from start to end: engines, workers that die and are replaced, a client."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any
from unittest.mock import patch

from simulation.engines import SimulatedCache, SimulatedQueue, SimulatedStorage
from simulation.executors import Script, build_task
from simulation.flow_engines import SimulatedBarrier, SimulatedProjections, ToldOfFlows
from simulation.flow_plans import options_of, steps_of, tasks_of_flow
from simulation.history import Event, Final, History
from simulation.loop import DeadlockError, EndlessError, VirtualClock, VirtualLoop
from simulation.nemesis import Life, Nemesis
from simulation.stored_queue import RecordedShelves, StoredQueue
from simulation.workload import LEASE, Operation, Scenario
from taskloom import (
    QueueUnavailableError,
    Task,
    TaskHandler,
    TaskHandlerConfig,
    TaskQueuesManager,
    UnavailableError,
)
from taskloom.flows import step_id
from taskloom.interfaces import MessageQueue
from taskloom.memory import (
    InMemoryCache,
    InMemoryFlowBarrier,
    InMemoryProjections,
    InMemoryQueue,
    InMemoryStorage,
)
from taskloom.memory.shelves import Row

__all__ = ["MAX_DELIVERIES", "quiet_logs", "simulate"]

MAX_DELIVERIES = 3
STALE_AFTER = 45.0
_REASON = "no longer wanted"
PATIENCE = 150.0
"""Virtual seconds after the client's last wish until everything must have ended."""


def simulate(scenario: Scenario) -> tuple[list[Event], Final]:
    """Run a scenario; the same one always gives the same history."""
    known = random.getstate()
    random.seed(scenario.seed)  # the library's own jitter
    loop = VirtualLoop()
    world = World(scenario, loop)
    flows = count(1)
    try:
        with patch("taskloom.handler.new_id", lambda: f"flow{next(flows)}"):
            return loop.run_until_complete(world.run())
    except (DeadlockError, EndlessError) as error:
        world.history.note("broken", "loop", error=repr(error))
        return world.history.events, world.final(unfinished=True)
    finally:
        loop.finish()
        random.setstate(known)


class World:
    """The engines, and who uses them."""

    def __init__(self, scenario: Scenario, loop: VirtualLoop) -> None:
        self._scenario = scenario
        self._loop = loop
        self._clock = VirtualClock(loop)
        self.history = History(loop.time)
        rng = random.Random(f"nemesis {scenario.seed}")
        self._nemesis = Nemesis(rng, scenario.faults)
        self._storage = InMemoryStorage(self._clock)
        self._storage._shelves = RecordedShelves(self._row_changed)
        self._queue: MessageQueue = (
            StoredQueue(self._storage, self._clock)
            if scenario.integrated
            else InMemoryQueue(self._clock)
        )
        self._cache = InMemoryCache(self._clock)
        self._barrier = InMemoryFlowBarrier(self._clock)
        self._projections = InMemoryProjections()
        self._steps: list[str] = []
        """Of the flows that the client knows of."""
        self._runs = count(1)
        self._names = count(1)
        self._over = False
        self._lives: list[Life] = []
        loop.set_exception_handler(self._broken)

    def _broken(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception") or context["message"]
        self.history.note("broken", "loop", error=repr(error))

    def _row_changed(self, old: Row | None, new: Row) -> None:
        before = "" if old is None else old.task.status.value
        if before != new.task.status.value:
            poison = "poison" in new.task.execution_stats
            about = {"old": before, "new": new.task.status.value, "poison": poison}
            self.history.note("row", "storage", new.task.id, **about)

    # From start to end

    async def run(self) -> tuple[list[Event], Final]:
        with told_errors(self.history):
            workers = [asyncio.create_task(self._worker()) for _ in range(self._scenario.workers)]
            await self._client()
            unfinished = not await self._quiet()
            self._over = True
            for life in self._lives:
                life.ask_to_stop()
            await asyncio.wait(workers)
            mains = [life.main for life in self._lives if life.main is not None]
            await asyncio.gather(*mains, return_exceptions=True)
            if self._scenario.faults.heals_at:
                # Locks that could not be released end by themselves.
                await asyncio.sleep(LEASE + 0.01)
        return self.history.events, self.final(unfinished=unfinished)

    async def _quiet(self) -> bool:
        """Wait until nothing is to do any more; False if that does not come."""
        end = self._loop.time() + PATIENCE
        while self._waiting():
            if self._loop.time() > end:
                return False
            await asyncio.sleep(0.25)
        return True

    def _waiting(self) -> list[str]:
        rows = self._storage._shelves.rows
        waiting = [id for id, row in rows.items() if not row.task.status.terminal]
        if isinstance(self._queue, InMemoryQueue):
            for channel in self._queue._channels.values():
                waiting += channel.items
        flows = self._barrier._flows
        return waiting + [id for id in flows if flows[id].state != "sent" and self._exists(id)]

    def _exists(self, flow_id: str) -> bool:
        """Whether a flow has tasks: one that was opened by someone who died then has none."""
        return step_id(flow_id, 0) in self._storage._shelves.rows

    def final(self, *, unfinished: bool) -> Final:
        rows = {id: row.task for id, row in self._storage._shelves.rows.items()}
        told = {id: row.status for id, row in self._projections._rows.items()}
        return Final(rows, self._waiting(), self._leftovers(), unfinished, told)

    def _leftovers(self) -> list[str]:
        now = self._clock.monotonic()
        locks = [key for key in self._cache._entries if key.startswith("task_lock_")]
        left = [f"lock {key}" for key in locks if self._cache._entries[key].until > now]
        if isinstance(self._queue, InMemoryQueue):
            left += [f"lease {held}" for c in self._queue._channels.values() for held in c._held]
        running = asyncio.all_tasks(self._loop)
        if len(running) > 1:
            left += sorted(f"task {task.get_coro()!r}".split(" at ")[0] for task in running)
        return left

    # Processes

    def _handler(self, life: Life, script: Script | None) -> TaskHandler:
        storage = SimulatedStorage(
            self._storage, self._nemesis, life, is_queue=self._scenario.integrated
        )
        mine = storage if self._scenario.integrated else None
        queue = SimulatedQueue(self._queue, self._nemesis, life, mine)
        config = TaskHandlerConfig(
            clock=self._clock,
            lease=LEASE,
            storage_horizon=5.0,
            mature_interval=1.0,
            stale_after=STALE_AFTER,
            max_deliveries=MAX_DELIVERIES,
            shutdown_grace_period=1.0,
            **self._for_flows(life),
        )
        queues = TaskQueuesManager(queue) if script is None else script.register(queue)
        cache = SimulatedCache(self._cache, self._nemesis, life)
        return TaskHandler(queue, queues, storage, cache, config=config)

    def _for_flows(self, life: Life) -> dict[str, Any]:
        if not self._scenario.flows:
            return {}
        return {
            "flow_barrier": SimulatedBarrier(self._barrier, self._nemesis, life),
            "entity_projections": SimulatedProjections(self._projections, self._nemesis, life),
            "flow_lifecycle_provider": ToldOfFlows(life),
        }

    async def _worker(self) -> None:
        """A place for a worker: who dies or stops is replaced until all is done."""
        rng = random.Random(f"{self._scenario.seed} {len(self._lives)}")
        stops = list(self._scenario.stops) if not self._lives else []
        while not self._over:
            life = Life(f"worker{next(self._names)}", self.history)
            self._lives.append(life)
            life.main = asyncio.create_task(self._live(life))
            for at in stops:
                self._loop.call_later(at, life.ask_to_stop)
            stops = []
            crashed = asyncio.create_task(life.crashed.wait())
            await asyncio.wait((life.main, crashed), return_when=asyncio.FIRST_COMPLETED)
            crashed.cancel()
            if not self._over:
                await asyncio.sleep(rng.choice((0.0, 0.1, 1.5)))

    async def _live(self, life: Life) -> None:
        script = Script(life, self._clock, self._runs)
        handler = self._handler(life, script)
        script.add = lambda tasks: _add(life, handler, tasks)
        script.start_flow = handler.start_flow
        async with handler:
            await handler.serve(stop=life.stop)

    # The client

    async def _client(self) -> None:
        life = Life("client", self.history)
        async with self._handler(life, None) as handler:
            plan = self._scenario.operations
            await asyncio.gather(*(self._operate(life, handler, each) for each in plan))

    async def _operate(self, life: Life, handler: TaskHandler, operation: Operation) -> None:
        await asyncio.sleep(operation.at)
        ids = [*(fields["id"] for fields in operation.tasks), *self._steps[:2]]
        if operation.what == "add":
            await self._add_patiently(life, handler, operation)
        elif operation.what == "flow":
            await self._start_patiently(life, handler, operation.flow)
        elif operation.what == "cancel":
            await self._cancel_patiently(life, handler, ids)
        else:
            _note_each(life, "revive", ids)
            await _told(life, "revive", handler.retry_tasks(ids))

    async def _cancel_patiently(self, life: Life, handler: TaskHandler, ids: list[str]) -> None:
        """Cancel, again until it is known what was: steps count as failed only then."""
        _note_each(life, "cancel", ids)
        while True:
            if await _told(life, "cancel", handler.cancel_tasks(ids, reason=_REASON)):
                return
            await asyncio.sleep(1.0)

    async def _start_patiently(
        self, life: Life, handler: TaskHandler, plan: dict[str, Any]
    ) -> None:
        """Start a flow; one that may not have been started is left to itself."""
        steps, options = steps_of(plan), options_of(plan)
        for pause in (0.1, 1.0, 4.0, 0.0):
            try:
                flow_id = await handler.start_flow(steps, **options)
            except UnavailableError:
                await asyncio.sleep(pause)
                continue
            ids = tasks_of_flow(flow_id, len(steps), timed=options["timeout"] is not None)
            self._steps += ids[: len(steps)]
            for id in ids:
                life.note("add.ok", id)
            return

    async def _add_patiently(self, life: Life, handler: TaskHandler, operation: Operation) -> None:
        """Add, and again what was not accepted: the same ids, so that it is the same task."""
        tasks = [build_task(fields, self._clock.now()) for fields in operation.tasks]
        for pause in (0.1, 1.0, 4.0, None):
            try:
                await _add(life, handler, tasks)
                return
            except QueueUnavailableError as error:
                accepted = {task.id for task in error.accepted}
                tasks = [task for task in tasks if task.id not in accepted]
            except UnavailableError:
                pass
            if pause is None:
                return
            await asyncio.sleep(pause)


async def _add(life: Life, handler: TaskHandler, tasks: list[Task[Any]]) -> None:
    for task in tasks:
        life.note("add.invoke", task.id, fields=task)
    ids = [task.id for task in tasks]
    try:
        await handler.add_tasks(tasks)
    except QueueUnavailableError as error:
        accepted = {task.id for task in error.accepted}
        for id in ids:
            life.note("add.ok" if id in accepted else "add.unknown", id)
        raise
    except BaseException:
        _note_each(life, "add.unknown", ids)
        raise
    _note_each(life, "add.ok", ids)


async def _told(life: Life, kind: str, call: Any) -> bool:
    """Note for which ids it was done; False when that is unknown."""
    try:
        done = await call
    except UnavailableError:
        return False
    for id in done:
        life.note(kind, id, ok=True)
    return True


def _note_each(life: Life, kind: str, ids: Sequence[str]) -> None:
    for id in ids:
        life.note(kind, id)


class _NoWatchdog:
    """The real one is a thread in real time, which nothing here can block."""

    def start(self) -> None:
        """Nothing to watch."""

    stop = start


class _Errors(logging.Handler):
    """Logged exceptions are faults of the library: engines only raise what it must expect."""

    history: History | None = None

    def emit(self, record: logging.LogRecord) -> None:
        expected = record.name == "taskloom.projector"  # told of what the nemesis does to rows
        if record.exc_info and self.history is not None and not expected:
            error = f"{record.getMessage()}: {record.exc_info[1]!r}"
            self.history.note("broken", record.name, error=error)


_errors = _Errors(logging.ERROR)


@contextmanager
def told_errors(history: History) -> Iterator[None]:
    """What the library logs as an exception goes into `history`."""
    _errors.history = history
    try:
        yield
    finally:
        _errors.history = None


@contextmanager
def quiet_logs() -> Iterator[None]:
    """Around many simulations: warnings about outages cost more than the outages."""
    logger = logging.getLogger("taskloom")
    level, propagate = logger.level, logger.propagate
    logger.addHandler(_errors)
    logger.setLevel(logging.ERROR)
    logger.propagate = False
    try:
        with patch("taskloom.worker.LoopWatchdog", _NoWatchdog):
            yield
    finally:
        logger.removeHandler(_errors)
        logger.setLevel(level)
        logger.propagate = propagate
