"""``report.html``: the answer of a sweep on one page, in one file that needs no network."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

from core.config import METHODS, digest
from core.errors import InputError
from core.files import whole_file
from evaluation.evaluate import METRICS
from sweeps.claims import judge, p_text, parse_claim
from sweeps.contrasts import Contrast
from sweeps.facts import COLLAPSED, THREE, Facts, agreements, answer, facts_of, is_collapsed
from sweeps.grid import BASE, Published, expand_arms
from sweeps.images import Images, load_images
from sweeps.inference import FIXED, SeedTest
from sweeps.plan import Plan
from sweeps.report import ArmSummary, cell, columns_of, summarize, text_of
from sweeps.space import Range
from sweeps.store import Store, TrialRecord
from sweeps.study import REDUCTION

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from evaluation.comparisons import Arm
    from evaluation.details import Arrays
    from sweeps.search import Searched

_TEMPLATES = Path(__file__).parent / "templates"
#: Classes whose retrievals are shown.
_CLASSES = 10
#: Arms shown side by side; more are hard to tell apart, and take long to draw.
_SIDE_BY_SIDE = 16
#: Dots an inch of its figures: fewer of one so tall that it would have more rows of them than this, but never too few to read.
_DPI, _TALLEST, _LEAST_DPI = 130, 4000, 72


@dataclass(frozen=True)
class Sweep:
    """What the page is about.

    Attributes:
        plan: the plan.
        records: every trial of the sweep that was tried or asked for.
        store: where their details are.
        introduction: which profile, and why.
        command: what was typed.
        commit: of the code, if it is known.
        problems: details and figures that are not defined: (title, name, problem).
        contrasts: the arms against base.
        test: how seeds were tested.
        searched: what a search found.
    """

    plan: Plan
    records: Sequence[TrialRecord]
    store: Store
    introduction: str
    command: str
    commit: str | None
    problems: Sequence[tuple[str, str, str]]
    contrasts: Sequence[Contrast] = ()
    test: SeedTest = FIXED
    searched: Searched | None = None


def prepare() -> None:
    """Imports what a page is made with: seconds that pass at best while other processes finish their work."""
    import jinja2  # noqa: F401
    import scipy.stats  # noqa: F401

    from evaluation import comparisons, style  # noqa: F401


def write_page(path: Path, sweep: Sweep, data_dir: Path, images: Images | None = None) -> Path:
    """Writes the page, whole or not at all; one that is there already and says the same is left as it is.

    Args:
        path: where to.
        sweep: what it is about.
        data_dir: where the images are; where they cannot be had, pictures of them are left out.
        images: those that are loaded already.

    Returns:
        The path.
    """
    mark = f"<!-- {_fingerprint(sweep)} -->"
    with suppress(OSError), path.open(encoding="utf-8") as file:
        if file.read(len(mark)) == mark:
            return path
    done = [record.trial for record in sweep.records if record.status == "done"]
    if images is None or not images.cover(done):
        try:
            images = load_images(done, data_dir)
        except InputError:
            images = None
    text = _render("report.html.j2", _content(sweep, images))
    with whole_file(path) as temporary:
        temporary.write_text(f"{mark}\n{text}" if images is not None else text, encoding="utf-8")
    return path


def _fingerprint(sweep: Sweep) -> str:
    """Of all that the page shows, and of the code that makes it."""
    shown = [
        [r.trial.key, r.trial.title, r.trial.aliases, r.status, r.reason, dict(r.metrics), sorted(sweep.store.figures(r.trial))]
        for r in sweep.records
    ]
    code = [
        *Path(__file__).parent.glob("*.py"),
        *_TEMPLATES.iterdir(),
        *(Path(__file__).parents[1] / "evaluation").glob("*.py"),
    ]
    return digest([
        shown, sweep.plan.grid.model_dump(mode="json"), sweep.introduction, sweep.commit, sweep.problems,
        [vars(contrast) for contrast in sweep.contrasts], sweep.test.name,
        None if sweep.searched is None else [sweep.searched.rows(), sweep.searched.importances],
        [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(code)],
    ])  # fmt: skip


def _render(template: str, values: Mapping[str, Any]) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=select_autoescape(["html.j2"]),
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    return environment.get_template(template).render(**values)


def _content(sweep: Sweep, images: Images | None) -> dict[str, Any]:
    plan, records = sweep.plan, sweep.records
    summaries = summarize(records)
    facts = facts_of(summaries, {record.trial.key: record for record in records})
    base = next((summary for summary in summaries if summary.arm == BASE), None)
    seeds = sorted({r.trial.config.seed for r in records if r.status == "done" and r.trial.config.has_encoder})
    statuses = [record.status for record in records]
    counts = ", ".join(f"{statuses.count(s)} {s}" for s in ("done", "failed", "skipped", "open") if s in statuses)
    by_arm = {contrast.arm: contrast for contrast in sweep.contrasts}
    parsed = [(stated, parse_claim(stated.claim, expand_arms(plan.grid))) for stated in plan.grid.claims]
    return {
        "sweep": plan.sweep,
        "introduction": sweep.introduction,
        "question": plan.grid.question,
        "state": f"Trials: {counts}" if counts else "No trial yet",
        "seeds": f"Seeds: {', '.join(map(str, seeds))}." if seeds else "",
        "few_seeds": len(seeds) == 1,
        "answers": [
            {
                "arm": summary.arm,
                "what": "; ".join(f"{name} {theirs} → {mine}" for name, (theirs, mine) in fact.fields.items()),
                "text": answer(summary, base, fact, plan.grid.primary, by_arm.get(summary.arm)),
            }
            for summary, fact in zip(summaries, facts, strict=True)
        ],
        "lost": [vars(r) | {"title": r.trial.title} for r in records if r.status in ("failed", "skipped")],
        "problems": [{"title": title, "name": name, "problem": problem} for title, name, problem in sweep.problems],
        **_tables(plan, summaries),
        "claims": [
            {"text": verdict.claim.text, "outcome": verdict.outcome, "reason": verdict.reason, "source": stated.source}
            for stated, claim in parsed
            for verdict in [judge(claim, summaries, sweep.test)]
        ],
        "primary": plan.grid.primary.replace("_", " "),
        "margin": f"{plan.grid.margin:g}",
        "test_note": sweep.test.note,
        "search": None if sweep.searched is None else _search(sweep.searched),
        "contrasts": [_contrast_row(contrast) for contrast in sweep.contrasts],
        "fact_names": list(facts[0].facts) if facts else [],
        "facts": [_fact_row(fact) for fact in facts],
        "agreements": [
            {**vars(row), "everything": _rho(row.everything), "sound": _rho(row.sound)} for row in agreements(summaries)
        ],
        "collapsed": ", ".join(summary.arm for summary in summaries if is_collapsed(summary)),
        "collapsed_at": f"{COLLAPSED:g}",
        "images": images is not None,
        "no_images": "The images could not be loaded; pictures of them, and what bears their classes' names, are left out.",
        "reads": _reads(summaries),
        "figures": _figures(sweep, summaries, images),
        "run": _run(sweep, seeds),
        "methods": _methods(sweep, seeds, images),
        "config": json.dumps(plan.base.fields(), indent=1),
    }


def _rho(value: float | None) -> str:
    return "not defined" if value is None else f"{value:+.2f}"


def _contrast_row(contrast: Contrast) -> dict[str, Any]:
    def number(value: float | None, form: str = "+.4f") -> str:
        return "-" if value is None else f"{value:{form}}"

    def p(value: float | None) -> str:
        return "-" if value is None else p_text(value)

    bounded = contrast.interval is not None and math.isfinite(contrast.interval[0])
    interval = f"{contrast.interval[0]:+.4f} to {contrast.interval[1]:+.4f}" if contrast.interval and bounded else "-"
    return {
        "arm": contrast.arm, "verdict": contrast.verdict, "n": contrast.n, "difference": number(contrast.difference),
        "interval": interval, "p": p(contrast.p), "p_holm": p(contrast.p_holm),
        "detectable": number(contrast.detectable, ".4f"), "correlation": number(contrast.correlation, "+.2f"),
        "test_error": number(contrast.test_error, ".4f"),
    }  # fmt: skip


def _fact_row(fact: Facts) -> dict[str, Any]:
    fields = "; ".join(f"{name}: {theirs} → {mine}" for name, (theirs, mine) in fact.fields.items())
    differing = "-" if fact.arm == BASE else "another method" if fact.differing is None else fact.differing
    return {"arm": fact.arm, "differing": differing, "fields": fields or "-",
            "facts": [text or "-" for text in fact.facts.values()]}  # fmt: skip


# -- tables --------------------------------------------------------------------------------------------------------------


def _tables(plan: Plan, summaries: Sequence[ArmSummary]) -> dict[str, Any]:
    theirs = [
        (who, metric) for who, published in plan.grid.published.items()
        for metric in dict.fromkeys(name for values in published.values.values() for name in values)
    ]  # fmt: skip
    columns = [{"name": "arm", "meaning": "", "text": True}, {"name": "n", "meaning": "seeds that are done", "text": False}]
    columns += [{"name": name.replace("_", " "), "meaning": METRICS[name].meaning, "text": False} for name in columns_of(plan)]
    columns += [
        {"name": f"{metric.replace('_', ' ')}, {who} (theirs)", "meaning": "published, in another setting", "text": False}
        for who, metric in theirs
    ]
    rows = []
    for summary in summaries:
        done = sum(record.status == "done" for record in summary.records)
        cells = [{"text": summary.arm, "value": summary.arm, "theirs": False}, {"text": done, "value": done, "theirs": False}]
        for name in columns_of(plan):
            values = summary.values(name)
            cells.append({"text": cell(summary, name), "value": mean(values) if values else "", "theirs": False})
        for who, metric in theirs:
            value = plan.grid.published[who].values.get(summary.arm, {}).get(metric)
            shown, sorted_by = ("-", "") if value is None else (f"{value:.4f}", str(value))
            cells.append({"text": shown, "value": sorted_by, "theirs": True})
        rows.append({"arm": summary.arm, "baseline": _is_baseline(summary), "cells": cells})
    names = list(dict.fromkeys([*METRICS, *(name for s in summaries for r in s.records for name in r.metrics)]))
    return {
        "columns": columns,
        "rows": rows,
        "published": [
            {"who": who, "differs": _setting(published, plan), "notes": published.notes}
            for who, published in plan.grid.published.items()
        ],
        "all_metrics": [
            {
                "name": name,
                "meaning": METRICS[name.partition("/")[0]].meaning,
                "better": METRICS[name.partition("/")[0]].better or "neither",
                "cells": [cell(summary, name) for summary in summaries],
            }
            for name in names
        ],
    }


def _reads(summaries: Sequence[ArmSummary]) -> dict[str, Any] | None:
    """The linear readouts of every arm, where the data set knows what its images were made from."""
    names = [name for name in METRICS if name.startswith("reads_") and any(summary.values(name) for summary in summaries)]
    rows = [{"arm": summary.arm, "cells": [cell(summary, name) for name in names]} for summary in summaries]
    return {"names": [name.removeprefix("reads_").replace("_", " ") for name in names], "rows": rows} if names else None


def _setting(published: Published, plan: Plan) -> str:
    """What of the published setting is not this sweep's base."""
    ours = plan.base.fields()
    different = {name: value for name, value in published.setting.items() if ours.get(name) != value}
    return ", ".join(f"{name} {text_of(value)} (here {text_of(ours.get(name))})" for name, value in different.items())


def _is_baseline(summary: ArmSummary) -> bool:
    return summary.records[0].trial.config.method != "vicreg"


# -- figures -------------------------------------------------------------------------------------------------------------


def _figures(sweep: Sweep, summaries: Sequence[ArmSummary], images: Images | None) -> dict[str, Any]:
    from evaluation import comparisons
    from evaluation.style import styled

    done = {summary.arm: summary for summary in summaries if any(r.status == "done" for r in summary.records)}
    everything = [_arm(summary) for summary in done.values()]
    arms = [replace(arm, details=_details(done[arm.name], sweep)) for arm in _side_by_side(everything, sweep.plan.grid.primary)]
    left_out = f"The figures show {len(arms)} of {len(everything)} arms: {BASE}, and the best by {sweep.plan.grid.primary}."
    base = sweep.plan.base
    splits = None if images is None else images.splits.get((base.dataset, base.train_subset))
    names = splits.train.class_names if splits else ()
    sets = dict.fromkeys(name for record in sweep.records for name in record.trial.anomalies)
    metrics = list(dict.fromkeys((sweep.plan.grid.primary, *THREE)))
    with styled():

        def picture(title: str, draw: Callable[[], Figure | None]) -> dict[str, Any] | None:
            try:
                figure = draw() if arms else None
                return None if figure is None else _picture(title, figure)
            except Exception as error:  # one figure must not take the page with it
                return {"title": title, "problem": f"{title}: not drawn, {type(error).__name__}: {error}"}

        rocs = [picture(f"ROC curves, {name}", partial(comparisons.rocs, arms, name)) for name in sets]
        retrievals = []
        if splits is not None:
            retrievals = [
                picture(names[k], partial(comparisons.retrievals, arms, splits, k)) for k in range(min(_CLASSES, len(names)))
            ]
        return {
            "leaderboard": picture("metrics by arm, a dot a seed", lambda: comparisons.leaderboard(everything, metrics, BASE)),
            "agreement": picture("metrics against each other", lambda: comparisons.agreement(arms, THREE)),
            "curves": picture("loss and terms over the epochs", lambda: comparisons.curves(arms)),
            "invariances": picture("invariances by arm", lambda: comparisons.invariances(arms)),
            "tsne": picture("t-SNE by arm", lambda: comparisons.projections(arms, "tsne", names)),
            "pca": picture("PCA by arm", lambda: comparisons.projections(arms, "pca", names)),
            "rocs": [found for found in rocs if found],
            "retrievals": [found for found in retrievals if found],
            "left_out": left_out.replace("_", " ") if len(arms) < len(everything) else "",
        }


def _side_by_side(arms: list[Arm], metric: str) -> list[Arm]:
    """All arms, or of too many base and the best by the metric, in their order."""
    from evaluation.comparisons import ranked

    if len(arms) <= _SIDE_BY_SIDE:
        return arms
    best = [arm.name for arm in ranked(arms, metric) if arm.name != BASE][1 - _SIDE_BY_SIDE :]
    return [arm for arm in arms if arm.name in (BASE, *best)]


def _arm(summary: ArmSummary) -> Arm:
    from evaluation.comparisons import Arm

    done = [record for record in summary.records if record.status == "done"]
    names = {name for record in done for name in record.metrics}
    return Arm(
        name=summary.arm,
        values={name: summary.values(name) for name in names},
        history=done[0].training.history if done[0].training else (),
        details={},
        baseline=_is_baseline(summary),
        collapsed=is_collapsed(summary),
    )


def _details(summary: ArmSummary, sweep: Sweep) -> dict[str, Arrays]:
    """What is drawn of the first seed that is done; nothing where its images are not base's."""
    trial, base = next(r.trial for r in summary.records if r.status == "done"), sweep.plan.base
    if (trial.config.dataset, trial.config.train_subset) != (base.dataset, base.train_subset):
        return {}
    wanted = [n for n in trial.detail_ids if n.partition("/")[0] in ("projection", "tsne", "retrieval", "anomalies")]
    return {name: found for name in wanted if (found := sweep.store.detail(trial, name)) is not None}


def _picture(title: str, figure: Figure) -> dict[str, Any]:
    from PIL import Image

    from evaluation.style import drawn

    content = BytesIO()
    figure.set_dpi(min(_DPI, max(_LEAST_DPI, _TALLEST / figure.get_figheight())))
    # 256 colours of its own are enough for a figure, and a third of the bytes.
    image = Image.fromarray(drawn(figure)).convert("RGB").quantize(256)
    image.save(content, format="png")
    width, height = image.size
    data = content.getvalue()
    return {"data": base64.b64encode(data).decode(), "alt": title, "title": title, "width": width, "height": height}


def _search(searched: Searched) -> dict[str, Any]:
    """The search's figures and its table of points."""
    from evaluation import search_figures
    from evaluation.style import styled

    search = searched.search
    logs = {name: isinstance(choices, Range) and choices.log for name, choices in search.space.items()}
    tried = [
        search_figures.Tried(p.number, search.meant(p.params), p.values, p.state != "infeasible", p.number in searched.chosen)
        for p in searched.points
        if set(p.params) == set(search.space)
    ]
    names, minimized = search.objectives, [search.minimizes(name) for name in search.objectives]
    valued = sum(bool(point.values) for point in tried)
    with styled():
        drawn = {
            "what was tried": search_figures.history(tried, names, minimized) if tried else None,
            "Pareto front": search_figures.fronts(tried, names),
            "importance of the fields": search_figures.importances(searched.importances, names, valued),
            **{f"{name} over pairs of fields": search_figures.responses(tried, i, name, logs) for i, name in enumerate(names)},
        }
        figures = [_picture(title, figure) for title, figure in drawn.items() if figure is not None]
    head, rows = searched.rows()
    states = [point.state for point in searched.points]
    counts = [f"{states.count(state)} {state}" for state in dict.fromkeys(states)]
    return {
        "objectives": " and ".join(names), "several": len(names) > 1, "figures": figures, "head": head, "rows": rows,
        "counts": ", ".join(counts) or "none", "early_stopping": search.early_stopping, "reduction": REDUCTION,
        "chosen": ", ".join(searched.titles.get(number, str(number)) for number in searched.chosen) or "none",
    }  # fmt: skip


# -- what was run --------------------------------------------------------------------------------------------------------


def _run(sweep: Sweep, seeds: Sequence[int]) -> list[tuple[str, str]]:
    plan, trained = sweep.plan, [record.training for record in sweep.records if record.training]
    versions: dict[str, set[str]] = {}
    for training in trained:
        for package, which in training.versions.items():
            versions.setdefault(package, set()).add(which)
    devices = sorted({training.device for training in trained})
    on_cpus = sum(training.seconds * training.threads for training in trained if training.device.startswith("CPU"))
    on_gpus = sum(training.seconds for training in trained if not training.device.startswith("CPU"))
    hours = {"GPU-hours": on_gpus / 3600, "core-hours": on_cpus / 3600}
    cost = " and ".join(f"{amount:.2f} {unit}" for unit, amount in hours.items() if amount) or "none"
    epochs, trials = sum(t.epochs_trained for t in trained), sum(t.epochs_trained > 0 for t in trained)
    data = dict.fromkeys(f"{r.trial.config.dataset} ({r.trial.data})" for r in sweep.records)
    sets = dict.fromkeys(f"{name} ({identity})" for r in sweep.records for name, identity in r.trial.anomalies.items())
    rows = [
        ("command", sweep.command),
        ("profile", f"{plan.profile}; {sweep.introduction}"),
        ("seeds", ", ".join(map(str, seeds)) or "none done"),
        ("data", "; ".join(data)),
        ("anomalies", "; ".join(sets) or "none"),
        ("hardware", "; ".join(devices) + (" (different kinds of device)" if len(devices) > 1 else "")),
        ("threads a trial", ", ".join(map(str, sorted({training.threads for training in trained})))),
        (
            "versions",
            ", ".join(f"{package} {'/'.join(sorted(which))}" for package, which in sorted(versions.items()))
            + f"; driver: ray {version('ray')}, mlflow {version('mlflow')}",
        ),
        ("training and fits", f"{cost}, without evaluation; {epochs} epochs in {trials} trials"),
        ("code", sweep.commit or "not a git checkout"),
    ]
    moments = [record.evaluated for record in sweep.records if record.evaluated]
    if moments:
        rows.append(("last result", datetime.fromtimestamp(max(moments), UTC).strftime("%Y-%m-%d %H:%M UTC")))
    return rows


def _methods(sweep: Sweep, seeds: Sequence[int], images: Images | None) -> str:
    base = sweep.plan.base
    augmented = base.outcome_fields().get("augmentation") or {}
    views = ", ".join(f"{name} {text_of(value)}" for name, value in augmented.items()) or "the images as they are"
    splits = None if images is None else images.splits.get((base.dataset, base.train_subset))
    eigenmaps = any(record.trial.config.method == "laplacian-eigenmaps" for record in sweep.records)
    values = {"b": base, "meaning": METHODS[base.method].meaning, "views": views, "seeds": seeds, "splits": splits}
    text = _render("methods.txt.j2", values | {"eigenmaps": eigenmaps})
    return " ".join(text.split())


#: MLflow cuts a note at 8,000 characters.
_NOTE_ROWS = 40


def markdown(sweep: Sweep) -> str:
    """The sweep's summary for MLflow: the question and the table of the main columns."""
    columns = columns_of(sweep.plan)
    rows = [["arm", "n", *(name.replace("_", " ") for name in columns)]]
    for summary in summarize(sweep.records):
        done = sum(record.status == "done" for record in summary.records)
        rows.append([summary.arm, str(done), *(cell(summary, name) for name in columns)])
    lines = [f"| {' | '.join(map(_plain, row))} |" for row in rows[: _NOTE_ROWS + 1]]
    if len(rows) > len(lines):
        lines += ["", f"The other {len(rows) - len(lines)} arms are in `table.csv`."]
    return "\n".join([
        f"**{_plain(sweep.plan.grid.question)}**", "", lines[0], f"|{' --- |' * len(rows[0])}", *lines[1:], "",
        "`report.html` among the artifacts has the figures, the claims, and what differs from base.",
    ])  # fmt: skip


def _plain(text: str) -> str:
    """Text with what Markdown would read as a table's border, markup or HTML made harmless."""
    return re.sub(r"([\\|<>*_`\[\]])", r"\\\1", " ".join(text.split()))
