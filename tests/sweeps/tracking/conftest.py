"""A database of MLflow's, made once: making its tables takes seconds."""

from __future__ import annotations

from pathlib import Path

import pytest

from sweeps.tracking.database import create_database


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with MLflow's tables and no runs, to be copied."""
    file = tmp_path_factory.mktemp("database") / "mlflow.db"
    create_database(file)
    return file
