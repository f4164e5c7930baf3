"""What each switch of a full factorial contributes to a metric: Shapley values, interactions, and their intervals over seeds.

Leaving a part out of the whole measures what the others cannot replace, and adding it to nothing what it does without them; as
parts replace or need one another, neither adds up to the effect of all. The Shapley value is the average of what a part adds
over all orders in which the parts can be added one by one; the values of all parts add up to all on minus all off, parts that
are interchangeable get the same, and a part that never changes anything gets zero (Shapley, A value for n-person games,
Contributions to the Theory of Games II, 1953).

All numbers are computed in each seed by itself, whose trials share initial weights and draws, and summarised over the seeds. A
seed in which a combination has no value is left out whole, and named. Intervals are those of the sweep's test over seeds, for
each number by itself: they are not corrected over metrics and switches, describe, and no verdict is drawn from them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from math import factorial, isfinite
from statistics import mean

from evaluation.evaluate import METRICS
from sweeps.analysis.arm_summary import ArmSummary, by_seed
from sweeps.analysis.significance import PAIRED_T_TEST, SeedTest
from sweeps.planning.factorial import arm_name, subsets
from sweeps.planning.trial import Plan

#: Set of switches that are on -> the value of a metric.
Game = Mapping[frozenset[str], float]

#: Metrics that describe the projections, the pairs or the setting, or are another one less a constant: only shown if primary.
_NOT_DECOMPOSED = frozenset({
    "projection_std", "dead_dimensions", "collapse_indicators", "probe_gain", "dimensions", "pair_label_purity",
    "distinct_partners", "probe_l2", "probe_at_edge", "probe_converged",
})  # fmt: skip
#: Beginnings of the names of metrics that come last.
_LAST = ("moved_by_", "reads_")


def shapley_values(values: Game, switches: Sequence[str]) -> dict[str, float]:
    """Return each switch's Shapley value (Shapley 1953).

    phi_i = sum over S without i of |S|! (n - |S| - 1)! / n! (v(S + i) - v(S)).

    Args:
        values: v, for every subset of the switches.
        switches: the n switches.

    Raises:
        KeyError: if a subset has no value.
    """
    n, found = len(switches), {}
    for switch in switches:
        rest = [other for other in switches if other != switch]
        found[switch] = sum(
            factorial(len(on)) * factorial(n - len(on) - 1) / factorial(n) * _gain(values, on, switch) for on in subsets(rest)
        )
    return found


def interactions(values: Game, switches: Sequence[str]) -> dict[tuple[str, str], float]:
    """Return the Shapley interaction index of every pair of switches (Grabisch & Roubens, Int. J. Game Theory 1999).

    I_ij = sum over S without i and j of |S|! (n - |S| - 2)! / (n - 1)! (v(S + i + j) - v(S + i) - v(S + j) + v(S)).

    Args:
        values: v, for every subset of the switches.
        switches: the n switches.

    Raises:
        KeyError: if a subset has no value.
    """
    n, found = len(switches), {}
    for one, other in combinations(switches, 2):
        rest = [switch for switch in switches if switch not in (one, other)]
        found[one, other] = sum(
            factorial(len(on)) * factorial(n - len(on) - 2) / factorial(n - 1)
            * (_gain(values, (*on, other), one) - _gain(values, on, one))
            for on in subsets(rest)
        )  # fmt: skip
    return found


def _gain(values: Game, on: Sequence[str], switch: str) -> float:
    """Return what a switch adds to those that are on."""
    return values[frozenset((*on, switch))] - values[frozenset(on)]


@dataclass(frozen=True)
class Estimate:
    """A number that every seed has, and its mean.

    Attributes:
        by_seed: seed -> the number; at least one.
        interval: 95 % interval of the mean; None for one seed, where the numbers do not differ, or where so few seeds cannot
            bound it.
    """

    by_seed: Mapping[int, float]
    interval: tuple[float, float] | None

    @property
    def value(self) -> float:
        """The mean over the seeds."""
        return mean(self.by_seed.values())


@dataclass(frozen=True)
class Contribution:
    """What one switch contributes to a metric.

    Attributes:
        name: the switch.
        shapley: its Shapley value.
        left_out: base minus the arm with this switch alone off.
        alone: the arm with this switch alone on, minus the arm with all off.
    """

    name: str
    shapley: Estimate
    left_out: Estimate
    alone: Estimate


@dataclass(frozen=True)
class Decomposition:
    """What all switches contribute to a metric.

    Attributes:
        metric: its name.
        seeds: the seeds in which every combination of switches has a value.
        missing: every other seed -> the arms that have no value in it.
        contributions: one for each switch; empty without seeds.
        interactions: pair of switches -> their Shapley interaction index; empty without seeds.
        total: base minus the arm with all off, which is the sum of the Shapley values; None without seeds.
    """

    metric: str
    seeds: tuple[int, ...]
    missing: Mapping[int, tuple[str, ...]]
    contributions: tuple[Contribution, ...] = ()
    interactions: Mapping[tuple[str, str], Estimate] = field(default_factory=dict)
    total: Estimate | None = None


def decompose(
    summaries: Sequence[ArmSummary], switches: Sequence[str], metric: str, test: SeedTest = PAIRED_T_TEST
) -> Decomposition:  # fmt: skip
    """Return what the switches contribute to a metric, over the seeds in which every combination has a value.

    Args:
        summaries: the arms; those of the factorial among them.
        switches: the grid's switches.
        metric: the metric.
        test: the test whose intervals are taken.
    """
    by_arm = {summary.arm: summary for summary in summaries}
    names = {frozenset(on): arm_name(on, switches) for on in subsets(switches)}
    found = {on: by_seed(by_arm.get(name), metric) for on, name in names.items()}
    records = [record for name in names.values() if name in by_arm for record in by_arm[name].records]
    planned = sorted({record.trial.config.seed for record in records if record.trial.config.has_seed})
    # An arm that does not depend on the seed is the same for every seed: its one value is under None.
    missing = {s: tuple(names[on] for on in names if not {s, None} & found[on].keys()) for s in planned}
    seeds = tuple(seed for seed in planned if not missing[seed])
    missing = {seed: arms for seed, arms in missing.items() if arms}
    if not seeds:
        return Decomposition(metric, (), missing)
    games = {s: {on: values[s] if s in values else values[None] for on, values in found.items()} for s in seeds}
    return _decomposition(metric, games, missing, switches, test)


def _decomposition(
    metric: str, games: Mapping[int, Game], missing: Mapping[int, tuple[str, ...]], switches: Sequence[str], test: SeedTest
) -> Decomposition:  # fmt: skip
    def estimate(of_game: Callable[[Game], float]) -> Estimate:
        return _estimate({seed: of_game(game) for seed, game in games.items()}, test)

    shapley = {seed: shapley_values(game, switches) for seed, game in games.items()}
    pairs = {seed: interactions(game, switches) for seed, game in games.items()}

    def part(switch: str) -> Contribution:
        others = [other for other in switches if other != switch]
        return Contribution(
            name=switch,
            shapley=_estimate({seed: values[switch] for seed, values in shapley.items()}, test),
            left_out=estimate(lambda game: _gain(game, others, switch)),
            alone=estimate(lambda game: _gain(game, (), switch)),
        )

    return Decomposition(
        metric=metric,
        seeds=tuple(games),
        missing=missing,
        contributions=tuple(part(switch) for switch in switches),
        interactions={
            pair: _estimate({seed: values[pair] for seed, values in pairs.items()}, test) for pair in combinations(switches, 2)
        },
        total=estimate(lambda game: game[frozenset(switches)] - game[frozenset()]),
    )


def _estimate(numbers: Mapping[int, float], test: SeedTest) -> Estimate:
    tested = test(list(numbers.values()))
    interval = None if tested is None or not isfinite(tested[0][0]) else tested[0]
    return Estimate(numbers, interval)


def of_sweep(plan: Plan, summaries: Sequence[ArmSummary], test: SeedTest = PAIRED_T_TEST) -> list[Decomposition]:
    """Return what the switches of a grid's factorial contribute to every metric of representation and backbone.

    The primary metric comes first, with or without values; of the others those for which every combination has a value in at
    least one seed. A metric of the headline anomaly set is named without the set.

    Args:
        plan: the sweep's plan; without a factorial nothing is returned.
        summaries: the sweep's arms.
        test: the test whose intervals are taken.
    """
    if plan.grid.factorial is None:
        return []
    switches, primary = list(plan.grid.factorial), plan.grid.primary
    there = dict.fromkeys(name for summary in summaries for record in summary.done for name in record.metrics)
    headline = {f"{name}/{which}" for name in METRICS for which in plan.base.anomaly_datasets[:1]}
    order = {name: place for place, name in enumerate(METRICS)}
    names = [name for name in there if name.partition("/")[0] not in _NOT_DECOMPOSED and name not in headline | {primary}]
    names.sort(key=lambda name: (name.startswith(_LAST), order[name.partition("/")[0]], name))
    found = [decompose(summaries, switches, name, test) for name in (primary, *names)]
    return [found[0], *(decomposition for decomposition in found[1:] if decomposition.seeds)]
