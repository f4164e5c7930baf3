"""Sweeps torn by kills of the driver, of workers and by Ctrl-C end as an undisturbed one does."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import yaml

from tests.conftest import image_folder
from tests.fault_injection.kill_sweeps import GRID, torn_by_all, torn_sweeps
from tests.fault_injection.sweep_command import Undisturbed, undisturbed

pytestmark = pytest.mark.timeout(1800)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    folder = tmp_path_factory.mktemp("whole")
    grid = folder / "kills.yaml"
    images = image_folder(folder / "images", train=1000)
    base = GRID["base"] | {"dataset": f"folder:{images}", "anomaly_datasets": []}
    grid.write_text(yaml.safe_dump(GRID | {"base": base, "arms": {name: GRID["arms"][name] for name in ("n", "pca")}}))
    return undisturbed(folder / "sweep", grid, folder / "data")


@pytest.mark.nightly
@pytest.mark.parametrize("seed", [0, 1])
def test_nothing_is_lost_in_one_sweep_torn_by_every_kind_of_kill(seed: int, whole: Undisturbed, tmp_path: Path) -> None:
    assert torn_by_all(random.Random(seed), whole, tmp_path) == []


@pytest.mark.nightly
@pytest.mark.parametrize("what", ["driver", "worker", "interrupt"])
def test_nothing_is_lost_by_several_kills_of_one_kind(what: str, whole: Undisturbed, tmp_path: Path) -> None:
    assert torn_sweeps(what, 3, random.Random(0), whole, tmp_path) == []
