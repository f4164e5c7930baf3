"""Training: exact resume, what it leaves alone, what it refuses."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import core.train as module
from core.augment import augment as _augment
from core.config import TrialConfig
from core.datasets import Splits
from core.draws import Batch
from core.errors import InputError, NonFiniteLossError
from core.loss import LossTerms
from core.models import build_encoder
from core.objectives import Supervised, Vicreg
from core.train import Checkpoint, TrainResult, _Run, learning_rate, train, untrained_encoder
from tests.conftest import image_set, tiny_config


class DiedError(Exception):
    pass


def weights(trained: TrainResult) -> dict[str, torch.Tensor]:
    return {**trained.encoder.state_dict(), **{f"p.{k}": v for k, v in trained.projector.state_dict().items()}}


def assert_same_bits(one: TrainResult, other: TrainResult) -> None:
    a, b = weights(one), weights(other)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
    timings = {"time", "seconds", "images_per_second"}
    for x, y in zip(one.history, other.history, strict=True):
        assert {k: v for k, v in x.items() if k not in timings} == {k: v for k, v in y.items() if k not in timings}


def run_in_two(config: TrialConfig, splits: Splits, stop: int, parent: nn.Sequential | None) -> TrainResult:
    """Trains to ``stop``, dies in the epoch after, and resumes from the copied checkpoint."""
    kept: list[Checkpoint] = []

    def keep(checkpoint: Checkpoint) -> None:
        if checkpoint.epoch > stop:
            raise DiedError
        kept.append(copy.deepcopy(checkpoint))

    with pytest.raises(DiedError):
        train(config, splits, parent=parent, on_epoch=keep)
    torch.rand(17), np.random.rand(3)  # whatever state the generators are in does not matter
    return train(config, splits, parent=parent, resume=kept[-1])


@pytest.mark.parametrize("pairing", ["augment", "neighbors", "class"])
@pytest.mark.parametrize("changes", [{}, {"schedule": "cosine", "warmup_epochs": 1.5}, {"optimizer": "sgd"}], ids=str)
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(splits: Splits, pairing: str, changes: dict[str, Any]) -> None:
    config = tiny_config(epochs=4, pairing=pairing, **changes)
    parent = train(tiny_config(epochs=1), splits).encoder if pairing == "neighbors" else None
    assert_same_bits(train(config, splits, parent=parent), run_in_two(config, splits, 2, parent))


def test_a_longer_trial_continues_a_shorter_one_bit_for_bit(splits: Splits) -> None:
    kept: list[Checkpoint] = []
    train(tiny_config(epochs=2), splits, on_epoch=lambda checkpoint: kept.append(copy.deepcopy(checkpoint)))
    continued = train(tiny_config(epochs=4), splits, resume=kept[-1])
    assert_same_bits(train(tiny_config(epochs=4), splits), continued)


def test_bf16_trains_with_float32_weights_and_statistics(splits: Splits) -> None:
    few = Splits(
        *(part.take(np.arange(16)) for part in (splits.train, splits.validation, splits.test))
    )  # slow without bf16 units
    trained = train(tiny_config(encoder="resnet18", precision="bf16", epochs=1), few)
    assert {value.dtype for value in trained.encoder.state_dict().values()} == {torch.float32, torch.int64}
    assert not torch.equal(trained.encoder.state_dict()["backbone.bn1.running_var"], torch.ones(64))


def test_arms_of_one_seed_start_from_the_same_weights(splits: Splits) -> None:
    base = untrained_encoder(tiny_config(), splits).state_dict()
    other = untrained_encoder(tiny_config(mu=0, pairing="class", epochs=9), splits).state_dict()
    another = untrained_encoder(tiny_config(seed=1), splits).state_dict()
    assert all(torch.equal(base[name], other[name]) for name in base)
    assert not torch.equal(base["backbone.0.weight"], another["backbone.0.weight"])


def test_test_loss_is_the_same_for_the_same_weights_and_leaves_them_alone(splits: Splits) -> None:
    run = module._Run(tiny_config(encoder="resnet18"), splits, torch.device("cpu"), None)
    run.train_epoch(1)
    before = copy.deepcopy(run.encoder.state_dict())
    first, second = run.test(1), run.test(2)
    assert first == second
    after = run.encoder.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_history_holds_every_term(splits: Splits) -> None:
    record = train(tiny_config(epochs=1), splits).history[0]
    for part in ("train", "test"):
        for term in LossTerms._fields:
            assert math.isfinite(record[f"{part}/{term}"])
        combined = 25 * record[f"{part}/invariance"] + 25 * record[f"{part}/variance"] + record[f"{part}/covariance"]
        assert record[f"{part}/loss"] == pytest.approx(combined, rel=1e-5)
    assert record["epoch"] == 1 and record["images_per_second"] > 0


def test_every_arm_takes_the_same_number_of_steps(splits: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []
    original = Vicreg._loss
    monkeypatch.setattr(Vicreg, "_loss", lambda self, za, zb: (steps.append(len(za) + len(zb)), original(self, za, zb))[1])
    for pairing in ("augment", "pixel-neighbors", "class", "random"):
        steps.clear()
        train(tiny_config(epochs=1, pairing=pairing, batch_size=24), splits)
        # 80 train images: three whole batches of two views, eight images left out; then two batches of test views.
        assert steps == [48, 48, 48, 48, 48]


def test_joint_forward_changes_batch_norm_statistics_only_where_asked(splits: Splits) -> None:
    config = tiny_config(encoder="resnet18", epochs=1)
    few = Splits(*(part.take(np.arange(16)) for part in (splits.train, splits.validation, splits.test)))
    separate, joint = train(config, few), train(config.replace(joint_forward=True), few)
    name = "backbone.bn1.num_batches_tracked"
    assert int(separate.encoder.state_dict()[name]) == 2 * int(joint.encoder.state_dict()[name])


def test_stops_at_the_first_loss_that_is_not_finite(splits: Splits) -> None:
    with pytest.raises(NonFiniteLossError, match=r"epoch 1, step \d+"):
        train(tiny_config(optimizer="sgd", learning_rate=1e9), splits)


def test_a_test_loss_that_is_not_finite_stops_too(splits: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module._Run, "train_epoch", lambda self, _epoch: _poison(self))
    with pytest.raises(NonFiniteLossError, match="test/loss is not finite after epoch 1"):
        train(tiny_config(), splits)


def _poison(run: Any) -> dict[str, float]:
    with torch.no_grad():
        run.projector[-1].weight[0, 0] = torch.nan
    return {}


def test_too_few_images_are_refused_before_anything_starts(splits: Splits) -> None:
    with pytest.raises(InputError) as error:
        train(tiny_config(batch_size=100, pairing="pixel-neighbors", neighbors_k=48), splits)
    assert len(error.value.errors) == 3  # the batch twice, the test images' neighbours


def test_no_validation_images_are_refused() -> None:
    none = Splits(image_set(16), image_set(4).take(np.arange(0)), image_set(16))
    with pytest.raises(InputError, match="held out as validation"):
        train(tiny_config(), none)


def test_a_pairing_that_needs_a_parent_says_so(splits: Splits) -> None:
    with pytest.raises(ValueError, match="needs the parent's encoder"):
        train(tiny_config(pairing="neighbors"), splits)


def test_training_follows_the_schedule_step_by_step(splits: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []
    original = module.learning_rate
    monkeypatch.setattr(module, "learning_rate", lambda config, p: (asked.append(p), original(config, p))[1])
    train(
        tiny_config(epochs=2, schedule="cosine", batch_size=20, train_subset=None),
        Splits(splits.train, splits.test, splits.test),
    )
    assert asked == pytest.approx([0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 1.75])


def test_learning_rate_schedules() -> None:
    constant = tiny_config(epochs=10, warmup_epochs=2)
    assert [learning_rate(constant, p) for p in (0, 1, 2, 9.9)] == pytest.approx([0, 5e-4, 1e-3, 1e-3])
    cosine = tiny_config(epochs=10, warmup_epochs=2, schedule="cosine")
    assert [learning_rate(cosine, p) for p in (2, 6, 10)] == pytest.approx([1e-3, 5e-4, 0])


def test_encoders_normalise_with_the_train_images(splits: Splits) -> None:
    encoder = untrained_encoder(tiny_config(), splits)
    x = torch.from_numpy(splits.train.images).float() / 255
    normalized = encoder[0](x)
    torch.testing.assert_close(normalized.mean(dim=(0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(normalized.std(dim=(0, 2, 3), unbiased=False), torch.ones(3), atol=1e-4, rtol=0)


@pytest.mark.parametrize(("name", "dim", "backbone_dim"), [("small", 64, 64), ("resnet18", 128, 512)])
def test_encoder_shapes(name: str, dim: int, backbone_dim: int) -> None:
    encoder = build_encoder(name, dim, 0, torch.zeros(3), torch.ones(3)).eval()
    images = torch.rand(2, 3, 32, 32)
    assert encoder(images).shape == (2, dim)
    assert encoder[:2](images).shape == (2, backbone_dim)


def test_resnet18_keeps_the_resolution_in_its_stem() -> None:
    encoder = build_encoder("resnet18", 128, 0, torch.zeros(3), torch.ones(3))
    stem = encoder[1].conv1  # type: ignore[union-attr]
    assert (stem.kernel_size, stem.stride, stem.padding) == ((3, 3), (1, 1), (1, 1))  # type: ignore[union-attr]
    parameters = sum(p.numel() for p in encoder[1].parameters())
    assert parameters == 11_168_832  # ResNet-18 for CIFAR without its classifier (11,173,962 with it, less 5,130)


def test_pair_statistics_of_training(splits: Splits) -> None:
    assert train(tiny_config(), splits).pairs.label_purity == 1.0
    random = train(tiny_config(pairing="random", epochs=3), splits).pairs
    assert 0.1 < random.label_purity < 0.4
    assert random.distinct_partners > 70


def test_small_image_sets_work_to_the_last_image() -> None:
    tiny = Splits(image_set(16), image_set(4), image_set(16))
    assert len(train(tiny_config(epochs=1), tiny).history) == 1


def test_a_supervised_encoder_starts_from_the_same_weights_and_learns_the_labels(splits: Splits) -> None:
    config = tiny_config(method="supervised", epochs=12)
    initial = untrained_encoder(tiny_config(), splits).state_dict()
    assert all(torch.equal(initial[name], value) for name, value in untrained_encoder(config, splits).state_dict().items())
    trained = train(config, splits)
    assert trained.pairs is None
    first, last = trained.history[0], trained.history[-1]
    assert last["train/loss"] < first["train/loss"] and last["test/accuracy"] > 0.8, "the class shows in the mean colour"
    with torch.no_grad():
        logits = trained.projector(trained.encoder(torch.from_numpy(splits.test.images).float() / 255)).double()
    labels = torch.from_numpy(splits.test.labels)
    own = logits.logsumexp(dim=1) - logits[torch.arange(len(labels)), labels]
    assert last["test/loss"] == pytest.approx(float(own.mean()), rel=1e-5)
    assert last["test/accuracy"] == pytest.approx(float((logits.argmax(1) == labels).double().mean()))


def test_a_resumed_supervised_run_equals_an_uninterrupted_one_bit_for_bit(splits: Splits) -> None:
    config = tiny_config(method="supervised", epochs=3)
    assert_same_bits(run_in_two(config, splits, 1, None), train(config, splits))


def test_a_supervised_run_takes_as_many_steps_as_any_arm(splits: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    original = Supervised._loss
    counted = staticmethod(lambda logits, labels: (seen.append(len(labels)), original(logits, labels))[1])
    monkeypatch.setattr(Supervised, "_loss", counted)
    train(tiny_config(method="supervised", epochs=1, batch_size=24), splits)
    assert seen == [24, 24, 24, 48], "three steps of one view an image, then the test images"


def test_with_one_view_augmented_the_anchor_is_left_as_it_is(splits: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Tensor] = []
    monkeypatch.setattr("core.objectives.augment", lambda images, draws: (seen.append(images), _augment(images, draws))[1])
    one = Vicreg(tiny_config(pairing="augment-one"), splits, torch.device("cpu"), None)
    indices = torch.arange(16).repeat(2)
    draws = one._train.draws(16, 16, 0, "view", 1)
    assert draws is not None
    seen.clear()
    views = one._train.views(Batch(indices, draws))
    both = Vicreg(tiny_config(), splits, torch.device("cpu"), None)._train.views(Batch(indices, draws))
    assert torch.equal(views[:16], torch.from_numpy(splits.train.images[:16]).float() / 255) and len(seen[0]) == 16
    assert torch.equal(views[16:], both[16:]), "the partner's view is that of an arm with both augmented"


@pytest.mark.parametrize("fields", [{}, {"pairing": "random", "joint_forward": True}, {"method": "supervised"}], ids=str)
def test_a_step_looks_at_its_batch_alone(splits: Splits, fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU relies on: a step recorded once is fed the batches in one place, each copied over the one before."""
    plain = train(tiny_config(**fields), splits)
    place: list[Batch] = []

    def replay(step: Callable[[Batch], torch.Tensor], batch: Batch) -> torch.Tensor:
        if not place:
            place.append(batch.clone())
        place[0].copy_(batch)
        return step(place[0])

    set_up = _Run.__init__

    def set_up_as_on_a_gpu(run: Any, *arguments: Any) -> None:
        set_up(run, *arguments)
        run._graphed = replay

    monkeypatch.setattr(_Run, "__init__", set_up_as_on_a_gpu)
    fed = train(tiny_config(**fields), splits)
    assert len({tensor.data_ptr() for tensor in place[0]._tensors()}) == len(place[0]._tensors()) > 1
    assert_same_bits(plain, fed)


def test_neighbours_may_be_those_under_an_untrained_encoder(splits: Splits) -> None:
    parent = untrained_encoder(tiny_config(), splits)
    for pairing in ("neighbors", "class-neighbors", "neighbor-classes"):
        trained = train(
            tiny_config(pairing=pairing, epochs=1, parent=tiny_config(method="untrained").fields()), splits, parent=parent
        )
        assert trained.pairs is not None
        assert (trained.pairs.label_purity == 1) == (pairing == "class-neighbors")
