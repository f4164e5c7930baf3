"""Files with checksums: a crash at any instant leaves a readable file, any changed bit is noticed."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.atomic_files import load_arrays
from sweeps.storage.checked_folder import CHECKSUMS, CheckedFolder, DamagedFileError
from sweeps.storage.parsers import PARSERS

#: Writes ``x`` with the content "new" and dies at the n-th rename, before (n even) or after (n odd) it.
_DYING = """
import os, sys
from pathlib import Path
from typing import Any
from sweeps.storage.checked_folder import CheckedFolder
left, rename = [{n}], Path.replace
def replace(self, target):
    left[0] -= 1
    if left[0] == -1: os._exit(9)
    result = rename(self, target)
    left[0] -= 1
    if left[0] == -1: os._exit(9)
    return result
Path.replace = replace
CheckedFolder(Path({folder!r})).write_bytes("x", {content!r})
"""


def test_every_flipped_bit_of_every_byte_is_noticed(tmp_path: Path) -> None:
    folder = CheckedFolder(tmp_path)
    folder.write_json("a.json", {"value": 0.125, "history": [1, 2]})
    content = (tmp_path / "a.json").read_bytes()
    for position in range(len(content)):
        for bit in range(8):
            flipped = bytearray(content)
            flipped[position] ^= 1 << bit
            (tmp_path / "a.json").write_bytes(flipped)
            with pytest.raises(DamagedFileError, match="SHA-256"):
                CheckedFolder(tmp_path).read("a.json")
    for length in range(len(content)):
        (tmp_path / "a.json").write_bytes(content[:length])
        with pytest.raises(DamagedFileError):
            CheckedFolder(tmp_path).read("a.json")
    (tmp_path / "a.json").write_bytes(content)
    assert CheckedFolder(tmp_path).load("a.json", json.loads) == {"value": 0.125, "history": [1, 2]}


@pytest.mark.parametrize("n", range(7))
def test_a_writer_that_dies_at_any_rename_leaves_the_old_file_or_the_new_one(tmp_path: Path, n: int) -> None:
    folder = CheckedFolder(tmp_path)
    folder.write_bytes("x", b"old")
    for content in (b"new", b"newer"):  # the second replaces what the first left
        code = _DYING.format(n=n, folder=str(tmp_path), content=content)
        died = subprocess.run([sys.executable, "-c", code], timeout=60).returncode
        assert died == (9 if n < 6 else 0), "three renames: a checksum more, the file, a checksum less"
        assert CheckedFolder(tmp_path).read("x") == (content if n >= 3 else b"old")
    CheckedFolder(tmp_path).write_bytes("x", b"last")
    assert CheckedFolder(tmp_path).read("x") == b"last"
    assert len(json.loads((tmp_path / CHECKSUMS).read_text())["files"]["x"]) == 1


def test_two_writers_of_one_file_and_of_others_leave_checksums_that_fit(tmp_path: Path) -> None:
    def write(number: int) -> None:
        CheckedFolder(tmp_path).write_bytes("same", str(number).encode() * 1000)
        CheckedFolder(tmp_path).write_bytes(f"own-{number}", b"x")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(40)))
    folder = CheckedFolder(tmp_path)
    assert folder.read("same") is not None and len(folder.names) == 41
    assert all(folder.read(f"own-{number}") == b"x" for number in range(40))


def test_a_file_without_a_checksum_is_read_and_gets_one(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[1]")
    folder = CheckedFolder(tmp_path)
    assert folder.load("a.json", json.loads) == [1] and folder.digest("a.json") is None
    folder.record("a.json")
    (tmp_path / "a.json").write_text("[2]")
    with pytest.raises(DamagedFileError):
        CheckedFolder(tmp_path).read("a.json")
    assert folder.read("absent") is None
    folder.write_bytes("a.json", b"[3]")
    assert CheckedFolder(tmp_path).read("a.json") == b"[3]"


def test_a_file_that_cannot_be_parsed_is_damaged_whatever_the_parser_raises(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\xff\x00 no file of any kind")
    folder = CheckedFolder(tmp_path)
    for parse in (json.loads, lambda content: content.decode(), lambda content: {}[content]):
        with pytest.raises(DamagedFileError, match="cannot be read"):
            folder.load("a", parse)
    with pytest.raises(DamagedFileError, match="cannot be read"):
        folder.load_arrays("a")
    (tmp_path / "folder").mkdir()
    with pytest.raises(DamagedFileError, match="it is a folder"):
        folder.read("folder")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("suffix", sorted(PARSERS))
def test_a_cut_or_changed_file_without_a_checksum_is_read_or_damaged(tmp_path: Path, suffix: str) -> None:
    """What the real parsers raise: the files of an earlier version have no checksums."""
    folder, content = CheckedFolder(tmp_path), _example(suffix)
    for position in range(0, len(content), 1 + len(content) // 200):
        for harmed in (content[:position], content[:position] + bytes([content[position] ^ 0x14]) + content[position + 1 :]):
            (tmp_path / f"a{suffix}").write_bytes(harmed)
            with suppress(DamagedFileError):
                folder.load(f"a{suffix}", PARSERS[suffix])
    (tmp_path / f"a{suffix}").write_bytes(content[: len(content) // 2])
    with pytest.raises(DamagedFileError, match="cannot be read"):
        folder.load(f"a{suffix}", PARSERS[suffix])


def _example(suffix: str) -> bytes:
    """A small file of the kind."""
    import torch
    from PIL import Image
    from safetensors.numpy import save

    file = io.BytesIO()
    if suffix == ".png":
        Image.new("L", (2, 2)).save(file, "PNG")
    elif suffix == ".npz":
        np.savez(file, a=np.zeros(2))
    elif suffix == ".pt":
        torch.save({"a": torch.zeros(2)}, file)
    elif suffix == ".json":
        file.write(b'{"a": [1, 2]}')
    else:
        file.write(save({"a": np.zeros(2)}))
    return file.getvalue()


class _Trap:
    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        return Path.touch, (Path("sprung"),)


def test_arrays_that_hold_a_pickle_are_damage_and_it_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("a.npz", a=np.array([_Trap()], dtype=object))
    with pytest.raises(DamagedFileError, match="cannot be read"):
        CheckedFolder(tmp_path).load_arrays("a.npz")
    assert load_arrays(tmp_path / "a.npz") is None and not (tmp_path / "sprung").exists()


def test_an_error_that_says_nothing_about_the_file_is_no_damage(tmp_path: Path) -> None:
    def parse(_: bytes) -> None:
        raise error

    CheckedFolder(tmp_path).write_bytes("a", b"x")
    for error in (MemoryError(), ImportError()):
        with pytest.raises(type(error)):
            CheckedFolder(tmp_path).load("a", parse)


def test_damaged_checksums_damage_no_file_and_are_said(tmp_path: Path) -> None:
    CheckedFolder(tmp_path).write_bytes("x", b"kept")
    content = bytearray((tmp_path / CHECKSUMS).read_bytes())
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 1
        (tmp_path / CHECKSUMS).write_bytes(damaged)
        folder = CheckedFolder(tmp_path)
        # White space between the entries says nothing and may change.
        assert folder.read("x") == b"kept" and (folder.problem or chr(content[position]).isspace()), position


def test_damaged_checksums_are_set_aside_before_others_are_written(tmp_path: Path) -> None:
    CheckedFolder(tmp_path).write_bytes("x", b"kept")
    (tmp_path / "y").write_bytes(b"of before")
    for number, change in enumerate((lambda folder: folder.record("y"), lambda folder: folder.write_bytes("z", b"new"))):
        (tmp_path / CHECKSUMS).write_text(f"damaged {number}")
        folder = CheckedFolder(tmp_path)
        change(folder)
        assert folder.problem is not None, "said, though it is mended"
        assert CheckedFolder(tmp_path).problem is None
    assert sorted(path.read_text() for path in (tmp_path / "damaged").iterdir()) == ["damaged 0", "damaged 1"]


def test_a_file_that_is_set_aside_is_there_after_a_power_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    CheckedFolder(tmp_path).write_bytes("figures/a.png", b"x")
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda file: synced.append(os.fstat(file).st_ino))
    target = CheckedFolder(tmp_path).set_aside("figures/a.png")
    folders = (tmp_path, target.parent, tmp_path / "figures")
    assert synced == [folder.stat().st_ino for folder in folders], "the new folder, the new name, the old one"


def test_what_is_set_aside_keeps_its_content_and_its_checksum(tmp_path: Path) -> None:
    folder = CheckedFolder(tmp_path)
    digest = folder.write_bytes("details/a.npz", b"1")
    moved = [folder.set_aside("details/a.npz")]
    folder.write_bytes("details/a.npz", b"2")
    moved.append(folder.set_aside("details/a.npz"))
    assert [path.read_bytes() for path in moved] == [b"1", b"2"] and digest != folder.digest("details/a.npz")
    assert not any((tmp_path / "details").iterdir())


def test_behind_a_url_files_have_checksums_too() -> None:
    url = _url()
    CheckedFolder(url).write_bytes("details/a.npz", b"one")
    CheckedFolder(url).write_bytes("details/a.npz", b"two")
    assert CheckedFolder(url).read("details/a.npz") == b"two" and CheckedFolder(url).read("b") is None
    (url / "details" / "a.npz").write_bytes(b"2wo")
    with pytest.raises(DamagedFileError, match="not what was written"):
        CheckedFolder(url).read("details/a.npz")
    assert CheckedFolder(url).set_aside("details/a.npz").read_bytes() == b"2wo"
    assert CheckedFolder(url).read("details/a.npz") is None


def _url() -> Any:
    """A new folder of a store in memory."""
    from upath import UPath

    return UPath(f"memory://checked-folder-{uuid.uuid4().hex}", use_listings_cache=False)
