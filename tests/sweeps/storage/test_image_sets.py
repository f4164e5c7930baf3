"""The images of a sweep: what is said about folders before anything starts."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml
from PIL import Image

from sweeps.run import main
from tests.conftest import image_folder
from tests.sweeps.tiny import BASE


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
    assert said[1:6] == [
        f"folder:{images}: train 400 images (a 100, b 100, c 100, d 100), test 42 images (a 11, b 11, c 10, d 10)",
        f"folder:{images}: passed over: 1 .txt (no image)",
        f"folder:{images}: 1 broken image(s), which no trial can be run with, e.g. test/b/broken.png (damaged, or of no "
        "format that is read (JPEG, PNG, BMP, GIF, WEBP, TIFF, PPM))",
        f"folder:{images}: warning: 1 image(s) are in train and in test, e.g. train/a/0.png and test/a/copy.png",
        f"folder:{odd}: 1 images as anomalies",
    ]
    assert not (tmp_path / "results").exists()
