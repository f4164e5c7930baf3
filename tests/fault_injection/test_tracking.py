"""The driver killed right after each of its calls to MLflow: what is said again ends as if nothing had happened."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from sweeps.execution.worker import run_trial
from sweeps.storage.image_sets import Images
from sweeps.storage.trial_store import TrialStore
from sweeps.tracking.database import create_database
from tests.fault_injection.comparison import contents, database_uri
from tests.sweeps.tiny import arm, tell, tiny_plan

WRITES = (
    "create_experiment", "create_run", "log_batch", "set_tag", "delete_tag", "update_run", "set_terminated",
    "set_experiment_tag", "log_artifact", "log_inputs", "log_outputs", "create_logged_model", "log_model_artifacts",
    "finalize_logged_model",
)  # fmt: skip


def _tell(storage: Path, plan: Any, last: int | None) -> None:
    """In a process of its own: says all, and dies right after so many writing calls."""
    from mlflow import MlflowClient

    calls = count(1)

    def deadly(method: Any) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            answer = method(*arguments, **named)
            if next(calls) == last:
                os.kill(os.getpid(), signal.SIGKILL)
            return answer

        return call

    for name in WRITES:
        setattr(MlflowClient, name, deadly(getattr(MlflowClient, name)))
    tell(plan, storage, f"sqlite:///{storage / 'mlflow.db'}", live=True)
    (storage / "calls.json").write_text(str(next(calls) - 1))


def _run(storage: Path, plan: Any, last: int | None = None) -> int | None:
    return _in_a_process(_tell, storage, plan, last)


def _in_a_process(function: Callable[..., None], *arguments: Any) -> int | None:
    process = multiprocessing.get_context("fork").Process(target=function, args=arguments)
    process.start()
    process.join()
    return process.exitcode


def _said(storage: Path) -> Any:
    runs = contents(database_uri(storage))
    found = {name: {n: v for n, v in run.items() if n != "artifacts"} for name, run in runs.items()}
    return found | {"artifacts": {name: run["artifacts"] for name, run in runs.items()}}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_driver_killed_while_mlflows_database_is_made_does_not_spoil_it(tmp_path: Path) -> None:
    plan = tiny_plan(tmp_path, {})
    began = time.monotonic()
    assert _run(tmp_path / "whole", plan) == 0
    life = time.monotonic() - began
    expected = _said(tmp_path / "whole")
    for share in (0.1, 0.3, 0.5, 0.7):
        torn = tmp_path / f"torn-{share}"
        process = multiprocessing.get_context("fork").Process(target=_tell, args=(torn, plan, None))
        process.start()
        time.sleep(share * life)
        process.kill()
        process.join()
        assert _run(torn, plan) == 0, f"killed at {share:.0%}"
        assert _said(torn) == expected
        assert {path.name for path in torn.iterdir()} <= {"mlflow.db", "mlflow.db.lock", "calls.json"}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_driver_killed_after_any_call_to_mlflow_leaves_nothing_half_said(tmp_path: Path, images: Images) -> None:
    plan, trained = tiny_plan(tmp_path, {"z": {"mu": 0}}), tmp_path / "trained"
    run_trial(arm(plan, "base"), images, trained)
    assert _in_a_process(create_database, trained / "mlflow.db") == 0  # what the test above is about, and takes long
    shutil.copytree(trained, tmp_path / "whole")
    assert _run(tmp_path / "whole", plan) == 0
    expected = _said(tmp_path / "whole")
    assert TrialStore(trained).read(arm(plan, "base").key).is_trained and len(expected) == 3
    step = 1 if os.environ.get("CHAOS_THOROUGH") else 3
    for last in range(1, int((tmp_path / "whole" / "calls.json").read_text()) + 1, step):
        torn = tmp_path / f"torn-{last}"
        shutil.copytree(trained, torn)
        assert _run(torn, plan, last) == -signal.SIGKILL
        assert _run(torn, plan) == 0
        assert _said(torn) == expected, f"killed after call {last}"
        shutil.rmtree(torn)
