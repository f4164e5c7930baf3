"""The files of each trial, under ``<storage>/trials/<key>/``; each file is written completely or not at all.

==========================  =============================================================================================
``config.json``             the config, and the device that it was trained on
``checkpoint.pt``           the state after the last epoch so far; kept at the end, for longer trials to continue from
``encoder.safetensors``     the trained encoder's weights (an earlier version of this program wrote ``encoder.pt``)
``projector.safetensors``   the weights of what training put above the encoder
``encoder.pt2``             the encoder as a graph that torch loads without this package (:mod:`core.export`)
``fitted.npz``              what PCA or Laplacian eigenmaps learned from the train images
``readouts.npz``            features of backbone and projection, until the metrics after the slot are computed
``trained.json``            written when training is over: history, pairs, device, time. Its presence means "trained"
``evaluation-<id>.json``    results, each under the id of its computation; a trial may have several such files
``details/<id>.npz``        features, predictions, scores of single images (:mod:`evaluation.per_image`)
``figures/<id>.png``        figures (:mod:`evaluation.trial_figures`)
``lock``                    held by the process that works on the trial
``failure.json``            why the last attempt failed; removed by the next attempt
``checksums.json``          SHA-256 of each file but itself (:mod:`sweeps.storage.checked_folder`)
``damaged/``                files that were not what had been written; they are made again
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

from core.atomic_files import as_os_errors, list_folder
from core.causes import as_memory_error
from core.config import digest
from core.locks import file_lock, remove_scratch, scratch_folder
from core.paths import is_remote
from evaluation.evaluate import is_defect
from sweeps.planning.trial import Trial
from sweeps.storage.checked_folder import ASIDE, CheckedFolder
from sweeps.storage.records import MetricResult, TrainingRecord
from sweeps.storage.trial_state import ENCODER, EXPORTED, FITTED, OLD_ENCODER, READOUTS, TrialState, product_name

_SCRATCH = "tune"  # kind of temporary folders: in the storage or, if that is a URL, among this machine's temporary files

#: Why a trial is trained again though nothing of it is damaged.
OTHER_PARENT = "it was trained with another encoder of its parent than the present one"


class TrialStore:
    """The trials below one storage folder."""

    def __init__(self, storage: Path) -> None:
        self.storage = storage
        self._trials = storage / "trials"

    def folder(self, key: str) -> Path:
        """Return the folder of a trial's files."""
        return self._trials / key

    def files(self, key: str) -> CheckedFolder:
        """Return the trial's folder, to read and write its files with their checksums."""
        return CheckedFolder(self.folder(key))

    def read(self, key: str) -> TrialState:
        """Return a new state of the trial, which reads its files when they are first needed."""
        return TrialState(self.folder(key))

    def trial_keys(self) -> list[str]:
        """Return the keys of all trials that have a folder, sorted."""
        with as_os_errors(self._trials):
            return [path.name for path in list_folder(self._trials) if path.is_dir()]

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
        self.files(trial.key).write_json("config.json", content)

    def save_training(self, key: str, training: TrainingRecord) -> None:
        """Mark a trial as trained."""
        self.files(key).write_json("trained.json", asdict(training))

    def save_results(self, key: str, results: Mapping[str, MetricResult]) -> None:
        """Add results, by the ids of their computations."""
        if results:
            name = f"evaluation-{digest(sorted(results))[:8]}.json"
            self.files(key).write_json(name, {id_: asdict(result) for id_, result in results.items()})

    def save_failure(self, key: str, reason: str, details: str = "") -> None:
        """Record why an attempt failed."""
        content = {"reason": reason, "details": details, "time": time.time()}
        self.files(key).write_json("failure.json", content)

    def clear_failure(self, key: str) -> None:
        """Remove the record of a failure, because another attempt begins."""
        with suppress(FileNotFoundError):
            (self.folder(key) / "failure.json").unlink()

    # -- per-image arrays and figures ------------------------------------------------------------------------------------

    def make(
        self, key: str, id_: str, function: Callable[[], Mapping[str, NDArray[Any]] | bytes | None]
    ) -> MetricResult:  # fmt: skip
        """Compute and store per-image arrays or a figure, and return the result.

        If ``function`` raises an error, the result holds it as the problem, unless the memory is used up: then this raises
        MemoryError. The caller saves the result once all files are written.

        Args:
            key: the trial's key.
            id_: id of the computation (``detail:...``, ``figure:...``).
            function: returns the arrays, or the bytes of a PNG; None if they do not apply.
        """
        try:
            content = function()
        except Exception as error:  # an error in one of them must not prevent the others
            if (memory := as_memory_error(error)) is not None:
                raise memory from error
            return MetricResult(None, f"{type(error).__name__}: {error}", time.time(), is_defect(error))
        if isinstance(content, bytes):
            self.files(key).write_bytes(product_name(id_), content)
        elif content is not None:
            self.files(key).write_arrays(product_name(id_), content)
        return MetricResult(None if content is None else 1.0, None, time.time())

    def detail(self, trial: Trial, name: str) -> dict[str, NDArray[Any]] | None:
        """Return the per-image arrays of that name; None if they do not apply, are not made yet, or are damaged."""
        return self.read(trial.key).detail(trial, name)

    # -- damage ----------------------------------------------------------------------------------------------------------

    def trained_with_another_parent(
        self, parent_key: str | None, state: TrialState, read: Callable[[str], TrialState] | None = None
    ) -> bool:  # fmt: skip
        """Return whether the encoder of a trial's parent is no longer the one that the trial was trained with.

        Args:
            parent_key: the parent's key, if there is a parent.
            state: the trial's state.
            read: returns a trial's state; default: :meth:`read`.
        """
        known = None if state.training is None else state.training.parent_encoder
        if known is None or parent_key is None:
            return False
        parent = (read or self.read)(parent_key)
        return parent.encoder_file is not None and parent.files.digest(parent.encoder_file) not in (None, known)

    def is_whole(self, trial: Trial) -> bool:
        """Return whether nothing is left to do in the trial's slot, after reading all its files (not those of a URL)."""
        state = self.read(trial.key)
        if state.is_done(trial) and not is_remote(self.storage):
            state.verify()
        return state.is_done(trial) and not self.trained_with_another_parent(trial.parent_key, state)

    def mend(self, trial: Trial) -> list[str]:
        """Set the trial's damaged files aside, so that they are made again, and record missing checksums.

        The caller holds the trial's lock.

        Returns:
            What was found, in one line for each file.
        """
        state = self.read(trial.key)
        if self.trained_with_another_parent(trial.parent_key, state):
            found = [f"{OTHER_PARENT}; all its files are moved to {ASIDE}/, and it is trained again"]
            for name in state.stored_names:
                state.files.set_aside(name)
            return found
        found = [
            f"{name}: {reason}; moved to {ASIDE}/{state.files.set_aside(name).name}" for name, reason in state.verify().items()
        ]
        state.record_missing()
        return found

    def known_weights(self, key: str) -> frozenset[str]:
        """Return the SHA-256 of the weights that a trial's results may rest on; empty if it never had any.

        Read it before the weights are made again: their checksum then replaces the earlier one. ``trained.json`` is asked too,
        because a process that died between the two left new weights beside the old record and the old results.
        """
        state = self.read(key)
        known = {state.files.digest(ENCODER) or state.files.digest(OLD_ENCODER), state.files.digest(FITTED)}
        if (training := state.training) is not None and (training.history or training.weights):
            known.add(training.weights or "not recorded by an earlier version")
        return frozenset(digest for digest in known if digest is not None)

    def drop_results_of_other_weights(self, key: str, known: frozenset[str], made: str | None) -> None:
        """Set aside the results of a trial whose weights were made again and are not the same, as may happen on a GPU.

        Args:
            key: the trial's key.
            known: :meth:`known_weights` of before.
            made: the SHA-256 of the weights that were made.
        """
        if known - {made}:
            state = self.read(key)
            for name in state.stored_names:
                if name.startswith((EXPORTED, READOUTS, "evaluation-", "details/", "figures/")):
                    state.files.set_aside(name)
