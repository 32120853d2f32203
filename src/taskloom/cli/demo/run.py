"""One run of the demo: add what is missing, let workers work, show what came of it."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console

from taskloom.app import Loom
from taskloom.cli.demo.places import DATABASE_VARIABLE, FILES, ROWS, Places
from taskloom.cli.demo.scan import file_tasks, find_files, make_samples
from taskloom.cli.demo.summary import show_summary
from taskloom.cli.demo.watching import Tally, read_tally, watch
from taskloom.cli.errors import UserError
from taskloom.cli.stopping import Stops
from taskloom.cli.supervisor import Supervisor, worker_command
from taskloom.cli.words import count, print_line
from taskloom.interfaces import TaskArchive
from taskloom.task import Task

__all__ = ["Demo"]

_CHUNK = 1_000
_INTERRUPTED = 130


class Demo:
    """Indexes `folder` into `places` with worker processes; prints to `console`."""

    def __init__(
        self, folder: Path, places: Places, workers: int, console: Console, *, samples: bool
    ) -> None:
        self._folder = folder
        self._places = places
        self._workers_wanted = workers
        self._console = console
        self._samples = samples
        self._loom = Loom(places.url)

    async def run(self, stops: Stops, *, fresh: bool) -> int:
        """The exit code: 0 when all was done, 130 when it was interrupted."""
        if self._places.database.exists():
            await self._refuse_foreign(fresh=fresh)
        if fresh:
            self._forget()
        async with self._loom:
            tasks = await self._add()
            archive = self._loom.handler.storage
            assert isinstance(archive, TaskArchive), "SQL keeps what it did"
            before = await read_tally(archive)
            if before.done:
                done = f"{before.done:,} of {before.files:,} files were done before."
                print_line(self._console, done)
            started = time.monotonic()
            tally = before if before.complete else await self._work(archive, stops)
            if stops.asked.is_set():
                return self._say_interrupted(tally)
            kept = await self._kept(tasks)
            seconds = time.monotonic() - started
            done_now = tally.done - before.done
            show_summary(kept, self._places, seconds, done_now, self._console)
            return 0

    async def _refuse_foreign(self, *, fresh: bool) -> None:
        """`UserError` for a database of someone else, of another folder, or in use."""
        async with self._loom:
            archive = self._loom.handler.storage
            assert isinstance(archive, TaskArchive), "SQL keeps what it did"
            others = {queue for queue, _ in await archive.counts()} - {FILES, ROWS}
            if others:
                raise UserError(
                    f"{self._places.database} holds tasks that are not the demo's.",
                    "Name another file with --database.",
                )
            if fresh and await archive.workers():
                raise UserError(
                    "workers of an earlier demo are still alive.",
                    "Stop them, or try again in 15 s if they were killed.",
                )
            known = await archive.search(type="index_file", limit=1)
        if known and not fresh and known[0].payload["folder"] != str(self._folder):
            raise UserError(
                f"{self._places.database} holds the index of {known[0].payload['folder']}.",
                "Add --fresh to start over, or name another file with --database.",
            )

    def _forget(self) -> None:
        for file in self._places.leftovers():
            file.unlink()
        shutil.rmtree(self._places.samples, ignore_errors=True)

    async def _add(self) -> list[Task[Any]]:
        paths = await asyncio.to_thread(find_files, self._folder, self._places)
        if self._samples:
            paths += make_samples(self._places)
        tasks = file_tasks(self._folder, paths)
        if not tasks:
            raise UserError(f"{self._folder} holds no files.", "Name another folder.")
        for start in range(0, len(tasks), _CHUNK):
            await self._loom.add_tasks(tasks[start : start + _CHUNK])
        where = f"{count(len(tasks), 'file')} in {self._folder}, one task each"
        print_line(self._console, f"{where}, {count(self._workers_wanted, 'worker')}.")
        return tasks

    async def _work(self, archive: TaskArchive, stops: Stops) -> Tally:
        """Until all is done, or a signal; the workers have ended then."""
        with self._places.log.open("w") as log:
            done, halt = asyncio.Event(), asyncio.Event()
            working = asyncio.create_task(self._workers(log).run(done, stops.insisted))
            waits = [
                asyncio.create_task(_then(halt, asyncio.shield(working))),
                asyncio.create_task(_then(halt, stops.asked.wait())),
            ]
            try:
                tally = await watch(archive, halt, self._console)
            finally:
                for wait in waits:
                    wait.cancel()
                if stops.asked.is_set():
                    said = "Stopping: what runs is finished. Ctrl-C again: now."
                    print_line(self._console, said)
                done.set()
                code = await working
        if not tally.complete and not stops.asked.is_set():
            raise UserError(
                f"the workers ended with exit code {code}: {self._last_words()}",
                f"What they said is in {self._places.log}",
            )
        return tally

    def _workers(self, log: TextIO) -> Supervisor:
        # The ordinary command; from the environment it learns which database.
        os.environ[DATABASE_VARIABLE] = str(self._places.database.absolute())
        os.environ["PYTHONWARNINGS"] = "ignore::SyntaxWarning"  # of the files they read
        return Supervisor(
            worker_command("taskloom.cli.demo.tasks:loom", ["--log-level", "warning"]),
            self._workers_wanted,
            Console(file=log, width=250),
            output=log.fileno(),
            tries=3,
        )

    def _last_words(self) -> str:
        lines = self._places.log.read_text(errors="replace").splitlines()
        errors = [line for line in lines if line.startswith("Error:")] or lines
        return errors[-1] if errors else "they said nothing"

    def _say_interrupted(self, tally: Tally) -> int:
        said = f"Interrupted: {tally.done:,} of {tally.files:,} files are done. "
        print_line(self._console, said, ("Run it again to go on from there.", "bold"))
        return _INTERRUPTED

    async def _kept(self, tasks: list[Task[Any]]) -> list[Task[Any]]:
        """The tasks of this folder as the storage has them now."""
        kept: list[Task[Any]] = []
        for start in range(0, len(tasks), _CHUNK):
            kept += await self._loom.get_tasks([task.id for task in tasks[start : start + _CHUNK]])
        return kept


async def _then(event: asyncio.Event, wait: Awaitable[Any]) -> None:
    await wait
    event.set()
