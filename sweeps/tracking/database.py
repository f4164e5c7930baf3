"""MLflow's SQLite database: made whole or not at all, and one process of a machine at a time."""

from __future__ import annotations

import shutil
from contextlib import AbstractContextManager
from pathlib import Path

from core.atomic_files import atomic_write, file_lock, remove_scratch, scratch_folder

_SQLITE = "sqlite:///"


def database_file(uri: str) -> Path | None:
    """Return the file of a SQLite URI; None for a server or another database."""
    return Path(uri.removeprefix(_SQLITE).partition("?")[0]) if uri.startswith(_SQLITE) else None


def writer_lock(uri: str, storage: Path) -> AbstractContextManager[None]:
    """Let one process of this machine after another write; processes of several machines are ordered by MLflow's server."""
    if uri.startswith(_SQLITE):
        return file_lock(Path(uri.removeprefix(_SQLITE) + ".lock"))
    return file_lock(storage / "mlflow.lock")


def create_database(path: Path) -> None:
    """Make MLflow's tables in a new SQLite file: MLflow cannot use one that a killed process left half-made."""
    from mlflow import MlflowClient

    remove_scratch(path.parent, ".mlflow-")
    if path.exists():
        return
    with scratch_folder(path.parent, ".mlflow-") as folder:
        MlflowClient(f"{_SQLITE}{folder / path.name}").search_experiments()
        with atomic_write(path) as temporary:
            shutil.copyfile(folder / path.name, temporary)
