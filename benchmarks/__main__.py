"""Run the benchmarks and print the table: `python -m benchmarks [PART …]`."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks import (
    adding,
    adding_servers,
    backlog,
    cost_kinesis,
    drain_memory,
    drain_servers,
    drain_sqlite,
    flows,
    growth,
    latency,
    latency_servers,
    many_workers,
    memory_use,
    waiting,
)
from benchmarks.harness import Figure, Options
from benchmarks.noise import Noise
from benchmarks.report import show, write

PARTS: dict[str, Callable[[Options], list[Figure]]] = {
    "drain-sqlite": drain_sqlite.figures,
    "add": adding.figures,
    "drain-memory": drain_memory.figures,
    "flows": flows.figures,
    "latency": latency.figures,
    "waiting": waiting.figures,
    "backlog": backlog.figures,
    "memory": memory_use.figures,
    "drain-redis": drain_servers.redis,
    "drain-postgres": drain_servers.postgres,
    "drain-mongodb": drain_servers.mongodb,
    "drain-kinesis": drain_servers.kinesis,
    "add-redis": adding_servers.redis,
    "add-postgres": adding_servers.postgres,
    "add-mongodb": adding_servers.mongodb,
    "add-kinesis": adding_servers.kinesis,
    "cost-kinesis": cost_kinesis.figures,
    "latency-redis": latency_servers.redis,
    "latency-postgres": latency_servers.postgres,
    "growth": growth.figures,
    "workers": many_workers.figures,
}


def main() -> int:
    """Measure the parts asked for, all unless told; the table goes to standard output.

    A part that fails is reported and does not take the others' figures with it; the exit code is
    then 1.
    """
    given = _arguments()
    options = Options(rounds=given.rounds, quick=given.quick, million=given.million)
    noise, figures, failed = Noise(), list[Figure](), False
    noise.look()
    for name in dict.fromkeys(given.parts or PARTS):
        print(f"{name} …", file=sys.stderr)
        try:
            figures += PARTS[name](options)
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            print(f"{name} failed: {error}", file=sys.stderr)
            failed = True
    noise.look()
    show(figures, noise)
    write(given.json, figures, noise)
    return int(failed)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"one of: {', '.join(PARTS)}")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each (default 5)")
    parser.add_argument("--quick", action="store_true", help="without the million waiting tasks")
    parser.add_argument(
        "--million", action="store_true", help="the growth curve up to a million, minutes more"
    )
    parser.add_argument(
        "--json",
        type=Path,
        default=Path(__file__).with_name("results.json"),
        help="where the numbers of all rounds go (default %(default)s)",
    )
    given = parser.parse_args()
    if unknown := set(given.parts) - PARTS.keys():
        parser.error(f"no such part: {', '.join(sorted(unknown))}; there are: {', '.join(PARTS)}")
    if given.rounds < 1:
        parser.error("--rounds must be at least 1")
    return given


if __name__ == "__main__":
    sys.exit(main())
