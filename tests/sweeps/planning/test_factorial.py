"""The key ``factorial``: every combination of switches is an arm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from core.errors import InputError
from sweeps.planning.arms import count_arms, expand_arms
from sweeps.planning.grid import Grid
from sweeps.planning.grid_file import load_grid
from sweeps.run import main
from tests.sweeps.tiny import arm, planner

TERMS: dict[str, Any] = {"invariance": {"lambda": 0}, "variance": {"mu": 0}, "covariance": {"nu": 0}}


def grid_of(switches: dict[str, Any], **more: Any) -> Grid:
    return Grid(name="g", question="q", factorial=switches, **more)


def test_the_three_terms_make_eight_arms_and_none_is_the_untrained_encoder() -> None:
    expected = {
        "base": {}, "invariance+variance": {"nu": 0}, "invariance+covariance": {"mu": 0}, "variance+covariance": {"lambda": 0},
        "invariance": {"mu": 0, "nu": 0}, "variance": {"lambda": 0, "nu": 0}, "covariance": {"lambda": 0, "mu": 0},
        "none": {"method": "untrained"},
    }  # fmt: skip
    grid = load_grid("factorial")
    assert expand_arms(grid) == expected and list(expand_arms(grid)) == list(expected) and count_arms(grid) == 8


def test_inner_fields_are_merged_and_all_off_is_trained_too(tmp_path: Path) -> None:
    grid = load_grid("augmentations-factorial")
    arms = expand_arms(grid)
    assert len(arms) == count_arms(grid) == 16
    assert arms["none"] == {"augmentation": {"crop": None, "jitter": 0, "grey": 0, "blur": None}}
    plan = planner(tmp_path, "cifar10").plan(grid, seeds=(0,))
    none, jitter = arm(plan, "none").config, arm(plan, "jitter").config.augmentation
    assert none.trained and none.augmentation.flip == 0.5, "what is no switch stays as it is in base"
    assert (jitter.crop, jitter.jitter, jitter.grey, jitter.blur, jitter.hue) == (None, 1.0, 0.0, None, 0.1)
    assert len({trial.key for trial in plan.trials.values()}) == 16


def test_every_loss_without_a_term_is_the_untrained_encoder(tmp_path: Path) -> None:
    switches = {"invariance": {"lambda": 0}, "covariance": {"nu": 0}, "grey": {"augmentation": {"grey": 0}}}
    without = grid_of(switches, base={"mu": 0})
    assert expand_arms(without)["grey"] == {"method": "untrained"}, "grey alone is on, and there is nothing to train"
    with_variance = grid_of(switches)
    assert expand_arms(with_variance)["none"] == {"lambda": 0, "nu": 0, "augmentation": {"grey": 0}}
    plan = planner(tmp_path, settings={"mu": 0}).plan(with_variance, seeds=(0,))
    assert arm(plan, "none") is arm(plan, "grey") and arm(plan, "none").config.method == "untrained", "--set counts as well"
    assert arm(plan, "invariance").config.method == "vicreg"


def test_a_switch_is_laid_over_the_arm_base_and_other_arms_stay(tmp_path: Path) -> None:
    arms = {"base": {"mu": 3, "augmentation": {"hue": 0}}, "rate": {"learning_rate": [1e-3, 1e-4]}}
    grid = grid_of({"covariance": {"nu": 0}, "grey": {"augmentation": {"grey": 0}}}, arms=arms)
    plan = planner(tmp_path).plan(grid, seeds=(0,))
    config = arm(plan, "covariance").config
    assert (config.mu, config.nu, config.augmentation.hue, config.augmentation.grey) == (3, 1, 0, 0)
    assert list(expand_arms(grid)) == [
        "base", "rate/learning_rate=0.001", "rate/learning_rate=0.0001", "covariance", "grey", "none",
    ]  # fmt: skip


def test_a_field_that_is_a_list_by_nature_may_be_switched(tmp_path: Path) -> None:
    path = tmp_path / "g.yaml"
    path.write_text("factorial: {deep: {projector_dims: [8]}, wide: {augmentation: {crop: [0.5, 1]}}}")
    plan = planner(tmp_path).plan(load_grid(str(path)), seeds=(0,))
    assert arm(plan, "wide").config.projector_dims == (8,) and arm(plan, "deep").config.augmentation.crop == (0.5, 1)


@pytest.mark.parametrize(("base", "settings"), [({"augmentation": {"flip": 0}}, {}), ({}, {"gamma": 2.0}), ({}, {})])
def test_a_switch_that_changes_nothing_is_named(base: dict[str, Any], settings: dict[str, Any], tmp_path: Path) -> None:
    switches = {"flip": {"augmentation": {"flip": 0}}, "variance": {"mu": 0}}
    with pytest.raises(InputError) as error:
        planner(tmp_path, settings=settings).plan(grid_of(switches, base=base), seeds=(0,))
    assert len(error.value.errors) == 1 and "g: factorial.flip: switched off, it changes nothing" in str(error.value)
    assert planner(tmp_path, "cifar10").plan(grid_of(switches), seeds=(0,)).trials, "base of cifar10 has a flip"


def test_switches_of_a_baseline_change_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        planner(tmp_path).plan(grid_of(TERMS, base={"method": "supervised"}), seeds=(0,))
    assert [f"factorial.{switch}:" in text for switch, text in zip(TERMS, error.value.errors, strict=True)] == [True] * 3


def test_a_setting_that_a_switch_varies_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--set mu: grid g varies it, in invariance\\+covariance"):
        planner(tmp_path, settings={"mu": 3}).plan(grid_of(TERMS), seeds=(0,))


def test_a_baseline_stays_one_whatever_its_weights_are() -> None:
    base = {"method": "supervised", "lambda": 0, "mu": 0, "nu": 0}
    grid = grid_of({"flip": {"augmentation": {"flip": 0}}, "grey": {"augmentation": {"grey": 0}}}, base=base)
    assert expand_arms(grid)["none"] == {"augmentation": {"flip": 0, "grey": 0}}


@pytest.mark.parametrize("text", [
    "factorial: {a: 3, b: {mu: 0}}", "factorial: {a: {mu: [0, 1]}, b: {nu: 0}}", "factorial: {a: {}, b: {mu: 0}}",
    "factorial: {a: {mu: 0}}\nclaims: ['nmi: base > none']", "factorial: 3", "factorial: {a: {mu: 0}, b: {lamda: 0}}",
])  # fmt: skip
def test_a_fault_is_told_once_without_what_follows_from_it(text: str, tmp_path: Path) -> None:
    path = tmp_path / "g.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        load_grid(str(path))
    assert len(error.value.errors) == 1 and "factorial" in error.value.errors[0]


@pytest.mark.parametrize(("name", "trials"), [("factorial", 16), ("augmentations-factorial", 32)])
def test_a_dry_run_of_the_grids(name: str, trials: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    places = ["--data", str(tmp_path), "--storage", str(tmp_path / "results")]
    assert main(["--grid", name, "--dry-run", "--profile", "digits-m", "--seeds", "2", *places]) == 0
    said = capsys.readouterr().out
    assert f"{trials} trials, 0 done already" in said and "none" in said
    assert main(["--grid", name, "--dry-run", "--profile", "digits-m", "--arms", "none", *places]) == 0
    assert "1 trials, 0 done already" in capsys.readouterr().out
