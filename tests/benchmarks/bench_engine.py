"""Cost of the engine: ``python tests/benchmarks/bench_engine.py [--trials 200]``.

A grid of trivial trials through ``main()`` of sweeps/run.py, with real Ray Tune, store and MLflow (SQLite). Training is one
epoch of two steps; metrics, details and figures are constants, so that hardly anything hides the engine.

Counted as engine: all of the command's wall time, from the call of ``main()`` to its return (start of Ray and its workers,
planning, scheduling, the store's files, MLflow, tables, report, shutdown), less the CPU seconds within ``train()`` without its
checkpoints, ``evaluate()``, details and drawing: their median over the trials, for every trial, divided by the slots. By CPU
seconds, for the time in which they wait for a core that the engine holds is the engine's; by the median, for the imports of a
worker's first trial are. Not counted: those, and the start of Python.

Also counted: the CPU seconds of all processes of the command, from the start of Python to the end: the command itself, the one
that writes to MLflow, the workers (training and drawing included), and Ray's own.

What blocks Tune's loop, while Tune runs: seconds of each call from it into our code (``tracker``: MLflow's alone). A thread can
also hold the interpreter's lock beside the calls; so, with MLflow and with a tracker that drops everything: how much later
than after 2 ms a sleeping thread comes back (``late``), and how long a round of the loop takes beyond its own CPU seconds and
its waiting for Ray (``held up``; the disk and other processes hold it up as well).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import wraps
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import yaml

ROOT = Path(__file__).parents[2]
_SLEEP = 0.002
_BASE = {
    "encoder": "small", "representation_dim": 4, "projector_dims": [8], "epochs": 1, "batch_size": 16, "precision": "fp32",
    "threads": 1, "learning_rate": 0.5,
}  # fmt: skip
#: Phases of the command whose seconds are told.
_PHASES = ("init", "run", "wait", "of_sweep", "write_report", "close", "_disconnect")


def timed(function: Callable[..., Any], note: Callable[[float], None], clock: Callable[[], float]) -> Callable[..., Any]:
    """The function, which notes how long each call took."""

    @wraps(function)
    def wrapped(*arguments: Any, **options: Any) -> Any:
        started = clock()
        try:
            return function(*arguments, **options)
        finally:
            note(clock() - started)

    return wrapped


# -- in the workers ------------------------------------------------------------------------------------------------------


def trivial_trial(*arguments: Any, **options: Any) -> None:
    """``run_trial`` with metrics and details that are constants."""
    from evaluation.evaluate import Evaluation
    from sweeps.execution import worker

    spent: list[float] = []

    def train(*arguments: Any, on_epoch: Callable[[Any], None], **options: Any) -> Any:
        kept = timed(on_epoch, lambda seconds: spent.append(-seconds), time.thread_time)
        return original["train"](*arguments, on_epoch=kept, **options)

    def evaluate(inputs: Any, names: Sequence[str]) -> Evaluation:
        value = inputs.history[-1]["train/loss"] if inputs.history else 0.3
        return Evaluation({name: value * (i + 1) % 1 for i, name in enumerate(names)}, {}, frozenset(), 0.0)

    def compute(name: str, inputs: Any) -> Any:
        points, labels = inputs.test.representation, inputs.test.labels
        if name.startswith("anomalies/"):
            return {"test": np.arange(len(labels)), "anomalies": np.arange(len(labels)) + 9}
        return {"test": labels if name == "predictions" else points, "test_labels": labels, "variance_share": np.ones(4) / 4}

    original = {"train": worker.train, "evaluate": worker.evaluate}
    computed = worker.per_image.compute
    try:
        worker.train, worker.evaluate = (timed(f, spent.append, time.thread_time) for f in (train, evaluate))
        worker.per_image.compute = timed(compute, spent.append, time.thread_time)
        worker.run_trial(*arguments, **options)
    finally:
        worker.train, worker.evaluate, worker.per_image.compute = original["train"], original["evaluate"], computed
    _note(arguments[2], "trial", sum(spent))


def trivial_drawing(trial: Any, images: Any, storage: Path) -> list[str]:
    """``draw_figures`` with metrics, arrays and pictures that are constants."""
    from evaluation.evaluate import Evaluation
    from sweeps.execution import after_slot, figure_tasks

    spent: list[float] = []

    def derive(name: str, others: Any) -> Any:
        points = others["projection"]["test"]
        return {"test": points[:, :2], "images": np.arange(len(points)), "centers": np.zeros((2, 2))}

    def evaluate(inputs: Any, names: Sequence[str]) -> Evaluation:
        return Evaluation({name: (i + 1) / (len(names) + 1) for i, name in enumerate(names)}, {}, frozenset(), 0.0)

    original = figure_tasks.derive, figure_tasks.draw
    inputs = after_slot._inputs, after_slot._left_inputs, after_slot.evaluate
    try:
        after_slot._inputs = lambda trial, *_: SimpleNamespace(anomalies=trial.anomalies)
        after_slot._left_inputs = lambda *_: None
        after_slot.evaluate = evaluate
        figure_tasks.derive = timed(derive, spent.append, time.thread_time)
        figure_tasks.draw = timed(lambda *_: bytes(50_000), spent.append, time.thread_time)
        damage = figure_tasks.draw_figures(trial, images, storage)
    finally:
        figure_tasks.derive, figure_tasks.draw = original
        after_slot._inputs, after_slot._left_inputs, after_slot.evaluate = inputs
    _note(storage, "drawing", sum(spent))
    return damage


def _note(storage: Path, what: str, seconds: float) -> None:
    with (storage / "seconds.jsonl").open("a") as file:
        file.write(json.dumps([what, seconds]) + "\n")


# -- in the driver -------------------------------------------------------------------------------------------------------


class Loop:
    """What happens to Tune's loop while it runs, in seconds: name -> one figure for each call, sleep or round."""

    def __init__(self) -> None:
        self.figures: dict[str, list[float]] = defaultdict(list)
        self._running = False
        self._waited = 0.0

    def watch(self, owner: Any, names: Sequence[str], group: str) -> None:
        """Notes each call of the methods from the loop."""
        for name in names:
            setattr(owner, name, timed(getattr(owner, name), self._noting(group), time.perf_counter))

    def _noting(self, group: str) -> Callable[[float], None]:
        def note(seconds: float) -> None:
            if self._running and threading.current_thread() is threading.main_thread():
                self.figures[group].append(seconds)

        return note

    def watch_rounds(self) -> None:
        """Notes how long each round is held up."""
        import ray
        from ray.tune.execution.tune_controller import TuneController

        def waited(seconds: float) -> None:
            self._waited += seconds

        def held_up(step: Callable[..., Any]) -> Callable[..., Any]:
            def round_(*arguments: Any) -> None:
                self._waited = 0.0
                started, computed = time.perf_counter(), time.thread_time()
                step(*arguments)
                busy = time.perf_counter() - started - self._waited
                self.figures["held up"].append(max(0.0, busy - (time.thread_time() - computed)))

            return round_

        ray.wait = timed(ray.wait, waited, time.perf_counter)
        TuneController.step = held_up(TuneController.step)

    @contextmanager
    def during(self) -> Iterator[None]:
        """The block is Tune's loop."""
        self._running = True
        sleeper = threading.Thread(target=self._sleep)
        sleeper.start()
        try:
            yield
        finally:
            self._running = False
            sleeper.join()

    def _sleep(self) -> None:
        while self._running:
            started = time.perf_counter()
            time.sleep(_SLEEP)
            self.figures["late"].append(time.perf_counter() - started - _SLEEP)


def measure(folder: Path, *, mlflow: bool) -> dict[str, Any]:
    """Runs the grid in this process; returns its figures."""
    import ray

    from sweeps import finish, run
    from sweeps.analysis import contrasts
    from sweeps.execution import cluster, figure_tasks, tune_backend
    from sweeps.execution.progress import Progress
    from sweeps.execution.runner import SlotTimeMeter
    from sweeps.tracking.tracker import Tracker
    from tests.benchmarks import bench_engine as here  # noqa: PLW0406 (found by the workers; pickling holds up the loop)

    tune_backend.run_trial, figure_tasks.draw_figures = here.trivial_trial, here.trivial_drawing
    loop, phases = Loop(), dict.fromkeys(_PHASES, 0.0)

    def add(name: str) -> Callable[[float], None]:
        return lambda seconds: phases.update({name: phases[name] + seconds})

    for callback in (Tracker, Progress, figure_tasks.FigureTasks, SlotTimeMeter):
        group = "tracker" if callback is Tracker else "others"
        loop.watch(callback, ("on_trial_start", "on_epoch_end", "on_trial_end"), group)
    loop.watch(tune_backend._TuneCallback, ("on_trial_start", "on_trial_result", "on_trial_error"), "all calls")
    loop.watch(tune_backend._DependencySearcher, ("suggest", "on_trial_complete"), "all calls")
    loop.watch_rounds()
    for owner, name in ((ray, "init"), (tune_backend, "run"), (figure_tasks.FigureTasks, "wait"),
                        (contrasts, "of_sweep"), (finish, "write_report"), (Tracker, "close"),
                        (cluster, "_disconnect")):  # fmt: skip
        setattr(owner, name, timed(getattr(owner, name), add(name), time.perf_counter))
    tune_loop = tune_backend.run

    def looped(*arguments: Any, **options: Any) -> Any:
        with loop.during():
            return tune_loop(*arguments, **options)

    def dropped(tracker: Any) -> None:
        while tracker._messages.get()[0] != "close":
            pass

    tune_backend.run = looped
    if not mlflow:
        Tracker._run_process = dropped  # type: ignore[method-assign]
    started = time.perf_counter()
    code = run.main(_command(folder))
    wall = time.perf_counter() - started
    spent = [json.loads(line) for line in (folder / "results" / "seconds.jsonl").read_text().splitlines()]
    compute = sum(float(np.median([s for what, s in spent if what == kind])) for kind in ("trial", "drawing"))
    return {"code": code, "wall": wall, "compute": compute, "phases": phases, "loop": loop.figures}


def _command(folder: Path) -> list[str]:
    return ["--grid", str(folder / "engine.yaml"), "--profile", "digits-m", "--data", str(folder / "data"),
            "--storage", str(folder / "results")]  # fmt: skip


def make_grid(folder: Path, trials: int) -> None:
    """Writes images of noise, and a grid of so many arms."""
    from PIL import Image

    draw = np.random.default_rng(0)
    for split in ("images/train/a", "images/train/b", "images/test/a", "images/test/b", "others/test/a"):
        (folder / split).mkdir(parents=True)
        for i in range(20):
            Image.fromarray(draw.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / split / f"{i}.png")
    base = _BASE | {"dataset": f"folder:{folder / 'images'}", "anomaly_datasets": [f"folder:{folder / 'others'}"]}
    arms = {"rate": {"learning_rate": [round(1e-4 * i, 4) for i in range(1, trials)]}}
    (folder / "engine.yaml").write_text(yaml.safe_dump({"question": "What does a trial cost?", "base": base, "arms": arms}))


# -- the processes -------------------------------------------------------------------------------------------------------


def _kind(process: psutil.Process, command: int) -> str:
    """What a process of the command does: the command itself, MLflow's, a worker, or one of Ray's own."""
    line = " ".join(process.cmdline())
    if process.pid == command:
        return "command"
    if "writer_process" in line:
        return "mlflow"
    return "workers" if line.startswith("ray::") or "default_worker.py" in line else "ray"


def _watch_cpu(command: subprocess.Popen[bytes]) -> dict[str, float]:
    """Wait for the command; return the CPU seconds of its processes by kind, each as last seen (five times a second)."""
    seen: dict[tuple[int, float], tuple[str, float]] = {}
    root = psutil.Process(command.pid)
    while command.poll() is None:
        for process in (root, *root.children(recursive=True)):
            with suppress(psutil.Error):
                times, identity = process.cpu_times(), (process.pid, process.create_time())
                kind = seen[identity][0] if identity in seen else _kind(process, command.pid)
                # A forked child has its parent's command line until it has a program of its own.
                kind = _kind(process, command.pid) if kind == "ray" else kind
                seen[identity] = (kind, times.user + times.system)
        time.sleep(0.2)
    found: dict[str, float] = defaultdict(float)
    for kind, seconds in seen.values():
        found[f"CPU, {kind}"] += seconds
    return found


# -- the command line ----------------------------------------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=200, help="at least 2")
    parser.add_argument("--quick", action="store_true", help="a smoke run: only the sweep with MLflow")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--without-mlflow", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.inside:
        found = measure(options.inside, mlflow=not options.without_mlflow)
        (options.inside / "figures.json").write_text(json.dumps(found))
        return
    for mlflow in (True,) if options.quick else (True, False):
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            make_grid(folder, options.trials)
            print(f"-- {options.trials} trials, {'MLflow' if mlflow else 'no MLflow'}")
            cpu = _run([__file__, "--inside", scratch, *([] if mlflow else ["--without-mlflow"])], folder)
            _tell(json.loads((folder / "figures.json").read_text()), cpu, options.trials)
            for what, flags in (("dry run", ["--dry-run"]), ("again", [])) if mlflow and not options.quick else ():
                started = time.perf_counter()
                _run([str(ROOT / "sweeps" / "run.py"), *_command(folder), *flags], folder)
                print(f"{what:28} {time.perf_counter() - started:10.4g} s", flush=True)


def _run(command: list[str], folder: Path) -> dict[str, float]:
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen([sys.executable, *command], stdout=log, stderr=log, env={**os.environ, "PYTHONPATH": path}) as running,
    ):
        cpu = _watch_cpu(running)
    if running.returncode:
        sys.exit((folder / "log").read_text())
    return cpu


def _tell(found: dict[str, Any], cpu: dict[str, float], trials: int) -> None:
    if found["code"]:
        sys.exit(f"the sweep ended with {found['code']}")
    engine = found["wall"] / trials - found["compute"] / (os.cpu_count() or 1)
    rows = {"engine, a trial": engine, "wall": found["wall"], "training and drawing, a trial": found["compute"]}
    ours = sum(seconds for name, seconds in cpu.items() if name != "CPU, ray")
    rows |= {"CPU of ours, a trial": ours / trials, **cpu, **found["phases"]}
    for name, seconds in rows.items():
        print(f"{name:28} {seconds:10.4g} s")
    for name, values in found["loop"].items():
        p50, p99, most = 1e3 * np.percentile(values, (50, 99, 100))
        print(f"{name:28} {p50:10.4g} ms median, {p99:.4g} ms 99th percentile, {most:.4g} ms at most, n {len(values)}")


if __name__ == "__main__":
    main()
