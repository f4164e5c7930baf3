"""One trial on a worker: train what is not trained, evaluate what is not evaluated, keep everything in the store."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from core.config import TrialConfig
from core.datasets import ImageSet, Splits
from core.embed import Features, embed
from core.files import load_arrays, readable, save_arrays, whole_file
from core.pairing import PairStatistics
from core.threads import compute_settings
from core.train import Checkpoint, Trained, train, untrained_encoder
from evaluation import details
from evaluation.baselines import embedder, fit
from evaluation.evaluate import Evidence, evaluate, metric_ids
from sweeps.images import Images
from sweeps.plan import Trial
from sweeps.store import Result, Store, Training, save_config


@dataclass(frozen=True)
class Rungs:
    """When a search looks at a trial that is still training.

    Attributes:
        epochs: after which epochs.
        metric: by which metric; one that looks at no test image.
    """

    epochs: frozenset[int]
    metric: str


_REFERENCE = "probe_accuracy"  # the metric of the untrained encoder that trials are compared with


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
    """Brings one trial to its end; what the store holds of it already is not done again.

    Where another process of this machine works on the same trial, waits for it and finds its work done.

    Args:
        trial: the trial; its parent is done.
        images: the sweep's images.
        storage: where trials are kept.
        gpu: whether to compute on the GPU that this process was given.
        deterministic: see :func:`core.threads.compute_settings`.
        on_epoch: called with each epoch's record once it is in the store.
        on_wait: called once where another process works on the trial, before waiting for it.
        rungs: epochs at which the record also holds the metric that a search judges by.
    """
    store, device = Store(storage), torch.device("cuda" if gpu else "cpu")
    with store.lock(trial.key, on_wait), compute_settings(trial.config.threads, deterministic=deterministic):
        store.clear_failure(trial.key)
        if not store.is_trained(trial.key):
            _train(trial, images, store, device, deterministic, on_epoch, rungs)
        missing, missing_details = store.missing(trial), store.missing_details(trial)
        if missing or missing_details:
            evidence = _evidence(trial, images, store, device)
            evaluation = evaluate(evidence, list(missing))
            now = time.time()
            results = {missing[name]: Result(value, None, now) for name, value in evaluation.values.items()}
            results |= {
                missing[name]: Result(None, problem, now, name in evaluation.defects)
                for name, problem in evaluation.problems.items()
            }
            for name, id_ in missing_details.items():
                results[id_] = store.make(trial.key, id_, partial(details.compute, name, evidence))
            store.save_results(trial.key, results)


def load_encoder(store: Store, key: str, config: TrialConfig, splits: Splits, device: torch.device) -> nn.Sequential:
    """The encoder of a trained trial, in eval mode."""
    encoder = untrained_encoder(config, splits, device)
    with readable(store.folder(key) / "encoder.pt") as file:
        encoder.load_state_dict(torch.load(file, map_location=device, weights_only=True))
    return encoder.eval()


def _train(
    trial: Trial,
    images: Images,
    store: Store,
    device: torch.device,
    deterministic: bool,
    on_epoch: Callable[[dict[str, float]], None] | None,
    rungs: Rungs | None,
) -> None:
    config, folder = trial.config, store.folder(trial.key)
    save_config(store, trial, {"device": device_kind(device)})
    if not config.trained:
        if config.method == "untrained":
            _save_tensors(folder / "encoder.pt", untrained_encoder(config, images.of(config)).state_dict())
        started = time.perf_counter()
        state = fit(config, images.of(config))
        seconds = time.perf_counter() - started if state else 0.0
        if state:
            save_arrays(folder / "fitted.npz", state)
        store.save_training(trial.key, _training((), None, seconds, 0, device, config))
        return

    parent = None
    if trial.parent is not None:
        assert config.parent is not None
        parent = load_encoder(store, trial.parent, config.parent, images.of(config.parent), device)
    own = _load_checkpoint(folder / "checkpoint.pt", device)
    resume, inherited = own or _longest_kept(trial, store, device)

    def keep(checkpoint: Checkpoint) -> None:
        _save_tensors(folder / "checkpoint.pt", {**vars(checkpoint), "inherited": inherited})
        if on_epoch is not None:
            record = checkpoint.history[-1]
            if rungs is not None and checkpoint.epoch in rungs.epochs:
                encoder = untrained_encoder(config, images.of(config), device)
                encoder.load_state_dict(checkpoint.encoder)
                evidence = _choosing_evidence(trial, images, partial(embed, encoder, device=device))
                value = evaluate(evidence, [rungs.metric]).values.get(rungs.metric)
                record = record | ({} if value is None else {rungs.metric: value})
            on_epoch(record)

    trained = train(
        config, images.of(config), device=device, parent=parent, resume=resume, deterministic=deterministic, on_epoch=keep
    )
    _save_tensors(folder / "encoder.pt", trained.encoder.state_dict())
    store.save_training(trial.key, _of(trained, inherited, device, config))


def _of(trained: Trained, inherited: int, device: torch.device, config: TrialConfig) -> Training:
    seconds = sum(record["seconds"] for record in trained.history[inherited:])
    return _training(trained.history, trained.pairs, seconds, config.epochs - inherited, device, config)


def _training(
    history: tuple[dict[str, float], ...],
    pairs: PairStatistics | None,
    seconds: float,
    epochs_trained: int,
    device: torch.device,
    config: TrialConfig,
) -> Training:
    return Training(
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


def _evidence(trial: Trial, images: Images, store: Store, device: torch.device) -> Evidence:
    config, splits = trial.config, images.of(trial.config)
    training = store.training(trial.key)
    assert training is not None
    features: Callable[[ImageSet], Features]
    if config.trained:
        features = partial(embed, load_encoder(store, trial.key, config, splits, device), device=device)
    else:
        features = embedder(config, splits, device, load_arrays(store.folder(trial.key) / "fitted.npz") or {})
    if trial.choosing:
        return _choosing_evidence(trial, images, features)
    return replace(
        _choosing_evidence(trial, images, features),
        test=features(splits.test),
        anomalies={name: features(images.anomalies[name]) for name in trial.anomalies},
        history=training.history,
        pairs=PairStatistics(**training.pairs) if training.pairs else None,  # type: ignore[arg-type]
        untrained_probe_accuracy=_untrained_probe(trial, splits, store, device),
        images=splits,
        embed=features,
    )


def _choosing_evidence(trial: Trial, images: Images, features: Callable[[ImageSet], Features]) -> Evidence:
    """What may be looked at while a search is choosing: no test image."""
    config, splits = trial.config, images.of(trial.config)
    validation = features(splits.validation)
    own = images.validation_anomalies.get(next(iter(trial.anomalies), ""))
    return Evidence(
        train=features(splits.train),
        validation=validation,
        test=Features(validation.representation[:0], validation.backbone[:0], validation.labels[:0]),
        classes=len(splits.train.class_names),
        validation_anomalies=None if own is None else features(own),
        has_backbone=config.has_encoder,
        gamma=config.gamma,
    )


def _untrained_probe(trial: Trial, splits: Splits, store: Store, device: torch.device) -> float | None:
    """The untrained encoder's probe accuracy, computed by the first trial that needs it and kept under that trial's key."""
    if trial.untrained is None:
        return None
    id_ = metric_ids({})[_REFERENCE]
    known = store.results(trial.untrained).get(id_)
    if known is None:
        features = embedder(trial.config.replace(method="untrained", parent=None), splits, device, {})
        evidence = Evidence(
            features(splits.train), features(splits.validation), features(splits.test), len(splits.train.class_names)
        )
        evaluation = evaluate(evidence, [_REFERENCE])
        known = Result(evaluation.values.get(_REFERENCE), evaluation.problems.get(_REFERENCE), time.time())
        store.save_results(trial.untrained, {id_: known})
    return known.value


def _save_tensors(path: Path, content: Any) -> None:
    with whole_file(path) as temporary:
        torch.save(content, temporary)


def _load_checkpoint(path: Path, device: torch.device) -> tuple[Checkpoint, int] | None:
    """A checkpoint, and how many of its epochs were trained for another trial."""
    if not path.is_file():
        return None
    with readable(path) as file:
        content = torch.load(file, map_location=device, weights_only=True)
    inherited = content.pop("inherited")
    return Checkpoint(**content | {"history": tuple(content["history"])}), inherited


def _longest_kept(trial: Trial, store: Store, device: torch.device) -> tuple[Checkpoint | None, int]:
    """The final state of the longest shorter trial of the lineage, all of whose epochs are inherited."""
    for epochs, key in trial.shorter:
        if store.is_trained(key) and (found := _load_checkpoint(store.folder(key) / "checkpoint.pt", device)):
            return found[0], epochs
    return None, 0


def device_kind(device: torch.device) -> str:
    """What computed, so that a sweep over different kinds can say so."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    return f"CPU, {model}"
