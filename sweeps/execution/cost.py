"""Estimates of what a plan costs, from finished trials of the same kind or, without any, from a rule of thumb."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from statistics import median

from core.config import TrialConfig
from core.models import ENCODERS
from core.pairing import PAIRINGS
from sweeps.planning.trial import Plan, Trial
from sweeps.storage.snapshot import StoreSnapshot

#: The rule of thumb, used if nothing was measured: floating-point operations per second in training, and seconds that a core
#: needs to augment a view.
GPU_FLOPS = 1e14
CPU_FLOPS_PER_THREAD = {"fp32": 6e10, "bf16": 1.2e11}
AUGMENT_SECONDS = 5e-5
_EVALUATION_SECONDS = 8.0
_RAW_PIXELS_SECONDS = 50.0
_GRAPH_SECONDS = 1e-7  # for each pair of images
RULE = (
    f"the rule of {GPU_FLOPS / 1e12:.0f} TFLOP/s on a GPU, 60 (fp32) or 120 (bf16) GFLOP/s a CPU thread, "
    f"and {AUGMENT_SECONDS * 1e3:.2f} ms a view for a CPU to augment"
)


@dataclass(frozen=True)
class Estimate:
    """How long the open trials will take.

    Attributes:
        seconds: trial key -> estimated seconds.
        measured: for how many of the trials that train the speed was measured on finished trials.
        basis: what the estimate is based on, for messages.
    """

    seconds: Mapping[str, float]
    measured: int
    basis: str


def estimate(plan: Plan, snapshot: StoreSnapshot, done: Collection[str], *, gpu: bool) -> Estimate:
    """Estimate the seconds of a plan's open trials.

    Args:
        plan: the plan.
        snapshot: of the store, which holds the finished trials.
        done: keys of the plan's trials for which nothing is left to do.
        gpu: whether the trials run on GPUs.
    """
    rates, kept = _measured_rates(snapshot, gpu), frozenset(snapshot.store.trial_keys())
    seconds: dict[str, float] = {}
    measured = 0
    for key, trial in plan.trials.items():
        if key in done or key not in plan.requested:
            continue
        config = trial.config
        if not config.trained:
            seconds[key] = _untrained_seconds(trial)
            continue
        images = config.train_subset or trial.train_images
        epochs = _epochs_to_train(plan, trial, snapshot, kept)
        rate = rates.get(_kind(config))
        measured += rate is not None
        per_image = rate if rate is not None else _flops_estimate(config, gpu)
        seconds[key] = epochs * images * per_image + _EVALUATION_SECONDS
    trained = sum(plan.trials[key].config.trained for key in seconds)
    if measured == trained and trained:
        basis = "the speed of finished trials of the same kind in this storage"
    elif measured:
        basis = f"finished trials of the same kind for {measured} of {trained}, else {RULE}"
    else:
        basis = RULE
    return Estimate(seconds, measured, basis)


def _untrained_seconds(trial: Trial) -> float:
    """Seconds for a method that trains nothing.

    Raw pixels take longer, because they have many dimensions. The time for a neighbourhood graph grows with the square of the
    number of images.
    """
    config = trial.config
    if config.method == "raw-pixels":
        return _RAW_PIXELS_SECONDS
    images = config.train_subset or trial.train_images
    return _EVALUATION_SECONDS + (_GRAPH_SECONDS * images**2 if config.method == "laplacian-eigenmaps" else 0.0)


def critical_path_order(plan: Plan, seconds: Mapping[str, float]) -> list[str]:
    """Return the open trials' keys, sorted by the longest chain that starts with each: its time plus that of its dependents."""
    return _by_chain(seconds, _followers(plan, seconds))


def wall_time(plan: Plan, seconds: Mapping[str, float], slots: int) -> float:
    """Return the seconds until the last trial ends, if ``slots`` trials run at once and each waits for its dependencies."""
    followers = _followers(plan, seconds)
    order = _by_chain(seconds, followers)
    rank = {key: i for i, key in enumerate(order)}
    needs = dict.fromkeys(order, 0)
    for waiting in followers.values():
        for key in waiting:
            needs[key] += 1
    ready = [rank[key] for key in order if not needs[key]]  # sorted, so a heap
    running: list[tuple[float, str]] = []
    now = 0.0
    while ready or running:
        while ready and len(running) < max(1, slots):
            key = order[heapq.heappop(ready)]
            heapq.heappush(running, (now + seconds[key], key))
        now, ended = heapq.heappop(running)
        for key in followers[ended]:
            needs[key] -= 1
            if not needs[key]:
                heapq.heappush(ready, rank[key])
    return now


def _followers(plan: Plan, seconds: Mapping[str, float]) -> dict[str, list[str]]:
    """Open trial -> the open trials that wait for it."""
    followers: dict[str, list[str]] = {key: [] for key in seconds}
    for key in seconds:
        for need in set(plan.dependencies(plan.trials[key])):
            if need in followers:
                followers[need].append(key)
    return followers


def _by_chain(seconds: Mapping[str, float], followers: Mapping[str, list[str]]) -> list[str]:
    chains: dict[str, float] = {}

    def chain(key: str) -> float:
        if key not in chains:
            chains[key] = seconds[key] + max(map(chain, followers[key]), default=0.0)
        return chains[key]

    return sorted(seconds, key=chain, reverse=True)


def _epochs_to_train(plan: Plan, trial: Trial, snapshot: StoreSnapshot, kept: frozenset[str]) -> int:
    if snapshot.is_trained(trial.key, trial.parent_key):
        return 0
    # Looking into a folder for each of thousands of shorter trials would take long; few of them have one.
    continues = (
        key in plan.requested or (key in kept and snapshot.is_trained(key, trial.parent_key))
        for _, key in trial.resumable_from
    )  # fmt: skip
    shorter = (epochs for (epochs, _), found in zip(trial.resumable_from, continues, strict=True) if found)
    return trial.config.epochs - next(shorter, 0)


def _kind(config: TrialConfig) -> tuple[object, ...]:
    precision = None if config.precision == "auto" else config.precision
    augmented = config.method == "supervised" or PAIRINGS[config.pairing].augmented
    return config.method, config.encoder, precision, augmented, config.threads, config.joint_forward


def _flops_estimate(config: TrialConfig, gpu: bool) -> float:
    views = 1 if config.method == "supervised" else 2
    flops = ENCODERS[config.encoder].gflop * 1e9 * views * 3  # a backward pass costs as much as two forward passes
    if gpu:
        return flops / GPU_FLOPS
    augmented = config.method == "supervised" or PAIRINGS[config.pairing].augmented
    augmenting = views * AUGMENT_SECONDS if augmented else 0.0
    return flops / (CPU_FLOPS_PER_THREAD[config.precision] * config.threads) + augmenting


def _measured_rates(snapshot: StoreSnapshot, gpu: bool) -> dict[tuple[object, ...], float]:
    """Kind of trial -> median seconds per image and epoch, over finished trials on the same kind of device."""
    found: dict[tuple[object, ...], list[float]] = {}
    for key in snapshot.store.trial_keys():
        state = snapshot.state(key)
        training = state.training
        if training is None or state.config is None or not training.history or training.device.startswith("CPU") == gpu:
            continue
        try:
            config = TrialConfig.model_validate(state.config["config"])
        except ValueError:
            continue  # written by a version with other fields, so it cannot be compared
        speeds = [speed for record in training.history if (speed := record.get("images_per_second", 0.0)) > 0]
        if speeds:
            found.setdefault(_kind(config), []).append(median(1 / speed for speed in speeds))
    return {kind: median(values) for kind, values in found.items()}
