"""Running one trial on a worker: train it and evaluate it, as far as that is not done yet, and save everything to the store."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from core.atomic_files import atomic_write, load_arrays, open_for_load, save_arrays
from core.compute_settings import compute_settings
from core.config import TrialConfig
from core.datasets import ImageSet, Splits
from core.embed import Features, embed
from core.pairing import PairStatistics
from core.train import Checkpoint, train, untrained_encoder
from evaluation import per_image
from evaluation.baselines import embedder, fit
from evaluation.evaluate import evaluate, metric_ids
from evaluation.inputs import EvaluationInputs
from sweeps.execution.options import Rungs
from sweeps.planning.trial import Trial
from sweeps.storage.image_sets import Images
from sweeps.storage.records import MetricResult, TrainingRecord
from sweeps.storage.trial_store import TrialStore

_REFERENCE = "probe_accuracy"  # metric of the untrained encoder, with which trials are compared


def run_trial(
    trial: Trial,
    images: Images,
    storage: Path,
    *,
    gpu: bool = False,
    deterministic: bool = False,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
    on_wait: Callable[[], None] | None = None,
    rungs: Rungs | None = None,
) -> None:
    """Train and evaluate one trial; anything that is already in the store is not computed again.

    If another process of this machine works on the same trial, wait for it and use its results.

    Args:
        trial: the trial; its parent must be done.
        images: the sweep's images.
        storage: where trials are kept.
        gpu: whether to compute on the GPU that Ray assigned to this process.
        deterministic: see :func:`core.compute_settings.compute_settings`.
        on_epoch: called with each epoch's record after the epoch was saved to the store.
        on_wait: called once, before waiting, if another process works on the trial.
        rungs: epochs after which the record also contains the metric by which a search stops trials early.
    """
    store, device = TrialStore(storage), torch.device("cuda" if gpu else "cpu")
    with store.lock(trial.key, on_wait), compute_settings(trial.config.threads, deterministic=deterministic):
        store.clear_failure(trial.key)
        if not store.read(trial.key).is_trained:
            _train(trial, images, store, device, deterministic, on_epoch, rungs)
        _evaluate(trial, images, store, device)


def _evaluate(trial: Trial, images: Images, store: TrialStore, device: torch.device) -> None:
    """Compute the metrics and the per-image arrays that a trained trial lacks."""
    state = store.read(trial.key)
    missing, missing_details = state.missing_metrics(trial), state.missing_details(trial)
    if not missing and not missing_details:
        return
    assert state.training is not None
    inputs = _inputs(trial, state.training, images, store, device)
    evaluation = evaluate(inputs, list(missing))
    now = time.time()
    results = {missing[name]: MetricResult(value, None, now) for name, value in evaluation.values.items()}
    results |= {
        missing[name]: MetricResult(None, problem, now, name in evaluation.defects)
        for name, problem in evaluation.problems.items()
    }
    for name, id_ in missing_details.items():
        results[id_] = store.make(trial.key, id_, partial(per_image.compute, name, inputs))
    store.save_results(trial.key, results)


def load_encoder(store: TrialStore, key: str, config: TrialConfig, splits: Splits, device: torch.device) -> nn.Sequential:
    """Load the encoder of a trained trial, in eval mode."""
    encoder = untrained_encoder(config, splits, device)
    with open_for_load(store.folder(key) / "encoder.pt") as file:
        encoder.load_state_dict(torch.load(file, map_location=device, weights_only=True))
    return encoder.eval()


def _train(
    trial: Trial,
    images: Images,
    store: TrialStore,
    device: torch.device,
    deterministic: bool,
    on_epoch: Callable[[dict[str, float]], None] | None,
    rungs: Rungs | None,
) -> None:
    config, folder = trial.config, store.folder(trial.key)
    store.save_config(trial, device=device_kind(device))
    if not config.trained:
        _fit_untrained(trial, images, store, device)
        return
    parent = None
    if trial.parent_key is not None:
        assert config.parent is not None
        parent = load_encoder(store, trial.parent_key, config.parent, images.of(config.parent), device)
    own = _load_checkpoint(folder / "checkpoint.pt", device)
    resume, inherited = own or _longest_kept(trial, store, device)

    def keep(checkpoint: Checkpoint) -> None:
        _save_tensors(folder / "checkpoint.pt", {**vars(checkpoint), "inherited": inherited})
        if on_epoch is not None:
            record = checkpoint.history[-1]
            if rungs is not None and checkpoint.epoch in rungs.epochs:
                value = _value_at_rung(trial, checkpoint, rungs.metric, images, device)
                record = record | ({} if value is None else {rungs.metric: value})
            on_epoch(record)

    result = train(
        config, images.of(config), device=device, parent=parent, resume=resume, deterministic=deterministic, on_epoch=keep
    )
    _save_tensors(folder / "encoder.pt", result.encoder.state_dict())
    seconds = sum(record["seconds"] for record in result.history[inherited:])
    store.save_training(
        trial.key, _training_record(result.history, result.pairs, seconds, config.epochs - inherited, device, config)
    )


def _fit_untrained(trial: Trial, images: Images, store: TrialStore, device: torch.device) -> None:
    """Do what replaces training for a method without it: save the initial weights, or fit PCA or Laplacian eigenmaps."""
    config, folder = trial.config, store.folder(trial.key)
    if config.method == "untrained":
        _save_tensors(folder / "encoder.pt", untrained_encoder(config, images.of(config)).state_dict())
    started = time.perf_counter()
    fitted = fit(config, images.of(config))
    seconds = time.perf_counter() - started if fitted else 0.0
    if fitted:
        save_arrays(folder / "fitted.npz", fitted)
    store.save_training(trial.key, _training_record((), None, seconds, 0, device, config))


def _value_at_rung(
    trial: Trial, checkpoint: Checkpoint, metric: str, images: Images, device: torch.device
) -> float | None:  # fmt: skip
    """The metric on validation images of a trial that is still training; None if it is not defined."""
    encoder = untrained_encoder(trial.config, images.of(trial.config), device)
    encoder.load_state_dict(checkpoint.encoder)
    inputs = _validation_inputs(trial, images, partial(embed, encoder, device=device))
    return evaluate(inputs, [metric]).values.get(metric)


def _training_record(
    history: tuple[dict[str, float], ...],
    pairs: PairStatistics | None,
    seconds: float,
    epochs_trained: int,
    device: torch.device,
    config: TrialConfig,
) -> TrainingRecord:
    return TrainingRecord(
        history=history,
        pairs=None if pairs is None else asdict(pairs),
        seconds=seconds,
        epochs_trained=epochs_trained,
        device=device_kind(device),
        threads=config.threads,
        versions={"python": platform.python_version()}
        | {name: version(name) for name in ("torch", "numpy", "scipy", "scikit-learn")},
        finished=time.time(),
    )


def _inputs(
    trial: Trial, training: TrainingRecord, images: Images, store: TrialStore, device: torch.device
) -> EvaluationInputs:  # fmt: skip
    config, splits = trial.config, images.of(trial.config)
    features: Callable[[ImageSet], Features]
    if config.trained:
        features = partial(embed, load_encoder(store, trial.key, config, splits, device), device=device)
    else:
        features = embedder(config, splits, device, load_arrays(store.folder(trial.key) / "fitted.npz") or {})
    if trial.validation_only:
        return _validation_inputs(trial, images, features)
    return replace(
        _validation_inputs(trial, images, features),
        test=features(splits.test),
        anomalies={name: features(images.anomalies[name]) for name in trial.anomalies},
        history=training.history,
        pairs=PairStatistics(**training.pairs) if training.pairs else None,  # type: ignore[arg-type]
        untrained_probe_accuracy=_untrained_probe(trial, splits, store, device),
        images=splits,
        embed=features,
    )


def _validation_inputs(trial: Trial, images: Images, features: Callable[[ImageSet], Features]) -> EvaluationInputs:
    """The inputs that a search may use while it selects points: no test image."""
    config, splits = trial.config, images.of(trial.config)
    validation = features(splits.validation)
    own = images.validation_anomalies.get(next(iter(trial.anomalies), ""))
    return EvaluationInputs(
        train=features(splits.train),
        validation=validation,
        test=Features(validation.representation[:0], validation.backbone[:0], validation.labels[:0]),
        classes=len(splits.train.class_names),
        validation_anomalies=None if own is None else features(own),
        has_backbone=config.has_encoder,
        gamma=config.gamma,
    )


def _untrained_probe(trial: Trial, splits: Splits, store: TrialStore, device: torch.device) -> float | None:
    """The untrained encoder's probe accuracy; None if the trial has no untrained encoder to compare with.

    The first trial that needs it computes it and saves it under ``trial.untrained_key``.
    """
    if trial.untrained_key is None:
        return None
    id_ = metric_ids({})[_REFERENCE]
    known = store.read(trial.untrained_key).results.get(id_)
    if known is None:
        features = embedder(trial.config.replace(method="untrained", parent=None), splits, device, {})
        inputs = EvaluationInputs(
            features(splits.train), features(splits.validation), features(splits.test), len(splits.train.class_names)
        )
        evaluation = evaluate(inputs, [_REFERENCE])
        known = MetricResult(evaluation.values.get(_REFERENCE), evaluation.problems.get(_REFERENCE), time.time())
        store.save_results(trial.untrained_key, {id_: known})
    return known.value


def _save_tensors(path: Path, content: Any) -> None:
    with atomic_write(path) as temporary:
        torch.save(content, temporary)


def _load_checkpoint(path: Path, device: torch.device) -> tuple[Checkpoint, int] | None:
    """A checkpoint, and how many of its epochs were trained by another trial; None without a file."""
    if not path.is_file():
        return None
    with open_for_load(path) as file:
        content = torch.load(file, map_location=device, weights_only=True)
    inherited = content.pop("inherited")
    return Checkpoint(**content | {"history": tuple(content["history"])}), inherited


def _longest_kept(trial: Trial, store: TrialStore, device: torch.device) -> tuple[Checkpoint | None, int]:
    """The last checkpoint of the longest trained trial that differs only in fewer epochs, and how many epochs it has."""
    for epochs, key in trial.resumable_from:
        if store.read(key).is_trained and (found := _load_checkpoint(store.folder(key) / "checkpoint.pt", device)):
            return found[0], epochs
    return None, 0


def device_kind(device: torch.device) -> str:
    """Return the model of the GPU or CPU, so that the report can state it if a sweep used different ones."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    return f"CPU, {model}"
