"""The report's sections on readouts, metrics without labels, anomaly scores and the arms' similarity."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from evaluation.evaluate import METRICS, Metric
from evaluation.per_image import detail_ids
from evaluation.similarity import linear_cka
from sweeps.analysis.arm_summary import summarize
from sweeps.analysis.label_free import LABEL_FREE
from sweeps.analysis.metric_differences import ANOMALY_SCORES, READOUTS
from sweeps.planning.trial import Plan
from sweeps.reporting.anomaly_score_figure import anomaly_scores
from sweeps.reporting.arm_figures import Arm
from sweeps.reporting.comparison_sections import build_comparisons
from sweeps.reporting.report_input import ReportInput
from sweeps.reporting.similarity_figure import Representations, heat_map, representations
from sweeps.storage.snapshot import StoreSnapshot
from sweeps.storage.trial_store import TrialStore
from tests.sweeps.analysis.test_claim_tests import records
from tests.sweeps.tiny import finish, page_of, record_of, snapshot, tiny_plan

ARMS: dict[str, Any] = {
    "no-invariance": {"lambda": 0}, "neighbors": {"pairing": "neighbors"}, "raw": {"method": "raw-pixels"},
}  # fmt: skip
#: Small deviations by seed that cancel in no difference.
NOISE = [0.001, -0.002, 0.001, 0.003, -0.001]
SETS = "digits-m-patches"


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The metrics' names are known, whether or not their functions are there yet."""
    for name in (*READOUTS, *LABEL_FREE, *ANOMALY_SCORES):
        stub = Metric(lambda _: None, "higher", "a stub", per_anomaly_set=name in ANOMALY_SCORES)
        monkeypatch.setitem(METRICS, name, METRICS.get(name, stub))


def input_of(plan: Plan, tmp_path: Path, means: dict[str, dict[str, float]]) -> ReportInput:
    """A report whose arms have these means, with deviations of their own over the seeds."""
    values = {
        arm: {name: [value + (1 + i) * noise for noise in np.roll(NOISE, i)] for name, value in numbers.items()}
        for i, (arm, numbers) in enumerate(means.items())
    }
    return ReportInput(plan, records(plan, values), StoreSnapshot(TrialStore(tmp_path)), "p", "c", None, ())


def test_an_arm_about_which_readouts_disagree_has_a_sentence(tmp_path: Path) -> None:
    plan = tiny_plan(tmp_path, ARMS, seeds=tuple(range(5)))
    base = {"probe_accuracy": 0.6, "probe_accuracy_backbone": 0.5, "knn_accuracy_cosine": 0.4, "knn_accuracy": 0.3}
    means = {
        "base": base,
        "no-invariance": {"probe_accuracy": 0.29, "probe_accuracy_backbone": 0.4, "knn_accuracy_cosine": 0.42,
                          "knn_accuracy": 0.3005},
        "neighbors": {name: value - 0.1 for name, value in base.items()},
    }  # fmt: skip
    sweep = input_of(plan, tmp_path, means)
    section = build_comparisons(sweep).readouts
    assert section is not None
    assert section.names == ["probe_accuracy", "probe_accuracy_backbone", "knn_accuracy", "knn_accuracy_cosine"]
    assert section.missing == "probe_accuracy_projection, knn_accuracy_cosine_backbone, knn_accuracy_cosine_projection"
    assert section.sentences == [
        "no-invariance: below base by the probe of the representation (-0.310) and the probe of the backbone (-0.100); "
        "above base by cosine kNN of the representation (+0.020): the answer depends on the readout."
    ]
    cells = {row.arm: row.cells for row in section.rows}
    assert list(cells) == ["base", *ARMS]
    assert [cell.side for cell in cells["no-invariance"]] == ["below", "below", "unclear", "above"]
    assert re.fullmatch(r"0\.29\d\d ± 0\.00\d\d", cells["no-invariance"][0].value)
    assert [(cell.value, cell.side) for cell in cells["raw"]] == [("-", "")] * 4
    assert all(cell.side == "" for cell in cells["base"])
    assert "paired t-test" in section.intervals and "not corrected" in section.intervals and "one seed" not in section.intervals
    text = page_of(sweep, None)
    assert 'href="#readouts"' in text and section.sentences[0] in text and "arXiv 2206.13378" in text
    agreeing = page_of(input_of(plan, tmp_path, {"base": base, "neighbors": means["neighbors"]}), None)
    assert "No arm is above base by one readout and below it by another." in agreeing


def test_with_one_seed_signs_beyond_the_margin_are_compared_and_it_is_said(tmp_path: Path) -> None:
    plan = tiny_plan(tmp_path, ARMS)
    values = {"base": {"probe_accuracy": [0.6], "knn_accuracy": [0.4]}, "neighbors": {"probe_accuracy": [0.5]}}
    values["no-invariance"] = {"probe_accuracy": [0.5], "knn_accuracy": [0.42]}
    values["neighbors"]["knn_accuracy"] = [0.405]
    section = build_comparisons(ReportInput(plan, records(plan, values), snapshot(tmp_path), "p", "c", None, ())).readouts
    assert section is not None
    (sentence,) = section.sentences
    assert sentence.startswith("no-invariance (one seed): below base by the probe") and "(+0.020)" in sentence
    assert "rests on one seed" in section.intervals and "0.01" in section.intervals and "95 %" not in section.intervals


def test_sections_without_measurements_are_left_out(tmp_path: Path) -> None:
    plan = tiny_plan(tmp_path, ARMS, seeds=(0, 1))
    sweep = input_of(plan, tmp_path, {arm: {"probe_accuracy": 0.5, f"anomaly_auc/{SETS}": 0.5} for arm in ("base", *ARMS)})
    found = build_comparisons(sweep)
    assert (found.readouts, found.label_free, found.anomaly_scores) == (None, None, None)
    text = page_of(sweep, None)
    for name in ("readouts", "label-free", "anomaly-scores", "similarity"):
        assert f'id="{name}"' not in text and f'href="#{name}"' not in text


def test_ranks_without_labels_are_on_the_page(tmp_path: Path) -> None:
    arms = {**{f"a{i}": {"mu": i} for i in range(6)}, "raw": {"method": "raw-pixels"}}
    plan = tiny_plan(tmp_path, arms, seeds=(0, 1))
    means = {arm: {"probe_accuracy": 0.5 + 0.05 * i, "lidar": 30.0 - i, "alpha_req": 0.2 + 0.1 * i}
             for i, arm in enumerate(("base", *arms))}  # fmt: skip
    means["a5"] = {"probe_accuracy": 0.1, "collapse_indicators": 3.0}
    sweep = input_of(plan, tmp_path, means)
    section = build_comparisons(sweep).label_free
    assert section is not None and section.metrics == ["probe_accuracy", "lidar", "alpha_req"]
    assert [(row.metric, row.all_arms, row.n_arms) for row in section.correlations] == [
        ("lidar", "-1.00 (-1.00 to -1.00)", 6), ("alpha_req", "+1.00 (+1.00 to +1.00)", 6)
    ]  # fmt: skip
    assert [row.arm for row in section.rows] == ["a4", "a3", "a2", "a1", "a0", "base", "a5"]
    assert section.rows[0].cells == ["1", "6", "1"] and section.rows[-1].cells == ["7", "-", "-"]
    assert [row.arm for row in section.rows if row.collapsed] == ["a5"] and section.other_methods == "raw"
    text = page_of(sweep, None)
    assert "a5 (collapsed)" in text and "Left out: raw." in text and "Not measured: rankme, rankme_projection" in text


def test_neighbours_have_a_sentence_for_each_set_and_other_arms_where_scores_disagree(tmp_path: Path) -> None:
    plan = tiny_plan(tmp_path, ARMS, seeds=tuple(range(5)))
    names = [f"{name}/{SETS}" for name in ANOMALY_SCORES]
    means = {
        "base": dict.fromkeys(names, 0.7),
        "no-invariance": dict(zip(names, (0.8, 0.7, 0.6), strict=True)),
        "neighbors": dict(zip(names, (0.8, 0.79, 0.9), strict=True)),
        "raw": dict(zip(names, (0.8, 0.79, 0.9), strict=True)),
    }
    sweep = input_of(plan, tmp_path, means)
    section = build_comparisons(sweep).anomaly_scores
    assert section is not None and section.missing == ""
    (said,) = section.neighbours
    assert said.startswith(f"neighbors, {SETS}: above base by the distance to the 2 nearest") and said.endswith("(+0.201).")
    (said,) = section.sentences
    assert said.startswith(f"no-invariance, {SETS}: below base by the Mahalanobis distance (-0.1")
    assert said.endswith("train images (+0.100): the answer depends on the score.")
    text = page_of(sweep, None)
    assert said in text and 'id="anomaly-scores"' in text and "AUC of anomaly scores by arm" in text and "not drawn" not in text


def test_the_figure_of_scores_has_a_panel_for_each_set_and_bases_mean_for_each_score() -> None:
    names = list(ANOMALY_SCORES)
    draw = np.random.default_rng(0)
    sets = ["one", "two", "only the first score"]
    values = {f"{name}/{which}": list(draw.random(3)) for name in names for which in sets[:2]}
    arms = [Arm(name, {k: list(np.add(v, shift)) for k, v in values.items()} | {f"anomaly_auc/{sets[2]}": [0.5]}, (), {},
                baseline=False, collapsed=False) for name, shift in (("base", 0.0), ("high", 0.2), ("low", -0.2))]  # fmt: skip
    figure = anomaly_scores(arms, {name: name for name in sets}, "base")
    assert figure is not None and [axes.get_title() for axes in figure.axes] == ["one", "two"]
    for axes, which in zip(figure.axes, sets, strict=False):
        lines = [float(line.get_xdata()[0]) for line in axes.lines]  # type: ignore[index,arg-type]
        assert lines == pytest.approx([np.mean(values[f"{name}/{which}"]) for name in names])
        means = [axes.collections[2 * i + 1].get_offsets() for i in range(3)]
        for i, name in enumerate(names):
            assert np.asarray(means[i])[:, 0] == pytest.approx(np.mean(values[f"{name}/{which}"]) + np.array([-0.2, 0, 0.2]))
        places = np.sort(np.concatenate([np.asarray(m)[:, 1] for m in means]))
        assert np.diff(places).min() > 0.2, "no two marks on one height"
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["low", "base", "high"]
    only = [replace(arm, values={f"anomaly_auc/{sets[0]}": [0.5]}) for arm in arms]
    assert anomaly_scores(only, {name: name for name in sets}, "base") is None


def saved(plan: Plan, store: TrialStore, arrays: dict[tuple[str, int], Any]) -> None:
    """Finished trials, whose test representations are these by arm and seed."""
    for trial in plan.trials.values():
        finish(store, trial)
        points = arrays.get((trial.arm, trial.config.seed if trial.config.has_encoder else 0))
        if points is not None:
            id_ = detail_ids(trial.anomalies)["representations"]
            found = {"train": points, "test": points}
            store.save_results(trial.key, {id_: store.make(trial.key, id_, lambda found=found: found)})


def test_representations_are_of_a_common_seed_and_each_file_is_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arms = {**ARMS, "pca": {"method": "pca"}, "same": {}, "nan": {"mu": 0}, "less": {"train_subset": 50}, "late": {"nu": 0}}
    plan, store = tiny_plan(tmp_path, arms, seeds=(0, 1, 2)), TrialStore(tmp_path)
    draw = np.random.default_rng(0)
    arrays = {(arm, seed): draw.normal(size=(20, 4)).astype(np.float32)
              for arm in ("base", *arms) if arm != "raw" for seed in (0, 1, 2)}  # fmt: skip
    arrays["nan", 1][3, 2] = np.nan
    saved(plan, store, arrays)
    found = [record_of(store, trial) for trial in plan.trials.values()]
    # seed 0 is lacking for two arms, and of late there is only seed 0
    found = [r for r in found if not (r.trial.arm in ("neighbors", "no-invariance") and r.trial.config.seed == 0)]
    found = [r for r in found if not (r.trial.arm == "late" and r.trial.config.seed != 0)]
    state, read = StoreSnapshot(store), []
    original = type(state.state(found[0].trial.key)).detail

    def detail(self: Any, trial: Any, name: str) -> Any:
        read.append((trial.key, name))
        return original(self, trial, name)

    monkeypatch.setattr(type(state.state(found[0].trial.key)), "detail", detail)
    got = representations(summarize(found), plan.base, state)
    assert got.seed == 1 and list(got.of_arms) == ["base", "same", "no-invariance", "neighbors", "pca"]
    for arm in ("base", "no-invariance", "neighbors"):
        assert np.array_equal(got.of_arms[arm], arrays[arm, 1])
    assert np.array_equal(got.of_arms["pca"], arrays["pca", 0]) and got.of_arms["same"] is got.of_arms["base"]
    assert len(read) == len(set(read)) == 6
    assert got.left_out_text == (
        "Left out: raw (its representations are not kept), nan (its representation holds NaN or infinity), less (other images "
        "than base's), late (seed 1 is not done)."
    )


def panel_of(figure: Figure | None) -> tuple[Any, list[str]]:
    assert figure is not None
    table = figure.axes[1].images[0].get_array()
    return np.ma.filled(table, np.nan), [text.get_text() for text in figure.axes[1].get_yticklabels()]


def test_the_heat_map_is_in_the_trees_order_with_what_is_not_defined_last() -> None:
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(50, 4)), draw.normal(size=(50, 6))
    given = {"x": x, "constant": np.full((50, 3), 0.1), "y": y, "x again": x + 0.2 * draw.normal(size=x.shape),
             "y again": y + 0.2 * draw.normal(size=y.shape)}  # fmt: skip
    figure = heat_map(Representations(given, 0, {}))
    table, names = panel_of(figure)
    assert names[-1] == "constant" and {names[0][0], names[1][0]} in ({"x"}, {"y"}), "alike arms are neighbours"
    for i, one in enumerate(names[:-1]):
        for j, other in enumerate(names[:-1]):
            assert table[i, j] == pytest.approx(linear_cka(given[one], given[other]))
    assert np.isnan(table[-1]).all() and np.isnan(table[:, -1]).all()
    assert figure is not None
    leaves, depths = zip(*((line.get_ydata(), line.get_xdata()) for line in figure.axes[0].lines), strict=True)
    ends = sorted(float(at[k]) for at, deep in zip(leaves, depths, strict=True) for k in (0, 3) if deep[k] == 0)
    assert ends == [0, 1, 2, 3], "a branch ends at the row of its arm"
    first = min(depths, key=max)
    assert max(first) == pytest.approx(1 - max(table[i, i + 1] for i in range(3)))
    assert heat_map(Representations({"x": x, "constant": given["constant"]}, 0, {})) is None
    assert heat_map(Representations({}, None, {})) is None


def test_the_similarity_is_on_the_page_with_the_arms_that_it_lacks(tmp_path: Path) -> None:
    plan, store = tiny_plan(tmp_path, ARMS), TrialStore(tmp_path)
    draw = np.random.default_rng(0)
    saved(plan, store, {(arm, 0): draw.normal(size=(20, 4)).astype(np.float32) for arm in ("base", *ARMS) if arm != "raw"})
    found = records(plan, {arm: {"probe_accuracy": [0.5]} for arm in ("base", *ARMS)})
    text = page_of(ReportInput(plan, found, StoreSnapshot(store), "p", "c", None, ()), None)
    assert 'href="#similarity"' in text and 'alt="linear CKA of the arms"' in text and "not drawn" not in text
    assert "Left out: raw (its representations are not kept)." in text
