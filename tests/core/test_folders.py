"""Folders of images: what is taken and what is passed over is told, odd values are scaled by one rule, names may be any."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core import datasets
from core.errors import InputError
from core.image_folder import ImageFolder
from tests.core.image_folders import lines, n_train, picture, ramp, refusal

# -- what is taken -------------------------------------------------------------------------------------------------------


def test_images_are_known_by_their_content(root: Path, data: Path) -> None:
    for i, name in enumerate(("a.jfif", "none", "frame.00017", "scan.dat", "really-a-jpeg.png", "JPEG.JPG")):
        picture().save(root / "train" / "cat" / name, "PNG" if i % 2 else "JPEG")
    assert n_train(root, data) == 10
    assert "train 10 images (cat 8, dog 2), test 4 images (cat 2, dog 2)" in lines(root, data)


def test_what_is_passed_over_is_told_by_ending_and_reason(root: Path, data: Path) -> None:
    cat = root / "train" / "cat"
    others = {"a.txt": b"P5 is a format", "b.txt": b"BMW", "c": b"", ".DS_Store": b"x", "Thumbs.db": b"x"}
    for name, content in (others | {"d.nef": b"II*\0" + b"0" * 99}).items():
        (cat / name).write_bytes(content)
    for name in ("old.png~", "x.jpg.part", "y.bak"):
        picture().save(cat / name, "JPEG")
    picture().save(root / "train" / "loose.png")
    (root / "val").mkdir()
    assert n_train(root, data) == 4
    told = lines(root, data)
    for what in (
        "2 .txt (no image of a format that is read)",
        "1 without ending (empty)",
        "1 hidden",
        "1 .nef (raw data of a camera",
        "1 Thumbs.db (",
    ):
        assert what in told
    assert "1 .png~, 1 .part, 1 .bak (left over: unfinished, temporary or a backup)" in told
    assert "1 .png (in train/, but in no class folder)" in told and "1 val/ (beside train/ and test/)" in told
    shutil.rmtree(root / "train" / "dog")
    (root / "train" / "dog").mkdir()
    (root / "train" / "dog" / "film.avi").write_bytes(b"RIFF....AVI ")
    assert "no images in train/dog (passed over: " in refusal(root, data) and "1 .avi" in refusal(root, data)


def test_folders_of_systems_and_archives_are_no_classes_and_hold_no_images(root: Path, data: Path) -> None:
    for where in ("train/@eaDir", "train/cat/@eaDir/1.png", "test/__MACOSX", "train/dog/#recycle", "train/cat/.thumbnails"):
        (root / where).mkdir(parents=True)
        picture().save(root / where / "SYNOPHOTO_THUMB_M.jpg")
    images = datasets.load(f"folder:{root}", data, "train")
    assert len(images) == 4 and images.class_names == ("cat", "dog")
    assert "2 @eaDir/, 1 __MACOSX/, 1 #recycle/ (made by the system, an archive or a NAS)" in lines(root, data)


@pytest.mark.timeout(60)
def test_a_folder_is_read_once_whatever_links_lead_to_it(root: Path, data: Path) -> None:
    before = datasets.identify(f"folder:{root}", data)
    for name, to in (("cat/up", "train"), ("cat/across", "train/dog"), ("dog/to-test", "test"), ("all", ".")):
        (root / "train" / name).symlink_to(root / to)
    assert n_train(root, data) == 4
    assert datasets.identify(f"folder:{root}", data) == before
    for name in ("across/", "all/", "to-test/", "up/"):
        assert f"1 {name}" in lines(root, data)
    assert len(datasets.load_anomalies(f"folder:{root / 'train'}", data)) == 4 + 4, "those of test/, by a link, once"


def test_images_behind_links_are_taken_once(root: Path, data: Path, tmp_path: Path) -> None:
    shutil.move(root / "train" / "cat", tmp_path / "cats")
    (root / "train" / "cat").symlink_to(tmp_path / "cats")
    (tmp_path / "more").mkdir()
    picture().save(tmp_path / "more" / "x.png")
    for i in range(2):
        (root / "train" / "dog" / f"more{i}").symlink_to(tmp_path / "more")
    assert n_train(root, data) == 5
    (root / "train" / "puss").symlink_to(tmp_path / "cats")
    assert "train/cat and train/puss are one folder" in refusal(root, data)


@pytest.mark.timeout(60)
def test_only_regular_files_are_opened(root: Path, data: Path) -> None:
    cat = root / "train" / "cat"
    os.mkfifo(cat / "pipe.png")
    (cat / "device.png").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(cat / "s.jpg"))
        assert n_train(root, data) == 4
        told = lines(root, data)
    for what in ("1 .png (a pipe and no regular file)", "1 .png (a device and", "1 .jpg (a socket and"):
        assert what in told


def test_a_subfolder_that_cannot_be_read_is_an_error(root: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "train" / "cat" / "locked").mkdir()
    scandir = os.scandir

    def refuse(path: str) -> object:
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert "train/cat/locked cannot be read (Permission denied)" in refusal(root, data)


def test_other_formats_are_never_opened(root: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import EpsImagePlugin

    started: list[object] = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *a, **_: started.append(a) or Image.new("RGB", (9, 9)).im)
    content = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"
    (root / "train" / "cat" / "a.png").write_bytes(content)
    (root / "train" / "cat" / "b.eps").write_bytes(content)
    assert "1 broken image(s), mend or remove them: train/cat/a.png (damaged, or of no format that is read (JPEG" in refusal(
        root, data
    )
    assert started == [] and "1 .eps (no image of a format that is read)" in lines(root, data)


def test_heic_is_read_by_the_extra_or_told(root: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heif = pytest.importorskip("pillow_heif")
    heif.from_pillow(Image.new("RGB", (64, 64), (200, 100, 50))).save(root / "train" / "cat" / "phone.heic")
    images = datasets.load(f"folder:{root}", data, "train").images
    assert len(images) == 5 and np.abs(images[2].mean(axis=(1, 2)) - (200, 100, 50)).max() < 5
    monkeypatch.setattr("core.folder_files.readable_formats", lambda: ("JPEG",))
    assert n_train(root, data) == 4
    assert "1 .heic (HEIC; pip install -e '.[heic]' makes it readable)" in lines(root, data)
    (root / "train" / "cat" / "phone.heic").rename(root / "train" / "cat" / "phone.jpg")
    assert "phone.jpg (HEIC; pip install" in refusal(root, data), "named like an image that is always read"


# -- identity ------------------------------------------------------------------------------------------------------------


def first_identity(root: Path) -> str:
    """What the first version of this program called a data set's content."""
    content = hashlib.sha256()
    for split in ("train", "test"):
        inner = hashlib.sha256()
        for name in sorted(path.name for path in (root / split).iterdir()):
            for file in sorted(path for path in (root / split / name).rglob("*") if path.is_file()):
                inner.update(f"{file.relative_to(root)}\0".encode() + hashlib.sha256(file.read_bytes()).digest())
        content.update(f"{split}:{inner.hexdigest()[:20]}\n".encode())
    return "folder-" + content.hexdigest()[:20]


def test_ordinary_folders_keep_their_identity(root: Path, data: Path) -> None:
    cat = root / "train" / "cat"
    (cat / "sub").mkdir()
    (root / "train" / "cat-2").mkdir()
    for name in ("sub/é b.GIF", "sub-b.bmp", "Z.JPEG", "sub.webp", "../cat-2/p.tiff", "p.ppm"):
        picture().save(cat / name)
    Image.fromarray(ramp(65535, np.uint16)).save(cat / "16.png")
    Image.fromarray(ramp(1, np.float32)).save(cat / "f.tif")
    Image.fromarray(ramp(0, np.uint16)).save(cat / "black.tif")
    assert datasets.identify(f"folder:{root}", data) == first_identity(root)
    Image.fromarray(ramp(100, np.float32)).save(cat / "f.tif")
    assert datasets.identify(f"folder:{root}", data) != first_identity(root), "decoded otherwise than by the first version"


def test_changed_pixels_of_the_same_size_and_time_are_seen(root: Path, data: Path) -> None:
    path = root / "train" / "dog" / "9.bmp"
    Image.new("RGB", (32, 32), (1, 2, 3)).save(path)
    status = path.stat()
    before = datasets.identify(f"folder:{root}", data), datasets.load(f"folder:{root}", data, "train").images[-1].max()
    Image.new("RGB", (32, 32), (1, 2, 99)).save(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_size == status.st_size
    assert datasets.identify(f"folder:{root}", data) != before[0]
    assert datasets.load(f"folder:{root}", data, "train").images[-1].max() == 99 != before[1]


def test_files_that_have_not_changed_are_not_opened_again(root: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from core import folder_files

    (root / "train" / "cat" / "x.txt").write_text("no image")
    monkeypatch.setattr(folder_files, "_FRESH_NS", -(10**12))
    opened: list[str] = []
    examine_one = folder_files._examine_one
    monkeypatch.setattr(folder_files, "_examine_one", lambda *a: opened.append(a[-1]) or examine_one(*a))
    before = datasets.identify(f"folder:{root}", data)
    assert len(opened) == 9
    assert datasets.identify(f"folder:{root}", data) == before and "1 .txt (no image of a format that is read)" in lines(
        root, data
    )
    assert len(opened) == 9
    picture().save(root / "test" / "dog" / "1.png")
    assert datasets.identify(f"folder:{root}", data) != before and opened[9:] == ["test/dog/1.png"]
    (record,) = data.glob("folder-files-*.json")
    record.write_bytes(record.read_bytes().replace(b"no image", b"yo image"))
    assert "(no image of a format that is read)" in lines(root, data) and len(opened) == 19, "a damaged record is made again"


def test_a_file_that_changed_just_now_is_read_again(root: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two changes within one tick of the clock have one time."""
    datasets.identify(f"folder:{root}", data)
    monkeypatch.setattr("core.folder_files._examine_one", None)
    with pytest.raises(TypeError):
        datasets.identify(f"folder:{root}", data)


def test_a_folder_that_has_changed_says_why_it_trains_again(root: Path, data: Path) -> None:
    for split in ("train", "test"):
        datasets.load(f"folder:{root}", data, split)
    assert "has changed" not in lines(root, data)
    (root / "train" / "cat" / "0.png").rename(root / "train" / "cat" / "9.png")
    picture().save(root / "train" / "dog" / "8.jfif", "JPEG")
    picture().save(root / "test" / "dog" / "0.png")
    told = "it has changed since it was last used: 2 file(s) more, 1 file(s) fewer, 1 file(s) with other content; its trials"
    assert told in lines(root, data) and told in lines(root, data), "until it is used"
    for split in ("train", "test"):
        datasets.load(f"folder:{root}", data, split)
    assert "has changed" not in lines(root, data)
    datasets.load_anomalies(f"folder:{root}", data)
    (root / "test" / "dog" / "0.png").unlink()
    assert "1 file(s) fewer; they are evaluated again" in lines(root, data, anomalies=True)


def test_what_earlier_versions_passed_over_is_told_where_one_was_used(root: Path, data: Path) -> None:
    picture().save(root / "train" / "cat" / "x.jfif", "JPEG")
    assert "earlier versions" not in lines(root, data)
    data.mkdir(exist_ok=True)
    (data / "folder-hash-0123456789abcdef0123.json").write_text('"x"')
    assert "earlier versions treated 1 image(s) and 0 folder(s) of it otherwise" in lines(root, data)
    for split in ("train", "test"):
        datasets.load(f"folder:{root}", data, split)
    assert "earlier versions" not in lines(root, data)


def test_what_looks_wrong_gets_a_line(root: Path, data: Path) -> None:
    assert "warning" not in lines(root, data)
    shutil.copy(root / "train" / "cat" / "0.png", root / "test" / "cat" / "9.png")
    shutil.copy(root / "train" / "cat" / "1.png", root / "train" / "dog" / "9.png")
    for file in (root / "test" / "dog").iterdir():
        file.unlink()
    told = lines(root, data)
    assert "warning: 1 image(s) are in train and in test, e.g. train/cat/0.png and test/cat/9.png" in told
    assert "warning: 1 image(s) have two labels, e.g. train/cat/1.png and train/dog/9.png" in told
    assert "warning: no test images of dog" in told
    assert n_train(root, data) == 5, "a warning, no error"


# -- names ---------------------------------------------------------------------------------------------------------------


def test_names_that_are_not_utf_8_are_read(root: Path, data: Path) -> None:
    for split in ("train", "test"):
        (root / split / "dog").rename(root / split / os.fsdecode(b"d\xf6g"))
    odd = root / "train" / "cat" / os.fsdecode(b"caf\xe9\x1b[31m.png")
    (root / "train" / "cat" / "0.png").rename(odd)
    images = datasets.load(f"folder:{root}", data, "train")
    assert images.class_names == ("cat", "d\\xf6g") and len(images) == 4
    assert "cat 2, d\\xf6g 2" in lines(root, data)
    odd.write_bytes(b"no image")
    assert "train/cat/caf\\xe9\\x1b[31m.png (" in refusal(root, data)


def test_two_unicode_forms_of_a_name_are_one_class(root: Path, data: Path) -> None:
    composed, apart = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    (root / "train" / "cat").rename(root / "train" / composed)
    (root / "test" / "cat").rename(root / "test" / apart)
    for split in ("train", "test"):
        images = datasets.load(f"folder:{root}", data, split)
        assert images.class_names == (composed, "dog") and images.labels.tolist() == [0, 0, 1, 1]
    (root / "train" / apart).mkdir()
    picture().save(root / "train" / apart / "0.png")
    assert r"two Unicode forms of one name ('cafe\u0301' and 'caf\xe9')" in refusal(root, data)


# -- broken and large images ---------------------------------------------------------------------------------------------


def test_all_broken_images_are_listed_in_a_file_when_many(root: Path, data: Path) -> None:
    for i in range(20):
        (root / "train" / "cat" / f"bad{i}.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    assert all(f"bad{i}.png" in refusal(root, data) for i in range(20))
    (root / "train" / "dog" / "none").write_bytes(b"\xff\xd8\xff\xe0 cut")
    message = refusal(root, data)
    assert "21 broken image(s)" in message and message.count("bad") == 5 and " and 16 more; all are listed in " in message
    listed = Path(message.rpartition(" ")[2]).read_text(encoding="utf-8").splitlines()
    assert len(listed) == 21 and listed[-1].startswith("train/dog/none (")


def test_broken_images_of_train_and_test_are_told_together(root: Path, data: Path) -> None:
    for split in ("train", "test"):
        (root / split / "cat" / "0.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    with pytest.raises(InputError) as error:
        datasets.load_splits(f"folder:{root}", data, None)
    assert [line.partition(" (")[0].rpartition(" ")[2] for line in error.value.errors] == ["train/cat/0.png", "test/cat/0.png"]


def test_an_image_that_changes_after_it_was_hashed_is_not_taken(
    root: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    path = root / "train" / "cat" / "0.png"
    before, read = path.read_bytes(), ImageFolder.read

    def read_and_change(*where: Path) -> ImageFolder:
        found = read(*where)
        picture().save(path)
        return found

    monkeypatch.setattr(ImageFolder, "read", read_and_change)
    assert "train/cat/0.png (it changed while the folder was read: run the command again)" in refusal(root, data)
    monkeypatch.undo()
    path.write_bytes(before)
    expected = np.asarray(Image.open(path)).transpose(2, 0, 1)
    assert np.array_equal(datasets.load(f"folder:{root}", data, "train").images[0], expected)


def test_a_passing_fault_is_not_remembered_as_a_broken_image(root: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(ramp(1000, np.uint16)).save(root / "train" / "cat" / "x.tif")
    os.utime(root / "train" / "cat" / "x.tif", (1, 1))

    def fail(_: Image.Image) -> tuple[float, float]:
        raise errors.pop()

    monkeypatch.setattr("core.folder_files.value_range", fail)
    errors: list[Exception] = [OSError("decoder tiff_lzw not available")]
    assert "x.tif (decoder tiff_lzw not available)" in lines(root, data)
    errors = [MemoryError()]
    with pytest.raises(MemoryError):
        lines(root, data)
    monkeypatch.undo()
    assert "broken" not in lines(root, data)


def test_train_images_of_a_set_of_anomalies_are_told(root: Path, data: Path) -> None:
    assert f"folder:{root}: 4 images as anomalies, 4 images of train/ as anomalies for validation" in lines(
        root, data, anomalies=True
    )
    datasets.load_anomalies(f"folder:{root}", data)
    datasets.load_validation_anomalies(f"folder:{root}", data)
    picture().save(root / "train" / "cat" / "9.png")
    assert "1 file(s) more; they are evaluated again" in lines(root, data, anomalies=True)


def test_a_large_scan_is_no_attack(
    root: Path, data: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:  # fmt: skip
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    for i, side in enumerate((120, 160)):  # of which PIL warns, and which it refuses
        Image.new("RGB", (side, side), (9, 9, 9)).save(root / "train" / "cat" / f"scan{i}.png")
    assert n_train(root, data) == 6 and not recwarn.list
    assert Image.MAX_IMAGE_PIXELS == 10_000
    monkeypatch.setattr("core.image_decoding.MAX_PIXELS", 20_000)
    Image.new("RGB", (160, 160), (1, 1, 1)).save(root / "train" / "cat" / "scan1.png")
    message = refusal(root, data)
    assert "scan1.png (160 x 160 pixels are more than the" in message and "bomb" not in message
