"""The cluster's files against Ray's own validation."""

from __future__ import annotations

import copy
import re
from typing import Any

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from tests.conftest import ROOT

CLOUD = yaml.safe_load((ROOT / "ray_cluster.yaml").read_text())
#: The form for one's own machines, as the docs' page has it.
OWN = yaml.safe_load(
    next(block for block in re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "cluster.md").read_text(), re.DOTALL))
)


@pytest.mark.parametrize("config", [CLOUD, OWN], ids=["ray_cluster.yaml", "docs/cluster.md"])
def test_a_clusters_file_passes_rays_validation(config: dict[str, Any]) -> None:
    validate_config(prepare_config(copy.deepcopy(config)))
    with pytest.raises(jsonschema.ValidationError):
        validate_config(prepare_config({**copy.deepcopy(config), "idle_timeout": 5}))


def test_the_clouds_file_mounts_neither_data_nor_results_and_pins_what_it_runs() -> None:
    assert set(CLOUD["file_mounts"].values()) == {"./pyproject.toml", "./README.md", "~/.ray/auth_token"}
    assert re.fullmatch(r"rayproject/ray:\d+\.\d+\.\d+-py3\d+-gpu", CLOUD["docker"]["image"])
    gpu = CLOUD["available_node_types"]["gpu"]
    assert gpu["resources"]["GPU"] and gpu["node_config"]["InstanceMarketOptions"]["MarketType"] == "spot"
    assert (ROOT / "ray_cluster.yaml").read_text().count("# EDIT") == 3
