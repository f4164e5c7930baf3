"""A folder whose files have checksums: its ``checksums.json`` holds the SHA-256 of each file written through this class.

A checksum is recorded before its file gets its name, beside that of the file which it replaces. So a crash at any instant
leaves a file that fits one of its recorded checksums. A file without a recorded checksum (an earlier version of this program
wrote none) is not damaged: :meth:`CheckedFolder.record` adds one after the file was read.

Behind a URL the lock holds on one machine alone. If two machines write the same file at once, its checksum may be the other
one's: it then counts as damaged, and is made again.
"""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from core.atomic_files import as_os_errors, atomic_write, parse_arrays, read_file
from core.locks import file_lock
from core.paths import ensure_dir, is_remote, sync_folder

T = TypeVar("T")

CHECKSUMS = "checksums.json"
#: Damaged files are moved to this folder beside them.
ASIDE = "damaged"
_LOCK = ".checksums.lock"
_CHANGED = "its content is not what was written: the SHA-256 differs"


class DamagedFileError(Exception):
    """A file is not what was written, or cannot be read.

    Attributes:
        path: the file.
        reason: what is wrong with it.
    """

    def __init__(self, path: Path, reason: str) -> None:
        self.path, self.reason = path, reason
        super().__init__(f"{path}: {reason}")

    def __reduce__(self) -> tuple[type[DamagedFileError], tuple[Path, str]]:
        return type(self), (self.path, self.reason)


class CheckedFolder:
    """One folder; names are relative to it, with ``/`` between parts. Recorded checksums are cached."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._recorded: dict[str, list[str]] | None = None
        self._problem: str | None = None

    # -- checksums -------------------------------------------------------------------------------------------------------

    def digest(self, name: str) -> str | None:
        """Return the SHA-256 recorded for a file, present or not; None if none is recorded."""
        return next(iter(self._checksums().get(name, ())), None)

    @property
    def names(self) -> list[str]:
        """The names of the files whose checksums are recorded, present or not."""
        return sorted(self._checksums())

    def record(self, name: str) -> None:
        """Record the checksum of a file that could be read and has none."""
        with file_lock(self.path / _LOCK):
            known = self._checksums_to_change()
            if name not in known and (content := read_file(self.path / name)) is not None:
                self._save(known | {name: [hashlib.sha256(content).hexdigest()]})

    def forget(self, name: str) -> None:
        """Remove the checksum of a file that is gone."""
        with file_lock(self.path / _LOCK):
            self._save({other: digests for other, digests in self._checksums_to_change().items() if other != name})

    def remove(self, name: str) -> None:
        """Remove a file that is not needed any more, and its checksum."""
        (self.path / name).unlink(missing_ok=True)
        self.forget(name)

    def _checksums(self, *, again: bool = False) -> dict[str, list[str]]:
        """Name -> the checksums that its file may have: one, or while the file is replaced the new one and the old one."""
        if self._recorded is None or again:
            self._problem = None
            try:
                self._recorded = self._load()
            except DamagedFileError as error:  # without checksums no file counts as damaged
                self._recorded, self._problem = {}, error.reason
        return self._recorded

    def _checksums_to_change(self) -> dict[str, list[str]]:
        """Return the present checksums, which the caller, who holds the lock, will write again; damaged ones are set aside."""
        known = self._checksums(again=True)
        if self._problem is not None:
            self.set_aside(CHECKSUMS)
        return known

    @property
    def problem(self) -> str | None:
        """What is wrong with ``checksums.json`` itself; None if nothing is."""
        self._checksums()
        return self._problem

    def _load(self) -> dict[str, list[str]]:
        path = self.path / CHECKSUMS
        content = _read(path)
        if content is None:
            return {}
        try:
            stored = json.loads(content)
            files: dict[str, list[str]] = {str(name): [str(digest) for digest in of] for name, of in stored["files"].items()}
            intact = stored["checksum"] == _checksum_of(files)
        except Exception as error:  # as in load
            raise DamagedFileError(path, _reason(error)) from None
        if not intact:
            raise DamagedFileError(path, _CHANGED)
        return files

    def _save(self, files: dict[str, list[str]]) -> None:
        self._recorded = files
        with atomic_write(self.path / CHECKSUMS) as temporary:
            temporary.write_text(json.dumps({"files": files, "checksum": _checksum_of(files)}, indent=1) + "\n", "utf-8")

    # -- reading ---------------------------------------------------------------------------------------------------------

    def read(self, name: str) -> bytes | None:
        """Return the bytes of a file; None if there is no such file.

        Raises:
            DamagedFileError: if they are not those that were written.
        """
        for again in (False, True):  # another process may have replaced the file after its checksum was read
            content = _read(self.path / name)
            accepted = self._checksums(again=again).get(name, [])
            if content is None or not accepted or hashlib.sha256(content).hexdigest() in accepted:
                return content
        raise DamagedFileError(self.path / name, _CHANGED)

    def load(self, name: str, parse: Callable[[bytes], T]) -> T | None:
        """Return what a file says; None if there is no such file.

        Raises:
            DamagedFileError: if it is not what was written, or ``parse`` cannot read it.
        """
        content = self.read(name)
        try:
            return None if content is None else parse(content)
        except (MemoryError, ImportError):
            raise  # say nothing about the file
        except Exception as error:  # each library has errors of its own: OSError, SyntaxError, SafetensorError, ...
            raise DamagedFileError(self.path / name, _reason(error)) from None

    def load_arrays(self, name: str) -> dict[str, NDArray[Any]] | None:
        """Return the arrays of an ``.npz``; otherwise as :meth:`load`."""
        return self.load(name, parse_arrays)

    # -- writing ---------------------------------------------------------------------------------------------------------

    def write(self, name: str, save: Callable[[Path], object]) -> str:
        """Write a file, whole or not at all; ``save`` writes it to the path that it is given. Return its SHA-256."""
        digest = ""
        with ExitStack() as held:

            def record(complete: Path) -> None:
                nonlocal digest
                with complete.open("rb") as file:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
                held.enter_context(file_lock(self.path / _LOCK))
                self._accept(name, digest)

            with atomic_write(self.path / name, record) as temporary:
                save(temporary)
            if len(known := self._checksums()[name]) > 1:
                self._save(self._checksums() | {name: known[:1]})
        return digest

    def write_bytes(self, name: str, content: bytes) -> str:
        """Write bytes; see :meth:`write`."""
        return self.write(name, lambda path: path.write_bytes(content))

    def write_json(self, name: str, content: Any) -> str:
        """Write indented JSON; see :meth:`write`."""
        return self.write_bytes(name, (json.dumps(content, indent=1) + "\n").encode())

    def write_arrays(self, name: str, arrays: Mapping[str, NDArray[Any]]) -> str:
        """Write an uncompressed ``.npz``; see :meth:`write`."""
        savez: Callable[..., None] = np.savez

        def save(path: Path) -> None:
            with path.open("wb") as file:
                savez(file, **arrays)

        return self.write(name, save)

    def _accept(self, name: str, digest: str) -> None:
        """Record the checksum of a file that is about to replace the present one, beside the present one's."""
        known = self._checksums_to_change()
        replaced = known.get(name, [])
        if len(replaced) != 1:  # none, or an earlier replacement was interrupted: what is there tells
            present = read_file(self.path / name)
            replaced = [] if present is None else [hashlib.sha256(present).hexdigest()]
        if (accepted := list(dict.fromkeys([digest, *replaced]))) != known.get(name):
            self._save(known | {name: accepted})

    def set_aside(self, name: str) -> Path:
        """Move a file to the folder ``damaged/``; return its new path. Its checksum is kept, to compare the next one with."""
        source, target, number = self.path / name, self._aside(name), 1
        plain = PurePosixPath(target.name)
        with as_os_errors(source):
            while target.exists():
                number += 1
                target = self.path / ASIDE / f"{plain.stem}-{number}{plain.suffix}"
            if is_remote(source):
                target.write_bytes(source.read_bytes())
                source.unlink()
                return target
        ensure_dir(target.parent)
        shutil.move(source, target)
        for folder in (target.parent, source.parent):  # else a power cut could leave the file in neither
            sync_folder(folder)
        return target

    def set_damaged_aside(self) -> list[str]:
        """Set every file aside that is not what was written; return a line for each."""
        found = []
        for name in self.names:
            try:
                self.read(name)
            except DamagedFileError as error:
                found.append(f"damaged: {error}; moved to {self.set_aside(name)}")
        return found

    def is_aside(self, name: str) -> bool:
        """Return whether a file of that name was set aside."""
        with as_os_errors(self.path):
            return self._aside(name).exists()

    def _aside(self, name: str) -> Path:
        return self.path / ASIDE / name.replace("/", "-")


def _read(path: Path) -> bytes | None:
    try:
        return read_file(path)
    except IsADirectoryError:
        raise DamagedFileError(path, "it is a folder") from None
    except OSError as error:
        if error.errno != errno.EIO:
            raise  # no permission, or a store that cannot be reached: says nothing about the file
        raise DamagedFileError(path, "the disk cannot read it (input/output error)") from None


def _checksum_of(files: Mapping[str, list[str]]) -> str:
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"it cannot be read ({type(error).__name__}{': ' + lines[0] if lines else ''})"
