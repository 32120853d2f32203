"""`taskloom status`: how many tasks there are, how long they wait, and who works on them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from msgspec import Struct
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from taskloom.cli.database import AppOption, Desk, JsonOption, UrlOption, opened
from taskloom.cli.json_out import print_json
from taskloom.cli.words import age, as_status, count, one_line_of, print_line, prints_to, program
from taskloom.interfaces import WorkerRecord
from taskloom.task import TaskStatus

__all__ = ["command"]

_ALWAYS = (
    TaskStatus.SCHEDULED,
    TaskStatus.PROCESSING,
    TaskStatus.EXECUTED,
    TaskStatus.FAILED,
)
_MANY_DEAD = 1_000


class Picture(Struct):
    """What stood in the database at one moment."""

    place: str
    counts: dict[str, dict[TaskStatus, int]]
    """By queue."""
    oldest: dict[str, datetime]
    workers: list[WorkerRecord]
    dead: int
    """Records set aside; `_MANY_DEAD` stands for that many or more."""
    carried: dict[str, int] | None
    """Due tasks, by queue, that a queue beside the storage holds: most are in no other count."""

    @property
    def queues(self) -> list[str]:
        """Those with tasks, in order."""
        return sorted({*self.counts, *(queue for queue, n in (self.carried or {}).items() if n)})


def command(url: UrlOption = None, app: AppOption = None, json: JsonOption = False) -> None:
    """Show the tasks of each queue by status, the oldest one waiting, and the workers alive."""
    picture = asyncio.run(_look(url, app))
    if json:
        print_json(_as_json(picture))
    else:
        _show(picture, prints_to())


async def _look(url: str | None, app: str | None) -> Picture:
    async with opened(url, app) as desk:
        return await _picture(desk)


async def _picture(desk: Desk) -> Picture:
    counts: dict[str, dict[TaskStatus, int]] = {}
    for (queue, status), number in sorted((await desk.archive.counts()).items()):
        counts.setdefault(queue, {})[status] = number
    workers = await desk.archive.workers()
    known = {*counts, *desk.loom.queues.get_queues(), *(q for w in workers for q in w.queues)}
    return Picture(
        desk.place,
        counts,
        await desk.archive.oldest_waiting(),
        workers,
        len(await desk.archive.dead_records(limit=_MANY_DEAD)),
        await _carried(desk, known),
    )


async def _carried(desk: Desk, known: Iterable[str]) -> dict[str, int] | None:
    queue = desk.loom.handler.message_queue
    fed = queue.fed_from(desk.loom.handler.storage)
    if fed is not None and not fed:
        return None
    return {queue_id: await queue.depth(queue_id) for queue_id in (known if fed is None else fed)}


def _as_json(picture: Picture) -> dict[str, Any]:
    queues = {
        queue: {
            "counts": {
                status.value: picture.counts.get(queue, {}).get(status, 0) for status in TaskStatus
            },
            "oldest_waiting_since": picture.oldest.get(queue),
        }
        | ({} if picture.carried is None else {"on_the_queue": picture.carried.get(queue, 0)})
        for queue in picture.queues
    }
    return {
        "database": picture.place,
        "queues": queues,
        "workers": picture.workers,
        "records_set_aside": picture.dead,
    }


def _show(picture: Picture, console: Console) -> None:
    print_line(console, ("Taskloom ", "bold"), (one_line_of(picture.place), "dim"))
    if not picture.queues:
        print_line(console, "There are no tasks yet.")
        if picture.carried == {}:
            print_line(console, "What is on queues is counted with --app MODULE:LOOM.")
    else:
        console.print(_queues(picture))
    _show_workers(picture, console)
    if picture.dead:
        more = " or more" if picture.dead == _MANY_DEAD else ""
        said = f"{count(picture.dead, 'record')}{more} could not be read and were set aside."
        print_line(console, (said, "yellow"))


def _queues(picture: Picture) -> Table:
    there = {status for counts in picture.counts.values() for status in counts}
    statuses = [status for status in TaskStatus if status in _ALWAYS or status in there]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("queue", overflow="fold")
    for status in statuses:
        table.add_column(as_status(status), justify="right", no_wrap=True)
    carried = picture.carried
    if carried is not None:
        table.add_column("on queue", justify="right", no_wrap=True)
    table.add_column("oldest waiting", justify="right", no_wrap=True)
    for queue in picture.queues:
        since = picture.oldest.get(queue)
        numbers = _numbers(picture.counts.get(queue, {}), statuses)
        if carried is not None:
            numbers.append(_number(carried.get(queue, 0)))
        table.add_row(Text(one_line_of(queue)), *numbers, "-" if since is None else age(since))
    if len(picture.queues) > 1:
        sums = {s: sum(c.get(s, 0) for c in picture.counts.values()) for s in statuses}
        numbers = _numbers(sums, statuses)
        if carried is not None:
            numbers.append(_number(sum(carried.values())))
        table.add_section()
        table.add_row("all", *numbers, "", style="bold")
    return table


def _numbers(counts: Mapping[TaskStatus, int], statuses: list[TaskStatus]) -> list[Text]:
    return [
        _number(counts.get(status, 0), "red" if status is TaskStatus.FAILED else "")
        for status in statuses
    ]


def _number(number: int, style: str = "") -> Text:
    return Text(f"{number:,}", style) if number else Text("-", "dim")


def _show_workers(picture: Picture, console: Console) -> None:
    if not picture.workers:
        start = f"Start one with: {program()} worker MODULE:LOOM"
        waiting = picture.oldest or any((picture.carried or {}).values())
        waits = "Tasks are waiting. " if waiting else ""
        print_line(console, ("No worker is alive. ", "yellow" if waits else ""), waits, start)
        return
    print_line(console, f"{count(len(picture.workers), 'worker')} alive:")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("host", "pid", "queues", "running", "processed", "up", "last seen"):
        right = name not in ("host", "queues")
        table.add_column(name, justify="right" if right else "left", overflow="fold")
    now = datetime.now(UTC)
    for worker in picture.workers:
        table.add_row(
            Text(one_line_of(worker.hostname)),
            str(worker.pid),
            Text(one_line_of(", ".join(worker.queues))),
            f"{worker.running:,}",
            f"{worker.processed:,}",
            age(worker.started_at, now),
            f"{age(worker.seen_at, now)} ago",
        )
    console.print(table)
