"""Figures and further measurements of finished trials, encoders that are hard to measure, and what must be added to add one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
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
from sweeps.command_line import _parser
from sweeps.execution.figure_tasks import draw_figures
from sweeps.execution.worker import run_trial
from sweeps.reporting import html_report, tables
from sweeps.reporting.arm_figures import Arm
from sweeps.storage.image_sets import Images
from sweeps.storage.trial_store import TrialStore
from tests.conftest import image_set
from tests.sweeps.test_engine import arm, tiny_plan
from tests.sweeps.test_engine import images as images  # noqa: PLC0414
from tests.sweeps.test_tracking import runs, tell

METHODS = {name: {"method": name} for name in ("supervised", "untrained", "raw-pixels", "pca", "laplacian-eigenmaps")}


def test_every_method_is_trained_evaluated_and_drawn_once(
    tmp_path: Path, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, store = tiny_plan(tmp_path, METHODS), TrialStore(tmp_path)
    for trial in plan.trials.values():
        run_trial(trial, images, tmp_path)
        assert store.is_done(trial) and not store.is_drawn(trial)
        draw_figures(trial, images, tmp_path)
        record = store.record(trial)
        assert record.status == "done" and {**record.problems, **store.problems(trial)} == {}
        names = set(store.figures(trial))
        assert names == {*FIGURES} - {"anomalies"} - (set() if trial.config.trained else {"loss"}) | {
            "anomalies/digits-m-patches"
        }
        assert store.is_drawn(trial) and {"probe_accuracy", "anomaly_auc", "moved_by_crop"} <= set(record.metrics)
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
    files = store.figures(trial)
    stamps = {name: path.stat().st_mtime_ns for name, path in files.items()}
    files["spectrum"].unlink()
    assert not store.is_drawn(trial) and store.is_done(trial)
    draw_figures(trial, images, tmp_path)
    assert {name for name, path in store.figures(trial).items() if path.stat().st_mtime_ns != stamps[name]} == {"spectrum"}


# -- what is hard to measure ---------------------------------------------------------------------------------------------


def measured(tmp_path: Path, images: Images, arms: dict[str, Any], name: str) -> tuple[dict[str, float], dict[str, str]]:
    plan, store = tiny_plan(tmp_path, arms), TrialStore(tmp_path)
    trial = arm(plan, name)
    run_trial(trial, images, tmp_path)
    draw_figures(trial, images, tmp_path)
    record = store.record(trial)
    assert record.status == "done" and store.is_drawn(trial)
    return dict(record.metrics), {**record.problems, **store.problems(trial)}


def with_splits(splits: Splits, anomalies: ImageSet | None = None) -> Images:
    return Images({("digits-m", None): splits}, {"digits-m-patches": anomalies or image_set(20, seed=5)})


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
    assert "spectrum" in TrialStore(tmp_path).figures(arm(tiny_plan(tmp_path, {"u": {"method": "untrained"}}), "u"))


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
    figures = TrialStore(tmp_path).figures(arm(tiny_plan(tmp_path, {"x": {}}), "base"))
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
    assert not any(store.is_done(trial) or store.is_drawn(trial) for trial in plan.trials.values())
    monkeypatch.setattr("sweeps.execution.worker.train", None)
    for trial in plan.trials.values():
        run_trial(trial, images, tmp_path)
        draw_figures(trial, images, tmp_path)
    tell(plan, tmp_path, uri)
    client, (_, children) = MlflowClient(uri), runs(uri)
    records = [store.record(trial) for trial in plan.trials.values()]
    for child in children.values():
        assert child.data.metrics["mean_norm"] > 0
        assert "figures/norms.png" in {item.path for item in client.list_artifacts(child.info.run_id, "figures")}
    assert "mean_norm mean" in tables.write_tables(tmp_path, plan, records)[0].read_text()
    sweep = html_report.Sweep(plan, records, store, "profile", "command", None, ())
    text = html_report._render("report.html.j2", html_report._content(sweep, images))
    assert "mean Euclidean norm of the test representations" in text
    assert "mean_norm" in _parser().format_help() and "norms of the test" in _parser().format_help()


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
        assert set(store.missing(trial)) == {n for n in store.missing(trial) if n.endswith("/digits-m-black")} != set()
        run_trial(trial, images, tmp_path)
        draw_figures(trial, images, tmp_path)
    tell(replace(plan, trials=trials), tmp_path, uri)
    client = MlflowClient(uri)
    for child in runs(uri)[1].values():
        assert "anomaly_auc/digits-m-black" in child.data.metrics
        figures = {item.path for item in client.list_artifacts(child.info.run_id, "figures")}
        assert {"figures/anomalies_digits-m-black.png", "figures/anomalies_digits-m-patches.png"} <= figures


# -- the page ------------------------------------------------------------------------------------------------------------


def test_the_page_is_one_file_that_needs_nothing_else(tmp_path: Path, images: Images) -> None:
    plan, store = tiny_plan(tmp_path, {"<b>z</b>": {"mu": 0}, "open": {"nu": 0}, "broken": {"lambda": 0}}), TrialStore(tmp_path)
    for name in ("base", "<b>z</b>"):
        run_trial(arm(plan, name), images, tmp_path)
        draw_figures(arm(plan, name), images, tmp_path)
    store.save_failure(arm(plan, "broken").key, "it broke <badly>")
    records = [store.record(trial) for trial in plan.trials.values()]
    sweep = html_report.Sweep(plan, records, store, "profile digits-m", "python sweeps/run.py --grid x", "abc123", ())
    text = html_report._render("report.html.j2", html_report._content(sweep, images))
    assert "<b>z</b>" not in text and "&lt;b&gt;z&lt;/b&gt;" in text and "it broke &lt;badly&gt;" in text
    assert "http" not in text.replace("http-equiv", "") and ' src="data:' in text and "@import" not in text
    for said in ("does it work?", "With one seed nothing is claimed", "Methods, ready to paste", "digits-m (digits-m-1)",
                 "abc123", "80 train images", "python sweeps/run.py --grid x", "The grid states none"):  # fmt: skip
        assert said in text, said
    without = html_report._render("report.html.j2", html_report._content(sweep, None))
    assert "could not be loaded" in without and without.count("<img") < text.count("<img")


def test_the_page_is_written_again_only_when_it_says_something_else(
    tmp_path: Path, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, store = tiny_plan(tmp_path, {"z": {"mu": 0}}), TrialStore(tmp_path)
    monkeypatch.setattr("sweeps.reporting.html_report.load_images", lambda *_: images)
    path = tmp_path / "report.html"
    run_trial(arm(plan, "base"), images, tmp_path)

    def write() -> int:
        records = [store.record(trial) for trial in plan.trials.values()]
        html_report.write_report(path, html_report.Sweep(plan, records, store, "p", "c", None, ()), tmp_path)
        return path.stat().st_mtime_ns

    first = write()
    assert write() == first
    run_trial(arm(plan, "z"), images, tmp_path)
    assert write() != first


def test_the_latex_table_escapes_what_latex_would_read(tmp_path: Path, images: Images) -> None:
    plan = tiny_plan(tmp_path, {"50%_a&b": {"mu": 0}}, seeds=(0, 1))
    for trial in plan.trials.values():
        run_trial(trial, images, tmp_path)
    records = [TrialStore(tmp_path).record(trial) for trial in plan.trials.values()]
    path = next(p for p in tables.write_tables(tmp_path, plan, records) if p.suffix == ".tex")
    text = path.read_text()
    assert r"50\%\_a\&b & 2 &" in text and r"$\pm$" in text and text.count(r"\\") == 3
    assert text.count("&") - text.count(r"\&") == 3 * (len(tables.COLUMNS) + 1)


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
    record = store.record(trial)
    assert record.status == "done" and "probe_accuracy" in record.metrics and len(store.figures(trial)) == len(FIGURES) - 1
    assert record.problems == {"new": "KeyError: 'oh'"} and set(store.problems(trial)) == {"detail new", "figure new"}
    assert set(store.missing(trial)) == set(store.missing_details(trial)) == set(store.missing_figures(trial)) == {"new"}
    assert not store.is_done(trial) and not store.is_drawn(trial)
    monkeypatch.setitem(METRICS, "new", Metric(lambda _: 0.5, None, "a new one"))
    monkeypatch.setitem(DETAILS, "new", PerImageArrays(lambda _: None, "a new one"))
    monkeypatch.setitem(FIGURES, "new", Figure(lambda _: None, "a new one"))
    monkeypatch.setattr("sweeps.execution.worker.train", None)
    run_trial(trial, images, tmp_path)
    draw_figures(trial, images, tmp_path)
    assert store.record(trial).metrics["new"] == 0.5 and store.is_done(trial) and store.is_drawn(trial)
    assert store.record(trial).problems == {} == store.problems(trial)


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
    assert "margins/digits-m-patches" in store.figures(trial)


def test_one_figure_that_cannot_be_drawn_does_not_take_the_page_with_it(
    tmp_path: Path, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, store = tiny_plan(tmp_path, {"$z": {"mu": 0}}), TrialStore(tmp_path)
    for trial in plan.trials.values():
        run_trial(trial, images, tmp_path)
    records = [store.record(trial) for trial in plan.trials.values()]
    sweep = html_report.Sweep(plan, records, store, "p", "c", None, ())
    whole = html_report._render("report.html.j2", html_report._content(sweep, images))
    assert "not drawn" not in whole

    def broken(*_: Any) -> None:
        raise KeyError("oh")

    monkeypatch.setattr("sweeps.reporting.arm_figures.invariances", broken)
    text = html_report._render("report.html.j2", html_report._content(sweep, images))
    assert "invariances by arm: not drawn, KeyError" in text and text.count("<img") == whole.count("<img") - 1


def test_of_too_many_arms_base_and_the_best_are_shown_side_by_side() -> None:
    most = html_report._SIDE_BY_SIDE
    few = [Arm(f"arm {i}", {"probe_accuracy": [i / most]}, (), {}, baseline=False, collapsed=False) for i in range(most - 1)]
    base = Arm("base", {}, (), {}, baseline=False, collapsed=False)
    assert html_report._side_by_side([*few, base], "probe_accuracy") == [*few, base]
    shown = html_report._side_by_side([*few, base, replace(few[-1], name="late")], "probe_accuracy")
    assert len(shown) == most and shown[-2:] == [base, replace(few[-1], name="late")], "in their order"
    assert [arm.name for arm in few if arm not in shown] == ["arm 0"], "the worst is left out"


@pytest.mark.parametrize(("base", "said", "unsaid"), [
    ({}, "with VICReg (Bardes", "The base arm is"),
    ({"method": "supervised"}, "The base arm is the same encoder trained with the labels", "with VICReg (Bardes"),
    ({"method": "pca"}, "The base arm is principal components", "with VICReg (Bardes"),
    ({"pairing": "pixel-neighbors"}, "views: the images as they are", "views: crop"),
])  # fmt: skip
def test_the_methods_describe_the_base_that_there_is(
    base: dict[str, Any], said: str, unsaid: str, tmp_path: Path, images: Images
) -> None:
    plan = tiny_plan(tmp_path, {"base": base, "other": {"method": "untrained"}})
    records = [TrialStore(tmp_path).record(trial) for trial in plan.trials.values()]
    text = html_report._methods(html_report.Sweep(plan, records, TrialStore(tmp_path), "p", "c", None, ()), [0], images)
    assert said in text and unsaid not in text and "80 train images" in text


def test_the_primary_metric_leads_the_tables(tmp_path: Path, images: Images) -> None:
    plan, store = tiny_plan(tmp_path, {"z": {"mu": 0}}), TrialStore(tmp_path)
    plan = replace(plan, grid=plan.grid.model_copy(update={"primary": "nmi", "question": "one\ntwo | <three>"}))
    run_trial(arm(plan, "base"), images, tmp_path)
    records = [store.record(trial) for trial in plan.trials.values()]
    assert tables.columns_of(plan)[0] == "nmi" and "base/nmi" in tables.parent_metrics(plan, records)
    text = tables.latex(plan, tables.summarize(records))
    assert all(line.startswith(("%", "\\")) or "&" in line for line in text.splitlines())
    said = html_report.markdown(html_report.Sweep(plan, records, store, "p", "c", None, ()))
    assert said.startswith(r"**one two \| \<three\>**") and "| arm | n | nmi |" in said
    many = {f"arm-{i}": {"mu": 1 + i} for i in range(60)}
    plan = tiny_plan(tmp_path, many)
    said = html_report.markdown(
        html_report.Sweep(plan, [store.record(trial) for trial in plan.trials.values()], store, "p", "c", None, ())
    )
    assert said.count("\n| arm-") == 39 and "The other 21 arms are in `table.csv`." in said, (
        "MLflow cuts notes at 8,000 characters"
    )
