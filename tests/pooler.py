"""A small pooler in front of PostgreSQL: as pgbouncer does, each transaction gets a connection.

For servers that ask for no password. What a transaction leaves behind on its connection, such as
prepared statements or LISTEN, is there for whoever gets it next.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

__all__ = ["pooler"]

_SSL, _CANCEL = 80877103, 80877102
_KNOWN = {"user", "database", "client_encoding", "application_name"}
"""What a session may ask for; pgbouncer refuses most of the rest."""


@dataclass(eq=False)
class _Server:
    """A connection to PostgreSQL, and the client it serves."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    greeting: bytes = b""
    client: asyncio.StreamWriter | None = None
    unanswered: int = 0


@asynccontextmanager
async def pooler(url: str, connections: int) -> AsyncIterator[str]:
    """The URL under which `connections` to the database of `url` are shared."""
    free: asyncio.Queue[_Server] = asyncio.Queue()
    servers = [await _connect(url) for _ in range(connections)]
    relays = [asyncio.create_task(_relay(server, free)) for server in servers]
    for server in servers:
        free.put_nowait(server)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await _serve(reader, writer, free, servers[0].greeting)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client is gone
        finally:
            writer.close()

    door = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = door.sockets[0].getsockname()[1]
    parts = urlsplit(url)
    try:
        yield urlunsplit(parts._replace(netloc=f"{parts.username}@127.0.0.1:{port}"))
    finally:
        door.close()
        for relay in relays:
            relay.cancel()
        await asyncio.wait(relays)
        for server in servers:
            server.writer.close()


async def _connect(url: str) -> _Server:
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    asked = f"user\0{parts.username}\0database\0{parts.path[1:]}\0\0".encode()
    writer.write(struct.pack("!ii", len(asked) + 8, 196608) + asked)
    server = _Server(reader, writer)
    while True:
        kind, message = await _message(reader)
        assert kind != b"E", message
        server.greeting += message
        if kind == b"Z":
            return server


async def _message(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """The next message's kind, and all of it."""
    head = await reader.readexactly(5)
    (size,) = struct.unpack("!i", head[1:])
    return head[:1], head + await reader.readexactly(size - 4)


async def _relay(server: _Server, free: asyncio.Queue[_Server]) -> None:
    """Answers, to whoever asked; after a transaction the connection is anyone's."""
    while True:
        kind, message = await _message(server.reader)
        if server.client is not None:
            server.client.write(message)
        if kind == b"Z":
            server.unanswered -= 1
            if message[5:] == b"I" and server.unanswered == 0:
                server.client = None
                free.put_nowait(server)


async def _serve(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    free: asyncio.Queue[_Server],
    greeting: bytes,
) -> None:
    if not await _welcomed(reader, writer):
        return
    writer.write(greeting)
    server: _Server | None = None
    while True:
        kind, message = await _message(reader)
        if kind == b"X":
            return
        if server is None or server.client is not writer:
            server = await free.get()
            server.client = writer
        if kind in b"SQ":
            server.unanswered += 1
        server.writer.write(message)


async def _welcomed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    while True:
        size, code = struct.unpack("!ii", await reader.readexactly(8))
        asked = (await reader.readexactly(size - 8)).split(b"\0")
        if code == _CANCEL:
            return False
        if code == _SSL:
            writer.write(b"N")
            continue
        unknown = {name.decode() for name in asked[::2] if name} - _KNOWN
        assert not unknown, f"unsupported startup parameters: {unknown}"
        return True
