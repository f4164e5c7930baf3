"""Two kills each of what ``python -m tests.fault_injection.kill_sweeps`` does at length."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import yaml

from tests.fault_injection.kill_sweeps import GRID, Undisturbed, torn_sweeps, undisturbed

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    folder = tmp_path_factory.mktemp("whole")
    grid = folder / "chaos.yaml"
    grid.write_text(yaml.safe_dump(GRID | {"arms": {name: GRID["arms"][name] for name in ("n", "pca")}}))
    return undisturbed(folder / "sweep", grid, folder / "data")


@pytest.mark.parametrize("what", ["driver", "worker", "interrupt"])
def test_nothing_is_lost(what: str, whole: Undisturbed, tmp_path: Path) -> None:
    assert torn_sweeps(what, 2, random.Random(0), whole, tmp_path) == []
