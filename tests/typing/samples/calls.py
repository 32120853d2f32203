"""What a type checker says about decorated functions. The marked lines it must refuse."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, assert_type

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from taskloom.actions import ExecutorActions
from taskloom.app import Loom
from taskloom.task import EntityRef, Task

loom = Loom("memory://")


@dataclass
class Row:
    id: int


@loom.task
async def send_email(to: str, subject: str = "Hi") -> dict[str, str]:
    return {"to": to, "subject": subject}


@loom.task(queue="images", sequential=True, timeout=timedelta(seconds=5))
def resize(path: str, *, width: int) -> bytes:
    return path.encode() * width


@loom.task("audit.write")
async def audit(task: Task[Any], actions: ExecutorActions, what: str) -> None:
    actions.log.info("%s %s", task.id, what)


@loom.task
async def backwards(actions: ExecutorActions, task: Task[Any], what: str) -> int:
    return len(what)


@loom.task
def with_task(task: Task[Any], count: int) -> int:
    return count


@loom.task(retries=0)
async def with_actions(actions: ExecutorActions, names: list[str]) -> None:
    actions.log.info("%d", len(names))


@loom.task
async def nothing() -> None: ...


@loom.task(batch=100)
async def insert(tasks: list[Task[Row]], actions: ExecutorActions) -> None:
    for task in tasks:
        actions.success(task, task.payload.id)


@loom.task(batch=10, queue="rows")
def insert_plain(tasks: list[Task[int]], actions: ExecutorActions) -> None: ...


async def called(task: Task[Any], actions: ExecutorActions) -> None:
    assert_type(await send_email("a@b.c", "Hi"), dict[str, str])
    assert_type(resize("a.png", width=3), bytes)
    await audit(task, actions, "x")
    assert_type(await backwards(actions, task, "x"), int)
    assert_type(with_task(task, 1), int)
    await send_email(1)  # E: [arg-type]
    await audit("x")  # E: [call-arg] [arg-type]


async def enqueued() -> None:
    assert_type(await send_email.enqueue("a@b.c", "Hi"), Task[Any])
    await send_email.enqueue("a@b.c")
    await send_email.enqueue(to="a@b.c", subject="Hi")
    await resize.enqueue("a.png", width=3)
    await audit.enqueue("x")
    await audit.enqueue(what="x")
    await backwards.enqueue("x")
    await with_task.enqueue(3)
    await with_actions.enqueue(["a"])
    await nothing.enqueue()


async def refused() -> None:
    await send_email.enqueue(1)  # E: [arg-type]
    await send_email.enqueue()  # E: [call-arg]
    await send_email.enqueue("a@b.c", "Hi", "Ho")  # E: [call-arg]
    await send_email.enqueue("a@b.c", body="Hi")  # E: [call-arg]
    await resize.enqueue("a.png", 3)  # E: [call-arg]
    await resize.enqueue("a.png", width="3")  # E: [arg-type]
    await audit.enqueue(1)  # E: [call-overload]
    await backwards.enqueue(1)  # E: [call-overload]
    await with_task.enqueue("3")  # E: [call-overload]
    await with_task.enqueue()  # E: [call-overload]
    await with_actions.enqueue([1])  # E: [list-item]
    await nothing.enqueue(1)  # E: [call-arg]


async def many() -> None:
    assert_type(await send_email.enqueue_many([("a@b.c", "Hi"), {"to": "d@e.f"}]), list[Task[Any]])
    await send_email.enqueue_many(("a@b.c", str(number)) for number in range(3))
    await send_email.enqueue_many([1])  # E: [list-item]


async def with_options() -> None:
    at = datetime.now(UTC)
    await send_email.with_(delay=60, entity=EntityRef("u_1", "user")).enqueue("a@b.c")
    await send_email.with_(at=at, retries=1, log_context={"a": "b"}).enqueue_many([("a@b.c",)])
    await audit.with_(delay=timedelta(minutes=1), force_store=True).enqueue("x")
    await send_email.with_(delay=60).enqueue(1)  # E: [arg-type]
    await audit.with_(delay=60).enqueue()  # E: [call-overload]
    send_email.with_(delay="60")  # E: [arg-type]
    send_email.with_(dely=60)  # E: [call-arg]


async def in_transactions(connection: AsyncConnection, session: AsyncSession) -> None:
    await send_email.with_(connection=connection).enqueue("a@b.c")
    await insert.with_(connection=session, delay=1).enqueue(Row(1))
    await loom.add_tasks([], connection=session)
    await send_email.with_(connection=session).enqueue(1)  # E: [arg-type]
    send_email.with_(connection="sqlite://")  # E: [arg-type]
    await loom.add_tasks([], connection=1)  # E: [arg-type]


async def batches(tasks: list[Task[Row]], actions: ExecutorActions) -> None:
    await insert(tasks, actions)
    await insert.enqueue(Row(1))
    await insert.with_(delay=1).enqueue_many([Row(1), Row(2)])
    insert_plain([], actions)
    await insert_plain.enqueue(3)
    await insert.enqueue(1)  # E: [arg-type]
    await insert.enqueue_many([1])  # E: [list-item]
    await insert_plain.enqueue("3")  # E: [arg-type]


@loom.task(batch=3)  # E: [arg-type]
async def no_batch(to: str) -> None: ...


loom.task(batch=3, sequential=True)  # E: [call-overload]
loom.task(retries="3")  # E: [call-overload]
loom.task("name", quue="x")  # E: [call-overload]

assert_type(send_email.type, str)
assert_type(insert.queue, str)
