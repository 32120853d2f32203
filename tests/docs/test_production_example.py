"""The production example, as a user runs it: one worker on MongoDB, Redis and Kinesis."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from pages import ROOT
from pymongo import AsyncMongoClient
from redis.asyncio import Redis

from kinesis_server import REGION, kinesis_client, new_stream
from taskloom.redis import RedisFlowBarrier

EXAMPLE = ROOT / "examples" / "production"
TASKLOOM = str(Path(sys.executable).with_name("taskloom"))
STATUS = (TASKLOOM, "status", "--app", "app:loom", "--json")
PATIENCE = 90.0

Environment = dict[str, str]

pytestmark = pytest.mark.timeout(180)  # starting processes is slow on a busy machine


@pytest.fixture
async def around(mongodb_url: str, redis_url: str, kinesis_url: str) -> AsyncIterator[Environment]:
    """The environment of a worker that has all three servers to itself."""
    prefix = f"test-{uuid4().hex}"
    async with kinesis_client(kinesis_url) as client:
        stream = await new_stream(client, shards=2)
    yield {
        **os.environ,
        "MONGODB_URI": mongodb_url,
        "REDIS_URL": f"{redis_url}?prefix={prefix}",
        "AWS_REGION": REGION,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "KINESIS_ENDPOINT_URL": kinesis_url,
        "NOTIFICATIONS_STREAM": stream,
    }
    async with Redis.from_url(redis_url) as client:
        async for key in client.scan_iter(match=f"*{prefix}*"):
            await client.delete(key)


@contextmanager
def worker(environment: Environment, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A worker of the example, gone when this is left."""
    command = [TASKLOOM, "worker", "app:loom"]
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, cwd=EXAMPLE, env=environment, stdout=out, stderr=subprocess.STDOUT
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE)
        finally:
            process.kill()
            process.wait()


async def test_each_kind_of_work_is_done_in_one_worker(around: Environment, tmp_path: Path) -> None:
    ready = await asyncio.to_thread(run, around, TASKLOOM, "init", "--app", "app:loom")
    assert ready.returncode == 0, ready.stderr
    with worker(around, tmp_path / "worker.log") as running:
        added = await asyncio.to_thread(run, around, sys.executable, "app.py")
        said = added.stderr + (tmp_path / "worker.log").read_text()
        assert added.returncode == 0, said
    assert added.stdout.splitlines() == [
        "executed: 'Hi' went to ada@example.com",
        "executed: bob was told 'hi'",
        "executed: # Sales",
        "ada was told 'your report is being written'",
    ], said
    assert running.returncode == 0, (tmp_path / "worker.log").read_text()
    status = await asyncio.to_thread(run, around, *STATUS)
    queues = json.loads(status.stdout)["queues"]
    assert queues["reports"]["counts"]["executed"] == 2, status.stderr
    assert await keys_on_the_stream(around) == {"ada", "bob"}
    assert await queues_in_mongodb(around) == {"email", "reports", around["NOTIFICATIONS_STREAM"]}
    assert await flows_in_redis(around) == 1


def run(environment: Environment, *command: str) -> subprocess.CompletedProcess[str]:
    """A command in the directory of the example, once it has ended."""
    options: dict[str, Any] = {"capture_output": True, "text": True}
    return subprocess.run(command, cwd=EXAMPLE, env=environment, timeout=PATIENCE, **options)


async def keys_on_the_stream(around: Environment) -> set[str]:
    """The partition keys of everything that was ever put there."""
    stream, found = around["NOTIFICATIONS_STREAM"], set[str]()
    async with kinesis_client(around["KINESIS_ENDPOINT_URL"]) as client:
        for shard in (await client.list_shards(StreamName=stream))["Shards"]:
            start = await client.get_shard_iterator(
                StreamName=stream, ShardId=shard["ShardId"], ShardIteratorType="TRIM_HORIZON"
            )
            answer = await client.get_records(ShardIterator=start["ShardIterator"])
            found |= {record["PartitionKey"] for record in answer["Records"]}
    return found


async def queues_in_mongodb(around: Environment) -> set[str]:
    """The queues whose tasks have a document."""
    async with AsyncMongoClient[dict[str, Any]](around["MONGODB_URI"]) as client:
        tasks = client.get_default_database()["taskloom_tasks"]
        return {each["queue"] async for each in tasks.find({}, {"queue": 1})}


async def flows_in_redis(around: Environment) -> int:
    prefix = around["REDIS_URL"].partition("prefix=")[2]
    async with RedisFlowBarrier.from_url(around["REDIS_URL"]) as barrier:
        assert prefix in barrier.server.keys.flows
        return len(await barrier.search())


@pytest.mark.parametrize("missing", ["MONGODB_URI", "AWS_REGION"])
def test_what_the_environment_lacks_is_named(missing: str) -> None:
    given = {"MONGODB_URI": "mongodb://h", "REDIS_URL": "redis://h", "AWS_REGION": "here"}
    del given[missing]
    said = run({"PATH": os.environ["PATH"], **given}, sys.executable, "app.py")
    assert said.returncode == 1
    assert f"not set in the environment:\n  {missing}, for example" in said.stderr
    assert "Traceback" not in said.stderr
