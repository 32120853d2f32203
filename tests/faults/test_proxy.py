"""The proxy itself: what it passes on, where it cuts, and what it says of it."""

from __future__ import annotations

import asyncio
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from proxy import WRITES, Plan, Proxy, RandomCuts, Writes, proxy_to

WRITE = b"EVALSHA"


class Only(RandomCuts):
    """One plan for every connection."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(0, 1, 1)
        self.plan = plan

    def next(self) -> Plan:
        return self.plan


class Echo:
    """A server that answers with what it was told, and remembers it."""

    def __init__(self) -> None:
        self.heard = bytearray()
        self.hung_up = asyncio.Event()

    async def serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        try:
            while data := await reader.read(1000):
                self.heard += data
                writer.write(data)
        except ConnectionResetError:
            pass
        self.hung_up.set()
        writer.close()


@asynccontextmanager
async def echo() -> AsyncIterator[tuple[Echo, Proxy]]:
    there = Echo()
    server = await asyncio.start_server(there.serve, "127.0.0.1", 0)
    async with server, proxy_to(server.sockets[0].getsockname()[1]) as proxy:
        yield there, proxy


async def talk(proxy: Proxy, *pieces: bytes) -> bytes:
    """Say the pieces, each after an answer of its length; all that was answered until a reset."""
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    heard = b""
    try:
        for piece in pieces:
            writer.write(piece)
            answer = b""
            while len(answer) < len(piece):
                part = await reader.read(len(piece) - len(answer))
                assert part, "it ended without a reset"
                answer += part
                heard += part
    except ConnectionResetError:
        return heard
    finally:
        writer.close()
    return heard


async def test_it_passes_everything_on() -> None:
    said = bytes(range(256)) * 4_000
    async with echo() as (there, proxy):
        assert await talk(proxy, said, b"more") == said + b"more"
        await there.hung_up.wait()
        assert bytes(there.heard) == said + b"more"
        assert len(proxy.opened) == 1
        assert not proxy.cuts


@pytest.mark.parametrize("after", [0, 5, 11])
async def test_it_cuts_a_request(after: int) -> None:
    async with echo() as (there, proxy):
        proxy.cut(Only(Plan("request", after)))
        await talk(proxy, b"first", b"second", b"third")
        await there.hung_up.wait()
        assert bytes(there.heard) == b"firstsecondthird"[:after]
        assert [cut.plan for cut in proxy.cuts] == [Plan("request", after)]


@pytest.mark.parametrize("after", [0, 5, 7])
async def test_it_cuts_an_answer(after: int) -> None:
    async with echo() as (there, proxy):
        proxy.cut(Only(Plan("answer", after)))
        assert await talk(proxy, b"first", b"second", b"third") == b"firstsecondthird"[:after]
        await there.hung_up.wait()
        assert bytes(there.heard) == b"firstsecondthird"[: 5 if after < 5 else 11]


async def test_it_cuts_between_a_write_and_its_answer() -> None:
    """The server has done it, and the client hears nothing, however the bytes are cut up."""
    async with echo() as (there, proxy):
        proxy.cut(Only(Plan(write=2)))
        pieces = (b"a " + WRITE, b"b", WRITE[:3], WRITE[3:] + b" c", b"never")
        assert await talk(proxy, *pieces) == b"".join(pieces[:3])
        await there.hung_up.wait()
        assert bytes(there.heard) == b"".join(pieces[:4])
        assert [cut.plan for cut in proxy.cuts] == [Plan(write=2)]


async def test_it_cuts_connections_that_are_there_already() -> None:
    async with echo() as (there, proxy):
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(b"one")
        assert await reader.readexactly(3) == b"one"
        proxy.cut(Only(Plan("request", 2)))
        writer.write(b"two")
        with pytest.raises(ConnectionResetError):
            await reader.readexactly(3)
        assert bytes(there.heard) == b"onetw"
        writer.close()


async def test_it_cuts_all_at_once() -> None:
    async with echo() as (_, proxy):
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(b"one")
        assert await reader.readexactly(3) == b"one"
        proxy.cut_now()
        with pytest.raises(ConnectionResetError):
            await reader.readexactly(1)
        writer.close()


async def test_a_server_that_is_away_is_so_for_its_clients() -> None:
    async with echo() as (_, gone):
        port = gone.port
    async with proxy_to(port) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        assert not await reader.read(1)
        writer.close()


async def test_plans_come_from_a_seed_until_they_are_done() -> None:
    first, second, other = (RandomCuts(seed, 20, 5) for seed in (7, 7, 8))
    plans = [first.next() for _ in range(50)]
    assert plans == [second.next() for _ in range(50)]
    assert plans != [other.next() for _ in range(50)]
    assert {plan.way for plan in plans} == {None, "request", "answer"}
    async with echo() as (_, proxy):
        proxy.cut(first)
        while not first.done.is_set():
            await talk(proxy, *[WRITE * 200] * 50)
        assert len(proxy.cuts) == 25
        assert sum(cut.plan.write > 0 for cut in proxy.cuts) == 5
        await talk(proxy, *[WRITE * 200] * 50)
        assert len(proxy.cuts) == 25


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_statement_that_commits_by_itself_is_a_write(size: int) -> None:
    said = b"".join(
        [
            b"P\0\0\0\x20__asyncpg_stmt_1__\0WITH new AS (INSERT",
            b"P\0\0\0\x20__asyncpg_stmt_2__\0SELECT min(",
            b"B\0\0\0\x20\0__asyncpg_stmt_1__\0...E\0\0\0\t\0\0\0\0\0S\0\0\0\4",
            b"B\0\0\0\x20\0__asyncpg_stmt_2__\0...E\0\0\0\t\0\0\0\0\0S\0\0\0\4",
            b"Q\0\0\0\x0aBEGIN;\0Q\0\0\0\x0bCOMMIT;\0",
            b"B\0\0\0\x20\0__asyncpg_stmt_1__\0...E\0\0\0\t\0\0\0\0\0S\0\0\0\4",
        ]
    )
    writes = Writes(WRITES["postgresql"])
    assert sum(writes.count(said[at : at + size]) for at in range(0, len(said), size)) == 3
