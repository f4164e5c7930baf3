"""Kills at random instants: ``python -m tests.fault_injection.kill_sweeps --what driver|worker|interrupt --kills 10 --seed 0``.

A sweep is run undisturbed, and again in a new storage with a signal at random instants of the command's life: SIGKILL to the
driver (then the same command again), SIGKILL to a worker that trains or draws (nothing is restarted by hand), or SIGINT to the
driver. A sweep that ends before its next kill is checked, and another begins, until all kills are spent. What is checked says
:mod:`tests.fault_injection.comparison`. Prints a line for each kill and a verdict; exit code 0 where nothing was found.
Faults of all kinds, at points of work: :mod:`tests.fault_injection.chaos`.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import yaml

from tests.conftest import TINY
from tests.fault_injection.comparison import differences, repeated_epochs
from tests.fault_injection.sweep_command import Command, Undisturbed, busy, finished_work, gone, living, undisturbed

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
_DEATHS = 3  # of one trial's workers, after which the next would end it (sweeps.execution.tune_backend.MAX_DEATHS)
_MISSES = 3  # sweeps in a row that ended before any kill, after which the kills are held to miss


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
    ending = ""
    if draw.random() < 0.5:  # else the next command comes at once
        seconds = gone(family)
        ending = "" if seconds is None else f"; its {len(family)} processes gone in {seconds:.2f} s"
        if seconds is None:
            torn.note(f"processes live on: {living(family)}")
    torn.say(f"kill {torn.kills} after {after:5.1f} s: {doing}{ending}")
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
    if gone(family) is None:
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
            _check(whole, torn)
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
    _check(whole, torn)
    return torn.errors


def _check(whole: Undisturbed, torn: Torn) -> None:
    """Holds a sweep that came to its end against the undisturbed one."""
    if torn.command.process.returncode == 0:
        torn.remember()
        for fault in differences(whole.command, torn.command, torn.kills):
            torn.note(fault)
        torn.say(f"  {repeated_epochs(torn.command)} epochs trained again")


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
