"""The generator: tasks of every kind, from a seed, and the client that adds them."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from recorder import Recorder, Spec

from taskloom import EntityRef, Loom, Task
from taskloom.errors import UnavailableError
from taskloom.identity import new_id
from taskloom.interfaces import QueueFeatures

__all__ = ["KINDS", "QUEUE", "Generator", "Made", "add", "client", "kinds_for"]

QUEUE = "work"

KINDS: Mapping[str, int] = {
    "plain": 30,
    "threaded": 8,
    "delayed": 10,
    "expiring": 8,
    "flaky": 12,
    "hopeless": 5,
    "parent": 8,
    "eager": 8,
    "keyed": 8,
    "batch": 14,
    "on-entity": 6,
    "flow": 3,
    "flow-aborted": 3,
    "flow-timed": 2,
}
"""How often each kind comes; `poison` is added by hand."""

IN_ORDER = {"in-order": 12}
"""What only queues that keep the order of a key can promise."""

Made = tuple[Spec, Task[Any]]


def kinds_for(features: QueueFeatures) -> Mapping[str, int]:
    """The kinds for a queue that can do this."""
    return {**KINDS, **IN_ORDER} if features.fifo_per_key else KINDS


class Generator:
    """Makes tasks; the same seed, the same tasks but for ids and times.

    `busy` is how long the longest body takes, in seconds.
    """

    def __init__(self, seed: int, kinds: Mapping[str, int] = KINDS, *, busy: float = 0.12) -> None:
        self._random = random.Random(seed)
        self._kinds = kinds
        self._busy = busy
        self._made = 0
        self._keys = [new_id() for _ in range(3)]

    def batches(self, count: int, largest: int = 6) -> Iterator[list[Made]]:
        """`count` tasks, in calls of up to `largest`."""
        while count > 0:
            size = min(count, self._random.randint(1, largest))
            count -= size
            yield [self.make() for _ in range(size)]

    def make(self, kind: str = "", **payload: Any) -> Made:
        """One task, of a random kind unless told; `payload` adds to what its body reads."""
        rng = self._random
        kind = kind or rng.choices(list(self._kinds), list(self._kinds.values()))[0]
        self._made += 1
        body = {"n": self._made, "for": rng.uniform(0, self._busy), **payload}
        spec = Spec(new_id(), kind, result=self._made)
        fields: dict[str, Any] = {}
        if kind in ("flaky", "hopeless"):
            spec.retries = rng.randint(1, 3)
            spec.fails = rng.randint(1, spec.retries) if kind == "flaky" else 99
            body |= {"fails": spec.fails, "for": body["for"] / 4}
        elif kind in ("parent", "eager"):
            body["children"] = rng.randint(1, 5)
        elif kind == "keyed":
            spec.lock = fields["task_hash"] = f"key-{rng.randint(1, 4)}"
            body["for"] = body["for"] / 4
        elif kind == "in-order":
            spec.key = fields["partition_key"] = rng.choice(self._keys)
            body["for"] = body["for"] / 4
        elif kind == "on-entity":
            fields["entity"] = EntityRef(f"e_{rng.randint(1, 9)}", "thing")
        elif kind.startswith("flow"):
            body |= self._flow(kind) | payload
        self._times(spec, fields)
        # Where queue and storage are two things, half of the tasks are in both.
        fields["force_store"] = self._made % 2 == 0
        task = Task(
            type=kind,
            queue_id=QUEUE,
            payload=body,
            id=spec.id,
            retries=spec.retries,
            retry_after=0.02,
            **fields,
        )
        return spec, task

    def _flow(self, kind: str) -> dict[str, Any]:
        """What its starter reads: how many steps, which of them fail, how it ends."""
        rng = self._random
        steps = rng.randint(1, 6)
        bad = rng.sample(range(steps), min(steps, rng.choice((0, 0, 1, 2))))
        flow: dict[str, Any] = {"steps": steps, "bad": bad, "policy": "continue"}
        if kind == "flow-aborted":
            flow["policy"] = "abort"
        elif kind == "flow-timed":
            flow["timeout"] = rng.uniform(0.05, 0.5)
        return flow

    def _times(self, spec: Spec, fields: dict[str, Any]) -> None:
        now, here = datetime.now(UTC), time.monotonic()
        if spec.kind == "delayed":
            delay = self._random.uniform(0.2, 1.5)
            spec.after = here + delay
            fields["execute_at"] = now + timedelta(seconds=delay)
        elif spec.kind == "expiring":
            left = self._random.uniform(0.05, 1.0)
            spec.until = here + left
            fields["expires_at"] = now + timedelta(seconds=left)


async def add(loom: Loom, recorder: Recorder, made: list[Made]) -> BaseException | None:
    """One `add_tasks` call, recorded before and after; the error it raised, if any."""
    call = made[0][0].id
    recorder.write("add.invoke", call=call, specs=[spec for spec, _ in made])
    try:
        await loom.add_tasks([task for _, task in made])
    except UnavailableError as error:
        recorder.write("add.fail", call=call, word=str(error))
        return error
    except BaseException as error:
        recorder.write("add.unknown", call=call, word=repr(error))
        raise
    recorder.write("add.ok", call=call)
    return None


async def client(
    loom: Loom, recorder: Recorder, seed: int, count: int, *, pause: float, busy: float = 0.12
) -> None:
    """Add `count` tasks of all kinds, with a random pause of `pause` seconds on average."""
    kinds = kinds_for(loom.handler.message_queue.features)
    generator, pauses = Generator(seed, kinds, busy=busy), random.Random(seed + 1)
    for made in generator.batches(count):
        await add(loom, recorder, made)
        await asyncio.sleep(pauses.uniform(0, 2 * pause))
