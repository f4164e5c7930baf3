"""The report's figures, as PNG images that are embedded in the page."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from io import BytesIO
from typing import TYPE_CHECKING

from core.datasets import with_nearness
from sweeps.analysis.arm_facts import HEADLINE_METRICS, is_collapsed
from sweeps.analysis.arm_summary import ArmSummary
from sweeps.analysis.search_result import REDUCTION, SearchResult
from sweeps.planning.grid import BASE
from sweeps.planning.search_space import Range
from sweeps.reporting.report_input import ReportInput
from sweeps.storage.image_sets import Images

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from core.datasets import Splits
    from evaluation.per_image import Arrays
    from sweeps.reporting.arm_figures import Arm

#: For how many classes retrievals are shown.
_CLASSES = 10
#: How many arms are shown side by side at most: more are hard to tell apart, and take long to draw.
_SIDE_BY_SIDE = 16
#: Resolution of a figure in dots per inch. A figure that would be taller than _TALLEST pixels gets a lower one, but at least
#: _LEAST_DPI, so that it can be read.
_DPI, _TALLEST, _LEAST_DPI = 130, 4000, 72


@dataclass(frozen=True)
class Picture:
    """A figure of the page, or the reason why it could not be drawn.

    Attributes:
        title: the title; also the alternative text of the image.
        data: a PNG file in base64; "" if it could not be drawn.
        width: in pixels.
        height: in pixels.
        problem: why it could not be drawn; "" if it was drawn.
    """

    title: str
    data: str = ""
    width: int = 0
    height: int = 0
    problem: str = ""


@dataclass(frozen=True)
class ReportFigures:
    """The figures that compare arms; None for a figure that does not apply.

    Attributes:
        leaderboard: metrics by arm.
        agreement: metrics against each other.
        curves: loss and its terms over the epochs.
        invariances: how far operations move the representations.
        tsne: projections by t-SNE.
        pca: projections by PCA.
        rocs: ROC curves, one figure for each anomaly set.
        retrievals: nearest and most distant images, one figure for each class.
        left_out: a sentence on which arms the figures show; "" if they show all.
        anomaly_scores: the AUCs of several anomaly scores by arm.
        similarity: linear CKA between the arms.
        similarity_left_out: a sentence on the arms that it lacks; "" if it lacks none.
    """

    leaderboard: Picture | None
    agreement: Picture | None
    curves: Picture | None
    invariances: Picture | None
    tsne: Picture | None
    pca: Picture | None
    rocs: Sequence[Picture]
    retrievals: Sequence[Picture]
    left_out: str
    anomaly_scores: Picture | None
    similarity: Picture | None
    similarity_left_out: str


@dataclass(frozen=True)
class SearchSection:
    """The page's section on a search.

    Attributes:
        objectives: their names, joined to a text.
        several: whether there are several objectives, so that the result is a Pareto front.
        figures: history, front, importances, responses.
        head: header of the table of points.
        rows: rows of the table of points.
        counts: how many points ended in each state, as a text.
        early_stopping: whether early stopping was on.
        reduction: at a rung, one in this many points continues.
        chosen: the best point, or the points of the Pareto front.
    """

    objectives: str
    several: bool
    figures: Sequence[Picture]
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    counts: str
    early_stopping: bool
    reduction: int
    chosen: str


def is_baseline(summary: ArmSummary) -> bool:
    """Return True if an arm is a baseline rather than a VICReg run."""
    return summary.records[0].trial.config.method != "vicreg"


def draw_report_figures(sweep: ReportInput, images: Images | None) -> ReportFigures:
    """Draw the figures that compare arms; those that show images or their classes' names need ``images``."""
    from evaluation.plot_style import styled
    from sweeps.reporting import anomaly_score_figure, arm_figures, similarity_figure

    base, primary = sweep.plan.base, sweep.plan.grid.primary
    done = {summary.arm: summary for summary in sweep.summaries if summary.done}
    all_arms = [_arm(summary) for summary in done.values()]
    arms = [replace(arm, details=_details(done[arm.name], sweep)) for arm in _side_by_side(all_arms, primary)]
    left_out = f"The figures show {len(arms)} of {len(all_arms)} arms: {BASE}, and the best by {primary}."
    splits = None if images is None else images.splits.get(base.images_key)
    names = splits.train.class_names if splits else ()
    sets = {name: with_nearness(base.dataset, name) for record in sweep.records for name in record.trial.anomalies}
    metrics = list(dict.fromkeys((primary, *HEADLINE_METRICS)))
    compared = similarity_figure.representations([done[arm.name] for arm in arms], base, sweep.snapshot)

    def picture(title: str, draw: Callable[[], Figure | None]) -> Picture | None:
        return picture_of(title, draw) if arms else None

    with styled():
        rocs = [picture(f"ROC curves, {title}", partial(arm_figures.rocs, arms, name)) for name, title in sets.items()]
        retrievals = [picture(name, partial(arm_figures.retrievals, arms, _shown(splits), k))
                      for k, name in enumerate(names[:_CLASSES])]  # fmt: skip
        return ReportFigures(
            leaderboard=picture("metrics by arm, one dot per seed", lambda: arm_figures.leaderboard(all_arms, metrics, BASE)),
            agreement=picture("metrics against each other", lambda: arm_figures.agreement(arms, HEADLINE_METRICS)),
            curves=picture("loss and terms over the epochs", lambda: arm_figures.curves(arms)),
            invariances=picture("invariances by arm", lambda: arm_figures.invariances(arms)),
            tsne=picture("t-SNE by arm", lambda: arm_figures.projections(arms, "tsne", names)),
            pca=picture("PCA by arm", lambda: arm_figures.projections(arms, "pca", names)),
            rocs=[found for found in rocs if found],
            retrievals=[found for found in retrievals if found],
            left_out=left_out.replace("_", " ") if len(arms) < len(all_arms) else "",
            anomaly_scores=picture(
                "AUC of anomaly scores by arm", lambda: anomaly_score_figure.anomaly_scores(all_arms, sets, BASE)
            ),
            similarity=picture("linear CKA of the arms", lambda: similarity_figure.heat_map(compared)),
            similarity_left_out=compared.left_out_text,
        )


def _shown(splits: Splits | None) -> Splits:
    assert splits is not None, "classes have names only where images are loaded"
    return splits


def picture_of(title: str, draw: Callable[[], Figure | None]) -> Picture | None:
    """Draw a figure; if that fails, return the problem, so that the page can still be written."""
    try:
        figure = draw()
        return None if figure is None else _picture(title, figure)
    except Exception as error:
        return Picture(title, problem=f"{title}: not drawn, {type(error).__name__}: {error}")


def _side_by_side(arms: list[Arm], metric: str) -> list[Arm]:
    """All arms; if there are too many, base and the best ones by the metric, in their original order."""
    from sweeps.reporting.arm_figures import ranked

    if len(arms) <= _SIDE_BY_SIDE:
        return arms
    best = [arm.name for arm in ranked(arms, metric) if arm.name != BASE][1 - _SIDE_BY_SIDE :]
    return [arm for arm in arms if arm.name in (BASE, *best)]


def _arm(summary: ArmSummary) -> Arm:
    from sweeps.reporting.arm_figures import Arm

    done = summary.done
    names = {name for record in done for name in record.metrics}
    return Arm(
        name=summary.arm,
        values={name: summary.values(name) for name in names},
        history=done[0].training.history if done[0].training else (),
        details={},
        baseline=is_baseline(summary),
        collapsed=is_collapsed(summary),
    )


def _details(summary: ArmSummary, sweep: ReportInput) -> dict[str, Arrays]:
    """The arrays for figures of the arm's first seed that is done; none if the arm uses other images than base."""
    trial, base = summary.done[0].trial, sweep.plan.base
    if trial.config.images_key != base.images_key:
        return {}
    shown = [n for n in trial.detail_ids if n.partition("/")[0] in ("projection", "tsne", "retrieval", "anomalies")]
    return {name: found for name in shown if (found := sweep.snapshot.state(trial.key).detail(trial, name)) is not None}


def _picture(title: str, figure: Figure) -> Picture:
    import numpy as np
    from PIL import Image

    from evaluation.plot_style import drawn

    content = BytesIO()
    figure.set_dpi(min(_DPI, max(_LEAST_DPI, _TALLEST / figure.get_figheight())))
    # A palette of 256 colours is enough for a figure, and makes the file a third as large; an octree finds it at once.
    image = Image.fromarray(drawn(figure)).convert("RGB").quantize(256, method=Image.Quantize.FASTOCTREE)
    palette = np.asarray(image.getpalette(), dtype=np.uint8).reshape(-1, 3)
    palette[(palette >= 254).all(axis=1)] = 255  # the octree's white is off by one, and would show as a box on the page
    image.putpalette(palette.tobytes())
    image.save(content, format="png")
    return Picture(title, base64.b64encode(content.getvalue()).decode(), *image.size)


def draw_search_section(result: SearchResult) -> SearchSection:
    """Draw the search's figures, and return them with its table of points."""
    from evaluation.plot_style import styled
    from sweeps.reporting import search_figures

    search = result.search
    logs = {name: isinstance(choices, Range) and choices.log for name, choices in search.space.items()}
    tried = [
        search_figures.Tried(p.number, search.decoded(p.params), p.values, p.state != "infeasible", p.number in result.chosen)
        for p in result.points
        if set(p.params) == set(search.space)
    ]
    names, minimized = search.objectives, [search.minimizes(name) for name in search.objectives]
    valued = sum(bool(point.values) for point in tried)
    with styled():
        drawn = {
            "what was tried": search_figures.history(tried, names, minimized) if tried else None,
            "Pareto front": search_figures.fronts(tried, names),
            "importance of the fields": search_figures.importances(result.importances, names, valued),
            **{f"{name} over pairs of fields": search_figures.responses(tried, i, name, logs) for i, name in enumerate(names)},
        }
        figures = [_picture(title, figure) for title, figure in drawn.items() if figure is not None]
    head, rows = result.rows()
    states = [point.state for point in result.points]
    counts = [f"{states.count(state)} {state}" for state in dict.fromkeys(states)]
    return SearchSection(
        objectives=" and ".join(names),
        several=len(names) > 1,
        figures=figures,
        head=head,
        rows=rows,
        counts=", ".join(counts) or "none",
        early_stopping=search.early_stopping,
        reduction=REDUCTION,
        chosen=", ".join(result.titles.get(number, str(number)) for number in result.chosen) or "none",
    )
