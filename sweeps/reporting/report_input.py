"""The input of the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from sweeps.analysis.arm_summary import ArmSummary, summarize
from sweeps.analysis.contrasts import Contrast
from sweeps.analysis.search_result import SearchResult
from sweeps.analysis.shapley import Decomposition
from sweeps.analysis.significance import PAIRED_T_TEST, SeedTest
from sweeps.planning.trial import Plan
from sweeps.storage.looks import Looks
from sweeps.storage.records import TrialRecord, TrialStatus
from sweeps.storage.snapshot import StoreSnapshot


@dataclass(frozen=True)
class ReportInput:
    """Everything that the report is made from.

    Attributes:
        plan: the sweep's plan.
        records: one for every trial of the sweep that was tried or requested.
        snapshot: of the store that holds the trials' per-image arrays and figures.
        introduction: which profile was used, and why.
        command: the command line.
        commit: the git commit of the code; None if it is not known.
        problems: numbers and figures that are not defined: (title of the trial, name, problem).
        contrasts: the comparison of each arm with base.
        test: the statistical test over seeds.
        search_result: the result of a search; None without one.
        provisional: whether planned seeds are still to be run, so that nothing is tested yet.
        looks: how often verdicts were shown, this time included, and at which numbers of seeds.
        decompositions: what the switches of the grid's factorial contribute to each metric; empty without a factorial.
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
    provisional: bool = False
    looks: Looks = field(default_factory=Looks)
    decompositions: Sequence[Decomposition] = ()

    @property
    def summaries(self) -> list[ArmSummary]:
        """The arms, in the plan's order."""
        return summarize(self.records)

    @property
    def seeds(self) -> list[int]:
        """The seeds that have a done trial which depends on its seed."""
        done = [r.trial.config for r in self.records if r.status == TrialStatus.DONE]
        return sorted({config.seed for config in done if config.has_seed})
