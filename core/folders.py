"""``folder:PATH``: any folder of images as a data set, decoded once, in parallel, and kept by a hash of its content.

A data set has class folders below ``train/`` and ``test/``. A set of anomalies needs only ``test/``, or any images at all.
Hidden files and files that are no images (by their ending) are ignored; a broken image is an error and never skipped.
"""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from core.atomic_files import load_arrays, load_json, save_arrays, save_json
from core.errors import InputError
from core.image_decoding import decode

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
#: Raised when the same files would decode to other bytes.
_DECODER = 1
_SHOWN = 5  # broken images named in a message

Loaded = tuple[NDArray[np.uint8], NDArray[np.int64], tuple[str, ...], None]


def content_hash(root: Path, data_dir: Path, *, anomalies: bool) -> str:
    """A hash over the names and bytes of the images that count; kept for as long as names, sizes and times do not change.

    Of a set of anomalies, ``train/`` counts too where trials are chosen by its images (:func:`has_validation_split`).

    Raises:
        InputError: if the folder is missing or not laid out as a data set.
    """
    parts = ["train", "test"] if not anomalies else ["anomalies", "train"] if has_validation_split(root) else ["anomalies"]
    content = hashlib.sha256()
    for split in parts:
        content.update(f"{split}:{_split_hash(root, data_dir, split)}\n".encode())
    return content.hexdigest()[:20]


def has_validation_split(root: Path) -> bool:
    """Whether a folder of anomalies has train images, which a search may look at.

    Without ``test/`` every image is one of the anomalies that are tested on.
    """
    try:
        return bool(_list(root, "train")[0])
    except InputError:
        return False


def count(root: Path, split: str) -> int:
    """How many images a split has. Raises as :func:`load`, save that no image is opened."""
    return len(_list(root, split)[0])


def load(root: Path, data_dir: Path, split: str) -> Loaded:
    """The images of ``train``, ``test`` or ``anomalies``.

    Returns:
        images [N, 3, 32, 32] uint8, labels [N] int64, class names.

    Raises:
        InputError: if the folder is missing, not laid out as a data set, or an image cannot be read.
    """
    files, labels, names = _list(root, split)
    path = data_dir / f"folder-{_split_hash(root, data_dir, split)}-{_DECODER}.npz"
    arrays = load_arrays(path)
    if arrays is None:
        arrays = {"images": _decode_all(root, files)}
        save_arrays(path, arrays)
    return arrays["images"], labels, names, None


def _list(root: Path, split: str) -> tuple[list[Path], NDArray[np.int64], tuple[str, ...]]:
    if not root.is_dir():
        raise InputError(f"folder:{root}: there is no such folder")
    if split == "anomalies":
        base = root / "test" if (root / "test").is_dir() else root
        files = _images(base)
        if not files:
            raise InputError(f"folder:{root}: no images below {base} (endings: {' '.join(ENDINGS)})")
        return files, np.zeros(len(files), dtype=np.int64), (root.name,)
    errors = [f"folder:{root}: {name}/ is missing (a data set has class folders below train/ and test/)"
              for name in ("train", "test") if not (root / name).is_dir()]  # fmt: skip
    if errors:
        raise InputError(errors)
    classes = {name: _classes(root / name) for name in ("train", "test")}
    if len(classes["train"]) < 2:
        found = ", ".join(classes["train"]) or "none"
        raise InputError(f"folder:{root}: at least two class folders are needed below train/, found {found}")
    strangers = sorted(set(classes["test"]) - set(classes["train"]))
    if strangers:
        raise InputError(f"folder:{root}: classes of test/ that train/ lacks: {', '.join(strangers)}")
    if not classes["test"]:
        raise InputError(f"folder:{root}: no class folders below test/")
    files, labels = [], []
    for label, name in enumerate(classes["train"]):
        members = _images(root / split / name)
        if not members and split == "train":
            raise InputError(f"folder:{root}: no images in train/{name} (endings: {' '.join(ENDINGS)})")
        files += members
        labels += [label] * len(members)
    if not files:
        raise InputError(f"folder:{root}: no images below {split}/ (endings: {' '.join(ENDINGS)})")
    return files, np.asarray(labels, dtype=np.int64), tuple(classes["train"])


def _classes(folder: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))


def _images(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    found = []
    for base, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(base, name) for name in names if name.lower().endswith(ENDINGS) and not name.startswith(".")]
    return sorted(found)


def _split_hash(root: Path, data_dir: Path, split: str) -> str:
    files, _, _ = _list(root, split)
    stamp = hashlib.sha256(f"{root.resolve()}\0{split}\n".encode())
    for file in files:
        try:
            status = file.stat()
        except OSError as error:
            raise InputError(f"folder:{root}: {file.relative_to(root)} cannot be read ({error.strerror})") from None
        stamp.update(f"{file.relative_to(root)}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    remembered = data_dir / f"folder-hash-{stamp.hexdigest()[:20]}.json"
    known = load_json(remembered)
    if known is not None:
        return str(known)
    content = hashlib.sha256()
    for file in files:
        content.update(f"{file.relative_to(root)}\0".encode())
        try:
            content.update(hashlib.sha256(file.read_bytes()).digest())
        except OSError as error:
            raise InputError(f"folder:{root}: {file.relative_to(root)} cannot be read ({error.strerror})") from None
    digest = content.hexdigest()[:20]
    save_json(remembered, digest)
    return digest


def _decode_all(root: Path, files: list[Path]) -> NDArray[np.uint8]:
    # PIL decodes and resizes without Python's lock, so threads do the work in parallel.
    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with ThreadPoolExecutor(workers) as pool:
        results = list(pool.map(_decode_one, files, chunksize=64))
    errors = [(file, result) for file, result in zip(files, results, strict=True) if isinstance(result, str)]
    if errors:
        more = f" and {len(errors) - _SHOWN} more" if len(errors) > _SHOWN else ""
        shown = "; ".join(f"{file.relative_to(root)} ({reason})" for file, reason in errors[:_SHOWN])
        raise InputError(f"folder:{root}: {len(errors)} broken image(s), mend or remove them: {shown}{more}")
    return np.stack([result for result in results if not isinstance(result, str)])


def _decode_one(file: Path) -> NDArray[np.uint8] | str:
    from PIL import Image

    try:
        with Image.open(file) as image:
            return decode(image)
    except Exception as error:  # PIL's plugins raise anything, SyntaxError and struct.error among it
        return f"{type(error).__name__}: {error}"
