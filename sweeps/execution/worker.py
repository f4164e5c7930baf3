"""Running one trial on a worker: train it and evaluate it, as far as that is not done yet, and save everything to the store."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch
from torch import nn

from core.compute_settings import compute_settings
from core.config import TrialConfig
from core.datasets import ImageSet, Splits
from core.embed import Features, embed
from core.export import export_encoder
from core.models import build_projector
from core.pairing import PairStatistics
from core.train import Checkpoint, train, untrained_encoder
from evaluation import per_image
from evaluation.baselines import embedder, fit
from evaluation.evaluate import evaluate, metric_ids
from evaluation.inputs import EvaluationInputs
from sweeps.execution.after_slot import readouts_of
from sweeps.execution.options import Rungs
from sweeps.execution.weights import load_checkpoint, load_encoder_weights, save_checkpoint, save_weights
from sweeps.planning.trial import Trial
from sweeps.storage.checked_folder import ASIDE, CheckedFolder, DamagedFileError
from sweeps.storage.image_sets import Images
from sweeps.storage.records import MetricResult, TrainingRecord, results_of
from sweeps.storage.trial_state import CHECKPOINT, ENCODER, EXPORTED, FITTED, PROJECTOR, READOUTS, needs_export
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
    on_damage: Callable[[str], None] | None = None,
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
        on_damage: called with what was found, for each file that is not what was written; such files are made again.
        rungs: epochs after which the record also contains the metric by which a search stops trials early.
    """
    store, device = TrialStore(storage), torch.device("cuda" if gpu else "cpu")
    with store.lock(trial.key, on_wait), compute_settings(trial.config.threads, deterministic=deterministic):
        tell = on_damage or _ignore
        for found in store.mend(trial):
            tell(found)
        store.clear_failure(trial.key)
        state = store.read(trial.key)
        if not state.is_trained:
            _train(trial, images, store, device, deterministic, on_epoch, tell, rungs)
        elif state.config is None and state.training is not None:
            store.save_config(trial, device=state.training.device)
        _evaluate(trial, images, store, device)
        _export(trial, images, store)


def _evaluate(trial: Trial, images: Images, store: TrialStore, device: torch.device) -> None:
    """Compute the metrics and the per-image arrays that a trained trial lacks."""
    state = store.read(trial.key)
    missing, missing_details = state.missing_metrics(trial), state.missing_details(trial)
    lacks_readouts = state.lacks_readouts(trial)
    if not missing and not missing_details and not lacks_readouts:
        return
    assert state.training is not None
    inputs = _inputs(trial, state.training, images, store, device)
    evaluation = evaluate(inputs, list(missing))
    results = results_of(evaluation, missing)
    for name, id_ in missing_details.items():
        results[id_] = store.make(trial.key, id_, partial(per_image.compute, name, inputs))
    if lacks_readouts:  # before the results: with these, and without it, the slot would be needed again
        store.files(trial.key).write_arrays(READOUTS, readouts_of(inputs.train, inputs.validation, inputs.test))
    store.save_results(trial.key, results)


def _export(trial: Trial, images: Images, store: TrialStore) -> None:
    """Write the encoder as a graph that loads without this package."""
    if not needs_export(trial) or not store.read(trial.key).lacks_export:
        return
    encoder, _ = load_encoder(store, trial.key, trial.config, images.of(trial.config), torch.device("cpu"))
    store.files(trial.key).write_bytes(EXPORTED, export_encoder(encoder, trial.config))


def load_encoder(
    store: TrialStore, key: str, config: TrialConfig, splits: Splits, device: torch.device
) -> tuple[nn.Sequential, str | None]:
    """Load the encoder of a trained trial, in eval mode; return it and the SHA-256 of its file.

    Raises:
        DamagedFileError: if its file is damaged or gone.
    """
    weights, digest = load_encoder_weights(store.files(key))
    encoder = untrained_encoder(config, splits, device)
    encoder.load_state_dict(weights)
    return encoder.eval(), digest


def _load_projector(store: TrialStore, trial: Trial, device: torch.device) -> nn.Sequential | None:
    """Return a trained trial's projector, in eval mode; None for other methods than VICReg, and where its file is not there."""
    from safetensors.torch import load

    config = trial.config
    weights = store.files(trial.key).load(PROJECTOR, load) if config.method == "vicreg" else None
    if weights is None:
        return None
    projector = build_projector(config.representation_dim, config.projector_dims, config.seed).to(device)
    projector.load_state_dict(weights)
    return projector.eval()


def _train(
    trial: Trial,
    images: Images,
    store: TrialStore,
    device: torch.device,
    deterministic: bool,
    on_epoch: Callable[[dict[str, float]], None] | None,
    on_damage: Callable[[str], None],
    rungs: Rungs | None,
) -> None:
    config, files = trial.config, store.files(trial.key)
    known = store.known_weights(trial.key)
    store.save_config(trial, device=device_kind(device))
    if not config.trained:
        _fit_untrained(trial, images, store, device, known)
        return
    parent = parent_digest = None
    if trial.parent_key is not None:
        assert config.parent is not None
        parent, parent_digest = load_encoder(store, trial.parent_key, config.parent, images.of(config.parent), device)
    own = _checkpoint(files, device, parent_digest, on_damage)
    resume, inherited = own or _longest_kept(trial, store, device, parent_digest, on_damage)

    def keep(checkpoint: Checkpoint) -> None:
        save_checkpoint(files, checkpoint, inherited, parent_digest)
        if on_epoch is not None:
            record = checkpoint.history[-1]
            if rungs is not None and checkpoint.epoch in rungs.epochs:
                value = _value_at_rung(trial, checkpoint, rungs.metric, images, device)
                record = record | ({} if value is None else {rungs.metric: value})
            on_epoch(record)

    result = train(
        config, images.of(config), device=device, parent=parent, resume=resume, deterministic=deterministic, on_epoch=keep
    )
    digest = save_weights(files, ENCODER, result.encoder.state_dict())
    save_weights(files, PROJECTOR, result.projector.state_dict())
    seconds = sum(record["seconds"] for record in result.history[inherited:])
    training = _training_record(result.history, result.pairs, seconds, config.epochs - inherited, device, config)
    store.drop_results_of_other_weights(trial.key, known, digest)
    store.save_training(trial.key, replace(training, weights=digest, parent_encoder=parent_digest))


def _fit_untrained(trial: Trial, images: Images, store: TrialStore, device: torch.device, known: frozenset[str]) -> None:
    """Do what replaces training for a method without it: save the initial weights, or fit PCA or Laplacian eigenmaps."""
    config, files, digest = trial.config, store.files(trial.key), None
    if config.method == "untrained":
        digest = save_weights(files, ENCODER, untrained_encoder(config, images.of(config)).state_dict())
    started = time.perf_counter()
    fitted = fit(config, images.of(config), device)
    seconds = time.perf_counter() - started if fitted else 0.0
    if fitted:
        digest = files.write_arrays(FITTED, fitted)
    store.drop_results_of_other_weights(trial.key, known, digest)
    store.save_training(trial.key, replace(_training_record((), None, seconds, 0, device, config), weights=digest))


def _value_at_rung(
    trial: Trial, checkpoint: Checkpoint, metric: str, images: Images, device: torch.device
) -> float | None:  # fmt: skip
    """The metric on validation images of a trial that is still training; None if it is not defined."""
    encoder = untrained_encoder(trial.config, images.of(trial.config), device)
    encoder.load_state_dict(checkpoint.encoder)
    inputs = _validation_inputs(trial, images, partial(embed, encoder, device=device), device)
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
        encoder, _ = load_encoder(store, trial.key, config, splits, device)
        features = partial(embed, encoder, device=device, projector=_load_projector(store, trial, device))
    else:
        features = embedder(config, splits, device, store.files(trial.key).load_arrays(FITTED) or {})
    if trial.validation_only:
        return _validation_inputs(trial, images, features, device)
    return replace(
        _validation_inputs(trial, images, features, device),
        test=features(splits.test),
        anomalies={name: features(images.anomalies[name]) for name in trial.anomalies},
        history=training.history,
        pairs=PairStatistics(**training.pairs) if training.pairs else None,  # type: ignore[arg-type]
        untrained_probe_accuracy=_untrained_probe(trial, splits, store, device),
        images=splits,
        embed=features,
        augmentation=config.augmentation,
    )


def _validation_inputs(
    trial: Trial, images: Images, features: Callable[[ImageSet], Features], device: torch.device
) -> EvaluationInputs:  # fmt: skip
    """The inputs that a search may use while it selects points: no test image."""
    config, splits = trial.config, images.of(trial.config)
    validation = features(splits.validation)
    own = images.validation_anomalies.get(next(iter(trial.anomalies), ""))
    return EvaluationInputs(
        train=features(splits.train),
        validation=validation,
        test=validation.take(slice(0)),
        classes=len(splits.train.class_names),
        validation_anomalies=None if own is None else features(own),
        has_backbone=config.has_encoder,
        gamma=config.gamma,
        device=device,
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
            features(splits.train), features(splits.validation), features(splits.test), len(splits.train.class_names),
            device=device,
        )  # fmt: skip
        evaluation = evaluate(inputs, [_REFERENCE])
        # Without a time: behind a URL several nodes may write the same file at once, so its content must be the same.
        known = MetricResult(evaluation.values.get(_REFERENCE), evaluation.problems.get(_REFERENCE), 0.0)
        store.save_results(trial.untrained_key, {id_: known})
    return known.value


def _checkpoint(
    files: CheckedFolder, device: torch.device, parent_digest: str | None, on_damage: Callable[[str], None]
) -> tuple[Checkpoint, int] | None:  # fmt: skip
    """A trial's checkpoint, and how many of its epochs were trained by another trial; None if none can be used."""
    try:
        found = load_checkpoint(files, device, parent_digest)
        if found is not None and files.digest(CHECKPOINT) is None:
            files.record(CHECKPOINT)  # of an earlier version of this program
        return found
    except DamagedFileError as error:
        on_damage(f"{CHECKPOINT}: {error.reason}; moved to {ASIDE}/{files.set_aside(CHECKPOINT).name}")
        return None


def _longest_kept(
    trial: Trial, store: TrialStore, device: torch.device, parent_digest: str | None, on_damage: Callable[[str], None]
) -> tuple[Checkpoint | None, int]:
    """The last checkpoint of the longest trained trial that differs only in fewer epochs, and how many epochs it has."""
    for epochs, key in trial.resumable_from:
        if store.read(key).is_trained and (found := _checkpoint(store.files(key), device, parent_digest, on_damage)):
            return found[0], epochs
    return None, 0


def _ignore(_: str) -> None:
    pass


def device_kind(device: torch.device) -> str:
    """Return the model of the GPU or CPU, so that the report can state it if a sweep used different ones."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    return f"CPU, {model}"
