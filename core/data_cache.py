"""What is kept below ``data_dir`` to save time: each file carries a checksum of its content and of its own name.

What is damaged, or lies under another's name, counts as absent: it is made again, and a line says so.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.atomic_files import atomic_write, load_arrays, save_arrays
from core.causes import UNWRITABLE

Arrays = dict[str, NDArray[Any]]
_CHECKSUM = "sha256"
_log = logging.getLogger(__name__)


def kept_arrays(path: Path, names: Sequence[str], make: Callable[[], Arrays]) -> Arrays:
    """The arrays of a file, which is made where it is missing, damaged, of before there were checksums, or lacks some.

    Raises:
        OSError: if there is none, and it cannot be written.
    """
    arrays = _load_arrays(path)
    if arrays is None or any(name not in arrays for name in names):
        arrays = make()
        checksum = np.frombuffer(bytes.fromhex(checksum_of(path.name, arrays)), np.uint8)
        try:
            save_arrays(path, arrays | {_CHECKSUM: checksum})
        except OSError as error:
            if error.errno not in UNWRITABLE or not path.exists():
                raise
            _log.warning("%s is damaged, or of before there were checksums, and may only be read: made for this command", path)
    return arrays


def checksum_of(name: str, arrays: Arrays) -> str:
    """SHA-256 over a name and the names, types, shapes and values of arrays."""
    content = hashlib.sha256(name.encode())
    for key, values in sorted(arrays.items()):
        content.update(f"\0{key}\0{values.dtype.str}\0{values.shape}\0".encode())
        content.update(np.ascontiguousarray(values).data if values.size else b"")
    return content.hexdigest()


def keep_json(path: Path, content: Any) -> None:
    """Keeps what JSON can hold, a note that saves time; where it cannot be written, nothing."""
    text = json.dumps(content, separators=(",", ":"))
    with suppress(OSError), atomic_write(path) as temporary:
        temporary.write_text(f"{_text_checksum(path, text)}\n{text}", encoding="utf-8")


def load_kept_json(path: Path) -> Any | None:
    """What :func:`keep_json` kept; None where there is nothing, or it is damaged."""
    try:
        checksum, _, text = path.read_text(encoding="utf-8").partition("\n")
        if checksum == _text_checksum(path, text):
            return json.loads(text)
    except FileNotFoundError:
        return None
    except PermissionError as error:
        _log.warning("%s, which would save time, is not used: %s", path, error.strerror)
        return None
    except (OSError, ValueError):
        pass
    _log.warning("%s is damaged: it is made again", path)
    return None


def _text_checksum(path: Path, text: str) -> str:
    return hashlib.sha256(f"{path.name}\n{text}".encode()).hexdigest()


def _load_arrays(path: Path) -> Arrays | None:
    try:
        arrays = load_arrays(path)
    except Exception:  # numpy and zipfile raise anything for a damaged file, NotImplementedError and MemoryError among it
        arrays = None
    if arrays is not None:
        checksum = arrays.pop(_CHECKSUM, None)
        if checksum is None:
            return None
        if checksum.tobytes().hex() == checksum_of(path.name, arrays):
            return arrays
    if path.exists():
        _log.warning("%s is damaged: it is made again", path)
    return None
