"""Summaries of arms over their seeds: records, values, and differences between arms, paired by seed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import stdev

from sweeps.storage.records import TrialRecord, TrialStatus


@dataclass(frozen=True)
class ArmSummary:
    """The trials of one arm over its seeds.

    Attributes:
        arm: its name.
        records: one for each seed.
    """

    arm: str
    records: tuple[TrialRecord, ...]

    def values(self, metric: str) -> list[float]:
        """Return the metric of each seed that has it."""
        return [record.metrics[metric] for record in self.done if metric in record.metrics]

    @property
    def done(self) -> list[TrialRecord]:
        """The records of the seeds that are done."""
        return [record for record in self.records if record.status == TrialStatus.DONE]

    @property
    def state(self) -> str:
        """``done`` if all trials are, else the number of trials of each status."""
        counts = Counter(str(record.status) for record in self.records)
        return (
            "done" if set(counts) == {TrialStatus.DONE} else ", ".join(f"{n} {status}" for status, n in sorted(counts.items()))
        )


def summarize(records: Sequence[TrialRecord]) -> list[ArmSummary]:
    """Group records by arm, in the plan's order; a trial of several arms appears in each."""
    arms: dict[str, list[TrialRecord]] = {}
    for record in records:
        for arm in record.trial.arms:
            arms.setdefault(arm, []).append(record)
    return [ArmSummary(arm, tuple(found)) for arm, found in arms.items()]


def deviation(values: Sequence[float]) -> float | None:
    """Return the sample standard deviation (n - 1); None for fewer than two values."""
    return stdev(values) if len(values) > 1 else None


#: Seed -> value. An arm that does not depend on the seed has one value, under None. A float is the same for every seed.
Values = float | Mapping[int | None, float]


def by_seed(summary: ArmSummary | None, metric: str) -> dict[int | None, float]:
    """Return an arm's values of a metric, by seed; under None for an arm that does not depend on the seed."""
    if summary is None:
        return {}
    done = [record for record in summary.done if metric in record.metrics]
    return {r.trial.config.seed if r.trial.config.has_seed else None: r.metrics[metric] for r in done}


def paired_differences(left: Values, right: Values) -> list[float]:
    """Return left - right for every seed that both have; one difference where neither depends on a seed."""
    seeds = [set(side) for side in (left, right) if not isinstance(side, float) and None not in side]
    common = set.intersection(*seeds) if seeds else {None}
    ordered = sorted(common, key=lambda seed: -1 if seed is None else seed)
    return [x - y for seed in ordered if (x := _at(left, seed)) is not None and (y := _at(right, seed)) is not None]


def _at(side: Values, seed: int | None) -> float | None:
    return side if isinstance(side, float) else side.get(seed, side.get(None))
