"""The real command line, as processes of their own in a directory of the test's own."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Awaitable, Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, TypeVar

from terminal import OnTerminal

from taskloom import Loom, Task
from taskloom.cli import main
from taskloom.interfaces import TaskArchive

T = TypeVar("T")
Done = subprocess.CompletedProcess[str]

APP = """
import asyncio, time
from taskloom import Loom

loom = Loom("sqlite:///app.db")
not_a_loom = 42

def make_loom():
    return loom

@loom.task(retries=0)
async def wait(path: str) -> str:
    print("waiting", flush=True)
    while not __import__("pathlib").Path(path).exists():
        await asyncio.sleep(0.01)
    return "done"

@loom.task(retries=0)
def hang() -> None:
    print("hanging", flush=True)
    while True:
        time.sleep(0.05)

@loom.task(retries=0)
async def block() -> None:
    print("blocking", flush=True)
    while True:
        pass

@loom.task(queue="mail", retries=0)
async def fail(text: str) -> None:
    raise ValueError(text)

@loom.task(queue="mail")
async def greet(name: str) -> dict[str, str]:
    return {"greeting": f"hello {name}"}
"""


class Running:
    """A command that was started; its stdout and stderr are one stream of lines."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.seen = ""

    def until(self, *texts: str) -> str:
        """Read on until a line holds all of `texts`; that line. Fails when the command ends."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.seen += line
            if all(text in line for text in texts):
                return line
        raise AssertionError(f"ended without {texts}:\n{self.seen}")

    def tell(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def end(self, timeout: float = 30) -> int:
        """Wait for the end; the exit code. `seen` is complete then."""
        rest, _ = self.process.communicate(timeout=timeout)
        self.seen += rest
        return self.process.returncode


class CommandLine:
    """Runs commands in `place`, where app.py holds a Loom on app.db."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.started: list[subprocess.Popen[str]] = []
        self.write("app", APP)

    def write(self, module: str, source: str) -> None:
        """Put a module beside app.py."""
        (self.place / f"{module}.py").write_text(textwrap.dedent(source))

    def run(self, *args: str, **environment: str) -> Done:
        """Run a command to its end."""
        return subprocess.run(
            self._call(args),
            cwd=self.place,
            env=self._environment(environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=50,
        )

    def call(self, *args: str) -> Done:
        """The same in this process, which is faster; not for `worker`, which takes signals."""
        out, err = io.StringIO(), io.StringIO()
        argv, sys.argv = sys.argv, ["taskloom", *args]
        code: object = None
        try:
            with contextlib.chdir(self.place), redirect_stdout(out), redirect_stderr(err):
                main()
        except SystemExit as end:
            code = end.code
        finally:
            sys.argv = argv
        return Done([*args], int(str(code or 0)), out.getvalue(), err.getvalue())

    def json(self, *args: str) -> Any:
        """The JSON that a command answers with."""
        done = self.call(*args, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def start(self, *args: str) -> Running:
        """Start a command; it is killed at the end of the test, if it still lives."""
        process = subprocess.Popen(
            self._call(args),
            cwd=self.place,
            env=self._environment({}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.started.append(process)
        return Running(process)

    def on_terminal(self, *args: str, columns: int, lines: int) -> OnTerminal:
        """Start a command on a terminal of its own; to be used with `with`."""
        return OnTerminal(
            self._call(args),
            columns=columns,
            lines=lines,
            cwd=str(self.place),
            env=self._environment({}),
        )

    def add(self, type: str, queue: str = "default", **payload: Any) -> str:
        """Add a task of app.py; its id."""
        task = Task(type=type, queue_id=queue, payload=payload)
        self.ask(lambda loom: loom.add_tasks([task]))
        return task.id

    def task(self, id: str) -> Task[Any]:
        """A task as it is now."""
        return self.ask(lambda loom: loom.get_tasks([id]))[0]

    def workers(self) -> set[int]:
        """The process ids of the workers alive."""
        return {worker.pid for worker in self.ask(lambda loom: _archive(loom).workers())}

    def ask(self, question: Callable[[Loom], Awaitable[T]]) -> T:
        """What the database of app.py answers."""

        async def ask() -> T:
            async with Loom(f"sqlite:///{self.place}/app.db") as loom:
                return await question(loom)

        return asyncio.run(ask())

    @staticmethod
    def _call(args: tuple[str, ...]) -> list[str]:
        return [sys.executable, "-m", "taskloom", *args]

    @staticmethod
    def _environment(more: dict[str, str]) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if key != "TASKLOOM_URL"}
        return {**kept, "COLUMNS": "120", **more}


def _archive(loom: Loom) -> TaskArchive:
    assert isinstance(loom.handler.storage, TaskArchive)
    return loom.handler.storage
