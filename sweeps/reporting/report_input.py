"""What the report is about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sweeps.analysis.arm_summary import ArmSummary, summarize
from sweeps.analysis.contrasts import Contrast
from sweeps.analysis.search_result import SearchResult
from sweeps.analysis.significance import PAIRED_T_TEST, SeedTest
from sweeps.planning.trial import Plan
from sweeps.storage.records import TrialRecord, TrialStatus
from sweeps.storage.snapshot import StoreSnapshot


@dataclass(frozen=True)
class ReportInput:
    """What the report is about.

    Attributes:
        plan: the plan.
        records: every trial of the sweep that was tried or requested.
        snapshot: of the store that holds their per-image arrays and figures.
        introduction: which profile, and why.
        command: what was typed.
        commit: of the code, if it is known.
        problems: numbers and figures that are not defined: (title, name, problem).
        contrasts: the arms against base.
        test: how seeds were tested.
        search_result: what a search found.
    """

    plan: Plan
    records: Sequence[TrialRecord]
    snapshot: StoreSnapshot
    introduction: str
    command: str
    commit: str | None
    problems: Sequence[tuple[str, str, str]]
    contrasts: Sequence[Contrast] = ()
    test: SeedTest = PAIRED_T_TEST
    search_result: SearchResult | None = None

    @property
    def summaries(self) -> list[ArmSummary]:
        """The arms, in the plan's order."""
        return summarize(self.records)

    @property
    def seeds(self) -> list[int]:
        """The seeds with a trial that is done."""
        done = [r.trial.config for r in self.records if r.status == TrialStatus.DONE]
        return sorted({config.seed for config in done if config.has_encoder})
