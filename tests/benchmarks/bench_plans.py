"""What a large plan costs: ``python -m tests.benchmarks.bench_plans [--quick]``: seconds and memory of ``--dry-run``."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
#: (arms, epochs of each, seeds)
_PLANS = ((1_000, 200, 1), (5_000, 15, 1), (1_000, 15, 5))
#: A process that runs the command, and prints its exit code and the most memory that it took, in MiB.
_MEASURED = """
import resource, sys
from sweeps.run import main
print(main(sys.argv[1:]), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a smoke run: figures mean nothing")
    options = parser.parse_args(arguments)
    for arms, epochs, seeds in ((5, 2, 2),) if options.quick else _PLANS:
        with tempfile.TemporaryDirectory() as folder:
            arm = {"learning_rate": [round(1e-6 * i, 8) for i in range(1, arms)]}
            grid = Path(folder) / "many.yaml"
            grid.write_text(yaml.safe_dump({"question": "?", "base": {"epochs": epochs}, "arms": {"r": arm}}))
            flags = ["--dry-run", "--profile", "digits-m", "--storage", f"{folder}/results", "--seeds", str(seeds)]
            line = [sys.executable, "-c", _MEASURED, "--grid", str(grid), *flags]
            started = time.perf_counter()
            done = subprocess.run(line, capture_output=True, text=True, check=True, cwd=ROOT)
            seconds = time.perf_counter() - started
        code, memory = done.stdout.split()[-2:]
        if code != "0":
            sys.exit(done.stdout + done.stderr)
        print(f"dry run of {arms} arms, {epochs} epochs, {seeds} seeds: {seconds:.2f} s, {memory} MiB", flush=True)


if __name__ == "__main__":
    main()
