"""Training one encoder: ``train(config, splits, ...) -> Trained``, resumable to the bit after every epoch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from core.compute_settings import compute_settings
from core.config import TrialConfig, check_sizes
from core.cuda_graph import CudaGraphStep
from core.datasets import Splits
from core.draws import Batch
from core.errors import NonFiniteLossError
from core.models import build_encoder
from core.objectives import build_objective
from core.pairing import PairStatistics
from core.rng import generator

#: One epoch's measurements by name, with ``epoch`` (from 1) and ``time`` (Unix time at its end).
EpochRecord = dict[str, float]

#: Views made at once on a CPU: for several steps of small batches, so that torch's cost of starting an operation counts less.
_VIEWS_AT_ONCE = 2048
_CHECK_EVERY = 32  # steps between looks at the loss on a GPU, where every look makes the host wait


@dataclass(frozen=True)
class Checkpoint:
    """The state after an epoch: all that is needed to go on as if nothing had happened.

    The tensors are the live ones while training runs; whoever keeps a checkpoint writes or copies it before returning.

    Attributes:
        epoch: epochs trained so far.
        encoder: the encoder's state dict.
        projector: the state dict of what lies above the encoder: the projector, or a supervised run's classifier.
        optimizer: the optimiser's state dict.
        history: one record for each epoch so far.
    """

    epoch: int
    encoder: dict[str, Any]
    projector: dict[str, Any]
    optimizer: dict[str, Any]
    history: tuple[EpochRecord, ...]


@dataclass(frozen=True)
class TrainResult:
    """What training yields.

    Attributes:
        encoder: in eval mode, on the device it was trained on.
        projector: likewise.
        history: one record for each epoch.
        pairs: what the pairs were like over all epochs; None where there are none.
    """

    encoder: nn.Sequential
    projector: nn.Sequential
    history: tuple[EpochRecord, ...]
    pairs: PairStatistics | None


def train(
    config: TrialConfig,
    splits: Splits,
    *,
    device: torch.device | str = "cpu",
    parent: nn.Sequential | None = None,
    resume: Checkpoint | None = None,
    deterministic: bool = False,
    on_epoch: Callable[[Checkpoint], None] | None = None,
) -> TrainResult:
    """Trains the encoder of a config.

    Args:
        config: with a method that trains, and a resolved precision.
        splits: the images; validation is not looked at, test only to report the loss.
        device: where to train.
        parent: the parent's encoder on that device, for pairings that need one.
        resume: the state to go on from; of the same config, or of one that differs in a smaller number of epochs
            under a schedule that does not depend on it. The result equals an uninterrupted run bit for bit.
        deterministic: see :func:`core.compute_settings.compute_settings`.
        on_epoch: called at the end of each epoch with the state.

    Raises:
        InputError: if there are fewer train or test images than a batch, or not more than neighbours.
        NonFiniteLossError: at the first loss that is not finite, naming epoch and step.
    """
    check_sizes(config, splits)
    with compute_settings(config.threads, deterministic=deterministic):
        run = _Run(config, splits, torch.device(device), parent)
        history: tuple[EpochRecord, ...] = ()
        if resume is not None:
            run.resume(resume)
            history = resume.history
        for epoch in range(len(history) + 1, config.epochs + 1):
            record = run.train_epoch(epoch) | run.test(epoch)
            history = (*history, record | {"epoch": epoch, "time": time.time()})
            if on_epoch is not None:
                on_epoch(run.checkpoint(epoch, history))
        return TrainResult(run.encoder.eval(), run.projector.eval(), history, run.objective.pairs())


def untrained_encoder(config: TrialConfig, splits: Splits, device: torch.device | str = "cpu") -> nn.Sequential:
    """The encoder with its initial weights: those that a run of the same seed starts from."""
    mean, std = splits.train.channels
    std = np.where(std > 0, std, 1.0)  # a channel that is constant stays as it is
    statistics = torch.from_numpy(mean), torch.from_numpy(std)
    return build_encoder(config.encoder, config.representation_dim, config.seed, *statistics).to(device)


def learning_rate(config: TrialConfig, progress: float) -> float:
    """The rate after ``progress`` epochs (fractions count steps): linear warm-up, then constant or half a cosine to zero."""
    if progress < config.warmup_epochs:
        return config.learning_rate * progress / config.warmup_epochs
    if config.schedule == "constant":
        return config.learning_rate
    share = (progress - config.warmup_epochs) / (config.epochs - config.warmup_epochs)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * share))


class _Run:
    """The moving parts of one training, for the length of :func:`train`."""

    def __init__(self, config: TrialConfig, splits: Splits, device: torch.device, parent: nn.Sequential | None) -> None:
        self._config, self._device = config, device
        self._images = len(splits.train)
        self._bf16 = config.precision == "bf16"
        self._layout = torch.channels_last if self._bf16 else torch.contiguous_format
        self.objective = build_objective(config, splits, device, parent)
        encoder: Any = untrained_encoder(config, splits, device)  # torch types no memory_format of a module before 2.14
        self.encoder: nn.Sequential = encoder.to(memory_format=self._layout)
        self._backbone_and_head = self.encoder[1:]
        self.projector = self.objective.top
        self.optimizer = _optimizer(config, [*self.encoder.parameters(), *self.projector.parameters()], self._device)
        self._graphed = None if self._device.type == "cpu" else CudaGraphStep()

    def checkpoint(self, epoch: int, history: tuple[EpochRecord, ...]) -> Checkpoint:
        return Checkpoint(epoch, self.encoder.state_dict(), self.projector.state_dict(), self.optimizer.state_dict(), history)

    def resume(self, checkpoint: Checkpoint) -> None:
        self.encoder.load_state_dict(checkpoint.encoder)
        self.projector.load_state_dict(checkpoint.projector)
        # How the rate is held depends on the device, and the checkpoint may come from another one.
        own: list[dict[str, Any]] = [
            {name: group[name] for name in ("lr", "capturable") if name in group} for group in self.optimizer.param_groups
        ]
        self.optimizer.load_state_dict(checkpoint.optimizer)
        for group, values in zip(self.optimizer.param_groups, own, strict=True):
            group.update(values)

    def train_epoch(self, epoch: int) -> EpochRecord:
        config = self._config
        started = time.perf_counter()
        order = generator(config.seed, "order", epoch).permutation(self._images)
        steps = len(order) // config.batch_size
        anchors = order[: steps * config.batch_size]
        batches = self.objective.batches(epoch, anchors)
        size = len(batches) // steps

        self.encoder.train()
        self.projector.train()
        names = self.objective.terms
        terms = torch.empty(steps, len(names), device=self._device)
        views = self._views(batches, size)
        for step in range(steps):
            rate = learning_rate(config, epoch - 1 + step / steps)
            for group in self.optimizer.param_groups:
                if isinstance(group["lr"], Tensor):
                    group["lr"].fill_(rate)
                else:
                    group["lr"] = rate
            batch = batches[size * step : size * (step + 1)]
            terms[step] = self._learn(batch, next(views)) if self._graphed is None else self._graphed(self._take_step, batch)
            if self._device.type == "cpu" or step % _CHECK_EVERY == 0 or step == steps - 1:
                _check_finite(terms[: step + 1, 0], epoch)
        means = terms.double().mean(dim=0).tolist()
        seconds = time.perf_counter() - started
        return {f"train/{name}": value for name, value in zip(names, means, strict=True)} | {
            "images_per_second": len(anchors) / seconds,
            "seconds": seconds,
        }

    def _views(self, batches: Batch, size: int) -> Iterator[Tensor]:
        """Each step's views: of ``size`` entries of ``batches``; several steps' are made at once."""
        at_once = max(1, _VIEWS_AT_ONCE // size) * size
        for start in range(0, len(batches), at_once):
            yield from torch.split(self.objective.views(batches[start : start + at_once]), size)

    def _take_step(self, batch: Batch) -> Tensor:
        """One step, from indices and draws to new weights."""
        return self._learn(batch, self.objective.views(batch))

    def _learn(self, batch: Batch, views: Tensor) -> Tensor:
        """One step of the optimiser on a batch's views; returns the terms before it."""
        loss, *others = self.objective.step(batch, views, self._forward)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return torch.stack([loss, *others]).detach()

    def test(self, epoch: int) -> EpochRecord:
        """Measurements on the test images in eval mode; weights and statistics stay untouched."""
        self.encoder.eval()
        self.projector.eval()
        with torch.no_grad():
            measured = self.objective.test(self._forward)
        for name, value in measured.items():
            if not math.isfinite(value):
                raise NonFiniteLossError(f"{name} is not finite after epoch {epoch} ({value})")
        return measured

    def _forward(self, views: Tensor, parts: int) -> list[Tensor]:
        """See :data:`core.objectives.Forward`."""
        # Normalised first: with the channels last, torch subtracts a number from each of them several times more slowly.
        views = self.encoder[0](views).contiguous(memory_format=self._layout)
        return [self._above_normalize(part) for part in views.chunk(parts)]

    def _above_normalize(self, views: Tensor) -> Tensor:
        # A context for each part: within one the weights are cast to bf16 once, and their gradients would be added in bf16.
        with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self._bf16):
            output: Tensor = self.projector(self._backbone_and_head(views))
            return output


def _optimizer(config: TrialConfig, parameters: list[nn.Parameter], device: torch.device) -> torch.optim.Optimizer:
    """The config's optimiser. On a GPU its rate lies on the device, where a recorded step reads it."""
    on_gpu = device.type != "cpu"
    rate = torch.tensor(config.learning_rate, device=device) if on_gpu else config.learning_rate
    common: dict[str, Any] = {"lr": rate, "weight_decay": config.weight_decay, "fused": True}
    kinds: dict[str, Callable[[], torch.optim.Optimizer]] = {
        "adam": lambda: torch.optim.Adam(parameters, **common, capturable=on_gpu),
        "adamw": lambda: torch.optim.AdamW(parameters, **common, capturable=on_gpu),
        "sgd": lambda: torch.optim.SGD(parameters, **common, momentum=0.9),
    }
    return kinds[config.optimizer]()


def _check_finite(losses: Tensor, epoch: int) -> None:
    if not bool(losses.isfinite().all()):
        step = int((~losses.isfinite()).nonzero()[0, 0])
        raise NonFiniteLossError(
            f"the loss is not finite ({losses[step].item()}) at epoch {epoch}, step {step + 1}: "
            "a smaller learning rate, or weights of the terms that fit together, may help"
        )
