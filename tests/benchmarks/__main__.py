"""All benchmarks: ``python -m tests.benchmarks [--only core evaluation peers plans engine cluster] [--quick]``.

The figures, with the machines they come from, are kept in docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Callable

import torch

from tests.benchmarks import bench_cluster, bench_core, bench_engine, bench_evaluation, bench_peers, bench_plans

#: Name -> (command line, arguments of a smoke run).
BENCHMARKS: dict[str, tuple[Callable[[list[str]], None], list[str]]] = {
    "core": (bench_core.main, ["--quick"]),
    "evaluation": (bench_evaluation.main, ["--quick"]),
    "peers": (bench_peers.main, ["--quick"]),
    "plans": (bench_plans.main, ["--quick"]),
    "engine": (bench_engine.main, ["--quick", "--trials", "2"]),
    "cluster": (bench_cluster.main, ["--nodes", "1", "--trials", "2", "--epochs", "2"]),
}


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=BENCHMARKS, default=list(BENCHMARKS))
    parser.add_argument("--quick", action="store_true", help="a smoke run: figures mean nothing")
    options = parser.parse_args(arguments)
    print(f"{os.cpu_count()} cores of {platform.processor() or platform.machine()}, torch {torch.__version__}")
    for name in options.only:
        print(f"\n{name}")
        command, quick = BENCHMARKS[name]
        command(quick if options.quick else [])


if __name__ == "__main__":
    main()
