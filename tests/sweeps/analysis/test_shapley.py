"""Shapley values and interactions: by hand, by their axioms, and the coverage of their intervals."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain, combinations, permutations
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from sweeps.analysis.arm_summary import summarize
from sweeps.analysis.shapley import decompose, interactions, of_sweep, shapley_values
from sweeps.analysis.significance import ANYTIME_VALID_T_TEST
from sweeps.planning.factorial import arm_name
from sweeps.planning.grid import Grid
from sweeps.planning.trial import Plan
from sweeps.storage.records import TrialRecord, TrialStatus
from tests.conftest import TINY
from tests.sweeps.tiny import planner

ABC = ("a", "b", "c")
TERMS: dict[str, Any] = {"a": {"lambda": 0}, "b": {"mu": 0}, "c": {"nu": 0}}
#: A game of three by hand; its keys are the switches that are on.
HAND = {"": 10, "a": 12, "b": 20, "c": 10, "ab": 40, "ac": 16, "bc": 26, "abc": 52}


def game(values: dict[str, float]) -> dict[frozenset[str], float]:
    return {frozenset(on): value for on, value in values.items()}


def of(function: Callable[[frozenset[str]], float], switches: tuple[str, ...] = ABC) -> dict[frozenset[str], float]:
    subsets = chain.from_iterable(combinations(switches, n) for n in range(len(switches) + 1))
    return {frozenset(on): function(frozenset(on)) for on in subsets}


def test_an_example_by_hand() -> None:
    # What a adds in the orders abc, acb | bac | cab | bca, cba: 2, 2 | 20 | 6 | 26, 26, in all 82.
    # b: in bac, bca | abc | cba | acb, cab: 10, 10 | 28 | 16 | 36, 36, in all 136.
    # c: in cab, cba | acb | bca | abc, bac: 0, 0 | 4 | 6 | 12, 12, in all 34. The sum is 252 / 6 = 42 = 52 - 10.
    assert shapley_values(game(HAND), ABC) == pytest.approx({"a": 82 / 6, "b": 136 / 6, "c": 34 / 6})
    # ab without c: 40 - 12 - 20 + 10 = 18; with c: 52 - 16 - 26 + 10 = 20; half of each: 19.
    # ac without b: 16 - 12 - 10 + 10 = 4; with b: 52 - 40 - 26 + 20 = 6. bc: 26 - 20 - 10 + 10 = 6; 52 - 40 - 16 + 12 = 8.
    assert interactions(game(HAND), ABC) == pytest.approx({("a", "b"): 19, ("a", "c"): 5, ("b", "c"): 7})


def test_the_value_is_the_mean_over_all_orders() -> None:
    draw = np.random.default_rng(3)
    for n in (2, 3, 4, 5):
        names = tuple("abcde"[:n])
        values = of(lambda _: float(draw.normal()), names)
        orders = list(permutations(names))
        gains = {
            name: [values[frozenset(o[: o.index(name) + 1])] - values[frozenset(o[: o.index(name)])] for o in orders]
            for name in names
        }
        found = shapley_values(values, names)
        assert found == pytest.approx({name: mean(numbers) for name, numbers in gains.items()})
        assert sum(found.values()) == pytest.approx(values[frozenset(names)] - values[frozenset()]), "efficiency"


def test_names_and_their_order_do_not_matter() -> None:
    renamed = {"a": "z", "b": "m", "c": "a"}
    values = {frozenset(renamed[name] for name in on): value for on, value in game(HAND).items()}
    before, after = shapley_values(game(HAND), ABC), shapley_values(values, ("a", "z", "m"))
    assert {renamed[name]: value for name, value in before.items()} == pytest.approx(after)
    pairs = {frozenset(pair): value for pair, value in interactions(values, ("a", "z", "m")).items()}
    assert pairs == pytest.approx({frozenset({"z", "m"}): 19, frozenset({"z", "a"}): 5, frozenset({"m", "a"}): 7})


def test_games_whose_values_are_known() -> None:
    both = of(lambda on: float({"a", "b"} <= on))  # a AND b; c does nothing
    assert shapley_values(both, ABC) == pytest.approx({"a": 0.5, "b": 0.5, "c": 0})
    assert interactions(both, ABC) == pytest.approx({("a", "b"): 1, ("a", "c"): 0, ("b", "c"): 0})
    either = of(lambda on: float(bool({"a", "b"} & on)))
    assert shapley_values(either, ABC) == pytest.approx({"a": 0.5, "b": 0.5, "c": 0})
    assert interactions(either, ABC)["a", "b"] == pytest.approx(-1)
    worth = {"a": 0.3, "b": -0.1, "c": 2.0}
    additive = of(lambda on: 7 + sum(worth[name] for name in on))
    assert shapley_values(additive, ABC) == pytest.approx(worth)
    assert list(interactions(additive, ABC).values()) == pytest.approx([0, 0, 0], abs=1e-12)
    with pytest.raises(KeyError):
        shapley_values(game({"": 1, "a": 2}), ("a", "b"))


# -- over seeds ----------------------------------------------------------------------------------------------------------


def plan_of(tmp_path: Path, n: int, switches: dict[str, Any] = TERMS) -> Plan:
    grid = Grid(name="tiny", question="q", factorial=switches, base={**TINY, "anomaly_datasets": ["digits-m-patches"]})
    return planner(tmp_path).plan(grid, seeds=tuple(range(n)))


def records_of(plan: Plan, values: Callable[[str, int], dict[str, float] | None]) -> list[TrialRecord]:
    """Values: (arm, seed) -> metrics; None for a trial that failed."""
    found = []
    for trial in plan.trials.values():
        metrics = values(trial.arm, trial.config.seed)
        status = TrialStatus.FAILED if metrics is None else TrialStatus.DONE
        found.append(TrialRecord(trial, status, None, metrics or {}))
    return found


NAMES = {arm_name(on, ABC): "".join(sorted(on)) for on in of(lambda _: 0.0)}


def hand(arm: str, seed: int) -> dict[str, float]:
    """The example by hand; in seed s the effect of a, wherever it is on, is larger by s."""
    return {"probe_accuracy": HAND[NAMES[arm]] + seed * ("a" in NAMES[arm])}


def test_numbers_are_made_in_each_seed_and_intervals_are_scipys(tmp_path: Path) -> None:
    found = decompose(summarize(records_of(plan_of(tmp_path, 5), hand)), ABC, "probe_accuracy")
    a, b, c = found.contributions
    assert (a.name, b.name, c.name) == ABC and found.seeds == (0, 1, 2, 3, 4) and found.missing == {}
    assert a.shapley.by_seed == pytest.approx({seed: 82 / 6 + seed for seed in range(5)})
    assert a.shapley.value == pytest.approx(82 / 6 + 2)
    interval = ttest_1samp([82 / 6 + seed for seed in range(5)], 0).confidence_interval(0.95)
    assert a.shapley.interval == pytest.approx((interval.low, interval.high))
    assert b.shapley.interval is None, "without spread there is no interval"
    assert (a.left_out.value, b.left_out.value, c.left_out.value) == pytest.approx((26 + 2, 36, 12))
    assert (a.alone.value, b.alone.value, c.alone.value) == pytest.approx((2 + 2, 10, 0))
    assert found.total is not None and found.total.value == pytest.approx(sum(p.shapley.value for p in found.contributions))
    assert found.interactions["a", "b"].value == pytest.approx(19)
    wide = decompose(summarize(records_of(plan_of(tmp_path, 5), hand)), ABC, "probe_accuracy", ANYTIME_VALID_T_TEST)
    assert wide.contributions[0].shapley.interval is not None and wide.contributions[0].shapley.interval[0] < interval.low


def test_a_failed_arm_makes_its_seed_missing_and_is_named(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, 3)
    records = records_of(plan, lambda arm, seed: None if (arm, seed) in (("none", 1), ("b", 1)) else hand(arm, seed))
    found = decompose(summarize(records), ABC, "probe_accuracy")
    assert found.seeds == (0, 2) and found.missing == {1: ("b", "none")}
    assert found.contributions[0].shapley.by_seed == pytest.approx({0: 82 / 6, 2: 82 / 6 + 2})
    without = [record for record in records if record.trial.arm != "b"]  # --arms left it out
    found = decompose(summarize(without), ABC, "probe_accuracy")
    assert found.seeds == () and found.contributions == () and found.missing == {0: ("b",), 1: ("b", "none"), 2: ("b",)}


def test_one_seed_has_values_and_no_intervals(tmp_path: Path) -> None:
    found = decompose(summarize(records_of(plan_of(tmp_path, 1), hand)), ABC, "probe_accuracy")
    assert found.contributions[0].shapley.value == pytest.approx(82 / 6) and found.contributions[0].shapley.interval is None


def test_an_arm_without_seeds_counts_for_every_seed(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, 2, {"learnt": {"method": "raw-pixels"}, "grey": {"augmentation": {"grey": 0}}})
    records = records_of(plan, lambda arm, seed: {"nmi": {"base": 3.0 + seed, "learnt": 2.0, "grey": 1.0, "none": 1.0}[arm]})
    found = decompose(summarize(records), ("learnt", "grey"), "nmi")
    assert found.seeds == (0, 1) and found.contributions[0].left_out.by_seed == pytest.approx({0: 2, 1: 3})


def test_every_metric_of_the_representation_that_all_arms_have_is_decomposed(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, 2)

    def values(arm: str, seed: int) -> dict[str, float]:
        value = hand(arm, seed)["probe_accuracy"]
        names = ["reads_size", "moved_by_crop", "probe_accuracy_backbone", "anomaly_auc", "anomaly_auc/digits-m-patches",
                 "anomaly_auc/mnist", "knn_accuracy", "probe_gain", "dimensions"]  # fmt: skip
        return dict.fromkeys(names, value) | ({} if arm == "none" else {"rankme": value})

    found = of_sweep(plan, summarize(records_of(plan, values)))
    assert [decomposition.metric for decomposition in found] == [
        "probe_accuracy", "anomaly_auc", "anomaly_auc/mnist", "probe_accuracy_backbone", "knn_accuracy", "moved_by_crop",
        "reads_size",
    ], "the primary metric first, though it has no value; rankme, which none lacks, is left out"  # fmt: skip
    assert found[0].seeds == () and found[1].contributions[0].shapley.value == pytest.approx(82 / 6 + 0.5)
    assert of_sweep(planner(tmp_path).plan(Grid(name="g", question="q", arms={"z": {"mu": 0}}), seeds=(0,)), ()) == []


def test_the_intervals_hold_the_true_value_as_often_as_they_say(tmp_path: Path) -> None:
    """Arms of one seed share much of their noise, as those of a sweep do."""
    plan, draw, simulations = plan_of(tmp_path, 5), np.random.default_rng(0), 2000
    summaries = summarize(records_of(plan, lambda *_: {}))
    names = list(NAMES)
    truth = shapley_values(game(HAND), ABC)
    scales = np.linspace(0.5, 3, len(names))  # some arms vary more than others
    held = 0
    for _ in range(simulations):
        noise = 2 * draw.normal(size=(5, 1)) + draw.normal(size=(5, len(names))) * scales
        for summary in summaries:
            for record in summary.records:
                seed = record.trial.config.seed
                assert isinstance(record.metrics, dict)
                record.metrics["nmi"] = HAND[NAMES[summary.arm]] + noise[seed, names.index(summary.arm)]
        interval = decompose(summaries, ABC, "nmi").contributions[0].shapley.interval
        assert interval is not None
        held += interval[0] <= truth["a"] <= interval[1]
    assert abs(held / simulations - 0.95) < 3 * np.sqrt(0.95 * 0.05 / simulations)
