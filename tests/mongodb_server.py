"""A MongoDB of one's own: the server that the wheel of `secantusdb` brings, on a free port.

It speaks MongoDB's protocol over WiredTiger, and says that it is a replica set of one member. Seen
with 0.7.0b3: transactions (with write conflicts), change streams, updates by pipeline, partial, TTL
and unique indexes work; a partial index is used only where the query spells out its condition, and
an update by pipeline is a `replace` in a change stream. A few hundred operations a second.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from pymongo import MongoClient
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.errors import PyMongoError

__all__ = ["MONGODB_URL", "SharedDatabase", "emptied", "mongodb_command", "mongodb_server"]

MONGODB_URL = "TASKLOOM_TEST_MONGODB_URL"
"""A server on which databases may be made."""
PATIENCE = 30.0
_PROGRAM = Path(__file__).with_name("mongodb_program.py")
MANY = 1_000
"""Documents from which the wheel's server takes longer to delete them than to drop them."""


def mongodb_command(folder: Path, port: int, *settings: str) -> list[str]:
    """How a server with its data in `folder` is started."""
    config = folder / "secantusd.toml"
    # Its sweeper of what is over would hold up a test once a minute.
    config.write_text("[storage]\nttl_sweep_seconds = 0\n")
    place = ("--host", "127.0.0.1", "--port", str(port), "--storage-path", str(folder / "data"))
    return [sys.executable, str(_PROGRAM), "--config", str(config), *place, *settings]


@contextmanager
def mongodb_server(folder: Path, port: int, *settings: str) -> Iterator[str]:
    """A server with its data in `folder`; its URL, without a database.

    It answers when this is entered, and is gone when it is left. `settings` as on its command line:
    `--standalone` makes it a server by itself, to the driver.
    """
    log = folder / "mongodb.log"
    with log.open("ab") as out:
        process = subprocess.Popen(
            mongodb_command(folder, port, *settings), stdout=out, stderr=subprocess.STDOUT
        )
    url = f"mongodb://127.0.0.1:{port}"
    try:
        _wait_until_it_answers(process, url, log)
        yield url
    finally:
        process.kill()
        process.wait(PATIENCE)


def _wait_until_it_answers(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and process.poll() is None:
        with MongoClient[dict[str, object]](url, serverSelectionTimeoutMS=200) as client:
            try:
                client.admin.command("ping")
                return
            except PyMongoError:
                time.sleep(0.05)
    raise RuntimeError(f"secantusd-py did not start:\n{log.read_text()}")


class SharedDatabase(NamedTuple):
    """One database that tests have one after the other, with a client that stays connected."""

    url: str
    database: Database[dict[str, object]]


@contextmanager
def emptied(shared: SharedDatabase) -> Iterator[str]:
    """The URL of this database, which has no documents when this is left: quicker than a new one.

    Its collections stay, with their indexes, but for those that have held many.
    """
    yield shared.url
    for name in shared.database.list_collection_names():
        _empty(shared.database[name])


def _empty(collection: Collection[dict[str, object]]) -> None:
    count = collection.estimated_document_count()
    if count > MANY:
        collection.drop()
    elif count:
        collection.delete_many({})
