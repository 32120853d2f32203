"""Several worker processes: started, told to stop, and started again when they die."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Sequence

from rich.console import Console

from taskloom.cli.stopping import INSIST_LIMIT
from taskloom.cli.words import print_line

__all__ = ["END_LIMIT", "Supervisor", "worker_command"]

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


class Supervisor:
    """Keeps `count` processes of one command alive until it is told to stop.

    One that dies is replaced after 0.5 s, doubling up to 30 s while they die young; after `tries`
    young deaths in a row (None: without end) it is left dead. One that ends with exit code 0 was
    told to by someone else, and is not replaced.

    What happens is printed to `console`; what the processes say goes to `output`, else to ours.
    """

    def __init__(
        self,
        command: Sequence[str],
        count: int,
        console: Console,
        *,
        output: int | None = None,
        tries: int | None = None,
    ) -> None:
        self._command = command
        self._count = count
        self._console = console
        self._output = output
        self._tries = tries
        self._alive: dict[int, asyncio.subprocess.Process] = {}
        self._stopping = asyncio.Event()

    async def run(self, asked: asyncio.Event, insisted: asyncio.Event) -> int:
        """Until every process has ended. Returns 0, or 1 when one of the last did not end well."""
        passing_on = asyncio.create_task(self._pass_on(asked, insisted))
        try:
            codes = await asyncio.gather(*(self._keep(n + 1) for n in range(self._count)))
        finally:
            passing_on.cancel()
        return int(any(codes))

    async def _keep(self, number: int) -> int:
        deaths = 0
        while True:
            born = time.monotonic()
            code = await self._live(number)
            if self._stopping.is_set():
                # Told before it could listen: it had nothing in hand.
                return 0 if code == -signal.SIGTERM else code
            if code == 0:
                self._say(f"Worker {number} was stopped; it is not replaced.")
                return 0
            deaths = 1 if time.monotonic() - born > _LONG_LIFE else deaths + 1
            if deaths == self._tries:
                self._say(f"Worker {number} died ({_cause(code)}), again; it is not replaced.")
                return code
            delay = min(_FIRST_DELAY * 2 ** (deaths - 1), _LONGEST_DELAY)
            self._say(f"Worker {number} died ({_cause(code)}); a new one in {delay:g} s.")
            if await self._stopped_within(delay):
                return 0

    def _say(self, text: str) -> None:
        print_line(self._console, (text, "yellow"))

    async def _live(self, number: int) -> int:
        """One process, from start to end; its exit code."""
        # In a session of its own: a Ctrl-C in the terminal reaches it through us only.
        process = self._alive[number] = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=self._output,
            stderr=self._output,
            start_new_session=True,
        )
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

    async def _pass_on(self, asked: asyncio.Event, insisted: asyncio.Event) -> None:
        """Each wish to stop goes to every process once."""
        await asked.wait()
        self._stopping.set()
        if self._alive:
            print_line(self._console, "Stopping: what runs is finished, the rest given back.")
        self._tell_all(signal.SIGTERM)
        await insisted.wait()
        # Not SIGTERM again: two of one kind that come close together arrive as one.
        self._tell_all(signal.SIGINT)
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
