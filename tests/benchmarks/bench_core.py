"""Speeds of the parts: ``python tests/benchmarks/bench_core.py [--device cuda] [--threads 1] [--quick]``.

Prints the median of several rounds for each part. Figures and the machines they come from are kept in docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from core.augment import augment
from core.compute_settings import compute_settings
from core.config import Augmentation, make_config
from core.datasets import ImageSet, Splits
from core.draws import draw
from core.neighbors import neighbor_table
from core.train import train
from evaluation.clustering import silhouettes


def median_seconds(function: Callable[[], Any], device: str, rounds: int) -> float:
    """The median over rounds, after one that is not counted."""
    seconds = []
    for i in range(rounds + 1):
        started = time.perf_counter()
        function()
        if device == "cuda":
            torch.cuda.synchronize()
        if i:
            seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def noise(n: int) -> ImageSet:
    """Images of noise in ten classes."""
    labels = np.arange(n) % 10
    images = np.random.default_rng(0).integers(0, 256, (n, 3, 32, 32), dtype=np.uint8)
    return ImageSet(images, labels, tuple("abcdefghij"))


def measure(device: str, threads: int, *, quick: bool) -> Iterator[tuple[str, float, str]]:
    """Yields (what, figure, unit)."""
    rounds, n = (1, 128) if quick else (5, 2048)
    with compute_settings(threads):
        images = torch.randint(0, 256, (512, 3, 32, 32), dtype=torch.uint8, device=device)
        draws = draw(Augmentation(), 512, 32, seed=0, purpose="bench").to(device)
        yield "augment", 512 / median_seconds(lambda: augment(images, draws), device, rounds), "views/s"
        points = np.random.default_rng(0).normal(size=(10 * n, 128)).astype(np.float32)
        yield f"3 neighbours of {len(points)} x 128", median_seconds(lambda: neighbor_table(points, 3), device, 1), "s"
        labels = np.arange(len(points)) % 10
        yield f"silhouette of {len(points)} x 128", median_seconds(lambda: silhouettes(points, [labels]), device, 1), "s"
    splits = Splits(noise(n), *(noise(16 if quick else 256) for _ in range(2)))
    for encoder, precision in (("small", "fp32"), ("small", "bf16"), ("resnet18", "fp32"), ("resnet18", "bf16")):
        size = (16 if quick else 512) if encoder == "resnet18" and device == "cpu" else n
        part = Splits(splits.train.take(np.arange(size)), splits.validation, splits.test)
        fields = {"encoder": encoder, "precision": precision, "epochs": 1 if quick else 2, "threads": threads,
                  "dataset": "digits-m", "anomaly_datasets": [], "batch_size": 16 if quick else 256}  # fmt: skip
        history = train(make_config(fields), part, device=device).history
        yield f"train {encoder} {precision}", history[-1]["images_per_second"], "images/s"


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="a smoke run: figures mean nothing")
    options = parser.parse_args(arguments)
    for what, figure, unit in measure(options.device, options.threads, quick=options.quick):
        print(f"{what:32} {figure:10.4g} {unit}", flush=True)


if __name__ == "__main__":
    main()
