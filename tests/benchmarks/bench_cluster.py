"""Scaling over nodes: ``python -m tests.benchmarks.bench_cluster [--nodes 1,2,4]``.

Equal trials (one arm, several seeds, small image sets) through the real command on clusters of one-core nodes, each a raylet of
its own on this machine. Prints for each size the wall time from the first trial's start to the last one's end, and what the
engine adds to the time that slots spend training and evaluating, in per cent: ``wall * slots in use / sum of the trials' times
in their slots - 1``, where slots in use are the nodes, or the trials if fewer. More nodes than cores share the cores, so trials
take longer there: compare the per cent, not the speed.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path

import yaml

from tests.cluster.nodes import Nodes
from tests.conftest import ROOT, TINY, image_folder


def measure(nodes: int, trials: int, images: Path, epochs: int) -> tuple[float, float, float]:
    """Seconds from first start to last end, sum of the trials' seconds in their slots, and per cent added."""
    folder = Path(tempfile.mkdtemp(prefix="bench-cluster-"))
    audit = folder / "audit.jsonl"
    environment = {
        "CHAOS_AUDIT": str(audit),
        "CHAOS_AUDIT_ENDS": "1",
        "PYTHONPATH": str(ROOT / "tests" / "fault_injection" / "audit"),
    }
    grid = folder / "equal.yaml"
    fields = {**TINY, "dataset": f"folder:{images}", "anomaly_datasets": [], "batch_size": 32, "epochs": epochs}
    grid.write_text(yaml.safe_dump({"question": "does it scale?", "base": fields, "arms": {"base": {}}}))
    with Nodes(folder, environment=environment) as cluster:
        for _ in range(nodes):
            cluster.add()
        done = cluster.run("--grid", grid, "--profile", "digits-m", "--data", folder / "data", "--storage", folder / "results",
                           "--seeds", trials, environment=environment)  # fmt: skip
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)
    events = [json.loads(line) for line in audit.read_text().splitlines()]
    spans = [(event["began"], event["time"]) for event in events if event["what"] == "trial ended"]
    wall = max(end for _, end in spans) - min(begin for begin, _ in spans)
    spent = sum(end - begin for begin, end in spans)
    return wall, spent, 100 * (wall * min(nodes, trials) / spent - 1)


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=lambda text: [int(part) for part in text.split(",")], default=[1, 2, 4])
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=30)
    options = parser.parse_args(arguments)
    images = image_folder(Path(tempfile.mkdtemp(prefix="bench-images-")), train=1000)
    print(f"{options.trials} equal trials, {os.cpu_count()} cores")
    for nodes in options.nodes:
        wall, spent, added = measure(nodes, options.trials, images, options.epochs)
        print(f"{nodes} nodes: {wall:7.1f} s; in their slots {spent:7.1f} s; the engine adds {added:5.1f} %", flush=True)


if __name__ == "__main__":
    main()
