"""A TCP proxy that cuts connections: at random bytes, and between a request and its answer.

It stands between one process and its server, so that it is known whose connection was cut.
"""

from __future__ import annotations

import asyncio
import random
import re
import socket
import struct
import time
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Literal, TypeAlias

from msgspec import Struct

__all__ = ["WRITES", "Cut", "Plan", "Proxy", "RandomCuts", "proxy_to"]

Way: TypeAlias = Literal["request", "answer"]
Stream: TypeAlias = tuple[StreamReader, StreamWriter]

WRITES = {
    "postgresql": re.compile(
        rb"(?P<commit>COMMIT;)"
        rb"|P....(?P<prepared>__asyncpg_stmt_\w+__)\0WITH"
        rb"|B....\0(?P<bound>__asyncpg_stmt_\w+__)\0",
        re.DOTALL,
    ),
    "redis": re.compile(rb"(?P<commit>EVALSHA)"),
    "mongodb": re.compile(
        rb"(?P<commit>\x10commitTransaction\0"
        rb"|\x02(?:insert|update|delete|findAndModify)\0....taskloom_)",
        re.DOTALL,
    ),
}
"""What stands in a request that writes, by the kind of server.

On PostgreSQL a commit; and a statement that is a transaction by itself, told by how it begins. On
MongoDB a commit, and every command that changes documents.
"""
_LONGEST_MATCH = 64
_PIECE = 65_536
_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER for a socket that is not to say goodbye."""


class Plan(Struct, frozen=True):
    """When a connection is to be cut. Made without anything: never."""

    way: Way | None = None
    after: int = 0
    """So many bytes go that way, and no more."""
    write: int = 0
    """The answer to this write of the connection, from 1 on, does not reach the client."""


class Cut(Struct, frozen=True):
    """A connection that was reset at `t` (monotonic)."""

    t: float
    plan: Plan


NEVER = Plan()


class RandomCuts:
    """Plans for one connection after the other, from a seed.

    It goes on until `anywhere` connections were cut at random bytes, and `between` others between
    a write and its answer; `longest` is how many bytes one of them passes at most.
    """

    def __init__(self, seed: int, anywhere: int, between: int, *, longest: int = 60_000) -> None:
        self._random = random.Random(seed)
        self._longest = longest
        self.anywhere = anywhere
        self.between = between
        """What is left to be done."""
        self.done = asyncio.Event()

    def next(self) -> Plan:
        """When the next connection is cut."""
        if self.done.is_set():
            return NEVER
        rng, kinds = self._random, (max(0, self.anywhere), max(0, self.between))
        if rng.choices((False, True), kinds)[0]:
            return Plan(write=rng.randint(1, 8))
        # One in four early: while the client introduces itself.
        longest = 1_000 if rng.random() < 0.25 else self._longest
        return Plan(rng.choice(("request", "answer")), rng.randint(0, longest))

    def count(self, cut: Cut) -> None:
        """It was done."""
        if cut.plan.write:
            self.between -= 1
        else:
            self.anywhere -= 1
        if self.anywhere <= 0 and self.between <= 0:
            self.done.set()


class Writes:
    """Counts the writes in what a client sends, in pieces, on one connection."""

    def __init__(self, pattern: re.Pattern[bytes]) -> None:
        self._pattern = pattern
        self._prepared: set[bytes] = set()
        self._rest = b""

    def count(self, data: bytes) -> int:
        """How many end in this piece."""
        seen, end, found = self._rest + data, 0, 0
        for match in self._pattern.finditer(seen):
            end = match.end()
            parts = match.groupdict()
            if name := parts.get("prepared"):
                self._prepared.add(name)
            elif parts["commit"] or parts["bound"] in self._prepared:
                found += 1
        self._rest = seen[max(end, len(seen) - _LONGEST_MATCH) :]
        return found


class Link:
    """One connection of a client to the server."""

    def __init__(self, here: Stream, there: Stream, writes: Writes, latency: float) -> None:
        self._streams = {"request": (here[0], there[1]), "answer": (there[0], here[1])}
        self._sent = writes
        self._latency = latency
        self.follow(NEVER)

    def follow(self, plan: Plan) -> None:
        """Be cut as `plan` says, counted from now on."""
        self._plan = plan
        self._passed = {"request": 0, "answer": 0}
        self._writes = 0

    async def serve(self) -> Plan | None:
        """Pass bytes on until one side ends the connection, or until it is cut, by which plan."""
        ways = [asyncio.create_task(self._carry(way)) for way in ("request", "answer")]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            ends = await asyncio.gather(*ways, return_exceptions=True)
            self.hang_up(reset=True in ends)
        return self._plan if True in ends else None

    def hang_up(self, *, reset: bool) -> None:
        """End both sides: as one does, or as a router does that has lost its memory."""
        for _, writer in self._streams.values():
            if reset and not writer.is_closing():
                sock: socket.socket = writer.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                writer.transport.abort()
            writer.close()

    async def _carry(self, way: Way) -> bool:
        """Whether it is to be cut."""
        reader, writer = self._streams[way]
        while data := await reader.read(_PIECE):
            await asyncio.sleep(self._latency)
            if way == "answer" and 0 < self._plan.write <= self._writes:
                return True
            room = self._plan.after - self._passed[way]
            is_cut = way == self._plan.way and len(data) > room
            data = data[:room] if is_cut else data
            self._note(way, data)
            writer.write(data)
            await writer.drain()
            if is_cut:
                return True
        return False

    def _note(self, way: Way, data: bytes) -> None:
        self._passed[way] += len(data)
        if way == "request":
            self._writes += self._sent.count(data)


class Proxy:
    """Passes connections on to a port of this machine. Made by `proxy_to`."""

    def __init__(self, target: int, writes: re.Pattern[bytes]) -> None:
        self._target = target
        self._writes = writes
        self._links: set[Link] = set()
        self._serving: set[asyncio.Task[None]] = set()
        self._plans: RandomCuts | None = None
        self.port = 0
        self.latency = 0.0
        """Seconds that each piece takes, each way; of connections made from now on."""
        self.opened: list[float] = []
        """When connections were made (monotonic), those among them that the server refused."""
        self.cuts: list[Cut] = []
        self.on_cut: Callable[[Cut], None] | None = None

    def cut(self, plans: RandomCuts | None) -> None:
        """Cut connections as `plans` says, those that are there too; None: no more."""
        self._plans = plans
        for link in self._links:
            link.follow(self._next())

    def cut_now(self) -> None:
        """Reset every connection that there is."""
        for link in self._links:
            link.hang_up(reset=True)

    def _next(self) -> Plan:
        return NEVER if self._plans is None else self._plans.next()

    def take(self, reader: StreamReader, writer: StreamWriter) -> None:
        """Serve one client."""
        self.opened.append(time.monotonic())
        serving = asyncio.create_task(self._connect((reader, writer)))
        self._serving.add(serving)
        serving.add_done_callback(self._serving.discard)

    async def _connect(self, here: Stream) -> None:
        try:
            there = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            here[1].transport.abort()
            return
        link = Link(here, there, Writes(self._writes), self.latency)
        link.follow(self._next())
        self._links.add(link)
        try:
            plan = await link.serve()
        finally:
            self._links.discard(link)
        if plan is not None:
            cut = Cut(time.monotonic(), plan)
            if self._plans is not None:
                self._plans.count(cut)
            self.cuts.append(cut)
            if self.on_cut is not None:
                self.on_cut(cut)

    async def close(self) -> None:
        """End every connection."""
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)


@asynccontextmanager
async def proxy_to(target: int, engine: str = "redis") -> AsyncIterator[Proxy]:
    """A proxy to a port of this machine; `engine` says what its writes look like."""
    proxy = Proxy(target, WRITES[engine])
    server = await asyncio.start_server(proxy.take, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        await proxy.close()
        await server.wait_closed()
