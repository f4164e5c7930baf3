"""The images of a sweep: the driver loads them once, reports all errors together, and shares them with the workers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

from core.config import ImagesKey, TrialConfig, check_sizes
from core.datasets import (
    ImageSet,
    Splits,
    describe,
    identify,
    load_all,
    load_anomalies,
    load_validation_anomalies,
    scaled_from,
    split_images,
)
from core.errors import InputError
from sweeps.planning.trial import Trial

T = TypeVar("T")


@dataclass(frozen=True)
class Images:
    """All image sets of a sweep. The driver loads them once, and the workers of a machine share them without a copy.

    Attributes:
        splits: ``images_key`` of a config -> train, validation, test.
        anomalies: anomaly set -> its images.
        validation_anomalies: headline anomaly set -> its images for validation; None if it has none.
    """

    splits: Mapping[ImagesKey, Splits]
    anomalies: Mapping[str, ImageSet]
    validation_anomalies: Mapping[str, ImageSet | None] = field(default_factory=dict)

    def of(self, config: TrialConfig) -> Splits:
        """Return the train, validation and test images of a config."""
        return self.splits[config.images_key]

    def cover(self, trials: Iterable[Trial]) -> bool:
        """Return whether all image sets of the trials are loaded."""
        configs = [trial.config for trial in trials]
        return all(c.images_key in self.splits and set(c.anomaly_datasets) <= set(self.anomalies) for c in configs)


def load_images(trials: Iterable[Trial], data_dir: Path) -> Images:
    """Load every image set that the trials and their parents need.

    Raises:
        InputError: with all errors of the image sets, and of configs that do not fit their sizes.
    """
    trials = list(trials)
    configs = [config for trial in trials for config in _lineage(trial.config)]
    errors: list[str] = []

    def collect(task: Callable[[], T]) -> T | None:
        try:
            return task()
        except InputError as error:
            errors.extend(error.errors)
            return None

    whole = {name: collect(partial(load_all, name, data_dir, ("train", "test"))) for name in {c.dataset: None for c in configs}}
    splits = {
        key: collect(partial(_split, key, images))
        for key in dict.fromkeys(config.images_key for config in configs)
        if (images := whole[key[0]]) is not None
    }
    names = dict.fromkeys(name for config in configs for name in config.anomaly_datasets)
    anomalies = {name: collect(partial(load_anomalies, name, data_dir)) for name in names}
    headlines = dict.fromkeys(config.anomaly_datasets[0] for config in configs if config.anomaly_datasets)
    validation = {name: collect(partial(load_validation_anomalies, name, data_dir)) for name in headlines}
    loaded = {which: found for which, found in splits.items() if found is not None}
    for config in configs if not errors else ():
        collect(partial(check_sizes, config, loaded[config.images_key]))
    if not errors:
        errors += _changed_meanwhile(trials, data_dir)
    if errors:
        raise InputError(list(dict.fromkeys(errors)))
    return Images(loaded, {name: found for name, found in anomalies.items() if found is not None}, validation)


def _changed_meanwhile(trials: Iterable[Trial], data_dir: Path) -> list[str]:
    """Return an error for each folder that holds other images than when the trials' keys were made of its content."""
    planned = {(trial.config.dataset, False): trial.data for trial in trials}
    planned |= {(name, True): identity for trial in trials for name, identity in trial.anomalies.items()}
    return [
        f"{name}: its images changed while this command ran: run it again"
        for (name, anomalies), identity in planned.items()
        if identify(name, data_dir, anomalies=anomalies) != identity
    ]


def describe_folders(trials: Iterable[Trial], data_dir: Path) -> list[str]:
    """Return lines about the folders of images that trials and their parents use: what is taken, and what is passed over.

    Raises:
        InputError: for a folder that is not laid out as a data set.
    """
    configs = [config for trial in trials for config in _lineage(trial.config)]
    datasets = dict.fromkeys((config.dataset, False) for config in configs)
    anomalies = dict.fromkeys((name, True) for config in configs for name in config.anomaly_datasets)
    lines = [line for name, as_anomalies in datasets | anomalies for line in describe(name, data_dir, anomalies=as_anomalies)]
    pairs = dict.fromkeys((config.dataset, name) for config in configs for name in config.anomaly_datasets)
    ranges = {name: scaled_from(name, data_dir) for name in dict.fromkeys(name for pair in pairs for name in pair)}
    return lines + [
        f"{anomalies}: warning: its {values} are scaled from {ranges[anomalies][values]}, those of {dataset} from {top}: what "
        "tells its images from the others may be that alone"
        for dataset, anomalies in pairs
        for values, top in ranges[dataset].items()
        if ranges[anomalies].get(values, top) != top
    ]


def _split(key: ImagesKey, images: Sequence[ImageSet]) -> Splits:
    (dataset, subset, split_seed), (train, test) = key, images
    splits = split_images(dataset, train, test, subset, split_seed)
    _ = splits.train.channels  # computed once here, for all trials
    return splits


def _lineage(config: TrialConfig) -> list[TrialConfig]:
    return [config] + (_lineage(config.parent) if config.parent is not None else [])
