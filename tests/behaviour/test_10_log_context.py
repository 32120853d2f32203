"""SPEC 10, FAULTS D13: the log context of what runs, wherever it is asked for."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

import pytest

from harness import (
    PATIENCE,
    QUEUE,
    TYPE,
    Engines,
    Runs,
    make_task,
    multi,
    parallel,
    single,
    until,
)
from taskloom import (
    BatchSummary,
    LogContextFilter,
    Task,
    TaskHandler,
    TaskMetadata,
    log_context,
)

# What is looked at here comes to pass in the worker, the same on every engine.
pytestmark = pytest.mark.on("memory", "sqlite")


async def run_batch(handler: TaskHandler, limit: int = 10) -> BatchSummary:
    async with asyncio.timeout(PATIENCE):
        return await handler.process_batch(QUEUE, limit)


def with_context(payload: Any = None, context: dict[str, str] | None = None, **fields: Any) -> Any:
    return make_task(payload, metadata=TaskMetadata(log_context=context or {"k": "v"}), **fields)


class Lines(logging.Handler):
    """Formats what it gets as a text handler with the filter does."""

    def __init__(self) -> None:
        super().__init__()
        self.addFilter(LogContextFilter())
        self.setFormatter(logging.Formatter("%(log_context_text)s %(message)s"))
        self.lines: list[str] = []
        self.fields: list[dict[str, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))
        # The filter adds it; the stubs of logging know no such attribute.
        self.fields.append(record.log_context)  # type: ignore[attr-defined]


@pytest.fixture
def lines() -> Iterator[Lines]:
    handler = Lines()
    loggers = [logging.getLogger("taskloom.task"), logging.getLogger("app")]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
    yield handler
    for logger in loggers:
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)


# 10.1


async def test_10_1_the_tasks_own_context_and_the_librarys_keys_which_win(
    engines: Engines,
) -> None:
    seen: list[dict[str, str]] = []

    async def on_task(task: Task[Any], actions: Any) -> None:
        seen.append(log_context())
        actions.success(task)

    handler = engines.handler({TYPE: single(on_task)})
    [task] = await handler.add_tasks([with_context(context={"user": "u1", "task_id": "mine"})])
    await run_batch(handler)
    assert seen == [
        {
            "user": "u1",
            "task_id": task.id,
            "task_type": TYPE,
            "worker_id": handler.worker_id,
        }
    ]
    assert log_context() == {}


async def test_10_1_in_a_multi_executor_worker_and_batch_size_only(engines: Engines) -> None:
    seen: list[dict[str, str]] = []

    async def on_tasks(tasks: Sequence[Task[Any]], actions: Any) -> None:
        seen.append(log_context())
        for task in tasks:
            assert task.metadata.log_context == {"k": "v"}
            actions.success(task)

    handler = engines.handler({TYPE: multi(on_tasks)})
    await handler.add_tasks([with_context(n) for n in range(3)])
    assert (await run_batch(handler)).succeeded == 3
    assert seen == [{"worker_id": handler.worker_id, "batch_size": "3"}]


async def test_10_1_isolated_between_concurrent_tasks(engines: Engines) -> None:
    seen: dict[int, set[str]] = {}
    all_in = asyncio.Barrier(5)

    async def on_task(task: Task[Any], actions: Any) -> None:
        mine = seen.setdefault(task.payload, set())
        for _ in range(3):
            await all_in.wait()
            mine.add(log_context()["n"])
        actions.success(task)

    handler = engines.handler({TYPE: parallel(on_task, 5)})
    await handler.add_tasks([with_context(n, {"n": str(n)}) for n in range(5)])
    assert (await run_batch(handler)).succeeded == 5
    assert seen == {n: {str(n)} for n in range(5)}


async def test_10_1_isolated_between_tasks_one_after_the_other(engines: Engines) -> None:
    seen: list[dict[str, str]] = []

    async def on_task(task: Task[Any], actions: Any) -> None:
        await asyncio.sleep(0)
        seen.append({k: v for k, v in log_context().items() if k in ("a", "b")})
        actions.success(task)

    handler = engines.handler({TYPE: single(on_task)})
    await handler.add_tasks([with_context(1, {"a": "1"}), with_context(2, {"b": "2"})])
    await run_batch(handler)
    assert seen == [{"a": "1"}, {"b": "2"}]


async def test_10_1_it_follows_await_child_tasks_threads_and_callbacks(engines: Engines) -> None:
    async def ask() -> str | None:
        await asyncio.sleep(0)
        return log_context().get("k")

    async def on_task(task: Task[Any], actions: Any) -> None:
        answers = [await ask()]
        async with asyncio.TaskGroup() as group:
            child = group.create_task(ask())
        answers += [child.result(), *await asyncio.gather(ask(), ask())]
        answers.append((await asyncio.to_thread(log_context)).get("k"))
        called = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(lambda: called.set_result(log_context().get("k")))
        answers += [await called, contextvars.copy_context().run(log_context).get("k")]
        actions.success(task, answers)

    handler = engines.handler({TYPE: single(on_task)})
    [task] = await handler.add_tasks([with_context(force_store=True)])
    assert (await run_batch(handler)).succeeded == 1
    kept = await engines.stored(task)
    assert kept is not None
    assert kept.execution_result == ["v"] * 7


async def test_10_1_it_follows_plain_defs_into_their_threads(engines: Engines) -> None:
    meeting = threading.Barrier(3, timeout=PATIENCE)
    seen: dict[int, str] = {}

    def on_task(task: Task[Any], actions: Any) -> None:
        meeting.wait()
        seen[task.payload] = log_context()["n"]
        actions.success(task)

    handler = engines.handler({TYPE: parallel(on_task, 3)})
    await handler.add_tasks([with_context(n, {"n": str(n)}) for n in range(3)])
    assert (await run_batch(handler)).succeeded == 3
    assert seen == {0: "0", 1: "1", 2: "2"}


async def test_10_1_what_outlives_its_task_keeps_its_context(engines: Engines) -> None:
    go, asked = asyncio.Event(), asyncio.Event()
    seen: list[str] = []
    helpers: set[asyncio.Task[None]] = set()

    async def afterwards() -> None:
        await go.wait()
        seen.append(log_context()["task_id"])
        asked.set()

    async def on_task(task: Task[Any], actions: Any) -> None:
        if task.payload == 1:
            helpers.add(asyncio.create_task(afterwards()))
        actions.success(task)

    handler = engines.handler({TYPE: single(on_task)})
    [first, _] = await handler.add_tasks([make_task(1), make_task(2)])
    assert (await run_batch(handler)).succeeded == 2
    go.set()
    await until(asked)
    assert seen == [first.id]


async def test_10_1_nothing_of_whoever_serves_leaks_into_tasks(engines: Engines) -> None:
    """A handler that is served from inside a task of another one gives its own context."""
    seen: list[dict[str, str]] = []

    async def inner(task: Task[Any], actions: Any) -> None:
        seen.append(log_context())
        actions.success(task)

    below = engines.handler({("inner", TYPE): single(inner)})
    [task] = await below.add_tasks([make_task(queue_id="inner")])

    async def outer(task: Task[Any], actions: Any) -> None:
        await below.process_batch("inner")
        actions.success(task)

    handler = engines.handler({TYPE: single(outer)})
    await handler.add_tasks([with_context()])
    assert (await run_batch(handler)).succeeded == 1
    assert seen[0]["task_id"] == task.id
    assert "k" not in seen[0]


# 10.2


async def test_10_2_children_inherit_and_their_own_keys_win(engines: Engines) -> None:
    async def on_task(task: Task[Any], actions: Any) -> None:
        own = {"a": "child's", "c": "3"}
        actions.add_tasks([make_task(1, type="child"), with_context(2, own, type="child")])
        actions.success(task)

    runs = Runs()
    handler = engines.handler({TYPE: single(on_task), "child": single(runs)})
    await handler.add_tasks([with_context(context={"a": "1", "b": "2"})])
    await handler.drain(PATIENCE)
    contexts = {task.payload: task.metadata.log_context for task in runs}
    assert contexts == {1: {"a": "1", "b": "2"}, 2: {"a": "child's", "b": "2", "c": "3"}}


async def test_10_2_children_added_at_once_inherit_too(engines: Engines) -> None:
    runs = Runs()

    async def on_task(task: Task[Any], actions: Any) -> None:
        await handler.add_tasks([make_task(type="child")])
        actions.success(task)

    handler = engines.handler({TYPE: single(on_task), "child": single(runs)})
    await handler.add_tasks([with_context(context={"a": "1"})])
    await handler.drain(PATIENCE)
    assert [task.metadata.log_context for task in runs] == [{"a": "1"}]


async def test_10_2_in_a_multi_executor_only_of_the_parent_they_name(engines: Engines) -> None:
    async def on_tasks(tasks: Sequence[Task[Any]], actions: Any) -> None:
        actions.add_tasks([make_task("named", type="child")], parent=tasks[0])
        actions.add_tasks([make_task("loose", type="child")])
        for task in tasks:
            actions.success(task)

    runs = Runs()
    handler = engines.handler({TYPE: multi(on_tasks), "child": single(runs)})
    await handler.add_tasks([with_context(context={"a": "1"}), with_context(context={"a": "2"})])
    await handler.drain(PATIENCE)
    assert {task.payload: task.metadata.log_context for task in runs} == {
        "named": {"a": "1"},
        "loose": None,
    }


@pytest.mark.parametrize("how", ["retry", "reschedule"])
async def test_10_2_retries_keep_it(still: Engines, how: str) -> None:
    seen: list[str] = []

    async def on_task(task: Task[Any], actions: Any) -> None:
        seen.append(log_context()["k"])
        if len(seen) > 1:
            actions.success(task)
        elif how == "retry":
            actions.fail(task)
        else:
            later = still.clock.now() + timedelta(seconds=2)
            actions.add_tasks([task.replace(execute_at=later)])

    handler = still.handler({TYPE: single(on_task, default_retries=1)})
    await handler.add_tasks([with_context()])
    await run_batch(handler)
    await still.pass_time(2)
    assert (await run_batch(handler)).succeeded == 1
    assert seen == ["v", "v"]


# 10.3


async def test_10_3_actions_log_carries_it(engines: Engines, lines: Lines) -> None:
    async def on_task(task: Task[Any], actions: Any) -> None:
        actions.log.info("hello %s", "there")
        logging.getLogger("app").info("too")
        actions.success(task)

    handler = engines.handler({TYPE: single(on_task)})
    [task] = await handler.add_tasks([with_context()])
    await run_batch(handler)
    assert [line.rpartition("] ")[2] for line in lines.lines] == ["hello there", "too"]
    assert lines.fields[0] == lines.fields[1]
    assert lines.fields[0]["task_id"] == task.id
    assert "[k:v]" in lines.lines[0]


async def test_10_3_in_a_multi_executor_too(engines: Engines, lines: Lines) -> None:
    async def on_tasks(tasks: Sequence[Task[Any]], actions: Any) -> None:
        actions.log.info("hello")
        actions.success(tasks[0])

    handler = engines.handler({TYPE: multi(on_tasks)})
    await handler.add_tasks([with_context()])
    await run_batch(handler)
    assert lines.fields == [{"worker_id": handler.worker_id, "batch_size": "1"}]


async def test_10_3_control_characters_and_line_breaks_are_escaped(
    engines: Engines, lines: Lines
) -> None:
    async def on_task(task: Task[Any], actions: Any) -> None:
        actions.log.info("one line")
        actions.success(task)

    handler = engines.handler({TYPE: single(on_task)})
    await handler.add_tasks([with_context(context={"a\nb": "x\r\ny\x1b[31m\u2028z"})])
    await run_batch(handler)
    [line] = lines.lines
    assert len(line.splitlines()) == 1
    assert "\x1b" not in line
    assert "x\\r\\ny" in line


async def test_10_3_keys_named_like_the_parts_of_a_record_break_nothing(
    engines: Engines, lines: Lines
) -> None:
    names = ("name", "message", "args", "msg", "exc_info", "levelname", "extra", "self")

    async def on_task(task: Task[Any], actions: Any) -> None:
        actions.log.info("fine")
        actions.log.warning("with %s", "args", extra={"log_context": {"more": "1"}})
        logging.getLogger("app").info("fine too")
        actions.success(task)

    handler = engines.handler({TYPE: single(on_task)})
    await handler.add_tasks([with_context(context=dict.fromkeys(names, "mine"))])
    assert (await run_batch(handler)).succeeded == 1
    assert [line.rpartition("] ")[2] for line in lines.lines] == ["fine", "with args", "fine too"]
    assert all(fields["args"] == "mine" for fields in lines.fields)
