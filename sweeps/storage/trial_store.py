"""The files of each trial, under ``<storage>/trials/<key>/``; each file is written completely or not at all.

==========================  =============================================================================================
``config.json``             the config, and the device that it was trained on
``checkpoint.pt``           the state after the last epoch so far; kept at the end, for longer trials to continue from
``encoder.pt``              the trained encoder's weights
``fitted.npz``              what PCA or Laplacian eigenmaps learned from the train images
``trained.json``            written when training is over: history, pairs, device, time. Its presence means "trained"
``evaluation-<id>.json``    results, each under the id of its computation; a trial may have several such files
``details/<id>.npz``        features, predictions, scores of single images (:mod:`evaluation.per_image`)
``figures/<id>.png``        figures (:mod:`evaluation.trial_figures`)
``lock``                    held by the process that works on the trial
``failure.json``            why the last attempt failed; removed by the next attempt
==========================  =============================================================================================

This module does not load torch, so planning and reporting can read the store without it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from core.atomic_files import atomic_write, load_arrays, save_arrays, save_json
from core.config import digest
from core.locks import file_lock, remove_scratch, scratch_folder
from evaluation.evaluate import NOT_DEFINED
from sweeps.planning.trial import Trial
from sweeps.storage.records import MetricResult, TrainingRecord
from sweeps.storage.trial_state import TrialState, product_path

_SCRATCH = "tune-"  # prefix of temporary folders: in the storage or, if that is a URL, among this machine's temporary files


class TrialStore:
    """The trials below one storage folder."""

    def __init__(self, storage: Path) -> None:
        self.storage = storage
        self._trials = storage / "trials"

    def folder(self, key: str) -> Path:
        """Return the folder of a trial's files."""
        return self._trials / key

    def read(self, key: str) -> TrialState:
        """Return a new state of the trial, which reads its files when they are first needed."""
        return TrialState(self.folder(key))

    def trial_keys(self) -> list[str]:
        """Return the keys of all trials that have a folder, sorted."""
        return sorted(path.name for path in self._trials.iterdir() if path.is_dir()) if self._trials.is_dir() else []

    def lock(self, key: str, on_wait: Callable[[], None] | None = None) -> AbstractContextManager[None]:
        """Return a lock that keeps this machine's other processes off the trial; see :func:`core.locks.file_lock`."""
        return file_lock(self.folder(key) / "lock", on_wait)

    def scratch(self) -> AbstractContextManager[Path]:
        """Return a context manager that makes a temporary folder and removes it at the end of the block."""
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
        """Remove the record of a failure, because another attempt begins."""
        with suppress(FileNotFoundError):
            (self.folder(key) / "failure.json").unlink()

    # -- per-image arrays and figures ------------------------------------------------------------------------------------

    def make(
        self, key: str, id_: str, function: Callable[[], Mapping[str, NDArray[Any]] | bytes | None]
    ) -> MetricResult:  # fmt: skip
        """Compute and store per-image arrays or a figure, and return the result.

        If ``function`` raises an error other than MemoryError, the result holds it as the problem. The caller saves the result
        once all files are written.

        Args:
            key: the trial's key.
            id_: id of the computation (``detail:...``, ``figure:...``).
            function: returns the arrays, or the bytes of a PNG; None if they do not apply.
        """
        try:
            content = function()
        except MemoryError:
            raise
        except Exception as error:  # an error in one of them must not prevent the others
            return MetricResult(None, f"{type(error).__name__}: {error}", time.time(), not isinstance(error, NOT_DEFINED))
        path = product_path(self.folder(key), id_)
        if isinstance(content, bytes):
            with atomic_write(path) as temporary:
                temporary.write_bytes(content)
        elif content is not None:
            save_arrays(path, dict(content))
        return MetricResult(None if content is None else 1.0, None, time.time())

    def detail(self, trial: Trial, name: str) -> dict[str, NDArray[Any]] | None:
        """Return the per-image arrays of that name; None if they do not apply or are not made yet."""
        return load_arrays(product_path(self.folder(trial.key), trial.detail_ids[name]))
