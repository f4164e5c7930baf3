"""Describes an arm in comparison with base: the fields that differ, the facts that follow, and its result in a sentence.

The sentences claim no cause: if an arm differs from base in more than one thing, none says which of them made the difference.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import mean, stdev
from typing import Any

from core.config import TrialConfig
from core.pairing import PAIRINGS
from sweeps.analysis.arm_summary import ArmSummary, by_seed, paired_differences
from sweeps.analysis.contrasts import Contrast
from sweeps.analysis.significance import LEVEL
from sweeps.formatting import p_text, text_of
from sweeps.planning.grid import BASE
from sweeps.planning.trial import Trial
from sweeps.storage.records import TrialRecord

#: An arm counts as collapsed if at least this many of the three collapse indicators are set, on average over its seeds.
COLLAPSED = 2.0
#: The metrics that the studies compare with each other, in the order of tables.
HEADLINE_METRICS = ("probe_accuracy", "anomaly_auc", "silhouette")


#: Fact -> the fields that imply it. If it differs from base's and none of these fields does, it counts as a difference.
_IMPLIED_BY = {
    "optimiser steps": {"epochs", "batch_size", "train_subset", "dataset"},
    "views": {"epochs", "batch_size", "train_subset", "dataset"},
    "pair purity": {"pair_purity", "dataset", "train_subset"},
}


@dataclass(frozen=True)
class ArmFacts:
    """The differences of an arm from base, and facts about it.

    Attributes:
        arm: its name.
        fields: field -> (base's value, the arm's value), as texts.
        facts: facts that follow from the config and the training: name -> text, the same names for every arm; "" where one does
            not apply.
        differing: number of differences from base: fields that both have (each entry of the augmentation list counts), and
            facts that differ without such a field that implies them; None for another method.
    """

    arm: str
    fields: Mapping[str, tuple[str, str]]
    facts: Mapping[str, str]
    differing: int | None


def arm_facts(summaries: Sequence[ArmSummary], by_key: Mapping[str, TrialRecord]) -> list[ArmFacts]:
    """Return the facts of every arm, taken from its first seed that is trained.

    Args:
        summaries: the arms.
        by_key: every record of the sweep, parents included.
    """
    facts = {summary.arm: _facts(_first(summary), by_key) for summary in summaries}
    base = next((_first(summary).trial.config for summary in summaries if summary.arm == BASE), None)
    found = []
    for summary in summaries:
        trial, own = _first(summary).trial, facts[summary.arm]
        fields = {name: _change(theirs, mine) for name, (theirs, mine) in trial.diff_from_base.items()}
        differing = None
        if base is not None and trial.config.method == base.method:
            changed = _changed_leaves(trial, base)
            of_base = facts[BASE]
            facts_differ = [name for name in _IMPLIED_BY if own[name] and of_base[name] and own[name] != of_base[name]]
            follows = [name for name in facts_differ if not _IMPLIED_BY[name] & changed]
            differing = len(changed) + len(follows)
        found.append(ArmFacts(summary.arm, fields, own, differing))
    return found


def _changed_leaves(trial: Trial, base: TrialConfig) -> set[str]:
    """Return the differing fields that both have, those of an overridden parent, and each changed entry of the augmentation."""
    both = set(trial.config.outcome_fields()) & set(base.outcome_fields())
    changed = {name for name in trial.diff_from_base if name in both and name != "augmentation"}
    if "parent" in trial.diff_from_base:
        changed |= {f"parent.{name}" for name in trial.diff_from_base["parent"][1]}
    if "augmentation" in trial.diff_from_base:
        theirs, mine = trial.diff_from_base["augmentation"]
        if theirs is None or mine is None:
            changed.add("augmentation")  # one of the two augments nothing
        else:
            changed |= {f"augmentation.{name}" for name in {**theirs, **mine} if theirs.get(name) != mine.get(name)}
    return changed


def _first(summary: ArmSummary) -> TrialRecord:
    return next((record for record in summary.records if record.training is not None), summary.records[0])


def _facts(record: TrialRecord, by_key: Mapping[str, TrialRecord]) -> dict[str, str]:
    config, training = record.trial.config, record.training
    facts = dict.fromkeys(("optimiser steps", "views", "anchor augmented", "pair purity", "distinct partners", "training"), "")
    if training is None:
        return facts
    if not training.history:
        return facts | {"training": f"{training.seconds:.0f} s (fit)" if training.seconds else "none"}
    per_epoch = round(training.history[0]["images_per_second"] * training.history[0]["seconds"])
    facts["optimiser steps"] = f"{len(training.history) * per_epoch // config.batch_size:,}"
    views = 1 if config.method == "supervised" else 2
    facts["views"] = f"{len(training.history) * per_epoch * views:,}"
    pairing = PAIRINGS[config.pairing]
    augmented = config.method == "supervised" or (pairing.augmented and pairing.anchor_augmented)
    facts["anchor augmented"] = "yes" if augmented else "no"
    if training.pairs is not None:
        facts["pair purity"] = f"{training.pairs['label_purity']:.3f}"
        facts["distinct partners"] = f"{training.pairs['distinct_partners']:,.0f}"
    facts["training"] = _compute(record, by_key)
    return facts


def _compute(record: TrialRecord, by_key: Mapping[str, TrialRecord]) -> str:
    own = _seconds(record)
    parents = []
    parent = record.trial.parent_key
    while parent is not None and parent in by_key:
        parents.append(_seconds(by_key[parent]))
        parent = by_key[parent].trial.parent_key
    return f"{own:.0f} s" + (f" + {sum(parents):.0f} s of its parent" if parents else "")


def _seconds(record: TrialRecord) -> float:
    return sum(epoch["seconds"] for epoch in record.training.history) if record.training else 0.0


def _change(theirs: Any, mine: Any) -> tuple[str, str]:
    """Return a field's two values as texts; for two dicts only the differing entries; "none" if the arm's value is None."""
    if isinstance(theirs, Mapping) and isinstance(mine, Mapping):
        names = [name for name in {**theirs, **mine} if theirs.get(name) != mine.get(name)]
        return _text({name: theirs.get(name) for name in names}), _text({name: mine.get(name) for name in names})
    if isinstance(theirs, Mapping) and mine is None:
        return "as in base", "none"
    return _text(theirs), _text(mine)


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_text(inner)}" for key, inner in value.items())
    return "none" if value is None else text_of(value)


def is_collapsed(summary: ArmSummary) -> bool:
    """Return whether at least COLLAPSED of the three collapse indicators are set, on average over the seeds."""
    values = summary.values("collapse_indicators")
    return bool(values) and mean(values) >= COLLAPSED


def result_sentence(
    summary: ArmSummary, base: ArmSummary | None, facts: ArmFacts, primary: str, contrast: Contrast | None = None
) -> str:
    """Return a sentence that describes the arm's result and claims no cause; with the verdict, if several seeds allow one."""
    values = summary.values(primary)
    if not values:
        return f"no result: {summary.state}"
    spread = f" ± {stdev(values):.3f}" if len(values) > 1 else ""
    said = [f"{_words(primary)} {mean(values):.3f}{spread} (n = {len(values)})"]
    if base is not None and base.arm != summary.arm and base.values(primary):
        if [r.trial.key for r in summary.records] == [r.trial.key for r in base.records]:
            return f"the same trial as base: {said[0]}."
        differences = paired_differences(by_seed(summary, primary), by_seed(base, primary))
        said.append(_to_base(differences, None if contrast is None else contrast.interval))
        if contrast is not None and (contrast.p_holm is not None or contrast.verdict == "equivalent"):
            said.append(f"verdict: {contrast.label}{_p_of(contrast)}")
    for name in HEADLINE_METRICS:
        if name != primary and summary.values(name):
            said.append(f"{_words(name)} {mean(summary.values(name)):.3f}")
    if is_collapsed(summary):
        said.append(f"collapsed ({mean(summary.values('collapse_indicators')):.1f} of 3 indicators)")
    if facts.differing is None:
        said.append("another method than base's")
    elif facts.differing > 1:
        said.append(f"differs from base in {facts.differing} things")
    return "; ".join(text for text in said if text) + "."


def _p_of(contrast: Contrast) -> str:
    """Return the p-value behind a verdict."""
    if contrast.p_holm is None or contrast.p_equivalence_holm is None:
        return " (the same in every seed)"
    if contrast.verdict == "equivalent":
        return f" (p of equivalence {p_text(contrast.p_equivalence_holm)}, corrected)"
    return f" (p {p_text(contrast.p_holm)}, corrected)"


def _to_base(differences: Sequence[float], interval: tuple[float, float] | None) -> str:
    if not differences:
        return ""
    difference = mean(differences)
    where = "above" if difference > 0 else "below"
    text = f"{abs(difference):.3f} {where} base" if difference else "equal to base"
    if len(differences) == 1:
        return f"{text} (one seed: nothing is claimed)"
    if interval is None or not math.isfinite(interval[0]):
        return text
    return f"{text} (95 % interval of the difference {interval[0]:+.3f} to {interval[1]:+.3f})"


def _words(metric: str) -> str:
    return metric.replace("_", " ").replace("auc", "AUC")


@dataclass(frozen=True)
class RankCorrelation:
    """Spearman's rank correlation of two metrics over the arms' means.

    Attributes:
        metric_a: a metric.
        metric_b: another.
        all_arms: over all arms that have both metrics: the correlation and its 95 % interval (Bonett & Wright, Psychometrika
            2000, eq. 3); None for fewer than six arms, or if a metric is constant.
        n_arms: number of these arms.
        non_collapsed: over those that did not collapse; None likewise.
        n_non_collapsed: number of these arms.
    """

    metric_a: str
    metric_b: str
    all_arms: tuple[float, float, float] | None
    n_arms: int
    non_collapsed: tuple[float, float, float] | None
    n_non_collapsed: int


def rank_correlations(summaries: Sequence[ArmSummary], metrics: Sequence[str] = HEADLINE_METRICS) -> list[RankCorrelation]:
    """Return the rank correlation of every two of the metrics; arms that share a trial count once."""
    distinct = list({s.records[0].trial.key: s for s in reversed(summaries)}.values())
    found = []
    for a, b in combinations(metrics, 2):
        both = [s for s in summaries if s in distinct and s.values(a) and s.values(b)]
        sound = [s for s in both if not is_collapsed(s)]
        found.append(RankCorrelation(a, b, _spearman(both, a, b), len(both), _spearman(sound, a, b), len(sound)))
    return found


#: With fewer arms an interval of a rank correlation is nearly all of -1 to 1.
_FEWEST_ARMS = 6


def _spearman(summaries: Sequence[ArmSummary], metric_a: str, metric_b: str) -> tuple[float, float, float] | None:
    from scipy.stats import norm, spearmanr

    pairs = [(mean(s.values(metric_a)), mean(s.values(metric_b))) for s in summaries]
    if len(pairs) < _FEWEST_ARMS or any(len({pair[i] for pair in pairs}) == 1 for i in (0, 1)):
        return None
    rho = float(spearmanr(*zip(*pairs, strict=True)).statistic)
    if abs(rho) >= 1:
        return rho, rho, rho
    reach = float(norm.isf(LEVEL / 2)) * math.sqrt((1 + rho**2 / 2) / (len(pairs) - 3))
    return rho, math.tanh(math.atanh(rho) - reach), math.tanh(math.atanh(rho) + reach)
