"""Logging a trial's encoder as the MLflow model ``encoder`` of its run."""

from __future__ import annotations

import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from core.image_decoding import IMAGE_SIZE
from sweeps.planning.trial import Trial
from sweeps.storage.checked_folder import CheckedFolder
from sweeps.tracking.child_run import ChildRun

if TYPE_CHECKING:
    from mlflow import MlflowClient


def log_encoder(client: MlflowClient, experiment: str, child: ChildRun, trial: Trial, files: CheckedFolder) -> None:
    """Log the encoder, unless the run has it; delete incomplete models that killed drivers left.

    The model is an exported graph (torch's pt2) for batches of any size. It loads without this package and holds no pickle.

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
    import mlflow.pytorch
    import numpy as np
    import torch
    from mlflow.entities import LoggedModelStatus
    from mlflow.models import Model, ModelSignature
    from mlflow.types import Schema, TensorSpec

    from core.models import build_encoder, portable
    from sweeps.execution.weights import load_encoder_weights  # imports torch

    weights, _ = load_encoder_weights(files)
    config = trial.config
    encoder = build_encoder(config.encoder, config.representation_dim, config.seed, torch.zeros(3), torch.ones(3))
    encoder.load_state_dict(weights)
    floats = np.dtype("float32")
    signature = ModelSignature(
        Schema([TensorSpec(floats, (-1, 3, IMAGE_SIZE, IMAGE_SIZE))]),
        Schema([TensorSpec(floats, (-1, config.representation_dim))]),
    )
    versions = [f"{name}=={version(name).partition('+')[0]}" for name in ("torch", "torchvision")]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        card = Model(run_id=child.run_id)
        mlflow.pytorch.save_model(
            portable(encoder), folder, mlflow_model=card, signature=signature, serialization_format="pt2",
            # The export takes a dimension of more than 1 for one of any size, where the signature allows it.
            input_example=np.zeros((2, 3, IMAGE_SIZE, IMAGE_SIZE), floats), pip_requirements=versions,
        )  # fmt: skip
        logged = client.create_logged_model(
            experiment, "encoder", child.run_id, tags={"arm": trial.arm, "trial_key": trial.key}, model_type="encoder"
        )
        card.model_id = card.model_uuid = logged.model_id
        card.artifact_path = logged.artifact_location
        card.save(folder / "MLmodel")
        client.log_model_artifacts(logged.model_id, str(folder))
    client.finalize_logged_model(logged.model_id, LoggedModelStatus.READY)
    return str(logged.model_id)
