"""Where MLflow's records say that artifacts are: in the storage, wherever it was moved, and never in another one's."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.tracking._tracking_service import utils

from sweeps.storage.trial_store import TrialStore
from sweeps.tracking.moved_storage import follow_storage
from sweeps.tracking.parent_run import SweepSummary
from sweeps.tracking.queued_writer import QueuedWriter
from sweeps.tracking.uri import default_uri
from tests.sweeps.tiny import tiny_plan


def command(storage: Path, uri: str | None = None, text: str = "some") -> list[str]:
    """Do what a command does that finds nothing to train: log a file to the sweep's run. Return what was said."""
    said: list[str] = []
    storage.mkdir(exist_ok=True)
    utils._artifact_repos_cache.clear()  # a command is a process of its own, which knows no addresses of an earlier one
    report = storage / "report.html"
    report.write_text(text)
    tracker = QueuedWriter(uri or default_uri(storage), tiny_plan(storage, {}), TrialStore(storage), "x", said.append)
    tracker.close(SweepSummary("FINISHED", {}, 0.0, (report,)))
    assert tracker.problem is None
    return said


def reports(uri: str) -> dict[str, tuple[str, str]]:
    """Experiment -> URI of the sweep's artifacts, and the report that is read there."""
    client, found = MlflowClient(uri), {}
    for experiment in client.search_experiments():
        for run in client.search_runs([experiment.experiment_id], "tags.role = 'sweep'"):
            report = Path(client.download_artifacts(run.info.run_id, "report.html")).read_text(encoding="utf-8")
            found[experiment.name] = (run.info.artifact_uri, report)
    return found


@pytest.fixture
def storage(tmp_path: Path, empty_database: Path) -> Path:
    storage = tmp_path / "old place"
    storage.mkdir()
    shutil.copy(empty_database, storage / "mlflow.db")
    command(storage)
    return storage


def test_the_records_of_a_storage_that_was_moved_follow_and_the_old_place_is_not_made_again(
    storage: Path, tmp_path: Path
) -> None:
    MlflowClient(default_uri(storage)).create_experiment("theirs", artifact_location="file:///elsewhere")
    new = tmp_path / "new" / "place"
    new.parent.mkdir()
    storage.rename(new)
    said = command(new, text="again")
    then, now = storage / "artifacts", new / "artifacts"
    assert said == [f"MLflow: the storage was moved; artifacts that were recorded in {then} are now recorded in {now}"]
    ((uri, report),) = reports(default_uri(new)).values()
    assert uri.startswith((new / "artifacts").as_uri()) and report == "again" and not storage.exists()
    assert not command(new), "said once"
    client = MlflowClient(default_uri(new))
    assert {e.artifact_location for e in client.search_experiments() if e.name == "theirs"} == {"file:///elsewhere"}


def test_a_copy_of_a_storage_writes_only_to_itself(storage: Path, tmp_path: Path) -> None:
    shutil.copytree(storage, tmp_path / "copy")
    command(tmp_path / "copy", text="in the copy")
    assert [report for _, report in reports(default_uri(tmp_path / "copy")).values()] == ["in the copy"]
    assert [report for _, report in reports(default_uri(storage)).values()] == ["some"]


def test_records_of_others_in_the_same_database_stay(tmp_path: Path, empty_database: Path) -> None:
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    client = MlflowClient(default_uri(tmp_path))
    theirs = client.create_experiment("theirs", artifact_location=(tmp_path / "elsewhere").as_uri())
    client.create_run(theirs)
    assert follow_storage(default_uri(tmp_path), tmp_path) is None
    assert client.get_experiment(theirs).artifact_location == (tmp_path / "elsewhere").as_uri()


@pytest.mark.slow
def test_two_storages_with_one_database_keep_their_artifacts_apart_also_after_one_was_moved(
    tmp_path: Path, empty_database: Path
) -> None:
    uri = f"sqlite:///{tmp_path / 'shared.db'}"
    shutil.copy(empty_database, tmp_path / "shared.db")
    command(tmp_path / "a", uri, "a")
    (line,) = command(tmp_path / "b", uri, "b")
    assert "another storage" in line and line.endswith(f"in the experiment tiny ({tmp_path / 'b'})")
    for name in ("a", "b"):
        assert not command(tmp_path / name, uri, f"{name} again")
    shutil.move(tmp_path / "b", tmp_path / "c")
    (line,) = command(tmp_path / "c", uri, "c")
    assert "was moved" in line and not (tmp_path / "b").exists()
    found = {place.removeprefix(tmp_path.as_uri())[:3]: report for place, report in reports(uri).values()}
    assert found == {"/a/": "a again", "/c/": "c"}
    shutil.copytree(tmp_path / "a", tmp_path / "d")
    command(tmp_path / "d", uri, "d")
    assert sorted(report for _, report in reports(uri).values()) == ["a again", "c", "d"], "a copy has an experiment of its own"


def test_the_records_follow_all_or_not_at_all(storage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def addresses() -> list[Any]:
        with closing(sqlite3.connect(tmp_path / "new" / "mlflow.db")) as database:
            return database.execute("SELECT artifact_location FROM experiments UNION SELECT artifact_uri FROM runs").fetchall()

    storage.rename(tmp_path / "new")
    before = addresses()
    with closing(sqlite3.connect(tmp_path / "new" / "mlflow.db")) as database, database:
        database.execute("CREATE TRIGGER t BEFORE UPDATE ON runs BEGIN SELECT RAISE(FAIL, 'no'); END")
    with pytest.raises(Exception, match="no"):
        follow_storage(default_uri(tmp_path / "new"), tmp_path / "new")
    assert addresses() == before


def test_a_folder_with_odd_characters_serves(tmp_path: Path, empty_database: Path) -> None:
    storage = tmp_path / "50% #1 ü"
    storage.mkdir()
    shutil.copy(empty_database, storage / "mlflow.db")
    command(storage)
    assert [report for _, report in reports(default_uri(storage)).values()] == ["some"] and len(list(tmp_path.iterdir())) == 1
