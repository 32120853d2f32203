"""A decorated function: itself, its `enqueue`, and what a worker makes of its tasks."""

from __future__ import annotations

import inspect
import threading
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from taskloom.actions import ExecutorActions
from taskloom.app import Loom
from taskloom.config import TaskHandlerConfig
from taskloom.errors import InvalidTaskError, RegistrationError
from taskloom.executors import (
    AsyncConfig,
    MultiTaskExecutor,
    ParallelTaskExecutor,
    SingleTaskExecutor,
)
from taskloom.task import EntityRef, Task, TaskStatus
from taskloom.testing.clock import ManualClock

NOW = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)


class CountingLoom(Loom):
    """A Loom that remembers how many tasks each `add_tasks` accepted."""

    def __init__(self) -> None:
        super().__init__("memory://", config=TaskHandlerConfig(clock=ManualClock(NOW)))
        self.added: list[int] = []

    async def add_tasks(
        self, tasks: Iterable[Task[Any]], *, connection: Any = None
    ) -> list[Task[Any]]:
        accepted = await super().add_tasks(tasks)
        self.added.append(len(accepted))
        return accepted


@pytest.fixture
async def loom() -> AsyncIterator[CountingLoom]:
    async with CountingLoom() as loom:
        yield loom


async def run(loom: Loom, task: Task[Any]) -> Task[Any]:
    """Work until nothing is left; the task as it ended."""
    await loom.handler.drain(timeout=5)
    [ended] = await loom.get_tasks([task.id])
    return ended


@dataclass
class Row:
    id: int


# The function itself.


async def test_it_is_still_the_function(loom: Loom) -> None:
    @loom.task
    async def greet(name: str, mark: str = "!") -> str:
        """Says hello."""
        return f"hello {name}{mark}"

    assert await greet("Ada", mark="?") == "hello Ada?"
    assert (greet.__name__, greet.__doc__) == ("greet", "Says hello.")
    assert (greet.type, greet.queue) == ("greet", "default")
    assert list(inspect.signature(greet).parameters) == ["name", "mark"]
    assert await greet.function("Bob") == "hello Bob!"
    assert "greet" in repr(greet)


async def test_names_and_kinds_of_executor(loom: Loom) -> None:
    @loom.task("mail.send", queue="email", concurrency=4, retries=7, timeout=timedelta(seconds=3))
    async def one(to: str) -> None: ...

    @loom.task(sequential=True, store_on_failure=False)
    def two(to: str) -> None: ...

    @loom.task(handoff_after=timedelta(minutes=1))
    async def long() -> None: ...

    @loom.task(batch=50)
    async def three(tasks: list[Task[Row]], actions: ExecutorActions) -> None: ...

    executor = loom.queues.get_executor("email", "mail.send")
    assert isinstance(executor, ParallelTaskExecutor)
    assert (executor.chunk_size, executor.default_retries, executor.time_limit) == (4, 7, 3.0)
    assert (executor.store_on_failure, executor.async_config) == (True, None)
    second = loom.queues.get_executor("default", "two")
    assert isinstance(second, SingleTaskExecutor)
    assert not isinstance(second, ParallelTaskExecutor)
    assert not second.store_on_failure
    patient = loom.queues.get_executor("default", "long")
    assert isinstance(patient, ParallelTaskExecutor)
    assert patient.async_config == AsyncConfig(handoff_timeout=60)
    third = loom.queues.get_executor("default", "three")
    assert isinstance(third, MultiTaskExecutor)
    assert third.max_batch == 50


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"retries": -1}, "retries"),
        ({"retries": True}, "retries"),
        ({"concurrency": 0}, "concurrency"),
        ({"batch": 0}, "batch"),
        ({"batch": 2, "sequential": True}, "batch and sequential"),
        ({"timeout": 0}, "timeout"),
        ({"timeout": -1}, "timeout"),
        ({"handoff_after": -1}, "handoff_after"),
        ({"batch": 2, "handoff_after": 5}, "batch and handoff_after"),
        ({"queue": ""}, "queue"),
        ({"type": ""}, "type"),
        ({"store_on_failure": None}, "store_on_failure"),
        ({"partition_key": "id"}, "partition_key"),
        ({"retry_policy": 3}, "retry_policy"),
    ],
)
def test_an_option_that_makes_no_sense_is_named(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=f"^{named}"):
        Loom("memory://").task(**options)


def test_two_functions_of_one_type_are_both_named() -> None:
    loom = Loom("memory://")

    def make() -> Callable[[], None]:
        def send() -> None: ...

        return send

    first = loom.task(make())
    loom.task("another")(make())
    loom.task(queue="elsewhere")(make())
    with pytest.raises(RegistrationError, match=r"test_two.*send.* and .*test_two.*send"):
        loom.task(make())
    assert loom.queues.get_task_types_for_queue("default") == [first.type, "another"]


# Adding tasks.


async def test_enqueue_returns_a_task_with_a_complete_payload(loom: CountingLoom) -> None:
    @loom.task(queue="email")
    async def send(to: str, subject: str = "Hi") -> None: ...

    task = await send.enqueue("a@b.c")
    assert (task.type, task.queue_id) == ("send", "email")
    assert task.payload == {"to": "a@b.c", "subject": "Hi"}
    assert task.execute_at == task.created_at == NOW


async def test_a_wrong_call_adds_nothing(loom: CountingLoom) -> None:
    @loom.task
    async def send(to: str) -> None: ...

    wrong = cast(Any, send)
    with pytest.raises(TypeError, match=r"^send\.enqueue\(\): argument 'to': expected str, got i"):
        await wrong.enqueue(1)
    with pytest.raises(TypeError, match=r"^send\.enqueue\(\) missing a required argument: 'to'"):
        await wrong.enqueue()
    with pytest.raises(TypeError, match=r"^send\.enqueue_many\(\): item 1: argument 'to'"):
        await wrong.enqueue_many([("a",), (1,)])
    with pytest.raises(TypeError, match=r"^send\.enqueue_many\(\): item 0: a tuple .*not str"):
        await wrong.enqueue_many(["ab"])
    with pytest.raises(InvalidTaskError, match=r"^send\.enqueue_many\(\): item 0: argument 'to'"):
        await wrong.enqueue_many([{"to": float("nan")}])
    assert loom.added == []


async def test_enqueue_many_is_one_call_in_order(loom: CountingLoom) -> None:
    @loom.task
    async def send(to: str, subject: str = "Hi") -> None: ...

    tasks = await send.enqueue_many([("a", "Ho"), {"to": "b"}])
    assert [task.payload["to"] for task in tasks] == ["a", "b"]
    assert await send.enqueue_many([]) == []
    assert len(await send.enqueue_many((str(number),) for number in range(100))) == 100
    assert loom.added == [2, 100]


# Options of one call.


async def test_options_become_fields_of_the_task(loom: CountingLoom) -> None:
    @loom.task
    async def send(to: str) -> None: ...

    entity = EntityRef("u_1", "user")
    later = send.with_(
        delay=timedelta(minutes=1),
        expires_in=90,
        entity=entity,
        log_context={"request": "r1"},
        partition_key="p",
        task_hash="h",
        force_store=True,
        retries=9,
        retry_after=timedelta(seconds=4),
    )
    for task in [await later.enqueue("a"), *await later.enqueue_many([("b",)])]:
        assert task.execute_at == NOW + timedelta(seconds=60)
        assert task.expires_at == NOW + timedelta(seconds=90)
        assert (task.entity, task.metadata.log_context) == (entity, {"request": "r1"})
        assert (task.partition_key, task.task_hash, task.force_store) == ("p", "h", True)
        assert (task.retries, task.retry_after) == (9, 4.0)


async def test_at_is_a_time_and_delay_counts_from_each_call(loom: CountingLoom) -> None:
    @loom.task
    async def send(to: str) -> None: ...

    at = NOW + timedelta(days=1)
    assert (await send.with_(at=at).enqueue("a")).execute_at == at
    soon = send.with_(delay=10)
    await cast(ManualClock, loom.clock).advance(5)
    assert (await soon.enqueue("a")).execute_at == NOW + timedelta(seconds=15)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"delay": 1, "at": NOW}, "delay and at"),
        ({"at": NOW.replace(tzinfo=None)}, "at: .* has no time zone"),
        ({"delay": -1}, "delay"),
        ({"expires_in": float("nan")}, "expires_in"),
    ],
)
def test_an_option_of_a_call_that_makes_no_sense_is_named(options: Any, named: str) -> None:
    send = Loom("memory://").task(len_of)
    with pytest.raises(ValueError, match=f"^{named}"):
        send.with_(**options)


async def test_options_that_only_the_task_can_check(loom: CountingLoom) -> None:
    send = loom.task(len_of)
    with pytest.raises(TypeError, match="unexpected keyword argument 'dely'"):
        cast(Any, send).with_(dely=3)
    with pytest.raises(ValueError, match=r"^expires_in: .* ends before the task is due"):
        await send.with_(delay=20, expires_in=10).enqueue("a")
    with pytest.raises(InvalidTaskError, match=r"^retries"):
        await send.with_(retries=-1).enqueue("a")
    assert loom.added == []


def len_of(text: str) -> int:
    return len(text)


# Running.


async def test_the_return_value_is_the_result(loom: Loom) -> None:
    @loom.task
    async def double(row: Row) -> dict[str, int]:
        assert isinstance(row, Row)
        return {"twice": row.id * 2}

    @loom.task
    async def silent() -> None: ...

    ended = await run(loom, await double.with_(force_store=True).enqueue(Row(4)))
    assert (ended.status, ended.execution_result) == (TaskStatus.EXECUTED, {"twice": 8})
    ended = await run(loom, await silent.with_(force_store=True).enqueue())
    assert (ended.status, ended.execution_result) == (TaskStatus.EXECUTED, None)


async def test_a_plain_function_runs_in_a_thread() -> None:
    # With the machine's clock: a manual one does not wait for threads.
    loom = Loom("memory://")

    @loom.task
    def where() -> int:
        return threading.get_ident()

    async with loom:
        ended = await run(loom, await where.with_(force_store=True).enqueue())
    assert ended.status is TaskStatus.EXECUTED
    assert ended.execution_result != threading.get_ident()


async def test_an_exception_is_a_failure(loom: Loom) -> None:
    @loom.task(retries=0)
    async def broken() -> None:
        raise RuntimeError("no luck")

    ended = await run(loom, await broken.enqueue())
    assert ended.status is TaskStatus.FAILED
    assert ended.execution_stats["last_error"] == "no luck"


async def test_a_payload_that_does_not_fit_fails_and_names_the_argument(loom: Loom) -> None:
    @loom.task(retries=0)
    async def send(to: str) -> None: ...

    [task] = await loom.add_tasks([Task(type="send", queue_id="default", payload={"to": 1})])
    ended = await run(loom, task)
    assert ended.status is TaskStatus.FAILED
    assert "send: the stored payload does not fit: argument 'to'" in str(ended.execution_stats)


async def test_task_and_actions_are_injected(loom: Loom) -> None:
    @loom.task
    async def who(task: Task[Any], actions: ExecutorActions, name: str) -> list[str]:
        actions.log.info("here")
        return [task.id, name]

    task = await who.with_(force_store=True).enqueue("Ada")
    assert task.payload == {"name": "Ada"}
    assert (await run(loom, task)).execution_result == [task.id, "Ada"]


async def test_a_function_with_actions_may_speak_for_itself(
    loom: Loom, caplog: pytest.LogCaptureFixture
) -> None:
    @loom.task(retries=0)
    async def choosy(task: Task[Any], actions: ExecutorActions) -> str:
        actions.fail(task, "not today")
        return "unheard"

    ended = await run(loom, await choosy.enqueue())
    assert ended.status is TaskStatus.FAILED
    assert ended.execution_stats["last_error"] == "not today"
    assert "the first word counts" not in caplog.text


async def test_a_batch_function_gets_rows(loom: Loom) -> None:
    seen: list[list[Row]] = []

    @loom.task(batch=100, retries=0)
    async def insert(tasks: list[Task[Row]], actions: ExecutorActions) -> None:
        seen.append([task.payload for task in tasks])
        for task in tasks:
            actions.success(task, task.payload.id)

    stored = insert.with_(force_store=True)
    tasks = await stored.enqueue_many(Row(number) for number in range(3))
    bad = Task[Any](type="insert", queue_id="default", payload={"id": "x"}, force_store=True)
    await loom.add_tasks([bad])
    ended = await run(loom, bad)
    assert ended.status is TaskStatus.FAILED
    assert "row.id: expected int, got str" in ended.execution_stats["last_error"]
    assert [row for rows in seen for row in rows] == [Row(0), Row(1), Row(2)]
    results = await loom.get_tasks([task.id for task in tasks])
    assert [task.execution_result for task in results] == [0, 1, 2]
    with pytest.raises(TypeError, match=r"^insert\.enqueue_many\(\): item 0: row"):
        await insert.enqueue_many([cast(Any, "x")])


async def test_the_partition_key_is_filled_when_a_task_is_added(loom: Loom) -> None:
    @loom.task(partition_key=lambda task: f"to-{task.payload['to']}")
    async def send(to: str) -> None: ...

    assert (await send.enqueue("ada")).partition_key == "to-ada"
    assert (await send.with_(partition_key="mine").enqueue("ada")).partition_key == "mine"


async def test_children_of_a_run_get_the_same_ids_when_it_runs_again(loom: Loom) -> None:
    children: list[str] = []

    @loom.task
    async def child(number: int) -> None: ...

    @loom.task(retries=1)
    async def parent() -> None:
        children.append((await child.enqueue(1)).id)

    await run(loom, await parent.with_(force_store=True).enqueue())
    assert len(children) == 1
    assert children[0].split("-")[2].startswith("5")  # derived, not new
