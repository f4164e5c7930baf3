"""Claims, against scipy's tests on the same numbers; facts and sentences about arms."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import norm, spearmanr, t, ttest_1samp, ttest_rel

from core.errors import InputError
from sweeps.analysis.arm_facts import arm_facts, is_collapsed, rank_correlations, result_sentence
from sweeps.analysis.arm_summary import summarize
from sweeps.analysis.claim_tests import judge
from sweeps.analysis.contrasts import contrasts
from sweeps.analysis.significance import PAIRED_T_TEST
from sweeps.planning.claim import parse_claim
from sweeps.planning.trial import Plan
from sweeps.storage.records import TrainingRecord, TrialRecord, TrialStatus
from tests.sweeps.tiny import tiny_plan

ARMS = {"z": {"mu": 0}, "n": {"pairing": "neighbors"}, "raw": {"method": "raw-pixels"}}
NAMES = ["base", *ARMS]


def records(plan: Plan, values: dict[str, dict[str, list[float]]], **training: Any) -> list[TrialRecord]:
    """Values: arm -> metric -> one number for each seed."""
    history = tuple({"epoch": e, "seconds": 2.0, "images_per_second": 40.0} for e in (1, 2))
    given = {"history": history, "pairs": {"label_purity": 0.5, "distinct_partners": 7}, "seconds": 4.0, "epochs_trained": 2,
             "device": "CPU, x", "threads": 1, "versions": {}, "finished": 0.0} | training  # fmt: skip
    found = []
    for trial in plan.trials.values():
        numbers = values.get(trial.arm, {})
        seed = trial.config.seed if trial.config.has_encoder else 0
        own = given if trial.config.trained else given | {"history": (), "pairs": None}
        metrics = {name: v[seed] for name, v in numbers.items() if seed < len(v)}
        found.append(TrialRecord(trial, TrialStatus.DONE if metrics else TrialStatus.PENDING, TrainingRecord(**own), metrics))  # type: ignore[arg-type]
    return found


def verdict(tmp_path: Path, text: str, values: dict[str, dict[str, list[float]]], seeds: int = 5) -> Any:
    plan = tiny_plan(tmp_path, ARMS, seeds=tuple(range(seeds)))
    return judge([parse_claim(text, NAMES)], summarize(records(plan, values)))[0]


BASE, LOW = [0.50, 0.52, 0.49, 0.55, 0.51], [0.41, 0.40, 0.42, 0.44, 0.40]


def test_a_link_is_scipys_paired_t_test(tmp_path: Path) -> None:
    found = verdict(tmp_path, "silhouette: base > n", {"base": {"silhouette": BASE}, "n": {"silhouette": LOW}})
    (comparison,) = found.comparisons
    reference = ttest_rel(BASE, LOW)
    assert found.outcome == "holds" and comparison.n == 5
    assert comparison.p == pytest.approx(reference.pvalue, rel=1e-9)
    assert comparison.interval == pytest.approx(tuple(reference.confidence_interval(0.95)), rel=1e-9)
    differences = np.subtract(BASE, LOW)
    half = t.ppf(0.975, 4) * differences.std(ddof=1) / np.sqrt(5)
    assert comparison.interval == pytest.approx((differences.mean() - half, differences.mean() + half), rel=1e-9)


def test_a_chain_needs_every_link_and_fails_by_one(tmp_path: Path) -> None:
    near = [v + d for v, d in zip(LOW, (0.01, -0.02, 0.015, -0.01, 0.01), strict=True)]
    three = {"base": {"nmi": BASE}, "n": {"nmi": LOW}, "z": {"nmi": near}}
    assert verdict(tmp_path, "nmi: base > n > z", three).outcome == "undecided"
    assert verdict(tmp_path, "nmi: n > base > z", three).outcome == "fails"
    far = three | {"z": {"nmi": [v - 0.2 for v in BASE]}}
    assert verdict(tmp_path, "nmi: base > n > z", far).outcome == "holds"
    assert verdict(tmp_path, "nmi: z < n < base", far).outcome == "holds"


def test_all_links_of_all_claims_are_one_family(tmp_path: Path) -> None:
    n, z = np.subtract(BASE, [0.05, 0.012, 0.06, 0.004, 0.04]), np.subtract(BASE, [0.07, 0.0, 0.02, 0.05, 0.01])
    values = {"base": {"nmi": BASE}, "n": {"nmi": list(n)}, "z": {"nmi": list(z)}, "raw": {"nmi": [0.3]}}
    plan = tiny_plan(tmp_path, ARMS, seeds=tuple(range(5)))
    texts = ["nmi: base > n > z", "nmi: base > raw", "silhouette: base > n", "nmi: base > 0.1"]
    found = judge([parse_claim(text, NAMES) for text in texts], summarize(records(plan, values)))
    links = [link for claim in found for link in claim.comparisons]
    p = [ttest_rel(values["base"]["nmi"], values["n"]["nmi"]).pvalue, ttest_rel(values["n"]["nmi"], values["z"]["nmi"]).pvalue,
         ttest_1samp(np.subtract(BASE, 0.3), 0).pvalue, ttest_1samp(np.subtract(BASE, 0.1), 0).pvalue]  # fmt: skip
    assert [link.p for link in links] == pytest.approx(p)
    for k, i in enumerate(sorted(range(4), key=lambda i: p[i])):  # Holm, step by step
        assert links[i].p_holm == pytest.approx(max(min(1, (4 - j) * q) for j, q in enumerate(sorted(p)[: k + 1])))
    assert found[2].outcome == "not measured" and found[3].outcome == "holds"
    alone = judge([parse_claim("nmi: base > n", NAMES)], summarize(records(plan, values)))[0]
    assert alone.outcome == "holds", "alone it holds, among four it does not"
    assert found[0].comparisons[0].outcome == "undecided"


def test_with_one_seed_nothing_is_decided(tmp_path: Path) -> None:
    found = verdict(tmp_path, "nmi: base > n", {"base": {"nmi": [0.9]}, "n": {"nmi": [0.1]}}, seeds=1)
    assert found.outcome == "undecided" and "one seed" in found.reason and found.comparisons[0].difference == pytest.approx(0.8)


def test_numbers_and_arms_without_seeds_are_compared_to_every_seed(tmp_path: Path) -> None:
    values = {"base": {"nmi": BASE}, "raw": {"nmi": [0.3]}}
    found = verdict(tmp_path, "nmi: base > raw", values)
    assert (
        found.outcome == "holds"
        and found.comparisons[0].n == 5
        and found.comparisons[0].difference == pytest.approx(np.mean(BASE) - 0.3)
    )
    assert verdict(tmp_path, "nmi: base > 0.3", values).comparisons[0].p == pytest.approx(found.comparisons[0].p)
    assert verdict(tmp_path, "nmi: raw < 0.9", values).outcome == "undecided", "one value, whatever the seeds"


def test_only_seeds_of_both_arms_count(tmp_path: Path) -> None:
    found = verdict(tmp_path, "nmi: base > n", {"base": {"nmi": BASE}, "n": {"nmi": LOW[:3]}})
    assert found.comparisons[0].n == 3 and found.comparisons[0].p == pytest.approx(ttest_rel(BASE[:3], LOW[:3]).pvalue)


def test_a_folder_goes_by_its_last_part_and_a_set_that_is_not_there_is_said(tmp_path: Path) -> None:
    values = {"base": {"anomaly_auc/folder:/x/mnist": BASE}, "n": {"anomaly_auc/folder:/x/mnist": LOW}}
    assert verdict(tmp_path, "anomaly_auc/mnist: base > n", values).outcome == "holds"
    absent = verdict(tmp_path, "anomaly_auc/cifar100: base > n", values)
    assert absent.outcome == "not measured" and "no anomaly set cifar100" in absent.reason
    unrun = verdict(tmp_path, "anomaly_auc/mnist: base > z", values)
    assert unrun.outcome == "not measured" and "not run" in unrun.reason


def test_equal_differences_are_no_division_by_zero() -> None:
    assert PAIRED_T_TEST([0.1, 0.1, 0.1]) is None and PAIRED_T_TEST([0.0, 0.0]) is None and PAIRED_T_TEST([0.1]) is None


def test_without_spread_nothing_is_decided(tmp_path: Path) -> None:
    found = verdict(tmp_path, "nmi: base > n", {"base": {"nmi": [0.5, 0.5]}, "n": {"nmi": [0.25, 0.25]}}, seeds=2)
    assert found.outcome == "undecided" and "without the spread" in found.reason


@pytest.mark.parametrize(("text", "named"), [
    ("probe_acuracy: base > n", "did you mean 'probe_accuracy'"),
    ("nmi: base > neighbour", "'neighbour' is no arm"),
    ("nmi: base > n < z", "no claim of the form"),
    ("nmi: base", "no claim of the form"),
    ("base > n", "no claim of the form"),
    ("nmi/mnist: base > n", "no number for each anomaly set"),
    ("nmi: 1 > 2", "compares no arm"),
    ("nmi: base > nan", "'nan' is no arm"),
    ("nmi: base > base", "with itself"),
    ("anomaly_auc/: base > n", "without a name"),
])  # fmt: skip
def test_what_is_no_claim_is_refused(text: str, named: str) -> None:
    with pytest.raises(InputError, match=named):
        parse_claim(text, NAMES)


# -- facts ---------------------------------------------------------------------------------------------------------------


def test_facts_follow_from_what_was_trained(tmp_path: Path) -> None:
    plan = tiny_plan(tmp_path, {**ARMS, "na": {"pairing": "neighbors+augment"}, "s": {"method": "supervised"}})
    found = records(plan, {name: {"nmi": [0.5]} for name in ("base", "z", "n", "na", "raw", "s")})
    facts = {f.arm: f for f in arm_facts(summarize(found), {r.trial.key: r for r in found})}
    base = facts["base"]
    assert base.facts["optimiser steps"] == "10", "two epochs of 80 images in batches of 16"
    assert base.facts["views"] == "320" and base.facts["anchor augmented"] == "yes" and base.facts["pair purity"] == "0.500"
    assert base.facts["training"] == "4 s" and facts["n"].facts["training"] == "4 s + 4 s of its parent"
    assert facts["n"].facts["anchor augmented"] == "no" and facts["raw"].facts["optimiser steps"] == ""
    assert facts["s"].facts["views"] == "160"
    assert facts["z"].fields == {"mu": ("25", "0")} and facts["z"].differing == 1
    assert facts["n"].differing == 2 and facts["na"].differing == 1, "the pairing, and that nothing is augmented"
    assert facts["n"].fields["augmentation"] == ("as in base", "none")


def test_sentences_describe_and_claim_no_cause(tmp_path: Path) -> None:
    plan = tiny_plan(tmp_path, ARMS, seeds=(0, 1, 2, 3, 4))
    values = {"base": {"probe_accuracy": BASE, "silhouette": LOW}, "n": {"probe_accuracy": LOW},
              "z": {"probe_accuracy": LOW, "collapse_indicators": [3, 3, 2, 3, 3]}}  # fmt: skip
    found = records(plan, values)
    summaries = {s.arm: s for s in summarize(found)}
    facts = {f.arm: f for f in arm_facts(list(summaries.values()), {r.trial.key: r for r in found})}
    tested = {c.arm: c for c in contrasts(list(summaries.values()), "probe_accuracy", 0.01)}
    said = result_sentence(summaries["n"], summaries["base"], facts["n"], "probe_accuracy", tested["n"])
    assert "probe accuracy 0.414" in said and "(n = 5)" in said and "0.100 below base" in said and "95 % interval" in said
    assert "differs from base in 2 things" in said
    assert is_collapsed(summaries["z"]) and "collapsed (2.8 of 3 indicators)" in result_sentence(
        summaries["z"], summaries["base"], facts["z"], "probe_accuracy"
    )
    assert result_sentence(summaries["raw"], summaries["base"], facts["raw"], "probe_accuracy").startswith("no result")
    alone = summarize([r for r in found if r.trial.config.seed == 0])
    assert "one seed: nothing is claimed" in result_sentence(alone[2], alone[0], facts["n"], "probe_accuracy")


def test_agreement_is_spearmans_with_and_without_collapsed_arms(tmp_path: Path) -> None:
    arms = {f"a{i}": {"mu": i} for i in range(6)}
    plan = tiny_plan(tmp_path, arms)
    draw = np.random.default_rng(3)
    names = ["base", *arms]
    values = {name: {metric: [draw.random()] for metric in ("probe_accuracy", "anomaly_auc")} for name in names}
    values["a0"]["collapse_indicators"] = [3.0]
    (row, *_) = rank_correlations(summarize(records(plan, values)))
    pairs = [(values[n]["probe_accuracy"][0], values[n]["anomaly_auc"][0]) for n in names]
    rho = spearmanr(*zip(*pairs, strict=True)).statistic
    reach = norm.ppf(0.975) * np.sqrt((1 + rho**2 / 2) / 4)
    expected = (rho, np.tanh(np.arctanh(rho) - reach), np.tanh(np.arctanh(rho) + reach))
    assert row.n_arms == 7 and row.all_arms == pytest.approx(expected)
    sound = [pair for name, pair in zip(names, pairs, strict=True) if name != "a0"]
    assert row.n_non_collapsed == 6 and row.non_collapsed is not None
    assert row.non_collapsed[0] == pytest.approx(spearmanr(*zip(*sound, strict=True)).statistic)


def test_differences_are_counted_by_entry_and_what_a_field_implies_is_not_counted_again(tmp_path: Path) -> None:
    arms = {
        "shorter": {"epochs": 1}, "bare": {"augmentation": {"crop": None, "hue": 0}}, "raw": {"method": "raw-pixels"},
        "random": {"pairing": "random"}, "same": {}, "n": {"pairing": "neighbors", "parent": {"mu": 1, "nu": 0}},
    }  # fmt: skip
    plan = tiny_plan(tmp_path, arms)
    values = {name: {"probe_accuracy": [0.5]} for name in ("base", *arms)}
    found = records(plan, values)
    for i, record in enumerate(found):
        assert record.training is not None
        if record.trial.arm == "shorter":
            found[i] = replace(record, training=replace(record.training, history=record.training.history[:1]))
        if record.trial.arm == "random":
            found[i] = replace(record, training=replace(record.training, pairs={"label_purity": 0.1, "distinct_partners": 7}))
    summaries = summarize(found)
    facts = {f.arm: f for f in arm_facts(summaries, {r.trial.key: r for r in found})}
    assert facts["shorter"].differing == 1 and facts["shorter"].facts["optimiser steps"] == "5"
    # crop and its ratio, and hue
    assert facts["bare"].differing == 3 and facts["raw"].differing is None and facts["same"].differing == 0
    assert facts["random"].differing == 2, "the pairing, and the purity that no field states"
    assert facts["n"].differing == 4, "pairing, nothing augmented, and two fields of the parent"
    by_arm = {s.arm: s for s in summaries}
    said = {name: result_sentence(by_arm[name], by_arm["base"], facts[name], "probe_accuracy") for name in arms}
    assert said["same"].startswith("the same trial as base") and "equal to base" in said["bare"]
    assert "another method" in said["raw"] and "differs from base in 3 things" in said["bare"]
    assert "things" not in said["shorter"]
