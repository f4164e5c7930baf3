"""Training one encoder: ``train(config, splits, ...) -> Trained``, resumable to the bit after every epoch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from core.augment import Draws, augment, draw, to_float
from core.config import TrialConfig, check_sizes
from core.datasets import ImageSet, Splits
from core.embed import as_tensor, embed, pixels
from core.errors import NonFiniteLossError
from core.loss import LossTerms, vicreg_loss
from core.models import IMAGE_SIZE, build_encoder, build_projector
from core.neighbors import neighbor_table
from core.pairing import PAIRINGS, Indices, PairingContext, PairStatistics, pair_statistics
from core.rng import generator
from core.threads import compute_settings

#: One epoch's measurements by name, with ``epoch`` (from 1) and ``time`` (Unix time at its end).
EpochRecord = dict[str, float]

TERMS = LossTerms._fields
_CHECK_EVERY = 32  # steps between looks at the loss on a GPU, where every look makes the host wait


@dataclass(frozen=True)
class Checkpoint:
    """The state after an epoch: all that is needed to go on as if nothing had happened.

    The tensors are the live ones while training runs; whoever keeps a checkpoint writes or copies it before returning.

    Attributes:
        epoch: epochs trained so far.
        encoder: the encoder's state dict.
        projector: the projector's state dict.
        optimizer: the optimiser's state dict.
        history: one record for each epoch so far.
    """

    epoch: int
    encoder: dict[str, Any]
    projector: dict[str, Any]
    optimizer: dict[str, Any]
    history: tuple[EpochRecord, ...]


@dataclass(frozen=True)
class Trained:
    """What training yields.

    Attributes:
        encoder: in eval mode, on the device it was trained on.
        projector: likewise.
        history: one record for each epoch.
        pairs: what the pairs were like over all epochs.
    """

    encoder: nn.Sequential
    projector: nn.Sequential
    history: tuple[EpochRecord, ...]
    pairs: PairStatistics


def train(
    config: TrialConfig,
    splits: Splits,
    *,
    device: torch.device | str = "cpu",
    parent: nn.Sequential | None = None,
    resume: Checkpoint | None = None,
    deterministic: bool = False,
    on_epoch: Callable[[Checkpoint], None] | None = None,
) -> Trained:
    """Trains the encoder of a VICReg config.

    Args:
        config: with method ``vicreg`` and a resolved precision.
        splits: the images; validation is not looked at, test only to report the loss.
        device: where to train.
        parent: the parent's encoder on that device, for pairings that need one.
        resume: the state to go on from; of the same config, or of one that differs in a smaller number of epochs
            under a schedule that does not depend on it. The result equals an uninterrupted run bit for bit.
        deterministic: see :func:`core.threads.compute_settings`.
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
            run.encoder.load_state_dict(resume.encoder)
            run.projector.load_state_dict(resume.projector)
            run.optimizer.load_state_dict(resume.optimizer)
            history = resume.history
        for epoch in range(len(history) + 1, config.epochs + 1):
            record = run.train_epoch(epoch) | run.test_loss(epoch)
            history = (*history, record | {"epoch": epoch, "time": time.time()})
            if on_epoch is not None:
                on_epoch(run.checkpoint(epoch, history))
        partners = [run.train_pairs.partners(config.seed, epoch) for epoch in range(1, config.epochs + 1)]
        pairs = pair_statistics(run.train_pairs.context, partners)
        return Trained(run.encoder.eval(), run.projector.eval(), history, pairs)


def untrained_encoder(config: TrialConfig, splits: Splits, device: torch.device | str = "cpu") -> nn.Sequential:
    """The encoder with its initial weights: those that a run of the same seed starts from."""
    sample = splits.train.images
    # float64 sums of bytes are exact, so the statistics depend on the images alone.
    mean = sample.mean(axis=(0, 2, 3), dtype=np.float64) / 255
    std = sample.std(axis=(0, 2, 3), dtype=np.float64) / 255
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


class _Pairs:
    """The pairs of one image set: indices of both images, and their views."""

    def __init__(self, config: TrialConfig, images: ImageSet, device: torch.device, parent: nn.Sequential | None) -> None:
        self._pairing = PAIRINGS[config.pairing]
        self._augmentation = config.augmentation
        self._images = as_tensor(images.images).to(device)
        table = None
        if self._pairing.table is not None:
            if self._pairing.table == "parent" and parent is None:
                raise ValueError(f"pairing {config.pairing!r} needs the parent's encoder")
            features = embed(parent, images, device) if parent is not None else pixels(images)
            table = neighbor_table(features.representation, config.neighbors_k)
        self.context = PairingContext(images.labels, table, config.pair_purity)

    def partners(self, seed: int, epoch: int, purpose: str = "partners") -> Indices:
        return self._pairing.partners(self.context, generator(seed, purpose, epoch))

    def draws(self, anchors: int, batch: int, seed: int, purpose: str, epoch: int) -> Draws | None:
        """Draws for both views, laid out batch by batch: a batch's first views, then its second ones."""
        if not self._pairing.augmented:
            return None
        first, second = (
            draw(self._augmentation, anchors, IMAGE_SIZE, seed=seed, purpose=f"{purpose}-{view}", epoch=epoch)
            for view in (1, 2)
        )
        return first.alternate(second, batch).to(self._images.device)

    def views(self, indices: Tensor, draws: Draws | None) -> Tensor:
        """[n] int64 -> [n, 3, S, S] float32 in [0, 1]."""
        images = self._images[indices]
        return to_float(images) if draws is None else augment(images, draws)


class _Run:
    """The moving parts of one training, for the length of :func:`train`."""

    def __init__(self, config: TrialConfig, splits: Splits, device: torch.device, parent: nn.Sequential | None) -> None:
        self._config = config
        self._device = device
        self._bf16 = config.precision == "bf16"
        self._layout = torch.channels_last if self._bf16 else torch.contiguous_format
        self.train_pairs = _Pairs(config, splits.train, device, parent)
        self.encoder = untrained_encoder(config, splits, device).to(memory_format=self._layout)
        self.projector = build_projector(config.representation_dim, config.projector_dims, config.seed).to(device)
        self.optimizer = _optimizer(config, [*self.encoder.parameters(), *self.projector.parameters()])
        self._test_views = self._fixed_views(_Pairs(config, splits.test, device, parent))

    def checkpoint(self, epoch: int, history: tuple[EpochRecord, ...]) -> Checkpoint:
        return Checkpoint(epoch, self.encoder.state_dict(), self.projector.state_dict(), self.optimizer.state_dict(), history)

    def train_epoch(self, epoch: int) -> EpochRecord:
        config, batch = self._config, self._config.batch_size
        started = time.perf_counter()
        order = generator(config.seed, "order", epoch).permutation(len(self.train_pairs.context.labels))
        steps = len(order) // batch
        anchors = order[: steps * batch]
        both = np.stack([anchors, self.train_pairs.partners(config.seed, epoch)[anchors]])
        indices = torch.from_numpy(both.reshape(2, steps, batch).swapaxes(0, 1).reshape(-1)).to(self._device)
        draws = self.train_pairs.draws(len(anchors), batch, config.seed, "view", epoch)

        self.encoder.train()
        self.projector.train()
        terms = torch.empty(steps, len(TERMS), device=self._device)
        for step in range(steps):
            rate = learning_rate(config, epoch - 1 + step / steps)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            part = slice(2 * batch * step, 2 * batch * (step + 1))
            views = self.train_pairs.views(indices[part], None if draws is None else draws[part])
            loss = self._loss(views)
            self.optimizer.zero_grad(set_to_none=True)
            loss.loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            terms[step] = torch.stack(loss).detach()
            if self._device.type == "cpu" or step % _CHECK_EVERY == 0 or step == steps - 1:
                _check_finite(terms[: step + 1, 0], epoch)
        means = terms.double().mean(dim=0).tolist()
        seconds = time.perf_counter() - started
        return {f"train/{name}": value for name, value in zip(TERMS, means, strict=True)} | {
            "images_per_second": len(anchors) / seconds,
            "seconds": seconds,
        }

    def test_loss(self, epoch: int) -> EpochRecord:
        """The loss on fixed views in eval mode, and what the projections are like; weights and statistics stay untouched."""
        self.encoder.eval()
        self.projector.eval()
        batch = self._config.batch_size
        projections, terms = [], []
        with torch.no_grad():
            for views in torch.split(self._test_views, 2 * batch):
                za, zb = self._project(to_float(views)).float().chunk(2)
                terms.append(torch.stack(self._terms(za, zb)))
                projections.append(za)
        means = torch.stack(terms).double().mean(dim=0)
        if not bool(means.isfinite().all()):
            raise NonFiniteLossError(f"the test loss is not finite after epoch {epoch} ({means[0].item()})")
        std = torch.cat(projections).double().std(dim=0)
        return {f"test/{name}": value for name, value in zip(TERMS, means.tolist(), strict=True)} | {
            "projection_std": float(std.mean()),
            "dead_dimensions": float((std < 0.1 * self._config.gamma).double().mean()),
        }

    def _fixed_views(self, pairs: _Pairs) -> Tensor:
        """[2 * steps * B, 3, S, S] uint8: the test pairs' views, the same for every arm of a pairing, every seed and epoch."""
        batch = self._config.batch_size
        partners = pairs.partners(0, 0, "test-partners")
        steps = len(partners) // batch
        anchors = np.arange(steps * batch)
        both = np.stack([anchors, partners[anchors]]).reshape(2, steps, batch).swapaxes(0, 1).reshape(-1)
        indices = torch.from_numpy(both).to(self._device)
        draws = pairs.draws(len(anchors), batch, 0, "test-view", 0)
        views = [
            pairs.views(indices[part], None if draws is None else draws[part]).mul(255).round().to(torch.uint8)
            for part in (slice(start, start + 2 * batch) for start in range(0, len(indices), 2 * batch))
        ]
        return torch.cat(views)

    def _project(self, views: Tensor) -> Tensor:
        with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self._bf16):
            projections: Tensor = self.projector(self.encoder(views.contiguous(memory_format=self._layout)))
            return projections

    def _loss(self, views: Tensor) -> LossTerms:
        if self._config.joint_forward:
            za, zb = self._project(views).chunk(2)
        else:
            za, zb = (self._project(view) for view in views.chunk(2))
        return self._terms(za, zb)

    def _terms(self, za: Tensor, zb: Tensor) -> LossTerms:
        c = self._config
        return vicreg_loss(za, zb, lambda_=c.lambda_, mu=c.mu, nu=c.nu, gamma=c.gamma, epsilon=c.epsilon)


def _optimizer(config: TrialConfig, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    kinds: dict[str, Callable[[], torch.optim.Optimizer]] = {
        "adam": lambda: torch.optim.Adam(parameters, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True),
        "adamw": lambda: torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True),
        "sgd": lambda: torch.optim.SGD(
            parameters, lr=config.learning_rate, weight_decay=config.weight_decay, momentum=0.9, fused=True
        ),
    }
    return kinds[config.optimizer]()


def _check_finite(losses: Tensor, epoch: int) -> None:
    if not bool(losses.isfinite().all()):
        step = int((~losses.isfinite()).nonzero()[0, 0])
        raise NonFiniteLossError(
            f"the loss is not finite ({losses[step].item()}) at epoch {epoch}, step {step + 1}: "
            "a smaller learning rate, or weights of the terms that fit together, may help"
        )
