"""A command on a terminal of its own, of a given size."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from typing import Self

__all__ = ["OnTerminal"]

PATIENCE = 60.0
"""Seconds within which a command that was told to end has ended."""

_STYLE = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


class OnTerminal:
    """Runs `call`; what it draws is `seen`, as it came."""

    def __init__(
        self, call: list[str], *, columns: int, lines: int, cwd: str, env: dict[str, str]
    ) -> None:
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        sizeless = {key: value for key, value in env.items() if key not in ("COLUMNS", "LINES")}
        self.process = subprocess.Popen(
            call,
            cwd=cwd,
            env={**sizeless, "TERM": "xterm-256color", "PYTHONFAULTHANDLER": "1"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            preexec_fn=_heed_ctrl_c,
        )
        os.close(theirs)
        self._ours = ours
        self.seen = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)

    def until(self, text: str) -> None:
        """Read on until `text` was drawn. Fails when the command ends without it."""
        while text not in self.plain:
            assert self._read(), f"ended without {text!r}:\n{self.plain}"

    def interrupt(self) -> None:
        """What Ctrl-C does."""
        self.process.send_signal(signal.SIGINT)

    def end(self) -> int:
        """Wait for the end; the exit code. `seen` is complete then.

        A process that does not end shows where it hangs.
        """
        over = time.monotonic() + PATIENCE
        while select.select([self._ours], [], [], max(0, over - time.monotonic()))[0]:
            if not self._read():
                return self.process.wait(PATIENCE)
        self.process.send_signal(signal.SIGABRT)
        while self._read():
            pass
        raise AssertionError(f"did not end:\n{self.plain}")

    @property
    def plain(self) -> str:
        """What was drawn, one frame after the other, without colours and movements."""
        return _STYLE.sub("", self.seen).replace("\r", "\n")

    def _read(self) -> bool:
        try:
            data = os.read(self._ours, 65_536)
        except OSError:  # Linux says so when the other side is closed
            return False
        self.seen += data.decode(errors="replace")
        return bool(data)


def _heed_ctrl_c() -> None:
    """Also where the tests run in the background of a shell, which has it ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
