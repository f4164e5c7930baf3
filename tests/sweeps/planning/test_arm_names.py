"""Names of arms: what MLflow, terminals and file systems take, and how values make names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mlflow.utils.validation import MAX_ENTITY_KEY_LENGTH, _validate_metric_name

from core.errors import InputError
from evaluation.evaluate import METRICS
from sweeps.flag_values import parse_arms
from sweeps.planning.arm_names import MAX_GIVEN, MAX_NAME, folded, name_error
from sweeps.planning.arms import expand_arms, select_arms
from sweeps.planning.grid import Grid
from sweeps.planning.grid_file import list_grids, load_grid
from sweeps.tracking.names import legal_name
from tests.sweeps.planning.test_planner import plan_of
from tests.sweeps.tiny import planner


def names(**arms: Any) -> list[str]:
    return list(expand_arms(Grid(name="g", question="q", arms=arms)))[1:]


def logged(arm: str) -> list[str]:
    """The names under which a sweep's run keeps an arm's metrics."""
    return [legal_name(f"{arm}/{metric}{what}") for metric in METRICS for what in ("", "/n", "/sd")]


LEGAL = [
    "x",
    "neighbors+augment",
    "mu/mu=12.5",
    "a b",
    "[/red]",
    "=1+1",
    "@x",
    "-y",
    "é",
    "🐱",
    "a,b",
    "c > d",
    "x" * MAX_GIVEN,
    "a.b:c",
]


@pytest.mark.parametrize("arm", LEGAL)
def test_mlflow_takes_every_legal_name(arm: str) -> None:
    assert name_error(arm) is None
    for name in logged(arm):
        _validate_metric_name(name)
        assert len(name) <= MAX_ENTITY_KEY_LENGTH
    assert len(set(logged(arm))) == 3 * len(METRICS)


def test_names_with_values_stay_as_they_are() -> None:
    assert names(longer={"epochs": [30, 100]}) == ["longer/epochs=30", "longer/epochs=100"]
    assert names(x={"learning_rate": ["1e-3", 0.0001], "mu": [None, True]})[:2] == ["x/learning_rate=1e-3/mu=None",
                                                                                    "x/learning_rate=1e-3/mu=True"]  # fmt: skip
    assert names(x={"anomaly_datasets": [["a", "b"], ["c"]]}) == ["x/anomaly_datasets=axb", "x/anomaly_datasets=c"]
    assert names(x={"dataset": ["folder:/a/b", "mnist"]}) == ["x/dataset=folder:/a/b", "x/dataset=mnist"]
    assert names(x={"parent": [None, {"epochs": 4}]}) == ["x/parent=None", "x/parent=epochs:4"]


def test_names_of_mappings_carry_what_differs() -> None:
    shared = {"flip": 0, "crop": [0.2, 1.0], "jitter": 1}
    assert names(x={"augmentation": [{**shared, "hue": 0}, {**shared, "hue": 0.1}]}) == [
        "x/augmentation=hue:0", "x/augmentation=hue:0.1",
    ]  # fmt: skip
    assert names(x={"augmentation": [shared, {**shared, "hue": 0.1}]})[1] == "x/augmentation=hue:0.1"
    nested = [{"epochs": 4, "augmentation": {"hue": hue, "flip": 0}} for hue in (0, 0.1)]
    assert names(x={"parent": nested}) == ["x/parent=augmentation:hue:0", "x/parent=augmentation:hue:0.1"]
    assert names(x={"augmentation": [{"hue": 0}, {"flip": 0}]}) == ["x/augmentation=hue:0", "x/augmentation=flip:0"]


@pytest.mark.parametrize("values", [
    [f"folder:/{'long/' * 60}{n}" for n in "ab"], ["folder:/a/../b", "folder:/a/b"], ["folder:/a//b", "folder:/a\x1b"],
    ["folder:/a+b", "folder:/a_b", "folder:/a=b"], [".", ".."], ["", " "],
])  # fmt: skip
def test_names_of_odd_values_are_legal_and_differ(values: list[str]) -> None:
    made = names(x={"dataset": values})
    assert len(made) == len(values) == len({folded(name) for name in made})
    for arm in made:
        assert arm.startswith("x/dataset=") and len(arm) <= MAX_NAME and arm.isprintable() and arm == arm.strip()
        for name in logged(arm):
            _validate_metric_name(name)


def test_a_name_of_values_gives_way_to_a_given_one() -> None:
    made = names(**{"x": {"mu": [1, 2]}, "x_mu=1": {"nu": 1}, "x/mu_1": {"nu": 2}})
    assert made[1:] == ["x/mu=2", "x_mu=1", "x/mu_1"] and made[0].startswith("x/mu=1-")


def test_names_of_the_grids_that_come_with_the_program_are_told_apart(tmp_path: Path) -> None:
    for grid in map(load_grid, list_grids()):
        arms = expand_arms(grid)
        assert len({folded(arm) for arm in arms}) == len(arms)
        assert not [arm for arm in grid.arms if name_error(arm)]


def test_a_parent_of_very_many_arms_has_a_name_that_a_database_takes(tmp_path: Path) -> None:
    plan = plan_of(
        {f"an-arm-with-a-name-{i}": {"pairing": "neighbors", "mu": i, "parent": {"epochs": 3}} for i in range(20)}, tmp_path
    )
    (parent,) = (trial for trial in plan.trials.values() if trial.required_by)
    assert parent.arm.startswith("parent of an-arm-with-a-name-0, ") and len(parent.title) <= 250


def test_anomaly_sets_that_one_metric_would_mix_are_refused(tmp_path: Path) -> None:
    grid = Grid(name="g", question="q", arms={"x": {}})
    with pytest.raises(InputError, match=r"MLflow cannot tell 'folder:/a_b' from 'folder:/a\+b'"):
        planner(tmp_path, settings={"anomaly_datasets": ["folder:/a+b", "folder:/a_b"]}).plan(grid, seeds=[0])


def test_arms_whose_names_hold_commas_can_be_chosen() -> None:
    arms = {name: {} for name in ("base", "a,b", "a", "x/augmentation=hue:0,flip:0", "x/augmentation=hue:1,flip:0")}
    assert list(select_arms(arms, ["a", "b"])) == ["a,b"]
    assert list(select_arms(arms, ["x/augmentation=hue:0", "flip:0", "a"])) == ["a", "x/augmentation=hue:0,flip:0"]
    assert list(select_arms(arms, ["x"])) == list(arms)[3:]
    with pytest.raises(InputError, match="--arms c: no such arm"):
        select_arms(arms, ["a", "c"])


def test_a_name_with_commas_can_be_asked_for_whatever_its_pieces_are() -> None:
    grid = Grid(
        name="g",
        question="q",
        arms={"a, b": {"mu": 1}, "x": {"augmentation": [{"flip": 0, "grey": 0}, {"flip": 0.5, "grey": 0}]}},
    )
    arms = expand_arms(grid)
    for name in arms:
        assert list(select_arms(arms, parse_arms(name) or [])) == [name]
    both = [name for name in arms if name.startswith("x/")]
    assert list(select_arms(arms, parse_arms(" , ".join(both)) or [])) == both
    assert list(select_arms(arms, parse_arms("base,, a, b ,") or [])) == ["base", "a, b"]
