"""One run of the demo: start its flow or go on with it, let workers work, show the report."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, TextIO

from msgspec import convert
from rich.console import Console

from taskloom.app import Loom
from taskloom.cli.demo.places import DATABASE_VARIABLE, QUEUE, Places
from taskloom.cli.demo.report import Report
from taskloom.cli.demo.scan import changed_since, find_files, make_samples
from taskloom.cli.demo.summary import show_summary
from taskloom.cli.demo.tasks import index_file, report_on_folder
from taskloom.cli.demo.watching import Tally, read_tally, watch
from taskloom.cli.errors import UserError
from taskloom.cli.stopping import Stops
from taskloom.cli.supervisor import Supervisor, worker_command
from taskloom.cli.words import count, print_line, program, reason_of
from taskloom.flows import join_id
from taskloom.interfaces import FlowRecord, TaskArchive
from taskloom.task import EntityRef, TaskStatus

__all__ = ["Demo"]

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
        self._entity = EntityRef(str(folder), "folder")
        self._loom = Loom(places.url)

    async def run(self, stops: Stops, *, fresh: bool) -> int:
        """The exit code: 0 when all was done, 130 when it was interrupted."""
        if self._places.database.exists():
            await self._refuse_foreign(fresh=fresh)
        if fresh:
            self._forget()
        async with self._loom:
            flow_id = await self._flow()
            before = await read_tally(self._loom, flow_id)
            if before.done:
                done = f"{before.done:,} of {before.files:,} files were done before."
                print_line(self._console, done)
            started = time.monotonic()
            tally = before if before.complete else await self._work(flow_id, stops)
            if stops.asked.is_set():
                return self._say_interrupted(tally)
            report = await self._report(flow_id)
            seconds, done_now = time.monotonic() - started, tally.done - before.done
            show_summary(report, flow_id, self._places, seconds, done_now, self._console)
            return 0

    async def _refuse_foreign(self, *, fresh: bool) -> None:
        """`UserError` for a database of someone else, of another folder, or in use."""
        async with self._loom:
            archive = self._loom.handler.storage
            assert isinstance(archive, TaskArchive), "SQL keeps what it did"
            if {queue for queue, _ in await archive.counts()} - {QUEUE}:
                raise UserError(
                    f"{self._places.database} holds tasks that are not the demo's.",
                    "Name another file with --database.",
                )
            if fresh and await archive.workers():
                raise UserError(
                    "workers of an earlier demo are still alive.",
                    "Stop them, or try again in 15 s if they were killed.",
                )
            known = await self._last_flow()
        meta = None if known is None else known.flow.join.metadata.flow
        folder = self._entity if meta is None or meta.entity is None else meta.entity
        if folder != self._entity and not fresh:
            raise UserError(
                f"{self._places.database} holds the index of {folder.id}.",
                "Add --fresh to start over, or name another file with --database.",
            )

    def _forget(self) -> None:
        for file in self._places.leftovers():
            file.unlink()
        shutil.rmtree(self._places.samples, ignore_errors=True)

    async def _last_flow(self) -> FlowRecord | None:
        barrier = self._loom.flow_barrier
        assert barrier is not None, "SQL counts flows"
        return next(iter(await barrier.search(limit=1)), None)

    async def _flow(self) -> str:
        """The id of the flow to go on with: the last one, or a new one if that is outdated."""
        paths = await asyncio.to_thread(find_files, self._folder, self._places)
        if self._samples:
            paths += make_samples(self._places)
        if not paths:
            raise UserError(f"{self._folder} holds no files.", "Name another folder.")
        where = f"{count(len(paths), 'file')} in {self._folder}, one step each"
        print_line(self._console, f"{where}, {count(self._workers_wanted, 'worker')}.")
        last = await self._last_flow()
        if last is not None and not await self._outdated(last, paths):
            return last.flow.flow_id
        steps = [index_file.step(str(self._folder), path) for path in paths]
        return await self._loom.start_flow(steps, join=report_on_folder.join(), entity=self._entity)

    async def _outdated(self, last: FlowRecord, paths: list[str]) -> bool:
        """Whether a flow is over, and there are other files now, or files that changed."""
        if not (await read_tally(self._loom, last.flow.flow_id)).complete:
            return False
        same_number = last.flow.total_steps == len(paths)
        return not same_number or changed_since(self._folder, paths, last.started_at)

    async def _work(self, flow_id: str, stops: Stops) -> Tally:
        """Until all is done, or a signal; the workers have ended then."""
        with self._places.log.open("w") as log:
            done, halt = asyncio.Event(), asyncio.Event()
            working = asyncio.create_task(self._workers(log).run(done, stops.insisted))
            waits = [
                asyncio.create_task(_then(halt, asyncio.shield(working))),
                asyncio.create_task(_then(halt, stops.asked.wait())),
            ]
            try:
                await watch(self._loom, flow_id, halt, self._console)
            finally:
                for wait in waits:
                    wait.cancel()
                if stops.asked.is_set():
                    said = "Stopping: what runs is finished. Ctrl-C again: now."
                    print_line(self._console, said)
                done.set()
                code = await working
        tally = await read_tally(self._loom, flow_id)  # what was stopped has finished meanwhile
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

    async def _report(self, flow_id: str) -> Report:
        """What the flow's join returned."""
        [join] = await self._loom.get_tasks([join_id(flow_id)])
        if join.status is not TaskStatus.EXECUTED:
            raise UserError(
                f"the report could not be written: {reason_of(join)}",
                f"Then: {program()} tasks retry {join.id} --url {self._places.url}",
            )
        return convert(join.execution_result, Report)


async def _then(event: asyncio.Event, wait: Awaitable[Any]) -> None:
    await wait
    event.set()
