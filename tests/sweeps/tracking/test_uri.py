"""Faults of a server or database that are known in seconds: named before anything starts, with the remedy, no password."""

from __future__ import annotations

import base64
import shutil
import sqlite3
import sys
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from mlflow.store.db.utils import _get_latest_schema_revision

from core.errors import InputError
from sweeps.storage.trial_store import TrialStore
from sweeps.tracking import queued_writer, server_check, uri
from sweeps.tracking.database_check import schema_versions, sql_problem
from sweeps.tracking.parent_run import SweepSummary
from sweeps.tracking.queued_writer import QueuedWriter
from sweeps.tracking.runs import RunWriter
from tests.servers import server_of_health
from tests.sweeps.tiny import arm, tiny_plan

HTML = (200, "text/html", b"<html>Please log in</html>")
USER = {"MLFLOW_TRACKING_USERNAME": "me", "MLFLOW_TRACKING_PASSWORD": "from the environment"}


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.mark.parametrize(
    ("user", "environment", "answer", "message"),
    [
        ("", {}, (401, "text/plain", b"who?"), "asks who you are.*MLFLOW_TRACKING_USERNAME"),
        ("me:s3cret-pw@", {}, (401, "text/plain", b"no"), r"me:\*\*\*@127.*refuses this user and password"),
        ("", USER, (401, "text/plain", b"no"), "refuses the user and password of MLFLOW_TRACKING_USERNAME"),
        ("", {"MLFLOW_TRACKING_TOKEN": "t"}, (401, "text/plain", b"no"), "refuses the token of MLFLOW_TRACKING_TOKEN"),
        ("", {}, (403, "text/plain", b"Invalid Host header"), "does not permit it .status 403: Invalid Host header"),
        ("", {}, HTML, "no MLflow server .status 200, text/html"),
        ("", {}, (404, "text/html", b"<html>"), "no MLflow server .status 404"),
        ("", {}, (200, "application/json", b"[]"), "no MLflow server"),
        ("", {}, (500, "text/plain", b"Internal Server Error"), "status 500: Internal Server Error"),
    ],
)
def test_a_server_that_does_not_let_us_in_or_is_no_mlflow_is_refused(
    user: str, environment: dict[str, str], answer: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with server_of_health() as server:
        server.answer = answer  # type: ignore[attr-defined]
        with pytest.raises(InputError, match=message) as caught:
            uri.check_uri(f"http://{user}127.0.0.1:{server.server_port}")
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(("user", "environment"), [("me:p%40ss@", {}), ("", USER), ("", {"MLFLOW_TRACKING_TOKEN": "tok"})])
def test_user_and_password_go_to_health_as_well(
    user: str, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with server_of_health() as server:
        uri.check_uri(f"http://{user}127.0.0.1:{server.server_port}/")
    basic = "me:p@ss" if user else "me:from the environment"
    sent = "Bearer tok" if "MLFLOW_TRACKING_TOKEN" in environment else f"Basic {base64.b64encode(basic.encode()).decode()}"
    assert server.heard == [("/health", sent), ("/api/2.0/mlflow/experiments/search", sent)]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[mlflow]\nmlflow_tracking_username = me\nmlflow_tracking_password = 50%off", "write %% for each %"),
        ("me 50%off", r"lines of the form name = value are needed, below a line \[mlflow\]"),
    ],
)
def test_a_file_of_credentials_that_mlflow_cannot_read_is_named(content: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "home" / ".mlflow" / "credentials"
    file.parent.mkdir(parents=True)
    file.write_text(content)
    with pytest.raises(InputError, match=f"MLflow cannot read ~/.mlflow/credentials: {message}") as caught:
        uri.check_uri("http://127.0.0.1:9")
    assert "off" not in str(caught.value)
    assert "no MLflow server answers" in str(server_check.away("http://127.0.0.1:9")), "and ends no thread during a sweep"


def test_a_proxy_that_is_in_the_way_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("http_proxy", "http://user:hidden-pw@127.0.0.1:9")
    with pytest.raises(InputError, match="through the proxy that http_proxy names") as caught:
        uri.check_uri("http://127.0.0.1:5000")
    assert "hidden-pw" not in str(caught.value)


def test_a_variable_of_mlflows_that_is_not_followed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert uri.notes(None) == []
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@there")
    assert uri.notes(None) == ["MLFLOW_TRACKING_URI=http://me:***@there is not followed; give it as --tracking-uri"]
    assert uri.notes("http://other") and uri.notes("http://me:secret@there") == []


def test_what_is_printed_to_look_at_runs_has_no_password() -> None:
    assert uri.ui_command("http://me:secret@there:5000/") == "open http://there:5000"
    shown = uri.ui_command("postgresql://me:secret@there/runs")
    assert "'postgresql://me:***@there/runs'  # *** stands for the password" in shown and "secret" not in shown


def test_the_newest_version_of_the_tables_is_the_one_that_mlflow_expects() -> None:
    known, newest = schema_versions()
    assert newest == _get_latest_schema_revision() and newest in known and len(known) > 20


def test_tables_of_another_mlflow_are_refused_with_the_command_that_mends_it(tmp_path: Path, empty_database: Path) -> None:
    file = tmp_path / "mlflow.db"
    shutil.copy(empty_database, file)
    uri.check_uri(f"sqlite:///{file}")
    for version, message in (
        (
            "451aebb31d03",
            rf"older MLflow .version 451aebb31d03.*cp {file} {file}.backup && mlflow db upgrade sqlite:///{file}$",
        ),
        ("ffffffffffff", r"newer MLflow, or of another program .version ffffffffffff.*pip install --upgrade mlflow"),
    ):
        with closing(sqlite3.connect(file)) as database, database:
            database.execute("UPDATE alembic_version SET version_num = ?", (version,))
        with pytest.raises(InputError, match=message):
            uri.check_uri(f"sqlite:///{file}")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            "postgresql+psycopg2://me:secret@127.0.0.1:1/db",
            "driver psycopg2 is missing; install it: pip install psycopg2-binary",
        ),
        ("mysql+pymysql://me:secret@127.0.0.1:1/db", "driver pymysql is missing; install it: pip install pymysql"),
        ("postgresql+nonsense://me:secret@127.0.0.1/db", "SQLAlchemy cannot use it"),
        ("sqlite:////dev/null/x.db", "/dev/null cannot be written to"),
    ],
)
def test_a_database_that_cannot_be_reached_is_refused(given: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("psycopg2", "pymysql"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=message) as caught:
        uri.check_uri(given)
    assert "secret" not in str(caught.value)


def test_what_the_driver_says_of_a_database_that_cannot_be_opened_is_told_on_one_line(tmp_path: Path) -> None:
    """Asked of SQLite, whose driver is always there."""
    problem = sql_problem(f"sqlite:///{tmp_path}/none/x.db")
    assert problem == "the database cannot be opened (unable to open database file)"


def test_a_database_that_another_process_has_locked_is_waited_for(
    tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queued_writer, "_PAUSE", 0.05)
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    plan, said = tiny_plan(tmp_path, {}), list[str]()
    tracker = QueuedWriter(f"sqlite:///{tmp_path / 'mlflow.db'}", plan, TrialStore(tmp_path), "x", said.append)
    tracker.on_trial_start(arm(plan, "base"))
    locked, free = threading.Event(), threading.Event()

    def holder() -> None:
        with closing(sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None)) as database:
            database.execute("BEGIN EXCLUSIVE")
            locked.set()
            free.wait(60)
            database.execute("ROLLBACK")

    def write() -> None:
        if not locked.is_set():
            thread.start()
            locked.wait(60)
        with closing(sqlite3.connect(tmp_path / "mlflow.db", timeout=0.1)) as database, database:
            if any("locked by another process" in line for line in said):
                free.set()
                time.sleep(0.2)
            database.execute("UPDATE experiments SET name = name")

    thread = threading.Thread(target=holder)
    tracker._tell("", write)
    tracker.close(SweepSummary("FINISHED", {"trials_done": 1.0}, 1.0, ()))
    thread.join()
    assert tracker.problem is None and len([line for line in said if "locked by another process" in line]) == 1


def test_a_password_is_in_nothing_that_the_tracker_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: RunWriter) -> None:
        raise ValueError("cannot open postgresql://me:top-secret@there/db with top-secret")

    monkeypatch.setattr(RunWriter, "open", fail)
    said: list[str] = []
    tracker = QueuedWriter(
        "postgresql://me:top-secret@there/db", tiny_plan(tmp_path, {}), TrialStore(tmp_path), "x", said.append
    )
    tracker.close(SweepSummary("FINISHED", {}, 0.0, ()))
    assert tracker.problem == "ValueError: cannot open postgresql://me:***@there/db with ***" and said
    assert "top-secret" not in "".join(said)
