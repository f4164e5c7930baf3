"""What holds of a plan whatever the grid: no circle, no duplicate, parents first, and the same keys in every process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hypothesis import assume, given
from hypothesis import strategies as st

from core.errors import InputError
from core.pairing import PAIRINGS
from sweeps.execution.cost import critical_path_order, wall_time
from sweeps.execution.trial_queue import TrialQueue
from sweeps.planning.grid import Grid
from sweeps.planning.grid_file import list_grids, load_grid
from sweeps.planning.planner import Planner
from sweeps.planning.trial import Plan
from sweeps.storage.trial_store import TrialStore
from tests.conftest import ROOT

#: Fields with which a trial stays valid, beside those that decide on parents.
PLAIN: dict[str, st.SearchStrategy[Any]] = {
    "mu": st.sampled_from([0, 1, 25.0]),
    "epochs": st.integers(1, 4),
    "schedule": st.sampled_from(["constant", "cosine"]),
    "warmup_epochs": st.sampled_from([0, 0.5, 2]),
    "representation_dim": st.sampled_from([8, 16]),
    "threads": st.sampled_from([1, 2]),
    "augmentation": st.fixed_dictionaries({}, optional={"flip": st.sampled_from([0, 0.5]), "crop": st.none()}),
    "pair_purity": st.sampled_from([0.5, 1]),
    "train_subset": st.sampled_from([100, None]),
}
WITHOUT_PARENT = [name for name, pairing in PAIRINGS.items() if pairing.table != "parent"]
METHODS = st.sampled_from(["vicreg", "vicreg", "supervised", "untrained", "pca", "raw-pixels"])


@st.composite
def trial_fields(draw: Any, depth: int = 2, lists: bool = True) -> dict[str, Any]:
    """The fields of an arm or a parent; lists make several arms."""
    fields: dict[str, Any] = draw(st.fixed_dictionaries({}, optional=PLAIN))
    if lists and draw(st.booleans()):
        fields["epochs"] = draw(st.lists(st.integers(1, 5), min_size=1, max_size=3, unique=True))
    if depth and draw(st.booleans()):
        fields["pairing"] = draw(st.sampled_from(sorted(PAIRINGS)))
        if PAIRINGS[fields["pairing"]].table == "parent" and draw(st.booleans()):
            fields["parent"] = draw(trial_fields(depth - 1, lists=False))
    else:
        fields["pairing"] = draw(st.sampled_from(WITHOUT_PARENT))
    return fields | ({"method": draw(METHODS)} if lists else {})


NAMES = st.text("abcxyz-", min_size=1, max_size=6)
GRIDS = st.builds(
    Grid,
    name=st.just("drawn"),
    question=st.just("?"),
    base=trial_fields(depth=1, lists=False),
    arms=st.dictionaries(NAMES, trial_fields(), min_size=1, max_size=5),
)
SEEDS = st.lists(st.integers(0, 5), min_size=1, max_size=3, unique=True)


def planned(grid: Grid, seeds: list[int], **settings: Any) -> Plan:
    """The grid's plan; a grid that is refused is no example."""
    planner = Planner("digits-m", settings, Path(tempfile.gettempdir()), gpu=False, cpu_flags=frozenset())
    try:
        return planner.plan(grid, seeds=seeds)
    except InputError as error:
        assert error.errors and all(error.errors)
        assume(False)
        raise


def lineage(plan: Plan, key: str) -> list[str]:
    """The keys of a trial's parents, the nearest first. Ends for any plan."""
    found: list[str] = []
    while (parent := plan.trials[key].parent_key) is not None and len(found) <= len(plan.trials):
        found.append(parent)
        key = parent
    return found


@given(GRIDS, SEEDS)
def test_a_plan_has_no_circle_no_duplicate_and_every_parent(grid: Grid, seeds: list[int]) -> None:
    plan = planned(grid, seeds)
    for key, trial in plan.trials.items():
        ancestors = lineage(plan, key)
        assert key not in ancestors and len(set(ancestors)) == len(ancestors), "no circle"
        assert set(plan.dependencies(trial)) <= set(plan.trials) - {key}
        assert trial.key == key and (trial.parent_key is None) != trial.config.needs_parent
        assert bool(trial.arms[0]) and len(set(trial.arms)) == len(trial.arms)
    outcomes = [json.dumps([t.config.outcome_fields(), t.parent_key], sort_keys=True) for t in plan.trials.values()]
    assert len(set(outcomes)) == len(outcomes), "nothing is planned twice"
    names = [(arm, t.config.seed) for t in plan.trials.values() if not t.required_by for arm in t.arms]
    assert len(set(names)) == len(names), "an arm has one trial for a seed"
    assert plan.requested == set(plan.trials)


@given(GRIDS, SEEDS, st.integers(1, 3), st.randoms(use_true_random=False), st.data())
def test_trials_are_handed_out_after_what_they_depend_on(
    grid: Grid, seeds: list[int], slots: int, random: Any, data: st.DataObject
) -> None:
    plan = planned(grid, seeds)
    seconds = {key: data.draw(st.floats(0.1, 10)) for key in plan.trials}
    order = critical_path_order(plan, seconds)
    assert sorted(order) == sorted(plan.trials)
    total, longest = sum(seconds.values()), max(seconds.values())
    assert longest - 1e-6 <= wall_time(plan, seconds, slots) <= total + 1e-6
    with tempfile.TemporaryDirectory() as storage:
        queue = TrialQueue(plan, order, TrialStore(Path(storage)), [])
        over: set[str] = set()
        running: list[str] = []
        failed = set(random.sample(order, random.randint(0, min(1, len(order)))))
        while True:
            while len(running) < slots and (trial := queue.next_ready()) is not None:
                assert set(plan.dependencies(trial)) <= over, "parents first"
                assert trial.key not in over and trial.key not in running, "once"
                assert not failed & set(lineage(plan, trial.key)) & over, "not after its parent failed"
                running.append(trial.key)
            if not running:
                break
            key = running.pop(random.randrange(len(running)))
            over.add(key)
            # Without files in the store a trial counts as failed; one that did not fail is told of in no other way here.
            queue._over.add(key) if key not in failed else queue.trial_ended(key, "failed")
            queue._running.discard(key)
        assert queue.finished and not queue.interrupted
        assert over | set(queue.skipped) == set(plan.trials)
        assert set(queue.skipped) == {key for key in plan.trials if failed & set(lineage(plan, key))}


def shuffled(content: Any, random: Any) -> Any:
    """The same mapping with its keys in another order, and mappings within as well."""
    if not isinstance(content, Mapping):
        return content
    items = list(content.items())
    random.shuffle(items)
    return {key: shuffled(value, random) for key, value in items}


@given(GRIDS, SEEDS, st.randoms(use_true_random=False))
def test_keys_do_not_depend_on_the_order_in_which_things_are_written(grid: Grid, seeds: list[int], random: Any) -> None:
    plan = planned(grid, seeds)
    other = planned(grid.model_copy(update={"arms": shuffled(grid.arms, random), "base": shuffled(grid.base, random)}), seeds)
    assert set(plan.trials) == set(other.trials) and plan.sweep_id == other.sweep_id
    for key, trial in plan.trials.items():
        assert set(plan.dependencies(trial)) == set(other.dependencies(other.trials[key]))


@given(GRIDS, SEEDS, st.sampled_from([3, 4]), st.sampled_from([["digits-m-black"], []]))
def test_keys_depend_on_what_is_trained_alone(grid: Grid, seeds: list[int], threads: int, anomalies: list[str]) -> None:
    plan = planned(grid, seeds)
    arms = {name: {k: v for k, v in (fields or {}).items() if k != "threads"} for name, fields in grid.arms.items()}
    for fields in arms.values():
        below: Any = fields.get("parent")
        while isinstance(below, dict):
            below.pop("threads", None)
            below = below.get("parent")
    other = planned(grid.model_copy(update={"arms": arms}), seeds, threads=threads, anomaly_datasets=anomalies)
    assert set(other.trials) == set(plan.trials)
    more = planned(grid, seeds, weight_decay=0.125)
    for key in set(plan.trials) & set(more.trials):  # the method trains nothing, so no decay matters
        assert not plan.trials[key].config.trained


_KEYS = """
import json, sys
from pathlib import Path
from sweeps.planning.grid import Grid
from sweeps.planning.grid_file import list_grids, load_grid
from sweeps.planning.planner import Planner
planner = Planner("digits-m", {}, Path(sys.argv[1]), gpu=False, cpu_flags=frozenset())
plans = [planner.plan(load_grid(name), seeds=(0, 1)) for name in list_grids()]
print(json.dumps({plan.sweep_id: [[key, t.arms, t.parent_key] for key, t in plan.trials.items()] for plan in plans}))
"""


def test_keys_are_the_same_in_every_process(tmp_path: Path) -> None:
    planner = Planner("digits-m", {}, tmp_path, gpu=False, cpu_flags=frozenset())
    plans = [planner.plan(load_grid(name), seeds=(0, 1)) for name in list_grids()]
    here = {plan.sweep_id: [[key, list(t.arms), t.parent_key] for key, t in plan.trials.items()] for plan in plans}
    environment = os.environ | {"PYTHONHASHSEED": "4242", "PYTHONPATH": str(ROOT)}  # this process's hashes are others
    line = [sys.executable, "-c", _KEYS, str(tmp_path)]
    said = subprocess.run(line, env=environment, cwd=tmp_path, stdout=subprocess.PIPE, timeout=200, check=True).stdout
    assert json.loads(said) == here
