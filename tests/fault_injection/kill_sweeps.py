"""Kills at random instants: ``python -m tests.fault_injection.kill_sweeps --what driver|worker|interrupt --kills 10 --seed 0``.

A sweep is run undisturbed, and again in a new storage with a signal at random instants of the command's life: SIGKILL to the
driver (then the same command again), SIGKILL to a worker that trains or draws (nothing is restarted by hand), or SIGINT to the
driver. A sweep that ends before its next kill is checked, and another begins, until all kills are spent. What is checked says
:func:`errors`. Prints a line for each kill and a verdict; exit code 0 where nothing was found.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import yaml

from core.atomic_files import load_arrays, load_json
from sweeps.storage.trial_store import TrialStore
from tests.conftest import ROOT, TINY

GRID: dict[str, Any] = {
    "question": "Is anything lost?",
    "base": {**TINY, "train_subset": 1000, "batch_size": 32, "epochs": 6},
    "arms": {
        "n": {"pairing": "neighbors"},
        "z": {"mu": 0},
        "e": {"epochs": [3, 8]},
        "pca": {"method": "pca"},
        "raw": {"method": "raw-pixels"},
    },
}
TABLES = ("table.csv", "contrasts.csv", "table.tex", "trials.csv")
_DEATHS = 3  # of one trial's workers, after which the next would end it (sweeps.execution.tune_backend.MAX_DEATHS)
_GRACE = 10.0  # seconds in which the processes of a dead driver are gone
_LIMIT = 600.0  # seconds for one command
_MISSES = 3  # sweeps in a row that ended before any kill, after which the kills are held to miss
#: Measured by a clock, so no two runs agree.
_CLOCK = {"time", "seconds", "images_per_second"}
#: Tags that tell of the command or the storage.
_OF_A_COMMAND = {"mlflow.parentRunId", "command", "mlflow.note.content", "git_commit"}


@dataclass
class Command:
    """One command of the driver, in a session of its own, and where it writes."""

    folder: Path
    grid: Path
    data: Path
    process: subprocess.Popen[bytes] = field(init=False)
    started: float = field(init=False)

    @property
    def storage(self) -> Path:
        return self.folder / "results"

    @property
    def audit(self) -> Path:
        return self.folder / "audit.jsonl"

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = os.pathsep.join((str(ROOT / "tests" / "fault_injection" / "audit"), str(ROOT)))
        environment = os.environ | {"CHAOS_AUDIT": str(self.audit), "PYTHONPATH": path}
        arguments = ["--grid", self.grid, "--profile", "digits-m", "--storage", self.storage, "--data", self.data]
        line = [sys.executable, str(ROOT / "sweeps" / "run.py"), *map(str, arguments)]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                line, stdout=log, stderr=log, env=environment, cwd=self.folder, start_new_session=True
            )
        self.started = time.monotonic()

    def wait(self, seconds: float) -> int | None:
        """The exit code; None where the command still runs after so many seconds."""
        with suppress(subprocess.TimeoutExpired):
            return self.process.wait(timeout=max(0.0, seconds))
        return None

    def end(self) -> int:
        """Waits for the end; the exit code."""
        code = self.wait(_LIMIT)
        if code is None:
            self.process.kill()
            self.process.wait()
            raise TimeoutError(f"the command did not end within {_LIMIT:.0f} s; {self.log}")
        return code

    def family(self) -> list[psutil.Process]:
        """All processes below the driver, save Ray's agents: they linger for a minute, and touch neither storage nor locks."""
        with suppress(psutil.Error):
            return [p for p in psutil.Process(self.process.pid).children(recursive=True) if not p.name().endswith("Agent")]
        return []

    def events(self) -> list[dict[str, Any]]:
        """What the processes of this folder's commands began, in order."""
        lines = self.audit.read_text().splitlines() if self.audit.exists() else []
        return [json.loads(line) for line in lines]


@dataclass
class Undisturbed:
    """What every torn sweep is held against: its command, its seconds, and those until a worker first took a trial."""

    command: Command
    seconds: float
    startup: float

    @property
    def begun(self) -> list[float]:
        """Seconds after which each thing was begun; a worker to be killed after the last may have nothing left to do."""
        times = [event["time"] for event in self.command.events()]
        return [self.startup + at - times[0] for at in times]

    def progress(self, instant: float) -> tuple[int, float]:
        """What an instant of this sweep is for one of another speed: how much was begun, and the seconds since the last."""
        elapsed = self.begun
        begun = bisect_right(elapsed, instant)
        return begun, instant - elapsed[begun - 1]


def undisturbed(folder: Path, grid: Path, data: Path) -> Undisturbed:
    """Runs a sweep that nobody disturbs; one that is there is taken."""
    command = Command(folder, grid, data)
    measured = folder / "measured.json"
    if not measured.exists():
        began = time.time()
        command.start()
        if command.end() != 0:
            raise RuntimeError(command.log.read_text())
        measured.write_text(json.dumps([time.time() - began, command.events()[0]["time"] - began]))
    return Undisturbed(command, *load_json(measured))


def finished_work(storage: Path) -> dict[str, int]:
    """File -> the instant it was written, of what must never be written again: trainings, results, and the files these name."""
    stamps = {}
    for folder in storage.glob("trials/*"):
        results = {id_ for path in folder.glob("evaluation-*.json") for id_ in (load_json(path) or {})}
        files = [*folder.glob("trained.json"), *folder.glob("evaluation-*.json")]
        if (folder / "trained.json").exists():
            files += [*folder.glob("encoder.pt"), *folder.glob("checkpoint.pt"), *folder.glob("fitted.npz")]
        files += [path for path in folder.glob("details/*.npz") if f"detail:{path.stem}" in results]
        files += [path for path in folder.glob("figures/*.png") if f"figure:{path.stem}" in results]
        stamps |= {str(path.relative_to(storage)): path.stat().st_mtime_ns for path in files}
    return stamps


def busy(command: Command) -> list[tuple[psutil.Process, str]]:
    """The workers that train or evaluate a trial, or draw one's figures, each with what it does."""
    last = {event["pid"]: event for event in command.events() if event["time"] > time.time() - _LIMIT}
    found = []
    for process in command.family():
        with suppress(psutil.Error):
            title = (process.cmdline() or [""])[0]
            if title.startswith("ray::") and ("train" in title or "draw" in title) and process.pid in last:
                event = last[process.pid]
                epoch = f" epoch {event['epoch']}" if event["epoch"] else ""
                found.append((process, f"{'draw' if 'draw' in title else 'train'} {event['trial']}{epoch}"))
    return found


def _gone(processes: list[psutil.Process]) -> float | None:
    """Seconds until all have ended; None where some live on."""
    began = time.monotonic()
    while time.monotonic() - began < _GRACE:
        if not _living(processes):
            return time.monotonic() - began
        time.sleep(0.02)
    return None


def _living(processes: list[psutil.Process]) -> list[str]:
    """Names of those that have not ended."""
    names = []
    for process in processes:
        with suppress(psutil.Error):  # any question may meet its end
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                names.append(process.name())
    return names


# -- tearing -------------------------------------------------------------------------------------------------------------


@dataclass
class Torn:
    """A sweep that is disturbed, and what was seen meanwhile."""

    command: Command
    kills: int = 0
    kept: dict[str, int] = field(default_factory=dict)  # finished work at the kills
    errors: list[str] = field(default_factory=list)
    say: Callable[[str], None] = print

    def note(self, fault: str) -> None:
        self.errors.append(fault)
        self.say(f"  FAULT {fault}")

    def remember(self) -> None:
        for name, stamp in finished_work(self.command.storage).items():
            if self.kept.setdefault(name, stamp) != stamp:
                self.note(f"{name} was finished, and is written again")
                self.kept[name] = stamp


def _is_over(torn: Torn, delay: float) -> bool:
    """Starts the command; whether it is over after a while, and if not well, that is a fault."""
    torn.command.start()
    code = torn.command.wait(delay)
    if code:
        torn.note(f"exit code {code}; {torn.command.log.read_text()[-2000:]}")
    return code is not None


def kill_driver(torn: Torn, delay: float, draw: random.Random) -> bool:
    """Runs the command and kills the driver after a while; False where it was over before."""
    return not _is_over(torn, delay) and _kill_driver(torn, draw)


def _kill_driver(torn: Torn, draw: random.Random) -> bool:
    """Kills the driver of the running command."""
    command = torn.command
    family, doing, after = command.family(), _doing(command), time.monotonic() - command.started
    command.process.kill()
    command.process.wait()
    torn.kills += 1
    gone = ""
    if draw.random() < 0.5:  # else the next command comes at once
        seconds = _gone(family)
        gone = "" if seconds is None else f"; its {len(family)} processes gone in {seconds:.2f} s"
        if seconds is None:
            torn.note(f"processes live on: {_living(family)}")
    torn.say(f"kill {torn.kills} after {after:5.1f} s: {doing}{gone}")
    torn.remember()
    return True


def interrupt_driver(torn: Torn, delay: float, draw: random.Random) -> bool:
    """Runs the command and interrupts it after a while: Ctrl-C (the whole group) or kill -INT; False where it was over."""
    return not _is_over(torn, delay) and _interrupt(torn, 0.0, draw)


def _interrupt(torn: Torn, delay: float, draw: random.Random) -> bool:
    """Interrupts the running command after a while; False where it was over before."""
    command = torn.command
    if command.wait(delay) is not None:
        return False
    family, doing, group = command.family(), _doing(command), draw.random() < 0.5
    if group:
        os.killpg(command.process.pid, signal.SIGINT)
    else:
        command.process.send_signal(signal.SIGINT)
    began = time.monotonic()
    code = command.end()
    took = time.monotonic() - began
    torn.kills += 1
    after = began - command.started
    torn.say(f"Ctrl-C {torn.kills} ({'group' if group else 'driver'}) after {after:5.1f} s: {doing}; {code} in {took:.1f} s")
    said = command.log.read_text()
    if code not in (0, 130):
        torn.note(f"exit code {code} after SIGINT; {said[-2000:]}")
    if "Traceback" in said or "Exception" in said:
        torn.note(f"a traceback after SIGINT; {said[-3000:]}")
    if code == 130 and not ("interrupted; continue with: " in said and "--grid" in said):
        torn.note(f"no command to continue; {said[-500:]}")
    if _gone(family) is None:
        torn.note("processes live on after SIGINT")
    torn.remember()
    return True


def _doing(command: Command) -> str:
    if tasks := sorted(task for _, task in busy(command)):
        return ", ".join(tasks)
    lines = command.log.read_text().splitlines()
    return f"no worker is busy; last said: {lines[-1][:70] if lines else '-'}"


def kill_workers(torn: Torn, instants: list[tuple[int, float]], draw: random.Random) -> int:
    """Runs the command once and kills workers, each so many seconds after so much was begun; how many before the end."""
    command, deaths = torn.command, Counter[str]()
    command.start()
    for begun, seconds in instants:
        while command.process.poll() is None and len(command.events()) < begun:
            time.sleep(0.05)
        if command.wait(seconds) is not None:
            break
        _kill_a_worker(torn, draw, deaths)
        torn.remember()
    if (code := command.end()) != 0:
        torn.note(f"exit code {code}; {command.log.read_text()[-3000:]}")
    return torn.kills


def _kill_a_worker(torn: Torn, draw: random.Random, deaths: Counter[str] | None = None) -> bool:
    """Kills a worker as soon as one is busy; False where the command ended before."""
    command, deaths = torn.command, Counter[str]() if deaths is None else deaths
    while command.process.poll() is None:
        victims = [(process, task) for process, task in busy(command) if deaths[_job(task)] < _DEATHS]
        if victims:
            process, task = draw.choice(victims)
            with suppress(psutil.Error):
                process.kill()
                torn.kills += 1
                deaths[_job(task)] += 1
                torn.say(f"kill {torn.kills} after {time.monotonic() - command.started:5.1f} s: {task}")
                return True
        time.sleep(0.05)
    return False


def _job(task: str) -> str:
    return " ".join(task.split()[:2])


def torn_sweeps(
    what: str, kills: int, draw: random.Random, whole: Undisturbed, folder: Path, say: Callable[[str], None] = print
) -> list[str]:
    """Spends the kills over as many sweeps as it takes; returns all faults."""
    found: list[str] = []
    work = whole.seconds - whole.startup
    # Long enough that the kills together reach the end of a sweep, though each start-up counts.
    longest = whole.startup + 4 * work / max(kills, 6)
    spent, number, missed = 0, 0, 0
    while spent < kills:
        number += 1
        torn = Torn(Command(folder / f"torn-{number}", whole.command.grid, whole.command.data), say=say)
        try:
            if what == "worker":
                instants = sorted(draw.uniform(whole.startup, whole.begun[-1]) for _ in range(kills - spent))
                kill_workers(torn, [whole.progress(instant) for instant in instants], draw)
            else:
                tear = kill_driver if what == "driver" else interrupt_driver
                while spent + torn.kills < kills and tear(torn, draw.uniform(0, longest), draw):
                    pass
                torn.command.start()
                if (code := torn.command.end()) != 0:
                    torn.note(f"exit code {code} of the last command; {torn.command.log.read_text()[-3000:]}")
            for fault in differences(whole.command, torn) if torn.command.process.returncode == 0 else ():
                torn.note(fault)
        except TimeoutError as error:
            torn.note(str(error))
        say(f"sweep {number}: {torn.kills} kills, {len(torn.errors)} faults")
        found += torn.errors
        spent += torn.kills
        missed = 0 if torn.kills else missed + 1
        if missed == _MISSES:
            found.append("no kill hit")
            break
    return found


def torn_by_all(draw: random.Random, whole: Undisturbed, folder: Path, say: Callable[[str], None] = print) -> list[str]:
    """Tear one sweep by every kind of kill: SIGKILL to the driver; SIGKILL to a worker, then SIGINT; then let it end.

    Returns:
        All faults.
    """
    torn = Torn(Command(folder, whole.command.grid, whole.command.data), say=say)
    # After so much work, not so many seconds: how fast a command is depends on what else the machine does.
    begun = draw.randint(1, len(whole.begun) // 2)
    torn.command.start()
    while torn.command.process.poll() is None and len(torn.command.events()) < begun:
        time.sleep(0.05)
    if torn.command.wait(draw.uniform(0, 0.5)) is not None:
        torn.note("the sweep ended before its driver was killed")
    else:
        _kill_driver(torn, draw)
    torn.command.start()
    if not _kill_a_worker(torn, draw):
        torn.note("the sweep ended before a worker was killed")
    elif not _interrupt(torn, draw.uniform(0.5, 3.0), draw):
        torn.note("the sweep ended before its Ctrl-C")
    torn.command.start()
    if (code := torn.command.end()) != 0:
        torn.note(f"exit code {code} of the last command; {torn.command.log.read_text()[-3000:]}")
    else:
        for fault in differences(whole.command, torn):
            torn.note(fault)
    return torn.errors


# -- checking ------------------------------------------------------------------------------------------------------------


def differences(whole: Command, torn: Torn) -> list[str]:
    """What differs between a sweep that was killed and one that was not, or was repeated, or is left behind."""
    torn.remember()
    return [
        *_of_tables(whole.storage, torn.command.storage),
        *_of_trials(whole.storage, torn.command.storage),
        *_of_epochs(whole, torn),
        *_of_tracking(whole.storage, torn.command.storage),
        *_of_leavings(torn.command),
    ]


def _of_tables(whole: Path, torn: Path) -> Iterator[str]:
    for name in TABLES:
        texts = [timeless(next(storage.glob(f"sweeps/*/{name}"))) for storage in (whole, torn)]
        if texts[0] != texts[1]:
            yield f"{name} differs"


def timeless(path: Path) -> Any:
    """What a table says, without what a clock measured."""
    if path.name != "trials.csv":
        return path.read_text()
    with path.open() as file:
        return [{name: value for name, value in row.items() if "seconds" not in name} for row in csv.DictReader(file)]


def _of_trials(whole: Path, torn: Path) -> Iterator[str]:
    import torch

    keys = TrialStore(whole).trial_keys()
    if TrialStore(torn).trial_keys() != keys:
        yield "the stores hold different trials"
        return
    for key in keys:
        one, other = TrialStore(whole).folder(key), TrialStore(torn).folder(key)
        left, right = ({str(p.relative_to(f)) for p in f.rglob("*") if p.is_file()} for f in (one, other))
        for name in sorted(left ^ right):
            yield f"{key}/{name} is in one store alone"
        if (one / "encoder.pt").exists():
            weights = [torch.load(f / "encoder.pt", weights_only=True) for f in (one, other)]
            if not all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0] | weights[1]):
                yield f"{key}: weights differ"
        for name in sorted(name for name in left & right if name.endswith(".npz")):
            arrays = [load_arrays(f / name) or {} for f in (one, other)]
            if arrays[0].keys() != arrays[1].keys() or any(arrays[0][n].tobytes() != arrays[1][n].tobytes() for n in arrays[0]):
                yield f"{key}/{name} differs"
        for name in sorted(name for name in left & right if name.endswith((".png", "config.json"))):
            if (one / name).read_bytes() != (other / name).read_bytes():
                yield f"{key}/{name} differs"
        histories = [
            [{n: v for n, v in record.items() if n not in _CLOCK} for record in training.history]
            for storage in (whole, torn)
            if (training := TrialStore(storage).read(key).training) is not None
        ]
        if len(histories) == 2 and histories[0] != histories[1]:
            yield f"{key}: histories differ"
        numbers = [{id_: (r.value, r.problem) for id_, r in TrialStore(s).read(key).results.items()} for s in (whole, torn)]
        if numbers[0] != numbers[1]:
            yield f"{key}: results differ"


def _of_epochs(whole: Command, torn: Torn) -> Iterator[str]:
    """At most one epoch of a trial again for each kill, and only the one that ran."""
    begun = [[(e["trial"], e["epoch"]) for e in c.events() if e["what"] == "epoch"] for c in (whole, torn.command)]
    if set(begun[0]) != set(begun[1]):
        yield f"other epochs were trained: {set(begun[0]) ^ set(begun[1])}"
    again = 0
    for key in dict(begun[1]):
        epochs = [epoch for trial, epoch in begun[1] if trial == key]
        steps = [b - a for a, b in pairwise(epochs)]
        again += steps.count(0)
        if not set(steps) <= {0, 1} or steps.count(0) > torn.kills:
            yield f"{key}: epochs trained: {epochs}"
    torn.say(f"  {len(set(begun[1]))} epochs, {again} trained again")


def _of_tracking(whole: Path, torn: Path) -> Iterator[str]:
    one, other = contents(whole), contents(torn)
    if one.keys() != other.keys():
        yield f"MLflow has other runs: {one.keys() ^ other.keys()}"
    for name in one.keys() & other.keys():
        for what in one[name]:
            if one[name][what] != other[name][what]:
                yield f"MLflow: {what} of {name} differ: {_difference(one[name][what], other[name][what])}"
        for fault in other[name]["faults"]:
            yield f"MLflow: {name}: {fault}"


def contents(storage: Path) -> dict[Any, dict[str, Any]]:
    """What the MLflow database of a storage holds: (sweep, trial) -> its run's parts, without what a clock measured."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{storage / 'mlflow.db'}")
    (experiment,) = [e.experiment_id for e in client.search_experiments() if e.name != "Default"]
    models: dict[str, list[str]] = {}
    for model in client.search_logged_models([experiment]):
        models.setdefault(model.source_run_id, []).append(str(model.status))
    found: dict[Any, dict[str, Any]] = {}
    for run in client.search_runs([experiment]):
        name = run.data.tags.get("sweep"), run.data.tags.get("trial_key")
        parts = _contents(client, run, models.get(run.info.run_id, []))
        if name in found:
            parts["faults"].append("two runs")
        found[name] = parts
    return found


def _contents(client: Any, run: Any, models: list[str]) -> dict[str, Any]:
    points = [point for name in run.data.metrics for point in client.get_metric_history(run.info.run_id, name)]
    folders = [item.path for item in client.list_artifacts(run.info.run_id) if item.is_dir]
    lists = [client.list_artifacts(run.info.run_id, folder) for folder in (None, *folders)]
    timeless = {n: v for n, v in run.data.tags.items() if n not in _OF_A_COMMAND}
    twice = [point for point, n in Counter((p.key, p.step) for p in points).items() if n > 1]
    # An interrupted sweep says its summary at the trials done so far, too.
    metrics = run.data.metrics.items() if "trial_key" not in timeless else ((f"{p.key} {p.step}", p.value) for p in points)
    return {
        "faults": [f"{point} is there more than once" for point in twice]
        + ([] if run.info.status == "FINISHED" else [f"is {run.info.status}"]),
        "metrics": sorted((name, value) for name, value in metrics if name.split()[0] not in _CLOCK),
        "params": dict(run.data.params),
        "tags": timeless,
        "artifacts": sorted(item.path for items in lists for item in items),
        "inputs": sorted(i.dataset.name for i in run.inputs.dataset_inputs),
        "models": (models, len(run.outputs.model_outputs) if run.outputs else 0),
    }


def _difference(one: Any, other: Any) -> str:
    if isinstance(one, dict):
        one, other = sorted(one.items()), sorted(other.items())
    if isinstance(one, list):
        return f"{[x for x in one if x not in other][:5]} / {[x for x in other if x not in one][:5]}"
    return f"{one} / {other}"


def _of_leavings(command: Command) -> Iterator[str]:
    for path in [*command.folder.rglob(".*.tmp"), *command.data.rglob(".*.tmp"), *command.storage.glob("vicreg-sweeps-*")]:
        yield f"left behind: {path}"


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.fault_injection.kill_sweeps", description="Kills sweeps at random instants."
    )
    parser.add_argument("--what", choices=("driver", "worker", "interrupt"), default="driver")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--grid", type=Path, help="a YAML file; default: a small grid of all kinds of trials")
    parser.add_argument("--folder", type=Path, help="where to work; an undisturbed sweep there is taken as it is")
    options = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # where it is ignored, the commands would ignore it, too
    folder = (options.folder or Path(tempfile.mkdtemp(prefix="kills-"))).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    grid = options.grid or folder / "kills.yaml"
    if options.grid is None:
        grid.write_text(yaml.safe_dump(GRID))
    whole = undisturbed(folder / "whole", grid, folder / "data")
    print(f"{folder}: undisturbed in {whole.seconds:.0f} s, {whole.startup:.1f} s until a worker begins", flush=True)
    draw = random.Random(options.seed)
    say = lambda line: print(line, flush=True)  # noqa: E731
    found = torn_sweeps(options.what, options.kills, draw, whole, folder / f"{options.what}-{options.seed}", say)
    print(f"{options.what}, seed {options.seed}, {options.kills} kills: {len(found)} faults", flush=True)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
