"""The report's sections on what an arm's place depends on: the readout, and the anomaly score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sweeps.analysis.metric_differences import (
    ANOMALY_SCORES,
    READOUTS,
    MetricDifference,
    Side,
    differences_from_base,
    disagree,
)
from sweeps.reporting.report_input import ReportInput
from sweeps.reporting.tables import cell


@dataclass(frozen=True)
class ReadoutCell:
    """An arm's value by one readout, its difference from base, and on which side of base it is; "" where there is none."""

    value: str
    difference: str = ""
    side: str = ""


@dataclass(frozen=True)
class ReadoutRow:
    """An arm's cells, one for each readout."""

    arm: str
    cells: Sequence[ReadoutCell]


@dataclass(frozen=True)
class ReadoutSection:
    """The arms by several readouts.

    Attributes:
        names: the readouts that were measured.
        rows: a row for each arm.
        sentences: one for each arm about which the readouts disagree.
        missing: the readouts that were not measured, as a text; "" if all were.
        intervals: how the sides are decided.
    """

    names: Sequence[str]
    rows: Sequence[ReadoutRow]
    sentences: Sequence[str]
    missing: str
    intervals: str


@dataclass(frozen=True)
class AnomalyScoreSection:
    """The arms' places by several anomaly scores.

    Attributes:
        neighbours: for each arm whose pairs are neighbours and each anomaly set, a sentence on its place by every score.
        sentences: one for each other arm and set about which the scores disagree.
        missing: the scores that were not measured, as a text; "" if all were.
        intervals: how the sides are decided.
    """

    neighbours: Sequence[str]
    sentences: Sequence[str]
    missing: str
    intervals: str


def readout_section(sweep: ReportInput) -> ReadoutSection | None:
    """Return the content of "Does the readout decide?"; None if fewer than two readouts were measured."""
    summaries = sweep.summaries
    names = [name for name in READOUTS if any(summary.values(name) for summary in summaries)]
    if len(names) < 2:
        return None
    differences = differences_from_base(summaries, names, sweep.plan.grid.margin, sweep.test)
    rows = []
    for summary in summaries:
        found = {difference.metric: difference for difference in differences.get(summary.arm, ())}
        rows.append(ReadoutRow(summary.arm, [_readout_cell(cell(summary, name), found.get(name)) for name in names]))
    return ReadoutSection(
        names=names,
        rows=rows,
        sentences=[_sentence(arm, found, READOUTS, "readout") for arm, found in differences.items() if disagree(found)],
        missing=", ".join(name for name in READOUTS if name not in names),
        intervals=_intervals(differences, sweep),
    )


def _readout_cell(value: str, difference: MetricDifference | None) -> ReadoutCell:
    return ReadoutCell(value) if difference is None else ReadoutCell(value, f"{difference.difference:+.4f}", difference.side)


def anomaly_score_section(sweep: ReportInput) -> AnomalyScoreSection | None:
    """Return the content of "Anomalies by other scores"; None if fewer than two scores were measured."""
    summaries = sweep.summaries
    sets = dict.fromkeys(name for record in sweep.records for name in record.trial.anomalies)
    measured = [name for name in ANOMALY_SCORES if any(s.values(f"{name}/{which}") for s in summaries for which in sets)]
    if len(measured) < 2:
        return None
    pairings = {summary.arm: summary.records[0].trial.config.outcome_fields().get("pairing", "") for summary in summaries}
    neighbours, sentences, all_differences = [], [], {}
    for which in sets:
        words = {f"{name}/{which}": ANOMALY_SCORES[name] for name in measured}
        differences = differences_from_base(summaries, list(words), sweep.plan.grid.margin, sweep.test)
        all_differences.update({f"{arm}, {which}": found for arm, found in differences.items()})
        for arm, found in differences.items():
            if "neighbors" in pairings[arm] and found:
                neighbours.append(_sentence(f"{arm}, {which}", found, words, "score"))
            elif disagree(found):
                sentences.append(_sentence(f"{arm}, {which}", found, words, "score"))
    missing = ", ".join(name for name in ANOMALY_SCORES if name not in measured)
    return AnomalyScoreSection(neighbours, sentences, missing, _intervals(all_differences, sweep))


def _sentence(name: str, found: Sequence[MetricDifference], words: Mapping[str, str], kind: str) -> str:
    """Return a sentence on the sides of base by each metric; where they disagree it names only the decided ones."""
    split = disagree(found)
    sides: dict[Side, str] = {"below": "below base by", "above": "above base by", "unclear": "not clearly on a side by"}
    said = []
    for side, text in sides.items():
        of_side = [f"{words[d.metric]} ({d.difference:+.3f})" for d in found if d.side == side]
        if of_side and not (split and side == "unclear"):
            said.append(f"{text} {_joined(of_side)}")
    one_seed = " (one seed)" if any(d.n == 1 for d in found) else ""
    return f"{name}{one_seed}: {'; '.join(said)}" + (f": the answer depends on the {kind}." if split else ".")


def _joined(texts: Sequence[str]) -> str:
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}"


def _intervals(differences: Mapping[str, Sequence[MetricDifference]], sweep: ReportInput) -> str:
    """Return how the sides of base were decided: by intervals, or with one seed by the margin."""
    numbers = {difference.n for found in differences.values() for difference in found}
    said = []
    if numbers - {1}:
        said.append(
            f"Above or below base: the 95 % interval of the difference at the same seeds ({sweep.test.name}) lies wholly above "
            "or below 0; unclear: it does not, or all seeds give the same difference. The intervals are not corrected, neither "
            "over arms nor over metrics, and no verdict is drawn from them."
        )
    if 1 in numbers:
        said.append(
            "Where a comparison rests on one seed there is no interval: above or below base are differences of more than the "
            f"margin of {sweep.plan.grid.margin:g}, and nothing is claimed."
        )
    return " ".join(said)
