"""The encoders and the projector. torch is imported by those who build one, so naming an encoder costs nothing.

An encoder is ``Sequential(normalize, backbone, head)``: images [B, 3, 32, 32] float in [0, 1] -> representation
[B, representation_dim]. Its backbone features are what ``encoder[:2]`` returns. The projector maps a representation to the
projection, in whose space the loss is computed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from core.rng import torch_seed

if TYPE_CHECKING:
    from torch import Tensor, nn


def resnet18(representation_dim: int) -> tuple[nn.Module, nn.Module]:
    """ResNet-18 for 32x32 images (3x3 stem with stride 1, no max-pool; He et al. 2016, sec. 4.2) and a two-layer head."""
    from torch import nn
    from torchvision.models import resnet18 as build

    backbone = build(weights=None)
    backbone.conv1 = nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=1, bias=False)
    nn.init.kaiming_normal_(backbone.conv1.weight, mode="fan_out", nonlinearity="relu")
    backbone.maxpool = nn.Identity()
    backbone.fc = nn.Identity()
    head = nn.Sequential(nn.Linear(512, 512), nn.BatchNorm1d(512), nn.ReLU(inplace=True), nn.Linear(512, representation_dim))
    return backbone, head


def small(representation_dim: int) -> tuple[nn.Module, nn.Module]:
    """Four 3x3 convolutions with stride 2 (16, 32, 64, 64 channels), average pool, a linear head: trains in seconds.

    Without batch norm: chosen after seeing results on digits-m, see docs/benchmarks.md.
    """
    from torch import nn

    layers: list[nn.Module] = []
    width = 3
    for channels in (16, 32, 64, 64):
        layers += [nn.Conv2d(width, channels, 3, stride=2, padding=1), nn.ReLU(inplace=True)]
        width = channels
    backbone = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return backbone, nn.Linear(width, representation_dim)


@dataclass(frozen=True)
class EncoderKind:
    """One architecture.

    Attributes:
        build: representation_dim -> (backbone, head), initialised from torch's generator.
        backbone_dim: dimensions of the backbone's features.
        gflop: floating-point operations of one image's forward pass, in units of 10^9 (a multiply-add counts as two).
        bf16_pays_on_cpu: whether autocast to bf16 is faster on a processor with bf16 matrix units.
        meaning: one line for help and reports.
    """

    build: Callable[[int], tuple[nn.Module, nn.Module]]
    backbone_dim: int
    gflop: float
    bf16_pays_on_cpu: bool
    meaning: str


ENCODERS: dict[str, EncoderKind] = {
    "resnet18": EncoderKind(resnet18, 512, 1.11, True, "ResNet-18 with a 3x3 stem for 32x32 images; the studies' encoder"),
    "small": EncoderKind(small, 64, 0.0017, False, "four strided convolutions; for two CPU cores"),
}


def build_encoder(encoder: str, representation_dim: int, seed: int, mean: Tensor, std: Tensor) -> nn.Sequential:
    """An untrained encoder: its initial weights depend on architecture, dimension and seed alone.

    Args:
        encoder: a key of ENCODERS.
        representation_dim: dimensions of the representation.
        seed: the trial's seed.
        mean: [3] float, the channels' mean over the train images.
        std: [3] float, the channels' standard deviation.
    """
    from torch import nn

    from core.layers import Normalize

    with torch_seed(seed, "encoder"):
        backbone, head = ENCODERS[encoder].build(representation_dim)
    return nn.Sequential(OrderedDict(normalize=Normalize(mean, std), backbone=backbone, head=head))


def build_projector(representation_dim: int, dims: tuple[int, ...], seed: int) -> nn.Sequential:
    """Linear, batch norm, ReLU for every layer but the last, which is linear without a bias (as the authors' code).

    Args:
        representation_dim: dimensions of its input.
        dims: widths of its layers; none: the projection is the representation itself.
        seed: the trial's seed.
    """
    from torch import nn

    if not dims:
        return nn.Sequential()
    widths = (representation_dim, *dims)
    layers: list[nn.Module] = []
    with torch_seed(seed, "projector"):
        for before, after in pairwise(widths[:-1]):
            layers += [nn.Linear(before, after), nn.BatchNorm1d(after), nn.ReLU(inplace=True)]
        layers.append(nn.Linear(widths[-2], widths[-1], bias=False))
    return nn.Sequential(*layers)


def build_classifier(representation_dim: int, classes: int, seed: int) -> nn.Sequential:
    """A linear classifier on the representation, for supervised training.

    Args:
        representation_dim: dimensions of its input.
        classes: number of classes.
        seed: the trial's seed.
    """
    from torch import nn

    with torch_seed(seed, "classifier"):
        return nn.Sequential(nn.Linear(representation_dim, classes))
