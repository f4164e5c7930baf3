"""The cluster's files against Ray's own validation, and Ray's autoscaler over nodes that are only pretended to be machines."""

from __future__ import annotations

import copy
import json
import re
import time
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from sweeps.store import Store
from tests.cluster.nodes import ROOT, Nodes
from tests.cluster.test_nodes import arguments, images, wait_for

__all__ = ["images"]

CLOUD = yaml.safe_load((ROOT / "ray_cluster.yaml").read_text())
#: The form for one's own machines, as the docs' page has it.
OWN = yaml.safe_load(
    next(block for block in re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "cluster.md").read_text(), re.DOTALL))
)
#: One worker type of one CPU for Ray's fake provider, whose machines are raylets on this one.
FAKE: dict[str, Any] = {
    "cluster_name": "fake",
    "max_workers": 2,
    "idle_timeout_minutes": 0.1,
    "upscaling_speed": 10,
    "provider": {"type": "fake_multinode"},
    "head_node_type": "head",
    "available_node_types": {
        "head": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "worker": {
            "resources": {"CPU": 1, "object_store_memory": 100_000_000}, "node_config": {}, "min_workers": 0, "max_workers": 2,
        },
    },
    "file_mounts": {}, "cluster_synced_files": [], "initialization_commands": [], "setup_commands": [],
    "head_setup_commands": [], "worker_setup_commands": [], "head_start_ray_commands": [], "worker_start_ray_commands": [],
    "auth": {},
}  # fmt: skip


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


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_autoscaler_brings_nodes_for_waiting_trials_and_takes_them_away(tmp_path: Path, images: Path) -> None:
    """Ray's first autoscaler; its second has no provider of pretended machines that works from the command line."""
    config = tmp_path / "fake.yaml"
    config.write_text(json.dumps(FAKE))
    head = ("--num-cpus=0", f"--autoscaling-config={config}")
    storage = tmp_path / "results"
    with Nodes(tmp_path, head=head, environment={"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}) as cluster:
        assert cluster.alive() == 1
        done = cluster.run(*arguments(tmp_path, images), "--storage", storage)
        assert done.returncode == 2 and "--gpus-per-trial: no GPU is there yet" in done.stderr, done.stderr
        cluster.submit(*arguments(tmp_path, images), "--storage", storage, "--gpus-per-trial", 0, job="sweep")
        most, until = 1, time.monotonic() + 400
        while (state := cluster.state("sweep")) != "SUCCEEDED":
            assert not state and time.monotonic() < until, cluster.job("sweep", "logs")
            most = max(most, cluster.alive())
        assert "waiting for the autoscaler" in cluster.job("sweep", "logs")
        assert most == 3, "all that waits is seen: both workers came"
        wait_for(lambda: cluster.alive() == 1, 120)
    assert sum(map(Store(storage).is_trained, Store(storage).trial_keys())) == 5
