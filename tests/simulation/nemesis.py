"""What goes wrong, decided by a seed, call by call; and the processes it goes wrong for."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from enum import StrEnum
from typing import Any, NamedTuple, TypeVar

from simulation.history import History
from taskloom import UnavailableError

__all__ = ["Fault", "FaultPlan", "Life", "Nemesis"]

T = TypeVar("T")


class Fault(StrEnum):
    """What becomes of one engine call."""

    NONE = "none"
    REFUSED = "refused"
    """Nothing is done, and the caller is told so."""
    LOST = "lost"
    """Done, but reported failed."""
    SLOW = "slow"
    """Done, and the answer takes its time; up to more than a lease."""
    CRASH_BEFORE = "crash-before"
    CRASH_AFTER = "crash-after"


class FaultPlan(NamedTuple):
    """How much goes wrong, and until when."""

    rate: float = 0.0
    kinds: tuple[Fault, ...] = ()
    crashes: int = 0
    """Workers that may die."""
    heals_at: float = 0.0
    jitter: float = 0.0
    """Part of the calls that take a few milliseconds, for ever."""
    slowest: float = 1.0
    """Seconds."""
    aims: dict[tuple[str, int], Fault] = {}
    """What becomes of the nth call of a name, counted over all processes."""


class Life:
    """One process from its start to its death. The dead say nothing and reach nothing."""

    def __init__(self, name: str, history: History) -> None:
        self.name = name
        self.dead = False
        self.crashed = asyncio.Event()
        self.stop = asyncio.Event()
        self.main: asyncio.Task[None] | None = None
        self._history = history

    def note(self, kind: str, task: str = "", **about: Any) -> None:
        """Something this process does or says."""
        if not self.dead:
            self.saw(kind, task, **about)

    def saw(self, kind: str, task: str = "", **about: Any) -> None:
        """Something an engine did for it, even if it died before the answer came."""
        self._history.note(kind, self.name, task, **about)

    def crash(self) -> None:
        """Die here. What still runs is cancelled and finds engines that swallow everything."""
        if self.dead:
            return
        self.note("crash")
        self.dead = True
        self.crashed.set()
        if self.main is not None:
            asyncio.get_running_loop().call_soon(self.main.cancel)

    def ask_to_stop(self) -> None:
        if not self.stop.is_set():
            self.note("stop")
            self.stop.set()


class Nemesis:
    """Decides about each call, in the order they come."""

    def __init__(self, rng: random.Random, plan: FaultPlan) -> None:
        self._rng = rng
        self._plan = plan
        self._crashes = plan.crashes
        self._calls: Counter[str] = Counter()

    async def around(
        self,
        life: Life,
        call: str,
        ids: Sequence[str],
        act: Callable[[], Awaitable[T]],
        nothing: T,
        error: type[UnavailableError],
    ) -> T:
        """Do `act`, or not, or with trouble. `nothing` is what the dead are answered."""
        fault = self._draw(life, call)
        if fault is not Fault.NONE:
            life.note("fault", call=call, fault=fault.value, ids=tuple(ids))
        await self._travel(fault if call == "claim" else Fault.NONE)
        if life.dead:
            return nothing
        if fault is Fault.REFUSED:
            raise error(f"{call} was refused")
        if fault is Fault.CRASH_BEFORE:
            life.crash()
            return nothing
        answer = await act()
        if fault is Fault.LOST:
            raise error(f"the answer to {call} was lost")
        if fault is Fault.CRASH_AFTER:
            life.crash()
            return nothing
        # A claim must not wait between taking and handing over: cancelling it gives back.
        if call != "claim":
            await self._travel(fault)
        return nothing if life.dead else answer

    def _draw(self, life: Life, call: str) -> Fault:
        self._calls[call] += 1
        over = asyncio.get_running_loop().time() >= self._plan.heals_at
        if life.dead or over:
            return Fault.NONE
        fault = self._plan.aims.get((call, self._calls[call]), Fault.NONE)
        if fault is Fault.NONE and self._rng.random() < self._plan.rate:
            fault = self._rng.choice(self._plan.kinds)
        if fault in (Fault.CRASH_BEFORE, Fault.CRASH_AFTER):
            if self._crashes == 0 or life.main is None:
                return Fault.NONE
            self._crashes -= 1
        return fault

    async def _travel(self, fault: Fault) -> None:
        if fault is Fault.SLOW:
            await asyncio.sleep(self._rng.uniform(0.05, self._plan.slowest))
        elif self._plan.jitter and self._rng.random() < self._plan.jitter:
            await asyncio.sleep(self._rng.choice((0, 0, 0.001, 0.02)))
