"""How images of a folder become bytes: depths, orientation, pages, sizes, memory."""

from __future__ import annotations

import os
import struct
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFile

from core import datasets
from core.folder_files import Room
from core.image_decoding import decode
from tests.core.image_folders import DRAW, lines, n_train, ramp, refusal


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_tags_are_obeyed(root: Path, data: Path, orientation: int) -> None:
    upright = Image.fromarray(DRAW.integers(0, 256, (32, 32), dtype=np.uint8))
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # tag -> the member of Image.Transpose that makes what the tag stands for
    stored = upright if orientation == 1 else upright.transpose(Image.Transpose(undo[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(root / "train" / "cat" / "x.png", exif=exif)
    assert np.array_equal(datasets.load(f"folder:{root}", data, "train").images[2, 0], np.asarray(upright))


def test_of_several_pages_the_first_is_taken_and_told(root: Path, data: Path) -> None:
    first = Image.new("L", (32, 32), 7)
    first.save(root / "train" / "cat" / "x.tif", save_all=True, append_images=[Image.new("L", (32, 32), 99)])
    assert datasets.load(f"folder:{root}", data, "train").images[2].max() == 7
    assert "1 TIFF file(s) hold several images, of which the first is taken" in lines(root, data)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "I;16", "I", "F"])
def test_large_images_are_converted_strip_by_strip_to_the_same(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = DRAW.integers(0, 256, (50, 40, 4), dtype=np.uint8)
    image = Image.fromarray(pixels).convert(mode if mode in ("RGBA", "LA") else "L" if mode == "P" else "RGB")
    if mode == "P":
        image = image.convert("P")
        image.info["transparency"] = bytes(range(256))
    elif mode not in ("RGBA", "LA"):
        kind = {"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]
        image = Image.fromarray((pixels[..., 0] / (255 if mode == "F" else 1)).astype(kind))
    whole = decode(image.copy())
    monkeypatch.setattr("core.image_decoding._STRIP_VALUES", 130)
    assert np.array_equal(decode(image.copy()), whole) and (mode.startswith("I") or np.ptp(whole) > 0)


# -- values of more than 8 bits ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["png", "tif"])
@pytest.mark.parametrize(("top", "bits"), [(255, 8), (1000, 10), (4095, 12), (16000, 14), (65535, 16)])
def test_integers_are_scaled_by_the_depth_that_a_folder_uses(root: Path, data: Path, top: int, bits: int, ending: str) -> None:
    values, dark = ramp(top, np.uint16), ramp(top // 5, np.uint16)
    Image.fromarray(values).save(root / "test" / "cat" / f"x.{ending}")
    Image.fromarray(dark).save(root / "train" / "cat" / f"x.{ending}")
    for split, expected in (("test", values), ("train", dark)):
        found = datasets.load(f"folder:{root}", data, split).images[2, 0]
        assert np.array_equal(found, expected.astype(int) * 255 // (2**bits - 1)), "the same scale in train and test"
    assert (f"use {bits} bits: they are scaled from 0..{2**bits - 1}" in lines(root, data)) == (bits != 16)


def tiff12(path: Path, values: NDArray[np.float64]) -> None:
    """A TIFF of 12 packed bits a pixel, [32, 32], which PIL reads and does not write."""
    packed = b"".join(int(a << 12 | b).to_bytes(3, "big") for a, b in values.astype(int).reshape(-1, 2).tolist())
    tags = [(256, 32), (257, 32), (258, 12), (259, 1), (262, 1), (273, 200), (277, 1), (278, 32), (279, len(packed))]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    header = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", 0)
    path.write_bytes(header.ljust(200, b"\0") + packed)


def test_what_a_file_says_of_its_depth_counts(root: Path, data: Path) -> None:
    (root / "train" / "cat" / "x.pgm").write_bytes(b"P5 32 32 4095\n" + ramp(1000, np.uint16).astype(">u2").tobytes())
    tiff12(root / "train" / "cat" / "y.tif", ramp(1000, np.uint16))
    for found in datasets.load(f"folder:{root}", data, "train").images[2:4, 0]:
        assert np.abs(found - ramp(1000, np.float64) / 4095 * 255).max() < 2


def test_more_than_16_bits_keep_one_scale(root: Path, data: Path) -> None:
    for i, top in enumerate((100_000, 70_000)):
        Image.fromarray(ramp(top, np.int32)).save(root / "train" / "cat" / f"x{i}.tif")
    tops = datasets.load(f"folder:{root}", data, "train").images[2:4].max(axis=(1, 2, 3))
    assert tops.tolist() == [100_000 * 255 // (2**17 - 1), 70_000 * 255 // (2**17 - 1)]


@pytest.mark.parametrize(("top", "scale"), [(1, 1), (1.02, 1), (255, 255), (200, 255)])
def test_floats_are_scaled_by_the_range_that_a_folder_uses(root: Path, data: Path, top: float, scale: int) -> None:
    values, dark = ramp(top, np.float32), ramp(top / 300, np.float32)
    for name, array in (("x", values), ("y", dark)):
        Image.fromarray(array).save(root / "train" / "cat" / f"{name}.tif")
    found = datasets.load(f"folder:{root}", data, "train").images[2:4, 0]
    expected = [(array.astype(np.float64) / scale).clip(0, 1) * 255 for array in (values, dark)]
    assert np.array_equal(found, np.round(expected).astype(np.uint8))
    assert ("scaled from 0..255" in lines(root, data)) == (scale == 255)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (ramp(3, np.float32), "floating-point values from 0 to 3: scale them to 0..1 or 0..255"),
        (ramp(65535, np.float32), "floating-point values from 0 to 6.554e+04"),
        (ramp(1, np.float32, -1), "floating-point values from -1 to 1"),
        (ramp(np.nan, np.float32), "floating-point values that are not finite"),
        (ramp(500, np.int16, -500), "negative values, -500 to 500"),
    ],
)
def test_values_of_no_known_scale_are_refused(root: Path, data: Path, values: NDArray[np.float64], reason: str) -> None:
    Image.fromarray(values).save(root / "train" / "cat" / "x.tif")
    assert f"train/cat/x.tif ({reason}" in refusal(root, data)
    assert f"at least 1 broken image(s), with which no trial can run, e.g. train/cat/x.tif ({reason}" in lines(root, data)


def rgb16(path: Path, top: int) -> None:
    """A PNG of 16 bits a colour, which PIL reads and does not write."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = b"".join(b"\0" + np.full((32, 3), top, ">u2").tobytes() for _ in range(32))
    header = struct.pack(">IIBBBBB", 32, 32, 16, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


def test_colours_of_12_in_16_bits_are_refused(root: Path, data: Path) -> None:
    rgb16(root / "train" / "cat" / "x.png", 4000)
    assert "x.png (colours of 16 bits that use 12 or fewer" in refusal(root, data)
    rgb16(root / "train" / "dog" / "y.png", 50000)
    images = datasets.load(f"folder:{root}", data, "train").images
    assert images[2].max() == 4000 >> 8 and images[5].max() == 50000 >> 8, "a dark one among others is dark"


def test_images_that_become_dark_are_told(root: Path, data: Path) -> None:
    rgb16(root / "train" / "cat" / "x.png", 16_000)
    assert "warning: 1 image(s) become dark, e.g. train/cat/x.png: no colour of 16 bits is larger than half" in lines(
        root, data
    )
    rgb16(root / "train" / "cat" / "y.png", 65_535)
    assert "become dark" not in lines(root, data)
    for name, top in (("a", 1), ("b", 255)):
        Image.fromarray(ramp(top, np.float32)).save(root / "train" / "dog" / f"{name}.tif")
    assert "warning: 1 image(s) become dark, e.g. train/dog/a.tif: their floating-point values end at 1" in lines(root, data)


def test_files_that_are_not_taken_do_not_decide_the_scale(root: Path, data: Path) -> None:
    Image.fromarray(ramp(4000, np.uint16)).save(root / "train" / "cat" / "x.png")
    before = datasets.identify(f"folder:{root}", data)
    Image.fromarray(ramp(60_000, np.uint16)).save(root / "train" / "mask.png")
    Image.fromarray(ramp(200, np.float32)).save(root / "train" / "depth.tif")
    assert datasets.identify(f"folder:{root}", data) == before
    assert datasets.load(f"folder:{root}", data, "train").images[2].max() == 4000 * 255 // 4095


def test_one_image_of_a_wrong_range_is_named_alone(root: Path, data: Path) -> None:
    for name, top in (("right", 1), ("wrong", 1.2)):
        Image.fromarray(ramp(top, np.float32)).save(root / "train" / "cat" / f"{name}.tif")
    assert "1 broken image(s)" in refusal(root, data) and "wrong.tif (floating-point values from 0 to 1.2" in refusal(
        root, data
    )


def test_a_bitmap_of_16_bits_a_pixel_is_no_image_of_16_bits_a_colour(root: Path, data: Path) -> None:
    header = struct.pack("<IiiHHIIiiII", 40, 32, 32, 1, 16, 0, 2048, 0, 0, 0, 0)
    pixels = np.full(1024, 1 << 10 | 1 << 5 | 1, "<u2").tobytes()  # 1 of 31 in each colour: dark
    start = b"BM" + struct.pack("<IHHI", 54 + len(pixels), 0, 0, 54)
    (root / "train" / "cat" / "x.bmp").write_bytes(start + header + pixels)
    assert datasets.load(f"folder:{root}", data, "train").images[2].max() == 8 and "become dark" not in lines(root, data)


def test_memory_for_decoding_is_bounded() -> None:
    room, lock = Room(100), threading.Lock()
    now = peak = 0

    def use(wanted: int) -> None:
        nonlocal now, peak
        with room.take(wanted):
            with lock:
                now += min(wanted, 100)
                peak = max(peak, now)
            time.sleep(0.001)
            with lock:
                now -= min(wanted, 100)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(use, [30, 60, 500, 10] * 20))
    assert peak <= 100 and now == 0


def test_images_are_decoded_within_that_bound(root: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.folder_files._DECODING_BYTES", 1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(4))
    alone, lock = [True], threading.Lock()
    load = ImageFile.ImageFile.load

    def one_at_a_time(self: ImageFile.ImageFile) -> object:
        alone.append(lock.acquire(blocking=False))
        try:
            time.sleep(0.002)
            return load(self)
        finally:
            if alone[-1]:
                lock.release()

    monkeypatch.setattr(ImageFile.ImageFile, "load", one_at_a_time)
    assert n_train(root, data) == 4 and all(alone)
