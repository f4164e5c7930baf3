"""A grid in plain processes over one device, without Ray and MLflow: ``python tests/benchmarks/bench_study.py --grid NAME``.

For machines that have torch but not the rest, and for how many trials one GPU carries at once (``--at-once``). Plan, training,
evaluation and store are those of ``sweeps/run.py``. Prints a line for each trial (figures: images per second of all epochs but
the first, peak of the GPU's memory) and what the whole took; ``--out`` keeps the same as JSON. Kept in docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import tempfile
import time
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

from sweeps.execution.machine import cpu_flags
from sweeps.planning.arms import parse_settings
from sweeps.planning.grid_file import load_grid
from sweeps.planning.planner import Planner
from sweeps.planning.trial import Plan, Trial
from sweeps.storage.image_sets import Images, load_images
from sweeps.storage.trial_store import TrialStore

HEADLINE = ("probe_accuracy", "probe_accuracy_backbone", "probe_accuracy_study", "anomaly_auc", "silhouette", "projection_std")
_images: list[Images] = []  # of the whole study; the processes inherit them


def one_trial(trial: Trial, storage: Path, gpu: bool, deterministic: bool) -> dict[str, Any]:
    """Runs in a process of its own: the trial, and what it took."""
    import torch

    from sweeps.execution.worker import run_trial

    started, epochs = time.perf_counter(), [0.0]

    def at_epoch(record: dict[str, float]) -> None:
        epochs.append(time.perf_counter() - started)

    if gpu:
        torch.cuda.reset_peak_memory_stats()
    run_trial(trial, _images[0], storage, gpu=gpu, deterministic=deterministic, on_epoch=at_epoch)
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "after_training": seconds - epochs[-1],
            "gpu_memory_gib": torch.cuda.max_memory_allocated() / 2**30 if gpu else 0.0}  # fmt: skip


def describe(trial: Trial, store: TrialStore, took: dict[str, Any]) -> dict[str, Any]:
    """What is printed and kept of a trial."""
    training, results = store.read(trial.key).training, store.read(trial.key).results
    assert training is not None
    speeds = [record["images_per_second"] for record in training.history[1:] or training.history]
    values = {name: results[id_].value for name, id_ in trial.metric_ids.items() if id_ in results}
    if trial.anomalies:
        values["anomaly_auc"] = values.get(f"anomaly_auc/{next(iter(trial.anomalies))}")
    row = {"trial": trial.title, "device": training.device, "training_seconds": training.seconds,
           "images_per_second": statistics.median(speeds) if speeds else None}  # fmt: skip
    return row | took | {"metrics": values}


def run_all(plan: Plan, store: TrialStore, storage: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """All trials of a plan, each once what it waits for is trained; a line for each as it ends."""
    waiting = {key: trial for key, trial in plan.trials.items() if key in plan.requested}
    running: dict[Future[dict[str, Any]], Trial] = {}
    rows: list[dict[str, Any]] = []
    context = multiprocessing.get_context("fork")  # before CUDA is touched: the images are inherited, not copied
    with ProcessPoolExecutor(options.at_once, mp_context=context) as pool:
        while waiting or running:
            for key, trial in list(waiting.items()):
                if all(store.read(k).is_trained for k in plan.dependencies(trial)):
                    del waiting[key]
                    running[pool.submit(one_trial, trial, storage, options.gpu, options.deterministic)] = trial
            for future in wait(running, timeout=1, return_when=FIRST_COMPLETED).done:
                rows.append(describe(running.pop(future), store, future.result()))
                print(line(rows[-1]), flush=True)
    return rows


def line(row: dict[str, Any]) -> str:
    """A trial's row for people."""
    metrics = " ".join(f"{name} {row['metrics'][name]:.4f}" for name in HEADLINE if row["metrics"].get(name) is not None)
    speed = f"{row['images_per_second']:,.0f} images/s" if row["images_per_second"] else "-"
    return (
        f"{row['trial']:24} {row['seconds']:6.1f} s, {row['after_training']:.1f} of them after training; {speed}; "
        f"{row['gpu_memory_gib']:.2f} GiB; {metrics}"
    )


def main(arguments: list[str] | None = None) -> None:
    """The command line; the flags that sweeps/run.py has mean the same here."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--grid", default="ablations")
    parser.add_argument("--profile", default="digits-m")
    parser.add_argument("--arms", type=lambda text: text.split(","))
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--storage", type=Path, help="default: a new temporary folder")
    parser.add_argument("--data", type=Path, default=Path.home() / ".cache" / "vicreg-sweeps")
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--deterministic", action="store_true")
    parser.add_argument("--at-once", type=int, default=1, help="trials at the same time")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)

    started = time.perf_counter()
    grid = load_grid(options.grid)
    planner = Planner(options.profile, parse_settings(options.set), options.data, options.gpu, cpu_flags())
    plan = planner.plan(grid, seeds=grid.seeds, arms=options.arms)
    _images[:] = [load_images(plan.trials.values(), options.data)]
    loaded = time.perf_counter()
    storage = options.storage or Path(tempfile.mkdtemp(prefix="bench-study-"))
    rows = run_all(plan, TrialStore(storage), storage, options)
    whole = time.perf_counter() - loaded
    print(f"{len(rows)} trials, {options.at_once} at once: {whole:.1f} s, and {loaded - started:.1f} s to load the images")
    if options.out:
        options.out.write_text(json.dumps({"seconds": whole, "at_once": options.at_once, "trials": rows}, indent=1))


if __name__ == "__main__":
    main()
