"""What a plan costs, and what the estimate rests on: finished trials of the same kind, or a stated rule."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from statistics import median

from core.config import TrialConfig
from core.datasets import count_train
from core.files import load_json
from core.models import ENCODERS
from core.pairing import PAIRINGS
from sweeps.plan import Plan, Trial
from sweeps.store import Store

#: The rule, where nothing was measured: operations a second in training, and seconds a core needs to augment a view.
GPU_FLOPS = 1e14
CPU_FLOPS_PER_THREAD = {"fp32": 6e10, "bf16": 1.2e11}
AUGMENT_SECONDS = 1e-4
_EVALUATION_SECONDS = 8.0
_RAW_PIXELS_SECONDS = 60.0
_GRAPH_SECONDS = 1e-7  # a pair of images
RULE = (
    f"the rule of {GPU_FLOPS / 1e12:.0f} TFLOP/s on a GPU, 60 (fp32) or 120 (bf16) GFLOP/s a CPU thread, "
    f"and {AUGMENT_SECONDS * 1e3:.1f} ms a view for a CPU to augment"
)


@dataclass(frozen=True)
class Estimate:
    """Seconds that each open trial will take, and where the figures come from."""

    seconds: Mapping[str, float]
    measured: int
    basis: str


def estimate(plan: Plan, store: Store, done: Collection[str], *, gpu: bool) -> Estimate:
    """Estimates the open trials of a plan.

    Args:
        plan: the plan.
        store: where finished trials are looked up.
        done: keys of the plan's trials that need nothing.
        gpu: whether the trials run on GPUs.
    """
    rates = _measured_rates(store, gpu)
    seconds: dict[str, float] = {}
    measured = 0
    for key, trial in plan.trials.items():
        if key in done or key not in plan.wanted:
            continue
        config = trial.config
        if not config.trained:
            seconds[key] = _untrained_seconds(config)
            continue
        images = config.train_subset or count_train(config.dataset)
        epochs = _epochs_to_train(plan, trial, store)
        rate = rates.get(_kind(config))
        measured += rate is not None
        per_image = rate if rate is not None else _rule(config, gpu)
        seconds[key] = epochs * images * per_image + _EVALUATION_SECONDS
    trained = sum(plan.trials[key].config.trained for key in seconds)
    if measured == trained and trained:
        basis = "the speed of finished trials of the same kind in this storage"
    elif measured:
        basis = f"finished trials of the same kind for {measured} of {trained}, else {RULE}"
    else:
        basis = RULE
    return Estimate(seconds, measured, basis)


def _untrained_seconds(config: TrialConfig) -> float:
    """For rows that are not trained; those of the pixels' size take longer, and a neighbourhood graph their number's square."""
    if config.method == "raw-pixels":
        return _RAW_PIXELS_SECONDS
    images = config.train_subset or count_train(config.dataset)
    return _EVALUATION_SECONDS + (_GRAPH_SECONDS * images**2 if config.method == "laplacian-eigenmaps" else 0.0)


def by_critical_path(plan: Plan, seconds: Mapping[str, float]) -> list[str]:
    """The open trials, those first that have the longest way to go: their own time and that of what waits for them."""
    ways: dict[str, float] = {}

    def way(key: str) -> float:
        if key not in ways:
            followers = [other for other in seconds if key in plan.waits_for(plan.trials[other])]
            ways[key] = seconds[key] + max(map(way, followers), default=0.0)
        return ways[key]

    return sorted(seconds, key=way, reverse=True)


def wall_time(plan: Plan, seconds: Mapping[str, float], slots: int) -> float:
    """Seconds until the last trial ends, when ``slots`` trials run at once and each waits for what it needs."""
    order = by_critical_path(plan, seconds)
    waiting = {key: {need for need in plan.waits_for(plan.trials[key]) if need in seconds} for key in order}
    running: list[tuple[float, str]] = []
    now = 0.0
    while waiting or running:
        ready = [key for key, needs in waiting.items() if not needs]
        for key in ready[: max(1, slots) - len(running)]:
            del waiting[key]
            heapq.heappush(running, (now + seconds[key], key))
        if not running:
            break
        now, ended = heapq.heappop(running)
        for needs in waiting.values():
            needs.discard(ended)
    return now


def _epochs_to_train(plan: Plan, trial: Trial, store: Store) -> int:
    if store.is_trained(trial.key):
        return 0
    kept = [epochs for epochs, key in trial.shorter if key in plan.wanted or store.is_trained(key)]
    return trial.config.epochs - (kept[0] if kept else 0)


def _kind(config: TrialConfig) -> tuple[object, ...]:
    precision = None if config.precision == "auto" else config.precision
    augmented = config.method == "supervised" or PAIRINGS[config.pairing].augmented
    return config.method, config.encoder, precision, augmented, config.threads, config.joint_forward


def _rule(config: TrialConfig, gpu: bool) -> float:
    views = 1 if config.method == "supervised" else 2
    flops = ENCODERS[config.encoder].gflop * 1e9 * views * 3  # the backward pass costs two forward ones
    if gpu:
        return flops / GPU_FLOPS
    augmented = config.method == "supervised" or PAIRINGS[config.pairing].augmented
    augmenting = views * AUGMENT_SECONDS if augmented else 0.0
    return flops / (CPU_FLOPS_PER_THREAD[config.precision] * config.threads) + augmenting


def _measured_rates(store: Store, gpu: bool) -> dict[tuple[object, ...], float]:
    """Kind of trial -> median seconds an image and epoch, from finished trials on the same kind of device."""
    found: dict[tuple[object, ...], list[float]] = {}
    for key in store.trial_keys():
        training = store.training(key)
        content = load_json(store.folder(key) / "config.json")
        if training is None or content is None or not training.history or training.device.startswith("CPU") == gpu:
            continue
        try:
            config = TrialConfig.model_validate(content["config"])
        except ValueError:
            continue  # of a version with other fields: no guide for this one
        found.setdefault(_kind(config), []).append(median(1 / record["images_per_second"] for record in training.history))
    return {kind: median(values) for kind, values in found.items()}
