"""The store is read once: by a snapshot, and by a whole command that has nothing to do."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from sweeps.execution.options import ExecutionOptions
from sweeps.execution.runner import SweepRunner
from sweeps.finish import reasons
from sweeps.storage.records import TrainingRecord
from sweeps.storage.snapshot import StoreSnapshot
from sweeps.storage.trial_store import TrialStore
from tests.conftest import ROOT
from tests.sweeps.tiny import BASE, arm, finish, tiny_plan

#: Counts how often each file of a trial is opened by ``sweeps/run.py``.
_COUNTING = """
import json, sys
opened = []
sys.addaudithook(lambda event, a: opened.append(str(a[0])) if event == "open" and a[1] in ("r", "rb") else None)
from sweeps.run import main
code = main({arguments!r})
json.dump([code, [path for path in opened if "/trials/" in path]], open({out!r}, "w"))
"""


def test_a_snapshot_keeps_what_it_read_until_it_is_told_to_forget(tmp_path: Path) -> None:
    plan, store = tiny_plan(tmp_path, {"z": {"mu": 0}}), TrialStore(tmp_path)
    snapshot, base = StoreSnapshot(store), arm(plan, "base")
    assert not snapshot.is_done(base)
    finish(store, base)
    assert not snapshot.is_done(base) and store.read(base.key).is_done(base)
    snapshot.clear()
    assert snapshot.is_done(base) and snapshot.record(base).status == "done"


def test_after_a_run_what_another_driver_finished_meanwhile_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, snapshot = tiny_plan(tmp_path, {"z": {"mu": 0}}), StoreSnapshot(TrialStore(tmp_path))
    trial = arm(plan, "z")

    def meanwhile(*_: object, **__: object) -> None:
        assert not snapshot.is_done(trial)
        finish(snapshot.store, trial)  # by another driver

    monkeypatch.setattr(SweepRunner, "_run", meanwhile)
    runner = SweepRunner(ExecutionOptions(tmp_path, tmp_path, None, 0.0, False), snapshot, [], Console())
    runner.run(replace(plan, requested=frozenset([arm(plan, "base").key])))
    assert snapshot.record(trial).status == "done"


def test_why_a_trial_is_open_again_is_said(tmp_path: Path) -> None:
    plan, store = tiny_plan(tmp_path, {"n": {"pairing": "neighbors"}}), TrialStore(tmp_path)
    for trial in plan.trials.values():
        finish(store, trial)
    child, training = arm(plan, "n"), store.read(arm(plan, "n").key).training
    assert training is not None
    store.save_training(child.key, replace(training, parent_encoder="of another encoder"))
    records = [StoreSnapshot(store).record(trial) for trial in plan.trials.values()]
    (line,) = reasons(records)
    assert line.startswith(f"open {child.title}: it was trained with another encoder of its parent")


def test_a_damaged_record_of_a_training_is_no_training(tmp_path: Path) -> None:
    plan, store = tiny_plan(tmp_path, {"z": {"mu": 0}}), TrialStore(tmp_path)
    finish(store, arm(plan, "base"))
    (store.folder(arm(plan, "base").key) / "trained.json").write_text("{")
    assert not store.read(arm(plan, "base").key).is_trained


def test_a_command_that_has_nothing_to_do_reads_each_file_of_a_trial_once(tmp_path: Path) -> None:
    grid = tmp_path / "tiny.yaml"
    arms = {"p": {"representation_dim": 4}, "raw": {"method": "raw-pixels"}}
    grid.write_text(yaml.safe_dump({"question": "?", "base": BASE | {"method": "pca"}, "arms": arms}))
    arguments = ["--grid", str(grid), "--profile", "digits-m", "--storage", str(tmp_path / "results"), "--data", str(tmp_path)]

    def command(*flags: str) -> list[str]:
        out = tmp_path / "opened.json"
        code = _COUNTING.format(arguments=[*arguments, *flags], out=str(out))
        done = subprocess.run([sys.executable, "-c", code], timeout=280, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        exit_code, opened = yaml.safe_load(out.read_text())
        assert exit_code == 0
        return list(opened)

    from sweeps.command_line import parse
    from sweeps.sweep_config import check

    plan, store = check(parse(arguments)).plan, TrialStore(tmp_path / "results")
    for trial in plan.trials.values():
        finish(store, trial)
        store.save_training(trial.key, TrainingRecord((), None, 1.0, 0, "CPU, x", 1, {}, 0.0))
        results = {id_: store.make(trial.key, id_, lambda: None) for id_ in trial.figure_ids.values()}
        store.save_results(trial.key, results)
    assert max(Counter(command("--dry-run")).values()) == 1
    command()
    opened = Counter(command())
    assert len(opened) >= 2 * len(plan.trials) and max(opened.values()) == 1, opened.most_common(5)
