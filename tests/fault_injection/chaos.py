"""Faults by number: ``python -m tests.fault_injection.chaos --seed 0 --from 40 --count 20 --table faults.csv``.

Each number is one fault (:mod:`tests.fault_injection.faults`), the same at the same point of the work whenever it is asked for.
It is done to a sweep of two arms and one epoch; then the same command is given again until it is done, three times at most.
Afterwards the results must equal an undisturbed sweep's to the bit, MLflow must hold one run for each trial and one for the
sweep, and neither half-written files nor processes, sockets or shared memory may be left. A row for each fault goes to the
table. Several ranges may run at once; those with one ``--folder`` share the undisturbed sweep. Exit code 0: nothing was wrong.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

from core.locks import file_lock
from tests.conftest import ROOT
from tests.fault_injection import comparison, faults
from tests.fault_injection.faults import KINDS, Fault
from tests.fault_injection.leftovers import MARK, left_behind, marked, shared_memory
from tests.fault_injection.reference import LIMIT, TRIES, Reference, reference, too_busy
from tests.fault_injection.sweep_command import Command, finished_work
from tests.servers import free_port, mlflow_server

_AGAIN = 3  # times that the command may be given again
#: Kinds after which finished files are made again.
_DAMAGING = ("flip", "truncate")
_SIGNALLED = {"SIGINT": 130, "SIGTERM": 143, "SIGHUP": 129}


@dataclass
class Row:
    """What is written of a fault."""

    number: int
    seed: int
    fault: str
    where: str
    said: str = ""
    seconds: float = 0.0
    verdict: str = "ok"
    wrong: str = ""


@dataclass
class Disturbed:
    """A sweep with a fault, and what was wrong with it."""

    fault: Fault
    whole: Reference
    folder: Path
    wrong: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    tracking: str | None = None

    def command(self, name: str = "") -> Command:
        """A new command of this sweep; all of them write to one storage, each with a log of its own."""
        gate = self.folder / "gate"
        gate.mkdir(exist_ok=True)
        temporary = self.folder / "t"
        temporary.mkdir(exist_ok=True)
        storage = self.folder / "results"
        environment = {
            MARK: self.folder.name, "CHAOS_STORAGE": str(storage), "CHAOS_POINT": self.fault.point, "CHAOS_GATE": str(gate),
            "CHAOS_DISK": str(self.folder / "disk"), "TMPDIR": str(temporary),
        }  # fmt: skip
        arguments = () if self.tracking is None else ("--tracking-uri", self.tracking)
        command = Command(self.folder, self.whole.folder / "chaos.yaml", self.folder / "data", arguments, environment)
        command.log_name = f"log-{name or len(self.said)}"
        return command

    def at_the_point(self, command: Command) -> int | None:
        """Waits until a process came to the fault's point; its id, or None where the command ended before."""
        until = time.monotonic() + LIMIT
        reached = self.folder / "gate" / "reached"
        while time.monotonic() < until:
            with suppress(OSError, ValueError):
                return int(reached.read_text())
            if command.process.poll() is not None:
                return None
            time.sleep(0.02)
        raise TimeoutError("the command came neither to the point nor to its end")

    def go(self) -> None:
        """Lets the process at the point go on."""
        (self.folder / "gate" / "go").touch()

    def ended(self, command: Command, expected: tuple[int, ...]) -> int:
        """Waits for a command's end, and notes what it said."""
        code = command.end(LIMIT)
        text = command.log.read_text(errors="replace")
        lines = [line for line in text.splitlines() if line.strip()]
        self.said.append(f"{code}: {lines[-1].strip()[:160] if lines else '-'}")
        if code not in expected:
            self.wrong.append(f"exit code {code}, not {' or '.join(map(str, expected))}")
        if "Traceback (most recent call last)" in text:
            self.wrong.append(f"a traceback, {[line for line in lines if not line.startswith(' ')][-1][:160]}")
        if code in _SIGNALLED.values() and "continue with: " not in text:
            self.wrong.append("no command to continue with")
        return code

    def finish(self, *, done: bool) -> None:
        """Gives the command again until it is done."""
        for _ in range(0 if done else _AGAIN):
            command = self.command()
            command.environment = {name: v for name, v in command.environment.items() if name != "CHAOS_POINT"}
            command.start()
            if command.end(LIMIT) and too_busy(command):
                continue
            if self.ended(command, (0, 1)) == 0:
                return
        if not done:
            self.wrong.append(f"not done after {_AGAIN} more commands")


def _disturb(sweep: Disturbed, stack: ExitStack) -> None:
    """Does the fault at its point, brings the sweep to its end, and checks it."""
    kind = sweep.fault.kind
    small = faults.SmallDisk(sweep.folder / "results") if kind == "disk full for good" else None
    if small is not None:
        stack.callback(small.unmount)
        sweep.said.append("a small file system" if small.mounted else "a layer, for mounting is not permitted")
    server = stack.enter_context(ExitStack())
    port = free_port()
    if kind == "kill MLflow server":
        sweep.tracking = server.enter_context(mlflow_server(sweep.folder, port))
    stack.callback(lambda: [process.kill() for process in marked(sweep.folder.name)])
    command, pid = _begin(sweep)
    before = finished_work(command.storage)
    if pid is None:
        sweep.wrong.append("the command ended before the point")
        code = sweep.ended(command, (0,))
    elif kind.startswith("two drivers"):
        code = _with_another(sweep, command)
    else:
        if kind == "kill MLflow server":
            server.close()
        elif small is not None and small.mounted:
            small.fill()
        expected = _ACTIONS[kind](sweep, command, pid)
        sweep.go()
        code = sweep.ended(command, expected)
    (sweep.folder / "disk").unlink(missing_ok=True)
    if small is not None:
        small.free()
    if kind == "kill MLflow server":
        sweep.tracking = server.enter_context(mlflow_server(sweep.folder, port))
    if "half-finished" in kind:
        sweep.said.append(f"damaged: {faults.damage(sweep.fault, command.storage)}")
    sweep.finish(done=code == 0)
    if not kind.startswith(_DAMAGING):
        after = finished_work(command.storage)
        sweep.wrong += [f"{name} was finished, and is written again" for name in before if after.get(name) != before[name]]
    _check(sweep, command)


def _begin(sweep: Disturbed) -> tuple[Command, int | None]:
    """Starts the command, and waits for the fault's point; returns the process there, or None where the command ended."""
    for _ in range(TRIES):
        command = sweep.command()
        command.start()
        pid = sweep.at_the_point(command)
        if pid is not None or not too_busy(command):
            break
    return command, pid


# Each does its fault to a command whose process ``pid`` waits at the point, and returns the exit codes that are right.


def _kill_driver(sweep: Disturbed, command: Command, pid: int) -> tuple[int, ...]:
    command.process.kill()
    return (-signal.SIGKILL,)


def _kill_worker(sweep: Disturbed, command: Command, pid: int) -> tuple[int, ...]:
    os.kill(pid, signal.SIGKILL)
    return (0,)


def _kill_of_ray(sweep: Disturbed, command: Command, pid: int) -> tuple[int, ...]:
    if missed := faults.kill(faults.processes_named(command, faults.OF_RAY[sweep.fault.kind])):
        sweep.wrong.append(missed)
    return (0, 1)


def _stop(sweep: Disturbed, command: Command, pid: int) -> tuple[int, ...]:
    faults.stop_and_continue(pid if sweep.fault.kind == "stop worker" else command.process.pid, sweep.go)
    return (0,)


def _signal(sweep: Disturbed, command: Command, pid: int) -> tuple[int, ...]:
    faults.send(command, sweep.fault)
    return (_SIGNALLED[sweep.fault.kind.split()[0]], 0)  # 0: it was too late to end anything


def _fail_disk(sweep: Disturbed, command: Command, pid: int) -> tuple[int, ...]:
    errors = {"disk full": "ENOSPC", "disk full for good": "ENOSPC", "disk read-only": "EROFS", "EIO once": "EIO once"}
    if "a small file system" not in sweep.said:
        (sweep.folder / "disk").write_text(errors[sweep.fault.kind])
    return (0, 1, 2)


def _nothing_more(sweep: Disturbed, command: Command, pid: int) -> tuple[int, ...]:
    return (0, 1, 2)  # 2: the server was gone when the command was checked


_ACTIONS = {
    "kill driver": _kill_driver,
    "flip half-finished": _kill_driver,
    "truncate half-finished": _kill_driver,
    "kill worker": _kill_worker,
    "kill raylet": _kill_of_ray,
    "kill GCS": _kill_of_ray,
    "stop worker": _stop,
    "stop driver": _stop,
    "SIGTERM driver": _signal,
    "SIGINT driver": _signal,
    "SIGHUP driver": _signal,
    "disk full": _fail_disk,
    "disk full for good": _fail_disk,
    "disk read-only": _fail_disk,
    "EIO once": _fail_disk,
    "kill MLflow server": _nothing_more,
}


def _with_another(sweep: Disturbed, command: Command) -> int:
    """A second driver begins at the point, and perhaps the first is killed while both work; 0 where all is done."""
    other = sweep.command("other")
    other.environment = {name: v for name, v in other.environment.items() if name != "CHAOS_POINT"}
    other.start()
    sweep.go()
    expected: tuple[int, ...] = (0,)
    if sweep.fault.kind == "two drivers, one killed":
        _wait_for_work(other, command)
        command.process.kill()
        expected = (-signal.SIGKILL, 0)
    code = sweep.ended(command, expected)
    return sweep.ended(other, (0,)) or (code if code > 0 else 0)


def _wait_for_work(other: Command, first: Command) -> None:
    """Until the second of two drivers has connected to Ray, or the first is over."""
    while first.process.poll() is None and other.process.poll() is None:
        if any(e.get("name") == "put_images" and e["pid"] == other.process.pid for e in other.events()):
            return
        time.sleep(0.05)


def _damage_finished(sweep: Disturbed) -> None:
    """Damages the finished storage at its own place, for MLflow knows that; one at a time."""
    whole = sweep.whole
    with file_lock(whole.folder / "lock"):
        storage = whole.command.storage
        shutil.rmtree(storage)
        shutil.copytree(whole.kept, storage)
        try:
            sweep.said.append(f"damaged: {faults.damage(sweep.fault, storage)}")
            for _ in range(_AGAIN):
                command = whole.command
                command.log_name = sweep.folder / f"log-{len(sweep.said)}"
                command.environment = {MARK: sweep.folder.name, "CHAOS_AUDIT": str(sweep.folder / "audit.jsonl")}
                command.start()
                if command.end(LIMIT) and too_busy(command):
                    continue
                if sweep.ended(command, (0, 1)) == 0:
                    break
            sweep.wrong += _wrong_after_check(sweep, storage)
            _check(sweep, command)
        finally:
            shutil.rmtree(storage)
            shutil.copytree(whole.kept, storage)


def _wrong_after_check(sweep: Disturbed, storage: Path) -> list[str]:
    """What ``--check`` should have said: a file that no command of a finished sweep reads is damaged until then."""
    line = [sys.executable, str(ROOT / "sweeps" / "run.py"), "--check", "--storage", str(storage)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    first, second = (subprocess.run(line, env=environment, capture_output=True, text=True, timeout=LIMIT) for _ in range(2))
    wrong = [] if second.returncode == 0 else [f"--check is not content: {second.stdout}{second.stderr}"]
    if comparison.is_read_by_other_trials_alone(storage / sweep.fault.target):
        sweep.said.append(f"--check: {first.returncode}")
        if first.returncode != 1 or sweep.fault.target not in first.stdout:
            wrong.append(f"--check does not name the file: {first.stdout}{first.stderr}")
    return wrong


def _check(sweep: Disturbed, command: Command) -> None:
    """Holds the storage and MLflow against the undisturbed ones."""
    kept = sweep.whole.kept
    sweep.wrong += comparison.of_results(kept, command.storage)
    uri = sweep.tracking or comparison.database_uri(command.storage)
    sweep.wrong += comparison.of_tracking(comparison.database_uri(kept), uri)
    sweep.wrong += comparison.of_leavings(command)
    if sweep.fault.kind != "two drivers, one killed":  # there the next command would remove the dead one's
        sweep.wrong += [f"left in the temporary folder: {path.name}" for path in (sweep.folder / "t").glob("vr-*")]
    names = [{_plain(path, root) for path in root.rglob("*") if path.is_file()} for root in (kept, command.storage)]
    unknown = {name for name in names[1] - names[0] if not name.startswith("trials/") and "damaged" not in Path(name).parts}
    unknown -= {"mlflow.lock"}  # takes the place of mlflow.db.lock where a server is told
    sweep.wrong += [f"{name} is unknown" for name in sorted(unknown)]


def _plain(path: Path, root: Path) -> str:
    name = str(path.relative_to(root))
    return "artifacts" if name.startswith("artifacts/") else name


def run_fault(seed: int, number: int, whole: Reference) -> Row:
    """Does one fault; returns its row."""
    fault = faults.draw_fault(seed, number, whole.points, whole.files)
    row = Row(number, seed, fault.kind, fault.where)
    began, shared = time.monotonic(), shared_memory()
    with ExitStack() as stack:
        # A short path: Ray's sockets lie below it.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="c-", dir="/tmp", ignore_cleanup_errors=True)))
        sweep = Disturbed(fault, whole, folder)
        try:
            if fault.point:
                shutil.copytree(whole.folder / "data", folder / "data")
                _disturb(sweep, stack)
            else:
                _damage_finished(sweep)
        except TimeoutError as error:
            sweep.wrong.append(f"hangs: {error}")
        else:
            left = left_behind(folder.name, shared)
            # MLflow's server (3.17), which is killed, has a folder in the shared memory.
            of_server = "/dev/shm/tmp" if fault.kind == "kill MLflow server" else "no name"
            sweep.wrong += [line for line in left if not line.startswith(of_server)]
        if sweep.wrong and (keep := os.environ.get("CHAOS_KEEP")):
            Path(keep).mkdir(parents=True, exist_ok=True)
            for log in folder.glob("log-*"):
                shutil.copy(log, Path(keep) / f"{seed}-{number}-{log.name}")
    row.said, row.wrong = " | ".join(sweep.said), "; ".join(sweep.wrong)
    row.seconds, row.verdict = round(time.monotonic() - began, 1), "WRONG" if sweep.wrong else "ok"
    return row


def append(table: Path, row: Row) -> None:
    """Adds a row to the table; several processes may."""
    with file_lock(table.with_name(f".{table.name}.lock")), table.open("a", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(asdict(row)))
        if file.tell() == 0:
            writer.writeheader()
        writer.writerow(asdict(row))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fault_injection.chaos", description="Faults by number.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--from", dest="first", type=int, default=0, help="the first fault's number")
    parser.add_argument("--count", type=int, default=len(KINDS), help="how many")
    parser.add_argument("--only", help="only faults whose kind contains this text")
    parser.add_argument("--table", type=Path, default=Path("faults.csv"), help="CSV file that gets a row for each fault")
    parser.add_argument("--folder", type=Path, help="where the undisturbed sweep is, or is made to be used again")
    options = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # where it is ignored, the commands would ignore it, too
    say = partial(print, flush=True)
    wrong = 0
    with reference(options.folder) as whole:
        made = json.loads((whole.folder / "made.json").read_text())
        say(
            f"seed {options.seed}; undisturbed in {made['seconds']:.0f} s, {len(whole.points)} points, {len(whole.files)} files"
        )
        for number in range(options.first, options.first + options.count):
            if options.only and options.only not in KINDS[number % len(KINDS)]:
                continue
            row = run_fault(options.seed, number, whole)
            append(options.table, row)
            say(f"{row.number:4} {row.verdict:5} {row.seconds:5.0f} s  {row.fault}, {row.where}: {row.said}"
                + (f"\n       {row.wrong}" if row.wrong else ""))  # fmt: skip
            wrong += row.verdict != "ok"
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
