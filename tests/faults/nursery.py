"""The process that workers are forked from: started once, since importing everything takes time."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

__all__ = ["MAIN", "Nursery"]

MAIN = Path(__file__).with_name("worker_main.py")


class Nursery:
    """Takes orders from one rig at a time, and tells it who was born and who ended."""

    def __init__(self) -> None:
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            [sys.executable, str(MAIN), "nursery"], stdin=pipe, stdout=pipe
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._orders, self._words = self._process.stdin, self._process.stdout
        self._fd = self._words.fileno()
        os.set_blocking(self._fd, False)
        self._rest = b""

    def order(self, raw: bytes) -> None:
        """Ask for a process."""
        self._orders.write(raw + b"\n")
        self._orders.flush()

    def listen(self, hear: Callable[[dict[str, int]], None]) -> None:
        """Call `hear` with every word from now on, in the running loop."""
        asyncio.get_running_loop().add_reader(self._fd, self._read, hear)

    def ignore(self) -> None:
        """Listen no more."""
        asyncio.get_running_loop().remove_reader(self._fd)

    def _read(self, hear: Callable[[dict[str, int]], None]) -> None:
        chunk = os.read(self._fd, 65536)
        if not chunk:
            self.ignore()
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            hear(json.loads(line))

    def end(self) -> None:
        """Close it; it kills what it has forked and not lost yet."""
        self._orders.close()
        self._process.wait(10)
        self._words.close()
