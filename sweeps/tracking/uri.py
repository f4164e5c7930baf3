"""The tracking URI: its default, whether it can be used, and how to open MLflow's UI on it. Does not import mlflow."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import shlex
import shutil
import sqlite3
import sys
import urllib.error
import urllib.request
from pathlib import Path

from core.errors import InputError
from core.paths import expand_home, is_remote

_HEALTH_SECONDS = 5.0


def resolve_uri(given: str | None, storage: Path) -> str:
    """Return the URI to use: the given one, with the home folder in place of ``~``; else a SQLite file in the storage.

    Raises:
        InputError: if there is no such home folder, or no database can be kept in the storage.
    """
    if given is None:
        return default_uri(storage)
    if given.startswith("sqlite:///~"):
        return f"sqlite:///{expand_home(given.removeprefix('sqlite:///'))}"
    return given


def default_uri(storage: Path) -> str:
    """Return the URI of a SQLite file in the storage.

    Raises:
        InputError: if the storage is a URL, where no SQLite file can be kept, or has a name that a URI cannot have.
    """
    if is_remote(storage):
        raise InputError(
            f"--tracking-uri: it is missing; no database can be kept in {storage}, so name an MLflow server (http://...)"
        )
    path = (storage / "mlflow.db").resolve()
    if found := re.search(r"\?|%[0-9a-fA-F]{2}", str(path)):
        raise InputError(
            f"--storage {storage}: because of {found[0]!r} in its path, MLflow would look for its database elsewhere; name "
            "another folder, or a database with --tracking-uri"
        )
    return f"sqlite:///{path}"


def check_uri(uri: str) -> None:
    """Raise InputError if MLflow cannot use the URI; a server's health is checked once, with a timeout of 5 s."""
    if uri.startswith(("http://", "https://")):
        try:
            with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=_HEALTH_SECONDS) as answer:
                if answer.status != 200:
                    raise InputError(f"--tracking-uri {uri}: the server is not healthy (status {answer.status})")
        except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise InputError(f"--tracking-uri {uri}: no MLflow server answers at /health ({reason})") from None
    elif uri.startswith("sqlite:///"):
        file = Path(uri.removeprefix("sqlite:///"))
        folder = file.parent
        existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
        if not (existing.is_dir() and os.access(existing, os.W_OK)):
            raise InputError(f"--tracking-uri {uri}: {existing} cannot be written to")
        if file.exists():
            try:
                # Not read-only: opening the file must roll back a transaction that a killed process left incomplete.
                with contextlib.closing(sqlite3.connect(f"{file.resolve().as_uri()}?mode=rw", uri=True, timeout=0)) as database:
                    database.execute("PRAGMA schema_version")
            except sqlite3.Error as error:
                if getattr(error, "sqlite_errorcode", 0) & 0xFF != sqlite3.SQLITE_BUSY:  # locked by a writer: MLflow waits
                    raise InputError(f"--tracking-uri {uri}: {file} is no SQLite database ({error})") from None
    elif not re.match(r"^(postgresql|mysql|mssql|databricks)(\+\w+)?:|^databricks$", uri):
        raise InputError(f"--tracking-uri {uri}: give http://..., sqlite:///FILE or another database (not a folder)")


def ui_command(uri: str) -> str:
    """Return the command (or what else to do) to look at the runs in MLflow's UI."""
    if uri.startswith("http"):
        return f"open {uri}"
    program = "mlflow" if shutil.which("mlflow") else str(Path(sys.executable).with_name("mlflow"))
    return shlex.join([program, "ui", "--backend-store-uri", uri])
