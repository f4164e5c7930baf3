"""Metrics that are computed after a trial's slot, from the representations that the slot kept, or from the pixels."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from core.compute_settings import compute_settings
from core.embed import Features, pixels
from evaluation.evaluate import Evaluation, evaluate
from evaluation.inputs import EvaluationInputs
from sweeps.planning.trial import Trial
from sweeps.storage.records import MetricResult, results_of
from sweeps.storage.trial_state import TrialState
from sweeps.storage.trial_store import TrialStore

if TYPE_CHECKING:
    from sweeps.storage.image_sets import Images

_KEPT = "detail representations"
_NOT_KEPT = "no representations are kept"


def compute_metrics(trial: Trial, images: Images, store: TrialStore) -> dict[str, MetricResult]:
    """Return the results, by id, of the metrics that a done trial lacks and that are computed after its slot.

    They are computed on the CPU, by one thread.
    """
    state = store.read(trial.key)
    missing = state.missing_metrics(trial, after_slot=True)
    if not missing:
        return {}
    lacking = dict.fromkeys(missing, "")
    if (inputs := _inputs(trial, images, state)) is not None:
        lacking = {name: which for name in missing if (which := name.partition("/")[2]) and which not in inputs.anomalies}
        with compute_settings(1, deterministic=False):
            evaluation = evaluate(inputs, [name for name in missing if name not in lacking])
    else:
        evaluation = Evaluation({}, {}, frozenset(), 0.0)
    reasons, now = state.product_problems(trial), time.time()
    return results_of(evaluation, missing) | {
        missing[name]: MetricResult(None, reasons.get(f"detail anomalies/{which}" if which else _KEPT, _NOT_KEPT), now)
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
        train, validation, test = (_features(kept[part], kept[f"{part}_labels"]) for part in ("train", "validation", "test"))
        found = {name: state.detail(trial, f"anomalies/{name}") for name in trial.anomalies}
        anomalies = {name: _features(arrays["representation"]) for name, arrays in found.items() if arrays is not None}
    return EvaluationInputs(
        train, validation, test, len(splits.train.class_names), anomalies, has_backbone=False, images=splits
    )  # fmt: skip


def _features(representation: NDArray[np.float32], labels: NDArray[np.int64] | None = None) -> Features:
    return Features(representation, representation, np.zeros(len(representation), np.int64) if labels is None else labels)
