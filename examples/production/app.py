"""A worker on three servers: MongoDB keeps the tasks, Redis locks and counts, Kinesis orders.

    taskloom worker app:loom        in this directory: the worker, as many as you like
    python app.py                   adds work of each kind, waits for it, and prints what came of it

The queues `email` and `reports` are in MongoDB, where each task is one document from birth to end.
What a user is told of goes through a Kinesis stream: in order for each user, however many workers
there are. The steps of a report are counted in Redis. See `settings.py` for the environment.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from routing_queue import RoutingQueue
from settings import Settings

from taskloom import (
    AsyncTaskManager,
    ConfigurationError,
    FlowResults,
    Loom,
    Task,
    TaskHandlerConfig,
)
from taskloom.kinesis import KinesisQueue
from taskloom.mongodb import MongoDBDatabase, MongoDBQueue, MongoDBStorage, MongoRedisShardLocks
from taskloom.redis import RedisCache, RedisFlowBarrier, RedisServer, RedisShardLocks


def make_loom(settings: Settings) -> Loom:
    """All parts, on one database and one Redis; nothing is connected yet."""
    database = MongoDBDatabase.from_url(settings.mongodb_uri)
    redis = RedisServer.from_url(settings.redis_url, prefix="shop")
    storage = MongoDBStorage(database)
    documents = MongoDBQueue(storage)
    locks = MongoRedisShardLocks(database, RedisShardLocks(redis))
    stream = KinesisQueue(
        shard_locks=locks, endpoint_url=settings.kinesis_endpoint, region_name=settings.region
    )
    return Loom(
        None,
        queue=RoutingQueue({"email": documents, "reports": documents, settings.stream: stream}),
        storage=storage,
        cache=RedisCache(redis),
        flow_barrier=RedisFlowBarrier(redis),
        async_task_manager=AsyncTaskManager(max_tasks=10),
        # What a stream cannot delay, a retry for example, waits in MongoDB for the next pass.
        config=TaskHandlerConfig(mature_interval=1.0),
    )


try:
    settings = Settings.from_environment()
    loom = make_loom(settings)
except ConfigurationError as error:
    sys.exit(str(error))


@loom.task(queue="email", retries=3)
async def send_email(to: str, subject: str) -> str:
    """Sent by any worker, in any order."""
    return f"{subject!r} went to {to}"


def user_of(task: Task[Any]) -> str:
    """What one user is told keeps its order."""
    return str(task.payload["user"])


@loom.task(queue=settings.stream, retries=3, partition_key=user_of)
async def notify(user: str, text: str) -> str:
    """Told one after the other to one user, side by side to several."""
    return f"{user} was told {text!r}"


@loom.task(queue="reports", retries=3, handoff_after=5, timeout=300)
async def render_chapter(title: str) -> str:
    """A step of a report. One that takes longer than 5 s leaves its slot to others."""
    return f"# {title}"


@loom.task(queue="reports")
async def publish_report(results: FlowResults) -> str:
    """Joins a report, once its steps have been counted; the e-mail is a child of it."""
    await send_email.enqueue("editor@example.com", "The report is out")
    return "\n".join(str(step.result) for step in results.steps)


async def main() -> None:
    """Add one of each kind, and wait until a worker has done them."""
    async with loom:
        flow_id = await loom.start_flow(
            [render_chapter.step("Sales"), notify.step("ada", "your report is being written")],
            join=publish_report.join(),
        )
        added = [
            await send_email.enqueue("ada@example.com", "Hi"),
            await notify.with_(force_store=True).enqueue("bob", "hi"),
        ]
        for task in added:
            print(await result_of(task.id))
        print(await result_of(await join_of(flow_id)))


async def result_of(id: str) -> str:
    """What a task came to, once it has ended."""
    while True:
        for task in await loom.get_tasks([id]):
            if task.status.terminal:
                return f"{task.status}: {task.execution_result}"
        await asyncio.sleep(0.2)


async def join_of(flow_id: str) -> str:
    """The id of the task that joins a flow, which the barrier knows."""
    assert loom.flow_barrier is not None, "make_loom gives it one"
    record = await loom.flow_barrier.get_flow(flow_id)
    assert record is not None, "it was started above"
    return record.flow.join.id


if __name__ == "__main__":
    asyncio.run(main())
