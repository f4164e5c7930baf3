"""Views and training beside other libraries: ``python -m tests.benchmarks.bench_peers [--threads 1] [--quick]``.

lightly, kornia (``pip install -e '.[bench]'``) and torchvision, ours and theirs in turn in one process, the same list of
augmentations and the same small encoder, on the embedded data set.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from core.augment import augment
from core.compute_settings import compute_settings
from core.config import PROFILES, TrialConfig, make_config
from core.datasets import ImageSet, Splits, load_splits
from core.draws import draw
from core.models import build_encoder, build_projector
from core.train import train
from sweeps.command_line import _default_data_dir
from tests.benchmarks.turns import rows


def config(**fields: Any) -> TrialConfig:
    """The default profile on a CPU, for one epoch."""
    return make_config(PROFILES["digits-m"] | {"precision": "fp32", "epochs": 1, "threads": 1, **fields})


def views_of(images: ImageSet) -> dict[str, Callable[[], Any]]:
    """Name -> makes one view of every image."""
    import kornia.augmentation as kornia
    from torchvision.transforms import v2

    of = config().augmentation
    crop, low, blur = of.crop or (0.4, 1.0), of.crop_ratio, of.blur or (0.1, 2.0)
    colours = (of.brightness, of.contrast, of.saturation, of.hue)
    tensors = torch.from_numpy(images.images)
    draws = draw(of, len(images), 32, seed=0, purpose="bench")
    theirs = v2.Compose([
        v2.RandomResizedCrop(32, scale=crop, ratio=low, antialias=True),
        v2.RandomApply([v2.ColorJitter(*colours)], p=of.jitter), v2.RandomGrayscale(of.grey), v2.GaussianBlur(3, blur),
    ])  # fmt: skip
    batched = kornia.AugmentationSequential(
        kornia.RandomResizedCrop((32, 32), scale=crop, ratio=low), kornia.ColorJitter(*colours, p=of.jitter),
        kornia.RandomGrayscale(p=of.grey), kornia.RandomGaussianBlur((3, 3), blur, p=1.0), same_on_batch=False,
    )  # fmt: skip
    of_pil = lightly_transform(of)
    pictures = [Image.fromarray(image.transpose(1, 2, 0)) for image in images.images]
    return {
        "ours": lambda: augment(tensors, draws),
        "kornia": lambda: batched(tensors.float() / 255),
        "lightly": lambda: [of_pil(picture) for picture in pictures],
        "torchvision": lambda: [theirs(image.float() / 255) for image in tensors],
    }


def lightly_transform(of: Any) -> Callable[[Image.Image], Tensor]:
    """The list as lightly makes it: torchvision's transforms on PIL images, one view each."""
    from lightly.transforms import GaussianBlur
    from torchvision import transforms

    made: Callable[[Image.Image], Tensor] = transforms.Compose([
        transforms.RandomResizedCrop(32, scale=of.crop, ratio=of.crop_ratio),
        transforms.RandomApply([transforms.ColorJitter(of.brightness, of.contrast, of.saturation, of.hue)], p=of.jitter),
        transforms.RandomGrayscale(of.grey), GaussianBlur(sigmas=of.blur, prob=1.0), transforms.ToTensor(),
    ])  # fmt: skip
    return made


def lightly_epoch(images: ImageSet) -> Callable[[], None]:
    """One epoch as in lightly's VICReg example: its loss, a DataLoader of PIL images, the same encoder and optimiser."""
    from lightly.loss import VICRegLoss
    from torch.utils.data import DataLoader, Dataset

    own = config()
    transform = lightly_transform(own.augmentation)
    pictures = [Image.fromarray(image.transpose(1, 2, 0)) for image in images.images]

    class Pairs(Dataset[tuple[Tensor, Tensor]]):
        def __len__(self) -> int:
            return len(pictures)

        def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
            return transform(pictures[index]), transform(pictures[index])

    mean, std = images.channels
    encoder = build_encoder("small", 64, 0, torch.from_numpy(mean), torch.from_numpy(std))
    model = torch.nn.Sequential(encoder, build_projector(64, own.projector_dims, 0))
    optimizer = torch.optim.Adam(model.parameters(), lr=own.learning_rate)
    loss_of = VICRegLoss()

    def epoch() -> None:
        for first, second in DataLoader(Pairs(), batch_size=own.batch_size, shuffle=True, drop_last=True):
            loss = loss_of(model(first), model(second))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return epoch


def measure(*, quick: bool, data: Path) -> Iterator[str]:
    """Yields the lines of the tables."""
    splits = load_splits("digits-m", data, None)
    n, rounds = (16, 1) if quick else (512, 5)
    some = splits.train.take(np.arange(n))
    yield from rows("views", views_of(some), rounds, of=n)
    size = 256 if quick else 2048
    part = Splits(splits.train.take(np.arange(size)), splits.validation, splits.test.take(np.arange(256)))
    yield from rows("training, small encoder, images", {
        "ours": lambda: train(config(), part), "ours, bf16": lambda: train(config(precision="bf16"), part),
        "lightly": lightly_epoch(part.train),
    }, 1 if quick else 3, of=size)  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="a smoke run: figures mean nothing")
    parser.add_argument("--data", type=Path, default=_default_data_dir())
    options = parser.parse_args(arguments)
    try:
        import kornia  # noqa: F401
        import lightly  # noqa: F401
    except ImportError as error:
        print(f"{error.name} is not installed: pip install -e '.[bench]'")
        return
    with compute_settings(options.threads):
        for line in measure(quick=options.quick, data=options.data):
            print(line, flush=True)


if __name__ == "__main__":
    main()
