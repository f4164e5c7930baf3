"""Metrics that are computed after a trial's slot, from features that the slot kept or left, or from the pixels."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from core.compute_settings import compute_settings
from core.embed import Features, pixels
from evaluation.evaluate import evaluate
from evaluation.inputs import EvaluationInputs
from sweeps.planning.trial import Trial
from sweeps.storage.records import MetricResult, results_of
from sweeps.storage.trial_state import READOUTS, TrialState, needs_readouts
from sweeps.storage.trial_store import TrialStore

if TYPE_CHECKING:
    from sweeps.storage.image_sets import Images

_KEPT = "detail representations"
_NOT_KEPT = "no representations are kept"
_PARTS = ("train", "validation", "test")


def readouts_of(train: Features, validation: Features, test: Features) -> dict[str, NDArray[Any]]:
    """Return the arrays that the slot leaves: the features of backbone and projection, and the labels."""
    arrays: dict[str, NDArray[Any]] = {}
    for name, features in zip(_PARTS, (train, validation, test), strict=True):
        arrays |= {f"{name}_backbone": features.backbone, f"{name}_labels": features.labels}
        arrays |= {} if features.projection is None else {f"{name}_projection": features.projection}
    return arrays


def compute_metrics(trial: Trial, images: Images, store: TrialStore) -> None:
    """Compute and store the metrics that a done trial lacks and that are computed after its slot.

    They are computed on the CPU, by one thread. What the slot left for them is then removed.
    """
    state = store.read(trial.key)
    missing = state.missing_metrics(trial, after_slot=True)
    of_readouts = {name: id_ for name, id_ in missing.items() if needs_readouts(name)}
    of_representations = {name: id_ for name, id_ in missing.items() if name not in of_readouts}
    with compute_settings(1, deterministic=False):
        if of_representations:
            store.save_results(trial.key, _from_representations(trial, images, state, of_representations))
        if of_readouts and (left := state.readouts) is not None:
            store.save_results(
                trial.key, results_of(evaluate(_left_inputs(trial, images, left), list(of_readouts)), of_readouts)
            )
    if state.has_readouts:
        store.files(trial.key).remove(READOUTS)


def _left_inputs(trial: Trial, images: Images, left: dict[str, NDArray[Any]]) -> EvaluationInputs:
    """What metrics of backbone and projection look at; the representation, which they do not, is the backbone's features."""
    train, validation, test = (
        Features(left[f"{part}_backbone"], left[f"{part}_backbone"], left[f"{part}_labels"], left.get(f"{part}_projection"))
        for part in _PARTS
    )
    return EvaluationInputs(train, validation, test, len(images.of(trial.config).train.class_names))


def _from_representations(
    trial: Trial, images: Images, state: TrialState, missing: dict[str, str]
) -> dict[str, MetricResult]:  # fmt: skip
    """Return the results, by id, of metrics of the representations."""
    reasons, now = state.product_problems(trial), time.time()
    if (inputs := _inputs(trial, images, state)) is None:
        return {id_: MetricResult(None, reasons.get(_KEPT, _NOT_KEPT), now) for id_ in missing.values()}
    lacking = {name: which for name in missing if (which := name.partition("/")[2]) and which not in inputs.anomalies}
    evaluation = evaluate(inputs, [name for name in missing if name not in lacking])
    return results_of(evaluation, missing) | {
        missing[name]: MetricResult(None, reasons.get(f"detail anomalies/{which}", _NOT_KEPT), now)
        for name, which in lacking.items()
    }


def _inputs(trial: Trial, images: Images, state: TrialState) -> EvaluationInputs | None:
    """What the metrics look at; None where no representations are kept. An anomaly set without them is left out."""
    splits = images.of(trial.config)
    if trial.config.method == "raw-pixels":
        train, validation, test = (pixels(part) for part in (splits.train, splits.validation, splits.test))
        anomalies = {name: pixels(images.anomalies[name]) for name in trial.anomalies}
    else:
        if (kept := state.detail(trial, "representations")) is None:
            return None
        train, validation, test = (_features(kept[part], kept[f"{part}_labels"]) for part in _PARTS)
        found = {name: state.detail(trial, f"anomalies/{name}") for name in trial.anomalies}
        anomalies = {name: _features(arrays["representation"]) for name, arrays in found.items() if arrays is not None}
    return EvaluationInputs(
        train, validation, test, len(splits.train.class_names), anomalies, has_backbone=False, images=splits
    )  # fmt: skip


def _features(representation: NDArray[np.float32], labels: NDArray[np.int64] | None = None) -> Features:
    return Features(representation, representation, np.zeros(len(representation), np.int64) if labels is None else labels)
