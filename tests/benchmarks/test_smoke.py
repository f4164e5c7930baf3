"""Every benchmark runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.benchmarks import bench_core, bench_evaluation, bench_peers
from tests.benchmarks.bench_engine import ROOT
from tests.conftest import TINY, image_folder


def run(*line: str | Path | int) -> list[str]:
    """Lines that a command of Python's prints."""
    done = subprocess.run([sys.executable, *map(str, line)], capture_output=True, text=True, timeout=280, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def test_core_benchmark_runs(capsys: pytest.CaptureFixture[str]) -> None:
    bench_core.main(["--quick"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 7 and all(float(line[32:].split()[0]) > 0 for line in lines)


def test_evaluation_benchmark_runs(capsys: pytest.CaptureFixture[str]) -> None:
    bench_evaluation.main(["--quick"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 10 and all(float(line[49:].split()[0]) > 0 for line in lines)
    assert [line[34:49].strip() for line in lines] == ["ours", "scikit-learn"] * 5


def test_views_are_timed_beside_other_libraries_where_these_are_installed(capsys: pytest.CaptureFixture[str]) -> None:
    bench_peers.main(["--quick"])
    said = capsys.readouterr().out
    if "is not installed" in said:
        pytest.skip(said.strip())
    assert {line[34:49].strip() for line in said.splitlines()} == {"ours", "ours, bf16", "kornia", "lightly", "torchvision"}


def test_plan_benchmark_runs() -> None:
    (line,) = run("-m", "tests.benchmarks", "--only", "plans", "--quick")[-1:]
    assert line.startswith("dry run of 5 arms, 2 epochs, 2 seeds: ") and line.endswith(" MiB")


@pytest.mark.slow
def test_engine_benchmark_runs() -> None:
    title, *lines = run("tests/benchmarks/bench_engine.py", "--trials", 2, "--quick")
    rows = {line[:28].strip(): line[28:].split() for line in lines}
    assert title == "-- 2 trials, MLflow"
    assert 0 < float(rows["engine, a trial"][0]) < float(rows["wall"][0])
    assert all(
        float(rows[name][0]) > 0 for name in ("init", "write_report", "close", "CPU, command", "CPU, mlflow", "CPU, workers")
    )
    assert {"tracker", "all calls", "late", "held up"} <= rows.keys()


@pytest.mark.slow
def test_study_benchmark_runs(tmp_path: Path) -> None:
    grid, out = tmp_path / "tiny.yaml", tmp_path / "out.json"
    fields = {**TINY, "dataset": f"folder:{image_folder(tmp_path / 'images')}", "anomaly_datasets": [], "batch_size": 16}
    grid.write_text(yaml.safe_dump({"question": "?", "base": fields, "arms": {"n": {"pairing": "neighbors"}}}))
    lines = run("tests/benchmarks/bench_study.py", "--grid", grid, "--storage", tmp_path / "results", "--data", tmp_path,
                "--at-once", 2, "--out", out)  # fmt: skip
    assert lines[-1].startswith("2 trials, 2 at once")
    assert [row["trial"] for row in json.loads(out.read_text())["trials"]] == ["base · seed 0", "n · seed 0"]


@pytest.mark.nightly
def test_cluster_benchmark_runs() -> None:
    title, line = run("-m", "tests.benchmarks.bench_cluster", "--nodes", 1, "--trials", 2, "--epochs", 2)
    assert title.startswith("2 equal trials") and line.startswith("1 nodes: ") and line.endswith(" %")
