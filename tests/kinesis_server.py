"""A Kinesis of one's own: moto's server on a free port, in a process of its own.

Run as a program it is that process. What moto (5.2.5) does otherwise than AWS is put right: it
gives a closed shard's new records to that shard, and a new shard its parents' old records; it loses
one of two records that are put at once, and reads a shard from its start each time.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

from redis_server import free_port

__all__ = ["KINESIS_URL", "REGION", "aws_session", "kinesis_client", "kinesis_server", "new_stream"]

KINESIS_URL = "TASKLOOM_TEST_KINESIS_URL"
"""The endpoint of a Kinesis on which streams may be created."""
REGION = "us-east-1"
PATIENCE = 60.0
MOST_AT_ONCE = 10_000
"""Records of one answer, where the request names no limit."""


@contextmanager
def kinesis_server(folder: Path) -> Iterator[str]:
    """A server that answers when this is entered, and is gone when it is left; its URL."""
    port, log = free_port(), folder / "kinesis.log"
    with log.open("ab") as out:
        command = [sys.executable, __file__, str(port)]
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
    try:
        _wait_until_it_listens(process, port, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait(PATIENCE)


def _wait_until_it_listens(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise RuntimeError(f"moto's server did not start:\n{log.read_text()}")


@cache
def aws_session() -> Any:
    """A session with credentials that moto takes; one, since each reads its files anew."""
    from aiobotocore.session import get_session

    session = get_session()
    session.set_credentials("test", "test")
    return session


@asynccontextmanager
async def kinesis_client(url: str) -> AsyncIterator[Any]:
    """A client of aiobotocore, for what a test does by itself."""
    session = aws_session()
    async with session.create_client("kinesis", endpoint_url=url, region_name=REGION) as client:
        yield client


async def new_stream(client: Any, shards: int = 1) -> str:
    """The name of a new, empty stream."""
    name = f"test-{uuid4().hex}"
    await client.create_stream(StreamName=name, ShardCount=shards)
    return name


def _as_aws_does() -> None:
    """See the head of this file."""
    from moto.kinesis import models

    _one_at_a_time(models.Shard)
    stream = models.Stream
    shard_for_key, split, merge = stream.get_shard_for_key, stream.split_shard, stream.merge_shards

    def open_shard_for_key(self: Any, partition_key: str, explicit_hash_key: str) -> Any:
        every, self.shards = self.shards, {k: s for k, s in self.shards.items() if s.is_open}
        try:
            return shard_for_key(self, partition_key, explicit_hash_key)
        finally:
            self.shards = every

    def keeping_records(change: Any) -> Any:
        def changed(self: Any, *shard_ids: str) -> None:
            kept = {id: self.shards[id].records for id in shard_ids if id in self.shards}
            for id in kept:
                self.shards[id].records = {}
            try:
                change(self, *shard_ids)
            finally:
                for id, records in kept.items():
                    self.shards[id].records = records

        return changed

    stream.get_shard_for_key = open_shard_for_key  # type: ignore[method-assign]
    stream.split_shard = keeping_records(split)  # type: ignore[method-assign]
    stream.merge_shards = keeping_records(merge)  # type: ignore[method-assign]


def _one_at_a_time(shard: Any) -> None:
    lock, put_record = threading.Lock(), shard.put_record

    def put(self: Any, *record: str) -> Any:
        with lock:
            return put_record(self, *record)

    def get(self: Any, after: str, limit: int | None) -> tuple[list[Any], int, int]:
        with lock:
            first, newest = int(after) + 1, len(self.records)  # numbered from 1
            last = min(newest, first + (limit or MOST_AT_ONCE) - 1)
            found = [self.records[number] for number in range(first, last + 1)]
            behind = self.records[newest].created_at - found[-1].created_at if found else 0.0
        millis = 0 if last >= newest else max(1, int(behind * 1000))
        return found, max(last, first - 1), millis

    shard.put_record, shard.get_records = put, get


def _serve(port: int) -> None:
    import logging

    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import run_simple

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    _as_aws_does()
    app = DomainDispatcherApplication(create_backend_app)
    with contextlib.suppress(KeyboardInterrupt):
        run_simple("127.0.0.1", port, app, threaded=True)


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
