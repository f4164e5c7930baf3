"""Evaluation beside scikit-learn: ``python -m tests.benchmarks.bench_evaluation [--threads 1] [--quick]``.

Each part and scikit-learn's own in turn, on the same points; that the results are equal is tested in tests/evaluation.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from core.compute_settings import compute_settings
from core.neighbors import nearest
from evaluation import clustering
from evaluation.probe import L2_STRENGTHS, logistic_probe
from tests.benchmarks.turns import rows

Points = NDArray[np.float32]


def blobs(n: int, d: int) -> tuple[Points, NDArray[np.int64]]:
    """Points of ten classes that overlap, and their labels."""
    draw = np.random.default_rng(0)
    labels = np.arange(n) % 10
    return (draw.normal(size=(n, d)) + draw.normal(size=(10, d))[labels] / 2).astype(np.float32), labels


def measure(*, quick: bool) -> Iterator[str]:
    """Yields the lines of the table."""
    from sklearn.cluster import KMeans
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import silhouette_score
    from sklearn.neighbors import NearestNeighbors

    shapes = ((600, 16), (300, 48)) if quick else ((50_000, 128), (7_002, 3_072))
    for n, d in shapes:
        points, _ = blobs(n, d)
        queries = points[:10_000]
        yield from rows(
            f"4 neighbours of {len(queries)} in {n} x {d}",
            {
                "ours": lambda points=points, queries=queries: nearest(points, queries, 4),
                "scikit-learn": lambda points=points, queries=queries: NearestNeighbors(
                    n_neighbors=4, algorithm="brute"
                ).fit(points).kneighbors(queries),
            },
            1 if quick else 3,
        )  # fmt: skip
    (n, d) = shapes[0]
    points, labels = blobs(n, d)
    size = f"{n} x {d}"
    yield from rows(f"silhouette of {size}", {
        "ours": lambda: clustering.silhouettes(points, [labels]),
        "scikit-learn": lambda: silhouette_score(points, labels),
    }, 1)  # fmt: skip
    yield from rows(f"k-means of {size}, 10 starts", {
        "ours": lambda: clustering.kmeans(points, 10),
        "scikit-learn": lambda: KMeans(10, n_init=10, random_state=0).fit(points),
    }, 1)  # fmt: skip
    part, own = points[: n // 10], labels[: n // 10]
    standard = (points.astype(np.float64) - points.mean(axis=0)) / points.std(axis=0)  # the precision of ours

    def of_sklearn() -> None:
        model = LogisticRegression(tol=1e-6, max_iter=2000, warm_start=True)
        for l2 in L2_STRENGTHS:
            model.set_params(C=1 / (l2 * n)).fit(standard, labels)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield from rows(f"probe on {size}, {len(L2_STRENGTHS)} penalties", {
            "ours": lambda: logistic_probe((points, labels), (part, own), (part, own)),
            "scikit-learn": of_sklearn,
        }, 1)  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="a smoke run: figures mean nothing")
    options = parser.parse_args(arguments)
    with compute_settings(options.threads):
        for line in measure(quick=options.quick):
            print(line, flush=True)


if __name__ == "__main__":
    main()
