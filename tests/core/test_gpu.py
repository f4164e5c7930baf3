"""What must hold on a GPU; skipped where there is none (the same code is tested on the CPU elsewhere)."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from core.augment import augment
from core.config import Augmentation
from core.datasets import Splits
from core.draws import draw
from core.loss import vicreg_loss
from core.train import Checkpoint, TrainResult, train
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
    for value, requested in zip(on_gpu, reference, strict=True):
        torch.testing.assert_close(value.cpu().double(), requested.double(), rtol=1e-4, atol=1e-5)


def run(device: str = "cuda", **fields: Any) -> tuple[TrainResult, dict[int, Checkpoint]]:
    """A tiny training, and the state after each epoch."""
    splits = Splits(image_set(512), image_set(32, seed=1), image_set(128, seed=2))
    config = tiny_config(**{"epochs": 3, "batch_size": 64} | fields)
    kept: dict[int, Checkpoint] = {}

    def keep(checkpoint: Checkpoint) -> None:
        kept[checkpoint.epoch] = copy.deepcopy(checkpoint)  # its tensors are the live ones

    return train(config, splits, device=device, deterministic=True, on_epoch=keep), kept


def assert_equal(one: TrainResult, other: TrainResult) -> None:
    for name, tensor in one.encoder.state_dict().items():
        assert torch.equal(tensor, other.encoder.state_dict()[name]), name
    assert [r["train/loss"] for r in one.history] == [r["train/loss"] for r in other.history]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("encoder", ["small", "resnet18"])
def test_deterministic_runs_agree_and_resume_to_the_bit(encoder: str, precision: str) -> None:
    splits = Splits(image_set(512), image_set(32, seed=1), image_set(128, seed=2))
    config = tiny_config(encoder=encoder, precision=precision, epochs=3, batch_size=64)
    once, kept = run(encoder=encoder, precision=precision)
    assert_equal(once, run(encoder=encoder, precision=precision)[0])
    assert_equal(once, train(config, splits, device="cuda", deterministic=True, resume=kept[2]))


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
@pytest.mark.parametrize("method", ["vicreg", "supervised"])
def test_a_recorded_step_is_the_step(optimizer: str, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fields: dict[str, Any] = {"optimizer": optimizer, "method": method, "schedule": "cosine", "warmup_epochs": 1}
    recorded, _ = run(**fields)
    monkeypatch.setattr("core.train.CudaGraphStep", lambda: lambda step, batch: step(batch))
    assert_equal(recorded, run(**fields)[0])


def test_a_cpus_run_is_much_the_same_and_goes_on_here() -> None:
    (on_cpu, kept), (on_gpu, _) = run("cpu"), run()
    assert on_gpu.history[0]["train/loss"] == pytest.approx(on_cpu.history[0]["train/loss"], rel=1e-2)
    splits = Splits(image_set(512), image_set(32, seed=1), image_set(128, seed=2))
    config = tiny_config(epochs=3, batch_size=64)
    goes_on = train(config, splits, device="cuda", resume=kept[2])
    assert goes_on.history[-1]["train/loss"] == pytest.approx(on_cpu.history[-1]["train/loss"], rel=1e-2)
