"""From records to what people read: the table at the end, and CSV files of everything."""

from __future__ import annotations

import csv
import io
import json
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from rich.table import Table

from core.files import whole_file
from evaluation.evaluate import METRICS
from sweeps.plan import Plan
from sweeps.store import TrialRecord

#: Columns of the printed table, the three that matter most first.
COLUMNS = (
    "probe_accuracy",
    "anomaly_auc",
    "silhouette",
    "probe_accuracy_study",
    "projection_std",
    "collapse_indicators",
)


def columns_of(plan: Plan) -> list[str]:
    """The metrics of the sweep's tables: the primary one first where it is none of COLUMNS."""
    return list(dict.fromkeys(COLUMNS if plan.grid.primary in COLUMNS else (plan.grid.primary, *COLUMNS)))


@dataclass(frozen=True)
class ArmSummary:
    """One arm over its seeds.

    Attributes:
        arm: its name.
        records: one for each seed.
    """

    arm: str
    records: tuple[TrialRecord, ...]

    def values(self, metric: str) -> list[float]:
        """The metric of each seed that has it."""
        return [record.metrics[metric] for record in self.records if record.status == "done" and metric in record.metrics]

    @property
    def state(self) -> str:
        """How its trials went: ``done``, or what is missing."""
        counts: dict[str, int] = {}
        for record in self.records:
            counts[record.status] = counts.get(record.status, 0) + 1
        return "done" if set(counts) == {"done"} else ", ".join(f"{n} {status}" for status, n in sorted(counts.items()))


def summarize(records: Sequence[TrialRecord]) -> list[ArmSummary]:
    """Groups records by arm, in the plan's order; a trial to which several arms come appears in each."""
    arms: dict[str, list[TrialRecord]] = {}
    for record in records:
        for arm in (record.trial.arm, *record.trial.aliases):
            arms.setdefault(arm, []).append(record)
    return [ArmSummary(arm, tuple(found)) for arm, found in arms.items()]


def deviation(values: Sequence[float]) -> float | None:
    """The sample standard deviation (n - 1); None for fewer than two values."""
    return stdev(values) if len(values) > 1 else None


def table(plan: Plan, summaries: Sequence[ArmSummary], verdicts: Mapping[str, str]) -> Table:
    """The table at the end: mean and, over several seeds, standard deviation; and each arm's verdict, where there is one."""
    shown = Table(title=f"{plan.sweep}: {plan.grid.question}", title_justify="left")
    shown.add_column("arm", no_wrap=True)
    shown.add_column("n", justify="right")
    for name in columns_of(plan):
        shown.add_column(name.replace("_", " "), justify="right")
    if verdicts:
        shown.add_column(f"{plan.grid.primary.replace('_', ' ')} to base")
    if any(summary.state != "done" for summary in summaries):
        shown.add_column("state")
    for summary in summaries:
        cells = [summary.arm, str(sum(record.status == "done" for record in summary.records))]
        cells += [cell(summary, name) for name in columns_of(plan)]
        cells += [verdicts.get(summary.arm, "")] if verdicts else []
        if len(shown.columns) > len(cells):
            lost = next((record.reason for record in summary.records if record.status in ("failed", "skipped")), None)
            cells.append(summary.state + (f": {textwrap.shorten(lost, 60)}" if lost else ""))
        shown.add_row(*cells)
    return shown


def cell(summary: ArmSummary, name: str) -> str:
    """A metric of an arm for people: mean and, over several seeds, standard deviation; ``-`` where there is none."""
    values = summary.values(name)
    if not values:
        return "-"
    if name == "collapse_indicators" and len(set(values)) == 1:
        return f"{values[0]:.0f} of 3"
    spread = deviation(values)
    return f"{mean(values):.4f}" + (f" ± {spread:.4f}" if spread is not None else "")


def write_tables(folder: Path, plan: Plan, records: Sequence[TrialRecord]) -> list[Path]:
    """Writes ``table.csv`` (an arm a row: mean, deviation, n of every metric), ``trials.csv`` (a trial a row), ``table.tex``.

    Returns:
        Their paths.
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
        seed = str(trial.config.seed) if trial.config.has_encoder else ""
        run = [f"{training.seconds:.2f}", str(training.epochs_trained), training.device] if training else ["", "", ""]
        values_of = [repr(record.metrics[name]) if name in record.metrics else "" for name in names]
        by_trial.append(
            [", ".join((trial.arm, *trial.aliases)), seed, trial.key, record.status, record.reason or "", *run, *values_of]
        )
    texts = {"table.csv": _csv(by_arm), "trials.csv": _csv(by_trial), "table.tex": latex(plan, summarize(records))}
    for name, text in texts.items():
        with whole_file(folder / name) as temporary:
            temporary.write_text(text)
    return [folder / name for name in texts]


def _csv(rows: Sequence[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def latex(plan: Plan, summaries: Sequence[ArmSummary]) -> str:
    """The table of the main columns for LaTeX; it needs the package booktabs."""
    columns = columns_of(plan)
    head = ["arm", "n", *(name.replace("_", " ") for name in columns)]
    question = " ".join(plan.grid.question.split())
    lines = [f"% {plan.sweep}: {question}", rf"\begin{{tabular}}{{lr{'r' * len(columns)}}}", r"\toprule"]
    lines += [" & ".join(map(_tex, head)) + r" \\", r"\midrule"]
    for summary in summaries:
        done = sum(record.status == "done" for record in summary.records)
        lines.append(" & ".join(map(_tex, [summary.arm, str(done), *(cell(summary, name) for name in columns)])) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _tex(text: str) -> str:
    """Text with what LaTeX would read as commands made harmless."""
    special = {"\\": r"\textbackslash{}", "±": r"$\pm$", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return "".join(special.get(c, "\\" + c if c in "&%$#_{}" else c) for c in text)


def parent_metrics(plan: Plan, records: Sequence[TrialRecord]) -> dict[str, float]:
    """What the sweep's parent run shows: how its trials went, and each arm's mean, deviation and n of the columns."""
    metrics = {f"trials_{status}": float(sum(record.status == status for record in records))
               for status in ("done", "failed", "skipped")}  # fmt: skip
    for summary in summarize(records):
        for name in columns_of(plan):
            values = summary.values(name)
            if values:
                metrics[f"{summary.arm}/{name}"] = mean(values)
                metrics[f"{summary.arm}/{name}/n"] = float(len(values))
            if len(values) > 1:
                metrics[f"{summary.arm}/{name}/sd"] = stdev(values)
    return metrics


def text_of(value: Any) -> str:
    """A config value for people: numbers as short as they can be told apart, lists in brackets, texts as they are."""
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, int | float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(text_of, value))}]"
    return str(value)
