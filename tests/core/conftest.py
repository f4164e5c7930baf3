"""A small folder of images, and a folder for what is kept of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.core.image_folders import folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return folder(tmp_path / "set")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"
