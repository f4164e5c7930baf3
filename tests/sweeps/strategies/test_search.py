"""The search: its space, its memory, what it may look at; and a whole one that is killed half-way."""

from __future__ import annotations

import csv
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from mlflow import MlflowClient
from pydantic import ValidationError

from core.errors import InputError
from evaluation.evaluate import METRICS, metric_ids
from sweeps.command_line import parse
from sweeps.execution.options import Rungs
from sweeps.execution.trial_queue import TrialQueue
from sweeps.execution.worker import run_trial
from sweeps.planning.grid_file import load_grid
from sweeps.planning.search_space import Range, SearchSpec, objective_directions
from sweeps.planning.trial import Plan
from sweeps.storage.image_sets import Images
from sweeps.storage.records import TrialRecord
from sweeps.storage.trial_store import TrialStore
from sweeps.strategies.optuna_study import Study, rung_epochs
from sweeps.sweep_config import check
from tests.conftest import ROOT, image_folder, tiny_config
from tests.sweeps.tiny import BASE, arm, children, finish, is_done, record_of, tiny_plan

SPACE: dict[str, Any] = {
    "mu/lambda": {"low": 0.02, "high": 20.0, "log": True, "zero": True},
    "learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
    "pairing": ["augment", "neighbors"],
    "neighbors_k": {"low": 1, "high": 8, "log": True},
}
SEARCH = SearchSpec(space=SPACE, trials=12)


# -- the space -----------------------------------------------------------------------------------------------------------


def test_what_lies_below_a_range_is_zero() -> None:
    weight = Range(low=0.02, high=20.0, log=True, zero=True)
    assert weight.decode(weight.bottom) == 0 and weight.decode(0.0199) == 0 and weight.decode(0.02) == 0.02
    assert weight.encode(0) == weight.bottom and weight.encode(30) is None and weight.encode(0.5) == 0.5
    assert np.log(weight.low / weight.bottom) == pytest.approx(0.15 * np.log(20 / 0.02)), "a fixed share stands for zero"
    assert weight.decode(1.234567) == 1.235, "four digits, so that keys can be shared"
    assert Range(low=1, high=8).decode(3) == 3 and isinstance(Range(low=1, high=8).decode(3), int)


def test_a_point_becomes_config_fields_and_back() -> None:
    base = tiny_config(**{"lambda": 10, "mu": 5, "learning_rate": 1e-3})
    point = {"mu/lambda": 0.3, "learning_rate": 0.005, "pairing": "neighbors", "neighbors_k": 2}
    assert SEARCH.fields(point, base) == {"mu": 3.0, "learning_rate": 0.005, "pairing": "neighbors", "neighbors_k": 2}
    assert SEARCH.point_of(base) == {"mu/lambda": 0.5, "learning_rate": 1e-3, "pairing": "augment", "neighbors_k": 3}
    assert SEARCH.point_of(base.replace(pairing="random")) is None, "base lies outside of the space"
    nested = SearchSpec(space={"augmentation.grey": {"low": 0.0, "high": 1.0}, "pairing": ["augment", "class"]})
    assert nested.fields({"augmentation.grey": 0.25}, base) == {"augmentation": {"grey": 0.25}}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"objectives": ["silhouette"]}, "rewards collapse"),
        ({"objectives": ["probe_accuracy"]}, "cannot be searched for"),
        ({"objectives": ["validation_probe_accuracy", "validation_anomaly_auc"], "early_stopping": True}, "one objective"),
        ({"objectives": []}, "at least one"),
        ({"space": {"mue": [1, 2]}}, "did you mean 'mu'"),
        ({"space": {"mu": [1]}}, "two choices"),
        ({"space": {"mu/lambda": [1, 2], "lambda": [1, 2]}}, "a lambda that stays"),
        ({"space": {"mu": {"low": 0, "high": 1, "log": True}}}, "logarithm"),
        ({"space": {"mu": {"low": 2, "high": 1}}}, "no range"),
        ({"space": {"epochs": [1, 2]}, "early_stopping": True}, "same epoch"),
        ({"trials": 0}, "greater than or equal to 1"),
    ],
)
def test_a_wrong_search_says_what_is_wrong(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        SearchSpec.model_validate({"space": SPACE} | changes)


def test_a_ratios_choices_may_have_an_exponent() -> None:
    assert SearchSpec(space={"mu/lambda": ["1e-1", 1]}).space["mu/lambda"] == [0.1, 1]


def test_a_grid_needs_arms_or_a_search(tmp_path: Path) -> None:
    path = tmp_path / "none.yaml"
    path.write_text("question: what?")
    with pytest.raises(InputError, match="at least one is needed, or a search"):
        load_grid(str(path))
    assert load_grid("search").search is not None


def test_no_objective_of_a_search_is_measured_on_test_images() -> None:
    assert {"validation_probe_accuracy", "validation_anomaly_auc"} <= set(objective_directions())
    assert set(metric_ids({"near": "x"}, validation_only=True)) == {
        name for name, metric in METRICS.items() if metric.usable_for_selection
    }
    assert not {name for name in objective_directions() if name.startswith(("probe", "anomaly", "knn"))}


# -- the study -----------------------------------------------------------------------------------------------------------


def test_a_study_is_continued_and_forgets_nothing(tmp_path: Path) -> None:
    path = tmp_path / "study.journal"
    study = Study(path, SEARCH, 0)
    study.begin_with({"mu/lambda": 1.0, "learning_rate": 1e-3, "pairing": "augment", "neighbors_k": 3})
    first = study.ask()
    assert first.params["mu/lambda"] == 1.0 and first.number == 0, "base comes first"
    study.tell(0, [0.5], 0.0)
    study.tell(study.ask().number, [0.9], 0.1, "collapsed")
    study.fail(study.ask().number, "it broke")
    study.stop(study.ask().number, "too slow")
    half_way = study.ask()
    del study  # its driver was killed here

    later = Study(path, SEARCH, 0)
    assert [(p.state, p.values, p.reason) for p in later.points] == [
        ("done", (0.5,), ""), ("infeasible", (0.9,), "collapsed"), ("failed", (), "it broke"), ("stopped", (), "too slow"),
        ("running", (), ""),
    ]  # fmt: skip
    assert [p.params for p in later.unfinished()] == [half_way.params]
    later.tell(half_way.number, [0.7], 0.0)
    later.tell(half_way.number, [0.1], 0.0)
    assert later.points[-1].values == (0.7,), "what ended is not changed"
    fresh = [later.ask().params for _ in range(3)]
    assert all(params != point.params for params in fresh for point in later.points[:5]), "nothing is drawn over again"


def test_a_line_that_was_not_written_to_its_end_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "study.journal"
    study = Study(path, SEARCH, 0)
    study.tell(study.ask().number, [0.5], 0.0)
    with path.open("ab") as file:
        file.write(b'{"op_code":4,"worker')
    later = Study(path, SEARCH, 0)
    later.tell(later.ask().number, [0.6], 0.0)
    assert [p.values for p in Study(path, SEARCH, 0).points] == [(0.5,), (0.6,)]


def test_a_journal_that_is_broken_in_the_middle_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "study.journal"
    Study(path, SEARCH, 0).ask()
    lines = path.read_bytes().splitlines(keepends=True)
    for broken in (lines[1][:5] + b"\n", b"\xff\n"):
        path.write_bytes(b"".join([lines[0], broken, *lines[2:]]))
        with pytest.raises(
            InputError, match=f"{path}: line 2 of the search's journal is no JSON.* Restore it, or move it away"
        ):
            Study(path, SEARCH, 0)
        assert path.read_bytes() == b"".join([lines[0], broken, *lines[2:]])


def test_a_point_that_a_killed_driver_drew_in_part_is_drawn_to_its_end(tmp_path: Path) -> None:
    study = Study(tmp_path / "study.journal", SEARCH, 0)
    first = {"mu/lambda": 1.0, "learning_rate": 1e-3, "pairing": "augment", "neighbors_k": 3}
    study.begin_with(first)
    study._study.ask()  # of base no value
    drawn = study._study.ask().suggest_float("mu/lambda", SEARCH.space["mu/lambda"].bottom, 20.0, log=True)
    later = Study(tmp_path / "study.journal", SEARCH, 0)
    base, second = later.unfinished()
    assert base.params == first
    assert second.params["mu/lambda"] == drawn and set(second.params) == set(SPACE)
    assert [point.state for point in later.points] == ["running", "running"]
    assert later.unfinished() == [base, second], "it is drawn once"


def test_a_point_that_was_given_up_half_drawn_is_no_failure(tmp_path: Path) -> None:
    study = Study(tmp_path / "study.journal", SEARCH, 0)
    study.fail(study._study.ask().number, "its driver ended before all of its values were drawn")  # as earlier versions did
    assert study.points == [] and study.ask().number == 1


def test_the_front_is_what_nothing_dominates(tmp_path: Path) -> None:
    names = ("validation_probe_accuracy", "validation_anomaly_auc")
    study = Study(tmp_path / "study.journal", SEARCH.model_copy(update={"objectives": names}), 0)
    values = np.random.default_rng(0).random((12, 2)).round(2)
    for i, pair in enumerate(values):
        study.tell(study.ask().number, list(pair), 0.5 if i == 3 else 0.0)
    found = {point.number for point in study.best_points}
    sound = [i for i in range(12) if i != 3]
    expected = {i for i in sound if not any((values[j] >= values[i]).all() and (values[j] > values[i]).any() for j in sound)}
    assert found == expected and 3 not in found
    assert all(study.importances()) and sum(study.importances()[0].values()) == pytest.approx(1)


def test_a_single_objective_decides_on_the_best_feasible_point(tmp_path: Path) -> None:
    study = Study(tmp_path / "study.journal", SEARCH, 0)
    for value, collapsed in ((0.4, 0.0), (0.9, 0.2), (0.6, 0.0), (0.6, 0.0)):
        study.tell(study.ask().number, [value], collapsed)
    assert [point.number for point in study.best_points] == [2], "of equal ones the first"


def test_hopeless_points_are_those_outside_the_best_third(tmp_path: Path) -> None:
    study = Study(tmp_path / "study.journal", SEARCH, 0)
    stopped = []
    for value in (0.5, 0.6, 0.7, 0.1, 0.2, 0.8):
        number = study.ask().number
        if study.should_prune(number, 1, value):
            stopped.append(value)
            study.stop(number, "")
    assert {0.1, 0.2} <= set(stopped) and 0.8 not in stopped and 0.7 not in stopped
    for epochs, first in ((15, 1), (30, 3), (100, 11)):  # whatever the first rung is, a third goes on from it
        study = Study(tmp_path / f"{epochs}.journal", SEARCH, 0, epochs=epochs)
        kept = 0
        for value in np.random.default_rng(5).random(45):
            number = study.ask().number
            kept += not study.should_prune(number, first, float(value))
            study.stop(number, "")
        assert 9 <= kept <= 24, "about a third, and the first ones, which have nobody to be compared with"
    assert rung_epochs(15) == [1, 3, 9] and rung_epochs(30) == [3, 9, 27] and rung_epochs(1) == []


# -- points and the scheduler --------------------------------------------------------------------------------------------


class FakeSource:
    """Hands out the arms of a plan, one at a time."""

    def __init__(self, plan: Plan, names: list[str]) -> None:
        self.plan, self.names, self.heard = plan, names, list[tuple[str, str]]()

    @property
    def remaining(self) -> int:
        return len(self.names)

    def ask(self) -> Plan | None:
        if not self.names:
            return None
        trial = arm(self.plan, self.names.pop(0))
        return replace(self.plan, trials={trial.key: trial}, requested=frozenset([trial.key]))

    def should_prune(self, key: str, record: Any) -> None:
        return None

    def trial_ended(self, record: TrialRecord) -> None:
        self.heard.append((record.trial.arm, record.status))


def queue(tmp_path: Path, names: list[str]) -> tuple[TrialQueue, FakeSource, Plan]:
    plan = tiny_plan(tmp_path, {"a": {"mu": 1}, "b": {"mu": 2}, "n": {"pairing": "neighbors"}})
    base = replace(plan, trials={arm(plan, "base").key: arm(plan, "base")}, requested=frozenset([arm(plan, "base").key]))
    source = FakeSource(plan, names)
    return TrialQueue(base, list(base.trials), TrialStore(tmp_path), [], source, slots=lambda: 1), source, plan


def test_points_follow_one_another_and_no_more_than_there_are_slots(tmp_path: Path) -> None:
    running, source, plan = queue(tmp_path, ["a", "b"])
    first = running.next_ready()
    assert first is not None and first.arm == "base" and running.next_ready() is None and running.interrupted
    for name in ("base", "a", "b"):
        finish(TrialStore(tmp_path), arm(plan, name))
        running.trial_ended(arm(plan, name).key, None)
        following = running.next_ready()
        assert (following.arm if following else None) == {"base": "a", "a": "b", "b": None}[name]
    assert running.finished and not running.interrupted
    assert source.heard == [("base", "done"), ("a", "done"), ("b", "done")]


def test_a_point_that_comes_to_a_trial_that_is_over_ends_as_that_did(tmp_path: Path) -> None:
    running, source, _ = queue(tmp_path, ["base", "a"])
    base = running.next_ready()
    assert base is not None
    running.trial_ended(base.key, "the worker died")
    following = running.next_ready()
    assert following is not None and following.arm == "a", "the search does not end there"
    assert source.heard == [("base", "failed"), ("base", "failed")]


def test_a_point_whose_parent_was_lost_is_skipped(tmp_path: Path) -> None:
    running, source, _ = queue(tmp_path, ["n", "a"])
    base = running.next_ready()
    assert base is not None
    running.trial_ended(base.key, "the worker died")
    following = running.next_ready()
    assert following is not None and following.arm == "a"
    assert source.heard == [("base", "failed"), ("n", "skipped")]


@pytest.mark.parametrize(
    ("space", "named"),
    [
        ({"pairing": ["augment", "neighbours"]}, ["search.space.pairing", "'neighbours' is not one of"]),
        ({"augmentation.flop": [0, 1]}, ["search.space.augmentation.flop", "did you mean 'flip'"]),
        ({"learning_rate": {"low": -1.0, "high": 1.0}}, ["search.space.learning_rate", "more than 0 is needed"]),
        ({"epochs": {"low": 1.5, "high": 3.5}}, ["search.space.epochs", "a whole number is needed"]),
        ({"mu": [1, 2], "mu/lambda": [1, 2]}, ["set the same field"]),
        ({"pairing/lambda": [1, 2]}, ["only mu and nu"]),
        ({"dataset": ["mnist", "cifar10"]}, ["dataset cannot vary"]),
        ({"pairing": ["augment", "augment"]}, ["a choice is given twice"]),
    ],
)
def test_a_space_that_no_config_can_have_is_refused_before_anything_starts(
    space: dict[str, Any], named: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(yaml.safe_dump({"question": "which?", "search": {"space": space}}))
    arguments = ["--grid", str(path), "--profile", "digits-m", "--storage", str(tmp_path / "results"), "--dry-run"]
    with pytest.raises(InputError) as caught:
        check(parse(arguments))
    assert all(any(name in fault for fault in caught.value.errors) for name in named), caught.value.errors


def test_what_the_search_varies_cannot_be_set(tmp_path: Path) -> None:
    arguments = ["--grid", "search", "--profile", "digits-m", "--storage", str(tmp_path), "--dry-run", "--set", "mu=3"]
    with pytest.raises(InputError, match="--set mu: the search varies it"):
        check(parse(arguments))


# -- what a trial gives while it is still being chosen -------------------------------------------------------------------


def test_test_metrics_are_there_for_what_was_decided_on_alone(tmp_path: Path, images: Images) -> None:
    plan, store = tiny_plan(tmp_path, {"x": {"mu": 1}}), TrialStore(tmp_path)
    images = replace(images, validation_anomalies={"digits-m-patches": images.anomalies["digits-m-black"]})
    trial = arm(plan, "x")
    validation_only = replace(trial, validation_only=True)
    records: list[dict[str, float]] = []
    run_trial(
        validation_only, images, tmp_path, on_epoch=records.append, rungs=Rungs(frozenset([1]), "validation_probe_accuracy")
    )
    assert ["validation_probe_accuracy" in record for record in records] == [True, False], "at its rung"
    early = record_of(store, validation_only)
    assert early.status == "done" and set(early.metrics) == set(objective_directions())
    assert not list(store.folder(trial.key).glob("details/*")) and not is_done(store, trial)
    run_trial(trial, images, tmp_path)
    late = record_of(store, trial)
    assert {"probe_accuracy", "anomaly_auc"} <= set(late.metrics)
    assert {name: late.metrics[name] for name in early.metrics} == early.metrics, "test images change nothing of validation's"
    assert set(record_of(store, validation_only).metrics) == set(early.metrics), "whatever the store holds"


# -- a whole search ------------------------------------------------------------------------------------------------------


@pytest.mark.timeout(1500)
@pytest.mark.parametrize(
    ("flags", "how"),
    [
        pytest.param(
            ["--objectives", "validation_probe_accuracy,validation_anomaly_auc"],
            signal.SIGKILL,
            id="several, killed",
            marks=pytest.mark.slow,
        ),
        pytest.param(["--early-stopping"], signal.SIGINT, id="early stopping, Ctrl-C", marks=pytest.mark.nightly),
    ],
)
def test_a_search_that_is_stopped_half_way_goes_on(flags: list[str], how: signal.Signals, tmp_path: Path) -> None:
    path, storage = tmp_path / "find.yaml", tmp_path / "results"
    odd = image_folder(tmp_path / "odd", train=100)
    few = {"dataset": f"folder:{image_folder(tmp_path / 'few', train=1000)}", "anomaly_datasets": [f"folder:{odd}"]}
    path.write_text(yaml.safe_dump({
        "question": "which?", "base": BASE | {"epochs": 4, "neighbors_k": 3, **few}, "search": {"trials": 6, "space": SPACE},
    }))  # fmt: skip
    command = [sys.executable, str(ROOT / "sweeps" / "run.py"), "--profile", "digits-m", "--grid", str(path),
               "--storage", str(storage), "--data", str(tmp_path / "data"), *flags]  # fmt: skip
    with (tmp_path / "log").open("w") as log:
        driver = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + 400
        while time.monotonic() < deadline and len(list(storage.glob("trials/*/evaluation-*.json"))) < 3:
            time.sleep(0.2)
        driver.send_signal(how)
        code = driver.wait(timeout=100)
    if how is signal.SIGINT:
        assert code == 130 and "continue with" in (tmp_path / "log").read_text()
    (journal,) = storage.glob("sweeps/*/study-*.journal")
    before = {p.number: p for p in Study(journal, SEARCH, 0).points}
    trained = {path: path.stat().st_mtime_ns for path in storage.glob("trials/*/trained.json")}

    done = subprocess.run(command, capture_output=True, text=True, timeout=1000)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = list(csv.DictReader(next(storage.glob("sweeps/*/points.csv")).open()))
    assert len(rows) == 6 and {row["state"] for row in rows} <= {"done", "infeasible", "stopped"}
    after = {p.number: p for p in Study(journal, SEARCH, 0).points}
    for number, point in before.items():
        assert point.params.items() <= after[number].params.items(), "what was drawn stays"
        if point.state != "running":
            assert after[number] == point, "what had ended is what it was"
    assert trained.items() <= {p: p.stat().st_mtime_ns for p in storage.glob("trials/*/trained.json")}.items()

    runs = {run.data.tags["trial_key"]: run for run in children(storage).values()}
    client = MlflowClient(f"sqlite:///{storage / 'mlflow.db'}")
    for run in runs.values():
        decided = run.data.tags.get("chosen") == "yes" or "base" in run.data.tags["arm"].split(", ")
        assert ("probe_accuracy" in run.data.metrics) == decided
        assert any(name.startswith("test/") for name in run.data.metrics) == decided
        assert run.info.status == ("KILLED" if run.data.tags.get("search_state") == "stopped" else "FINISHED")
        points = [(n, p.step) for n in run.data.metrics for p in client.get_metric_history(run.info.run_id, n)]
        assert len(points) == len(set(points)), "each (metric, step) once"
    if "--early-stopping" in flags:
        stopped = [row for row in rows if row["state"] == "stopped"]
        assert stopped and all(not row["validation_probe_accuracy"] and "after epoch" in row["reason"] for row in stopped)
    report = next(storage.glob("sweeps/*/report.html")).read_text()
    assert "The search" in report and "over pairs of fields" in report
    assert ("Pareto front" in report) == ("--objectives" in flags)
    assert "nothing is trained" in subprocess.run(command, capture_output=True, text=True, timeout=100).stdout
