"""Eight worker processes on one queue: how many tasks a second, and none of them twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.engines import Engine, on_both
from benchmarks.harness import Figure, Options, alternate, measure
from benchmarks.many_workers_app import COUNTED_TASKS, GATE, PLACE, URL

__all__ = ["figures"]

_ROOT = Path(__file__).resolve().parents[1]
_TASKS = 60_000
_WORKERS = 8
_PATIENCE = 120.0
_LOOK_EVERY = 0.01


def figures(options: Options) -> list[Figure]:
    """`taskloom worker --processes 8`, beside the same with one process."""
    with on_both() as engines:
        return [_figure(engine, options) for engine in engines]


def _figure(engine: Engine, options: Options) -> Figure:
    found = alternate(
        options.rounds,
        {"eight": lambda: _rate(engine, _WORKERS), "one": lambda: _rate(engine, 1)},
    )
    return Figure(
        what=f"{engine.name}: {_WORKERS} worker processes, {os.cpu_count()} CPUs",
        unit="tasks/s",
        ours=found["eight"],
        against="one process",
        theirs=found["one"],
    )


def _rate(engine: Engine, workers: int) -> float:
    with TemporaryDirectory(prefix="taskloom-bench-") as name, engine.empty() as url:
        measure("ours:fill", url=url, tasks=_TASKS)
        engine.settle(url)
        place = Path(name)
        with _at_work(url, place, workers):
            _wait(lambda: len(_tallies(place)) == workers, "not every worker has got a task")
            (place / GATE).touch()
            start = time.perf_counter()
            _wait(lambda: _ran(place) >= _TASKS, "not every task has run")
            seconds = time.perf_counter() - start
        _check_once(place)
    return _TASKS / seconds


@contextmanager
def _at_work(url: str, place: Path, workers: int) -> Iterator[None]:
    """Workers that hold their first tasks until the gate opens; told to stop afterwards."""
    options = ["--processes", str(workers), "--log-level", "error"]
    process = subprocess.Popen(
        [sys.executable, "-m", "taskloom", "worker", "benchmarks.many_workers_app:loom", *options],
        cwd=_ROOT,
        env={**os.environ, URL: url, PLACE: str(place), COUNTED_TASKS: str(_TASKS)},
        stdout=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        if process.wait(_PATIENCE) != 0:
            raise RuntimeError("a worker did not end well")


def _wait(done: Callable[[], bool], otherwise: str) -> None:
    end = time.monotonic() + _PATIENCE
    while not done():
        if time.monotonic() > end:
            raise RuntimeError(otherwise)
        time.sleep(_LOOK_EVERY)


def _tallies(place: Path) -> list[bytes]:
    """How often each task ran, a byte each, by worker."""
    return [file.read_bytes() for file in place.glob("*.tally")]


def _ran(place: Path) -> int:
    return sum(len(tally) - tally.count(0) for tally in _tallies(place))


def _check_once(place: Path) -> None:
    runs = [sum(of_one) for of_one in zip(*_tallies(place), strict=True)]
    if runs != [1] * _TASKS:
        raise RuntimeError(f"{runs.count(0)} tasks never ran, {max(runs)} runs of one at most")
