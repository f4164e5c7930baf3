"""The images of a sweep: what is said about folders before anything starts."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from core.errors import InputError
from sweeps.run import main
from sweeps.storage.image_sets import describe_folders, load_images
from tests.conftest import image_folder
from tests.sweeps.tiny import BASE, arm, tiny_plan


def test_a_dry_run_says_what_folders_hold(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images, odd = image_folder(tmp_path / "images", train=400, test=40), tmp_path / "odd"
    (images / "train" / "a" / "notes.txt").write_text("no image")
    (images / "test" / "b" / "broken.png").write_text("no image")
    shutil.copy(images / "train" / "a" / "0.png", images / "test" / "a" / "copy.png")
    odd.mkdir()
    Image.new("RGB", (32, 32)).save(odd / "x.jfif", "JPEG")
    base = BASE | {"dataset": f"folder:{images}", "anomaly_datasets": [f"folder:{odd}"]}
    (tmp_path / "g.yaml").write_text(yaml.safe_dump({"question": "?", "base": base, "arms": {"x": {"mu": 1}}}))
    flags = ["--grid", str(tmp_path / "g.yaml"), "--profile", "digits-m", "--data", str(tmp_path / "data")]
    flags += ["--storage", str(tmp_path / "results"), "--dry-run"]
    assert main(flags) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("profile digits-m")
    assert said[3].startswith(
        f"folder:{images}: at least 1 broken image(s), with which no trial can run, e.g. test/b/broken.png (damaged, or of no "
        "format that is read (JPEG, PNG, BMP, GIF, WEBP, TIFF, PPM"
    )
    assert said[1:3] + said[4:6] == [
        f"folder:{images}: train 400 images (a 100, b 100, c 100, d 100), test 42 images (a 11, b 11, c 10, d 10)",
        f"folder:{images}: passed over: 1 .txt (no image of a format that is read)",
        f"folder:{images}: warning: 1 image(s) are in train and in test, e.g. train/a/0.png and test/a/copy.png",
        f"folder:{odd}: 1 images as anomalies",
    ]
    assert not (tmp_path / "results").exists()


def test_images_that_change_between_planning_and_loading_are_refused(tmp_path: Path) -> None:
    images, odd = image_folder(tmp_path / "images", train=40, test=20), tmp_path / "odd"
    odd.mkdir()
    Image.new("RGB", (32, 32)).save(odd / "x.png")
    fields = {"dataset": f"folder:{images}", "anomaly_datasets": [f"folder:{odd}"], "batch_size": 8}
    trial = arm(tiny_plan(tmp_path / "data", {"x": fields}), "x")
    assert load_images([trial], tmp_path / "data").cover([trial])
    Image.new("RGB", (32, 32), (1, 2, 3)).save(images / "train" / "a" / "0.png")
    Image.new("RGB", (32, 32), (1, 2, 3)).save(odd / "y.png")
    with pytest.raises(InputError) as error:
        load_images([trial], tmp_path / "data")
    assert error.value.errors == tuple(
        f"folder:{folder}: its images changed while this command ran: run it again" for folder in (images, odd)
    )


def test_a_set_of_anomalies_that_is_scaled_otherwise_is_told(tmp_path: Path) -> None:
    images, odd = image_folder(tmp_path / "images", train=40, test=20), tmp_path / "odd"
    odd.mkdir()
    for path, top in ((images / "train" / "a" / "0.png", 4000), (odd / "x.png", 900)):
        Image.fromarray(np.full((32, 32), top, np.uint16)).save(path)
    fields = {"dataset": f"folder:{images}", "anomaly_datasets": [f"folder:{odd}"], "batch_size": 8}
    trial = arm(tiny_plan(tmp_path / "data", {"x": fields}), "x")
    warning = f"folder:{odd}: warning: its grey values are scaled from 0..1023, those of folder:{images} from 0..4095"
    assert warning in "\n".join(describe_folders([trial], tmp_path / "data"))
    Image.fromarray(np.full((32, 32), 3000, np.uint16)).save(odd / "x.png")
    assert "grey values are scaled from" not in "\n".join(describe_folders([trial], tmp_path / "data"))
