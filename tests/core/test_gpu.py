"""What must hold on a GPU; skipped where there is none (the same code is tested on the CPU elsewhere)."""

from __future__ import annotations

import copy

import pytest
import torch

from core.augment import augment, draw
from core.config import Augmentation
from core.datasets import Splits
from core.loss import vicreg_loss
from core.train import Checkpoint, train
from tests.conftest import image_set, tiny_config

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


def test_views_equal_the_cpus() -> None:
    images = torch.from_numpy(image_set(200).images)
    draws = draw(Augmentation(), 200, 32, seed=3, purpose="test")
    on_gpu = augment(images.cuda(), draws.to("cuda")).cpu()
    difference = (on_gpu - augment(images, draws)).abs()
    # The hue of a pixel with two equal channels may fall to either side.
    assert difference.median() < 1e-6 and (difference > 1e-4).double().mean() < 1e-4


def test_the_loss_equals_float64s() -> None:
    za, zb = torch.randn(2, 256, 64, generator=torch.Generator().manual_seed(0)).unbind()
    weights = {"lambda_": 25.0, "mu": 25.0, "nu": 1.0, "gamma": 1.0, "epsilon": 1e-4}
    on_gpu = vicreg_loss(za.cuda(), zb.cuda(), **weights)
    reference = vicreg_loss(za.double(), zb.double(), **weights)
    for value, wanted in zip(on_gpu, reference, strict=True):
        torch.testing.assert_close(value.cpu().double(), wanted.double(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("encoder", ["small", "resnet18"])
def test_deterministic_runs_agree_and_resume_to_the_bit(encoder: str, precision: str) -> None:
    splits = Splits(image_set(512), image_set(32, seed=1), image_set(128, seed=2))
    config = tiny_config(encoder=encoder, precision=precision, epochs=3, batch_size=64)
    kept: list[Checkpoint] = []

    def keep(checkpoint: Checkpoint) -> None:
        if checkpoint.epoch == 2:
            kept.append(copy.deepcopy(checkpoint))  # its tensors are the live ones

    once = train(config, splits, device="cuda", deterministic=True, on_epoch=keep)
    again = train(config, splits, device="cuda", deterministic=True)
    resumed = train(config, splits, device="cuda", deterministic=True, resume=kept[0])
    for other in (again, resumed):
        for name, tensor in once.encoder.state_dict().items():
            assert torch.equal(tensor, other.encoder.state_dict()[name]), name
        assert [r["train/loss"] for r in once.history] == [r["train/loss"] for r in other.history]
    on_cpu = train(config, splits, device="cpu")
    first = [run.history[0]["train/loss"] for run in (once, on_cpu)]
    assert first[0] == pytest.approx(first[1], rel=2e-2)
