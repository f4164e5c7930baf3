"""Which runs belong to a sweep: one for each of its trials, under its present parent run; others are former members."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from sweeps.planning.trial import Plan, Trial
from sweeps.tracking.child_run import ChildRun, existing_child
from sweeps.tracking.names import matches
from sweeps.tracking.run_client import search_runs, set_tags
from sweeps.tracking.user_texts import FORMER_SUFFIX, RUN_NAME

if TYPE_CHECKING:
    from mlflow import MlflowClient

#: Values of the tag ``role``. The prepared view, and every search for ``tags.role = 'trial'``, leaves former members out.
MEMBER, FORMER = "trial", "former trial"
_PARENT = "mlflow.parentRunId"


class Membership:
    """The runs of a sweep's trials that are in MLflow."""

    def __init__(self, client: MlflowClient, experiment: str, plan: Plan, parent: str, say: Callable[[str], None]) -> None:
        """Keep the settings; nothing is read or written yet.

        Args:
            client: of the tracking server or database.
            experiment: id of the experiment.
            plan: the sweep.
            parent: id of the sweep's run.
            say: called with what the user must know.
        """
        self._client, self._experiment, self._plan, self._parent, self._say = client, experiment, plan, parent, say
        self._children: dict[str, ChildRun] = {}
        self._deleted: set[str] | None = None
        self._remade: list[str] = []

    def correct(self, plan: Plan, *, complete: bool) -> None:
        """Read the runs, and correct their tags: one run for each trial, under the present parent; others become former ones.

        A run whose seed the plan does not have stays as it is, since another command may have planned it.

        Args:
            plan: the trials that are known to belong to the sweep.
            complete: whether these are all; else the runs of other trials stay as they are.
        """
        kept, left = {child.run_id: child for child in self._children.values()}, 0
        self._plan, self._children = plan, {}
        for read in self._read():
            child = kept.get(read.run_id, read)
            child.tags, child.seed = read.tags, read.seed
            if child.tags.get(_PARENT) != self._parent:
                set_tags(self._client, child, {_PARENT: self._parent})
            key = child.tags["trial_key"]
            if key in self._children or (complete and _is_replaced(child, plan)):
                left += self._dismiss(child)
                continue
            self._children[key] = child
            if key in plan.trials:
                self._readmit(child)
        if left:
            self._say(f"MLflow: because arms or data changed, {left} run{'s' if left > 1 else ''} of {plan.sweep_id} now "
                      f"{'have' if left > 1 else 'has'} the tag role = '{FORMER}', and the view leaves them out")  # fmt: skip

    def known(self, trial: Trial) -> ChildRun | None:
        """Return the trial's run if this process knows one; a former member becomes a member again."""
        child = self._children.get(trial.key)
        if child is not None:
            self._readmit(child)
        return child

    def find(self, trial: Trial) -> ChildRun | None:
        """Return the trial's run if MLflow has one by now; another driver of the sweep may have created it."""
        found = self._read(trial.key)
        if found:
            self._children[trial.key] = found[0]
        return self.known(trial)

    def make(self, trial: Trial, tags: dict[str, str]) -> ChildRun:
        """Create the trial's run."""
        tags = {**tags, "role": MEMBER, "trial_key": trial.key, _PARENT: self._parent}
        run = self._client.create_run(self._experiment, tags=tags)
        self._children[trial.key] = ChildRun(run.info.run_id, "RUNNING", tags, frozenset(), {}, fresh=True)
        if self._deleted is None:
            deleted = search_runs(self._client, self._experiment, matches("sweep", self._plan.sweep_id), deleted=True)
            self._deleted = {run.data.tags.get("trial_key", "") for run in deleted}
        if trial.key in self._deleted:
            self._remade.append(trial.title)
        return self._children[trial.key]

    def say_remade(self) -> None:
        """Say which runs were made because those of the same trials had been deleted."""
        if self._remade:
            self._say("MLflow: these runs had been deleted there, and were written anew, because their trials belong to the "
                      f"sweep: {', '.join(self._remade)}")  # fmt: skip
            self._remade = []

    def _read(self, key: str | None = None) -> list[ChildRun]:
        """Return the runs of the sweep's trials, or of one of them: members first, and the older ones first."""
        sweep = self._plan.sweep_id
        query = matches("sweep", sweep) + ("" if key is None else f" and tags.trial_key = '{key}'")
        found = [run for run in search_runs(self._client, self._experiment, query) if run.data.tags["sweep"] == sweep]
        return [existing_child(run) for role in (MEMBER, FORMER) for run in found if run.data.tags.get("role") == role]

    def _dismiss(self, child: ChildRun) -> bool:
        """Make a run a former member; return False if it was one already."""
        if child.tags.get("role") == FORMER:
            return False
        name = child.tags.get(RUN_NAME, "")
        set_tags(self._client, child, {"role": FORMER, RUN_NAME: name.removesuffix(FORMER_SUFFIX) + FORMER_SUFFIX})
        return True

    def _readmit(self, child: ChildRun) -> None:
        if child.tags.get("role") == FORMER:
            set_tags(self._client, child, {"role": MEMBER, RUN_NAME: child.tags.get(RUN_NAME, "").removesuffix(FORMER_SUFFIX)})


def _is_replaced(child: ChildRun, plan: Plan) -> bool:
    """Return whether a run's arm is no longer in the grid, or has another trial for the same seed."""
    if child.tags["trial_key"] in plan.trials:
        return False
    tag = child.tags.get("arm", "")
    names = {tag, *tag.split(", ")}
    same_arm = [trial for trial in plan.trials.values() if names & {", ".join(trial.arms), *trial.arms}]
    seeds = {str(trial.config.seed) for trial in same_arm}
    return not same_arm or child.seed is None or child.seed in seeds
