"""``--check``: reads every file of a storage, and says which are not what was written."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

from core.atomic_files import read_file
from core.errors import InputError
from core.paths import is_remote
from sweeps.storage.checked_folder import ASIDE, CheckedFolder, DamagedFileError
from sweeps.storage.trial_state import TrialState, parse_mapping
from sweeps.storage.trial_store import OTHER_PARENT, TrialStore

Say = Callable[[str], None]


@dataclass
class _Found:
    """What a check has found so far."""

    files: int = 0
    size: int = 0
    recorded: int = 0
    damaged: int = 0
    beyond_repair: int = 0
    sweeps: set[str] = field(default_factory=set)


def check_storage(storage: Path, say: Say) -> bool:
    """Read every file of a storage; move damaged ones aside, so that the next command makes them again.

    Files of earlier versions of this program have no checksums; those that can be read get one.

    Args:
        storage: the storage.
        say: called with each line of the result.

    Returns:
        Whether everything is as it was written.

    Raises:
        InputError: if there is no such storage.
    """
    store, found = TrialStore(storage), _Found()
    sweeps = sorted(path for path in _listing(storage / "sweeps") if path.is_dir())
    keys = store.trial_keys()
    if not keys and not sweeps:
        raise InputError(f"--storage {storage}: no trials and no sweeps there")
    members = _members(sweeps)
    for key in keys:
        if _check_trial(store, key, found, say):
            found.sweeps |= members.get(key, set())
    for folder in sweeps:
        _check_sweep(folder, found, say)
    if not is_remote(storage) and (storage / "mlflow.db").is_file():
        _check_database(storage / "mlflow.db", found, say)
    say(f"{len(keys)} trials and {len(sweeps)} sweeps, {found.files} files, {found.size / 1e6:.1f} MB read")
    if found.recorded:
        say(f"{found.recorded} files had no checksum yet and could be read: recorded now")
    if found.damaged:
        of = f" (of {', '.join(sorted(found.sweeps))})" if found.sweeps else ""
        say(f"{found.damaged} damaged: the commands of their sweeps{of}, run again, make them again")
    if not found.damaged and not found.beyond_repair:
        say("everything is as it was written")
    return not found.damaged and not found.beyond_repair


def _members(sweeps: list[Path]) -> dict[str, set[str]]:
    """Trial key -> the sweeps that contain it, by their ``sweep.json``."""
    members: dict[str, set[str]] = {}
    for folder in sweeps:
        with suppress(DamagedFileError):
            for key in (CheckedFolder(folder).load("sweep.json", parse_mapping) or {}).get("trials", {}):
                members.setdefault(key, set()).add(folder.name)
    return members


def _check_trial(store: TrialStore, key: str, found: _Found, say: Say) -> bool:
    """Check a trial; return whether anything of it was damaged."""
    state = store.read(key)
    damage = dict(state.verify(checkpoint=True))
    names = state.stored_names
    found.files += len(names)
    found.size += sum((state.files.path / name).stat().st_size for name in names)
    parent = (state.config or {}).get("parent")
    other_parent = store.trained_with_another_parent(parent, state)
    if not damage and not other_parent:
        found.recorded += _record(state)
        return False
    with store.lock(key, lambda: say(f"waiting for the process that works on trial {key}")):
        state = store.read(key)
        if store.trained_with_another_parent(parent, state):
            say(f"damaged: {state.files.path}: {OTHER_PARENT}; moved to {ASIDE}/ there")
            for name in state.stored_names:
                state.files.set_aside(name)
            found.damaged += 1
            return True
        for name, reason in dict(state.verify(checkpoint=True)).items():
            _aside(state.files, name, reason, found, say)
        found.recorded += _record(state)
    return True


def _check_sweep(folder: Path, found: _Found, say: Say) -> None:
    files = CheckedFolder(folder)
    if files.problem:
        _aside(files, "checksums.json", files.problem, found, say)
    for name in files.names:
        try:
            content = files.read(name)
        except DamagedFileError as error:
            found.sweeps.add(folder.name)
            _aside(files, name, error.reason, found, say)
        else:
            found.files += content is not None
            found.size += len(content or b"")
    for path in _listing(folder):
        if path.suffix == ".journal":
            found.files += 1
            if (problem := journal_problem(path)) is not None:
                found.beyond_repair += 1
                say(f"damaged: {problem}")


def journal_problem(path: Path) -> str | None:
    """Return what is wrong with the journal of a search, and what can be done; None if its lines can be read.

    An incomplete last line, which a killed process leaves, is none: the next command cuts it off.
    """
    content = read_file(path) or b""
    for number, line in enumerate(content[: content.rfind(b"\n") + 1].splitlines(), 1):
        try:
            parse_mapping(line)
        except ValueError:
            return (
                f"{path}: line {number} of the search's journal is no JSON. It is the only record of the points that were "
                "drawn, and cannot be made again. Restore it, or move it away: the search then begins anew, and does not "
                "train again what is in the storage"
            )
    return None


def _check_database(path: Path, found: _Found, say: Say) -> None:
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=60)) as database:
            results = [row[0] for row in database.execute("PRAGMA integrity_check(1)")]
    except sqlite3.Error as error:
        results = [str(error)]
    found.files += 1
    found.size += path.stat().st_size
    if results != ["ok"]:
        found.beyond_repair += 1
        say(
            f"damaged: {path}: {' '.join(map(str, results))}. MLflow's database cannot be mended here: restore it, or move it "
            "away: the next command of each sweep then writes the sweep's runs anew, without what was noted by hand"
        )


def _aside(files: CheckedFolder, name: str, reason: str, found: _Found, say: Say) -> None:
    found.damaged += 1
    try:
        where = f"moved to {files.set_aside(name)}"
    except OSError as error:
        where = f"it could not be moved aside ({error.strerror})"
    say(f"damaged: {files.path / name}: {reason}; {where}")


def _record(state: TrialState) -> int:
    """Record missing checksums; return how many. In a storage that cannot be written to, none."""
    with suppress(PermissionError):
        return state.record_missing(checkpoint=True)
    return 0


def _listing(folder: Path) -> Iterator[Path]:
    with suppress(FileNotFoundError, NotADirectoryError):
        yield from sorted(folder.iterdir())
