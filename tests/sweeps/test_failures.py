"""A trial whose loss is not finite, one that raises, one whose worker is killed for memory: the others finish."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import yaml

from tests.conftest import ROOT
from tests.sweeps.tiny import BASE, children

pytestmark = [pytest.mark.slow, pytest.mark.alone, pytest.mark.timeout(1200)]

DOOMED = {"learning_rate": 1e9, "optimizer": "sgd"}
ARMS = {"raises": {"mu": 1}, "hungry": {"mu": 2}, "doomed": DOOMED, "child": {"pairing": "neighbors", "parent": DOOMED}}
REASONS = {
    "raises": "KeyError: 'an odd one'",
    "hungry": "killed for memory by Ray's monitor",
    "doomed": "NonFiniteLossError: the loss is not finite",
    "child": "its parent (doomed · seed 0) failed",
}


def test_each_failure_is_shown_with_its_reason_and_the_others_finish(tmp_path: Path) -> None:
    grid = tmp_path / "failing.yaml"
    grid.write_text(yaml.safe_dump({"question": "does it fail well?", "base": BASE, "arms": ARMS}))
    memory = psutil.virtual_memory()
    threshold = (memory.total - memory.available) / memory.total + 0.15
    command = [sys.executable, "-m", "tests.sweeps.failing", "--profile", "digits-m", "--grid", str(grid),
               "--storage", str(tmp_path / "results"), "--data", str(tmp_path / "data")]  # fmt: skip
    surroundings = os.environ | {"RAY_memory_usage_threshold": f"{threshold:.2f}", "RAY_memory_monitor_refresh_ms": "100"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=1100, cwd=ROOT, env=surroundings)
    assert done.returncode == 1, done.stdout + done.stderr
    runs = {name.split()[1]: run for name, run in children(tmp_path / "results").items()}
    report = next((tmp_path / "results").glob("sweeps/*/report.html")).read_text().replace("&#39;", "'")
    (trials,) = (tmp_path / "results").glob("sweeps/*/trials.csv")
    rows = {row["arm"]: row for row in csv.DictReader(trials.open())}
    table = done.stdout[done.stdout.rindex("┏") :]
    for name, reason in REASONS.items():
        assert runs[name].info.status == ("KILLED" if name == "child" else "FAILED")
        assert reason in runs[name].data.tags["reason"] and reason in rows[name]["reason"] and reason in report
        assert f"{rows[name]['status']} {name} · seed 0: " in done.stdout and reason[:10] in table
    assert "its worker died" in done.stdout and "Traceback" not in done.stdout
    assert runs["base"].info.status == "FINISHED" and rows["base"]["status"] == "done"

    again = subprocess.run([*command, "--dry-run"], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert "5 trials, 1 done already, 4 to run" in again.stdout, "the same command tries them again"
