"""Whether MLflow can use a database: file, driver, connection, and the version of its tables. Does not import mlflow."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import sqlite3
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sweeps.masking import mask
from sweeps.storage.location import takes_no_file
from sweeps.tracking.database import database_file

_SECONDS = 5
#: Module of a database driver -> the package to install, where their names differ.
_PACKAGES = {"psycopg2": "psycopg2-binary", "psycopg": "'psycopg[binary]'", "MySQLdb": "mysqlclient"}
#: Drivers that take the argument ``connect_timeout``; without it a host that drops packets is waited for for minutes.
_WITH_TIMEOUT = ("psycopg2", "psycopg", "pymysql", "mysqldb")


def sqlite_problem(uri: str) -> str | None:
    """Return why MLflow cannot use a SQLite file, with the remedy, or None; a missing file can be made."""
    file = database_file(uri)
    assert file is not None
    if file == Path() or file.name.endswith(":memory:") or "mode=memory" in uri.partition("?")[2]:
        return "such a database is in memory, and lost when the command ends; give sqlite:///FILE"
    folder = file.parent
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    if not (existing.is_dir() and os.access(existing, os.W_OK)):
        return f"{existing} cannot be written to"
    if reason := takes_no_file(existing):
        return f"{existing} cannot be written to ({reason})"
    if not file.exists():
        return None
    if file.is_file() and not os.access(file, os.R_OK | os.W_OK):
        return f"{file} cannot be written to; make it writable: chmod u+rw {shlex.quote(str(file))}"
    try:
        # Not read-only: opening the file must roll back a transaction that a killed process left incomplete.
        address = f"{file.resolve().as_uri()}?mode=rw"
        with contextlib.closing(sqlite3.connect(address, uri=True, timeout=_SECONDS)) as database:
            tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            found = [row[0] for row in database.execute("SELECT version_num FROM alembic_version")] if (
                "alembic_version" in tables
            ) else []  # fmt: skip
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY:
            return None  # another process writes; MLflow's thread waits for it while trials run
        return f"{file} is no SQLite database ({error})"
    return _schema_problem(found, uri)


def sql_problem(uri: str) -> str | None:
    """Return why MLflow cannot use another database, with the remedy, or None."""
    import sqlalchemy
    from sqlalchemy import exc

    try:
        url = sqlalchemy.engine.make_url(uri)
        dialect = url.get_dialect()
        dialect.import_dbapi()
    except ModuleNotFoundError as error:
        module = str(error.name)
        return f"Python's driver {module} is missing; install it: pip install {_PACKAGES.get(module, module)}"
    except (exc.ArgumentError, exc.NoSuchModuleError, ValueError) as error:
        return f"SQLAlchemy cannot use it ({error})"
    arguments = {"connect_timeout": _SECONDS} if dialect.driver in _WITH_TIMEOUT and not url.query else {}
    engine = sqlalchemy.create_engine(url, connect_args=arguments, poolclass=sqlalchemy.NullPool)
    try:
        with engine.connect() as connection:
            found = _versions(connection)
    except exc.SQLAlchemyError as error:
        return f"the database cannot be opened ({_words(error)})"
    return _schema_problem(found, uri)


def _versions(connection: Any) -> list[str]:
    import sqlalchemy

    if not sqlalchemy.inspect(connection).has_table("alembic_version"):
        return []
    return [row[0] for row in connection.execute(sqlalchemy.text("SELECT version_num FROM alembic_version"))]


def _words(error: BaseException) -> str:
    """Return what the database's driver said, on one line and without the statement that SQLAlchemy adds."""
    return " ".join(str(getattr(error, "orig", None) or error).split())


def _schema_problem(found: Sequence[str], uri: str) -> str | None:
    """Return why MLflow would refuse a database whose tables have these versions; it is what MLflow checks, but at once."""
    known, newest = schema_versions()
    if not found or newest is None or list(found) == [newest]:
        return None
    if not set(found) <= known:
        return (
            f"its tables are those of a newer MLflow, or of another program (version {', '.join(found)} is unknown to the "
            "MLflow that is installed); update it (pip install --upgrade mlflow), or name another database"
        )
    file = database_file(uri)
    backup = f"cp {shlex.quote(str(file))} {shlex.quote(f'{file}.backup')} && " if file is not None else ""
    first = "" if file is not None else " make a backup, then"
    return (
        f"its tables are those of an older MLflow (version {', '.join(found)}, not {newest});{first} run: "
        f"{backup}mlflow db upgrade {shlex.quote(mask(uri))}"
    )


def schema_versions() -> tuple[frozenset[str], str | None]:
    """Return all versions of a database that the installed MLflow knows, and the newest (None: MLflow lays them out otherwise).

    They are read from the heads of MLflow's migration scripts, because importing MLflow takes seconds.
    """
    found = find_spec("mlflow")
    places = list(found.submodule_search_locations or ()) if found is not None else []
    versions: set[str] = set()
    succeeded: set[str] = set()
    for script in (path for place in places for path in Path(place, "store", "db_migrations", "versions").glob("*.py")):
        for name, value in re.findall(
            r"^(revision|down_revision)\b[^=\n]*=(.*)$", script.read_text(encoding="utf-8"), re.MULTILINE
        ):
            (versions if name == "revision" else succeeded).update(re.findall(r"[\"'](\w+)[\"']", value))
    newest = versions - succeeded
    return frozenset(versions), newest.pop() if len(newest) == 1 else None
