"""Runs the blocks of one page the way a reader would, in a directory of its own.

- ```python runs in the page's namespace, in order; a bare `await` is allowed, on one event loop.
- ```python title="app.py" is written to that file; the same title again is appended to it. So is
  any other language.
- ```text title="Output" is what the Python block above it prints.
- ```console: each line that starts with `$ ` is run. What is shown below it must come, in that
  order; lines in between may be left out, and `…` stands for anything. `ID` in a command is the
  first task id that was printed last. `^C` stops a command that does not end by itself, once all
  that is shown above it has come. Where they end by themselves, `taskloom …` and `python file.py`
  run in this process: starting Python for each would take longer than all the rest.
- `postgresql://…` and `redis://…` are real databases, empty at first; see `page_servers`.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import inspect
import io
import os
import re
import runpy
import shlex
import signal
import sys
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

from page_servers import CLIENTS, PageServers
from pages import Block

from taskloom.cli import main

__all__ = ["PageRun"]

_IN_PROCESS = re.compile(r"taskloom |python \w+\.py( |$)")

LIMIT = 30.0
"""Seconds a command may take."""

_BIN = Path(sys.executable).parent
_ID = re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b")
_STOPPED = "^C"


class PageRun:
    """What the blocks of a page share: a directory, a namespace, an event loop, databases."""

    def __init__(
        self, directory: Path, module: ModuleType, runner: asyncio.Runner, servers: PageServers
    ) -> None:
        self._directory = directory
        self._module = module
        self._runner = runner
        self._servers = servers
        self._printed = ""
        self._last_id = ""

    def run(self, block: Block) -> None:
        """Run one block; an `AssertionError` says what is not as the page shows it."""
        if block.title == "Output":
            missing = first_missing(block.text.splitlines(), self._printed.splitlines())
            assert missing is None, f"{place(block)}: not printed: {missing}\n{self._printed}"
        elif block.title is not None:
            with (self._directory / block.title).open("a") as file:
                file.write(self._servers.real(block.text))
        elif block.language == "python":
            self._run_python(block)
        elif block.language == "console":
            for command, shown in commands_of(block):
                self._run_command(block, command, shown)

    def _run_python(self, block: Block) -> None:
        # Blank lines in front, so that a traceback names the line of the page.
        source = "\n" * (block.line - 1) + self._servers.real(block.text)
        flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        code = compile(source, str(block.page), "exec", flags=flags, dont_inherit=True)
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            if code.co_flags & inspect.CO_COROUTINE:
                self._runner.run(_await(code, vars(self._module)))
            else:
                exec(code, vars(self._module))
        self._printed = self._servers.shown(printed.getvalue())

    def _run_command(self, block: Block, command: str, shown: list[str]) -> None:
        command = self._servers.real(re.sub(r"\bID\b", lambda _: self._last_id, command))
        if _IN_PROCESS.match(command) and not _is_stopped(shown):
            printed, exit_code = self._run_here(command)
        else:
            printed, exit_code = self._runner.run(self._execute(command, shown))
        printed = self._servers.shown(printed)
        expected = [line for line in shown if line.strip() != _STOPPED]
        missing = first_missing(expected, printed.splitlines())
        report = f"{place(block)}: $ {command} (exit code {exit_code})"
        assert missing is None, f"{report}: not printed: {missing}\n{printed}"
        refused = any("Error:" in line for line in shown)
        assert refused == (exit_code != 0), f"{report}\n{printed}"
        if ids := _ID.findall(printed):
            self._last_id = ids[0]

    def _run_here(self, command: str) -> tuple[str, int]:
        """What it prints, and its exit code, with the page's modules as they are now."""
        self.forget_modules()
        printed, code = io.StringIO(), 0
        work: Callable[[], object]
        program, *arguments = shlex.split(command)
        if program == "python":
            program, *arguments = arguments
            work = partial(runpy.run_path, program, run_name="__main__")
        else:
            program, work = str(_BIN / program), main
        with (
            mock.patch.object(sys, "argv", [program, *arguments]),
            mock.patch.dict(os.environ, _environment(), clear=True),
            contextlib.redirect_stdout(printed),
            contextlib.redirect_stderr(printed),
        ):
            try:
                work()
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else int(end.code is not None)
        return printed.getvalue(), code

    def forget_modules(self) -> None:
        """Import the page's files anew next time."""
        for name, module in list(sys.modules.items()):
            if str(self._directory) in str(getattr(module, "__file__", "")):
                del sys.modules[name]

    async def _execute(self, command: str, shown: list[str]) -> tuple[str, int]:
        """All that a command prints, and its exit code."""
        process = await asyncio.create_subprocess_shell(
            f"exec {_with_client(command)}",
            stdout=PIPE,
            stderr=STDOUT,
            cwd=self._directory,
            env=_environment(),
        )
        assert process.stdout is not None
        stops = [line.strip() for line in shown].index(_STOPPED) if _is_stopped(shown) else None
        lines: list[str] = []
        try:
            async with asyncio.timeout(LIMIT):
                async for line in process.stdout:
                    lines.append(self._servers.shown(line.decode().rstrip("\n")))
                    if stops is not None and first_missing(shown[:stops], lines) is None:
                        process.send_signal(signal.SIGINT)
                        stops = None
                return "\n".join(lines), await process.wait()
        except TimeoutError:
            return "\n".join([*lines, "(it did not end)"]), -1
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


async def _await(code: Any, namespace: dict[str, Any]) -> None:
    await eval(code, namespace)


def _is_stopped(shown: list[str]) -> bool:
    return any(line.strip() == _STOPPED for line in shown)


def _with_client(command: str) -> str:
    program, space, arguments = command.partition(" ")
    found = CLIENTS.get(program)
    return command if found is None else f"{found()}{space}{arguments}"


def _environment() -> dict[str, str]:
    own = {key: value for key, value in os.environ.items() if not key.startswith("TASKLOOM")}
    path = f"{_BIN}{os.pathsep}{os.environ.get('PATH', '')}"
    return {**own, "PATH": path, "PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1", "NO_COLOR": "1"}


def commands_of(block: Block) -> list[tuple[str, list[str]]]:
    """Each command of a console block with the lines that are shown below it."""
    found: list[tuple[str, list[str]]] = []
    for line in block.text.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], []))
        elif line.strip():
            assert found, f"{place(block)}: output before the first command"
            found[-1][1].append(line)
    return found


def first_missing(shown: list[str], printed: list[str]) -> str | None:
    """The first of the `shown` lines that does not come, in order, in what was printed."""
    rest = iter([_words(line) for line in printed])
    for line in shown:
        words = re.escape(_words(line)).replace("…", ".*")
        if words and not any(re.fullmatch(words, candidate) for candidate in rest):
            return line
    return None


def _words(line: str) -> str:
    """A line without what only lays it out: frames depend on the width of what is in them."""
    return " ".join(re.sub("[─-╿]", " ", line).split())


def place(block: Block) -> str:
    """Where a block stands."""
    return f"{block.page.name}:{block.line}"
