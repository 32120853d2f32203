"""The record of what happened: one JSON line per event, in a file of each process's own.

It stands outside the system under test. A line is one `write` to a file opened with O_APPEND, so
that a process killed at any moment leaves whole lines only.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

__all__ = ["Event", "Final", "FlowPart", "Reader", "Recorder", "Spec"]

Key = tuple[str, int, str]
"""A task's id, the epoch of a lease on it, and a word: what the event says about it."""


class Spec(Struct, omit_defaults=True):
    """A task as it was added, and what is expected of it. Times are on the monotonic scale."""

    id: str
    kind: str
    retries: int = 0
    fails: int = 0
    """So many first attempts fail."""
    result: Any = None
    after: float = 0.0
    until: float = float("1e18")
    """It may not start later."""
    lock: str = ""
    """Tasks with the same one never run at the same time."""
    key: str = ""
    """Tasks with the same one first run in the order they were added."""


class Event(Struct, omit_defaults=True):
    """Something that happened at `t` (CLOCK_MONOTONIC: one scale for all processes)."""

    t: float
    kind: str
    pid: int
    since: float = 0.0
    """When the call began whose answer this is."""
    call: str = ""
    task: str = ""
    run: str = ""
    attempt: int = 0
    word: str = ""
    target: int = 0
    """The process a fault hits."""
    lease: float = 0.0
    result: Any = None
    lock: str = ""
    children: list[str] = []
    specs: list[Spec] = []
    keys: list[Key] = []


class FlowPart(Struct, omit_defaults=True):
    """Which part of a flow a task is; of its join, what it was given."""

    id: str
    kind: str
    """step, join or sentinel."""
    index: int = -1
    total: int = 0
    policy: str = "continue"
    aborted: bool = False
    timed_out: bool = False
    lost: bool = False
    steps: list[tuple[int, str, Any]] = []
    """Index, status and result of what had counted."""


class Final(Struct, omit_defaults=True):
    """A task as storage has it at the end."""

    id: str
    status: str
    result: Any = None
    retry_count: int = 0
    poison: bool = False
    parent: str = ""
    flow: FlowPart | None = None
    told: str | None = None
    """What the projection says; None: the task is on no entity."""
    stored: bool = True
    """False: no row was ever wanted, and only the queue knows that it has ended."""


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Event)


class Recorder:
    """Writes the events of this process. Make it after a fork, never before."""

    def __init__(self, directory: Path, role: str) -> None:
        self.pid = os.getpid()
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._fd = os.open(directory / f"{role}-{self.pid}.jsonl", flags, 0o600)

    def write(self, kind: str, **fields: Any) -> Event:
        """Append one event, stamped with the time; it survives this process at once."""
        event = Event(t=time.monotonic(), kind=kind, pid=self.pid, **fields)
        os.write(self._fd, _encoder.encode(event) + b"\n")
        return event

    def close(self) -> None:
        os.close(self._fd)


class Reader:
    """All events of a directory; each call reads on where the last one ended."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._offsets: dict[Path, int] = {}
        self.events: list[Event] = []
        """In the order they were read; `history` puts them in that of time."""

    def read(self) -> Sequence[Event]:
        """The events that are new."""
        new: list[Event] = []
        for path in sorted(self._directory.glob("*.jsonl")):
            start = self._offsets.get(path, 0)
            with path.open("rb") as file:
                file.seek(start)
                lines = file.read()
            whole = lines[: lines.rfind(b"\n") + 1]
            self._offsets[path] = start + len(whole)
            new += _decoder.decode_lines(whole)
        self.events += new
        return new

    def history(self) -> list[Event]:
        """Every event so far, in order of time."""
        self.read()
        return sorted(self.events, key=lambda event: event.t)
