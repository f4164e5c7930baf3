"""Every operation equals torchvision's, given the same parameters; the draws are distributed as torchvision's."""

from __future__ import annotations

import pytest
import torch
from scipy import stats
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from core import augment as ours
from core.augment import augment
from core.config import Augmentation
from core.draws import Draws, draw

N = 64


@pytest.fixture
def images() -> Tensor:
    images = torch.rand(N, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    images[0], images[1] = 0, 0.5  # no colour at all: hue and saturation are undefined there
    images[2, 0] = images[2, 1]  # two channels equal
    return images


def draws_of(**changes: object) -> Draws:
    return draw(Augmentation(**changes), N, 32, seed=1, purpose="test", epoch=1)  # type: ignore[arg-type]


def each(function: object, images: Tensor, *parameters: Tensor) -> Tensor:
    assert callable(function)
    return torch.stack([function(image, *(p[i].item() for p in parameters)) for i, image in enumerate(images)])


def assert_close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=2e-6, rtol=0)


@pytest.mark.parametrize("flipped", [False, True])
def test_crop_resize_and_flip_equal_torchvisions(images: Tensor, flipped: bool) -> None:
    box = draws_of().box
    assert box is not None
    expected = []
    for image, (top, left, height, width) in zip(images, box.int().tolist(), strict=True):
        out = functional.resized_crop(image, top, left, height, width, [32, 32], antialias=True)
        expected.append(functional.horizontal_flip(out) if flipped else out)
    flip = torch.full((N,), flipped)
    assert_close(ours.crop_and_resize(images, box, flip), torch.stack(expected))


def test_a_crop_of_everything_changes_nothing(images: Tensor) -> None:
    whole = torch.tensor([[0.0, 0.0, 32.0, 32.0]]).expand(N, 4)
    assert_close(ours.crop_and_resize(images, whole), images)


def test_colour_jitter_equals_torchvisions_in_every_order(images: Tensor) -> None:
    draws = draws_of(brightness=0.8, contrast=0.8, saturation=0.8, hue=0.5)
    assert draws.order is not None and draws.factor is not None
    assert len({tuple(row) for row in draws.order.tolist()}) > 20
    functions = (functional.adjust_brightness, functional.adjust_contrast, functional.adjust_saturation, functional.adjust_hue)
    expected = []
    for image, order, factor in zip(images, draws.order.tolist(), draws.factor.tolist(), strict=True):
        for operation in order:
            image = functions[operation](image, factor[operation])  # noqa: PLW2901
        expected.append(image)
    actual = ours.jitter(images, draws.order, draws.factor)
    # Contrast's mean and hue's division are summed in another order; errors of 1e-6 pass through up to three operations.
    torch.testing.assert_close(actual, torch.stack(expected), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "changes",
    [{}, {"jitter": 1, "hue": 0.5, "brightness": 0.9}, {"jitter": 0}, {"crop": None}, {"crop": None, "flip": 0}, {"blur": None},
     {"grey": 0, "blur": None, "hue": 0}],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("n", [1, 37, 700])
def test_images_taken_by_their_order_of_operations_are_those_taken_all_at_once_bit_for_bit(
    changes: dict[str, object], n: int
) -> None:
    images = torch.randint(0, 256, (n, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    draws = draw(Augmentation(**changes), n, 32, seed=3, purpose="x")  # type: ignore[arg-type]
    for given in (images, images.float() / 255):
        before = given.clone()
        assert torch.equal(augment(given, draws), ours._augment_at_once(given, draws))
        assert torch.equal(given, before), "the caller's images stay as they are"


def test_hue_equals_torchvisions(images: Tensor) -> None:
    shift = torch.linspace(-0.5, 0.5, N)
    assert_close(ours.shift_hue(images, shift), each(functional.adjust_hue, images, shift))


def test_grey_equals_torchvisions(images: Tensor) -> None:
    actual = augment(images, Draws(grey=torch.ones(N, dtype=torch.bool)))
    assert_close(actual, functional.rgb_to_grayscale(images, num_output_channels=3))


def test_blur_equals_torchvisions(images: Tensor) -> None:
    sigma = torch.linspace(0.1, 2.0, N)
    expected = torch.stack(
        [functional.gaussian_blur(image, [3, 3], [float(s), float(s)]) for image, s in zip(images, sigma, strict=True)]
    )
    assert_close(ours.blur(images, sigma), expected)


def test_the_whole_list_in_its_order(images: Tensor) -> None:
    draws = draws_of()
    x = ours.crop_and_resize(images, draws.box, draws.flip)  # type: ignore[arg-type]
    x = ours.jitter(x, draws.order, draws.factor)  # type: ignore[arg-type]
    x = torch.where(draws.grey[:, None, None, None], functional.rgb_to_grayscale(x, num_output_channels=3), x)  # type: ignore[index]
    torch.testing.assert_close(augment(images, draws), ours.blur(x, draws.sigma), atol=2e-6, rtol=0)  # type: ignore[arg-type]


def test_bytes_are_scaled_and_batches_do_not_matter() -> None:
    images = torch.randint(0, 256, (300, 3, 32, 32), dtype=torch.uint8)
    draws = draw(Augmentation(), 300, 32, seed=0, purpose="x")
    whole = augment(images, draws)
    assert whole.dtype == torch.float32
    assert float(whole.min()) >= 0 and float(whole.max()) <= 1
    one_by_one = torch.cat([augment(images[i : i + 1], draws[i : i + 1]) for i in range(300)])
    torch.testing.assert_close(whole, one_by_one, atol=1e-6, rtol=0)


def test_crops_are_drawn_as_torchvision_draws_them() -> None:
    n = 4000
    box = draw(Augmentation(), n, 32, seed=0, purpose="x").box
    assert box is not None
    torch.manual_seed(0)
    transform = v2.RandomResizedCrop(32, scale=(0.2, 1.0))
    theirs = [transform.make_params([torch.empty(3, 32, 32)]) for _ in range(n)]
    for column, name in enumerate(("top", "left", "height", "width")):
        reference = [parameters[name] for parameters in theirs]
        assert stats.ks_2samp(box[:, column].tolist(), reference).pvalue > 1e-3, name


def test_leaving_one_operation_out_does_not_shift_the_others() -> None:
    full, without = draws_of(), draws_of(hue=0.0, flip=0.0, blur=None)
    assert full.box is not None and without.box is not None and full.factor is not None and without.factor is not None
    assert torch.equal(full.box, without.box)
    assert torch.equal(full.factor[:, :3], without.factor[:, :3])
    assert without.flip is None and without.sigma is None
    assert bool((without.factor[:, 3] == 0).all())


def test_operations_and_views_draw_independently() -> None:
    n = 4000
    first, second = (draw(Augmentation(), n, 32, seed=0, purpose=purpose) for purpose in ("view-1", "view-2"))
    assert first.factor is not None and second.factor is not None and first.sigma is not None and first.flip is not None
    columns = [*first.factor.unbind(1), first.sigma, first.flip.float(), *second.factor.unbind(1)]
    correlation = torch.corrcoef(torch.stack(columns)) - torch.eye(len(columns))
    assert float(correlation.abs().max()) < 5 / n**0.5


def test_draws_depend_on_seed_purpose_and_epoch_alone() -> None:
    def sigma(**where: object) -> list[float]:
        given = {"seed": 1, "purpose": "a", "epoch": 1} | where
        drawn = draw(Augmentation(), 8, 32, **given).sigma  # type: ignore[arg-type]
        assert drawn is not None
        values: list[float] = drawn.tolist()
        return values

    assert sigma() == sigma()
    assert len({tuple(s) for s in (sigma(), sigma(seed=2), sigma(purpose="b"), sigma(epoch=2))}) == 4
