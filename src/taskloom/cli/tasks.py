"""`taskloom tasks`: find tasks, look at one, run ended ones again, cancel waiting ones."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import typer
from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from taskloom.cli.database import AppOption, Desk, JsonOption, UrlOption, opened
from taskloom.cli.errors import UserError
from taskloom.cli.json_out import print_json, task_summary, whole_task
from taskloom.cli.task_page import show_task
from taskloom.cli.words import (
    age,
    as_status,
    count,
    errors_to,
    one_line_of,
    print_line,
    prints_to,
    program,
    reason_of,
)
from taskloom.task import Task, TaskStatus

__all__ = ["app"]

app = typer.Typer(
    help="Find tasks, look at one, run ended ones again, cancel waiting ones.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

StatusOption = Annotated[
    TaskStatus | None, typer.Option("--status", help="Only these.", show_default=False)
]
QueueOption = Annotated[
    str | None, typer.Option("--queue", help="Only of this queue.", show_default=False)
]
TypeOption = Annotated[
    str | None, typer.Option("--type", help="Only of this type.", show_default=False)
]
Ids = Annotated[list[str], typer.Argument(metavar="ID", help="Ids of tasks.")]

_PAGE = 500


@app.command("list")
def list_(
    status: StatusOption = None,
    queue: QueueOption = None,
    type: TypeOption = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most so many.")] = 50,
    after: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Go on after this task.", show_default=False),
    ] = None,
    url: UrlOption = None,
    app: AppOption = None,
    json: JsonOption = False,
) -> None:
    """Show tasks, the newest first."""

    async def find() -> list[Task[Any]]:
        async with opened(url, app) as desk:
            return await desk.archive.search(
                status=status, queue_id=queue, type=type, limit=limit, after=after
            )

    found = asyncio.run(find())
    if json:
        print_json([task_summary(task) for task in found])
    elif not found:
        print_line(prints_to(), "No such tasks.")
    else:
        prints_to().print(_table(found))
        if len(found) == limit:
            print_line(prints_to(), (f"For more add: --after {one_line_of(found[-1].id)}", "dim"))


@app.command()
def show(
    id: Annotated[str, typer.Argument(metavar="ID", help="The id of a task.")],
    url: UrlOption = None,
    app: AppOption = None,
    json: JsonOption = False,
) -> None:
    """Show everything about one task, its payload and result included."""

    async def find() -> Task[Any]:
        async with opened(url, app) as desk:
            return (await _known(desk, [id]))[0]

    task = asyncio.run(find())
    if json:
        print_json(whole_task(task))
    else:
        show_task(task, prints_to())


@app.command()
def retry(
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="ID", help="Ids of tasks that ended.")
    ] = None,
    status: StatusOption = None,
    queue: QueueOption = None,
    type: TypeOption = None,
    url: UrlOption = None,
    app: AppOption = None,
) -> None:
    """Run ended tasks again, now, with all their retries: by id, or all of a status."""
    if bool(ids) == (status is not None):
        raise typer.BadParameter("give ids, or --status (with --queue and --type if you like)")
    if status is not None and not status.terminal:
        raise typer.BadParameter(f"tasks that are {status} have not ended", param_hint="--status")
    if ids and (queue or type):
        raise typer.BadParameter("--queue and --type go with --status, not with ids")

    async def again() -> None:
        async with opened(url, app) as desk:
            wanted = ids or await _all(desk, status, queue, type)
            if ids:
                await _known(desk, ids)
            done: list[str] = []
            for start in range(0, len(wanted), _PAGE):
                done += await desk.loom.retry_tasks(wanted[start : start + _PAGE])
            await _report(desk, "will run again", wanted, done, "has not ended")

    asyncio.run(again())


@app.command()
def cancel(
    ids: Ids,
    reason: Annotated[
        str, typer.Option(help="Kept with the task.")
    ] = "cancelled on the command line",
    url: UrlOption = None,
    app: AppOption = None,
) -> None:
    """Cancel tasks that wait. One that runs, or has ended, is left alone."""

    async def stop() -> None:
        async with opened(url, app) as desk:
            await _known(desk, ids)
            done = await desk.loom.cancel_tasks(ids, reason=reason)
            await _report(desk, "cancelled", ids, done, "does not wait")

    asyncio.run(stop())


async def _known(desk: Desk, ids: Sequence[str]) -> list[Task[Any]]:
    """The tasks; `UserError` if one of them is unknown, before anything is changed."""
    tasks = await desk.loom.get_tasks(ids)
    known = {task.id for task in tasks}
    for id in ids:
        if id not in known:
            raise UserError(
                f"{desk.place} holds no task with the id {id}.",
                f"Ids are in: {program()} tasks list",
            )
    return tasks


async def _all(
    desk: Desk, status: TaskStatus | None, queue: str | None, type: str | None
) -> list[str]:
    """The ids of all that fit, oldest first: they run again in the order they came."""
    ids: list[str] = []
    while True:
        page = await desk.archive.search(
            status=status,
            queue_id=queue,
            type=type,
            limit=_PAGE,
            after=ids[-1] if ids else None,
        )
        ids += [task.id for task in page]
        if len(page) < _PAGE:
            return ids[::-1]


async def _report(
    desk: Desk, done_word: str, wanted: Sequence[str], done: Sequence[str], why_not: str
) -> None:
    """Say how many were done, and of the others why not, with exit code 1."""
    print_line(prints_to(), f"{count(len(done), 'task')} {done_word}.")
    left = [id for id in dict.fromkeys(wanted) if id not in set(done)]
    if not left:
        return
    _say_left(await desk.loom.get_tasks(left[:_PAGE]), why_not, errors_to())
    raise typer.Exit(1)


def _say_left(tasks: Sequence[Task[Any]], why_not: str, console: Console) -> None:
    for task in tasks:
        said = f"Left alone: {one_line_of(task.id)} {why_not}, it is {task.status.value}."
        print_line(console, (said, "yellow"))


def _table(tasks: Sequence[Task[Any]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    rows = [_row(task) for task in tasks]
    for place, name in enumerate(("id", "status", "queue", "type", "age", "retries")):
        # Only the error gives way on a narrow terminal: ids are there to be copied.
        widest = max(cell_len(row[place].plain) for row in rows)
        side: Literal["left", "right"] = "right" if name in ("age", "retries") else "left"
        width = max(len(name), widest if name == "id" else min(widest, 24))
        table.add_column(name, no_wrap=True, min_width=width, max_width=width, justify=side)
    table.add_column("error", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


def _row(task: Task[Any]) -> list[Text]:
    return [
        Text(one_line_of(task.id, 600)),
        as_status(task.status),
        Text(one_line_of(task.queue_id)),
        Text(one_line_of(task.type)),
        Text(age(task.created_at)),
        Text(str(task.retry_count) if task.retry_count else ""),
        Text(reason_of(task), "red"),
    ]
