"""From grids to trials: arms, lists, parents, continuations, sharing, and every fault at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from core.errors import InputError
from sweeps.planning.arms import expand_arms, parse_settings, select_arms
from sweeps.planning.grid import Grid
from sweeps.planning.grid_file import list_grids, load_grid
from sweeps.planning.trial import Plan
from tests.conftest import image_folder
from tests.sweeps.tiny import arm, planner


def plan_of(grid_arms: dict[str, Any], tmp_path: Path, /, *, base: dict[str, Any] | None = None, **changes: Any) -> Plan:
    grid = Grid(name="g", question="q", arms=grid_arms, base=base or {})
    seeds, arms = changes.pop("seeds", [0]), changes.pop("arms", None)
    return planner(tmp_path, **changes).plan(grid, seeds=seeds, arms=arms)


def errors(function: object, /, *args: Any, **kwargs: Any) -> str:
    assert callable(function)
    with pytest.raises(InputError) as error:
        function(*args, **kwargs)
    return str(error.value)


@pytest.mark.parametrize("name", list_grids())
@pytest.mark.parametrize("profile", ["digits-m", "cifar10"])
def test_grids_that_come_with_the_program_are_sound(name: str, profile: str, tmp_path: Path) -> None:
    grid = load_grid(name)
    plan = planner(tmp_path, profile, gpu=True).plan(grid, seeds=grid.seeds)
    arms = {name for trial in plan.trials.values() for name in trial.arms}
    assert set(expand_arms(grid)) <= arms


def test_the_ablations_are_the_studies() -> None:
    assert list(expand_arms(load_grid("ablations"))) == [
        "base", "no-variance", "no-invariance", "no-covariance", "invariance-only", "neighbors", "neighbors+augment", "class",
        "random", "raw-pixels", "pca", "laplacian-eigenmaps", "untrained", "supervised",
    ]  # fmt: skip


def test_base_is_added_and_lists_make_arms() -> None:
    grid = Grid(name="g", question="q", arms={"x": {"epochs": [1, 2], "mu": [0, 5]}, "y": {"projector_dims": [8, 8]},
                                              "z": {"projector_dims": [[8], [9, 9]]}})  # fmt: skip
    arms = expand_arms(grid)
    assert list(arms) == ["base", "x/epochs=1/mu=0", "x/epochs=1/mu=5", "x/epochs=2/mu=0", "x/epochs=2/mu=5", "y",
                          "z/projector_dims=8", "z/projector_dims=9x9"]  # fmt: skip
    assert arms["y"] == {"projector_dims": [8, 8]} and arms["z/projector_dims=9x9"] == {"projector_dims": [9, 9]}
    assert list(select_arms(arms, ["x", "y"])) == list(arms)[1:6]


def test_later_lies_over_earlier(tmp_path: Path) -> None:
    plan = plan_of({"x": {"mu": 3}}, tmp_path, base={"nu": 7, "epochs": 4}, settings={"epochs": 2})
    config = arm(plan, "x").config
    assert (config.mu, config.nu, config.epochs, config.encoder) == (3, 7, 2, "small")


def test_a_parent_is_base_with_the_trials_own_seed_and_data(tmp_path: Path) -> None:
    plan = plan_of({"n": {"pairing": "neighbors", "mu": 3, "epochs": 9, "train_subset": 1000}}, tmp_path,
                   base={"nu": 7}, seeds=[4])  # fmt: skip
    parent = arm(plan, "n").config.parent
    assert parent is not None
    assert (parent.mu, parent.nu, parent.epochs, parent.pairing) == (25, 7, 15, "augment"), "base's"
    assert (parent.seed, parent.train_subset) == (4, 1000), "the trial's own"
    added = [trial for trial in plan.trials.values() if trial.required_by]
    assert [trial.required_by for trial in added] == [("n",)], "no arm comes to this parent: it is added and marked"
    assert plan.dependencies(arm(plan, "n")) == (added[0].key,)


def test_a_parent_that_is_base_is_shared_and_settings_reach_it(tmp_path: Path) -> None:
    arms = {"n": {"pairing": "neighbors"}, "m": {"pairing": "neighbors+augment"}}
    plan = plan_of(arms, tmp_path, settings={"epochs": 3, "augmentation": {"hue": 0}})
    assert len(plan.trials) == 3
    base = arm(plan, "base")
    assert arm(plan, "n").parent_key == arm(plan, "m").parent_key == base.key
    assert base.config.epochs == 3 and base.config.augmentation.hue == 0


def test_a_parent_can_be_overridden_and_nested(tmp_path: Path) -> None:
    arms = {
        "a": {"pairing": "neighbors", "parent": {"mu": 0}},
        "b": {"pairing": "neighbors", "parent": {"method": "untrained"}},
        "c": {"pairing": "neighbors", "parent": {"pairing": "neighbors", "parent": {"pairing": "class"}}},
    }
    plan = plan_of(arms, tmp_path)
    configs = {name: arm(plan, name).config.parent for name in arms}
    assert configs["a"] is not None and configs["a"].mu == 0 and configs["a"].pairing == "augment"
    assert configs["b"] is not None and configs["b"].method == "untrained"
    assert configs["c"] is not None and configs["c"].parent is not None and configs["c"].parent.pairing == "class"
    assert len([trial for trial in plan.trials.values() if trial.required_by]) == 4


def test_a_parent_without_end_is_refused(tmp_path: Path) -> None:
    assert "needs a parent without end" in errors(plan_of, {"x": {}}, tmp_path, base={"pairing": "neighbors"})
    assert plan_of({"x": {}}, tmp_path, base={"pairing": "neighbors", "parent": {"pairing": "augment"}}).trials
    assert "needs no parent" in errors(plan_of, {"x": {"parent": {"mu": 0}}}, tmp_path)


def test_arms_only_still_bring_the_parents(tmp_path: Path) -> None:
    plan = plan_of({"n": {"pairing": "neighbors"}, "o": {"mu": 0}}, tmp_path, arms=["n"])
    assert {plan.trials[key].arm for key in plan.requested} == {"n", "base"}, "base is n's parent; o was not asked for"
    assert {trial.arm for trial in plan.trials.values()} == {"base", "n", "o"}, "but belongs to the sweep"


def test_seeds_of_earlier_commands_stay_in_the_sweep(tmp_path: Path) -> None:
    plan = plan_of({"z": {"mu": 0}}, tmp_path, seeds=[0], earlier_seeds=lambda _: [0, 7])
    assert {trial.config.seed for trial in plan.trials.values()} == {0, 7}
    assert {plan.trials[key].config.seed for key in plan.requested} == {0}


def test_arms_that_train_the_same_but_are_evaluated_otherwise_are_refused(tmp_path: Path) -> None:
    arms = {"b": {"anomaly_datasets": ["digits-m-black"]}}
    assert "arms base and b train the same, and differ in anomaly_datasets alone" in errors(plan_of, arms, tmp_path)
    assert "differ in threads alone" in errors(plan_of, {"t": {"threads": [1, 2]}}, tmp_path)


def test_a_setting_may_not_stop_at_a_parent_that_has_its_own(tmp_path: Path) -> None:
    arms = {"n": {"pairing": "neighbors", "parent": {"epochs": 4}}}
    assert "--set epochs" in errors(plan_of, arms, tmp_path, settings={"epochs": 2})


def test_a_parent_that_is_not_base_is_a_difference(tmp_path: Path) -> None:
    plan = plan_of({"n": {"pairing": "neighbors", "parent": {"epochs": 4}}, "m": {"pairing": "neighbors"}}, tmp_path)
    assert arm(plan, "n").diff_from_base["parent"] == (None, {"epochs": 4})
    assert "parent" not in arm(plan, "m").diff_from_base


def test_a_sweep_does_not_depend_on_its_first_seed(tmp_path: Path) -> None:
    base = {"pairing": "neighbors", "parent": {"pairing": "augment"}}
    sweeps = {plan_of({"z": {"mu": 0}}, tmp_path, base=base, seeds=seeds).sweep_id for seeds in ([0, 1], [1, 2], [5])}
    assert len(sweeps) == 1


def test_epochs_share_a_lineage_unless_the_schedule_depends_on_them(tmp_path: Path) -> None:
    plan = plan_of({"e": {"epochs": [2, 4, 8]}}, tmp_path, base={"epochs": 8})
    assert len(plan.trials) == 3, "8 epochs is base"
    by_epochs = {trial.config.epochs: trial for trial in plan.trials.values()}
    assert plan.dependencies(by_epochs[8]) == (by_epochs[4].key,) and plan.dependencies(by_epochs[4]) == (by_epochs[2].key,)
    assert by_epochs[8].resumable_from[3] == (4, by_epochs[4].key), "every shorter length is looked for in the store"
    cosine = plan_of({"e": {"epochs": [2, 4]}}, tmp_path, settings={"schedule": "cosine"})
    assert all(not trial.resumable_from for trial in cosine.trials.values())


def test_seeds_give_a_trial_each_where_a_seed_matters(tmp_path: Path) -> None:
    plan = plan_of({"raw": {"method": "raw-pixels"}, "u": {"method": "untrained"}}, tmp_path, seeds=[0, 1, 2])
    counts = {name: sum(trial.arm == name for trial in plan.trials.values()) for name in ("base", "raw", "u")}
    assert counts == {"base": 3, "raw": 1, "u": 3}
    untrained = {trial.config.seed: trial.key for trial in plan.trials.values() if trial.arm == "u"}
    assert all(trial.untrained_key == untrained[trial.config.seed] for trial in plan.trials.values() if trial.arm == "base")


def test_a_sweep_is_its_name_and_base(tmp_path: Path) -> None:
    one = plan_of({"x": {"mu": 0}}, tmp_path).sweep_id
    assert plan_of({"x": {"mu": 0}, "y": {"nu": 0}}, tmp_path, seeds=[1, 2]).sweep_id == one, "more arms and seeds extend it"
    assert plan_of({"x": {"mu": 0}}, tmp_path, settings={"epochs": 3}).sweep_id != one


def test_what_differs_from_base_is_said(tmp_path: Path) -> None:
    plan = plan_of({"x": {"mu": 3, "augmentation": {"hue": 0}}, "n": {"pairing": "pixel-neighbors"}}, tmp_path, seeds=[3])
    assert arm(plan, "base").diff_from_base == {}
    assert arm(plan, "x").diff_from_base["mu"] == (25.0, 3.0) and set(arm(plan, "x").diff_from_base) == {"mu", "augmentation"}
    assert arm(plan, "n").diff_from_base["augmentation"][1] is None, "neither view is augmented"


def test_settings_are_parsed_as_yaml_and_dotted() -> None:
    parsed = parse_settings(
        ["mu=3", "augmentation.flip=0", "projector_dims=[8, 8]", "dataset=folder:/a=b", "augmentation.hue=0"]
    )
    assert parsed == {"mu": 3, "augmentation": {"flip": 0, "hue": 0}, "projector_dims": [8, 8], "dataset": "folder:/a=b"}
    assert errors(parse_settings, ["mu", "nu=[1"]).count("--set") == 2


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"mu": 1}, ("--set mu", "varies it", "x/mu=0, x/mu=1")),
        ({"seed": 1}, ("--set seed", "--seeds")),
        ({"seed": {"x": 1}}, ("--set seed: ", "--seeds")),
        ({"augmentation": {"hue": 0.2}}, ("--set augmentation.hue", "y")),
        ({"augmentation": None}, ("--set augmentation", "y")),
    ],
)
def test_a_setting_that_an_arm_varies_is_refused(settings: dict[str, Any], named: tuple[str, ...], tmp_path: Path) -> None:
    arms = {"x": {"mu": [0, 1]}, "y": {"augmentation": {"hue": 0}}}
    message = errors(plan_of, arms, tmp_path, settings=settings)
    assert all(text in message for text in named)
    assert plan_of(arms, tmp_path, settings={"augmentation": {"flip": 0.1}}).trials


def test_all_faults_come_at_once_and_name_their_arm(tmp_path: Path) -> None:
    message = errors(plan_of, {"x": {"mu": -1}, "y": {"lamda": 2}}, tmp_path, arms=["z"], settings={"epochs": 0, "seed": 2})
    for text in ("--arms z", "there are base, x, y", "--set seed", "epochs", "arm x: mu", "arm y: unknown key 'lamda'"):
        assert text in message
    message = errors(plan_of, {"x": {"mu": -1}, "y": {"lamda": 2}}, tmp_path, settings={"dataset": "folder:/nowhere"})
    assert "grid g, arm x: mu" in message and "grid g, arm y: unknown key 'lamda'" in message
    assert "/nowhere" in errors(plan_of, {"x": {}}, tmp_path, settings={"dataset": "folder:/nowhere"})


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("question: q\narms: {x: {}}\nbases: {}", ("unknown key 'bases'", "did you mean 'base'")),
        ("question: q\narms: {}", ("arms",)),
        ("question: q\narms: {x: {}}\nprimary: probe", ("'probe' is no metric", "probe_accuracy")),
        ("question: q\narms: [x]", ("arms",)),
        ("- x", ("a grid is a mapping",)),
        ("question: [", ("no valid YAML",)),
        ("question: q\narms: {x: {nu: 2020-13-45}}", ("line 2", "arms.x.nu", "date", "quote it")),
        ("question: q\narms: {x: {mu: 0}, x: {nu: 0}}", ("'x' is given twice",)),
        ("question: q\nname: other\narms: {x: {}}", ("unknown key 'name'",)),
        ("question: q\nbase: {seed: 3}\narms: {x: {}}", ("base: seed", "--seeds")),
        ("question: q\narms: {x: {seed: [1, 2]}}", ("arms.x: seed",)),
        ("question: q\nseeds: [1, 1]\narms: {x: {}}", ("seeds", "twice")),
        ("question: q\narms: {base: {mu: [1, 2]}}", ("arms.base", "base is one arm")),
        ("question: q\narms: {x: {mu: []}}", ("arms.x: mu", "empty list")),
        ("question: q\narms: {x: {mu: [1, 1]}}", ("'x/mu=1' comes about twice",)),
    ],
)
def test_a_grid_file_that_is_wrong_is_named_with_its_key(text: str, named: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    message = errors(load_grid, str(path))
    assert str(path) in message
    assert all(part in message for part in named)


def test_a_grid_with_an_impossible_name(tmp_path: Path) -> None:
    (tmp_path / "anna's.yaml").write_text("question: q\narms: {x: {}}")
    assert "letters, digits" in errors(load_grid, str(tmp_path / "anna's.yaml"))


def test_keys_that_are_no_texts_are_named_not_raised(tmp_path: Path) -> None:
    assert "the key 1 is read as a number; quote it" in errors(parse_settings, ["augmentation={1: 2}"])
    assert "augmentation.1: a key must be a text" in errors(plan_of, {"x": {}}, tmp_path, settings={"augmentation": {1: 2}})
    assert "--set nu" in errors(parse_settings, ["nu=2020-13-45"])


def test_a_grid_that_is_not_there() -> None:
    assert "did you mean 'ablations'" in errors(load_grid, "ablation")
    assert "there is no such file" in errors(load_grid, "nowhere/mine.yaml")


def test_the_readmes_grid_is_sound(tmp_path: Path) -> None:
    text = (Path(__file__).parents[3] / "README.md").read_text()
    (tmp_path / "my_study.yaml").write_text(text.split("```yaml\n")[1].split("```")[0])
    grid = load_grid(str(tmp_path / "my_study.yaml"))
    plan = planner(tmp_path).plan(grid, seeds=grid.seeds)
    assert len(plan.trials) == 3 * (6 + 1), "base, two, two, one and its parent, for each of three seeds"


def test_a_dry_run_loads_neither_torch_nor_ray_nor_mlflow(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom sweeps.run import main\n"
        f"code = main(['--grid', 'ablations', '--dry-run', '--profile', 'digits-m', '--storage', {str(tmp_path / 'new')!r}])\n"
        "print(code, sorted({'torch', 'ray', 'mlflow', 'faiss', 'torchvision'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 []"
    assert "neighbors+augment" in done.stdout and "14 trials, 0 done already" in done.stdout
    assert not (tmp_path / "new").exists(), "nothing is written"


def test_a_further_anomaly_set_extends_a_sweep_and_another_headline_makes_one(tmp_path: Path) -> None:
    grid = Grid(name="g", question="q", arms={"z": {"mu": 0}})

    def sweep(*sets: str) -> str:
        return planner(tmp_path, settings={"anomaly_datasets": list(sets)}).plan(grid, seeds=(0,)).sweep_id

    assert sweep("digits-m-black") == sweep("digits-m-black", "digits-m-patches") != sweep("digits-m-patches")


@pytest.mark.parametrize(("content", "named"), [
    ({"claims": ["probe_accuracy: base > neighbour"]}, "claims: 'probe_accuracy: base > neighbour': 'neighbour' is no arm"),
    ({"claims": [{"sourc": "x", "claim": "nmi: base > z"}]}, "claims.0.sourc"),
    ({"claims": [3]}, "claims.0.claim"),
    ({"published": {"A": {"values": {"y": {"nmi": 0.1}}}}}, "published.A: 'y' is no arm"),
    ({"published": {"A": {"values": {"z": {"nmii": 0.1}}}}}, "'nmii' is no metric (did you mean 'nmi'?)"),
    ({"published": {"A": {"values": {"z": {"nmi/mnist": 0.1}}}}}, "'nmi/mnist' is no metric"),
    ({"published": {"A": {"values": {"z": {"nmi": float("nan")}}}}}, "published.A.values.z.nmi"),
    ({"published": {"A": {"setting": {"dataste": "x"}, "values": {}}}}, "'dataste' is no field (did you mean 'dataset'?)"),
])  # fmt: skip
def test_claims_and_published_figures_are_checked(content: dict[str, object], named: str, tmp_path: Path) -> None:
    path = tmp_path / "g.yaml"
    path.write_text(yaml.safe_dump({"question": "q", "arms": {"z": {"mu": 0}}, **content}))
    with pytest.raises(InputError) as error:
        load_grid(str(path))
    assert named in str(error.value)


def test_a_claim_without_quotation_marks_is_understood(tmp_path: Path) -> None:
    path = tmp_path / "g.yaml"
    path.write_text("question: q\narms: {z: {mu: 0}}\nclaims:\n  - nmi: base > z\n  - claim: 'ari: base > z'\n    source: A\n")
    assert [(c.claim, c.source) for c in load_grid(str(path)).claims] == [("nmi: base > z", ""), ("ari: base > z", "A")]


def test_further_plans_of_a_command_go_with_the_images_that_it_has_loaded(tmp_path: Path) -> None:
    images = image_folder(tmp_path / "images", train=20, test=10)
    one = planner(tmp_path / "data", settings={"dataset": f"folder:{images}", "anomaly_datasets": []})
    grid = Grid(name="g", question="q", arms={"x": {"mu": 1}})
    before = one.plan(grid, seeds=[0])
    (images / "train" / "a" / "0.png").unlink()
    assert one.plan(grid, seeds=[0]).trials.keys() == before.trials.keys()
    other = planner(tmp_path / "data", settings={"dataset": f"folder:{images}", "anomaly_datasets": []})
    assert not other.plan(grid, seeds=[0]).trials.keys() & before.trials.keys()
