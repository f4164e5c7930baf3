"""An Optuna study in a journal file, which stores the points of a search. No finished point is lost, whenever a process dies.

Only drivers write to the journal, one at a time (with flock, so that a dead driver's lock is free at once). A point's params
are in the journal before its trial runs; a later driver finishes the points that an earlier one left unfinished.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.atomic_files import atomic_write, read_file
from core.config import digest
from core.errors import InputError
from core.locks import file_lock
from core.paths import ensure_dir, is_remote
from sweeps.analysis.search_result import REDUCTION, PointState, SearchPoint
from sweeps.planning.search_space import Range, SearchSpec, objective_directions
from sweeps.storage.check import journal_problem

if TYPE_CHECKING:
    import optuna


class Study:
    """The points of a search, and a sampler of new ones (TPE, Bergstra et al. 2011; several objectives: Ozaki et al. 2022)."""

    def __init__(self, path: Path, search: SearchSpec, seed: int, *, epochs: int = 1) -> None:
        """Open or create the study at ``path``; ``epochs`` is the number of epochs of a trial, which early stopping needs."""
        import optuna
        from optuna.storages.journal import JournalStorage

        optuna.logging.set_verbosity(logging.WARNING)
        self._search = search
        backend: Any = _RemoteJournal(path) if is_remote(path) else _journal(path)
        self._draw_lock = path.with_suffix(".draw-lock")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about features that Optuna calls experimental
            self._study = optuna.create_study(
                storage=JournalStorage(backend),
                study_name="search",
                directions=[objective_directions()[name] for name in search.objectives],
                load_if_exists=True,
            )
            # The seed depends on the number of points: a continued study must not draw its first points again.
            self._study.sampler = optuna.samplers.TPESampler(
                n_startup_trials=max(3, min(10, search.trials // 2)),
                multivariate=True,
                constant_liar=True,
                constraints_func=lambda trial: [float(trial.user_attrs.get("infeasible", 0.0))],
                seed=int(digest([seed, len(self._study.trials)])[:8], 16),
            )
        self._study.pruner = optuna.pruners.SuccessiveHalvingPruner(
            min_resource=next(iter(rung_epochs(epochs)), 1), reduction_factor=REDUCTION
        )
        self._live: dict[int, optuna.Trial] = {}

    @property
    def points(self) -> list[SearchPoint]:
        """All points that were drawn so far; enqueued ones are not among them.

        Nor are points of which an earlier version gave up a part of the values: they were never tried.
        """
        drawn = [trial for trial in self._study.get_trials(deepcopy=False) if trial.state.name != "WAITING"]
        return [_point(t) for t in drawn if t.state.name != "FAIL" or set(t.params) == set(self._search.space)]

    @property
    def best_points(self) -> list[SearchPoint]:
        """The best feasible point or, with several objectives, the Pareto front; of points with equal values the first."""
        front = [point for trial in self._study.best_trials if (point := _point(trial)).state == "done"]
        distinct = {point.values: point for point in sorted(front, key=lambda point: point.number, reverse=True)}
        return sorted(distinct.values(), key=lambda point: point.number)

    def begin_with(self, params: Mapping[str, Any]) -> None:
        """Enqueue a first point, if the study is new."""
        if not self._study.get_trials(deepcopy=False):
            self._study.enqueue_trial(dict(params))

    def enqueue(self, params: Mapping[str, Any]) -> None:
        """Enqueue a failed point again."""
        self._study.enqueue_trial(dict(params))

    def waiting(self) -> list[dict[str, Any]]:
        """Return the params of the enqueued points."""
        return [
            dict(trial.system_attrs.get("fixed_params", {}))
            for trial in self._study.get_trials(deepcopy=False)
            if trial.state.name == "WAITING"
        ]

    def unfinished(self) -> list[SearchPoint]:
        """Return the points that a driver started and did not finish; draw the values that it had not drawn yet."""
        with self._drawing():  # a point that another driver is drawing is waited for
            return [self._drawn(point.number) for point in self.points if point.state == "running"]

    def ask(self) -> SearchPoint:
        """Draw a new point."""
        with self._drawing():
            return self._draw(self._study.ask())

    def _drawn(self, number: int) -> SearchPoint:
        import optuna

        return self._draw(optuna.Trial(self._study, self._ids[number]))

    def _draw(self, trial: optuna.Trial) -> SearchPoint:
        """Draw each value that the point does not have yet."""
        for name, choices in self._search.space.items():
            if not isinstance(choices, Range):
                trial.suggest_categorical(name, choices)
            elif choices.whole:
                trial.suggest_int(name, int(choices.low), int(choices.high), log=choices.log)
            else:
                trial.suggest_float(name, choices.bottom, choices.high, log=choices.log)
        return SearchPoint(trial.number, dict(trial.params), (), "running")

    @contextmanager
    def _drawing(self) -> Iterator[None]:
        """Draw alone: of a point that is half drawn, no other driver may draw the rest."""
        with warnings.catch_warnings(), file_lock(self._draw_lock):
            warnings.simplefilter("ignore")  # about features that Optuna calls experimental
            yield

    def tell(self, number: int, values: Sequence[float], infeasible: float, reason: str = "") -> None:
        """Mark a point as done.

        Args:
            number: its number.
            values: values of the objectives, in their order.
            infeasible: how far it is beyond the limit for collapse; 0 if it is not.
            reason: why it is infeasible, if so.
        """
        self._attribute(number, "infeasible", infeasible)
        self._attribute(number, "reason", reason)
        self._study.tell(number, values=list(values), skip_if_finished=True)

    def fail(self, number: int, reason: str) -> None:
        """Mark a point as failed: it has no values."""
        self._end(number, "FAIL", reason)

    def stop(self, number: int, reason: str) -> None:
        """Mark a point as stopped early."""
        self._end(number, "PRUNED", reason)

    def should_prune(self, number: int, epoch: int, value: float) -> bool:
        """Report the value of a point at a rung, and return whether to stop the point (ASHA, Li et al. 2020)."""
        import optuna

        trial = self._live.setdefault(number, optuna.Trial(self._study, self._ids[number]))
        trial.report(value, epoch)
        return bool(trial.should_prune())

    @property
    def _ids(self) -> dict[int, int]:
        return {trial.number: trial._trial_id for trial in self._study.get_trials(deepcopy=False)}

    def _attribute(self, number: int, name: str, value: Any) -> None:
        if self._study.get_trials(deepcopy=False)[number].state.name == "RUNNING":
            self._study._storage.set_trial_user_attr(self._ids[number], name, value)

    def _end(self, number: int, state: str, reason: str) -> None:
        import optuna

        self._attribute(number, "reason", reason)
        if self._study.get_trials(deepcopy=False)[number].state.name == "RUNNING":
            self._study._storage.set_trial_state_values(self._ids[number], optuna.trial.TrialState[state])

    def importances(self) -> list[dict[str, float]]:
        """Return, for each objective, the share of its variance that each field accounts for (fANOVA, Hutter et al. 2014).

        A mapping is empty if fewer than four points have values, or all values are equal.
        """
        import optuna

        complete = [trial for trial in self._study.get_trials(deepcopy=False) if trial.state.name == "COMPLETE"]
        found: list[dict[str, float]] = []
        for i in range(len(self._search.objectives)):
            if len(complete) < 4 or len({trial.values[i] for trial in complete}) < 2:
                found.append({})
                continue
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
                target = partial(_value, i)
                try:
                    found.append(dict(optuna.importance.get_param_importances(self._study, evaluator=evaluator, target=target)))
                except (RuntimeError, ValueError):  # no field has two values among them
                    found.append({})
        return found


def rung_epochs(epochs: int) -> list[int]:
    """Return the epochs after which ASHA compares trials (rungs).

    The first is ``epochs // REDUCTION**2``, at least 1; each further one is REDUCTION times the one before, below ``epochs``.
    """
    first = max(1, epochs // REDUCTION**2)
    found, at = [], first
    while at < epochs:
        found.append(at)
        at *= REDUCTION
    return found


def _point(trial: Any) -> SearchPoint:
    states: dict[str, PointState] = {"COMPLETE": "done", "PRUNED": "stopped", "FAIL": "failed", "RUNNING": "running"}
    state, reason = states[trial.state.name], str(trial.user_attrs.get("reason", ""))
    if state == "done" and trial.user_attrs.get("infeasible", 0.0) > 0:
        state = "infeasible"
    values = tuple(trial.values) if trial.state.name == "COMPLETE" else ()
    return SearchPoint(trial.number, dict(trial.params), values, state, reason)


def _value(objective: int, trial: Any) -> float:
    return float(trial.values[objective])


def _journal(path: Path) -> Any:
    """Return Optuna's journal in a file; a lock lets one driver write at a time."""
    from optuna.storages.journal import JournalFileBackend

    ensure_dir(path.parent)
    lock = _Flock(path.with_suffix(".lock"))
    with lock.held():
        _mend(path)
        if (problem := journal_problem(path)) is not None:
            raise InputError(problem)
    return JournalFileBackend(str(path), lock_obj=lock)  # type: ignore[arg-type]


class _RemoteJournal:
    """Optuna's journal behind a URL, where files can neither be appended to nor locked.

    So the whole file is written each time, and only one driver may run the search at a time.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines = self._there()

    def read_logs(self, log_number_from: int) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._lines[log_number_from:]]

    def _there(self) -> list[str]:
        if (problem := journal_problem(self._path)) is not None:
            raise InputError(problem)
        return (read_file(self._path) or b"").decode().splitlines()

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        if self._there() != self._lines:
            raise InputError(f"{self._path}: another command runs this search; if the storage is a URL, run one at a time")
        self._lines += [json.dumps(log, separators=(",", ":")) for log in logs]
        with atomic_write(self._path) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in self._lines), encoding="utf-8")


def _mend(path: Path) -> None:
    """Cut off an incomplete last line (after a full disk or a power cut), on which Optuna would raise an error."""
    if path.is_file() and (content := path.read_bytes()) and not content.endswith(b"\n"):
        with path.open("rb+") as file:
            file.truncate(content.rfind(b"\n") + 1)


class _Flock:
    """A file lock of the operating system, with the interface of Optuna's locks."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._held: AbstractContextManager[None] | None = None

    def acquire(self) -> bool:
        self._held = file_lock(self._path)
        self._held.__enter__()
        return True

    def release(self) -> None:
        if self._held is not None:
            self._held.__exit__(None, None, None)
            self._held = None

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lock for the length of a block."""
        with file_lock(self._path):
            yield
