"""Image sets: digits-m keeps its promises, subsets and splits are fixed and fair, folders are read properly."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core import digits_m
from core.atomic_files import save_arrays
from core.datasets import (
    DATASETS,
    ImageSet,
    balanced_subset,
    identify,
    identify_and_count,
    load,
    load_all,
    load_anomalies,
    load_splits,
    load_validation_anomalies,
    split_images,
    split_validation,
)
from core.errors import InputError
from core.image_decoding import decode, to_rgb32


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


# -- digits-m ------------------------------------------------------------------------------------------------------------


def test_digits_m_is_what_it_was(data_dir: Path) -> None:
    train, test = load("digits-m", data_dir, "train"), load("digits-m", data_dir, "test")
    assert train.images.shape == (7782, 3, 32, 32) and test.images.shape == (2000, 3, 32, 32)
    assert identify_and_count("digits-m", data_dir)[1] == len(train)
    sets = (train, test, load_anomalies("digits-m-patches", data_dir), load_anomalies("digits-m-black", data_dir))
    sums = [hashlib.sha256(s.images.tobytes() + s.labels.tobytes()).hexdigest()[:12] for s in sets]
    assert sums == SUMS, "the images changed: raise digits_m.VERSION and record the new sums"


SUMS = ["ee82e22df3d9", "c598e2d281d8", "d5e3b24f32ea", "4f74c883f040"]


def test_digits_m_comes_from_the_cache_the_second_time(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load("digits-m", data_dir, "test")
    monkeypatch.setattr(digits_m, "_render", None)
    assert np.array_equal(load("digits-m", data_dir, "test").images, first.images)


def test_train_and_test_share_neither_digit_nor_photograph_region(data_dir: Path) -> None:
    splits = load_splits("digits-m", data_dir, None)
    digits = [set(part.groups.tolist()) for part in (splits.train, splits.validation, splits.test) if part.groups is not None]
    assert len(digits) == 3
    assert not (digits[0] & digits[1] or digits[0] & digits[2] or digits[1] & digits[2])
    # Where patches were cut, by finding the strips: every test strip is no train strip.
    strips = {split: set() for split in ("train", "test")}  # type: ignore[var-annotated]
    for split, found in strips.items():
        rng = np.random.RandomState(0)
        photographs = digits_m._photographs()
        for _ in range(100):
            patch = digits_m._patch(split, rng)
            for i, photograph in enumerate(photographs):
                windows = np.lib.stride_tricks.sliding_window_view(photograph[..., 0], (32, 32))
                at = np.argwhere((windows[:, :, 0, 0] == patch[0, 0, 0]) & (windows[:, :, 31, 31] == patch[31, 31, 0]))
                hits = [(y, x) for y, x in at if np.array_equal(windows[y, x], patch[..., 0])]
                if len(hits) == 1:
                    found.update((i, x // 64) for x in (hits[0][1], hits[0][1] + 31))
    assert len(strips["train"]) > 5 and len(strips["test"]) > 3
    assert not strips["train"] & strips["test"]


# -- subsets and splits --------------------------------------------------------------------------------------------------


def labelled(counts: list[int]) -> ImageSet:
    labels = np.random.RandomState(0).permutation(np.repeat(np.arange(len(counts)), counts))
    return ImageSet(np.zeros((len(labels), 3, 32, 32), np.uint8), labels, tuple("abcdefgh"[: len(counts)]))


def test_a_subset_is_balanced_fixed_and_nested() -> None:
    labels = labelled([100, 100, 100, 100]).labels
    chosen = balanced_subset(labels, 40)
    assert np.bincount(labels[chosen]).tolist() == [10, 10, 10, 10]
    assert np.array_equal(chosen, balanced_subset(labels, 40))
    assert set(chosen) < set(balanced_subset(labels, 80))
    assert np.ptp(np.bincount(labels[balanced_subset(labels, 42)])) == 1


def test_a_class_that_is_too_small_is_taken_whole() -> None:
    labels = labelled([100, 3, 100]).labels
    assert np.bincount(labels[balanced_subset(labels, 43)]).tolist() == [20, 3, 20]


def test_validation_is_a_tenth_of_each_class() -> None:
    images = labelled([100, 50, 10])
    kept, held_out = split_validation(images)
    assert np.bincount(images.labels[held_out]).tolist() == [10, 5, 1]
    assert sorted([*kept, *held_out]) == list(range(160))
    assert np.array_equal(split_validation(images)[1], held_out)


def test_small_classes_hold_out_one_image() -> None:
    images = labelled([3, 2])
    kept, held_out = split_validation(images)
    assert np.bincount(images.labels[held_out]).tolist() == [1, 1] and len(kept) == 3


def test_a_class_of_one_image_stays_in_train() -> None:
    images = labelled([100, 1])
    kept, _ = split_validation(images)
    assert set(images.labels[kept]) == {0, 1}


def test_a_subset_larger_than_the_set_is_refused(data_dir: Path) -> None:
    with pytest.raises(InputError, match="train_subset: 8000 is more than the 7782"):
        load_splits("digits-m", data_dir, 8000)


# -- folders -------------------------------------------------------------------------------------------------------------


def ensure_dir(root: Path, n: int = 3) -> Path:
    draw = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (root / split / name).mkdir(parents=True)
            for i in range(n):
                Image.fromarray(draw.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(root / split / name / f"{i}.png")
    return root


def test_a_folder_is_read_with_its_classes(tmp_path: Path, data_dir: Path) -> None:
    root = ensure_dir(tmp_path / "set")
    (root / "train" / "cat" / ".hidden.png").write_text("not seen")
    (root / "train" / "cat" / "notes.txt").write_text("not seen")
    images = load(f"folder:{root}", data_dir, "train")
    assert images.class_names == ("cat", "dog") and images.labels.tolist() == [0, 0, 0, 1, 1, 1]
    expected = np.asarray(Image.open(root / "train" / "dog" / "1.png")).transpose(2, 0, 1)
    assert np.array_equal(images.images[4], expected)
    assert identify_and_count(f"folder:{root}", data_dir)[1] == 6


def test_a_folder_is_identified_by_its_content(tmp_path: Path, data_dir: Path) -> None:
    one, two = ensure_dir(tmp_path / "one"), ensure_dir(tmp_path / "two")
    name = f"folder:{one}"
    before = identify(name, data_dir)
    assert identify(f"folder:{two}", data_dir) == before, "the same files elsewhere are the same set"
    Image.new("RGB", (32, 32)).save(two / "train" / "cat" / "0.png")
    assert identify(f"folder:{two}", data_dir) != before
    (one / "train" / "cat" / "0.png").rename(one / "train" / "dog" / "9.png")
    assert identify(name, data_dir) != before, "a file of another class is another set"


def test_decoded_images_are_kept_by_content(tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = ensure_dir(tmp_path / "set", n=2)
    first = load(f"folder:{root}", data_dir, "test")
    monkeypatch.setattr("core.folders._decode_all", None)
    assert np.array_equal(load(f"folder:{root}", data_dir, "test").images, first.images)


def test_anomalies_may_be_any_images(tmp_path: Path, data_dir: Path) -> None:
    root = ensure_dir(tmp_path / "set")
    assert len(load_anomalies(f"folder:{root}", data_dir)) == 6, "of a data set, the test images"
    assert len(load_anomalies(f"folder:{root / 'train' / 'cat'}", data_dir)) == 3, "of any other folder, all"
    assert identify(f"folder:{root}", data_dir, anomalies=True) != identify(f"folder:{root}", data_dir)


def test_anomalies_for_choosing_come_from_a_folders_train_images(tmp_path: Path, data_dir: Path) -> None:
    root = ensure_dir(tmp_path / "set")
    name = f"folder:{root}"
    chosen = load_validation_anomalies(name, data_dir)
    assert chosen is not None and len(chosen) == 2, "a tenth of each of two classes, at least one"
    before = identify(name, data_dir, anomalies=True)
    Image.new("RGB", (32, 32), (1, 2, 3)).save(root / "train" / "cat" / "0.png")
    assert identify(name, data_dir, anomalies=True) != before, "what is chosen by has changed"
    (root / "train" / "cat" / "0.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"cat/0\.png"):
        load_validation_anomalies(name, data_dir)
    (root / "test").rename(root / "elsewhere")
    assert load_validation_anomalies(name, data_dir) is None, "all of its images are tested on"


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda root: root / "nowhere", "there is no such folder"),
        (lambda root: root / "train", "train/ is missing"),
        (lambda root: [f.unlink() for f in (root / "train" / "dog").iterdir()] and root, "no images in train/dog"),
        (lambda root: (root / "test" / "dog").rename(root / "test" / "cow") and root, "test/ that train/ lacks: cow"),
    ],
)
def test_a_folder_that_is_no_data_set_is_refused(tmp_path: Path, data_dir: Path, break_it: object, message: str) -> None:
    assert callable(break_it)
    root = break_it(ensure_dir(tmp_path / "set"))
    with pytest.raises(InputError) as error:
        identify(f"folder:{root}", data_dir)
    assert any(message in fault for fault in error.value.errors)


def test_one_class_is_refused(tmp_path: Path, data_dir: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / split / "cat").mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(tmp_path / split / "cat" / "0.png")
    with pytest.raises(InputError, match="at least two class folders are needed below train/, found cat"):
        identify(f"folder:{tmp_path}", data_dir)


def test_broken_images_are_refused_by_name(tmp_path: Path, data_dir: Path) -> None:
    root = ensure_dir(tmp_path / "set")
    whole = (root / "train" / "cat" / "0.png").read_bytes()
    (root / "train" / "cat" / "0.png").write_bytes(whole[: len(whole) // 2])
    (root / "train" / "dog" / "2.png").write_bytes(b"no image at all")
    with pytest.raises(InputError) as error:
        load(f"folder:{root}", data_dir, "train")
    assert "2 broken image(s)" in str(error.value)
    assert "train/cat/0.png" in str(error.value) and "train/dog/2.png" in str(error.value)


def test_a_link_to_nowhere_is_named(tmp_path: Path, data_dir: Path) -> None:
    root = ensure_dir(tmp_path / "set")
    (root / "train" / "cat" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(InputError, match=r"train/cat/gone.png cannot be read"):
        identify(f"folder:{root}", data_dir)


def test_a_broken_cache_is_made_anew(tmp_path: Path) -> None:
    first = load("digits-m", tmp_path, "test")
    (cached,) = tmp_path.glob("*.npz")
    cached.write_bytes(cached.read_bytes()[:1000])
    assert np.array_equal(load("digits-m", tmp_path, "test").images, first.images)


# -- conversion ----------------------------------------------------------------------------------------------------------


def test_grey_is_repeated() -> None:
    out = decode(Image.fromarray(np.arange(1024, dtype=np.uint16).reshape(32, 32).astype(np.uint8)))
    assert out.shape == (3, 32, 32) and np.array_equal(out[0], out[1]) and np.array_equal(out[1], out[2])


def test_sixteen_bits_are_scaled_not_cut() -> None:
    values = np.linspace(0, 65535, 1024).reshape(32, 32).astype(np.uint16)
    expected = (values.astype(int) // 257).astype(np.uint8)
    assert np.array_equal(decode(Image.fromarray(values))[0], expected)
    as_32_bits = Image.fromarray(values.astype(np.int32))
    assert as_32_bits.mode == "I" and np.abs(decode(as_32_bits)[0].astype(int) - expected).max() <= 1


def test_sixteen_bit_files_are_scaled(tmp_path: Path) -> None:
    values = np.linspace(0, 65535, 1024).reshape(32, 32).astype(np.uint16)
    for ending in ("png", "tif"):
        Image.fromarray(values).save(tmp_path / f"x.{ending}")
        with Image.open(tmp_path / f"x.{ending}") as image:
            assert np.array_equal(decode(image)[0], (values.astype(int) // 257).astype(np.uint8))


def test_transparency_is_laid_over_white() -> None:
    pixels = np.zeros((32, 32, 4), dtype=np.uint8)
    pixels[..., 0] = 200
    pixels[:16, :, 3] = 255  # the upper half is opaque, the lower half transparent whatever its colour
    out = decode(Image.fromarray(pixels))
    assert out[:, :16].reshape(3, -1).max(axis=1).tolist() == [200, 0, 0]
    assert (out[:, 16:] == 255).all()


def test_palettes_and_other_modes_become_rgb() -> None:
    rgb = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
    for mode in ("P", "CMYK", "1", "L", "LA", "F", "YCbCr"):
        assert decode(rgb.convert(mode)).shape == (3, 32, 32)
    palette = rgb.quantize(16)
    assert np.array_equal(decode(palette), np.asarray(palette.convert("RGB")).transpose(2, 0, 1))


def test_odd_sizes_are_resized_bilinearly() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 21, 3), dtype=np.uint8))
    expected = np.asarray(image.resize((32, 32), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    assert np.array_equal(decode(image), expected)


def test_arrays_are_brought_to_the_same_form() -> None:
    grey = np.random.default_rng(0).integers(0, 256, (4, 28, 28), dtype=np.uint8)
    out = to_rgb32(grey)
    assert out.shape == (4, 3, 32, 32) and np.array_equal(out[:, 0], out[:, 2])
    colour = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    assert np.array_equal(to_rgb32(colour), colour.transpose(0, 3, 1, 2))


# -- torchvision ---------------------------------------------------------------------------------------------------------


def test_files_of_torchvision_that_are_there_are_used(tmp_path: Path) -> None:
    import gzip

    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    images = np.random.default_rng(0).integers(0, 256, (5, 28, 28), dtype=np.uint8)
    for prefix in ("train", "t10k"):
        for kind, header, content in (
            ("images-idx3-ubyte", (2051, 5, 28, 28), images.tobytes()),
            ("labels-idx1-ubyte", (2049, 5), bytes([3, 1, 4, 1, 5])),
        ):
            data = np.array(header, dtype=">i4").tobytes() + content
            (folder / f"{prefix}-{kind}").write_bytes(data)
            (folder / f"{prefix}-{kind}.gz").write_bytes(gzip.compress(data))
    found = load("mnist", tmp_path, "test")
    assert found.labels.tolist() == [3, 1, 4, 1, 5] and found.images.shape == (5, 3, 32, 32)
    assert len(found.class_names) == 10


def test_a_download_that_fails_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from urllib.error import URLError

    def fail(*_: object, **__: object) -> None:
        raise URLError("no route")

    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", fail)
    with pytest.raises(InputError, match=r"dataset cifar10: neither found below .* nor downloaded .*no route.*folder:PATH"):
        load("cifar10", tmp_path, "train")


@pytest.mark.parametrize("name", DATASETS)
def test_naming_a_built_in_set_costs_nothing(name: str, tmp_path: Path) -> None:
    assert identify(name, tmp_path).startswith(name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.real_data
@pytest.mark.slow
def test_real_cifar10_and_mnist_as_folders(real_data: Path, data_dir: Path) -> None:
    splits = load_splits(f"folder:{real_data / 'cifar10'}", data_dir, 1000)
    assert np.bincount(splits.train.labels).tolist() == [90] * 10 and len(splits.validation) == 100
    assert len(splits.test) == 10_000 and splits.test.class_names[:2] == ("airplane", "automobile")
    mean = splits.test.images.mean(axis=(0, 2, 3)) / 255
    np.testing.assert_allclose(mean, [0.494, 0.485, 0.450], atol=0.01)  # the known means of CIFAR-10's test set
    digits = load_anomalies(f"folder:{real_data / 'mnist'}", data_dir)
    assert digits.images.shape == (10_000, 3, 32, 32)
    assert np.array_equal(digits.images[:, 0], digits.images[:, 1])


def test_digits_m_knows_what_its_images_were_made_from(tmp_path: Path) -> None:
    made = digits_m._render("test", on_black=True)
    size, position = made.factors["size"][:, 0], made.factors["position"]
    assert size.min() >= 20 and size.max() <= 28 and len(np.unique(size)) == 9
    for image, side, (down, right) in zip(made.images[:200], size, position, strict=False):
        rows, columns = (np.flatnonzero(image.any(axis=(0, other))) for other in (2, 1))
        assert down - side / 2 <= rows.min() and rows.max() < down + side / 2
        assert right - side / 2 <= columns.min() and columns.max() < right + side / 2
    # A digit touches the upper and the lower border of its square.
    first = np.array([np.flatnonzero(image.any(axis=(0, 2)))[[0, -1]].mean() + 0.5 for image in made.images])
    assert np.abs(first - position[:, 0]).mean() < 1
    test = load("digits-m", tmp_path, "test")
    assert test.factors is not None and set(test.factors) == set(digits_m.FACTORS)
    np.testing.assert_array_equal(test.factors["position"], position)
    shown = test.images[:, :, [0, -1], :].mean(axis=(2, 3)) / 255  # mostly background
    assert all(np.corrcoef(shown[:, c], test.factors["background_colour"][:, c])[0, 1] > 0.9 for c in range(3))
    some = test.take(np.array([5, 3]))
    assert some.factors is not None
    np.testing.assert_array_equal(some.factors["size"], test.factors["size"][[5, 3]])


def test_a_digits_m_cache_of_before_gets_its_factors(tmp_path: Path) -> None:
    images = load("digits-m", tmp_path, "test")
    path = next(tmp_path.glob("digits-m-*-test.npz"))
    save_arrays(path, {"images": images.images, "labels": images.labels, "groups": images.labels})
    again = load("digits-m", tmp_path, "test")
    assert again.factors is not None and set(again.factors) == set(digits_m.FACTORS)


# -- splits drawn with the seed ------------------------------------------------------------------------------------------


def test_a_split_drawn_with_the_seed_is_another_one_of_the_same_kind(data_dir: Path) -> None:
    train, test = load_all("digits-m", data_dir, ("train", "test"))
    fixed = split_images("digits-m", train, test, 2000, None)
    one, again, other = (split_images("digits-m", train, test, 2000, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(fixed.train.images, load_splits("digits-m", data_dir, 2000).train.images)
    for part in ("train", "validation"):
        np.testing.assert_array_equal(getattr(one, part).images, getattr(again, part).images)
        for different in (fixed, other):
            assert getattr(one, part).images.shape != getattr(different, part).images.shape or not np.array_equal(
                getattr(one, part).images, getattr(different, part).images
            )
    assert one.test is test and other.test is test, "the test images are never drawn anew"
    assert np.ptp(np.bincount(np.concatenate([one.train.labels, one.validation.labels]))) <= 1, "class-balanced"
    assert one.train.groups is not None and one.validation.groups is not None
    assert not set(one.train.groups) & set(one.validation.groups), "no source is on both sides"
    shares = np.bincount(one.validation.labels) / np.bincount(np.concatenate([one.train.labels, one.validation.labels]))
    assert shares.min() > 0.05 and shares.max() < 0.2
