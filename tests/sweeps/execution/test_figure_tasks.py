"""Figures and further measurements of finished trials, encoders that are hard to measure, and what must be added to add one."""

from __future__ import annotations

import os
import sys
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure as MplFigure
from mlflow import MlflowClient

from core.datasets import ImageSet, Splits
from evaluation.evaluate import METRICS, Metric
from evaluation.per_image import DETAILS, PerImageArrays
from evaluation.trial_figures import FIGURES, Figure, FigureInputs
from sweeps.command_line import _registries
from sweeps.execution.callbacks import SweepCallback
from sweeps.execution.figure_tasks import FigureTasks, _with_priority, draw_figures
from sweeps.execution.worker import run_trial
from sweeps.planning.trial import Trial
from sweeps.reporting import tables
from sweeps.reporting.report_input import ReportInput
from sweeps.storage.image_sets import Images
from sweeps.storage.snapshot import StoreSnapshot
from sweeps.storage.trial_store import TrialStore
from tests.conftest import image_set
from tests.sweeps.tiny import arm, is_done, is_drawn, page_of, record_of, runs, tell, tiny_plan

METHODS = {name: {"method": name} for name in ("supervised", "untrained", "raw-pixels", "pca", "laplacian-eigenmaps")}


@pytest.mark.slow
def test_every_method_is_trained_evaluated_and_drawn_once(
    tmp_path: Path, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, store = tiny_plan(tmp_path, METHODS), TrialStore(tmp_path)
    for trial in plan.trials.values():
        run_trial(trial, images, tmp_path)
        assert is_done(store, trial) and not is_drawn(store, trial)
        draw_figures(trial, images, tmp_path)
        record = record_of(store, trial)
        assert record.status == "done" and {**record.problems, **store.read(trial.key).product_problems(trial)} == {}
        names = set(store.read(trial.key).figures(trial))
        assert names == {*FIGURES} - {"anomalies"} - (set() if trial.config.trained else {"loss"}) | {
            "anomalies/digits-m-patches"
        }
        assert is_drawn(store, trial) and {"probe_accuracy", "anomaly_auc", "moved_by_crop"} <= set(record.metrics)
        assert ("probe_gain" in record.metrics) == trial.config.trained
        assert ("projection_std" in record.metrics) == (trial.config.method == "vicreg")
        kept = store.detail(trial, "representations")
        assert (kept is None) == (trial.config.method == "raw-pixels")
    monkeypatch.setattr("sweeps.execution.figure_tasks.draw", None)
    monkeypatch.setattr("sweeps.execution.figure_tasks.derive", None)
    for trial in plan.trials.values():
        draw_figures(trial, images, tmp_path)


def test_details_lie_open_as_arrays(tmp_path: Path, images: Images) -> None:
    plan = tiny_plan(tmp_path, {"x": {}})
    trial = arm(plan, "base")
    run_trial(trial, images, tmp_path)
    folder = TrialStore(tmp_path).folder(trial.key) / "details"
    with np.load(folder / "anomalies@1-digits-m-patches-1.npz", allow_pickle=False) as found:
        assert found["test"].shape == (48,) and found["anomalies"].shape == (20,) and found["representation"].shape == (20, 8)
    with np.load(folder / "representations@1.npz", allow_pickle=False) as found:
        assert found["train"].shape == (80, 8) and found["train"].dtype == np.float32
        np.testing.assert_array_equal(found["test_labels"], images.of(trial.config).test.labels)


def test_a_figure_that_is_lost_is_drawn_again_and_nothing_else(tmp_path: Path, images: Images) -> None:
    plan, store = tiny_plan(tmp_path, {"x": {}}), TrialStore(tmp_path)
    trial = arm(plan, "base")
    run_trial(trial, images, tmp_path)
    draw_figures(trial, images, tmp_path)
    files = store.read(trial.key).figures(trial)
    stamps = {name: path.stat().st_mtime_ns for name, path in files.items()}
    files["spectrum"].unlink()
    assert not is_drawn(store, trial) and is_done(store, trial)
    draw_figures(trial, images, tmp_path)
    assert {name for name, path in store.read(trial.key).figures(trial).items() if path.stat().st_mtime_ns != stamps[name]} == {
        "spectrum"
    }


# -- what is hard to measure ---------------------------------------------------------------------------------------------


def measured(tmp_path: Path, images: Images, arms: dict[str, Any], name: str) -> tuple[dict[str, float], dict[str, str]]:
    plan, store = tiny_plan(tmp_path, arms), TrialStore(tmp_path)
    trial = arm(plan, name)
    run_trial(trial, images, tmp_path)
    draw_figures(trial, images, tmp_path)
    record = record_of(store, trial)
    assert record.status == "done" and is_drawn(store, trial)
    return dict(record.metrics), {**record.problems, **store.read(trial.key).product_problems(trial)}


def with_splits(splits: Splits, anomalies: ImageSet | None = None) -> Images:
    return Images({("digits-m", None, None): splits}, {"digits-m-patches": anomalies or image_set(20, seed=5)})


def test_a_collapsed_encoder(tmp_path: Path, images: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    """A constant representation: each metric has a number, or says why not."""

    def collapse(encoder: torch.nn.Sequential) -> torch.nn.Sequential:
        for parameter in encoder[2].parameters():
            torch.nn.init.zeros_(parameter)
        return encoder

    monkeypatch.setattr("sweeps.execution.worker.untrained_encoder", lambda *a: collapse(_untrained(*a)))
    from core.train import untrained_encoder as _untrained

    monkeypatch.setattr("evaluation.baselines.untrained_encoder", lambda *a: collapse(_untrained(*a)))
    metrics, problems = measured(tmp_path, images, {"u": {"method": "untrained"}}, "u")
    assert metrics["effective_rank"] == 1 and metrics["anomaly_auc"] == 0.5 and metrics["silhouette_classes"] == 0
    assert "no scale" in problems["moved_by_crop"] and "all scores are zero" in problems["anomaly_spread"]
    assert "coincide" in problems["detail tsne"] and "no tsne" in problems["figure clusters"]
    assert "spectrum" in TrialStore(tmp_path).read(arm(tiny_plan(tmp_path, {"u": {"method": "untrained"}}), "u").key).figures(
        arm(tiny_plan(tmp_path, {"u": {"method": "untrained"}}), "u")
    )


def test_without_the_variance_term(tmp_path: Path, images: Images) -> None:
    metrics, _ = measured(tmp_path, images, {"z": {"mu": 0}}, "z")
    assert "probe_accuracy" in metrics and "collapse_indicators" in metrics


def test_a_class_with_a_single_image_and_two_classes(tmp_path: Path) -> None:
    def single(n: int, seed: int) -> ImageSet:
        made = image_set(n, 2, seed)
        labels = np.r_[made.labels[:-1], 2]
        return ImageSet(made.images, labels, ("a", "b", "only"))

    for name, splits in {
        "single": Splits(single(80, 0), image_set(16, 2, seed=1), single(48, 2)),
        "two": Splits(image_set(80, 2), image_set(16, 2, seed=1), image_set(48, 2, seed=2)),
    }.items():
        metrics, problems = measured(tmp_path / name, with_splits(splits), {"s": {"method": "supervised"}}, "s")
        assert problems == {} and metrics["probe_accuracy"] > 0.5 and "cluster_accuracy" in metrics


def test_an_anomaly_set_of_one_image(tmp_path: Path, splits: Splits) -> None:
    metrics, problems = measured(tmp_path, with_splits(splits, image_set(1, seed=9)), {"x": {}}, "base")
    assert problems == {} and 0 <= metrics["anomaly_auc"] <= 1 and metrics["anomaly_spread"] == 0


def test_nan_in_a_representation(tmp_path: Path, images: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    from core.embed import embed as original

    def broken(*arguments: Any, **more: Any) -> Any:
        found = original(*arguments, **more)
        found.representation[0, 0] = np.nan
        return found

    monkeypatch.setattr("sweeps.execution.worker.embed", broken)
    metrics, problems = measured(tmp_path, images, {"x": {}}, "base")
    assert "projection_std" in metrics and {"probe_accuracy", "anomaly_auc", "silhouette", "moved_by_hue"} <= set(problems)
    assert "NaN" in problems["detail projection"] and "figure projections" in problems
    figures = (
        TrialStore(tmp_path)
        .read(arm(tiny_plan(tmp_path, {"x": {}}), "base").key)
        .figures(arm(tiny_plan(tmp_path, {"x": {}}), "base"))
    )
    assert set(figures) == {"loss"}, "what does not look at the representation is drawn"


# -- adding things -------------------------------------------------------------------------------------------------------


def test_a_new_metric_figure_and_detail_reach_everything_without_training(
    tmp_path: Path, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CONTRIBUTING's examples: one function and one line each."""
    plan, store, uri = tiny_plan(tmp_path, {"z": {"mu": 0}}), TrialStore(tmp_path), f"sqlite:///{tmp_path / 'mlflow.db'}"
    for trial in plan.trials.values():
        run_trial(trial, images, tmp_path)
        draw_figures(trial, images, tmp_path)
    tell(plan, tmp_path, uri)

    def mean_norm(inputs: Any) -> float:
        return float(np.linalg.norm(inputs.test.representation, axis=1).mean())

    def draw_norms(material: FigureInputs) -> MplFigure:
        figure = MplFigure()
        figure.subplots().hist(np.linalg.norm(material.details["norms"]["test"][:, None], axis=1))
        return figure

    monkeypatch.setitem(METRICS, "mean_norm", Metric(mean_norm, None, "mean Euclidean norm of the test representations"))
    norms = PerImageArrays(
        lambda e: {"test": np.linalg.norm(e.test.representation, axis=1)}, "norms of the test representations"
    )
    monkeypatch.setitem(DETAILS, "norms", norms)
    monkeypatch.setitem(FIGURES, "norms", Figure(draw_norms, "norms of the test representations", ("norms",)))
    assert not any(is_done(store, trial) or is_drawn(store, trial) for trial in plan.trials.values())
    monkeypatch.setattr("sweeps.execution.worker.train", None)
    for trial in plan.trials.values():
        run_trial(trial, images, tmp_path)
        draw_figures(trial, images, tmp_path)
    tell(plan, tmp_path, uri)
    client, (_, children) = MlflowClient(uri), runs(uri)
    records = [record_of(store, trial) for trial in plan.trials.values()]
    for child in children.values():
        assert child.data.metrics["mean_norm"] > 0
        assert "figures/norms.png" in {item.path for item in client.list_artifacts(child.info.run_id, "figures")}
    assert "mean_norm mean" in tables.write_tables(tmp_path, plan, records)[0].read_text()
    sweep = ReportInput(plan, records, StoreSnapshot(store), "profile", "command", None, ())
    text = page_of(sweep, images)
    assert "mean Euclidean norm of the test representations" in text
    assert "mean_norm" in _registries() and "norms of the test" in _registries()


def test_a_new_anomaly_set_reaches_everything_without_training(
    tmp_path: Path, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, store, uri = tiny_plan(tmp_path, {"z": {"mu": 0}}), TrialStore(tmp_path), f"sqlite:///{tmp_path / 'mlflow.db'}"
    for trial in plan.trials.values():
        run_trial(trial, images, tmp_path)
        draw_figures(trial, images, tmp_path)
    tell(plan, tmp_path, uri)
    anomalies = {name: f"{name}-1" for name in ("digits-m-patches", "digits-m-black")}
    trials = {key: replace(trial, anomalies=anomalies) for key, trial in plan.trials.items()}
    monkeypatch.setattr("sweeps.execution.worker.train", None)
    for trial in trials.values():
        assert (
            set(store.read(trial.key).missing_metrics(trial))
            == {n for n in store.read(trial.key).missing_metrics(trial) if n.endswith("/digits-m-black")}
            != set()
        )
        run_trial(trial, images, tmp_path)
        draw_figures(trial, images, tmp_path)
    tell(replace(plan, trials=trials), tmp_path, uri)
    client = MlflowClient(uri)
    for child in runs(uri)[1].values():
        assert "anomaly_auc/digits-m-black" in child.data.metrics
        figures = {item.path for item in client.list_artifacts(child.info.run_id, "figures")}
        assert {"figures/anomalies_digits-m-black.png", "figures/anomalies_digits-m-patches.png"} <= figures


# -- defects -------------------------------------------------------------------------------------------------------------


def test_a_defect_of_one_metric_detail_or_figure_leaves_the_others_and_is_tried_again(
    tmp_path: Path, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, store = tiny_plan(tmp_path, {"z": {"mu": 0}}), TrialStore(tmp_path)
    trial = arm(plan, "base")

    def broken(_: Any) -> Any:
        raise KeyError("oh")

    monkeypatch.setitem(METRICS, "new", Metric(broken, None, "a new one"))
    monkeypatch.setitem(DETAILS, "new", PerImageArrays(broken, "a new one"))
    monkeypatch.setitem(FIGURES, "new", Figure(broken, "a new one"))
    run_trial(trial, images, tmp_path)
    draw_figures(trial, images, tmp_path)
    record = record_of(store, trial)
    assert (
        record.status == "done"
        and "probe_accuracy" in record.metrics
        and len(store.read(trial.key).figures(trial)) == len(FIGURES) - 1
    )
    assert record.problems == {"new": "KeyError: 'oh'"} and set(store.read(trial.key).product_problems(trial)) == {
        "detail new",
        "figure new",
    }
    assert (
        set(store.read(trial.key).missing_metrics(trial))
        == set(store.read(trial.key).missing_details(trial))
        == set(store.read(trial.key).missing_figures(trial))
        == {"new"}
    )
    assert not is_done(store, trial) and not is_drawn(store, trial)
    monkeypatch.setitem(METRICS, "new", Metric(lambda _: 0.5, None, "a new one"))
    monkeypatch.setitem(DETAILS, "new", PerImageArrays(lambda _: None, "a new one"))
    monkeypatch.setitem(FIGURES, "new", Figure(lambda _: None, "a new one"))
    monkeypatch.setattr("sweeps.execution.worker.train", None)
    run_trial(trial, images, tmp_path)
    draw_figures(trial, images, tmp_path)
    assert record_of(store, trial).metrics["new"] == 0.5 and is_done(store, trial) and is_drawn(store, trial)
    assert record_of(store, trial).problems == {} == store.read(trial.key).product_problems(trial)


def test_a_figure_of_each_anomaly_set_may_need_any_detail_of_it(
    tmp_path: Path, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, store = tiny_plan(tmp_path, {"z": {"mu": 0}}), TrialStore(tmp_path)
    trial = arm(plan, "base")
    margins = PerImageArrays(lambda e: {"margin": e.anomaly_scores - e.test_scores.mean()}, "margins", per_anomaly_set=True)

    def draw_margins(m: FigureInputs, which: str) -> MplFigure:
        figure = MplFigure()
        figure.subplots().hist(m.details[f"margins/{which}"]["margin"])
        return figure

    monkeypatch.setitem(DETAILS, "margins", margins)
    monkeypatch.setitem(FIGURES, "margins", Figure(draw_margins, "margins", ("margins",), per_anomaly_set=True))
    run_trial(trial, images, tmp_path)
    draw_figures(trial, images, tmp_path)
    assert "margins/digits-m-patches" in store.read(trial.key).figures(trial)


class FakeRay:
    """Tasks that end when they are told to; stands in for the module."""

    class exceptions:  # noqa: N801
        RayError = RuntimeError

    def __init__(self) -> None:
        self.started: list[tuple[int, Trial]] = []
        self.ended: set[int] = set()
        self.results: dict[int, Any] = {}

    def remote(self, **options: Any) -> Any:
        return lambda _: SimpleNamespace(remote=self._start)

    def _start(self, niceness: int, draw: Any, trial: Trial, images: Any, storage: Path) -> int:
        self.started.append((niceness, trial))
        return len(self.started) - 1

    def wait(self, references: list[int], num_returns: int, timeout: float | None) -> tuple[list[int], list[int]]:
        if timeout is None:  # whoever waits without end sees one end
            self.ended.add(references[0])
        return [r for r in references if r in self.ended][:num_returns], []

    def get(self, reference: int) -> Any:
        result = self.results.get(reference, [])
        if isinstance(result, Exception):
            raise result
        return result


class Listener(SweepCallback):
    """Notes what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def on_damage(self, trial: Trial, found: str) -> None:
        self.told.append(found)

    def on_figures_end(self, trial: Trial) -> None:
        self.told.append(trial.arm)


@pytest.mark.parametrize(("cpu_slots", "beside"), [(1, 1), (2, 1), (5, 2), (None, 4)])
def test_drawings_run_beside_the_trials_a_few_at_a_time_where_these_take_the_cpus(
    cpu_slots: int | None, beside: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = FakeRay()
    monkeypatch.setitem(sys.modules, "ray", ray)
    plan = tiny_plan(tmp_path, {name: {"mu": i} for i, name in enumerate("abc")})
    trials, listener = list(plan.trials.values()), Listener()
    told = listener.told
    tasks = FigureTasks(None, TrialStore(tmp_path), [listener], cpu_slots=cpu_slots)
    for trial in trials:
        tasks.draw(trial)
    assert len(ray.started) == beside and told == []
    ray.ended.add(0)
    ray.results[0] = ["x.npz: damaged"]
    tasks.on_epoch_end(trials[0], {})
    assert told == ["x.npz: damaged", trials[0].arm] and len(ray.started) == min(4, beside + 1)
    assert {niceness for niceness, _ in ray.started} == ({0} if cpu_slots is None else {5})
    ray.results[3] = OSError(28, "No space left on device")
    failed = tasks.wait()
    assert list(failed) == [trials[3].key] and "No space left" in failed[trials[3].key]
    assert [trial for _, trial in ray.started] == trials and told[1:] == [trial.arm for trial in trials]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere a thread has no priority of its own")
def test_a_drawing_has_a_lower_priority_and_leaves_the_processs_alone() -> None:
    before = os.getpriority(os.PRIO_PROCESS, 0)

    def look(more: int) -> list[str]:
        return [str(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) - before + more)]

    assert _with_priority(5, look, 100) == ["105"] and _with_priority(0, look, 100) == ["100"]
    assert os.getpriority(os.PRIO_PROCESS, 0) == before

    def fail() -> list[str]:
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        _with_priority(5, fail)
