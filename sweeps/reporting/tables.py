"""Tables made from records: CSV files, a LaTeX table, and the metrics of the parent run."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from evaluation.evaluate import METRICS
from sweeps.analysis.arm_summary import ArmSummary, deviation, summarize
from sweeps.analysis.contrasts import Contrast
from sweeps.analysis.search_result import SearchResult
from sweeps.analysis.shapley import Decomposition
from sweeps.planning.trial import Plan
from sweeps.storage.checked_folder import CheckedFolder
from sweeps.storage.records import LOST, TrialRecord, TrialStatus

#: Columns of the tables, the three that matter most first.
COLUMNS = (
    "probe_accuracy",
    "anomaly_auc",
    "silhouette",
    "probe_accuracy_study",
    "projection_std",
    "collapse_indicators",
)

#: Numbers of a switch: attributes of a contribution.
QUANTITIES = ("shapley", "left_out", "alone")

#: What a spreadsheet takes for the start of a formula, the full-width forms too; and what begins so and is a number.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "＝", "＋", "－", "＠")
_NUMBERS = re.compile(r"-?(\d+(\.\d+)?(e[-+]?\d+)?|inf|nan)( to -?(\d+(\.\d+)?(e[-+]?\d+)?|inf|nan))?")


def columns_of(plan: Plan) -> list[str]:
    """Return the metrics of the sweep's tables: COLUMNS, after the primary metric if that is not one of them."""
    return list(dict.fromkeys(COLUMNS if plan.grid.primary in COLUMNS else (plan.grid.primary, *COLUMNS)))


def cell(summary: ArmSummary, name: str) -> str:
    """Return a metric of an arm as text: mean and, over several seeds, standard deviation; ``-`` if there is no value."""
    values = summary.values(name)
    if not values:
        return "-"
    if name == "collapse_indicators" and len(set(values)) == 1:
        return f"{values[0]:.0f} of 3"
    spread = deviation(values)
    return f"{mean(values):.4f}" + (f" ± {spread:.4f}" if spread is not None else "")


def write_tables(folder: Path, plan: Plan, records: Sequence[TrialRecord]) -> list[Path]:
    """Write ``table.csv``, ``trials.csv`` and ``table.tex``.

    ``table.csv`` has one row for each arm, with mean, standard deviation and n of every metric. ``trials.csv`` has one row for
    each trial. ``table.tex`` is described at :func:`latex`.

    Returns:
        The paths of the three files.
    """
    names = list(dict.fromkeys(name for name in METRICS) | dict.fromkeys(name for r in records for name in r.metrics))
    by_arm = [["arm", "state", *(f"{name} {what}" for name in names for what in ("mean", "sd", "n"))]]
    for summary in summarize(records):
        row = [summary.arm, summary.state]
        for name in names:
            values = summary.values(name)
            spread = deviation(values)
            row += [repr(mean(values)) if values else "", "" if spread is None else repr(spread), str(len(values))]
        by_arm.append(row)
    by_trial = [["arm", "seed", "key", "status", "reason", "train seconds", "epochs trained", "device", *names]]
    for record in records:
        trial, training = record.trial, record.training
        seed = str(trial.config.seed) if trial.config.has_seed else ""
        run = [f"{training.seconds:.2f}", str(training.epochs_trained), training.device] if training else ["", "", ""]
        values_of = [repr(record.metrics[name]) if name in record.metrics else "" for name in names]
        by_trial.append([", ".join(trial.arms), seed, trial.key, record.status, record.reason or "", *run, *values_of])
    texts = {"table.csv": _csv(by_arm), "trials.csv": _csv(by_trial), "table.tex": latex(plan, summarize(records))}
    return [_write(folder / name, text) for name, text in texts.items()]


def write_contrasts(path: Path, found: Sequence[Contrast]) -> Path:
    """Write the contrasts as CSV, one row for each arm; return the path."""
    names = [field.name for field in fields(Contrast)]
    rows = [names]
    for contrast in found:
        values = [getattr(contrast, name) for name in names]
        rows.append([_contrast_cell(name, value) for name, value in zip(names, values, strict=True)])
    return _write(path, _csv(rows))


def _contrast_cell(name: str, value: Any) -> Any:
    if isinstance(value, tuple):
        return (" " if name == "failed" else " to ").join(map(repr, value))
    return "" if value is None else value


def write_contributions(path: Path, found: Sequence[Decomposition]) -> Path:
    """Write what the switches of a factorial contribute as CSV, one row for each number of each metric; return the path.

    The column ``of`` names the switch, or the two switches of an interaction; ``seeds`` has the number of each seed, and
    ``missing`` names the seeds that are left out.
    """
    rows = [["metric", "quantity", "of", "n", "value", "interval", "seeds", "missing"]]
    for decomposition in found:
        numbers = [(kind, part.name, getattr(part, kind)) for kind in QUANTITIES for part in decomposition.contributions] + [
            ("interaction", " & ".join(pair), estimate) for pair, estimate in decomposition.interactions.items()
        ]
        if decomposition.total is not None:
            numbers.append(("total", "all", decomposition.total))
        missing = " ".join(map(str, decomposition.missing))
        for kind, of, estimate in numbers or [("no result", "all", None)]:
            values = ["", "", ""] if estimate is None else [
                repr(estimate.value), "" if estimate.interval is None else " to ".join(map(repr, estimate.interval)),
                "; ".join(f"{seed}: {value!r}" for seed, value in estimate.by_seed.items()),
            ]  # fmt: skip
            rows.append([decomposition.metric, kind, of, str(len(decomposition.seeds)), *values, missing])
    return _write(path, _csv(rows))


def write_points(path: Path, result: SearchResult) -> Path:
    """Write a search's points as CSV, one row for each point; return the path."""
    head, rows = result.rows()
    return _write(path, _csv([head, *rows]))


def _write(path: Path, text: str) -> Path:
    # A reason may hold a file's name that is no UTF-8; half a character would end the writing.
    CheckedFolder(path.parent).write_bytes(path.name, text.encode("utf-8", "backslashreplace"))
    return path


def _csv(rows: Sequence[Sequence[Any]]) -> str:
    """Return the rows as CSV, in which no text is run by a spreadsheet.

    Spreadsheets take a cell that begins with one of = + - @, a tab or a carriage return for a formula. Such a text gets a
    leading apostrophe, as OWASP advises ("CSV injection"); numbers and intervals (``-0.1 to 0.2``) stay as they are.
    """
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([[_cell(value) for value in row] for row in rows])
    return text.getvalue()


def _cell(value: Any) -> Any:
    is_formula = isinstance(value, str) and value.startswith(_FORMULA) and not _NUMBERS.fullmatch(value)
    return f"'{value}" if is_formula else value


def latex(plan: Plan, summaries: Sequence[ArmSummary]) -> str:
    """Return the table of the main columns in LaTeX, which needs the package booktabs."""
    columns = columns_of(plan)
    head = ["arm", "n", *(name.replace("_", " ") for name in columns)]
    question = " ".join(plan.grid.question.split())
    lines = [f"% {plan.sweep_id}: {question}", rf"\begin{{tabular}}{{lr{'r' * len(columns)}}}", r"\toprule"]
    lines += [" & ".join(map(_tex, head)) + r" \\", r"\midrule"]
    for summary in summaries:
        done = len(summary.done)
        lines.append(" & ".join(map(_tex, [summary.arm, str(done), *(cell(summary, name) for name in columns)])) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _tex(text: str) -> str:
    """Escape the characters that LaTeX would read as commands."""
    special = {"\\": r"\textbackslash{}", "±": r"$\pm$", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return "".join(special.get(c, "\\" + c if c in "&%$#_{}" else c) for c in text)


def parent_metrics(plan: Plan, records: Sequence[TrialRecord]) -> dict[str, float]:
    """Return the metrics of the sweep's parent run: how many trials ended in each status; mean, deviation and n by arm."""
    metrics = {f"trials_{status}": float(sum(record.status == status for record in records))
               for status in (TrialStatus.DONE, *LOST)}  # fmt: skip
    for summary in summarize(records):
        for name in columns_of(plan):
            values = summary.values(name)
            if values:
                metrics[f"{summary.arm}/{name}"] = mean(values)
                metrics[f"{summary.arm}/{name}/n"] = float(len(values))
            if len(values) > 1:
                metrics[f"{summary.arm}/{name}/sd"] = stdev(values)
    return metrics
