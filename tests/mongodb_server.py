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

from pymongo import MongoClient
from pymongo.errors import PyMongoError

__all__ = ["mongodb_server"]

PATIENCE = 30.0


@contextmanager
def mongodb_server(folder: Path, port: int, *settings: str) -> Iterator[str]:
    """A server with its data in `folder`; its URL, without a database.

    It answers when this is entered, and is gone when it is left. `settings` as on its command line:
    `--standalone` makes it a server by itself, to the driver.
    """
    program, log = Path(sys.executable).with_name("secantusd-py"), folder / "mongodb.log"
    # Its sweeper of what is over would hold up a test once a minute.
    config = folder / "secantusd.toml"
    config.write_text("[storage]\nttl_sweep_seconds = 0\n")
    command = [str(program), "--config", str(config), "--port", str(port), "--host", "127.0.0.1"]
    with log.open("ab") as out:
        process = subprocess.Popen(
            [*command, "--storage-path", str(folder / "data"), *settings],
            stdout=out,
            stderr=subprocess.STDOUT,
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
