"""Looks at verdicts: which are first ones at the planned number of seeds, and what a command shows, tests and writes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from evaluation.evaluate import metric_ids
from sweeps import finish, run
from sweeps.command_line import parse
from sweeps.storage.checked_folder import CheckedFolder
from sweeps.storage.looks import LOOKS, Looks, read_looks, write_looks
from sweeps.storage.records import MetricResult, TrainingRecord
from sweeps.sweep_config import SweepConfig, check
from sweeps.tracking.tracker import Tracker
from tests.conftest import TINY
from tests.sweeps import tiny


def test_a_first_look_is_one_at_the_planned_number_of_seeds() -> None:
    planned = Looks().with_plan({"base": 5, "z": 5})
    assert planned.is_planned({"base": 5, "z": 5}) and not planned.is_planned({"base": 5, "z": 3}), "stopped early"
    looked = planned.with_look({"base": 5, "z": 5})
    assert looked.is_planned({"base": 5, "z": 5}) and looked.with_look({"base": 5, "z": 5}) == looked, "the same again"
    more = looked.with_plan({"base": 8, "z": 8, "new": 8})
    assert more.planned == {"base": 5, "z": 5, "new": 8}, "a plan made after a verdict changes nothing"
    assert not more.is_planned({"base": 8, "z": 8}) and more.is_planned({"new": 8})
    second = more.with_look({"base": 8, "z": 8})
    assert second.count == 2 and not second.is_planned({"base": 5, "z": 5}), "from then on no look is the first"
    assert Looks().with_plan({"z": 3}).with_plan({"z": 5}).is_planned({"z": 5}), "planned anew before any verdict"
    assert Looks().is_planned({"z": 4}) and Looks().count == 0


def test_looks_are_kept_and_a_lost_record_counts_as_looked_at(tmp_path: Path) -> None:
    files, looks = CheckedFolder(tmp_path), Looks({"z": 3}, {"z": (3, 5)})
    assert read_looks(files) == Looks()
    write_looks(files, Looks())
    assert not (tmp_path / LOOKS).exists()
    write_looks(files, looks)
    assert read_looks(CheckedFolder(tmp_path)) == looks
    (tmp_path / LOOKS).write_text("{}")
    lost = read_looks(CheckedFolder(tmp_path))
    assert lost.lost and not lost.is_planned({"z": 3})
    (tmp_path / LOOKS).unlink()
    write_looks(CheckedFolder(tmp_path), read_looks(CheckedFolder(tmp_path)).with_look({"z": 5}))
    assert read_looks(CheckedFolder(tmp_path)).lost, "for good"


def command(storage: Path, seeds: int, *more: str) -> list[str]:
    arms, claims = {"z": {"mu": 0}, "n": {"mu": 1}}, ["probe_accuracy: base > z"]
    grid = storage.parent / "tiny.yaml"
    grid.write_text(yaml.safe_dump({"question": "which?", "base": dict(TINY), "arms": arms, "claims": claims}))
    places = {"--grid": grid, "--storage": storage, "--data": storage.parent / "data"}
    return [*(str(text) for pair in places.items() for text in pair), "--profile", "digits-m", "--seeds", str(seeds), *more]


def bring_to_an_end(config: SweepConfig, seeds: int) -> None:
    """Put results of a known truth into the store."""
    for trial in config.plan.trials.values():
        if trial.config.seed < seeds:
            draw = np.random.default_rng([trial.config.seed, ord(trial.arm[0])])
            tiny.finish(config.snapshot.store, trial)
            history = ({"epoch": 1.0, "seconds": 1.0, "images_per_second": 50.0},)
            training = TrainingRecord(history, {"label_purity": 0.5, "distinct_partners": 7}, 1.0, 1, "CPU, x", 1, {}, 0.0)
            config.snapshot.store.save_training(trial.key, training)
            value = MetricResult(float({"base": 0.5, "z": 0.3, "n": 0.5}[trial.arm] + draw.normal(0, 0.01)), None, 1.0)
            config.snapshot.store.save_results(trial.key, {metric_ids(trial.anomalies)["probe_accuracy"]: value})


@pytest.fixture
def shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> object:
    """Runs ``--report-only`` with so many seeds, of which so many are done; returns output, report and looks."""
    storage = tmp_path / "results"
    monkeypatch.setattr(Tracker, "_run_process", lambda _: None)  # MLflow is another matter

    def show(seeds: int, done: int) -> tuple[str, str, Looks]:
        (storage / "trials").mkdir(parents=True, exist_ok=True)
        config = check(parse(command(storage, seeds)))
        bring_to_an_end(config, done)
        run.main(command(storage, seeds, "--report-only"))
        page = (config.sweep_folder / "report.html").read_text()
        return capsys.readouterr().out, page, read_looks(CheckedFolder(config.sweep_folder))

    return show


def test_a_command_shows_no_verdict_before_its_plan_is_done_and_tests_later_looks_as_such(
    tmp_path: Path, shown: object
) -> None:  # fmt: skip
    assert callable(shown)
    config = check(parse(command(tmp_path / "results", 3)))
    finish.LookPlanner(config).on_sweep_start()
    assert json.loads((config.sweep_folder / LOOKS).read_text())["planned"] == {"base": 3, "z": 3, "n": 3}
    said, page, looks = shown(3, 2)
    assert "provisional" in said and "nothing is tested yet" in said and not looks.shown
    assert "verdict: " not in page and ">provisional<" in page and "chosen before looking" not in page
    said, page, looks = shown(3, 3)
    assert "provisional" not in said and "looking again" not in said and looks.shown == {"base": (3,), "z": (3,), "n": (3,)}
    assert ">lower<" in page and "chosen before looking" in page and "looked at once" in page
    said, page, looks = shown(5, 5)
    assert "Verdicts were shown 2 times, at 3, 5 seeds" in said and "Wang &amp; Ramdas" in page and looks.count == 2
    assert "looked at 2 times" in page
    said, _, again = shown(5, 5)
    assert again == looks and "looking again" in said, "the same once more is no further look, and is tested as before"
