"""The main job, ``--grid ablations`` as the README gives it: run once, looked at by several tests."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow import MlflowClient

from tests.conftest import ROOT
from tests.sweeps.tiny import children


@dataclass(frozen=True)
class MainJob:
    """A finished main job: where its results are, and what it printed."""

    storage: Path
    stdout: str

    @property
    def sweep_folder(self) -> Path:
        """Where the report and the tables are."""
        (folder,) = (self.storage / "sweeps").iterdir()
        return folder

    @property
    def report(self) -> Path:
        """The report's page."""
        return self.sweep_folder / "report.html"


def run_main_job(folder: Path, *flags: str) -> MainJob:
    """Run the command in a folder, with further flags."""
    storage = folder / "results"
    command = [sys.executable, str(ROOT / "sweeps" / "run.py"), "--grid", "ablations", "--profile", "digits-m"]
    line = [*command, "--data", str(folder / "data"), "--storage", str(storage), *flags]
    done = subprocess.run(line, capture_output=True, text=True, timeout=2000)
    assert done.returncode == 0, done.stdout + done.stderr
    return MainJob(storage, done.stdout)


def check_main_job(job: MainJob) -> None:
    """Every arm, figure, table and artifact is there, and the arms are in the studies' order."""
    found = {r.data.tags["arm"]: r for r in children(job.storage).values()}
    assert len(found) == 14 and {r.info.status for r in found.values()} == {"FINISHED"}
    probe = {name: r.data.metrics["probe_accuracy"] for name, r in found.items()}
    assert probe["base"] > probe["neighbors"] > probe["no-variance"]
    assert probe["supervised"] > probe["base"] > max(probe["raw-pixels"], probe["untrained"], probe["pca"])
    collapsed = {name: r.data.metrics.get("collapse_indicators") for name, r in found.items()}
    assert collapsed["base"] == 0 and collapsed["no-variance"] == 3
    client = MlflowClient(f"sqlite:///{job.storage / 'mlflow.db'}")
    for run in found.values():
        _check_run(client, run)
    experiment = found["base"].info.experiment_id
    models = client.search_logged_models([experiment])
    assert {m.source_run_id for m in models} == {r.info.run_id for r in found.values() if "encoder" in r.data.params}
    (parent,) = client.search_runs([experiment], "tags.role = 'sweep'")
    kept = {item.path for item in client.list_artifacts(parent.info.run_id)}
    assert {"report.html", "table.csv", "trials.csv", "table.tex", "contrasts.csv", "sweep.json"} == kept
    text = job.report.read_text()
    assert "http://" not in text and "https://" not in text and text.count("data:image/png") >= 18


def _check_run(client: MlflowClient, run: Any) -> None:
    figures = {"anomalies_digits-m-patches", "anomalies_digits-m-black", "projections", "retrieval", "clusters", "spectrum"}
    expected = figures | {"invariances"} | ({"loss"} if "epochs" in run.data.params else set())
    assert {Path(item.path).stem for item in client.list_artifacts(run.info.run_id, "figures")} == expected
    assert {"mu", "lambda", "nu"} <= set(run.data.params) and run.inputs.dataset_inputs
