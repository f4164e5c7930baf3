"""The encoder as an MLflow model: what we write beside the graph is what MLflow's own flavor writes."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import mlflow.pytorch
import numpy as np
import torch
import yaml
from mlflow.models import Model, ModelSignature
from mlflow.types import Schema, TensorSpec

from sweeps.execution.worker import run_trial
from sweeps.storage.image_sets import Images
from sweeps.storage.trial_store import TrialStore
from sweeps.tracking.encoder_model import _describe
from tests.sweeps.tiny import arm, finish, runs, tell, tiny_plan

#: Of each model alone, or of the input example, which we do not write.
OWN = {"artifact_path", "model_id", "model_uuid", "run_id", "utc_time_created", "model_size_bytes", "saved_input_example_info"}


def test_the_description_is_that_of_mlflows_own_flavor(tmp_path: Path) -> None:
    trial = arm(tiny_plan(tmp_path, {}), "base")
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, trial.config.representation_dim)).eval()
    floats = np.dtype("float32")
    outputs = Schema([TensorSpec(floats, (-1, trial.config.representation_dim))])
    mlflow.pytorch.save_model(
        module, tmp_path / "theirs", signature=ModelSignature(Schema([TensorSpec(floats, (-1, 3, 32, 32))]), outputs),
        serialization_format="pt2", input_example=np.zeros((2, 3, 32, 32), floats),
        pip_requirements=[f"torch=={version('torch').partition('+')[0]}"],
    )  # fmt: skip
    ours = tmp_path / "ours"
    (ours / "data").mkdir(parents=True)
    (ours / "data" / "model.pt2").write_bytes(b"a graph")
    _describe(ours, trial, run_id="r", model_id="m", location="somewhere")
    written = {str(path.relative_to(ours)) for path in ours.rglob("*")}
    their_files = {str(path.relative_to(tmp_path / "theirs")) for path in (tmp_path / "theirs").rglob("*")}
    assert their_files == written | {"input_example.json", "serving_input_example.json"}
    for name in ("conda.yaml", "python_env.yaml", "requirements.txt"):
        assert (ours / name).read_text() == (tmp_path / "theirs" / name).read_text()
    card, theirs = (yaml.safe_load((tmp_path / folder / "MLmodel").read_text()) for folder in ("ours", "theirs"))
    assert {k: v for k, v in card.items() if k not in OWN} == {k: v for k, v in theirs.items() if k not in OWN}
    loaded = Model.load(str(ours))
    assert (loaded.run_id, loaded.model_id, loaded.artifact_path, loaded.model_size_bytes) == ("r", "m", "somewhere", 7)


def test_an_encoder_that_an_earlier_version_left_without_a_graph_is_exported(tmp_path: Path, images: Images) -> None:
    plan, uri = tiny_plan(tmp_path, {}), f"sqlite:///{tmp_path / 'mlflow.db'}"
    trial = arm(plan, "base")
    run_trial(trial, images, tmp_path)
    files = TrialStore(tmp_path).files(trial.key)
    exported = files.path / "encoder.pt2"
    before = exported.read_bytes()
    exported.unlink()
    files.forget("encoder.pt2")
    assert TrialStore(tmp_path).read(trial.key).is_done(trial)
    tell(plan, tmp_path, uri)
    (graph,) = (tmp_path / "artifacts").rglob("model.pt2")
    assert graph.read_bytes() == before and "base" in runs(uri)[1]


def test_the_graph_of_an_encoder_is_missed_only_where_it_is_needed(tmp_path: Path) -> None:
    store, trial = TrialStore(tmp_path), arm(tiny_plan(tmp_path, {}), "base")
    finish(store, trial)
    assert store.read(trial.key).is_done(trial), "an earlier version wrote none"
    store.files(trial.key).write_bytes("encoder.pt2", b"a graph")
    (store.folder(trial.key) / "encoder.pt2").unlink()
    assert not store.read(trial.key).is_done(trial)
    assert store.read(trial.key).is_done(replace(trial, validation_only=True))
