"""``--check``: reads every file of a storage, and says which are not what was written."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

from core.atomic_files import as_os_errors, list_folder, read_file
from core.errors import InputError
from core.paths import is_remote
from sweeps.storage.checked_folder import ASIDE, CHECKSUMS, CheckedFolder, DamagedFileError
from sweeps.storage.location import check_folder
from sweeps.storage.parsers import PARSERS
from sweeps.storage.records import TrialStatus
from sweeps.storage.trial_state import GONE, TrialState, parse_mapping
from sweeps.storage.trial_store import OTHER_PARENT, TrialStore

Say = Callable[[str], None]

#: The files that this program writes into a sweep's folder; a user may keep others there.
_SWEEP_FILES = (
    "contrasts.csv", "looks.json", "points.csv", "report.html", "sweep.json", "table.csv", "table.tex", "trials.csv",
    "until-decided.json",
)  # fmt: skip
_SQLITE_SECONDS = 60
#: What SQLite answers if it could not look at a database: it says nothing about what is in it.
_NOT_LOOKED_AT = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN)


@dataclass
class _Found:
    """What a check has found so far."""

    files: int = 0
    size: int = 0
    recorded: int = 0
    damaged: int = 0
    missing: int = 0
    aside: int = 0
    beyond_repair: int = 0
    unchecked: int = 0
    sweeps: set[str] = field(default_factory=set)

    @property
    def intact(self) -> bool:
        """Whether everything is as it was written."""
        return not (self.damaged or self.missing or self.beyond_repair or self.unchecked)


def check_storage(storage: Path, say: Say) -> bool:
    """Read every file of a storage; move damaged ones aside, so that the next command makes them again.

    Files of earlier versions of this program have no checksums; those that can be read get one.

    Args:
        storage: the storage.
        say: called with each line of the result.

    Returns:
        Whether everything is as it was written.

    Raises:
        InputError: if there is no such storage, or it cannot be read.
        OSError: if it cannot be read any more.
    """
    check_folder("--storage", storage, write=False)
    store, found = TrialStore(storage), _Found()
    with as_os_errors(storage):
        sweeps = [path for path in list_folder(storage / "sweeps") if path.is_dir()]
    keys = store.trial_keys()
    if not keys and not sweeps:
        raise InputError(f"--storage {storage}: no trials and no sweeps there")
    members = _members(sweeps)
    for key in sorted(members.keys() - set(keys)):
        found.missing += 1
        found.sweeps |= members[key]
        say(f"missing: {store.folder(key)}: a finished trial of {', '.join(sorted(members[key]))}, and gone")
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
    if again := [f"{number} {what}" for what, number in (("damaged", found.damaged), ("missing", found.missing)) if number]:
        of = f" (of {', '.join(sorted(found.sweeps))})" if found.sweeps else ""
        say(f"{' and '.join(again)}: the commands of their sweeps{of}, run again, make them again")
    if found.aside:
        say(f"{found.aside} damaged files were moved aside earlier and are not made again, because no command needed them yet")
    if found.intact:
        say("everything that is there is as it was written" if found.aside else "everything is as it was written")
    return found.intact


def _members(sweeps: list[Path]) -> dict[str, set[str]]:
    """Key of a finished trial -> the sweeps that contain it, by their ``sweep.json``."""
    members: dict[str, set[str]] = {}
    for folder in sweeps:
        with suppress(DamagedFileError):
            for key in CheckedFolder(folder).load("sweep.json", _parse_members) or ():
                members.setdefault(key, set()).add(folder.name)
    return members


def _parse_members(content: bytes) -> list[str]:
    """Return the keys of a sweep's finished trials. Raises ValueError if it is no ``sweep.json``."""
    trials = parse_mapping(content).get("trials", {})
    if not isinstance(trials, dict):
        raise ValueError("no trials of a sweep")  # noqa: TRY004 (the content is wrong, not an argument)
    return [key for key, about in trials.items() if isinstance(about, list) and TrialStatus.DONE in about[1:2]]


def _check_trial(store: TrialStore, key: str, found: _Found, say: Say) -> bool:
    """Check a trial; return whether anything of it was damaged or missing."""
    state = store.read(key)
    damage = dict(state.verify(checkpoint=True))
    names = state.stored_names
    found.files += len(names)
    found.size += sum(_size(state.files.path / name) for name in names)
    parent = (state.config or {}).get("parent")
    found.aside += len(state.not_made_again())
    if (
        not damage
        and not state.missing()
        and not state.lacks_checksums
        and not store.trained_with_another_parent(parent, state)
    ):
        found.recorded += _record(state)
        return False
    with ExitStack() as held:
        with suppress(OSError):  # a storage that cannot be written to: nothing is moved
            held.enter_context(store.lock(key, lambda: say(f"waiting for the process that works on trial {key}")))
        state = store.read(key)
        if store.trained_with_another_parent(parent, state):
            _all_aside(state, found, say)
            return True
        for name, reason in dict(state.verify(checkpoint=True)).items():
            _aside(state.files, name, reason, found, say)
        for name in state.missing():
            _missing(state.files, name, found, say)
        if state.lacks_checksums:
            _missing(state.files, CHECKSUMS, found, say)
        found.recorded += _record(state)
    return True


def _size(path: Path) -> int:
    with suppress(FileNotFoundError), as_os_errors(path):  # a running command may have replaced it
        return path.stat().st_size
    return 0


def _check_sweep(folder: Path, found: _Found, say: Say) -> None:
    files = CheckedFolder(folder)
    if files.problem:
        _aside(files, CHECKSUMS, files.problem, found, say)
    there = [path.name for path in list_folder(folder)]
    for name in sorted({*files.names, *(name for name in _SWEEP_FILES if name in there)}):
        try:
            size = files.load(name, _parser_of_length(name))
        except DamagedFileError as error:
            found.sweeps.add(folder.name)
            _aside(files, name, error.reason, found, say)
            continue
        if size is not None:
            found.files += 1
            found.size += size
            found.recorded += _record_of_sweep(files, name)
        elif not files.is_aside(name):
            found.sweeps.add(folder.name)
            _missing(files, name, found, say)
    for path in list_folder(folder):
        if path.suffix == ".journal":
            found.files += 1
            found.size += _size(path)
            if (problem := journal_problem(path)) is not None:
                found.beyond_repair += 1
                say(f"damaged: {problem}")


def _parser_of_length(name: str) -> Callable[[bytes], int]:
    """Return what parses a file of a sweep and returns how long it is."""
    parse = _parse_members if name == "sweep.json" else PARSERS.get(Path(name).suffix, bytes.decode)

    def length(content: bytes) -> int:
        parse(content)
        return len(content)

    return length


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
    found.files += 1
    found.size += _size(path)
    try:
        # Not read-only: opening the file must roll back a transaction that a killed process left incomplete.
        address = f"{path.resolve().as_uri()}?mode=rw"
        with closing(sqlite3.connect(address, uri=True, timeout=_SQLITE_SECONDS)) as database:
            results = [row[0] for row in database.execute("PRAGMA integrity_check(1)")]
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in _NOT_LOOKED_AT:
            found.unchecked += 1
            say(f"not checked: {path}: {error}; check again where it can be written to and no other process writes to it")
            return
        results = [str(error)]
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


def _all_aside(state: TrialState, found: _Found, say: Say) -> None:
    """Set a trial aside that was trained with another encoder of its parent than the present one."""
    found.damaged += 1
    where = f"moved to {ASIDE}/ there"
    try:
        for name in state.stored_names:
            state.files.set_aside(name)
    except OSError as error:
        where = f"it could not be moved aside ({error.strerror})"
    say(f"damaged: {state.files.path}: {OTHER_PARENT}; {where}")


def _missing(files: CheckedFolder, name: str, found: _Found, say: Say) -> None:
    found.missing += 1
    say(f"missing: {files.path / name}: {GONE}")


def _record(state: TrialState) -> int:
    """Record missing checksums; return how many. In a storage that cannot be written to, none."""
    with suppress(OSError):
        return state.record_missing(checkpoint=True)
    return 0


def _record_of_sweep(files: CheckedFolder, name: str) -> int:
    """Record the checksum of a sweep's file that has none; return how many were recorded, as :func:`_record`."""
    if files.digest(name) is None:
        with suppress(OSError):
            files.record(name)
            return 1
    return 0
