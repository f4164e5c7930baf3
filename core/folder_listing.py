"""What lies below a folder of images: its class folders and their files, each folder once, and what was passed over.

Nothing is opened here; what a file is, is told by its content (:mod:`core.folder_files`).
"""

from __future__ import annotations

import errno
import os
import re
import stat
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from core.errors import InputError

#: Folders that archives, NAS and operating systems make, in lower case; other hidden ones begin with a dot.
SYSTEM_FOLDERS = frozenset(
    ("__macosx", "@eadir", "@tmp", "@recycle", "@recently-snapshot", "@snapshot", "@sharesnap", "@__thumb", "#recycle",
     "#snapshot", "$recycle.bin", "recycler", "system volume information", "lost+found", "found.000",
     "network trash folder", "temporary items")
)  # fmt: skip
SYSTEM_FILES = frozenset(("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"))
#: Endings that say that a file is an image: one that is none then is broken, not something else.
IMAGE_ENDINGS = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm")
)
_HIDDEN = ("hidden", "their names begin with a dot")
#: Why a folder was passed over.
SYSTEM = "made by the system, an archive or a NAS"
SEEN = "links to a folder that is read already"
_ENDING = re.compile(r"\.[a-z0-9_+~-]{1,10}")


class File(NamedTuple):
    """A regular file.

    Attributes:
        name: its path below the folder of images, with ``/``.
        stamp: size, modification time, change time (ns), inode: while they stay, so does the content.
    """

    name: str
    stamp: tuple[int, int, int, int]


@dataclass(frozen=True)
class Part:
    """``train/``, ``test/``, or a folder that has neither.

    Attributes:
        classes: name of each class folder -> the files below it, both in a fixed order.
        loose: the files that are in no class folder; of a folder without ``train/`` and ``test/`` all.
        twins: pairs of class folders that are one folder by a link.
    """

    classes: dict[str, list[File]]
    loose: list[File]
    twins: list[tuple[str, str]] = field(default_factory=list)

    def class_files(self) -> list[File]:
        """The files of the classes."""
        return [file for files in self.classes.values() for file in files]

    def files(self) -> list[File]:
        """All files: those of the classes, then the others."""
        return [*self.class_files(), *self.loose]

    def sorted_files(self) -> list[File]:
        """All files, in the order of their paths."""
        return sorted(self.files(), key=_order)


@dataclass(frozen=True)
class Tree:
    """A folder's files.

    Attributes:
        root: the folder.
        layout: which of ``train`` and ``test`` are there.
        parts: their files; without ``test/`` alone ``""``, every file.
        passed_over: (what, why) -> how many.
    """

    root: Path
    layout: tuple[str, ...]
    parts: dict[str, Part]
    passed_over: Counter[tuple[str, str]]


def printable(name: str) -> str:
    """A file's name as text that can be shown: what is no UTF-8, or no character that shows, as a backslash and its number."""
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def class_name(folder: str) -> str:
    """The class that a folder's name means: the same for both Unicode forms of one name."""
    return unicodedata.normalize("NFC", printable(folder))


def ending(name: str) -> str:
    """``.jpg`` of ``a/b.JPG``; nothing where what follows the last dot is none, such as a number."""
    found = os.path.splitext(os.path.basename(name))[1].lower()  # noqa: PTH119, PTH122 - 60,000 Paths take a second
    return found if _ENDING.fullmatch(found) and not found[1:].isdigit() else ""


def list_folder(root: Path) -> Tree:
    """Walks a folder of images. Links are followed, and no folder is visited twice within ``train/`` or ``test/``.

    Raises:
        InputError: if the folder is missing, or it or something below it cannot be read.
    """
    try:
        is_folder = stat.S_ISDIR(os.stat(root).st_mode)  # noqa: PTH116
    except (OSError, ValueError) as error:
        reason = "there is no such folder"
        if isinstance(error, OSError) and error.errno not in (errno.ENOENT, errno.ENOTDIR):
            reason = f"it cannot be read ({error.strerror})"
        raise InputError(f"folder:{printable(str(root))}: {reason}") from None
    if not is_folder:
        raise InputError(f"folder:{printable(str(root))}: there is no such folder, it is a file")
    walk = _Walk(str(root))
    names = tuple(name for name in ("train", "test") if os.path.isdir(walk.path(name)))  # noqa: PTH112
    if "test" in names:
        walk.note_others(names)
        structure = {walk.identity(""), *(walk.identity(name) for name in names)}
        classes = {name: walk.class_folders(name, structure) for name in names}
        inside = {walk.identity(f"{name}/{folder}") for name in names for folder in classes[name]}
        parts = {name: walk.part(name, classes[name], structure | inside) for name in names}
    else:
        parts = {"": Part({}, sorted(walk.files("", {walk.identity("")}), key=_order))}
    if walk.errors:
        raise InputError(f"folder:{printable(str(root))}: {text}" for text in dict.fromkeys(walk.errors))
    return Tree(root, names, parts, walk.passed_over)


def _order(file: File) -> list[bytes]:
    return os.fsencode(file.name).split(b"/")  # the same order in every locale


class _Walk:
    """The walk through one folder of images: names are relative to it, and faults are collected."""

    def __init__(self, root: str) -> None:
        self._root = root
        self.passed_over: Counter[tuple[str, str]] = Counter()
        self.errors: list[str] = []

    def path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    def identity(self, name: str) -> tuple[int, int]:
        """Device and inode of a folder."""
        status = os.stat(self.path(name))  # noqa: PTH116
        return status.st_dev, status.st_ino

    def note_others(self, parts: tuple[str, ...]) -> None:
        """Notes what lies beside ``train/`` and ``test/``."""
        for name, status in self._entries("", note=True):
            if name not in parts:
                what = f"{printable(name)}/" if stat.S_ISDIR(status.st_mode) else ending(name) or "without ending"
                self.passed_over[what, "beside train/ and test/"] += 1

    def class_folders(self, part: str, structure: set[tuple[int, int]]) -> list[str]:
        found = []
        for name, status in self._entries(part, note=False):
            if stat.S_ISDIR(status.st_mode) and (status.st_dev, status.st_ino) not in structure:
                found.append(name.rpartition("/")[2])
        return sorted(found, key=os.fsencode)

    def part(self, name: str, classes: list[str], structure: set[tuple[int, int]]) -> Part:
        """The files of ``train/`` or ``test/``; ``structure``: the folders that are read for themselves."""
        visited = set(structure)
        firsts: dict[tuple[int, int], str] = {}
        part = Part({}, [])
        for folder in classes:
            identity = self.identity(f"{name}/{folder}")
            if identity in firsts:
                part.twins.append((firsts[identity], folder))
                part.classes[folder] = []
                continue
            firsts[identity] = folder
            part.classes[folder] = sorted(self.files(f"{name}/{folder}", visited), key=_order)
        part.loose.extend(sorted(self.files(name, visited, nested=False, skip=set(classes)), key=_order))
        return part

    def files(
        self, top: str, visited: set[tuple[int, int]], *, nested: bool = True, skip: Collection[str] = ()
    ) -> Iterator[File]:  # fmt: skip
        """The regular files below a folder, in no order; folders that are visited are added to ``visited``."""
        waiting = [top]
        while waiting:
            for name, status in self._entries(waiting.pop(), note=True):
                mode = status.st_mode
                if stat.S_ISREG(mode):
                    yield File(name, (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino))
                elif not stat.S_ISDIR(mode):
                    kind = "a pipe" if stat.S_ISFIFO(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"
                    self.passed_over[ending(name) or "without ending", f"{kind} and no regular file"] += 1
                elif not nested and name.rpartition("/")[2] in skip:
                    pass
                elif (status.st_dev, status.st_ino) in visited:
                    self.passed_over[f"{printable(name.rpartition('/')[2])}/", SEEN] += 1
                elif nested:
                    visited.add((status.st_dev, status.st_ino))
                    waiting.append(name)

    def _entries(self, folder: str, *, note: bool) -> Iterator[tuple[str, os.stat_result]]:
        """Name and status of what is in a folder, links followed, save what is hidden or the system's."""
        try:
            with os.scandir(self.path(folder)) as scan:
                entries = list(scan)
        except OSError as error:
            self.errors.append(f"{printable(folder) or 'it'} cannot be read ({error.strerror})")
            return
        for entry in entries:
            name = f"{folder}/{entry.name}" if folder else entry.name
            passed_over = None
            if entry.name.startswith("."):
                passed_over = _HIDDEN
            elif entry.name.lower() in SYSTEM_FOLDERS and entry.is_dir():
                passed_over = (f"{printable(entry.name)}/", SYSTEM)
            elif entry.name.lower() in SYSTEM_FILES and not entry.is_dir():
                passed_over = (printable(entry.name), SYSTEM)
            if passed_over is not None:
                self.passed_over[passed_over] += note
                continue
            try:
                yield name, entry.stat()
            except OSError as error:
                if ending(name) in IMAGE_ENDINGS or error.errno not in (errno.ENOENT, errno.ELOOP):
                    self.errors.append(f"{printable(name)} cannot be read ({error.strerror})")
                else:
                    self.passed_over[ending(name) or "without ending", "a link to nothing"] += note
