"""Sections of the report that hold one metric against others: readouts, metrics without labels, anomaly scores."""

from __future__ import annotations

from dataclasses import dataclass

from sweeps.reporting.label_free_section import LabelFreeSection, label_free_section
from sweeps.reporting.readout_section import AnomalyScoreSection, ReadoutSection, anomaly_score_section, readout_section
from sweeps.reporting.report_input import ReportInput


@dataclass(frozen=True)
class Comparisons:
    """The sections; None for one that is left out because nothing was measured for it."""

    readouts: ReadoutSection | None
    label_free: LabelFreeSection | None
    anomaly_scores: AnomalyScoreSection | None


def build_comparisons(sweep: ReportInput) -> Comparisons:
    """Return the content of the sections."""
    return Comparisons(readout_section(sweep), label_free_section(sweep.summaries), anomaly_score_section(sweep))
