"""Trial and Plan: the two types that all other packages of ``sweeps`` use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from core.config import IMAGE_PIXELS, TrialConfig
from evaluation.evaluate import METRICS, metric_ids
from evaluation.per_image import detail_ids
from evaluation.trial_figures import figure_ids
from sweeps.planning.grid import Grid


@dataclass(frozen=True)
class Trial:
    """One trial of a sweep.

    Attributes:
        key: hash of everything that determines its outcome (:func:`core.config.trial_key`); the name of its folder.
        config: validated, with a resolved precision.
        arm: the arm's name; for a parent that is no arm of the grid, a description.
        aliases: further arms with the same config.
        required_by: for a parent that is no arm of the grid: the arms that need it; else empty.
        parent_key: key of the trial whose encoder finds its neighbours.
        resumable_from: shorter trials that it could continue, as (epochs, key), the longest first.
        untrained_key: key of the trial with the untrained encoder of the same seed and data, to compare with.
        data: identity of its data set's content.
        train_images: how many train images its data set has.
        anomalies: identity of each anomaly set's content, by name, the headline set first.
        diff_from_base: fields in which it differs from base: name -> (base's value, this trial's value).
        validation_only: True while a search selects points: only validation metrics are computed.
    """

    key: str
    config: TrialConfig
    arm: str
    aliases: tuple[str, ...]
    required_by: tuple[str, ...]
    parent_key: str | None
    resumable_from: tuple[tuple[int, str], ...]
    untrained_key: str | None
    data: str
    train_images: int
    anomalies: Mapping[str, str]
    diff_from_base: Mapping[str, tuple[Any, Any]]
    validation_only: bool = False

    @property
    def arms(self) -> tuple[str, ...]:
        """All names of the trial: the arm and its aliases."""
        return (self.arm, *self.aliases)

    @property
    def metric_ids(self) -> dict[str, str]:
        """The metrics to compute: name -> id of the computation."""
        return metric_ids(self.anomalies, validation_only=self.validation_only)

    def is_after_slot(self, metric: str) -> bool:
        """Return whether a metric is computed outside of the trial's slot, from what the slot keeps or from the pixels."""
        source = METRICS[metric.partition("/")[0]].after_slot
        if source == "readouts":
            return self.config.has_encoder  # there is no backbone else, and nothing to compute
        kept = self.config.method == "raw-pixels" or self.config.representation_dim < IMAGE_PIXELS
        return source == "representations" and kept

    @property
    def detail_ids(self) -> dict[str, str]:
        """The per-image arrays to keep: name -> id of the computation; none while a search selects points."""
        return {} if self.validation_only else detail_ids(self.anomalies)

    @property
    def figure_ids(self) -> dict[str, str]:
        """The figures to draw: name -> id of the drawing; none while a search selects points."""
        return {} if self.validation_only else figure_ids(self.title, self.anomalies)

    @property
    def title(self) -> str:
        """The display name: the arm and, for a trial that depends on it, the seed."""
        return f"{self.arm} · seed {self.config.seed}" if self.config.has_seed else self.arm


@dataclass(frozen=True)
class Plan:
    """All trials of a sweep, and those that a command asks for.

    Attributes:
        grid: the grid.
        profile: name of the profile.
        base: the config of the arm base, for the first seed.
        sweep_id: the sweep's identity: the grid's name and a hash of the base config.
        trials: all trials by key, in the order of the arms: every arm, for every seed of this and earlier commands.
        requested: keys of the trials that this command asks for, parents included.
    """

    grid: Grid
    profile: str
    base: TrialConfig
    sweep_id: str
    trials: Mapping[str, Trial]
    requested: frozenset[str]

    @property
    def requested_trials(self) -> list[Trial]:
        """The trials that this command asks for, in the plan's order."""
        return [trial for key, trial in self.trials.items() if key in self.requested]

    def merged_with(self, other: Plan) -> Plan:
        """Return this plan plus the trials and requests of another plan of the same sweep."""
        return replace(self, trials={**other.trials, **self.trials}, requested=self.requested | other.requested)

    def dependencies(self, trial: Trial) -> tuple[str, ...]:
        """Return the keys of the plan's trials that must end before this one starts: its parent, and the one it continues."""
        continued = next((key for _, key in trial.resumable_from if key in self.trials), None)
        return tuple(key for key in (trial.parent_key, continued) if key is not None and key in self.trials)
