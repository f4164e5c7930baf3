"""The tracking URI: its default, whether it can be used, and how to open MLflow's UI on it. Does not import mlflow."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from pathlib import Path

from core.errors import InputError
from core.paths import expand_home, is_remote
from sweeps.masking import MASK, mask
from sweeps.tracking import database_check, server_check

_SQLITE = "sqlite:///"


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
            f"--tracking-uri: it is missing; no database can be kept in {mask(str(storage))}, so name an MLflow server "
            "(http://...)"
        )
    path = (storage / "mlflow.db").resolve()
    if found := re.search(r"\?|%[0-9a-fA-F]{2}", str(path)):
        raise InputError(
            f"--storage {storage}: because of {found[0]!r} in its path, MLflow would look for its database elsewhere; name "
            "another folder, or a database with --tracking-uri"
        )
    return f"sqlite:///{path}"


def is_server(uri: str) -> bool:
    """Return whether the URI is that of an MLflow server, not of a database."""
    return uri.startswith(("http://", "https://"))


def check_uri(uri: str) -> None:
    """Raise InputError if MLflow cannot use the URI; a server or database is asked once, which takes seconds at most."""
    # What has no right scheme may hold a password all the same.
    where = f"--tracking-uri {mask(uri) if '://' in uri else re.sub(r':[^:@]*@', f':{MASK}@', uri)}"
    if is_server(uri):
        problem = server_check.problem(uri)
    elif uri.startswith(_SQLITE):
        problem = database_check.sqlite_problem(uri)
    elif re.match(r"^databricks(\+\w+)?:|^databricks$", uri):
        problem = None
    elif re.match(r"^(postgresql|mysql|mssql)(\+\w+)?:", uri):
        problem = database_check.sql_problem(uri)
    else:
        problem = "give http://..., sqlite:///FILE or another database (not a folder)"
    if problem is not None:
        raise InputError(f"{where}: {mask(problem, uri)}")


def notes(given: str | None) -> list[str]:
    """Return what to say about environment variables: one that MLflow's users know and that is not followed here.

    Args:
        given: the URI that was given on the command line; None: none.
    """
    ignored = os.environ.get("MLFLOW_TRACKING_URI")
    if not ignored or ignored == given:
        return []
    instead = "--tracking-uri is" if given else "give it as --tracking-uri"
    return [f"MLFLOW_TRACKING_URI={mask(ignored)} is not followed; {instead}"]


def address(uri: str) -> str:
    """Return a server's address without the user and password in it, as it is opened in a browser."""
    return re.sub(r"^(https?://)[^/?#]*@", r"\1", uri).rstrip("/")


def ui_command(uri: str) -> str:
    """Return the command (or what else to do) to look at the runs in MLflow's UI."""
    if is_server(uri):
        return f"open {address(uri)}"
    shown = mask(uri)
    hint = f"  # {MASK} stands for the password" if shown != uri else ""
    return shlex.join([_program(), "ui", "--backend-store-uri", shown]) + hint


def _program() -> str:
    return "mlflow" if shutil.which("mlflow") else str(Path(sys.executable).with_name("mlflow"))
