"""Kinds of failures of calls to MLflow: those that pass by themselves, and those that repeating the call cannot mend."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import Enum, auto

from sweeps.storage.checked_folder import DamagedFileError


class Kind(Enum):
    """Kind of a failure."""

    PASSING = auto()  # the server or database was away, or overloaded
    LOCKED = auto()  # another process writes to the SQLite file
    GONE = auto()  # what should be written to was deleted
    DAMAGED = auto()  # a file of the storage is not what was written; the next command makes it again
    REFUSED = auto()  # the same call would fail again


_OVERLOADED = (408, 429)


def kind_of(error: Exception) -> Kind:
    """Return the kind of an error."""
    import requests
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import OperationalError

    if isinstance(error, DamagedFileError):
        return Kind.DAMAGED
    text = str(error)
    if "database is locked" in text or "database table is locked" in text:
        return Kind.LOCKED
    if isinstance(error, MlflowException):
        if error.error_code == "RESOURCE_DOES_NOT_EXIST" or "must be in the 'active' state" in text:
            return Kind.GONE
        status = int(error.get_http_status_code())
    elif isinstance(error, requests.HTTPError) and error.response is not None:
        status = error.response.status_code
    else:
        passing = isinstance(error, OperationalError | ConnectionError | TimeoutError | requests.RequestException)
        return Kind.PASSING if passing else Kind.REFUSED
    return Kind.REFUSED if 400 <= status < 500 and status not in _OVERLOADED else Kind.PASSING


@contextmanager
def ended_if_refused(end: Callable[[], object]) -> Iterator[None]:
    """Call ``end`` if the block fails in a way that a repetition cannot mend, so that a run does not seem to go on for ever."""
    try:
        yield
    except Exception as error:
        if kind_of(error) in (Kind.REFUSED, Kind.DAMAGED):
            with suppress(Exception):
                end()
        raise
