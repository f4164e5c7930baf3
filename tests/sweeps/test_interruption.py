"""Whole commands that a signal ends, or that meet a full disk."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from sweeps import finish
from sweeps.execution.runner import SweepRunner
from sweeps.run import main
from sweeps.tracking.tracker import Tracker
from tests.conftest import ROOT, image_folder
from tests.sweeps.tiny import BASE


def _command(tmp_path: Path, storage: Path, **base: object) -> list[str]:
    folder = f"folder:{image_folder(tmp_path / 'few', 100, 40)}"
    fields = BASE | {"dataset": folder, "anomaly_datasets": [folder], "train_subset": 60, "batch_size": 16} | base
    grid = tmp_path / "tiny.yaml"
    grid.write_text(yaml.safe_dump({"question": "?", "base": fields, "arms": {"z": {"mu": 0}}}), encoding="utf-8")
    return [sys.executable, str(ROOT / "sweeps" / "run.py"), "--profile", "digits-m", "--grid", str(grid), "--arms", "base",
            "--storage", str(storage), "--data", str(tmp_path / "data")]  # fmt: skip


@pytest.mark.parametrize(("error", "code"), [(OSError(28, "No space left on device"), 1), (KeyboardInterrupt(), 130)], ids=str)
def test_mlflows_run_and_ray_are_ended_where_tables_cannot_be_written(
    error: BaseException, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def conclude(*_: object) -> None:
        raise error

    ended: list[str] = []
    monkeypatch.setattr(finish, "conclude", conclude)
    monkeypatch.setattr(Tracker, "abandon", lambda _: ended.append("MLflow's run"))
    monkeypatch.setattr(SweepRunner, "close", lambda _: ended.append("Ray"))
    monkeypatch.setattr(sys, "setswitchinterval", lambda _: None)
    (tmp_path / "results" / "trials").mkdir(parents=True)
    places = ["--storage", str(tmp_path / "results"), "--data", str(tmp_path / "data")]
    assert main(["--grid", "augmentations", "--profile", "digits-m", "--report-only", *places]) == code
    assert ended == ["MLflow's run", "Ray"]


@pytest.mark.nightly
def test_sigterm_stops_workers_saves_what_is_done_and_says_how_to_continue(tmp_path: Path) -> None:
    command = _command(tmp_path, tmp_path / "results", epochs=10_000, train_subset=20, batch_size=8)
    driver = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8", cwd=tmp_path)
    assert driver.stdout is not None
    while not list((tmp_path / "results").glob("trials/*/checkpoint.pt")):
        assert driver.poll() is None, driver.communicate()
        time.sleep(0.2)
    driver.send_signal(signal.SIGTERM)
    out, said = driver.communicate(timeout=250)
    assert driver.returncode == 143, said
    assert said.startswith(f"interrupted by SIGTERM; continue with: {sys.executable} {ROOT}/sweeps/run.py --profile digits-m")
    assert "table.csv" in out and list((tmp_path / "results").glob("sweeps/*/report.html"))
    assert not list((tmp_path / "results").glob("vicreg-sweeps-*")), "no scratch folder is left"


@pytest.mark.nightly
@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0 or not shutil.which("unshare"), reason="mounts a file system")
def test_a_full_disk_is_named_and_is_no_interruption(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    line = [*_command(tmp_path, small / "results"), "--tracking-uri", f"sqlite:///{tmp_path / 'mlflow.db'}"]
    script = f'mount -t tmpfs -o size=150k none {small} && exec "$@"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "sh", *line], capture_output=True, encoding="utf-8", timeout=280, cwd=tmp_path
    )  # fmt: skip
    if "mount" in done.stderr and not done.stdout:
        pytest.skip("no file system can be mounted here")
    assert done.returncode == 1 and "interrupted" not in done.stderr, done.stdout + done.stderr
    assert f"No space left on device; the file system {small} is full" in done.stdout and "free some space there" in done.stdout
