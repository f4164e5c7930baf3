"""What training minimises on top of the encoder: VICReg's loss over pairs of views, or the cross-entropy with the labels.

Each objective owns the module above the encoder (``top``: projector or classifier), makes its batches, and measures itself on
the test images. The loop around it (order of the images, learning rate, optimiser, checkpoints) is :mod:`core.train`'s.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from core.augment import augment, to_float
from core.config import Augmentation, TrialConfig
from core.datasets import ImageSet, Splits
from core.draws import Batch, Draws, draw
from core.embed import as_tensor, embed, pixels
from core.image_decoding import IMAGE_SIZE
from core.loss import LossTerms, vicreg_loss
from core.models import build_classifier, build_projector
from core.neighbors import neighbor_table, neighbor_table_within
from core.pairing import PAIRINGS, Indices, PairingContext, PairStatistics, pair_statistics
from core.rng import generator

#: Views [n, 3, S, S] and a number of parts -> for each part of them what ``top`` makes of their representations, under the
#: trial's precision. Each part has its own statistics in batch norm.
Forward = Callable[[Tensor, int], list[Tensor]]


class Objective(Protocol):
    """What :mod:`core.train` asks of an objective."""

    @property
    def terms(self) -> tuple[str, ...]:
        """Names of the terms; the first is the loss."""

    @property
    def top(self) -> nn.Sequential:
        """The module above the encoder: the projector (VICReg) or the linear classifier (supervised)."""

    def batches(self, epoch: int, anchors: Indices) -> Batch:
        """All that one epoch draws for the images ``anchors`` [steps * batch_size] in their order, step after step."""

    def views(self, batch: Batch) -> Tensor:
        """The views of one step or of several: float32 in [0, 1]. Never waits for a GPU."""

    def step(self, batch: Batch, views: Tensor, forward: Forward) -> tuple[Tensor, ...]:
        """The terms of one step, scalars with a graph; the first is the loss. Never waits for a GPU."""

    def test(self, forward: Forward) -> dict[str, float]:
        """Measurements on the test images in eval mode, by name; the loss is ``test/loss``."""

    def pairs(self) -> PairStatistics | None:
        """What the pairs were like over all epochs; None where there are none."""


def build_objective(config: TrialConfig, splits: Splits, device: torch.device, parent: nn.Sequential | None) -> Objective:
    """The objective of a config's method, its ``top`` on the device with its initial weights."""
    return Supervised(config, splits, device) if config.method == "supervised" else Vicreg(config, splits, device, parent)


class Vicreg:
    """VICReg's loss between the projections of two views of each pair."""

    terms = LossTerms._fields

    def __init__(self, config: TrialConfig, splits: Splits, device: torch.device, parent: nn.Sequential | None) -> None:
        self._config, self._device = config, device
        self._train = _Pairs(config, splits.train, device, parent)
        self.top = build_projector(config.representation_dim, config.projector_dims, config.seed).to(device)
        self._test_views = self._fixed_views(_Pairs(config, splits.test, device, parent))

    def batches(self, epoch: int, anchors: Indices) -> Batch:
        """A step's first views, then its second ones, and so on: [2 * steps * batch_size]."""
        config, batch = self._config, self._config.batch_size
        both = np.stack([anchors, self._train.partners(config.seed, epoch)[anchors]])
        indices = torch.from_numpy(both.reshape(2, -1, batch).swapaxes(0, 1).reshape(-1)).to(self._device)
        return Batch(indices, self._train.draws(len(anchors), batch, config.seed, "view", epoch))

    def views(self, batch: Batch) -> Tensor:
        """For each step its first views, then its second ones."""
        return self._train.views(batch)

    def step(self, batch: Batch, views: Tensor, forward: Forward) -> tuple[Tensor, ...]:
        """The loss and its terms between the projections of a step's pairs."""
        za, zb = forward(views, 1)[0].chunk(2) if self._config.joint_forward else forward(views, 2)
        return self._loss(za, zb)

    def test(self, forward: Forward) -> dict[str, float]:
        """The loss on fixed views, and what the projections are like."""
        projections, terms = [], []
        for views in torch.split(self._test_views, 2 * self._config.batch_size):
            za, zb = forward(to_float(views), 1)[0].float().chunk(2)
            terms.append(torch.stack(self._loss(za, zb)))
            projections.append(za)
        means = torch.stack(terms).double().mean(dim=0)
        std = torch.cat(projections).double().std(dim=0)
        return {f"test/{name}": value for name, value in zip(self.terms, means.tolist(), strict=True)} | {
            "projection_std": float(std.mean()),
            "dead_dimensions": float((std < 0.1 * self._config.gamma).double().mean()),
        }

    def pairs(self) -> PairStatistics:
        """What the pairs were like."""
        config = self._config
        epochs = [self._train.partners(config.seed, epoch) for epoch in range(1, config.epochs + 1)]
        return pair_statistics(self._train.context, epochs)

    def _fixed_views(self, pairs: _Pairs) -> Tensor:
        """[2 * steps * B, 3, S, S] uint8: the test pairs' views, the same for every arm of a pairing, every seed and epoch."""
        batch = self._config.batch_size
        partners = pairs.partners(0, 0, "test-partners")
        steps = len(partners) // batch
        anchors = np.arange(steps * batch)
        both = np.stack([anchors, partners[anchors]]).reshape(2, steps, batch).swapaxes(0, 1).reshape(-1)
        indices = torch.from_numpy(both).to(self._device)
        whole = Batch(indices, pairs.draws(len(anchors), batch, 0, "test-view", 0))
        views = [
            pairs.views(whole[start : start + 2 * batch]).mul(255).round().to(torch.uint8)
            for start in range(0, len(indices), 2 * batch)
        ]
        return torch.cat(views)

    def _loss(self, za: Tensor, zb: Tensor) -> LossTerms:
        c = self._config
        return vicreg_loss(za, zb, lambda_=c.lambda_, mu=c.mu, nu=c.nu, gamma=c.gamma, epsilon=c.epsilon)


class Supervised:
    """Cross-entropy of a linear classifier on the representation, one augmented view of each image."""

    terms = ("loss", "accuracy")

    def __init__(self, config: TrialConfig, splits: Splits, device: torch.device) -> None:
        self._config = config
        self._train, self._test = splits.train, splits.test
        self._images, self._test_images = (as_tensor(part.images).to(device) for part in (splits.train, splits.test))
        self._labels, self._test_labels = (as_tensor(part.labels).to(device) for part in (splits.train, splits.test))
        classes = len(splits.train.class_names)
        self.top = build_classifier(config.representation_dim, classes, config.seed).to(device)

    def batches(self, epoch: int, anchors: Indices) -> Batch:
        """One view of each image: [steps * batch_size]."""
        device = self._images.device
        # The draws of a VICReg run's first views.
        draws = _draws(self._config.augmentation, len(anchors), self._config.seed, "view-1", epoch).to(device)
        return Batch(torch.from_numpy(anchors).to(device), draws)

    def views(self, batch: Batch) -> Tensor:
        """One view of each image."""
        assert batch.draws is not None
        return augment(self._images.index_select(0, batch.indices), batch.draws)

    def step(self, batch: Batch, views: Tensor, forward: Forward) -> tuple[Tensor, ...]:
        """The loss and the accuracy on a step's labelled views."""
        return self._loss(forward(views, 1)[0], self._labels[batch.indices])

    def test(self, forward: Forward) -> dict[str, float]:
        """The loss and the accuracy on the test images as they are."""
        logits = torch.cat(
            [forward(to_float(part), 1)[0].float() for part in torch.split(self._test_images, self._config.batch_size)]
        )
        loss, accuracy = self._loss(logits, self._test_labels)
        return {"test/loss": float(loss), "test/accuracy": float(accuracy)}

    def pairs(self) -> None:
        """There are no pairs."""
        return

    @staticmethod
    def _loss(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        loss = nn.functional.cross_entropy(logits.float(), labels)
        return loss, (logits.argmax(dim=1) == labels).float().mean()


def _draws(augmentation: Augmentation, n: int, seed: int, purpose: str, epoch: int) -> Draws:
    return draw(augmentation, n, IMAGE_SIZE, seed=seed, purpose=purpose, epoch=epoch)


class _Pairs:
    """The pairs of one image set: indices of both images, and their views."""

    def __init__(self, config: TrialConfig, images: ImageSet, device: torch.device, parent: nn.Sequential | None) -> None:
        self._pairing = PAIRINGS[config.pairing]
        self._augmentation, self._batch_size = config.augmentation, config.batch_size
        self._images = as_tensor(images.images).to(device)
        table = None
        if self._pairing.table is not None:
            if self._pairing.table == "parent" and parent is None:
                raise ValueError(f"pairing {config.pairing!r} needs the parent's encoder")
            features = embed(parent, images, device) if parent is not None else pixels(images)
            if self._pairing.within_class:
                table = neighbor_table_within(features.representation, images.labels, config.neighbors_k, device)
            else:
                table = neighbor_table(features.representation, config.neighbors_k, device)
        self.context = PairingContext(images.labels, table, config.pair_purity)

    def partners(self, seed: int, epoch: int, purpose: str = "partners") -> Indices:
        return self._pairing.partners(self.context, generator(seed, purpose, epoch))

    def draws(self, anchors: int, batch: int, seed: int, purpose: str, epoch: int) -> Draws | None:
        """Draws for both views, laid out batch by batch: a batch's first views, then its second ones."""
        if not self._pairing.augmented:
            return None
        first, second = (_draws(self._augmentation, anchors, seed, f"{purpose}-{view}", epoch) for view in (1, 2))
        return first.alternate(second, batch).to(self._images.device)

    def views(self, batch: Batch) -> Tensor:
        """For each step its first views, then its second ones: 2 B indices a step -> [2 B, 3, S, S] float32 in [0, 1]."""
        images, draws = self._images.index_select(0, batch.indices), batch.draws
        if draws is None:
            return to_float(images)
        if self._pairing.anchor_augmented:
            return augment(images, draws)
        second = torch.arange(len(images), device=images.device).reshape(-1, 2, self._batch_size)[:, 1].flatten()
        return to_float(images).index_copy_(0, second, augment(images.index_select(0, second), draws[second]))
