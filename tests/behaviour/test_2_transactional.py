"""SPEC 2 inside a transaction of the caller's: all of it with the commit, nothing without."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import create_async_engine
from transacting import WAYS, Orders, kind_of, orders_in

from harness import (
    PATIENCE,
    QUEUE,
    TYPE,
    Diary,
    Parts,
    Runs,
    make_task,
    open_engines,
    serving,
    single,
    until,
)
from servers import url_of
from taskloom import (
    ConfigurationError,
    EntityRef,
    EntityTaskProjection,
    FlowResults,
    Loom,
    SystemClock,
    Task,
    TaskHandlerConfig,
    TaskStatus,
    wakeups,
)
from taskloom.interfaces import EntityProjections
from taskloom.memory import ImmediateQueue, InMemoryFlowBarrier, InMemoryQueue, InMemoryStorage
from taskloom.sql import SqlFlowBarrier, SqlProjections, SqlStorage

ORDER = EntityRef("7", "order")


@pytest.fixture(params=WAYS)
async def orders(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Orders]:
    """An application in each way; fewer of them: `parametrize("orders", [...], indirect=True)`."""
    kind = kind_of(request.param)
    async with (
        url_of(kind, request) as url,
        open_engines(kind, SystemClock(), tmp_path, url) as engines,
        orders_in(request.param, engines, url) as opened,
    ):
        yield opened


one_way_each = pytest.mark.parametrize(
    "orders", ["sqlite Connection", "sqlite AsyncSession", "postgresql AsyncSession"], indirect=True
)


def loom_on(orders: Orders, **config: Any) -> Loom:
    parts, storage = orders.engines.parts, orders.engines.storage
    return Loom(
        None,
        queue=parts.queue,
        storage=storage,
        cache=parts.cache,
        flow_barrier=SqlFlowBarrier(storage),
        entity_projections=SqlProjections(storage),
        config=TaskHandlerConfig(**config),
    )


async def test_2_10_a_rollback_takes_the_tasks_with_it(orders: Orders) -> None:
    handler = orders.engines.handler()
    async with orders.transaction() as each:
        await each.order("a book")
        tasks = await handler.add_tasks([make_task(), make_task()], connection=each.connection)
        assert [task.status for task in tasks] == [TaskStatus.SCHEDULED] * 2
        await each.rollback()
    assert await orders.all() == []
    assert await handler.get_tasks([task.id for task in tasks]) == []


async def test_2_10_with_the_commit_they_are_there_and_run(orders: Orders) -> None:
    runs = Runs()
    handler = orders.engines.handler({TYPE: single(runs)})
    async with orders.transaction() as each:
        await each.order("a book")
        given = [make_task(n) for n in range(3)]
        assert await handler.add_tasks(given, connection=each.connection) == given
        assert await handler.get_tasks([task.id for task in given]) == []
        await each.commit()
    await handler.drain(PATIENCE)
    assert (await orders.all(), sorted(runs.payloads)) == (["a book"], [0, 1, 2])


async def test_2_10_one_transaction_after_the_other(orders: Orders) -> None:
    handler = orders.engines.handler()
    async with orders.transaction() as each:
        (gone,) = await handler.add_tasks([make_task()], connection=each.connection)
        await each.rollback()
        (kept,) = await handler.add_tasks([make_task()], connection=each.connection)
        await each.commit()
        (left,) = await handler.add_tasks([make_task()], connection=each.connection)
    states = [await orders.engines.status(task) for task in (gone, kept, left)]
    assert states == [None, TaskStatus.SCHEDULED, None]


async def test_2_10_a_commit_wakes_a_worker(
    orders: Orders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskloom.storage_queue.LOOK_EVERY", 3600.0)
    monkeypatch.setattr(wakeups, "_LOOK_EVERY", 3600.0)
    waits, told = asyncio.Event(), orders.engines.storage.database.wakeups
    expect = told.expect
    monkeypatch.setattr(told, "expect", lambda queue_id: (waits.set(), expect(queue_id))[1])
    claim = asyncio.create_task(orders.engines.queue.claim(QUEUE, 1, lease=60, wait=3600))
    await until(waits)
    handler = orders.engines.handler()
    async with asyncio.timeout(PATIENCE), orders.transaction() as each:
        (task,) = await handler.add_tasks([make_task()], connection=each.connection)
        await each.commit()
        [delivery] = await claim
    assert delivery.task.id == task.id


@pytest.mark.parametrize("orders", ["postgresql AsyncConnection"], indirect=True)
async def test_2_10_a_commit_wakes_workers_of_other_processes(orders: Orders) -> None:
    url = orders.engine.url.render_as_string(hide_password=False)
    handler = orders.engines.handler()
    async with SqlStorage.from_url(url) as elsewhere, asyncio.timeout(PATIENCE):
        await elsewhere.database._connections._listener.listening()
        told = elsewhere.database.wakeups.expect(QUEUE)
        async with orders.transaction() as each:
            # Nobody here listens yet, or tells: it goes with the commit.
            await orders.engines.storage.database._connections._listener.stop()
            await handler.add_tasks([make_task()], connection=each.connection)
            await each.commit()
        assert await told is False


async def test_2_10_an_id_that_is_known_is_left_as_it_is(orders: Orders) -> None:
    handler = orders.engines.handler()
    (known,) = await handler.add_tasks([make_task("before")])
    new = make_task("new")
    again = [new, known.replace(payload="again"), new.replace(payload="twice")]
    async with orders.transaction() as each:
        kept = await handler.add_tasks(again, connection=each.connection)
        assert [task.payload for task in kept] == ["new", "before", "new"]
        kept = await handler.add_tasks(again[:1], connection=each.connection)
        assert [task.payload for task in kept] == ["new"]
        await each.commit()
    assert sum((await orders.engines.storage.counts()).values()) == 2


@one_way_each
async def test_2_10_a_savepoint_that_is_rolled_back_takes_its_tasks(orders: Orders) -> None:
    diary = Diary()
    handler = orders.engines.handler(diary=diary)
    async with orders.transaction() as each:
        (kept,) = await handler.add_tasks([make_task()], connection=each.connection)
        savepoint = await each.savepoint()
        (gone,) = await handler.add_tasks([make_task()], connection=each.connection)
        done = savepoint.rollback()
        if done is not None:
            await done
        await each.commit()
    await diary.told("on_task_scheduled")
    await handler.close()
    assert [event.task_id for event in diary.of("on_task_scheduled")] == [kept.id]
    assert await orders.engines.status(gone) is None


@one_way_each
async def test_2_10_functions_take_a_connection(orders: Orders) -> None:
    loom = loom_on(orders)
    made: list[str] = []

    @loom.task
    async def pack(what: str) -> None:
        made.append(what)

    @loom.task(batch=10)
    async def ship(tasks: list[Task[str]], actions: Any) -> None:
        for task in tasks:
            made.append(task.payload)
            actions.success(task)

    async with loom:
        async with orders.transaction() as each:
            inside = pack.with_(connection=each.connection)
            await inside.enqueue("a")
            await inside.enqueue_many([("b",)])
            await ship.with_(connection=each.connection).enqueue("c")
            await each.commit()
            await inside.enqueue("never")
        with pytest.raises(TypeError, match="only entity"):
            inside.step("d")
        await loom.handler.drain(PATIENCE)
    assert sorted(made) == ["a", "b", "c"]


@one_way_each
async def test_2_10_a_flow_starts_with_the_commit(orders: Orders) -> None:
    loom = loom_on(orders)
    joined: list[FlowResults] = []

    @loom.task
    async def step(number: int) -> int:
        return number

    @loom.task
    async def join(results: FlowResults) -> None:
        joined.append(results)

    async with loom:
        ids = []
        for ends in ("rollback", "commit"):
            async with orders.transaction() as each:
                steps = [step.step(n) for n in range(3)]
                options = {"entity": ORDER, "connection": each.connection}
                ids.append(await loom.start_flow(steps, join=join.join(), **options))
                await getattr(each, ends)()
        await loom.handler.drain(PATIENCE)
        gone, kept = ids
        assert loom.flow_barrier is not None
        assert await loom.flow_barrier.get_flow(gone) is None
        (row,) = await loom.entity_projections.of_entity(ORDER)
    assert [each.result for each in joined[0].steps] == [0, 1, 2]
    assert (len(joined), row.task_id, row.status) == (1, kept, "executed")


async def test_2_10_projections_of_the_database_are_part_of_it(orders: Orders) -> None:
    rows = SqlProjections(orders.engines.storage)
    handler = orders.engines.handler(entity_projections=rows)
    ids = []
    for ends in ("rollback", "commit"):
        async with orders.transaction() as each:
            (task,) = await handler.add_tasks([make_task(entity=ORDER)], connection=each.connection)
            ids.append(task.id)
            await getattr(each, ends)()
    assert [(row.task_id, row.status) for row in await rows.get(ids)] == [(ids[1], "scheduled")]


class OwnRows(EntityProjections):
    """Rows somewhere else."""

    def __init__(self) -> None:
        self.told: asyncio.Queue[str] = asyncio.Queue()

    async def upsert_projections(self, entries: Sequence[EntityTaskProjection]) -> None:
        for entry in entries:
            self.told.put_nowait(entry.task_id)


@one_way_each
async def test_2_10_projections_elsewhere_are_told_after_the_commit(orders: Orders) -> None:
    rows = OwnRows()
    handler = orders.engines.handler(entity_projections=rows)
    async with orders.transaction() as each:
        await handler.add_tasks([make_task(entity=ORDER)], connection=each.connection)
        await each.rollback()
        (task,) = await handler.add_tasks([make_task(entity=ORDER)], connection=each.connection)
        assert rows.told.empty()
        await each.commit()
    async with asyncio.timeout(PATIENCE):
        assert await rows.told.get() == task.id


@one_way_each
async def test_2_10_scheduled_is_told_after_the_commit_and_before_the_start(
    orders: Orders,
) -> None:
    diary = Diary()
    handler = orders.engines.handler({TYPE: single(Runs())}, diary=diary)
    async with serving(handler), orders.transaction() as each:
        await handler.add_tasks([make_task()], connection=each.connection)
        await each.rollback()
        (task,) = await handler.add_tasks([make_task()], connection=each.connection)
        assert diary.of("on_task_scheduled") == []
        await each.commit()
        await diary.told("on_task_completed")
    told = [(name, event.task_id) for name, event in diary.entries if name.startswith("on_task_")]
    names = ("on_task_scheduled", "on_task_started", "on_task_completed")
    assert told == [(name, task.id) for name in names]


async def test_2_10_children_in_a_transaction_of_their_parent_are_recognised(
    orders: Orders,
) -> None:
    """The parent dies between its commit and its end: run again, it makes the same children."""
    engines, children = orders.engines, []

    async def parent(task: Task[Any], actions: Any) -> None:
        async with orders.transaction() as each:
            child = make_task("child", type="child")
            children.extend(await handler.add_tasks([child], connection=each.connection))
            await each.commit()
        if len(children) == 1:
            await engines.storage.database.write(end_leases)

    def end_leases(conn: Any) -> None:
        conn.exec_driver_sql("UPDATE taskloom_tasks SET due_at = 0, epoch = epoch + 1")

    handler = engines.handler({TYPE: single(parent), "child": single(Runs())})
    await handler.add_tasks([make_task()])
    await handler.drain(PATIENCE)
    assert len(children) == 2
    assert children[0].id == children[1].id
    assert sum((await engines.storage.counts()).values()) == 2


# What cannot be


@one_way_each
async def test_2_10_a_queue_beside_the_storage_gets_them_from_it(orders: Orders) -> None:
    runs = Runs()
    parts = Parts(InMemoryQueue(), orders.engines.storage, orders.engines.cache)
    handler = orders.engines.handler({TYPE: single(runs)}, parts=parts)
    async with orders.transaction() as each:
        await handler.add_tasks([make_task("gone")], connection=each.connection)
        await each.rollback()
        await handler.add_tasks([make_task("kept")], connection=each.connection)
        await each.commit()
    assert await parts.queue.depth(QUEUE) == 0
    assert await handler.move_mature_tasks() == 1
    await handler.drain(PATIENCE)
    assert runs.payloads == ["kept"]


@one_way_each
async def test_2_10_another_database_is_refused(orders: Orders, tmp_path: Path) -> None:
    handler = orders.engines.handler()
    async with SqlStorage.from_url(f"sqlite:///{tmp_path}/other.db"):
        pass
    for name in ("empty.db", "other.db"):
        other = create_engine(f"sqlite:///{tmp_path}/{name}")
        with (
            other.connect() as conn,
            pytest.raises(ConfigurationError, match="the tasks"),
        ):
            await handler.add_tasks([make_task()], connection=conn)
        other.dispose()
    assert await orders.engines.is_empty()


@pytest.mark.parametrize("orders", ["postgresql AsyncConnection"], indirect=True)
async def test_2_10_another_database_of_the_same_server_is_refused(
    orders: Orders, postgres_url: str
) -> None:
    handler = orders.engines.handler()
    other = create_async_engine(postgres_url.replace("postgresql", "postgresql+asyncpg"))
    for _ in range(2):  # without tables, then with those of someone else
        async with other.connect() as conn:
            with pytest.raises(ConfigurationError, match="another database than that of the tasks"):
                await handler.add_tasks([make_task()], connection=conn)
        async with SqlStorage.from_url(postgres_url):
            pass
    await other.dispose()


@one_way_each
async def test_2_10_a_connection_that_cannot_work_says_why(orders: Orders) -> None:
    handler = orders.engines.handler()
    with pytest.raises(TypeError, match=r"connection must be an AsyncConnection .*not str"):
        await handler.add_tasks([make_task()], connection="sqlite://")  # type: ignore[arg-type]
    alone = orders.engine.execution_options(isolation_level="AUTOCOMMIT")
    async with Orders(orders.way.split()[0] + " -", alone, orders.engines).transaction() as each:
        with pytest.raises(ConfigurationError, match="commits by itself"):
            await handler.add_tasks([make_task()], connection=each.connection)
    async with Orders("- -", orders.engine, orders.engines).transaction() as each:
        pass
    with pytest.raises(ConfigurationError, match="closed"):
        await handler.add_tasks([make_task()], connection=each.connection)
    assert await orders.engines.is_empty()


@pytest.mark.parametrize("orders", ["sqlite Connection"], indirect=True)
async def test_2_10_parts_that_cannot_be_in_a_transaction_say_what_to_do(orders: Orders) -> None:
    engines = orders.engines
    cache = engines.cache
    memory = Parts(InMemoryQueue(), InMemoryStorage(), cache)
    inline = Parts(ImmediateQueue(), engines.storage, cache)
    async with orders.transaction() as each:
        with pytest.raises(ConfigurationError, match=r"InMemoryStorage has no transaction.*after"):
            await engines.handler(parts=memory).add_tasks([make_task()], connection=each.connection)
        with pytest.raises(ConfigurationError, match="before the commit"):
            await engines.handler(parts=inline).add_tasks([make_task()], connection=each.connection)
        elsewhere = replace(loom_on(orders).handler.config, flow_barrier=InMemoryFlowBarrier())
        loom = Loom(None, queue=engines.queue, cache=cache, config=elsewhere)

        @loom.task
        async def step() -> None: ...

        async with loom:
            with pytest.raises(ConfigurationError, match="barrier keeps its flows elsewhere"):
                await loom.start_flow([step.step()], join=step.join(), connection=each.connection)
