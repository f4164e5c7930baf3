"""What the user did in MLflow's UI or to the grid since the last command: their texts are kept, runs are where they belong."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import ViewType

from sweeps.planning.trial import Plan
from sweeps.storage.trial_store import TrialStore
from sweeps.tracking.parent_run import SweepSummary
from sweeps.tracking.queued_writer import QueuedWriter
from sweeps.tracking.user_texts import NOTE, NOTE_MARK, RUN_NAME, name_tags, note_tags
from tests.sweeps.tiny import arm, tiny_plan

ARMS: dict[str, Any] = {"z": {"mu": 0}, "y": {"mu": 1}}


class Sweep:
    """A storage with an empty database, and what commands do to it that run no trial to its end."""

    def __init__(self, storage: Path, empty_database: Path) -> None:
        self.storage, self.uri = storage, f"sqlite:///{storage / 'mlflow.db'}"
        shutil.copy(empty_database, storage / "mlflow.db")
        self.client = MlflowClient(self.uri)

    def command(self, plan: Plan, arms: Sequence[str], note: str = "") -> list[str]:
        """Start the trials of some arms, end the sweep; return what was said."""
        said: list[str] = []
        tracker = QueuedWriter(self.uri, plan, TrialStore(self.storage), "python sweeps/run.py", said.append)
        for name in arms:
            tracker.on_trial_start(arm(plan, name))
        tracker.correct_members(plan)
        tracker.close(SweepSummary("FINISHED", {}, 0.0, (), note))
        assert tracker.problem is None
        return said

    def runs(self, role: str, view: int = ViewType.ACTIVE_ONLY) -> dict[str, Any]:
        """The runs with a role, by name."""
        experiments = [e.experiment_id for e in self.client.search_experiments(view_type=ViewType.ALL)]
        found = self.client.search_runs(experiments, f"tags.role = '{role}'", view)
        assert len({run.data.tags[RUN_NAME] for run in found}) == len(found), "names are unique"
        return {run.data.tags[RUN_NAME]: run for run in found}

    @property
    def parent(self) -> Any:
        (run,) = self.runs("sweep").values()
        return run


@pytest.fixture
def sweep(tmp_path: Path, empty_database: Path) -> Sweep:
    return Sweep(tmp_path, empty_database)


def test_a_description_is_renewed_and_what_the_user_wrote_around_it_or_instead_of_it_stays(
    sweep: Sweep, tmp_path: Path
) -> None:
    plan = tiny_plan(tmp_path, {})
    sweep.command(plan, [], "**first**")
    assert sweep.parent.data.tags[NOTE] == "**first**"
    sweep.command(plan, [], "**second**")
    assert sweep.parent.data.tags[NOTE] == "**second**"
    sweep.client.set_tag(sweep.parent.info.run_id, NOTE, "mine before\n**second**\nmine after")
    sweep.command(plan, [], "**third**")
    assert sweep.parent.data.tags[NOTE] == "mine before\n**third**\nmine after"
    for own in ("all mine", ""):
        sweep.client.set_tag(sweep.parent.info.run_id, NOTE, own)
        sweep.command(plan, [], "**fourth**")
        assert sweep.parent.data.tags[NOTE] == own


def test_a_description_from_before_there_was_a_mark() -> None:
    ours = "**why?**\n\n| arm | n | probe accuracy |\n| --- | --- | --- |\n| base | 1 | 0.5 |\n\n"
    ours += "`report.html` among the artifacts has the figures, the claims, and what differs from base."
    assert note_tags({NOTE: ours}, "new")[NOTE] == "new"
    assert note_tags({NOTE: ours + "\nmine"}, "new")[NOTE] == "new\nmine"
    assert note_tags({NOTE: "mine"}, "new") == {}
    once = note_tags({}, "x" * 9000)
    assert len(once[NOTE]) == 8000 and note_tags(once, "x" * 9000) == {} and set(once) == {NOTE, NOTE_MARK}


def test_a_name_that_the_user_gave_a_run_stays() -> None:
    ours = name_tags({}, "z · seed 0")
    assert ours[RUN_NAME] == "z · seed 0" and name_tags(ours, "z · seed 0") == {}
    assert name_tags(ours, "z, y · seed 0")[RUN_NAME] == "z, y · seed 0"
    assert name_tags({**ours, RUN_NAME: "my favourite"}, "z, y · seed 0") == {}
    before_there_was_a_mark = {RUN_NAME: "z · seed 0", "arm": "z, y"}
    assert name_tags(before_there_was_a_mark, "z, y · seed 0")[RUN_NAME] == "z, y · seed 0"
    assert name_tags({**before_there_was_a_mark, RUN_NAME: "my favourite"}, "z, y · seed 0") == {}


@pytest.mark.slow
def test_a_run_that_the_user_renamed_or_tagged_keeps_name_and_tags(sweep: Sweep, tmp_path: Path) -> None:
    arms = {"n": {"pairing": "neighbors", "parent": {"mu": 1}}}
    before, after = tiny_plan(tmp_path, arms), tiny_plan(tmp_path, {**arms, "one": {"mu": 1}})
    sweep.command(before, ["n", "parent of n"])
    children = sweep.runs("trial")
    sweep.client.update_run(children["parent of n"].info.run_id if "parent of n" in children else
                            children["parent of n · seed 0"].info.run_id, name="my favourite")  # fmt: skip
    sweep.client.set_tag(children["n · seed 0"].info.run_id, "mine", "yes")
    sweep.client.update_run(sweep.parent.info.run_id, name="my sweep")
    sweep.command(after, ["n", "one"])
    names = sweep.runs("trial")
    assert set(names) == {"n · seed 0", "my favourite"} and names["n · seed 0"].data.tags["mine"] == "yes"
    assert sweep.parent.data.tags[RUN_NAME] == "my sweep"


def test_the_children_of_a_parent_that_was_deleted_get_a_new_one_which_is_said(sweep: Sweep, tmp_path: Path) -> None:
    plan = tiny_plan(tmp_path, ARMS)
    sweep.command(plan, ["base", "z"])
    old = sweep.parent.info.run_id
    sweep.client.delete_run(old)
    said = sweep.command(plan, ["base"])
    assert sweep.parent.info.run_id != old and sweep.client.get_run(old).info.lifecycle_stage == "deleted"
    assert {run.data.tags["mlflow.parentRunId"] for run in sweep.runs("trial").values()} == {sweep.parent.info.run_id}
    assert any("was deleted there, and stays so" in line for line in said)
    sweep.client.restore_run(old)  # the user wants that one after all
    sweep.command(plan, ["base"])
    assert sweep.parent.info.run_id == old and len(sweep.runs("former sweep")) == 1
    assert {run.data.tags["mlflow.parentRunId"] for run in sweep.runs("trial").values()} == {old}


def test_an_arm_taken_out_of_the_grid_is_a_former_member_until_it_is_back(sweep: Sweep, tmp_path: Path) -> None:
    whole, less = tiny_plan(tmp_path, ARMS), tiny_plan(tmp_path, {"z": {"mu": 0}})
    sweep.command(whole, ["base", "z", "y"])
    run_id = sweep.runs("trial")["y · seed 0"].info.run_id
    said = sweep.command(less, [])
    assert set(sweep.runs("trial")) == {"base · seed 0", "z · seed 0"}
    assert {name: run.info.run_id for name, run in sweep.runs("former trial").items()} == {"y · seed 0 (former)": run_id}
    assert any("1 run of" in line and "role = 'former trial'" in line for line in said)
    assert not sweep.command(less, []), "said once"
    sweep.command(whole, ["y"])
    assert sweep.runs("trial")["y · seed 0"].info.run_id == run_id and not sweep.runs("former trial")


def test_of_two_runs_of_one_trial_the_older_one_stays(sweep: Sweep, tmp_path: Path) -> None:
    """As when two machines that share a server write a new sweep at the same instant."""
    plan = tiny_plan(tmp_path, ARMS)
    sweep.command(plan, ["base"])
    (first,) = sweep.runs("trial").values()
    tags = {name: value for name, value in first.data.tags.items() if name not in ("mlflow.user", "mlflow.source.name")}
    second = sweep.client.create_run(first.info.experiment_id, first.info.start_time + 1, tags).info.run_id
    said = sweep.command(plan, ["base"])
    assert [run.info.run_id for run in sweep.runs("trial").values()] == [first.info.run_id]
    assert {name: run.info.run_id for name, run in sweep.runs("former trial").items()} == {"base · seed 0 (former)": second}
    assert any("1 run of" in line and "role = 'former trial'" in line for line in said)


@pytest.mark.slow
def test_changed_data_makes_no_second_member_of_one_name_and_other_seeds_stay(sweep: Sweep, tmp_path: Path) -> None:
    plan = tiny_plan(tmp_path, ARMS, seeds=(0, 1))
    sweep.command(plan, ["base", "z"])
    sweep_again = tiny_plan(tmp_path, ARMS)
    changed = {f"{key[:-4]}beef": replace(trial, key=f"{key[:-4]}beef") for key, trial in sweep_again.trials.items()}
    data_changed = replace(sweep_again, trials=changed, requested=frozenset(changed))
    sweep.command(plan, [])
    other_seed = next(t for t in plan.trials.values() if t.arm == "z" and t.config.seed == 1)
    tracker = QueuedWriter(sweep.uri, plan, TrialStore(tmp_path), "x")
    tracker.on_trial_start(other_seed)
    tracker.close(SweepSummary("FINISHED", {}, 0.0, ()))
    sweep.command(data_changed, ["base", "z"])
    assert set(sweep.runs("trial")) == {"base · seed 0", "z · seed 0", "z · seed 1"}
    assert {run.data.tags["trial_key"][-4:] for name, run in sweep.runs("trial").items() if "seed 0" in name} == {"beef"}
    assert set(sweep.runs("former trial")) == {"base · seed 0 (former)", "z · seed 0 (former)"}


@pytest.mark.slow
def test_a_child_that_was_deleted_is_written_anew_which_is_said(sweep: Sweep, tmp_path: Path) -> None:
    plan = tiny_plan(tmp_path, ARMS)
    sweep.command(plan, ["base", "z"])
    sweep.client.delete_run(sweep.runs("trial")["z · seed 0"].info.run_id)
    said = sweep.command(plan, ["z"])
    assert [line for line in said if "deleted" in line and line.endswith("z · seed 0")]
    assert set(sweep.runs("trial")) == {"base · seed 0", "z · seed 0"}


def test_an_experiment_that_was_deleted_stays_deleted_with_its_runs(sweep: Sweep, tmp_path: Path) -> None:
    plan = tiny_plan(tmp_path, ARMS)
    sweep.command(plan, ["base", "z"])
    sweep.client.delete_run(sweep.runs("trial")["z · seed 0"].info.run_id)
    experiment = sweep.client.get_experiment_by_name("tiny")
    assert experiment is not None
    sweep.client.delete_experiment(experiment.experiment_id)
    said = sweep.command(plan, ["base"])
    assert sweep.client.get_experiment(experiment.experiment_id).lifecycle_stage == "deleted"
    assert {e.name for e in sweep.client.search_experiments()} == {"Default", "tiny (2)"}
    assert set(sweep.runs("trial")) == {"base · seed 0"}
    assert any("tiny was deleted there, and stays so; the runs are in a new one, tiny (2)" in line for line in said)
    assert not sweep.command(plan, ["base"]) and len(sweep.client.search_experiments()) == 2, "the same from now on"


@pytest.mark.slow
def test_an_experiment_that_was_renamed_is_found(sweep: Sweep, tmp_path: Path) -> None:
    plan = tiny_plan(tmp_path, ARMS)
    sweep.command(plan, ["base"])
    experiment = sweep.client.get_experiment_by_name("tiny")
    assert experiment is not None
    sweep.client.rename_experiment(experiment.experiment_id, "my study")
    sweep.command(plan, ["base", "z"])
    assert {e.name for e in sweep.client.search_experiments()} == {"Default", "my study"} and len(sweep.runs("trial")) == 2


@pytest.mark.slow
def test_a_run_deleted_while_the_sweep_runs_is_written_anew(sweep: Sweep, tmp_path: Path) -> None:
    plan, said = tiny_plan(tmp_path, ARMS), list[str]()
    tracker = QueuedWriter(sweep.uri, plan, TrialStore(tmp_path), "x", said.append)
    tracker.on_trial_start(arm(plan, "base"))
    tracker._tell("", lambda: sweep.client.delete_run(sweep.runs("trial")["base · seed 0"].info.run_id))
    tracker.on_epoch_end(arm(plan, "base"), {"epoch": 1, "time": 1.0, "train/loss": 2.0})
    tracker._tell("", lambda: sweep.client.delete_run(sweep.parent.info.run_id))
    tracker.close(SweepSummary("FINISHED", {"trials_done": 1.0}, 1.0, ()))
    assert tracker.problem is None
    assert sweep.runs("trial")["base · seed 0"].data.metrics == {"train/loss": 2.0}
    assert sweep.parent.data.metrics == {"trials_done": 1.0} and sweep.parent.info.status == "FINISHED"


def test_what_mlflow_refuses_is_named_ends_its_run_and_does_not_keep_the_rest(
    sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, said = tiny_plan(tmp_path, ARMS), list[str]()
    monkeypatch.setattr("sweeps.tracking.run_client.legal_name", lambda name: name)
    tracker = QueuedWriter(sweep.uri, plan, TrialStore(tmp_path), "x", said.append)
    tracker.on_epoch_end(arm(plan, "base"), {"epoch": 1, "time": 1.0, "odd|name": 2.0})
    tracker.on_epoch_end(arm(plan, "z"), {"epoch": 1, "time": 1.0, "train/loss": 2.0})
    tracker.close(SweepSummary("FINISHED", {"z(1)": 1.0}, 1.0, ()))
    assert (
        "odd|name" in str(tracker.problem) and str(tracker.problem).startswith("base · seed 0: ") and "mended" in tracker.advice
    )
    assert sweep.runs("trial")["z · seed 0"].data.metrics == {"train/loss": 2.0} and sweep.parent.info.status == "FINISHED"
    assert len([line for line in said if "refuses" in line]) == 1
