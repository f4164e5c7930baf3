"""What the files of a folder of images are, by their content: each is examined once and remembered until it changes.

A file is known by size, modification time, change time and inode. What is remembered lies in ``data_dir``, with a checksum.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from core.data_cache import keep_json, load_kept_json
from core.errors import InputError
from core.folder_listing import IMAGE_ENDINGS, File, ending, printable
from core.image_decoding import (
    FORMATS,
    declared_bits,
    kind_of_values,
    memory_of,
    open_image,
    own_limit_of_pixels,
    value_range,
)

if TYPE_CHECKING:
    from PIL import Image

T = TypeVar("T")
S = TypeVar("S")
#: Raised when the same bytes would be told otherwise.
_VERSION = 1
_FRESH_NS = 2 * 10**9  # a file that changed so shortly before could change again without another time
_DECODING_BYTES = 1 << 30  # images are decoded at once only as far as they fit; one that is larger, alone
_LARGE_BYTES = 1 << 27
_RAW_ENDINGS = frozenset(
    (".dng", ".nef", ".nrw", ".cr2", ".cr3", ".arw", ".orf", ".rw2", ".pef", ".srw", ".raf", ".3fr", ".iiq")
)
_LEFT_OVER = frozenset(
    (".part", ".partial", ".crdownload", ".download", ".tmp", ".temp", ".swp", ".bak", ".backup", ".orig", ".old")
)
_SIGNS_OF_BYTES = (b"\xff\xd8\xff", b"GIF87a", b"GIF89a")
_PNG_SIGN, _PNG_DEPTH_AT = b"\x89PNG\r\n\x1a\n", 24
_SURE_SIGNS = (_PNG_SIGN, b"II*\0", b"MM\0*")
_HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")
_HINTS = {
    "HEIF": "HEIC; pip install -e '.[heic]' makes it readable",
    "AVIF": "AVIF, which this Pillow does not read",
}


class FileFacts(NamedTuple):
    """What a file is.

    Attributes:
        digest: SHA-256 of its bytes; empty if it is passed over.
        passed_over: why it is no image of the folder; empty if it is one.
        broken: why it cannot be read although it is an image; empty if it can.
        container: ``HEIF`` or ``AVIF``; empty for the formats that need nothing more.
        values: as :func:`core.image_decoding.kind_of_values`; empty if it cannot be read.
        bits: as :func:`core.image_decoding.declared_bits`, of integers.
        low: smallest value, of what is not ``bytes``.
        high: largest value, likewise.
        pages: how many images a TIFF holds, of which the first is taken.
    """

    digest: str
    passed_over: str = ""
    broken: str = ""
    container: str = ""
    values: str = ""
    bits: int = 0
    low: float = 0.0
    high: float = 0.0
    pages: int = 1

    @property
    def formats(self) -> tuple[str, ...]:
        """The formats with which it is opened, by Pillow's names."""
        return (self.container,) if self.container else FORMATS


def readable_formats() -> tuple[str, ...]:
    """The formats that can be read here, by Pillow's names: FORMATS, AVIF by a Pillow that knows it, HEIF by the extra."""
    from importlib.util import find_spec

    from PIL import features

    avif = ("AVIF",) if "avif" in features.modules and features.check("avif") else ()
    return FORMATS + avif + (("HEIF",) if find_spec("pillow_heif") is not None else ())


def examine(root: Path, files: Sequence[File], data_dir: Path) -> dict[str, FileFacts]:
    """Tells what each file is, by name; opens only those that are new or have changed.

    Raises:
        InputError: if a file cannot be read.
    """
    path = data_dir / f"folder-files-{folder_id(root)}.json"
    formats = readable_formats()
    known = _load(path, formats)
    fresh = time.time_ns() - _FRESH_NS
    found: dict[str, FileFacts] = {}
    unknown = []
    for file in files:
        remembered = known.get(file.name)
        if remembered is not None and remembered[:4] == [*file.stamp]:
            found[file.name] = FileFacts(*remembered[4:])
        else:
            unknown.append(file.name)
    unreadable = []
    for name, result in zip(unknown, in_parallel(partial(_examine_one, str(root), formats), unknown), strict=True):
        if isinstance(result, FileFacts):
            found[name] = result
        else:
            unreadable.append(f"folder:{printable(str(root))}: {printable(name)} cannot be read ({result.strerror})")
    if unreadable:
        raise InputError(unreadable)
    if unknown or len(known) > len(files):
        # What is broken is looked at again: it may have been a codec that is missing.
        sure = [file for file in files if max(file.stamp[1:3]) < fresh and not found[file.name].broken]
        kept = {file.name: file.stamp + found[file.name] for file in sure}
        keep_json(path, {"version": _VERSION, "formats": formats, "files": kept})
    return found


def folder_id(root: Path) -> str:
    """What stands for a folder's path in the names of files below ``data_dir``."""
    return hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:20]


class Room:
    """Memory for decoding that threads share; who needs more than is free waits, who needs more than all gets all."""

    def __init__(self, size: int) -> None:
        self._size = self._free = size
        self._changed = threading.Condition()

    @contextmanager
    def take(self, wanted: int) -> Iterator[None]:
        """Within the block ``wanted`` bytes are taken."""
        wanted = min(wanted, self._size)
        with self._changed:
            self._changed.wait_for(lambda: self._free >= wanted)
            self._free -= wanted
        try:
            yield
        finally:
            if wanted >= _LARGE_BYTES:
                _return_freed_memory()
            with self._changed:
                self._free += wanted
                self._changed.notify_all()


def _return_freed_memory() -> None:
    """glibc keeps what a thread has freed for that thread: several hundred megabytes each, after large images."""
    with suppress(OSError, AttributeError):  # of another C library
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def in_parallel(task: Callable[[Room, S], T], items: Sequence[S]) -> list[T]:
    """Runs a task that reads images for every item, in threads: PIL decodes and resizes without Python's lock."""
    if not items:
        return []
    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with own_limit_of_pixels(), ThreadPoolExecutor(workers) as pool:
        return list(pool.map(partial(task, Room(_DECODING_BYTES)), items))


def reason_of(error: Exception) -> str:
    """Why an image cannot be read, for messages."""
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return f"damaged, or of no format that is read ({', '.join(readable_formats())})"
    return str(error) if isinstance(error, OSError | ValueError) and str(error) else f"{type(error).__name__}: {error}"


def _examine_one(root: str, formats: tuple[str, ...], room: Room, name: str) -> FileFacts | OSError:
    """What a file is; the error, if it cannot be read at all."""
    if ending(name) in _RAW_ENDINGS:
        return FileFacts("", passed_over="raw data of a camera: convert it to TIFF or PNG")
    if ending(name) in _LEFT_OVER or name.endswith("~"):
        return FileFacts("", passed_over="left over: unfinished, temporary or a backup")
    try:
        with open(f"{root}/{name}", "rb") as file:  # noqa: PTH123 - 60,000 Paths take seconds
            return _examine_open(file, formats, room, named_image=ending(name) in IMAGE_ENDINGS)
    except OSError as error:
        return error


def _examine_open(file: BufferedReader, formats: tuple[str, ...], room: Room, *, named_image: bool) -> FileFacts:
    """What an open file is.

    Raises:
        OSError: if it cannot be read.
    """
    start = file.read(64)
    container = _container(start)
    fault = "empty" if not start else "" if not container or container in formats else _HINTS[container]
    if fault:
        return FileFacts(_digest(file), broken=fault) if named_image else FileFacts("", passed_over=fault)
    if _has_only_bytes(start):  # whether it is whole shows when it is decoded
        return FileFacts(_digest(file), values="bytes")
    file.seek(0)
    try:
        with open_image(file, FileFacts("", container=container).formats) as image:
            values = kind_of_values(image)  # before it is loaded, which forgets what the file says
            bits = declared_bits(image) if values == "integers" else 0
            with room.take(memory_of(image) if values != "bytes" else 0):
                low, high = value_range(image) if values != "bytes" else (0.0, 0.0)
            pages = _pages(image)
        return FileFacts(_digest(file), "", "", container, values, bits, low, high, pages)
    except MemoryError:
        raise
    except Exception as error:  # PIL's plugins raise anything, SyntaxError and struct.error among it
        if isinstance(error, OSError) and error.errno is not None:
            raise
        if named_image or container or start.startswith(_SURE_SIGNS):
            return FileFacts(_digest(file), broken=reason_of(error))
        return FileFacts("", passed_over="no image of a format that is read")


def _pages(image: Image.Image) -> int:
    if image.format == "TIFF":
        with suppress(Exception):  # what is wrong with a page that is not taken is no fault
            return int(getattr(image, "n_frames", 1))
    return 1


def _has_only_bytes(start: bytes) -> bool:
    """Whether a file begins like an image of a format, or a PNG of a depth, that has 8 bits at most."""
    is_png = start.startswith(_PNG_SIGN) and start[12:16] == b"IHDR" and len(start) > _PNG_DEPTH_AT
    return (
        start.startswith(_SIGNS_OF_BYTES)
        or (start[:4] == b"RIFF" and start[8:12] == b"WEBP")
        or (is_png and start[_PNG_DEPTH_AT] <= 8)
    )


def _container(start: bytes) -> str:
    """``HEIF`` or ``AVIF``, if a file begins like one; else nothing."""
    if start[4:8] != b"ftyp":
        return ""
    brands = start[8:64]
    if start[8:12] in (b"avif", b"avis") or (start[8:12] in (b"mif1", b"msf1") and b"avif" in brands):
        return "AVIF"
    return "HEIF" if start[8:12] in _HEIC_BRANDS else ""


def _digest(file: BufferedReader) -> str:
    file.seek(0)
    return hashlib.file_digest(file, "sha256").hexdigest()


def _load(path: Path, formats: tuple[str, ...]) -> dict[str, list[Any]]:
    """What is remembered: name -> the stamp, then the facts."""
    kept = load_kept_json(path)
    if kept is None or kept["version"] != _VERSION or tuple(kept["formats"]) != formats:
        return {}
    files: dict[str, list[Any]] = kept["files"]
    return files
