"""Texts of the report: what was run, the paragraph on methods, and the summary for MLflow."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version

from core.config import METHODS, TrialConfig
from evaluation.probe import L2_STRENGTHS
from sweeps.analysis.contrasts import Contrast
from sweeps.analysis.significance import LEVEL, PAIRED_T_TEST, SeedTest
from sweeps.formatting import p_text, text_of
from sweeps.reporting.rendering import render
from sweeps.reporting.report_input import ReportInput
from sweeps.reporting.tables import cell, columns_of
from sweeps.storage.image_sets import Images
from sweeps.storage.looks import Looks
from sweeps.storage.records import TrainingRecord, TrialRecord

_FEW = 4  # seeds up to which it is said how large a difference must be


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
    splits = None if images is None else images.splits.get(base.images_key)
    eigenmaps = any(record.trial.config.method == "laplacian-eigenmaps" for record in sweep.records)
    text = render(
        "methods.txt.j2", b=base, meaning=METHODS[base.method].meaning, views=views, seeds=sweep.seeds, splits=splits,
        eigenmaps=eigenmaps, contrasts=0 if sweep.provisional else len(sweep.contrasts), looks=sweep.looks.count,
        test=sweep.test, primary=sweep.plan.grid.primary.replace("_", " "), margin=sweep.plan.grid.margin,
    )  # fmt: skip
    return " ".join(text.split())


def contrast_notes(
    contrasts: Sequence[Contrast], margin: float, test: SeedTest, looks: Looks, *, provisional: bool = False
) -> list[str]:  # fmt: skip
    """Return the sentences below the table of contrasts: the families, what a verdict means, and what qualifies it."""
    with_seeds = [contrast for contrast in contrasts if not contrast.without_seeds]
    without = [contrast.arm for contrast in contrasts if contrast.without_seeds]
    notes = [note] if (note := look_note(provisional, looks, test)) else []
    if provisional:
        return notes
    notes += [f"Differences between arm and base at the same seed; {test.note}."]
    notes.append(
        f"Two p-values of each arm, of a difference and of equivalence, each corrected over the {len(with_seeds)} arms (Holm)."
        + (f" Apart from them, over {', '.join(without)}: one value without seeds, compared with base's by a one-sample test."
           if without else "")
    )  # fmt: skip
    notes.append(
        "Higher or lower: the corrected p of a difference is below 5 %; equivalent: the corrected p of the hypothesis that the "
        f"difference is {margin:g} or more, in either direction, is below 5 %, which outranks higher and lower; else undecided."
    )
    return notes + [note for note in (_few_seeds(contrasts, test), _too_fine(contrasts, margin), _failed(contrasts),
                                      _outliers(contrasts)) if note]  # fmt: skip


def probe_note(records: Sequence[TrialRecord]) -> str:
    """Return a sentence on the L2 penalties that the probe on the representation chose; "" where none is known."""
    known = [record for record in records if "probe_l2" in record.metrics]
    if not known:
        return ""
    penalties = [record.metrics["probe_l2"] for record in known]
    text = f"The probe's L2 penalty, chosen on validation of 1 to {L2_STRENGTHS[-1]:g}: {min(penalties):g}"
    text += f" to {max(penalties):g}." if max(penalties) > min(penalties) else "."
    edge = [record.trial.title for record in known if record.metrics.get("probe_at_edge")]
    if edge:
        text += f" It is the weakest that was fitted, so that a weaker one might be better, for {', '.join(edge)}."
    open_ = [record.trial.title for record in known if record.metrics.get("probe_converged") == 0]
    return text + (f" The fit did not converge for {', '.join(open_)}." if open_ else " Every chosen fit converged.")


def caveat(base: TrialConfig) -> str:
    """Return what qualifies every result on a data set; "" where nothing does."""
    if base.dataset != "digits-m":
        return ""
    return (
        "A demonstration, not evidence: two choices for digits-m, an encoder without batch norm and the third collapse "
        "indicator's allowance of two standard errors, were made after seeing results on this test split."
    )


def claims_note(test: SeedTest, *, provisional: bool) -> str:
    """Return the sentences below the table of claims."""
    if provisional:
        return "Planned seeds are still to be run: nothing is tested yet."
    return (
        f"Each link of a claim: differences between seeds, {test.note}; level 5 %, corrected over all links of all claims "
        "(Holm): the claims were stated before the sweep was run, and are a family of their own. A chain holds if every link "
        "does."
    )


def look_note(provisional: bool, looks: Looks, test: SeedTest) -> str:
    """Return a sentence on planned seeds that are still to be run, or on earlier looks; "" for a first look as planned."""
    if provisional:
        return "Planned seeds are still to be run: estimates and intervals are provisional, and nothing is tested yet."
    if test is PAIRED_T_TEST:
        return ""
    at = sorted({n for numbers in looks.shown.values() for n in numbers})
    if looks.lost:
        why = "The record of earlier looks is damaged or gone"
    elif looks.count > 1:
        why = f"Verdicts were shown {looks.count} times, at {', '.join(map(str, at))} seeds"
    else:
        why = "Seeds were added, or left out, after results had been seen"
    return f"{why}: the test is the one that stays valid under looking again."


def _few_seeds(contrasts: Sequence[Contrast], test: SeedTest) -> str:
    tested = [contrast for contrast in contrasts if contrast.p is not None and not contrast.without_seeds]
    if not tested or (n := max(contrast.n for contrast in tested)) > _FEW:
        return ""
    critical = test.critical(n, LEVEL / len(tested))
    if not math.isfinite(critical):
        return f"With {n} seeds no difference of these {len(tested)} arms can be significant."
    return (
        f"With {n} seeds the smallest corrected p is below 5 % only for a difference of {critical:.2g} of its standard errors."
    )


def _too_fine(contrasts: Sequence[Contrast], margin: float) -> str:
    errors = {contrast.arm: contrast.test_error for contrast in contrasts if contrast.test_error is not None}
    coarse = [arm for arm, error in errors.items() if error >= margin]
    if not coarse:
        return ""
    who = "all arms" if len(coarse) == len(contrasts) else ", ".join(coarse)
    least = min(errors[arm] for arm in coarse)
    return (
        f"The margin of {margin:g} is finer than the error of the test set for {who} (at least {least:.3f}): with these test "
        "images no number of seeds can show that they are equivalent to base, so that verdict is not given."
    )


def _failed(contrasts: Sequence[Contrast]) -> str:
    failed = [f"{contrast.arm}: {', '.join(map(str, contrast.failed))}" for contrast in contrasts if contrast.failed]
    if not failed:
        return ""
    return (
        f"Seeds without a result, because the arm's trial or base's failed or was skipped: {'; '.join(failed)}. These verdicts "
        "rest on the other seeds, which may differ from those that failed."
    )


def _outliers(contrasts: Sequence[Contrast]) -> str:
    text = "The test assumes normally distributed differences; if some runs collapse it errs more often than stated."
    marked = [contrast.arm for contrast in contrasts if contrast.outlier]
    if marked:
        text += f" The differences of {', '.join(marked)} hold an outlier (Grubbs' test at 1 %)."
    flipped = [contrast.n for contrast in contrasts if contrast.p_sign_flip is not None]
    if flipped:
        text += (
            " Sign flips: a check that assumes symmetry alone, not corrected; its smallest possible value is "
            f"{p_text(2 / 2 ** min(flipped))} at n = {min(flipped)}."
        )
    if any(contrast.above is not None for contrast in contrasts):
        text += (
            " P(arm > base): the share of seeds in which the arm is above base (Bouthillier et al. 2021, arXiv 2103.03098), "
            "with a bootstrap interval over the seeds, which is a point where all seeds agree, however few they are."
        )
    return text


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
