"""What trials leave behind, under ``<storage>/trials/<key>/``; each file is written whole or not at all.

==========================  =============================================================================================
``config.json``             the config, and the device that it was trained on
``checkpoint.pt``           the state after the last epoch so far; kept at the end, for longer trials to continue from
``encoder.pt``              the trained encoder's weights
``fitted.npz``              what PCA or Laplacian eigenmaps learned from the train images
``trained.json``            written when training is over: history, pairs, device, time. Its presence means "trained"
``evaluation-<id>.json``    numbers, each under the id of its computation; several files add up
``details/<id>.npz``        features, predictions, scores of single images (:mod:`evaluation.per_image`)
``figures/<id>.png``        figures (:mod:`evaluation.trial_figures`)
``lock``                    held by the process that works on the trial
``failure.json``            why the last attempt failed; removed by the next attempt
==========================  =============================================================================================

This module knows no torch: planning and reporting read the store without it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from core.atomic_files import atomic_write, file_lock, load_arrays, remove_scratch, save_arrays, save_json, scratch_folder
from core.config import digest
from evaluation.evaluate import NOT_DEFINED
from sweeps.planning.trial import Trial
from sweeps.storage.records import MetricResult, TrainingRecord
from sweeps.storage.trial_state import TrialState, product_path

_SCRATCH = "tune-"  # prefix of folders in the storage, or of temporary ones beside a URL


class TrialStore:
    """The trials below one storage folder."""

    def __init__(self, storage: Path) -> None:
        self.storage = storage
        self._trials = storage / "trials"

    def folder(self, key: str) -> Path:
        """Return where a trial's files are."""
        return self._trials / key

    def read(self, key: str) -> TrialState:
        """Return what is there of a trial now."""
        return TrialState(self.folder(key))

    def trial_keys(self) -> list[str]:
        """Return the keys of all trials that left anything."""
        return sorted(path.name for path in self._trials.iterdir() if path.is_dir()) if self._trials.is_dir() else []

    def lock(self, key: str, on_wait: Callable[[], None] | None = None) -> AbstractContextManager[None]:
        """Keep other processes of this machine from working on the trial; see :func:`core.atomic_files.file_lock`."""
        return file_lock(self.folder(key) / "lock", on_wait)

    def scratch(self) -> AbstractContextManager[Path]:
        """Make a temporary folder for the length of a block."""
        return scratch_folder(self.storage, _SCRATCH)

    def remove_scratch(self) -> None:
        """Remove the temporary folders of processes that died."""
        remove_scratch(self.storage, _SCRATCH)

    # -- writing ---------------------------------------------------------------------------------------------------------

    def save_config(self, trial: Trial, **extra: Any) -> None:
        """Write ``config.json``: the trial's key, its parent's key, all fields, and ``extra``."""
        content = {"key": trial.key, "parent": trial.parent_key, "config": trial.config.fields(), **extra}
        save_json(self.folder(trial.key) / "config.json", content)

    def save_training(self, key: str, training: TrainingRecord) -> None:
        """Mark a trial as trained."""
        save_json(self.folder(key) / "trained.json", asdict(training))

    def save_results(self, key: str, results: Mapping[str, MetricResult]) -> None:
        """Add results, by the ids of their computations."""
        if results:
            name = f"evaluation-{digest(sorted(results))[:8]}.json"
            save_json(self.folder(key) / name, {id_: asdict(result) for id_, result in results.items()})

    def save_failure(self, key: str, reason: str, details: str = "") -> None:
        """Record why an attempt failed."""
        save_json(self.folder(key) / "failure.json", {"reason": reason, "details": details, "time": time.time()})

    def clear_failure(self, key: str) -> None:
        """Forget a failure: another attempt begins."""
        with suppress(FileNotFoundError):
            (self.folder(key) / "failure.json").unlink()

    # -- per-image arrays and figures ------------------------------------------------------------------------------------

    def make(
        self, key: str, id_: str, function: Callable[[], Mapping[str, NDArray[Any]] | bytes | None]
    ) -> MetricResult:  # fmt: skip
        """Make and keep per-image arrays or a figure; where they are not defined, the result says why.

        The caller saves the result once all files are there.
        """
        try:
            content = function()
        except MemoryError:
            raise
        except Exception as error:  # whatever one does, the others are made
            return MetricResult(None, f"{type(error).__name__}: {error}", time.time(), not isinstance(error, NOT_DEFINED))
        path = product_path(self.folder(key), id_)
        if isinstance(content, bytes):
            with atomic_write(path) as temporary:
                temporary.write_bytes(content)
        elif content is not None:
            save_arrays(path, dict(content))
        return MetricResult(None if content is None else 1.0, None, time.time())

    def detail(self, trial: Trial, name: str) -> dict[str, NDArray[Any]] | None:
        """Return the per-image arrays of that name; None where they do not apply or are not there."""
        return load_arrays(product_path(self.folder(trial.key), trial.detail_ids[name]))
