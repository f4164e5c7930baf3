"""Logging a trial's encoder as the MLflow model ``encoder`` of its run."""

from __future__ import annotations

import runpy
import tempfile
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from core.image_decoding import IMAGE_SIZE
from sweeps.planning.trial import Trial
from sweeps.storage.checked_folder import CheckedFolder
from sweeps.storage.trial_state import EXPORTED
from sweeps.tracking.child_run import ChildRun

if TYPE_CHECKING:
    from mlflow import MlflowClient

_DATA = "data"


def log_encoder(client: MlflowClient, experiment: str, child: ChildRun, trial: Trial, files: CheckedFolder) -> None:
    """Log the encoder, unless the run has it; delete incomplete models that killed drivers left.

    The model is the graph that the worker exported (see :mod:`core.export`).

    This uses MLflow's client, because the fluent call ``mlflow.pytorch.log_model`` would end the run.
    """
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus

    fresh, child.fresh = child.fresh, False  # if the server goes away meanwhile, the retry looks for the model
    of_run = f"name = 'encoder' AND source_run_id = '{child.run_id}'"
    known = [] if fresh else client.search_logged_models([experiment], filter_string=of_run)
    ready = [model.model_id for model in known if model.status == LoggedModelStatus.READY]
    for model in known:
        if model.model_id not in ready:
            client.delete_logged_model(model.model_id)
    model_id = ready[0] if ready else _make_model(client, experiment, child, trial, files)
    outputs = None if fresh else client.get_run(child.run_id).outputs
    if outputs is None or all(output.model_id != model_id for output in outputs.model_outputs):
        client.log_outputs(child.run_id, [LoggedModelOutput(model_id, step=0)])


def _make_model(client: MlflowClient, experiment: str, child: ChildRun, trial: Trial, files: CheckedFolder) -> str:
    from mlflow.entities import LoggedModelStatus

    if (graph := files.read(EXPORTED)) is None:  # an earlier version of this program wrote none
        from sweeps.execution.weights import export_stored_encoder  # imports torch

        graph = export_stored_encoder(files, trial.config)
    logged = client.create_logged_model(
        experiment, "encoder", child.run_id, tags={"arm": trial.arm, "trial_key": trial.key}, model_type="encoder"
    )
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / _DATA).mkdir()
        (folder / _DATA / "model.pt2").write_bytes(graph)
        _describe(folder, trial, run_id=child.run_id, model_id=logged.model_id, location=logged.artifact_location)
        client.log_model_artifacts(logged.model_id, scratch)
    client.finalize_logged_model(logged.model_id, LoggedModelStatus.READY)
    return str(logged.model_id)


def _describe(folder: Path, trial: Trial, *, run_id: str, model_id: str, location: str) -> None:
    """Write what ``mlflow.pytorch.save_model`` writes beside such a graph; that function imports torch, and exports anew."""
    import numpy as np
    from mlflow import pyfunc
    from mlflow.models import Model, ModelSignature
    from mlflow.types import Schema, TensorSpec

    floats = np.dtype("float32")
    signature = ModelSignature(
        Schema([TensorSpec(floats, (-1, 3, IMAGE_SIZE, IMAGE_SIZE))]),
        Schema([TensorSpec(floats, (-1, trial.config.representation_dim))]),
    )
    card = Model(artifact_path=location, run_id=run_id, signature=signature, model_uuid=model_id, model_id=model_id)
    card.add_flavor("pytorch", model_data=_DATA, pytorch_version=_torch_version(), code=None)
    pyfunc.add_to_model(
        card, loader_module="mlflow.pytorch", data=_DATA, pickle_module_name="mlflow.pytorch.pickle_module",
        conda_env="conda.yaml", python_env="python_env.yaml", model_config={"device": None},
    )  # fmt: skip
    card.model_size_bytes = (folder / _DATA / "model.pt2").stat().st_size
    card.save(str(folder / "MLmodel"))
    for name, text in _environment_files().items():
        (folder / name).write_text(text, encoding="utf-8")


@cache
def _torch_version() -> str:
    """What ``torch.__version__`` says, without importing torch; MLflow warns when it loads a model of another version."""
    package = find_spec("torch")
    assert package is not None and package.origin is not None
    return str(runpy.run_path(str(Path(package.origin).with_name("version.py")))["__version__"])


@cache
def _environment_files() -> dict[str, str]:
    """Name -> text of the files that say in which environment the model loads, in the form of MLflow's own flavors."""
    from mlflow.utils import environment

    needed = [f"{name}=={version(name).partition('+')[0]}" for name in ("mlflow", "torch")]
    with tempfile.TemporaryDirectory() as scratch:
        conda, python = Path(scratch) / "conda.yaml", Path(scratch) / "python_env.yaml"
        environment._mlflow_conda_env(str(conda), additional_pip_deps=needed)
        environment._PythonEnv.current().to_yaml(str(python))
        return {file.name: file.read_text(encoding="utf-8") for file in (conda, python)} | {
            "requirements.txt": "\n".join(needed)
        }
