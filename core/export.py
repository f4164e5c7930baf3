"""Encoders as exported graphs (torch's pt2), which load without this package and hold no pickle."""

from __future__ import annotations

import copy
import io
from collections import OrderedDict
from functools import lru_cache

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from core.config import TrialConfig
from core.image_decoding import IMAGE_SIZE
from core.layers import Normalize
from core.models import build_encoder


def export_encoder(encoder: nn.Sequential, config: TrialConfig) -> bytes:
    """Return a file that ``torch.export.load`` reads: a graph for batches of any size, in eval mode, on the CPU.

    Args:
        encoder: as :func:`core.models.build_encoder` makes it, on any device; it is not changed.
        config: its trial's config.
    """
    program = _traced(config.encoder, config.representation_dim)
    program.state_dict.update(_portable(encoder).state_dict(keep_vars=True))
    file = io.BytesIO()
    torch.export.save(program, file)
    return file.getvalue()


@lru_cache(maxsize=4)
def _traced(encoder: str, representation_dim: int) -> ExportedProgram:
    """The graph of an architecture, whose weights are replaced: tracing takes several times as long as saving."""
    module = _portable(build_encoder(encoder, representation_dim, 0, torch.zeros(3), torch.ones(3)))
    # A dimension of 1 would be taken for one that is always 1.
    images = torch.zeros(2, 3, IMAGE_SIZE, IMAGE_SIZE)
    program = torch.export.export(module, (images,), dynamic_shapes=[{0: Dim.AUTO}])
    program.example_inputs = None  # they would be the file's only pickle
    return program


def _portable(encoder: nn.Sequential) -> nn.Sequential:
    """A copy of an encoder, in eval mode on the CPU, of torch's and torchvision's own layers.

    The normalisation becomes a fixed 1x1 convolution of each channel, which computes the same up to rounding.
    """
    normalize, backbone, head = copy.deepcopy(encoder).cpu()
    assert isinstance(normalize, Normalize)
    fixed = nn.Conv2d(3, 3, kernel_size=1, groups=3)
    fixed.weight = nn.Parameter((1 / normalize.std)[:, None], requires_grad=False)
    fixed.bias = nn.Parameter((-normalize.mean / normalize.std).reshape(-1), requires_grad=False)
    return nn.Sequential(OrderedDict(normalize=fixed, backbone=backbone, head=head)).eval()
