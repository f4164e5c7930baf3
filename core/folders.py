"""``folder:PATH``: any folder of images as a data set, decoded once, in parallel, and kept by a hash of its content.

A data set has class folders below ``train/`` and ``test/``. A set of anomalies needs only ``test/``, or any images at all.
Images are known by their content. What is no image, hidden or the system's is passed over and told
(:mod:`core.folder_report`); a broken image is an error and never skipped.
"""

from __future__ import annotations

import hashlib
import io
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from core.atomic_files import atomic_write
from core.data_cache import kept_arrays
from core.errors import InputError
from core.folder_files import Room, in_parallel, reason_of
from core.folder_listing import printable
from core.folder_report import remember
from core.image_decoding import decode, memory_of, open_image
from core.image_folder import ImageFolder

#: Raised when the same files would decode to other bytes.
_DECODER = 1
_ALL_SHOWN = 20  # as many broken images are named in a message
_SHOWN = 5  # of more, these; all are in a file

Loaded = tuple[NDArray[np.uint8], NDArray[np.int64], tuple[str, ...], None]


def identify(root: Path, data_dir: Path, *, anomalies: bool) -> tuple[str, int]:
    """A hash over the names and bytes of the images that count, and how many train images there are (of anomalies: 0).

    No file is read again that has not changed.

    Of a set of anomalies, ``train/`` counts too where trials are chosen by its images (:func:`has_validation_split`).

    Raises:
        InputError: if the folder is missing or not laid out as a data set.
    """
    folder = ImageFolder.read(root, data_dir)
    content = hashlib.sha256()
    for split in folder.splits(anomalies=anomalies):
        content.update(f"{split}:{folder.identity(split)}\n".encode())
    return content.hexdigest()[:20], 0 if anomalies else len(folder.members("train").names)


def has_validation_split(root: Path, data_dir: Path) -> bool:
    """Whether a folder of anomalies has train images, which a search may look at.

    Without ``test/`` every image is one of the anomalies that are tested on.
    """
    return ImageFolder.read(root, data_dir).has_train


def load(root: Path, data_dir: Path, split: str) -> Loaded:
    """The images of ``train``, ``test`` or ``anomalies``.

    Returns:
        images [N, 3, 32, 32] uint8, labels [N] int64, class names.

    Raises:
        InputError: if the folder is missing, not laid out as a data set, or an image cannot be read.
    """
    folder = ImageFolder.read(root, data_dir)
    members = folder.members(split)
    path = data_dir / f"folder-{folder.identity(split)}-{_DECODER}.npz"
    arrays = kept_arrays(path, ("images",), lambda: {"images": _decode_all(folder, members.names, data_dir)})
    remember(folder, split, data_dir)
    return arrays["images"], members.labels, members.classes, None


def _decode_all(folder: ImageFolder, names: list[str], data_dir: Path) -> NDArray[np.uint8]:
    results = in_parallel(partial(_decode_one, folder), names)
    errors = [(name, result) for name, result in zip(names, results, strict=True) if isinstance(result, str)]
    if errors:
        raise InputError(_broken(folder, errors, data_dir))
    return np.stack([result for result in results if not isinstance(result, str)])


def _decode_one(folder: ImageFolder, room: Room, name: str) -> NDArray[np.uint8] | str:
    if fault := folder.fault(name):
        return fault
    try:
        content = (folder.tree.root / name).read_bytes()
        if hashlib.sha256(content).hexdigest() != folder.facts[name].digest:
            return "it changed while the folder was read: run the command again"
        with open_image(io.BytesIO(content), folder.facts[name].formats) as image, room.take(memory_of(image)):
            decoded = decode(image, folder.scale_of(name))
            image.close()  # frees its memory before others may take it
            return decoded
    except MemoryError:
        raise
    except Exception as error:  # PIL's plugins raise anything, SyntaxError and struct.error among it
        return reason_of(error)


def _broken(folder: ImageFolder, errors: list[tuple[str, str]], data_dir: Path) -> str:
    """The message about broken images; of many, all are listed in a file."""
    lines = [f"{printable(name)} ({reason})" for name, reason in errors]
    text = f"{folder.title}: {len(lines)} broken image(s), mend or remove them: "
    if len(lines) <= _ALL_SHOWN:
        return text + "; ".join(lines)
    content = "".join(f"{line}\n" for line in lines)
    path = data_dir / f"broken-images-{hashlib.sha256(content.encode()).hexdigest()[:8]}.txt"
    try:
        with atomic_write(path) as temporary:
            temporary.write_text(content, encoding="utf-8")
    except OSError:
        return text + "; ".join(lines)
    return f"{text}{'; '.join(lines[:_SHOWN])} and {len(lines) - _SHOWN} more; all are listed in {path}"
