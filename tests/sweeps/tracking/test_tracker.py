"""The process that writes to MLflow: what it is told is written; without it the sweep goes on, and says what is lacking."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from sweeps.execution.worker import run_trial
from sweeps.storage.image_sets import Images
from sweeps.storage.trial_store import TrialStore
from sweeps.tracking.parent_run import SweepSummary
from sweeps.tracking.tracker import Tracker
from tests.sweeps.tiny import arm, record_of, runs, tiny_plan

SUMMARY = SweepSummary("FINISHED", {"trials_done": 1.0}, 7.0, ())


def writers(parent: int | None = None) -> list[psutil.Process]:
    """The processes below one, by default this one, that write to MLflow."""
    return [child for child in psutil.Process(parent).children(recursive=True) if "writer_process" in " ".join(child.cmdline())]


def wait_until(condition: object) -> None:
    until = time.monotonic() + 60
    while not condition() and time.monotonic() < until:  # type: ignore[operator]
        time.sleep(0.05)
    assert condition()  # type: ignore[operator]


def test_events_are_written_by_another_process_that_loads_no_torch(tmp_path: Path, images: Images) -> None:
    plan, uri, store = tiny_plan(tmp_path, {"z": {"mu": 0}}), f"sqlite:///{tmp_path / 'mlflow.db'}", TrialStore(tmp_path)
    base = arm(plan, "base")
    run_trial(base, images, tmp_path)
    record = record_of(store, base)
    assert record.training is not None
    tracker = Tracker(uri, plan, store, "a command")
    tracker.on_trial_start(base)
    for epoch in record.training.history:
        tracker.on_epoch_end(base, epoch)
    tracker.on_trial_end(record)
    tracker.tag_trial(base, {"selected": "yes"})
    tracker.correct_members(plan)
    wait_until(lambda: list((tmp_path / "artifacts").rglob("model.pt2")))
    (writer,) = writers()
    loaded = {Path(found.path).name.partition(".")[0] for found in writer.memory_maps()}
    tracker.close(SUMMARY)
    tracker.close(SUMMARY)
    assert tracker.problem is None and plan.sweep_id in tracker.view_address and not writers()
    assert "libtorch_cpu" not in loaded and "libsqlite3" in " ".join(loaded)
    parent, children = runs(uri)
    assert (parent.info.status, parent.data.tags["command"]) == ("FINISHED", "a command")
    tags, metrics = children["base"].data.tags, children["base"].data.metrics
    assert tags["selected"] == "yes" and metrics["train/loss"] == record.training.history[-1]["train/loss"]


def test_a_killed_process_is_told_of_and_the_next_command_writes_what_is_lacking(tmp_path: Path, images: Images) -> None:
    plan, uri, store = tiny_plan(tmp_path, {}), f"sqlite:///{tmp_path / 'mlflow.db'}", TrialStore(tmp_path)
    base, said = arm(plan, "base"), list[str]()
    run_trial(base, images, tmp_path)
    tracker = Tracker(uri, plan, store, "x", said.append)
    tracker.on_sweep_start()
    wait_until(writers)
    writers()[0].kill()
    wait_until(lambda: said)
    tracker.on_trial_end(record_of(store, base))
    tracker.close(SUMMARY)
    assert (
        tracker.problem == "the process that writes to it failed: it ended by SIGKILL" and "same command adds" in tracker.advice
    )
    assert said == [f"MLflow lacks part of the results from now on: {tracker.problem}"] and tracker.view_address == ""
    following = Tracker(uri, plan, store, "x", said.append)
    following.on_trial_end(record_of(store, base))
    following.close(SUMMARY)
    assert following.problem is None and runs(uri)[1]["base"].info.status == "FINISHED"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_that_the_command_handles_do_not_end_the_process(number: int, tmp_path: Path) -> None:
    plan, uri = tiny_plan(tmp_path, {}), f"sqlite:///{tmp_path / 'mlflow.db'}"
    tracker = Tracker(uri, plan, TrialStore(tmp_path), "x")
    tracker.on_sweep_start()
    wait_until(writers)
    for _ in range(20):  # from its start on
        writers()[0].send_signal(number)
        time.sleep(0.05)
    tracker.close(SUMMARY)
    assert tracker.problem is None and runs(uri)[0].info.status == "FINISHED"


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), 9)", "sys.exit()"])
def test_the_process_ends_with_a_command_that_ends_without_closing_it(end: str, tmp_path: Path) -> None:
    code = f"""
import os, sys, time
from pathlib import Path
from sweeps.storage.trial_store import TrialStore
from sweeps.tracking.tracker import Tracker
from tests.sweeps.tiny import tiny_plan
if __name__ == "__main__":
    storage = Path({str(tmp_path)!r})
    Tracker(f"sqlite:///{{storage / 'mlflow.db'}}", tiny_plan(storage, {{}}), TrialStore(storage), "x").on_sweep_start()
    print("started", flush=True)
    sys.stdin.readline()
    {end}
"""
    (tmp_path / "command.py").write_text(code)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(tmp_path / "command.py")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as driver:
        assert driver.stdin is not None and driver.stdout is not None and driver.stdout.readline() == "started\n"
        wait_until(lambda: writers(driver.pid))
        (writer,) = writers(driver.pid)
        driver.stdin.write("\n")
        driver.stdin.flush()
        assert driver.wait(30) in (0, -9)
        wait_until(lambda: not writer.is_running())


def test_a_process_that_dies_at_its_start_is_told_of_however_large_the_plan(tmp_path: Path) -> None:
    said: list[str] = []
    tracker = Tracker("", tiny_plan(tmp_path, {}), TrialStore(tmp_path), "x", said.append)
    tracker._settings = (*tracker._settings[:3], "x" * 10_000_000)  # more than a pipe holds
    tracker.on_sweep_start()
    wait_until(writers)
    writers()[0].kill()
    tracker.close(SUMMARY)
    assert "ended by SIGKILL" in str(tracker.problem) and len(said) == 1


@pytest.mark.parametrize("error", [OSError(12, "Cannot allocate memory"), RuntimeError("can't start new thread")])
def test_a_process_that_cannot_be_started_is_told_of(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    def fails(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("sweeps.tracking.tracker.Popen", fails)
    tracker = Tracker("", tiny_plan(tmp_path, {}), TrialStore(tmp_path), "x")
    tracker.on_sweep_start()
    tracker.close(SUMMARY)
    assert str(error.args[-1]) in str(tracker.problem) and tracker.advice
    never_started = Tracker("", tiny_plan(tmp_path, {}), TrialStore(tmp_path), "x")
    never_started.abandon()
    assert never_started.problem is None
