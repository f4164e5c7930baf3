"""The images of a sweep: loaded once by the driver, all faults at once, and shared by its workers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from core.config import TrialConfig, check_sizes
from core.datasets import ImageSet, Splits, load_anomalies, load_splits, load_validation_anomalies
from core.errors import InputError
from sweeps.plan import Trial


@dataclass(frozen=True)
class Images:
    """All image sets of a sweep, loaded once by the driver and shared by the workers of a machine without a copy.

    Attributes:
        splits: (dataset, train_subset) -> train, validation, test.
        anomalies: anomaly set -> its images.
        validation_anomalies: headline anomaly set -> its images for choosing trials, if it has any.
    """

    splits: Mapping[tuple[str, int | None], Splits]
    anomalies: Mapping[str, ImageSet]
    validation_anomalies: Mapping[str, ImageSet | None] = field(default_factory=dict)

    def of(self, config: TrialConfig) -> Splits:
        """A config's own images."""
        return self.splits[config.dataset, config.train_subset]

    def cover(self, trials: Iterable[Trial]) -> bool:
        """Whether all of the trials' image sets are here."""
        configs = [trial.config for trial in trials]
        return all(
            (c.dataset, c.train_subset) in self.splits and set(c.anomaly_datasets) <= set(self.anomalies) for c in configs
        )


def load_images(trials: Iterable[Trial], data_dir: Path) -> Images:
    """Every image set that the trials need, their parents' included.

    Raises:
        InputError: with all faults of the image sets, and of configs that do not fit their sizes.
    """
    configs = [config for trial in trials for config in _lineage(trial.config)]
    splits: dict[tuple[str, int | None], Splits] = {}
    anomalies: dict[str, ImageSet] = {}
    for_choosing: dict[str, ImageSet | None] = {}
    faults: list[str] = []
    wanted: list[Callable[[], None]] = []

    def load(dataset: str, subset: int | None) -> None:
        splits[dataset, subset] = load_splits(dataset, data_dir, subset)
        _ = splits[dataset, subset].train.channels  # once for all trials

    def load_anomaly_set(name: str) -> None:
        anomalies[name] = load_anomalies(name, data_dir)

    def load_for_choosing(name: str) -> None:
        for_choosing[name] = load_validation_anomalies(name, data_dir)

    wanted += [partial(load, *which) for which in dict.fromkeys((c.dataset, c.train_subset) for c in configs)]
    wanted += [partial(load_anomaly_set, name) for name in dict.fromkeys(n for c in configs for n in c.anomaly_datasets)]
    wanted += [
        partial(load_for_choosing, name) for name in dict.fromkeys(c.anomaly_datasets[0] for c in configs if c.anomaly_datasets)
    ]
    for task in wanted:
        try:
            task()
        except InputError as error:
            faults += error.faults
    for config in configs if not faults else ():
        try:
            check_sizes(config, splits[config.dataset, config.train_subset])
        except InputError as error:
            faults += error.faults
    if faults:
        raise InputError(list(dict.fromkeys(faults)))
    return Images(splits, anomalies, for_choosing)


def _lineage(config: TrialConfig) -> list[TrialConfig]:
    return [config] + (_lineage(config.parent) if config.parent is not None else [])
