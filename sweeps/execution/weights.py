"""Weights and checkpoints in a trial's folder: safetensors, and torch's format for checkpoints, read as numbers only."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from core.config import TrialConfig
from core.export import export_encoder
from core.models import build_encoder
from core.train import Checkpoint
from sweeps.storage.checked_folder import CheckedFolder, DamagedFileError
from sweeps.storage.trial_state import CHECKPOINT, ENCODER, OLD_ENCODER


def save_weights(files: CheckedFolder, name: str, state: Mapping[str, Tensor]) -> str:
    """Write a module's state dict as safetensors; return the file's SHA-256. Equal tensors give equal files."""
    from safetensors.torch import save

    return files.write_bytes(name, save({key: tensor.detach().cpu().contiguous() for key, tensor in state.items()}))


def load_encoder_weights(files: CheckedFolder) -> tuple[dict[str, Tensor], str | None]:
    """Return the encoder's state dict, on the CPU, and the SHA-256 recorded for its file.

    Raises:
        DamagedFileError: if the file is damaged or gone.
    """
    from safetensors.torch import load

    if (weights := files.load(ENCODER, load)) is not None:
        return weights, files.digest(ENCODER)
    old: dict[str, Tensor] | None = files.load(OLD_ENCODER, lambda content: _load_tensors(content, torch.device("cpu")))
    if old is None:
        raise DamagedFileError(files.path / ENCODER, "it is gone; the same command, run again, makes it again")
    return old, files.digest(OLD_ENCODER)


def export_stored_encoder(files: CheckedFolder, config: TrialConfig) -> bytes:
    """Return the encoder of a trial's folder as an exported graph, made from its weights.

    Raises:
        DamagedFileError: if the file of the weights is damaged or gone.
    """
    weights, _ = load_encoder_weights(files)
    encoder = build_encoder(config.encoder, config.representation_dim, config.seed, torch.zeros(3), torch.ones(3))
    encoder.load_state_dict(weights)
    return export_encoder(encoder, config)


def save_checkpoint(files: CheckedFolder, checkpoint: Checkpoint, inherited: int, parent_encoder: str | None) -> None:
    """Write the state after an epoch.

    Args:
        files: the trial's folder.
        checkpoint: the state.
        inherited: how many of its epochs another trial trained.
        parent_encoder: SHA-256 of the parent's encoder; None without a parent.
    """
    content = {**vars(checkpoint), "inherited": inherited, "parent_encoder": parent_encoder}
    files.write(CHECKPOINT, lambda path: torch.save(content, path))


def load_checkpoint(
    files: CheckedFolder, device: torch.device, parent_encoder: str | None
) -> tuple[Checkpoint, int] | None:  # fmt: skip
    """Return a checkpoint and how many of its epochs another trial trained; None if there is none to continue from.

    A checkpoint of a training with another encoder of the parent is none to continue from.

    Raises:
        DamagedFileError: if the file is damaged.
    """

    def parse(content: bytes) -> tuple[Checkpoint, int] | None:
        stored = _load_tensors(content, device)
        inherited, parent = stored.pop("inherited"), stored.pop("parent_encoder", None)
        if None not in (parent, parent_encoder) and parent != parent_encoder:
            return None
        return Checkpoint(**stored | {"history": tuple(stored["history"])}), inherited

    return files.load(CHECKPOINT, parse)


def _load_tensors(content: bytes, device: torch.device) -> Any:
    return torch.load(io.BytesIO(content), map_location=device, weights_only=True)
