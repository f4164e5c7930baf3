"""Texts of the report: what was run, the paragraph on methods, and the summary for MLflow."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version

from core.config import METHODS
from sweeps.formatting import text_of
from sweeps.reporting.rendering import render
from sweeps.reporting.report_input import ReportInput
from sweeps.reporting.tables import cell, columns_of
from sweeps.storage.image_sets import Images
from sweeps.storage.records import TrainingRecord


def run_rows(sweep: ReportInput) -> list[tuple[str, str]]:
    """Return the rows (name, text) of the section "What was run": command, data, hardware, versions, cost."""
    plan, trained = sweep.plan, [record.training for record in sweep.records if record.training]
    devices = sorted({training.device for training in trained})
    epochs, trials = sum(t.epochs_trained for t in trained), sum(t.epochs_trained > 0 for t in trained)
    data = dict.fromkeys(f"{r.trial.config.dataset} ({r.trial.data})" for r in sweep.records)
    sets = dict.fromkeys(f"{name} ({identity})" for r in sweep.records for name, identity in r.trial.anomalies.items())
    rows = [
        ("command", sweep.command),
        ("profile", f"{plan.profile}; {sweep.introduction}"),
        ("seeds", ", ".join(map(str, sweep.seeds)) or "none done"),
        ("data", "; ".join(data)),
        ("anomalies", "; ".join(sets) or "none"),
        ("hardware", "; ".join(devices) + (" (different kinds of device)" if len(devices) > 1 else "")),
        ("threads a trial", ", ".join(map(str, sorted({training.threads for training in trained})))),
        ("versions", f"{_versions(trained)}; driver: ray {version('ray')}, mlflow {version('mlflow')}"),
        ("training and fits", f"{_hours(trained)}, without evaluation; {epochs} epochs in {trials} trials"),
        ("code", sweep.commit or "not a git checkout"),
    ]
    moments = [record.evaluated for record in sweep.records if record.evaluated]
    if moments:
        rows.append(("last result", datetime.fromtimestamp(max(moments), UTC).strftime("%Y-%m-%d %H:%M UTC")))
    return rows


def _versions(trained: Sequence[TrainingRecord]) -> str:
    versions: dict[str, set[str]] = {}
    for training in trained:
        for package, which in training.versions.items():
            versions.setdefault(package, set()).add(which)
    return ", ".join(f"{package} {'/'.join(sorted(which))}" for package, which in sorted(versions.items()))


def _hours(trained: Sequence[TrainingRecord]) -> str:
    on_cpus = sum(training.seconds * training.threads for training in trained if training.device.startswith("CPU"))
    on_gpus = sum(training.seconds for training in trained if not training.device.startswith("CPU"))
    hours = {"GPU-hours": on_gpus / 3600, "core-hours": on_cpus / 3600}
    return " and ".join(f"{amount:.2f} {unit}" for unit, amount in hours.items() if amount) or "none"


def methods(sweep: ReportInput, images: Images | None) -> str:
    """Return a paragraph on the methods, ready to paste into a paper; image counts are left out if ``images`` is None."""
    base = sweep.plan.base
    augmented = base.outcome_fields().get("augmentation") or {}
    views = ", ".join(f"{name} {text_of(value)}" for name, value in augmented.items()) or "the images as they are"
    splits = None if images is None else images.splits.get((base.dataset, base.train_subset))
    eigenmaps = any(record.trial.config.method == "laplacian-eigenmaps" for record in sweep.records)
    text = render(
        "methods.txt.j2", b=base, meaning=METHODS[base.method].meaning, views=views, seeds=sweep.seeds, splits=splits,
        eigenmaps=eigenmaps,
    )  # fmt: skip
    return " ".join(text.split())


#: At most so many arms in MLflow's note, which MLflow cuts at 8,000 characters.
_NOTE_ROWS = 40


def markdown(sweep: ReportInput) -> str:
    """Return the sweep's summary for MLflow: the question and the table of the main columns."""
    columns = columns_of(sweep.plan)
    rows = [["arm", "n", *(name.replace("_", " ") for name in columns)]]
    for summary in sweep.summaries:
        rows.append([summary.arm, str(len(summary.done)), *(cell(summary, name) for name in columns)])
    lines = [f"| {' | '.join(map(_plain, row))} |" for row in rows[: _NOTE_ROWS + 1]]
    if len(rows) > len(lines):
        lines += ["", f"The other {len(rows) - len(lines)} arms are in `table.csv`."]
    return "\n".join([
        f"**{_plain(sweep.plan.grid.question)}**", "", lines[0], f"|{' --- |' * len(rows[0])}", *lines[1:], "",
        "`report.html` among the artifacts has the figures, the claims, and what differs from base.",
    ])  # fmt: skip


def _plain(text: str) -> str:
    """Escape the characters that Markdown would read as a table's border, markup or HTML."""
    return re.sub(r"([\\|<>*_`\[\]])", r"\\\1", " ".join(text.split()))
