"""What Redis itself can do for redis-py: a stream and a group, no library, no fence, no lease."""

from __future__ import annotations

import json
from time import perf_counter
from typing import Any

from redis import Redis

from benchmarks.harness import Result
from benchmarks.work import Tally, payload

__all__ = ["add", "drain", "fill"]

BATCH = 100
PER_CALL = 1_000
_STREAM, _GROUP = "tasks", "workers"


def fill(url: str, tasks: int) -> Result:
    """Put `tasks` tasks into a stream."""
    return add(url, tasks)


def add(url: str, tasks: int) -> Result:
    """`rate` of XADD, 1,000 in a pipeline, making the bodies included."""
    with Redis.from_url(url) as client:
        start = perf_counter()
        for first in range(0, tasks, PER_CALL):
            pipe = client.pipeline(transaction=False)
            for index in range(first, min(first + PER_CALL, tasks)):
                pipe.xadd(_STREAM, {"b": json.dumps(payload(index))})
            pipe.execute()
        seconds = perf_counter() - start
        assert client.xlen(_STREAM) == tasks
    return {"rate": tasks / seconds}


def drain(url: str, tasks: int) -> Result:
    """`rate` of reading 100 and decoding them, then XACK and XDEL in one trip with the next 100."""
    tally = Tally(tasks, lambda: None)
    with Redis.from_url(url) as client:
        client.xgroup_create(_STREAM, _GROUP, "0")
        start = perf_counter()
        done: list[Any] = []
        while taken := _next(client, done):
            for _, fields in taken:
                tally.ran(json.loads(fields[b"b"])["number"])
            done = [entry for entry, _ in taken]
        seconds = perf_counter() - start
        left = client.xlen(_STREAM)
    tally.check_once()
    assert left == 0, left
    return {"rate": tasks / seconds}


def _next(client: Redis, done: list[Any]) -> list[Any]:
    pipe = client.pipeline(transaction=False)
    if done:
        pipe.xack(_STREAM, _GROUP, *done)
        pipe.xdel(_STREAM, *done)
    pipe.xreadgroup(_GROUP, "me", {_STREAM: ">"}, count=BATCH)
    read: Any = pipe.execute()[-1]
    streams = read.values() if isinstance(read, dict) else [entries for _, entries in read]
    return [entry for entries in streams for entry in entries]
