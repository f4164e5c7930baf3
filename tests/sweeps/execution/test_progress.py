"""What progress prints."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from sweeps.execution.progress import Progress
from sweeps.storage.trial_store import TrialStore
from tests.sweeps.tiny import arm, finish, record_of, tiny_plan


def test_progress_tells_what_ended_and_the_time_left(tmp_path: Path) -> None:
    plan, store = tiny_plan(tmp_path, {"z": {"mu": 0}}), TrialStore(tmp_path)
    console = Console(record=True, width=120, force_terminal=False, file=(tmp_path / "log").open("w"))
    seconds = dict.fromkeys(plan.trials, 100.0)
    progress = Progress(plan, seconds, 1, console)
    progress.on_trial_start(arm(plan, "base"))
    progress.on_epoch_end(arm(plan, "base"), {"epoch": 1})
    assert "0 of 2 done, 1 running, 1 waiting" in progress._status() and "base · seed 0 1/2" in progress._status()
    assert "3 min 20 s left" in progress._status()
    finish(store, arm(plan, "base"))
    progress.on_trial_end(record_of(store, arm(plan, "base")))
    store.save_failure(arm(plan, "z").key, "it broke")
    progress.on_trial_end(record_of(store, arm(plan, "z")))
    assert "1 of 2 done, 0 running, 0 waiting, 1 failed" in progress._status()
    text = console.export_text()
    assert "done  base · seed 0  probe_accuracy 0.5000" in text and "failed  z · seed 0  it broke" in text
