"""After a storage was moved, MLflow's records of its artifacts follow: their addresses in the database are absolute."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from sweeps.tracking.database import database_file


def follow_storage(uri: str, storage: Path) -> str | None:
    """Change the addresses of artifacts in a database that are in the storage's former place; all of them or none.

    An experiment counts as moved if artifacts of its runs are in this storage, and not where the database says. In a database
    that lies in the storage itself, it also counts if this is a copy, or if there are no artifacts yet.

    Args:
        uri: a database that MLflow has made.
        storage: where the storage is now, absolute; a folder.

    Returns:
        What to say; None if nothing was changed.
    """
    import sqlalchemy as sa

    engine = sa.create_engine(uri, poolclass=sa.NullPool)
    artifacts, changed = storage / "artifacts", []
    database = database_file(uri)
    inside = database is not None and database.resolve().is_relative_to(storage)
    with engine.begin() as connection:
        if not sa.inspect(connection).has_table("experiments"):
            return None
        for experiment, location in _moved(connection, artifacts, inside=inside):
            _rewrite(connection, experiment, location, artifacts.as_uri())
            changed.append(location)
    if not changed:
        return None
    places = ", ".join(sorted({str(_folder(location)) for location in changed}))
    return f"MLflow: the storage was moved; artifacts that were recorded in {places} are now recorded in {artifacts}"


def _moved(connection: Any, artifacts: Path, *, inside: bool) -> list[tuple[Any, str]]:
    """Return id and location of the experiments of ours whose artifacts are in this storage, and recorded elsewhere."""
    import sqlalchemy as sa

    ours = connection.execute(sa.text(
        "SELECT DISTINCT experiments.experiment_id, experiments.artifact_location, runs.run_uuid FROM experiments "
        "JOIN runs ON runs.experiment_id = experiments.experiment_id JOIN tags ON tags.run_uuid = runs.run_uuid "
        "WHERE tags.key = 'role' AND tags.value IN ('sweep', 'trial')"
    )).all()  # fmt: skip
    runs: dict[tuple[Any, str], list[str]] = {}
    for experiment, location, run in ours:
        runs.setdefault((experiment, location), []).append(run)
    elsewhere = {at: names for at, names in runs.items() if _folder(at[1]) not in (None, artifacts)}
    only = len({location for _, location in runs}) == 1
    return [
        at
        for at, names in elsewhere.items()
        if (old := _folder(at[1])) is not None
        and _is_moved(_any_in(artifacts, names), _any_in(old, names), inside=inside, only=only)
    ]


def _is_moved(here: bool, there: bool, *, inside: bool, only: bool) -> bool:
    if inside:
        return here or (only and not there)
    return here and not there


def _any_in(folder: Path, names: list[str]) -> bool:
    return any((folder / name).is_dir() for name in names)


def _folder(location: str) -> Path | None:
    """Return the folder that a location names; None if it is no folder of this machine."""
    if location.startswith("/"):
        return Path(location)
    return Path(unquote(urlsplit(location).path)) if location.startswith("file:") else None


def _rewrite(connection: Any, experiment: Any, old: str, new: str) -> None:
    """Replace the beginning of every address of an experiment's artifacts."""
    import sqlalchemy as sa

    here = sa.column("experiment_id") == experiment
    for name, column, which in (
        ("experiments", "artifact_location", here), ("runs", "artifact_uri", here),
        ("logged_models", "artifact_location", here), ("model_versions", "source", None),
        ("model_versions", "storage_location", None),
    ):  # fmt: skip
        if not sa.inspect(connection).has_table(name):
            continue
        value: Any = sa.column(column)
        table = sa.table(name, value, sa.column("experiment_id"))
        rest = sa.func.substr(value, len(old) + 1)
        matching = sa.and_(sa.func.substr(value, 1, len(old)) == old, sa.or_(rest == "", sa.func.substr(rest, 1, 1) == "/"))
        changed = sa.literal(new, sa.String).concat(rest)
        where = matching if which is None else sa.and_(matching, which)
        connection.execute(sa.update(table).where(where).values({column: changed}))
