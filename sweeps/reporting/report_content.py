"""The content of the report, as typed values for its template."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

from evaluation.evaluate import METRICS
from sweeps.analysis.arm_facts import COLLAPSED, ArmFacts, arm_facts, is_collapsed, rank_correlations, result_sentence
from sweeps.analysis.arm_summary import ArmSummary
from sweeps.analysis.claim_tests import judge
from sweeps.analysis.contrasts import Contrast
from sweeps.formatting import correlation_text as rho
from sweeps.formatting import p_text, share_text, text_of
from sweeps.planning.arms import expand_arms
from sweeps.planning.claim import parse_claim
from sweeps.planning.grid import BASE, Published
from sweeps.planning.trial import Plan
from sweeps.reporting.comparison_sections import Comparisons, build_comparisons
from sweeps.reporting.factorial_section import FactorialSection, factorial_section
from sweeps.reporting.report_figures import (
    ReportFigures,
    SearchSection,
    draw_report_figures,
    draw_search_section,
    is_baseline,
)
from sweeps.reporting.report_input import ReportInput
from sweeps.reporting.report_text import caveat, claims_note, contrast_notes, methods, probe_note, run_rows
from sweeps.reporting.tables import cell, columns_of
from sweeps.storage.image_sets import Images
from sweeps.storage.records import LOST, TrialStatus

_COUNTED = (TrialStatus.DONE, *LOST, TrialStatus.PENDING)
_NO_IMAGES = "The images could not be loaded; figures that show images or the names of their classes are left out."


@dataclass(frozen=True)
class Answer:
    """An arm's result in a sentence (``text``), and what differs from base (``what``)."""

    arm: str
    what: str
    text: str


@dataclass(frozen=True)
class LostTrial:
    """A trial that failed or was skipped."""

    title: str
    status: str
    reason: str | None


@dataclass(frozen=True)
class Problem:
    """A number or figure that is not defined."""

    title: str
    name: str
    problem: str


@dataclass(frozen=True)
class ClaimRow:
    """A claim, its outcome with the reason, and the source that states it."""

    text: str
    outcome: str
    reason: str
    source: str


@dataclass(frozen=True)
class ContrastRow:
    """The comparison of an arm with base, as texts; "-" stands for a value that is not defined."""

    arm: str
    verdict: str
    n: int
    difference: str
    interval: str
    p: str
    p_holm: str
    p_equivalence_holm: str
    p_sign_flip: str
    above: str
    detectable: str
    correlation: str
    test_error: str


@dataclass(frozen=True)
class FactRow:
    """What differs between an arm and base."""

    arm: str
    differing: str | int
    fields: str
    facts: Sequence[str]


@dataclass(frozen=True)
class CorrelationRow:
    """Rank correlation of two metrics."""

    metric_a: str
    metric_b: str
    all_arms: str
    n_arms: int
    non_collapsed: str
    n_non_collapsed: int


@dataclass(frozen=True)
class Column:
    """A column of the leaderboard."""

    name: str
    meaning: str
    text: bool = False


@dataclass(frozen=True)
class Cell:
    """A cell of the leaderboard: its text, the value to sort by, and whether it is a published figure of others."""

    text: str | int
    value: str | float
    theirs: bool = False


@dataclass(frozen=True)
class Row:
    """A row of the leaderboard."""

    arm: str
    baseline: bool
    cells: Sequence[Cell]


@dataclass(frozen=True)
class PublishedNote:
    """The source of published figures that are shown beside ours, and how its setting differs."""

    who: str
    differs: str
    notes: str


@dataclass(frozen=True)
class MetricRow:
    """One metric's values for all arms."""

    name: str
    meaning: str
    better: str
    cells: Sequence[str]


@dataclass(frozen=True)
class ReadsRow:
    """An arm's linear readouts, one cell for each factor."""

    arm: str
    cells: Sequence[str]


@dataclass(frozen=True)
class Reads:
    """The linear readouts of all arms: the factors' names, and a row for each arm."""

    names: Sequence[str]
    rows: Sequence[ReadsRow]


@dataclass(frozen=True)
class Leaderboard:
    """The tables of metrics: the leaderboard, and all metrics."""

    columns: Sequence[Column]
    rows: Sequence[Row]
    published: Sequence[PublishedNote]
    all_metrics: Sequence[MetricRow]


@dataclass(frozen=True)
class ReportContent:
    """The values of the page, in the order of its sections; the template uses the same names."""

    sweep: str
    introduction: str
    question: str
    state: str
    seeds: str
    few_seeds: bool
    caveat: str
    answers: Sequence[Answer]
    lost: Sequence[LostTrial]
    problems: Sequence[Problem]
    search: SearchSection | None
    factorial: FactorialSection | None
    leaderboard: Leaderboard
    probe_note: str
    primary: str
    margin: str
    claims_note: str
    contrasts: Sequence[ContrastRow]
    contrast_notes: Sequence[str]
    claims: Sequence[ClaimRow]
    fact_names: Sequence[str]
    facts: Sequence[FactRow]
    correlations: Sequence[CorrelationRow]
    comparisons: Comparisons
    collapsed: str
    collapsed_at: str
    no_images: str
    reads: Reads | None
    figures: ReportFigures
    run: Sequence[tuple[str, str]]
    methods: str
    config: str


def build_content(sweep: ReportInput, images: Images | None) -> ReportContent:
    """Return the content of the page.

    Args:
        sweep: what the report is about.
        images: the sweep's images; None: figures that show images are left out.
    """
    plan, summaries, seeds = sweep.plan, sweep.summaries, sweep.seeds
    facts = arm_facts(summaries, {record.trial.key: record for record in sweep.records})
    statuses = [record.status for record in sweep.records]
    counts = ", ".join(f"{statuses.count(s)} {s}" for s in _COUNTED if s in statuses)
    return ReportContent(
        sweep=plan.sweep_id,
        introduction=sweep.introduction,
        question=plan.grid.question,
        state=f"Trials: {counts}" if counts else "No trial yet",
        seeds=f"Seeds: {', '.join(map(str, seeds))}." if seeds else "",
        few_seeds=len(seeds) == 1,
        caveat=caveat(plan.base),
        answers=_answers(sweep, summaries, facts),
        lost=[LostTrial(record.trial.title, record.status, record.reason) for record in sweep.records if record.status in LOST],
        problems=[Problem(*problem) for problem in sweep.problems],
        search=None if sweep.search_result is None else draw_search_section(sweep.search_result),
        factorial=factorial_section(sweep),
        leaderboard=_leaderboard(plan, summaries),
        probe_note=probe_note(sweep.records),
        primary=plan.grid.primary.replace("_", " "),
        margin=f"{plan.grid.margin:g}",
        claims_note=claims_note(sweep.test, provisional=sweep.provisional),
        contrasts=[_contrast_row(contrast) for contrast in sweep.contrasts],
        contrast_notes=contrast_notes(
            sweep.contrasts, plan.grid.margin, sweep.test, sweep.looks, provisional=sweep.provisional
        ),
        claims=_claims(sweep, summaries),
        fact_names=list(facts[0].facts) if facts else [],
        facts=[_fact_row(fact) for fact in facts],
        correlations=[
            CorrelationRow(r.metric_a, r.metric_b, rho(r.all_arms), r.n_arms, rho(r.non_collapsed), r.n_non_collapsed)
            for r in rank_correlations(summaries)
        ],
        comparisons=build_comparisons(sweep),
        collapsed=", ".join(summary.arm for summary in summaries if is_collapsed(summary)),
        collapsed_at=f"{COLLAPSED:g}",
        no_images=_NO_IMAGES if images is None else "",
        reads=_reads(summaries),
        figures=draw_report_figures(sweep, images),
        run=run_rows(sweep),
        methods=methods(sweep, images),
        config=json.dumps(plan.base.fields(), indent=1),
    )


def _answers(sweep: ReportInput, summaries: Sequence[ArmSummary], facts: Sequence[ArmFacts]) -> list[Answer]:
    base = next((summary for summary in summaries if summary.arm == BASE), None)
    by_arm = {contrast.arm: contrast for contrast in sweep.contrasts}
    return [
        Answer(
            arm=summary.arm,
            what="; ".join(f"{name} {theirs} → {mine}" for name, (theirs, mine) in fact.fields.items()),
            text=result_sentence(summary, base, fact, sweep.plan.grid.primary, by_arm.get(summary.arm)),
        )
        for summary, fact in zip(summaries, facts, strict=True)
    ]


def _claims(sweep: ReportInput, summaries: Sequence[ArmSummary]) -> list[ClaimRow]:
    grid = sweep.plan.grid
    arms = expand_arms(grid)
    verdicts = judge(
        [parse_claim(stated.claim, arms) for stated in grid.claims], summaries, sweep.test, provisional=sweep.provisional
    )
    return [
        ClaimRow(verdict.claim.text, verdict.outcome, verdict.reason, stated.source)
        for verdict, stated in zip(verdicts, grid.claims, strict=True)
    ]


def _contrast_row(contrast: Contrast) -> ContrastRow:
    def number(value: float | None, form: str = "+.4f") -> str:
        return "-" if value is None else f"{value:{form}}"

    def p(value: float | None) -> str:
        return "-" if value is None else p_text(value)

    bounded = contrast.interval is not None and math.isfinite(contrast.interval[0])
    return ContrastRow(
        arm=contrast.arm,
        verdict=contrast.label,
        n=contrast.n,
        difference=number(contrast.difference),
        interval=f"{contrast.interval[0]:+.4f} to {contrast.interval[1]:+.4f}" if contrast.interval and bounded else "-",
        p=p(contrast.p),
        p_holm=p(contrast.p_holm),
        p_equivalence_holm=p(contrast.p_equivalence_holm),
        p_sign_flip=p(contrast.p_sign_flip),
        above=share_text(contrast.above, contrast.above_interval),
        detectable=number(contrast.detectable, ".4f"),
        correlation=number(contrast.correlation, "+.2f"),
        test_error=number(contrast.test_error, ".4f"),
    )


def _fact_row(fact: ArmFacts) -> FactRow:
    fields = "; ".join(f"{name}: {theirs} → {mine}" for name, (theirs, mine) in fact.fields.items())
    differing = "-" if fact.arm == BASE else "another method" if fact.differing is None else fact.differing
    return FactRow(fact.arm, differing, fields or "-", [text or "-" for text in fact.facts.values()])


# -- tables --------------------------------------------------------------------------------------------------------------


def _leaderboard(plan: Plan, summaries: Sequence[ArmSummary]) -> Leaderboard:
    theirs = [
        (who, metric) for who, published in plan.grid.published.items()
        for metric in dict.fromkeys(name for values in published.values.values() for name in values)
    ]  # fmt: skip
    columns = [Column("arm", "", text=True), Column("n", "seeds that are done")]
    columns += [Column(name.replace("_", " "), METRICS[name].meaning) for name in columns_of(plan)]
    columns += [
        Column(f"{metric.replace('_', ' ')}, {who} (theirs)", "published, in another setting") for who, metric in theirs
    ]
    return Leaderboard(
        columns=columns,
        rows=[Row(summary.arm, is_baseline(summary), _cells(plan, summary, theirs)) for summary in summaries],
        published=[
            PublishedNote(who, _setting(published, plan), published.notes) for who, published in plan.grid.published.items()
        ],
        all_metrics=_all_metrics(summaries),
    )


def _cells(plan: Plan, summary: ArmSummary, theirs: Sequence[tuple[str, str]]) -> list[Cell]:
    n = len(summary.done)
    cells = [Cell(summary.arm, summary.arm), Cell(n, n)]
    for name in columns_of(plan):
        values = summary.values(name)
        cells.append(Cell(cell(summary, name), mean(values) if values else ""))
    for who, metric in theirs:
        value = plan.grid.published[who].values.get(summary.arm, {}).get(metric)
        cells.append(Cell("-", "", theirs=True) if value is None else Cell(f"{value:.4f}", str(value), theirs=True))
    return cells


def _all_metrics(summaries: Sequence[ArmSummary]) -> list[MetricRow]:
    names = dict.fromkeys([*METRICS, *(name for s in summaries for r in s.records for name in r.metrics)])
    rows = []
    for name in names:
        metric = METRICS[name.partition("/")[0]]
        cells = [cell(summary, name) for summary in summaries]
        rows.append(MetricRow(name, metric.meaning, metric.better or "neither", cells))
    return rows


def _reads(summaries: Sequence[ArmSummary]) -> Reads | None:
    """The linear readouts of every arm; None if the data set does not provide the factors that its images were made from."""
    names = [name for name in METRICS if name.startswith("reads_") and any(summary.values(name) for summary in summaries)]
    if not names:
        return None
    rows = [ReadsRow(summary.arm, [cell(summary, name) for name in names]) for summary in summaries]
    return Reads([name.removeprefix("reads_").replace("_", " ") for name in names], rows)


def _setting(published: Published, plan: Plan) -> str:
    """How the setting of published figures differs from this sweep's base."""
    ours = plan.base.fields()
    different = {name: value for name, value in published.setting.items() if ours.get(name) != value}
    return ", ".join(f"{name} {text_of(value)} (here {text_of(ours.get(name))})" for name, value in different.items())
