"""What is kept below the data folder is checked when it is read: damage and swapped files are noticed, and made again."""

from __future__ import annotations

import errno
import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core import data_cache, digits_m
from core.atomic_files import save_arrays
from core.data_cache import Arrays, kept_arrays
from core.datasets import load, load_anomalies
from core.errors import InputError


def arrays(seed: int = 0) -> Arrays:
    draw = np.random.default_rng(seed)
    return {"images": draw.integers(0, 256, (3, 2, 4), dtype=np.uint8), "labels": np.arange(3), "none": np.zeros((0, 2))}


def kept(path: Path, seed: int = 0) -> tuple[Arrays, bool]:
    """What is kept, and whether it was made now."""
    made: list[bool] = []
    found = kept_arrays(path, ("images", "labels"), lambda: made.append(True) or arrays(seed))
    return found, bool(made)


def equal(a: Arrays, b: Arrays) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) and a[name].dtype == b[name].dtype for name in a)


def test_what_is_whole_is_not_made_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert kept(tmp_path / "a.npz")[1]
    found, made = kept(tmp_path / "a.npz", seed=1)
    assert not made and equal(found, arrays()) and not caplog.records


def test_every_flipped_bit_is_noticed_or_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    kept(path)
    whole = path.read_bytes()
    noticed = 0
    for i in range(0, len(whole), 3):
        path.write_bytes(whole[:i] + bytes([whole[i] ^ (1 << i % 8)]) + whole[i + 1 :])
        found, made = kept(path)
        assert equal(found, arrays())
        noticed += made
    assert noticed > len(whole) / 6, "the other bytes are zip's dates and paddings"


@pytest.mark.parametrize("change", ["labels", "fewer", "dtype", "shape", "swapped"])
def test_a_file_with_other_content_is_noticed_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture, change: str) -> None:
    """A zip file's own sums do not help: the file is whole, and its content is wrong."""
    path = tmp_path / "a.npz"
    kept(path)
    with np.load(path) as file:
        content = dict(file)
    if change == "labels":
        content["labels"] = content["labels"][::-1].copy()
    elif change == "fewer":
        content["images"] = content["images"][:2]
    elif change == "dtype":
        content["labels"] = content["labels"].view(np.uint64)
    elif change == "shape":
        content["images"] = content["images"].reshape(3, 4, 2)
    else:
        kept(tmp_path / "b.npz", seed=1)
        (tmp_path / "b.npz").replace(path)
        content = {}
    if content:
        save_arrays(path, content)
    found, made = kept(path)
    assert made and equal(found, arrays())
    assert [record.getMessage() for record in caplog.records] == [f"{path} is damaged: it is made again"]
    assert not kept(path)[1]


def test_a_file_of_before_there_were_checksums_is_made_again_in_silence(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:  # fmt: skip
    save_arrays(tmp_path / "a.npz", arrays(1))
    found, made = kept(tmp_path / "a.npz")
    assert made and equal(found, arrays()) and not caplog.records


def test_wrong_labels_of_digits_m_are_noticed(tmp_path: Path) -> None:
    first = load("digits-m", tmp_path, "test")
    (path,) = tmp_path.glob("digits-m-*-test.npz")
    with np.load(path) as file:
        save_arrays(path, dict(file) | {"labels": file["labels"][::-1]})
    assert np.array_equal(load("digits-m", tmp_path, "test").labels, first.labels)
    assert digits_m.VERSION == "1", "no image has changed"


def test_notes_are_kept_only_where_something_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(reasons.pop(), "no")

    monkeypatch.setattr(data_cache, "atomic_write", refuse)
    reasons = [errno.EROFS, errno.EACCES, errno.ENOSPC]
    while reasons:
        data_cache.keep_json(tmp_path / "a.json", [1])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damaged", [False, True])
def test_arrays_of_before_that_may_only_be_read_are_made_for_the_command_which_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, damaged: bool
) -> None:
    save_arrays(tmp_path / "a.npz", arrays(1))
    if damaged:
        (tmp_path / "a.npz").write_bytes(b"PK")

    def refuse(path: Path, *_: object) -> None:
        raise PermissionError(errno.EACCES, "no", str(path))

    monkeypatch.setattr(data_cache, "save_arrays", refuse)
    found, made = kept(tmp_path / "a.npz")
    assert made and equal(found, arrays()) and "may only be read: made for this command" in caplog.text


def test_a_data_folder_that_may_only_be_read_serves_once_all_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i, name in enumerate(("one", "two")):
        (tmp_path / name).mkdir()
        Image.new("RGB", (32, 32), (i, 2, 3)).save(tmp_path / name / "x.png")
    first = load_anomalies(f"folder:{tmp_path / 'one'}", tmp_path / "data")

    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    for function in ("atomic_write", "save_arrays"):
        monkeypatch.setattr(data_cache, function, refuse)
    assert np.array_equal(load_anomalies(f"folder:{tmp_path / 'one'}", tmp_path / "data").images, first.images)
    with pytest.raises(InputError, match=r"--data .* is not kept there yet, and cannot be"):
        load_anomalies(f"folder:{tmp_path / 'two'}", tmp_path / "data")


def test_damaged_json_is_absent_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "a.json"
    assert data_cache.load_kept_json(path) is None and not caplog.records
    data_cache.keep_json(path, {"é": ["\udcff", 1.5]})
    whole = path.read_bytes()
    assert data_cache.load_kept_json(path) == {"é": ["\udcff", 1.5]}
    for i in range(len(whole)):
        path.write_bytes(whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :])
        assert data_cache.load_kept_json(path) is None
    assert len(caplog.records) == len(whole)


def mnist(root: Path, labels: bytes) -> Path:
    """Five images below torchvision's folders; what torchvision unpacks once it never checks again."""
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True, exist_ok=True)
    images = np.random.default_rng(0).integers(0, 256, (5, 28, 28), dtype=np.uint8)
    for prefix in ("train", "t10k"):
        for kind, header, content in (
            ("images-idx3-ubyte", (2051, 5, 28, 28), images.tobytes()),
            ("labels-idx1-ubyte", (2049, 5), labels),
        ):
            data = np.array(header, dtype=">i4").tobytes() + content
            (folder / f"{prefix}-{kind}").write_bytes(data)
            (folder / f"{prefix}-{kind}.gz").write_bytes(gzip.compress(data))
    return folder


def test_labels_of_torchvision_that_changed_are_refused(tmp_path: Path) -> None:
    mnist(tmp_path, bytes([3, 1, 4, 1, 5]))
    assert load("mnist", tmp_path, "test").labels.tolist() == [3, 1, 4, 1, 5]
    assert load("mnist", tmp_path, "test").labels.tolist() == [3, 1, 4, 1, 5]
    mnist(tmp_path, bytes([3, 1, 4, 2, 5]))
    with pytest.raises(
        InputError, match=r"dataset mnist: its test images or labels below .* are not those that were first read"
    ):
        load("mnist", tmp_path, "test")
    (record,) = tmp_path.glob("mnist-test-*.json")
    assert json.loads(record.read_text().splitlines()[1])
    record.unlink()
    assert load("mnist", tmp_path, "test").labels.tolist() == [3, 1, 4, 2, 5]


def test_truncated_files_of_torchvision_are_no_traceback(tmp_path: Path) -> None:
    folder = mnist(tmp_path, bytes([3, 1, 4, 1, 5]))
    path = folder / "t10k-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(InputError, match=r"dataset mnist: (its files below .* are damaged|neither found)"):
        load("mnist", tmp_path, "test")
