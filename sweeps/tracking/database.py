"""MLflow's SQLite database: created whole or not at all, and written by one process of a machine at a time."""

from __future__ import annotations

import shutil
from contextlib import AbstractContextManager
from pathlib import Path

from core.atomic_files import atomic_write
from core.locks import file_lock, remove_scratch, scratch_folder

_SQLITE = "sqlite:///"


def database_file(uri: str) -> Path | None:
    """Return the file that a SQLite URI names; None for a server or another kind of database."""
    if not uri.startswith(_SQLITE):
        return None
    if "%" in uri:  # which of them are decoded depends on SQLAlchemy's version
        from sqlalchemy.engine import make_url

        return Path(make_url(uri).database or "")
    return Path(uri.removeprefix(_SQLITE).partition("?")[0])


def writer_lock(uri: str, storage: Path) -> AbstractContextManager[None]:
    """Return a lock that only one process of this machine holds at a time; between machines, MLflow's server orders writes."""
    if (file := database_file(uri)) is not None:
        return file_lock(file.with_name(f"{file.name}.lock"))
    return file_lock(storage / "mlflow.lock")


def create_database(path: Path) -> None:
    """Create a SQLite file with MLflow's tables, unless it exists.

    The tables are made in a scratch copy, because MLflow cannot use a file that a killed process left incomplete.
    """
    from mlflow import MlflowClient

    remove_scratch(path.parent, "mlflow")
    if path.exists():
        return
    with scratch_folder(path.parent, "mlflow") as folder:
        MlflowClient(f"{_SQLITE}{folder / path.name}").search_experiments()
        with atomic_write(path) as temporary:
            shutil.copyfile(folder / path.name, temporary)
