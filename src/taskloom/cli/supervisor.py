"""Several worker processes: started, told to stop, and started again when they die."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Sequence

from rich.console import Console

from taskloom.cli.stopping import INSIST_LIMIT, Stops
from taskloom.cli.words import print_line

__all__ = ["END_LIMIT", "Supervisor", "start_worker", "worker_command"]

END_LIMIT = INSIST_LIMIT + 0.25
"""Seconds from the second signal to the end of the supervisor: its workers come first."""
_FIRST_DELAY = 0.5
_LONGEST_DELAY = 30.0
_LONG_LIFE = 30.0
"""A worker that lived so many seconds did not die of its start: back-off begins anew."""


def worker_command(target: str, options: Sequence[str]) -> list[str]:
    """The command line of a worker that ends when this process is gone."""
    call = [sys.executable, "-m", "taskloom", "worker", target, *options]
    return [*call, "--parent", str(os.getpid())]


async def start_worker(
    command: Sequence[str], output: int | None = None
) -> asyncio.subprocess.Process:
    """Start it in a session of its own: a Ctrl-C in the terminal reaches it through us only."""
    return await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        start_new_session=True,
    )


class Supervisor:
    """Keeps `count` processes of one command alive until it is told to stop.

    One that dies is replaced after 0.5 s, doubling up to 30 s while they die young. One that ends
    with exit code 0 was told to by someone else, and is not replaced.
    """

    def __init__(self, command: Sequence[str], count: int, console: Console) -> None:
        self._command = command
        self._count = count
        self._console = console
        self._alive: dict[int, asyncio.subprocess.Process] = {}
        self._stopping = asyncio.Event()

    async def run(self, stops: Stops) -> int:
        """Until every process has ended. Returns 0, or 1 when one of the last did not end well."""
        passing_on = asyncio.create_task(self._pass_on(stops))
        try:
            codes = await asyncio.gather(*(self._keep(n + 1) for n in range(self._count)))
        finally:
            passing_on.cancel()
        return int(any(codes))

    async def _keep(self, number: int) -> int:
        delay = _FIRST_DELAY
        while True:
            born = time.monotonic()
            code = await self._live(number)
            if self._stopping.is_set():
                # Told before it could listen: it had nothing in hand.
                return 0 if code == -signal.SIGTERM else code
            if code == 0:
                print_line(self._console, f"Worker {number} was stopped; it is not replaced.")
                return 0
            if time.monotonic() - born > _LONG_LIFE:
                delay = _FIRST_DELAY
            died = f"Worker {number} died ({_cause(code)}); a new one in {delay:g} s."
            print_line(self._console, (died, "yellow"))
            if await self._stopped_within(delay):
                return 0
            delay = min(delay * 2, _LONGEST_DELAY)

    async def _live(self, number: int) -> int:
        """One process, from start to end; its exit code."""
        process = self._alive[number] = await start_worker(self._command)
        if self._stopping.is_set():
            _send(process, signal.SIGTERM)
        print_line(self._console, f"Worker {number} is process {process.pid}.")
        try:
            return await process.wait()
        finally:
            del self._alive[number]

    async def _stopped_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return False
        return True

    async def _pass_on(self, stops: Stops) -> None:
        """Each wish to stop goes to every process once."""
        await stops.asked.wait()
        self._stopping.set()
        if self._alive:
            print_line(self._console, "Stopping: what runs is finished, the rest given back.")
        self._tell_all(signal.SIGTERM)
        await stops.insisted.wait()
        self._tell_all(signal.SIGTERM)
        await asyncio.sleep(INSIST_LIMIT + 0.1)
        self._tell_all(signal.SIGKILL)

    def _tell_all(self, number: signal.Signals) -> None:
        for process in list(self._alive.values()):
            _send(process, number)


def _send(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    if process.returncode is None:
        process.send_signal(number)


def _cause(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
