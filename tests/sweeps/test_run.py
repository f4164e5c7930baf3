"""Whole sweeps on Ray, with a grid of tiny trials."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow import MlflowClient

from sweeps.storage.trial_store import TrialStore
from tests.conftest import ROOT, image_folder
from tests.sweeps.tiny import BASE, children

#: What grids of this file look at: few images, for t-SNE of 2,000 takes longer than all else here.
FEW = "folder:few"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where commands run, with their data and the images of FEW."""
    root = tmp_path_factory.mktemp("data")
    image_folder(root / "few")
    return root


def run(cache: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        str(ROOT / "sweeps" / "run.py"),
        "--profile",
        "digits-m",
        "--data",
        str(cache),
        *map(str, arguments),
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=cache)


def grid(tmp_path: Path, arms: dict[str, Any], **base: Any) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump({"question": "does it work?", "base": BASE | {"dataset": FEW} | base, "arms": arms}))
    return path


def test_a_sweep_and_its_repetition(tmp_path: Path, cache: Path) -> None:
    storage = tmp_path / "results"
    first = grid(tmp_path, {"n": {"pairing": "neighbors"}, "pca": {"method": "pca"}})
    done = run(cache, "--grid", first, "--storage", storage)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("profile digits-m, as asked; Ray sees")
    assert "mlflow ui --backend-store-uri sqlite:///" in done.stdout and "table.csv" in done.stdout
    before = children(storage)
    assert {name.split()[1] for name in before} == {"base", "n", "pca"}
    assert {run.info.status for run in before.values()} == {"FINISHED"}
    stamps = {path: path.stat().st_mtime_ns for path in (storage / "trials").rglob("*.*")}

    (table,) = storage.glob("sweeps/*/table.csv")
    content = table.read_bytes()
    table.write_bytes(content.replace(b"0", b"1", 1))
    again = run(cache, "--grid", first, "--storage", storage)
    assert f"damaged: {table}: its content is not what was written" in again.stdout and table.read_bytes() == content
    assert (table.parent / "damaged" / "table.csv").exists()
    assert again.returncode == 0 and "3 of 3 trials are done, nothing is trained" in again.stdout
    assert {path: path.stat().st_mtime_ns for path in (storage / "trials").rglob("*.*")} == stamps
    assert {name: r.info.run_id for name, r in children(storage).items()} == {n: r.info.run_id for n, r in before.items()}


@pytest.mark.nightly
def test_a_further_anomaly_set_and_a_second_grid_train_nothing_again(tmp_path: Path, cache: Path) -> None:
    storage = tmp_path / "results"
    first = grid(tmp_path, {"n": {"pairing": "neighbors"}, "pca": {"method": "pca"}})
    done = run(cache, "--grid", first, "--storage", storage)
    assert done.returncode == 0, done.stdout + done.stderr
    before = children(storage)
    stamps = {path: path.stat().st_mtime_ns for path in (storage / "trials").rglob("*.*")}
    more = '["digits-m-patches", "digits-m-black"]'
    done = run(cache, "--grid", first, "--storage", storage, "--set", f"anomaly_datasets={more}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 to run (3 of them trained already, to be evaluated)" in done.stdout
    extended = children(storage)
    assert {name: r.info.run_id for name, r in extended.items()} == {n: r.info.run_id for n, r in before.items()}
    assert all("anomaly_auc/digits-m-black" in r.data.metrics for r in extended.values())
    assert "digits-m-black" in next(storage.glob("sweeps/tiny-*/report.html")).read_text()
    trained = {path: path.stat().st_mtime_ns for path in (storage / "trials").rglob("trained.json")}
    assert trained.items() <= stamps.items(), "nothing was trained again"

    second = tmp_path / "other.yaml"
    second.write_text(yaml.safe_dump({"question": "and this?", "base": BASE | {"dataset": FEW}, "arms": {"z": {"mu": 0}}}))
    done = run(cache, "--grid", second, "--storage", storage)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 trials, 1 done already, 1 to run" in done.stdout
    new = {name: r for name, r in children(storage).items() if name.startswith("other-")}
    assert {name.split()[1] for name in new} == {"base", "z"}
    base = {r.data.tags["arm"]: r for r in new.values()}["base"]
    assert base.info.status == "FINISHED" and base.data.metrics["train/loss"] > 0 and "probe_accuracy" in base.data.metrics


@pytest.mark.slow
def test_a_failing_trial_takes_only_its_dependents_with_it(tmp_path: Path, cache: Path) -> None:
    storage = tmp_path / "results"
    doomed = {"learning_rate": 1e9, "optimizer": "sgd"}
    path = grid(tmp_path, {
        "doomed": doomed,
        "child": {"pairing": "neighbors", "parent": doomed},
        "fine": {"mu": 0},
    })  # fmt: skip
    done = run(cache, "--grid", path, "--storage", storage)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "NonFiniteLossError: the loss is not finite" in done.stdout and "epoch 1" in done.stdout
    assert "skipped child" in done.stdout and "its parent (doomed" in done.stdout
    status = {name.split()[1]: r.info.status for name, r in children(storage).items()}
    assert status == {"base": "FINISHED", "fine": "FINISHED", "doomed": "FAILED", "child": "KILLED"}
    again = run(cache, "--grid", path, "--storage", storage)
    assert again.returncode == 1 and "4 trials, 2 done already, 2 to run" in again.stdout, "the same command tries them again"


@pytest.mark.nightly
@pytest.mark.timeout(900)
def test_continuation_trains_the_longest_member_alone(tmp_path: Path, cache: Path) -> None:
    path = grid(tmp_path, {"e": {"epochs": [1, 2, 4]}})
    together, alone = tmp_path / "together", tmp_path / "alone"
    assert run(cache, "--grid", path, "--storage", together).returncode == 0
    assert run(cache, "--grid", path, "--storage", alone, "--arms", "e/epochs=4").returncode == 0
    trained = {key: TrialStore(together).read(key).training for key in TrialStore(together).trial_keys()}
    assert sorted(t.epochs_trained for t in trained.values() if t) == [1, 1, 2]
    (key,) = (key for key in TrialStore(alone).trial_keys() if (t := TrialStore(alone).read(key).training) and t.epochs_trained)
    one, other = TrialStore(together).read(key).results, TrialStore(alone).read(key).results
    assert {i: r.value for i, r in one.items()} == {i: r.value for i, r in other.items()}


@pytest.mark.slow
def test_ray_sees_as_many_gpus_as_we_say() -> None:
    code = (
        "import ray; from sweeps.execution.machine import gpus_of_this_machine\n"
        "ray.init(address='local', include_dashboard=False, log_to_driver=False)\n"
        "assert int(ray.cluster_resources().get('GPU', 0)) == gpus_of_this_machine()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120, env=os.environ)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.real_data
def test_a_sweep_on_real_images_from_folders(tmp_path: Path, real_data: Path, cache: Path) -> None:
    path = grid(tmp_path, {"n": {"pairing": "neighbors"}}, dataset=f"folder:{real_data / 'cifar10'}",
                anomaly_datasets=[f"folder:{real_data / 'mnist'}"], train_subset=1000)  # fmt: skip
    done = run(cache, "--grid", path, "--storage", tmp_path / "results")
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(r.data.metrics["anomaly_auc"] > 0 for r in children(tmp_path / "results").values())


@pytest.mark.nightly
@pytest.mark.timeout(1500)
def test_two_drivers_started_together_share_the_work(tmp_path: Path, cache: Path) -> None:
    """One new storage, one new database: every trial is trained once, MLflow has each once, both end well."""
    path = grid(tmp_path, {"n": {"pairing": "neighbors"}, "z": {"mu": 0}}, epochs=4, train_subset=1000, dataset="digits-m")
    other = tmp_path / "other.yaml"
    other.write_text(path.read_text())
    storage = tmp_path / "results"
    command = [
        sys.executable,
        str(ROOT / "sweeps" / "run.py"),
        "--profile",
        "digits-m",
        "--data",
        str(cache),
        "--storage",
        str(storage),
    ]
    for grids in ((path, path), (other, path)):
        drivers = [
            subprocess.Popen(
                [*command, "--grid", str(which)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=cache
            )
            for which in grids
        ]
        said = [driver.communicate(timeout=600)[0] for driver in drivers]
        assert [driver.returncode for driver in drivers] == [0, 0], said
    trained = [TrialStore(storage).read(key).training for key in TrialStore(storage).trial_keys()]
    assert [t.epochs_trained for t in trained if t] == [4, 4, 4]
    client = MlflowClient(f"sqlite:///{storage / 'mlflow.db'}")
    found = [r for e in client.search_experiments() for r in client.search_runs([e.experiment_id])]
    keys = [(r.data.tags["sweep"], r.data.tags.get("trial_key")) for r in found]
    assert len(keys) == len(set(keys)) == 8, "two sweeps, each a parent and three children"
    assert {r.info.status for r in found} == {"FINISHED"}
    for r in found:
        points = [(n, p.step) for n in r.data.metrics for p in client.get_metric_history(r.info.run_id, n)]
        if r.data.tags["role"] == "trial":
            assert len(points) == len(set(points)), "each (metric, step) once"


@pytest.mark.slow
def test_a_factorial_says_what_each_part_contributes(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "tiny.yaml"
    switches = {"invariance": {"lambda": 0}, "variance": {"mu": 0}, "grey": {"augmentation": {"grey": 0}}}
    base = BASE | {"dataset": FEW, "anomaly_datasets": [FEW], "nu": 0, "epochs": 1}
    path.write_text(yaml.safe_dump({"question": "does it work?", "base": base, "factorial": switches}))
    done = run(cache, "--grid", path, "--storage", tmp_path / "results", "--seeds", 2)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "what each part contributes to probe accuracy, n = 2" in done.stdout and "contributions.csv" in done.stdout
    (found,) = (tmp_path / "results").glob("sweeps/*/contributions.csv")
    rows = {(row["metric"], row["quantity"], row["of"]): row for row in csv.DictReader(found.open(encoding="utf-8"))}
    values = [float(rows["probe_accuracy", "shapley", switch]["value"]) for switch in switches]
    assert sum(values) == pytest.approx(float(rows["probe_accuracy", "total", "all"]["value"]))
    assert {"probe_accuracy_backbone", "knn_accuracy", "anomaly_auc"} <= {metric for metric, _, _ in rows}
    page = next((tmp_path / "results").glob("sweeps/*/report.html")).read_text(encoding="utf-8")
    assert "none (the untrained encoder)" in page and "not drawn" not in page
