"""The stored state of a trial; each file is read at most once, and what is damaged counts as absent."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from numpy.typing import NDArray
from pydantic import TypeAdapter

from core.atomic_files import list_folder, parse_arrays
from evaluation.evaluate import METRICS
from evaluation.per_image import DETAILS
from sweeps.planning.trial import Trial
from sweeps.storage.checked_folder import CHECKSUMS, CheckedFolder, DamagedFileError
from sweeps.storage.parsers import PARSERS
from sweeps.storage.records import MetricResult, TrainingRecord, TrialRecord, TrialStatus

T = TypeVar("T")

_FOLDER = {"detail": "details", "figure": "figures"}
_SUFFIX = {"detail": "npz", "figure": "png"}
#: Files of weights, by what reads them; an earlier version of this program wrote ``encoder.pt``.
ENCODER, OLD_ENCODER, PROJECTOR, FITTED = "encoder.safetensors", "encoder.pt", "projector.safetensors", "fitted.npz"
CHECKPOINT = "checkpoint.pt"
#: The encoder as a graph that loads without this package; earlier versions of this program wrote none.
EXPORTED = "encoder.pt2"
#: Features of backbone and projection, which the slot leaves for metrics that are computed after it; they remove it.
READOUTS = "readouts.npz"
_WEIGHTS = (ENCODER, OLD_ENCODER, PROJECTOR, FITTED)
#: What is said of a file that has a checksum and is not there.
GONE = "it was written, and is gone"
#: Files that every command of the trial makes again if their checksum is known and they are gone.
LASTING = ("config.json", "trained.json", *_WEIGHTS, EXPORTED)
_TRAINING = TypeAdapter(TrainingRecord)
_RESULTS = TypeAdapter(dict[str, MetricResult])


def needs_export(trial: Trial) -> bool:
    """Return whether the trial's encoder is written as a graph: not while a search may still drop the trial."""
    return trial.config.has_encoder and not trial.validation_only


def needs_readouts(metric: str) -> bool:
    """Return whether a metric is computed from the features that the slot leaves."""
    return METRICS[metric.partition("/")[0]].after_slot == "readouts"


def product_name(id_: str) -> str:
    """Return the name, in a trial's folder, of the arrays or the figure with this id (``detail:...``, ``figure:...``)."""
    kind, name = id_.split(":", 1)
    return f"{_FOLDER[kind]}/{name}.{_SUFFIX[kind]}"


def parse_training(content: bytes) -> TrainingRecord:
    """Parse ``trained.json``. Raises ValueError if it is none."""
    return _TRAINING.validate_python(json.loads(content))


def parse_results(content: bytes) -> dict[str, MetricResult]:
    """Parse an evaluation file. Raises ValueError if it is none."""
    return _RESULTS.validate_python(json.loads(content))


def parse_mapping(content: bytes) -> dict[str, Any]:
    """Parse a JSON file that holds a mapping. Raises ValueError if it does not."""
    found = json.loads(content)
    if not isinstance(found, dict):
        raise ValueError("no JSON mapping")  # noqa: TRY004 (the content is wrong, not an argument)
    return found


def parse_config(content: bytes) -> dict[str, Any]:
    """Parse ``config.json``. Raises ValueError if it is none."""
    found = parse_mapping(content)
    if not isinstance(found.get("config"), dict) or not isinstance(found.get("parent"), str | None):
        raise ValueError("no config of a trial")  # noqa: TRY004 (as in parse_mapping)
    return found


class TrialState:
    """One trial's files, each read when it is first needed and then cached."""

    def __init__(self, folder: Path) -> None:
        self.files = CheckedFolder(folder)
        #: Name of each damaged file that was met -> what is wrong with it.
        self.damage: dict[str, str] = {}

    def _load(self, name: str, parse: Callable[[bytes], T]) -> T | None:
        try:
            return self.files.load(name, parse)
        except DamagedFileError as error:
            self.damage[name] = error.reason
            return None

    @cached_property
    def config(self) -> Mapping[str, Any] | None:
        """The content of ``config.json``; None if there is no such file."""
        return self._load("config.json", parse_config)

    @cached_property
    def training(self) -> TrainingRecord | None:
        """The finished training; None until the trial is trained."""
        return self._load("trained.json", parse_training)

    @property
    def is_trained(self) -> bool:
        """Whether training is over and its weights are there; for methods that train nothing: whether the trial has run."""
        return self.training is not None and not self._lacks_weights(self.training)

    def _lacks_weights(self, training: TrainingRecord) -> bool:
        there = {name for name in _WEIGHTS if name in self._names and name not in self.damage}
        encoder = bool(there & {ENCODER, OLD_ENCODER})
        expected = {name for name in (ENCODER, PROJECTOR, FITTED) if self.files.digest(name) is not None}
        return not expected <= there or (bool(training.history) and not encoder)

    @cached_property
    def results(self) -> Mapping[str, MetricResult]:
        """Id of a computation -> its result; the later result if it was computed twice."""
        found: dict[str, MetricResult] = {}
        for name in sorted(self._names):
            if name.startswith("evaluation-") and name.endswith(".json"):
                for id_, result in (self._load(name, parse_results) or {}).items():
                    if id_ not in found or found[id_].time < result.time:
                        found[id_] = result
        return found

    @cached_property
    def failure(self) -> str | None:
        """Why the last attempt failed, in one line; None if it did not."""
        return self._load("failure.json", lambda content: str(parse_mapping(content)["reason"]))

    def verify(self, *, checkpoint: bool = False) -> Mapping[str, str]:
        """Read every file that a finished trial needs; return the damaged ones and what is wrong with them.

        Args:
            checkpoint: whether to read the checkpoint too, which only longer trials need.
        """
        _ = self.config, self.training, self.results, self.failure
        if problem := self.files.problem:
            self.damage[CHECKSUMS] = problem
        for name in self._whole_files(checkpoint=checkpoint):
            # With a checksum the bytes are enough.
            self._load(name, len if self.files.digest(name) is not None else PARSERS[Path(name).suffix])
        self._verify_weights()
        return self.damage

    def _verify_weights(self) -> None:
        """Compare the weights with the checksum in ``trained.json``: ``checksums.json`` may have been lost, or swapped too."""
        name = next((name for name in (ENCODER, FITTED) if name in self._names), None)
        if name is None or self.training is None or self.training.weights is None or name in self.damage:
            return
        if self._load(name, lambda content: hashlib.sha256(content).hexdigest()) != self.training.weights:
            self.damage.setdefault(name, "it is not the file of this training: the SHA-256 differs from that in trained.json")

    def unrecorded(self, *, checkpoint: bool = False) -> list[str]:
        """Return the names of the files that :meth:`verify` reads and that have no checksum."""
        names = self.stored_names if checkpoint else [name for name in self.stored_names if name != CHECKPOINT]
        return [name for name in names if self.files.digest(name) is None]

    def record_missing(self, *, checkpoint: bool = False) -> int:
        """Record the checksums of files that have none and that :meth:`verify` could read; return how many."""
        names = [name for name in self.unrecorded(checkpoint=checkpoint) if name not in self.damage]
        for name in names:
            self.files.record(name)
        return len(names)

    def missing(self) -> list[str]:
        """Return the names of the files that have a checksum and are gone, though this program removed none of them."""
        removed = {"failure.json", *([OLD_ENCODER] if ENCODER in self._names else [])}  # after a success; by a later version
        return [name for name in self._gone() if name not in removed and not self.files.is_aside(name)]

    @property
    def lacks_checksums(self) -> bool:
        """Whether ``checksums.json`` is gone: a version that writes it trained this trial."""
        return CHECKSUMS not in self._names and self.training is not None and self.training.weights is not None

    def not_made_again(self) -> list[str]:
        """Return the names of the files that were set aside because they were damaged, and have not been made again."""
        return [name for name in self._gone() if self.files.is_aside(name)]

    def _gone(self) -> list[str]:
        there = self._names | self._products
        return [name for name in self.files.names if name not in there]

    @property
    def stored_names(self) -> list[str]:
        """Names of all files that have checksums or may get them."""
        texts = [name for name in self._names if name.endswith(".json") and name != CHECKSUMS]
        return sorted([*texts, *self._whole_files(checkpoint=True)])

    def _whole_files(self, *, checkpoint: bool) -> list[str]:
        """The names of the files that are not JSON."""
        names = (*_WEIGHTS, EXPORTED, READOUTS, *((CHECKPOINT,) if checkpoint else ()))
        return sorted([*(name for name in names if name in self._names), *(n for n in self._products if "/." not in n)])

    @cached_property
    def encoder_file(self) -> str | None:
        """Name of the file with the encoder's weights; None if there is none."""
        return next((name for name in (ENCODER, OLD_ENCODER) if name in self._names), None)

    @property
    def lacks_export(self) -> bool:
        """Whether there is no file ``encoder.pt2``."""
        return EXPORTED not in self._names

    # -- what is missing ------------------------------------------------------------------------------------------------

    def missing_metrics(self, trial: Trial, *, after_slot: bool = False) -> dict[str, str]:
        """Return names and ids of the missing metrics: those computed in the trial's slot, or those computed after it."""
        return {
            name: id_
            for name, id_ in _metrics(trial, after_slot=after_slot).items()
            if (result := self.results.get(id_)) is None or result.again
        }

    def lacks_readouts(self, trial: Trial) -> bool:
        """Return whether the slot must leave features for missing metrics after it, and has not."""
        there = READOUTS in self._names and READOUTS not in self.damage
        return not there and any(map(needs_readouts, self.missing_metrics(trial, after_slot=True)))

    @property
    def readouts(self) -> dict[str, NDArray[Any]] | None:
        """The features that the slot left for metrics after it; None where there are none, or they are damaged."""
        return self._load(READOUTS, parse_arrays) if self.has_readouts else None

    @property
    def has_readouts(self) -> bool:
        """Whether there is a file of features for metrics after the slot."""
        return READOUTS in self._names

    def missing_details(self, trial: Trial, *, derived: bool = False) -> dict[str, str]:
        """Return names and ids of the missing per-image arrays: those made in the trial's slot, or (``derived``) after it."""
        return self._missing_products(_details(trial, derived=derived))

    def missing_figures(self, trial: Trial) -> dict[str, str]:
        """Return names and ids of the figures still to be drawn."""
        return self._missing_products(trial.figure_ids)

    def is_done(self, trial: Trial) -> bool:
        """Return whether nothing is left to do in the trial's slot, the cores or the GPU share that Ray reserves for it.

        Figures, derived per-image arrays and some metrics are made outside of the slot, so they may still be missing.
        """
        lacks = self.missing_metrics(trial) or self.missing_details(trial) or self.lacks_readouts(trial)
        gone = {name for name in ("config.json", EXPORTED) if name not in self._names and self.files.digest(name) is not None}
        to_mend = gone | {name for name in self.damage if "/" not in name}
        return self.is_trained and not lacks and not (to_mend if needs_export(trial) else to_mend - {EXPORTED})

    def is_drawn(self, trial: Trial) -> bool:
        """Return whether all is made that is made outside of the slot: metrics, derived per-image arrays and figures."""
        lacks = self.missing_metrics(trial, after_slot=True) or self.missing_details(trial, derived=True)
        return not lacks and not self.missing_figures(trial) and not self.has_readouts

    def _missing_products(self, ids: Mapping[str, str]) -> dict[str, str]:
        return {
            name: id_
            for name, id_ in ids.items()
            if (result := self.results.get(id_)) is None
            or result.again
            or (result.value is not None and not self._has_file(id_))
        }

    # One listing of each folder: with a URL as storage, a request for each file would take seconds.

    @cached_property
    def _names(self) -> frozenset[str]:
        """The names in the trial's folder, not of those below it."""
        return frozenset(path.name for path in list_folder(self.files.path))

    @cached_property
    def _products(self) -> frozenset[str]:
        """The names of per-image arrays and figures."""
        folders = [name for name in _FOLDER.values() if name in self._names]
        return frozenset(f"{name}/{path.name}" for name in folders for path in list_folder(self.files.path / name))

    def _has_file(self, id_: str) -> bool:
        name = product_name(id_)
        return name in self._products and name not in self.damage

    # -- what is there --------------------------------------------------------------------------------------------------

    def detail(self, trial: Trial, name: str) -> dict[str, NDArray[Any]] | None:
        """Return the per-image arrays of that name; None if they do not apply, are not made yet, or are damaged."""
        return self._load(product_name(trial.detail_ids[name]), parse_arrays)

    def figures(self, trial: Trial) -> dict[str, Path]:
        """Return the paths of the trial's figures that exist, by name."""
        folder = self.files.path
        return {name: folder / product_name(id_) for name, id_ in trial.figure_ids.items() if self._has_file(id_)}

    def product_problems(self, trial: Trial) -> dict[str, str]:
        """Return the per-image arrays and figures that are not defined for the trial, and why."""
        ids = {f"detail {name}": id_ for name, id_ in trial.detail_ids.items()}
        ids |= {f"figure {name}": id_ for name, id_ in trial.figure_ids.items()}
        return {name: result.problem for name, id_ in ids.items() if (result := self.results.get(id_)) and result.problem}

    def record(self, trial: Trial, *, skipped: str | None = None, pruned: str | None = None) -> TrialRecord:
        """Return the trial's record.

        Args:
            trial: the planned trial.
            skipped: why it was not tried, if so.
            pruned: why a search stopped it early, if so.
        """
        if pruned is not None:
            return TrialRecord(trial, TrialStatus.PRUNED, reason=pruned)
        metrics, problems = self._metrics(trial)
        evaluated = max((result.time for result in self.results.values()), default=0.0)
        needed = {*_metrics(trial, after_slot=False).values(), *_details(trial, derived=False).values()}
        if self.is_trained and needed <= set(self.results):
            return TrialRecord(trial, TrialStatus.DONE, self.training, metrics, problems, evaluated)
        status = TrialStatus.SKIPPED if skipped else TrialStatus.FAILED if self.failure else TrialStatus.PENDING
        return TrialRecord(trial, status, self.training, metrics, problems, evaluated, skipped or self.failure)

    def _metrics(self, trial: Trial) -> tuple[dict[str, float], dict[str, str]]:
        """Return numbers and problems by metric; those of the headline anomaly set also under their bare names."""
        metrics: dict[str, float] = {}
        problems: dict[str, str] = {}
        headline = next(iter(trial.anomalies), None)
        for name, id_ in trial.metric_ids.items():
            if (result := self.results.get(id_)) is None:
                continue
            bare, _, which = name.partition("/")
            for alias in (name, bare) if which and which == headline else (name,):
                if result.problem is not None:
                    problems[alias] = result.problem
                elif result.value is not None:
                    metrics[alias] = result.value
        return metrics, problems


def _metrics(trial: Trial, *, after_slot: bool) -> dict[str, str]:
    """Return names and ids of the metrics computed in the trial's slot, or of those computed after it."""
    return {name: id_ for name, id_ in trial.metric_ids.items() if trial.is_after_slot(name) == after_slot}


def _details(trial: Trial, *, derived: bool) -> dict[str, str]:
    """Return names and ids of the per-image arrays made in the trial's slot, or of those derived outside of it."""
    ids = trial.detail_ids
    return {name: id_ for name, id_ in ids.items() if bool(DETAILS[name.partition("/")[0]].derived) == derived}
