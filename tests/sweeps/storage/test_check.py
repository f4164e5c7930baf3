"""``--check`` on storages that were made without training: what it finds, and what it cannot look at."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from core import locks
from core.errors import InputError
from sweeps.planning.trial import Plan
from sweeps.storage import check, checked_folder, trial_store
from sweeps.storage.check import check_storage
from sweeps.storage.checked_folder import CHECKSUMS, CheckedFolder
from sweeps.storage.snapshot import StoreSnapshot
from sweeps.storage.trial_store import TrialStore
from sweeps.sweep_config import _earlier_seeds
from tests.sweeps.tiny import arm, finish, is_done, tiny_plan


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """The plan of a storage with two finished trials and a sweep's folder; the storage is the test's folder."""
    plan, store = tiny_plan(tmp_path, {"z": {"mu": 0}}), TrialStore(tmp_path)
    for trial in plan.trials.values():
        store.save_config(trial)
        finish(store, trial)
    _sweep(tmp_path).write_json("sweep.json", {"trials": {key: ["an arm", "done", None] for key in plan.trials}})
    return plan


def _sweep(storage: Path) -> CheckedFolder:
    return CheckedFolder(storage / "sweeps" / "tiny-1")


def _check(storage: Path) -> tuple[bool, str]:
    said: list[str] = []
    return check_storage(storage, said.append), "\n".join(said)


# -- MLflow's database -------------------------------------------------------------------------------------------------------


def test_a_database_that_a_killed_driver_left_amid_a_transaction_is_whole(plan: Plan, tmp_path: Path) -> None:
    code = """
import os, sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute("PRAGMA cache_size = 1")
database.execute("CREATE TABLE t (x)")
database.execute("BEGIN IMMEDIATE")
for i in range(2000):
    database.execute("INSERT INTO t VALUES (?)", ("x" * 100,))
os._exit(9)
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "mlflow.db")], timeout=60)
    assert (tmp_path / "mlflow.db-journal").stat().st_size > 0
    assert _check(tmp_path)[0]


def test_a_database_that_cannot_be_looked_at_is_not_called_damaged(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.setattr(check, "_SQLITE_SECONDS", 0)
    with closing(sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None)) as database:
        database.execute("CREATE TABLE t (x)")
        database.execute("BEGIN EXCLUSIVE")
        intact, said = _check(tmp_path)
    assert not intact and "not checked" in said and "database is locked" in said and "damaged" not in said
    (tmp_path / "mlflow.db").write_bytes(b"no database, and long enough to be read as one" * 100)
    assert "mlflow.db: file is not a database" in _check(tmp_path)[1]


# -- files that are gone -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["config.json", "trained.json", "encoder.safetensors", "evaluation"])
def test_a_file_that_is_gone_is_said_and_opens_its_trial(plan: Plan, tmp_path: Path, name: str) -> None:
    store, trial = TrialStore(tmp_path), arm(plan, "base")
    assert _check(tmp_path)[0] and is_done(store, trial)
    (path,) = store.folder(trial.key).glob(f"{name}*")
    path.unlink()
    intact, said = _check(tmp_path)
    for _ in range(2):
        assert not intact and f"missing: {path}" in said and "1 missing: the commands of their sweeps (of tiny-1)" in said
        intact, said = _check(tmp_path)
    assert not is_done(store, trial), "the next command makes it again"
    snapshot = StoreSnapshot(store)
    snapshot.verify([trial])
    assert snapshot.new_damage() == [f"missing: {path}: it was written, and is gone"]
    store.save_config(trial)
    finish(store, trial)
    assert _check(tmp_path)[0]


def test_what_this_program_removed_itself_is_not_missing(plan: Plan, tmp_path: Path) -> None:
    store, trial = TrialStore(tmp_path), arm(plan, "base")
    store.save_failure(trial.key, "it failed")
    store.clear_failure(trial.key)
    files = store.files(trial.key)
    files.write_bytes("details/a.npz", b"x")
    files.set_aside("details/a.npz")
    files.write_bytes("encoder.pt", b"of an earlier version")
    (store.folder(trial.key) / "encoder.pt").unlink()  # trained again: encoder.safetensors
    assert _check(tmp_path)[0]


def test_a_file_that_is_gone_and_not_needed_is_said_until_a_command_of_the_sweep_has_said_so(
    plan: Plan, tmp_path: Path
) -> None:  # fmt: skip
    files = TrialStore(tmp_path).files(arm(plan, "base").key)
    files.write_bytes("figures/of-an-earlier-version.png", b"x")
    (files.path / "figures" / "of-an-earlier-version.png").unlink()
    assert not _check(tmp_path)[0] and not _check(tmp_path)[0]
    snapshot = StoreSnapshot(TrialStore(tmp_path))
    snapshot.verify(plan.trials.values())
    assert len(snapshot.new_damage()) == 1 and _check(tmp_path)[0]


def test_a_whole_trial_and_lost_checksums_are_missed(plan: Plan, tmp_path: Path) -> None:
    store, key, other = TrialStore(tmp_path), arm(plan, "base").key, arm(plan, "z").key
    files = store.files(key)
    training = json.loads(files.read("trained.json") or b"") | {"weights": files.digest("encoder.safetensors")}
    files.write_json("trained.json", training)
    (files.path / CHECKSUMS).unlink()
    shutil.rmtree(store.folder(other))
    intact, said = _check(tmp_path)
    assert not intact and f"missing: {files.path / CHECKSUMS}" in said
    assert f"missing: {store.folder(other)}: a finished trial of tiny-1, and gone" in said


def test_what_was_set_aside_and_not_made_again_is_counted(plan: Plan, tmp_path: Path) -> None:
    path = TrialStore(tmp_path).folder(arm(plan, "base").key) / "encoder.safetensors"
    path.write_bytes(b"damaged")
    assert not _check(tmp_path)[0]
    intact, said = _check(tmp_path)
    assert intact and "1 damaged files were moved aside earlier and are not made again" in said
    assert "everything that is there is as it was written" in said


def test_files_of_a_sweep_are_read_and_recorded_and_missed(plan: Plan, tmp_path: Path) -> None:
    folder = _sweep(tmp_path).path
    (folder / CHECKSUMS).unlink()
    for name in ("table.csv", "my notes.txt"):
        (folder / name).write_text("x")
    intact, said = _check(tmp_path)
    assert intact and "2 files had no checksum yet" in said
    assert _sweep(tmp_path).names == ["sweep.json", "table.csv"], "the user's own file may change"
    (folder / "table.csv").unlink()
    intact, said = _check(tmp_path)
    assert not intact and f"missing: {folder / 'table.csv'}" in said


def test_a_journal_that_is_broken_in_the_middle_is_damage_and_stays_where_it_is(plan: Plan, tmp_path: Path) -> None:
    journal = _sweep(tmp_path).path / "study-1.journal"
    journal.write_bytes(b'{"op_code": 0}\n{"op_code": 4, "wor')
    assert _check(tmp_path)[0], "a killed process leaves an incomplete last line"
    for broken in (b'{"op_co\n{"op_code": 1}\n', b"\xff\n", b"3\n"):
        journal.write_bytes(b'{"op_code": 0}\n' + broken)
        intact, said = _check(tmp_path)
        assert not intact and f"damaged: {journal}: line 2 of the search's journal is no JSON" in said and journal.exists()


def test_a_sweeps_seeds_are_those_of_all_trials_if_its_record_is_gone(plan: Plan, tmp_path: Path) -> None:
    snapshot, folder = StoreSnapshot(TrialStore(tmp_path)), _sweep(tmp_path)
    assert _earlier_seeds(snapshot, "unknown") == [] and snapshot.new_damage() == []
    (folder.path / "sweep.json").unlink()
    assert _earlier_seeds(snapshot, "tiny-1") == [0]
    assert any("sweep.json: it is gone" in line for line in snapshot.new_damage())
    folder.write_json("sweep.json", {"seeds": [3]})
    (folder.path / CHECKSUMS).write_text("damaged")
    assert _earlier_seeds(snapshot, "tiny-1") == [3]
    assert any(CHECKSUMS in line for line in snapshot.new_damage())


# -- JSON of another shape ---------------------------------------------------------------------------------------------------


def test_json_of_another_shape_is_damage(plan: Plan, tmp_path: Path) -> None:
    trial = TrialStore(tmp_path).folder(arm(plan, "base").key)
    for folder, name, content in (
        (_sweep(tmp_path).path, "sweep.json", {"trials": 5}),
        (_sweep(tmp_path).path, "sweep.json", {"trials": ["key"]}),
        (trial, "config.json", {"x": 1}),
        (trial, "config.json", {"config": {}, "parent": 5}),
    ):
        (folder / CHECKSUMS).unlink(missing_ok=True)
        (folder / name).write_text(json.dumps(content))
        intact, said = _check(tmp_path)
        assert not intact and f"damaged: {folder / name}: it cannot be read" in said


# -- storages that cannot be written to or reached ---------------------------------------------------------------------------


def test_a_read_only_storage_is_checked_to_its_end(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = TrialStore(tmp_path)
    for trial in plan.trials.values():
        (store.folder(trial.key) / "trained.json").write_text("{")
    (_sweep(tmp_path).path / CHECKSUMS).unlink()

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    for module in (locks, checked_folder, trial_store):
        monkeypatch.setattr(module, "file_lock", refuse)
    for name in ("ensure_dir", "atomic_write"):
        monkeypatch.setattr(checked_folder, name, refuse)
    intact, said = _check(tmp_path)
    assert not intact and said.count("it could not be moved aside (Read-only file system)") == 2


class _Unreachable:
    """A store behind a URL, whose library raises an error of its own."""

    def __truediv__(self, _: str) -> _Unreachable:
        return self

    def is_file(self) -> bool:
        return False

    def read_bytes(self) -> bytes:
        raise RuntimeError("Could not connect to the endpoint URL")

    iterdir = read_bytes


def test_a_store_that_cannot_be_reached_is_wrong_input_or_an_error_of_the_system() -> None:
    store: Any = _Unreachable()
    with pytest.raises(InputError, match=r"--storage .*: it cannot be read \(OSError: .*Could not connect"):
        check_storage(store, print)
    for read in (TrialStore(store).trial_keys, lambda: TrialStore(store).read("key").stored_names):
        with pytest.raises(OSError, match="Could not connect"):
            read()
