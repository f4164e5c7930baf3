"""The report's section on what each switch of a full factorial contributes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from evaluation.evaluate import METRICS
from sweeps.analysis.arm_facts import HEADLINE_METRICS
from sweeps.analysis.shapley import Contribution, Decomposition, Estimate
from sweeps.formatting import interval_text, text_of
from sweeps.planning.factorial import NONE
from sweeps.planning.fields import leaves
from sweeps.planning.grid import Fields
from sweeps.reporting.report_figures import Picture, picture_of
from sweeps.reporting.report_input import ReportInput


@dataclass(frozen=True)
class PartRow:
    """What one part, or all of them together, contributes to the primary metric, as texts.

    Attributes:
        part: the switch; "" for the sum.
        off: what is set when it is off.
        shapley: Shapley value, with its interval.
        left_out: what base loses without it, with its interval.
        alone: what it adds to nothing, with its interval.
    """

    part: str
    off: str
    shapley: str
    left_out: str
    alone: str


@dataclass(frozen=True)
class InteractionRow:
    """The interaction of two parts, with its interval."""

    parts: str
    text: str


@dataclass(frozen=True)
class OtherMetricRow:
    """Shapley values of all parts for another metric, and base minus none, with intervals."""

    metric: str
    better: str
    n: int
    cells: Sequence[str]


@dataclass(frozen=True)
class FactorialSection:
    """The page's section on what each part contributes.

    Attributes:
        primary: name of the primary metric.
        provisional: whether planned seeds are still to be run.
        introduction: what the numbers mean.
        names: the parts.
        parts: one row for each part; empty if no seed has a value for every combination.
        sums: the sums of the columns.
        total: base minus none, with its interval.
        interactions: one row for each pair of parts.
        others: one row for each other metric.
        figure: the contributions to the headline metrics; None if there is nothing to draw.
        notes: what the intervals mean, and which seeds are left out.
    """

    primary: str
    provisional: bool
    introduction: Sequence[str]
    names: Sequence[str]
    parts: Sequence[PartRow]
    sums: PartRow
    total: str
    interactions: Sequence[InteractionRow]
    others: Sequence[OtherMetricRow]
    figure: Picture | None
    notes: Sequence[str]


def factorial_section(sweep: ReportInput) -> FactorialSection | None:
    """Return the section; None for a grid without a factorial."""
    switches = sweep.plan.grid.factorial
    if switches is None or not sweep.decompositions:
        return None
    primary, *others = sweep.decompositions
    return FactorialSection(
        primary=_plain(primary.metric),
        provisional=sweep.provisional,
        introduction=_introduction(sweep),
        names=list(switches),
        parts=[_part_row(part, switches[part.name]) for part in primary.contributions],
        sums=_sums(primary.contributions),
        total="-" if primary.total is None else _text(primary.total),
        interactions=[InteractionRow(" and ".join(pair), _text(found)) for pair, found in primary.interactions.items()],
        others=[_other_row(found) for found in others],
        figure=_figure(sweep.decompositions),
        notes=_notes(sweep, primary),
    )


def _plain(metric: str) -> str:
    return metric.replace("_", " ")


def _text(estimate: Estimate) -> str:
    interval = "" if estimate.interval is None else f" ({interval_text(estimate.interval)})"
    return f"{estimate.value:+.4f}{interval}"


def _part_row(part: Contribution, off: Fields) -> PartRow:
    return PartRow(part.name, _off(off), _text(part.shapley), _text(part.left_out), _text(part.alone))


def _off(fields: Fields) -> str:
    """Return the fields that a switch sets when it is off, as text."""
    texts = []
    for key in leaves(fields):
        value = fields
        for name in key.split("."):
            value = value[name]
        texts.append(f"{key} {text_of(value)}")
    return ", ".join(texts)


def _sums(parts: Sequence[Contribution]) -> PartRow:
    sums = [sum(estimate.value for estimate in column) for column in (
        [part.shapley for part in parts], [part.left_out for part in parts], [part.alone for part in parts],
    )]  # fmt: skip
    return PartRow("", "", *(f"{value:+.4f}" for value in sums))


def _other_row(found: Decomposition) -> OtherMetricRow:
    cells = [*(_text(part.shapley) for part in found.contributions), *([_text(found.total)] if found.total else [])]
    better = METRICS[found.metric.partition("/")[0]].better or "neither"
    return OtherMetricRow(found.metric, better, len(found.seeds), cells)


def _figure(decompositions: Sequence[Decomposition]) -> Picture | None:
    from evaluation.plot_style import styled
    from sweeps.reporting import factorial_figures

    by_metric = {found.metric: found for found in decompositions}
    shown = [by_metric[name] for name in dict.fromkeys((decompositions[0].metric, *HEADLINE_METRICS)) if name in by_metric]
    with styled():
        return picture_of("what each part contributes", lambda: factorial_figures.contributions(shown))


def _introduction(sweep: ReportInput) -> list[str]:
    switches = sweep.plan.grid.factorial or {}
    of_none = next((t.config.method for t in sweep.plan.trials.values() if NONE in t.arms), "")
    none = "the untrained encoder" if of_none == "untrained" else "trained without any of them"
    return [
        f"The grid has an arm for every combination of {len(switches)} parts, {', '.join(switches)}: with all of them on "
        f"(base), with some, and with none ({none}). A part that is on is as it is in base.",
        "The Shapley value of a part is what it adds on average over all orders in which the parts can be added to none, one "
        "after the other (Shapley 1953). The values of all parts add up to base minus none. Left out: base minus the arm "
        "without this part alone. Alone: the arm with this part alone, minus none. These two do not add up: where they differ "
        "from the Shapley value, what a part is worth depends on the others.",
    ]


def _notes(sweep: ReportInput, primary: Decomposition) -> list[str]:
    notes = []
    if sweep.provisional:
        notes.append("Planned seeds are still to be run: these values and intervals are provisional.")
    n = len(primary.seeds)
    if n:
        notes.append(
            f"Means over n = {n} {'seed' if n == 1 else 'seeds'}, in brackets 95 % intervals ({sweep.test.name}), for each "
            "value by itself: they are not corrected over parts and metrics, describe, and no verdict is drawn from them."
            + (" With one seed there are no intervals." if n == 1 else "")
        )
    else:
        notes.append("No seed has a result for every combination of the parts yet, so there are no values.")
    if primary.missing:
        seeds = "; ".join(f"{seed} (no result of {', '.join(arms)})" for seed, arms in primary.missing.items())
        notes.append(f"Seeds that are left out, because an arm failed, is still to be run, or has no value: {seeds}.")
    return notes
