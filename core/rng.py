"""Randomness as a function of (seed, purpose, epoch), never of a generator's history.

Two arms with one seed therefore share initial weights, batches and draws wherever they use them at all, leaving out one
augmentation does not shift the draws of the others, and a resumed run draws what it would have drawn uninterrupted.
Draws are made on the CPU, for a whole epoch at once, so they are the same whichever device trains.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np


def derive_seed(seed: int, purpose: str, epoch: int = 0) -> int:
    """A 128-bit seed for one purpose in one epoch."""
    text = f"{seed}\x00{purpose}\x00{epoch}".encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:16], "little")


def generator(seed: int, purpose: str, epoch: int = 0) -> np.random.Generator:
    """A numpy generator (Philox, counter-based) that depends on its arguments alone."""
    return np.random.Generator(np.random.Philox(key=derive_seed(seed, purpose, epoch)))


@contextmanager
def torch_seed(seed: int, purpose: str) -> Iterator[None]:
    """Within the block torch's CPU generator starts from (seed, purpose); afterwards it is as it was before."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, purpose) % 2**63)
        yield
