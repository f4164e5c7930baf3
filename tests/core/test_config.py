"""TrialConfig: faults are named, all at once; keys hold what matters and nothing else."""

from __future__ import annotations

import pytest

from core.config import PROFILES, TrialConfig, keys_at_epochs, make_config, resolve_precision, trial_key
from core.errors import InputError
from tests.conftest import tiny_config

IDS = {"digits-m": "digits-m-1", "cifar10": "cifar10-x"}


def key(config: TrialConfig) -> str:
    return trial_key(config, IDS)


def errors(**fields: object) -> tuple[str, ...]:
    with pytest.raises(InputError) as error:
        make_config(fields, "arm x")
    return error.value.errors


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"lamda": 1}, ("lamda", "did you mean 'lambda'", "mu")),
        ({"mu": -1}, ("mu", "-1")),
        ({"mu": float("nan")}, ("mu", "nan")),
        ({"mu": "many"}, ("mu", "'many'")),
        ({"epochs": 0}, ("epochs", "0")),
        ({"epochs": 1.5}, ("epochs", "1.5")),
        ({"batch_size": 1}, ("batch_size", "1")),
        ({"epsilon": 0}, ("epsilon", "0")),
        ({"pairing": "neighbours"}, ("pairing", "'neighbours'", "pixel-neighbors")),
        ({"encoder": "resnet50"}, ("encoder", "'resnet50'", "resnet18, small")),
        ({"dataset": "cifar"}, ("dataset", "'cifar'", "folder:PATH")),
        ({"dataset": "digits-m-patches"}, ("dataset", "digits-m-patches")),
        ({"anomaly_datasets": ["minst"]}, ("anomaly_datasets", "'minst'", "digits-m-patches")),
        ({"anomaly_datasets": ["mnist", "mnist"]}, ("anomaly_datasets", "twice")),
        ({"augmentation": {"crops": 1}}, ("augmentation.crops", "did you mean 'crop'")),
        ({"augmentation": {"crop": [1.0, 0.2]}}, ("crop", "no range")),
        ({"augmentation": {"flip": 2}}, ("augmentation.flip", "2")),
        ({"augmentation": {"hue": 0.7}}, ("augmentation.hue", "0.7")),
        ({"pair_purity": 1.1}, ("pair_purity", "1.1")),
        ({"schedule": "cosine", "warmup_epochs": 30}, ("warmup_epochs", "30")),
        ({"method": "simclr"}, ("method", "'simclr'", "vicreg")),
        ({"projector_dims": [0]}, ("projector_dims.0", "0")),
    ],
    ids=str,
)
def test_a_fault_is_named_with_its_value_and_the_choices(fields: dict[str, object], named: tuple[str, ...]) -> None:
    found = errors(**fields)
    assert len(found) == 1 and found[0].startswith("arm x: ")
    for text in named:
        assert text in found[0]


def test_all_faults_are_reported_at_once() -> None:
    assert len(errors(mu=-1, epochs=0, lamda=3, augmentation={"flip": 2})) == 4
    assert len(errors(pairing="x", encoder="y", dataset="z")) == 3


def test_configs_are_frozen() -> None:
    with pytest.raises(Exception, match="frozen"):
        tiny_config().mu = 3  # type: ignore[misc]


def test_fields_carry_their_public_names() -> None:
    fields = tiny_config(**{"lambda": 3.0}).fields()
    assert fields["lambda"] == 3.0 and "lambda_" not in fields
    assert make_config(fields) == tiny_config(**{"lambda": 3.0})


def test_the_text_of_a_number_is_a_number() -> None:
    assert make_config({"learning_rate": "3e-4"}).learning_rate == 3e-4  # YAML 1.1 reads 3e-4 as a text


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"mu": True}, "mu: a number is needed, not true"),
        ({"epochs": True}, "epochs: a number is needed, not true"),
        ({"epochs": "3"}, "epochs: a number is needed, not '3'"),
        ({"joint_forward": 1}, "joint_forward: true or false is needed, not 1"),
        ({"joint_forward": "off"}, "joint_forward: true or false is needed, not 'off'"),
        ({"epochs": 10_001}, "epochs: it must be at most 10,000, not 10001"),
        ({"epochs": 10**400}, "epochs: a smaller number is needed"),
        ({"mu": 1e10}, "mu: it must be at most 1,000,000,000"),
        ({"seed": 2**32}, "seed: it must be at most 4,294,967,295"),
        ({"projector_dims": 8}, "projector_dims: a list is needed, e.g. [512, 512, 512], not 8"),
        ({"projector_dims": [True]}, "projector_dims.0: a number is needed, not true"),
        ({"augmentation": {"crop": [1]}}, "augmentation.crop: a list is needed, e.g. [0.2, 1.0], not [1]"),
        ({"augmentation": 3}, "augmentation: a mapping is needed, e.g. {key: value}, not 3"),
        ({"optimizer": "lion"}, "optimizer: choose from adam, adamw, sgd, not 'lion'"),
        ({"dataset": None}, "dataset: a text is needed, not null"),
        ({"dataset": "folder:/" + "x" * 256}, "more than 255 bytes"),
        ({1: 2}, "1: a key must be a text"),
    ],
    ids=str,
)
def test_nothing_is_silently_taken_for_something_else(fields: dict[str, object], named: str) -> None:
    with pytest.raises(InputError) as error:
        make_config(fields)
    assert len(error.value.errors) == 1 and named in str(error.value)


def test_whole_numbers_may_have_a_point_or_an_exponent() -> None:
    config = make_config({"epochs": 2.0, "train_subset": "5e3", "joint_forward": True})
    assert (config.epochs, config.train_subset) == (2, 5000) and type(config.epochs) is int
    assert key(tiny_config(epochs=2.0)) == key(tiny_config(epochs=2))


def test_keys_of_other_epochs_are_those_of_such_configs() -> None:
    for config in (tiny_config(epochs=9), tiny_config(epochs=9, pairing="neighbors", parent=tiny_config(mu=1).fields())):
        expected = [(n, key(config.replace(epochs=n))) for n in (8, 3, 1)]
        assert keys_at_epochs(config, IDS, (8, 3, 1)) == expected


@pytest.mark.parametrize("profile", PROFILES)
def test_profiles_are_sound(profile: str) -> None:
    config = make_config(PROFILES[profile])
    assert (config.augmentation.flip == 0) == (profile == "digits-m")


CHANGES = {
    "mu": 3, "lambda": 3, "nu": 3, "gamma": 2, "epsilon": 1e-3, "pairing": "random", "encoder": "resnet18",
    "representation_dim": 9, "projector_dims": [8], "dataset": "cifar10", "train_subset": 100, "split": "seed",
    "augmentation": {"hue": 0},
    "epochs": 9, "batch_size": 8, "optimizer": "sgd", "learning_rate": 1.0, "weight_decay": 1.0, "schedule": "cosine",
    "warmup_epochs": 1, "joint_forward": True, "precision": "bf16", "seed": 5, "method": "untrained",
}  # fmt: skip


@pytest.mark.parametrize("field", CHANGES)
def test_what_changes_the_outcome_changes_the_key(field: str) -> None:
    assert key(tiny_config(**{field: CHANGES[field]})) != key(tiny_config())


def test_every_field_is_either_in_the_key_or_known_not_to_matter() -> None:
    # The last three where they apply.
    kept_out = {"threads", "anomaly_datasets", "parent", "neighbors_k", "pair_purity", "graph_neighbors"}
    assert set(CHANGES) | kept_out == set(tiny_config().fields())


@pytest.mark.parametrize(
    "changes",
    [{"threads": 2}, {"anomaly_datasets": ["digits-m-black"]}, {"neighbors_k": 7}, {"pair_purity": 0.3}],
    ids=str,
)
def test_what_does_not_matter_to_training_leaves_the_key(changes: dict[str, object]) -> None:
    assert key(tiny_config(**changes)) == key(tiny_config())


def test_fields_that_do_not_apply_are_dropped() -> None:
    raw = {"method": "raw-pixels"}
    assert key(tiny_config(**raw, seed=3, mu=9, encoder="resnet18")) == key(tiny_config(**raw))
    untrained = {"method": "untrained"}
    assert key(tiny_config(**untrained, mu=9, epochs=3)) == key(tiny_config(**untrained))
    assert key(tiny_config(**untrained, seed=3)) != key(tiny_config(**untrained))
    for method in ("pca", "laplacian-eigenmaps"):
        assert key(tiny_config(method=method, seed=3, encoder="resnet18", epochs=9)) == key(tiny_config(method=method))
        assert key(tiny_config(method=method, representation_dim=9)) != key(tiny_config(method=method))
    assert key(tiny_config(method="laplacian-eigenmaps", graph_neighbors=9)) != key(tiny_config(method="laplacian-eigenmaps"))
    supervised = {"method": "supervised"}
    assert key(tiny_config(**supervised, mu=9, pairing="random", projector_dims=[4])) == key(tiny_config(**supervised))
    assert key(tiny_config(**supervised, augmentation={"hue": 0})) != key(tiny_config(**supervised))
    assert key(tiny_config(**supervised, seed=3)) != key(tiny_config(**supervised))
    pixel = {"pairing": "pixel-neighbors"}
    assert key(tiny_config(**pixel, augmentation={"hue": 0})) == key(tiny_config(**pixel)), "neither view is augmented"
    assert key(tiny_config(**pixel, neighbors_k=7)) != key(tiny_config(**pixel))


def test_one_outcome_has_one_key() -> None:
    assert key(tiny_config(mu=-0.0)) == key(tiny_config(mu=0))
    assert key(tiny_config(augmentation={"hue": -0.0})) == key(tiny_config(augmentation={"hue": 0}))
    no_crop = [tiny_config(augmentation={"crop": None, "crop_ratio": ratio}) for ratio in ([0.5, 2], [0.9, 1.1])]
    assert key(no_crop[0]) == key(no_crop[1])
    no_jitter = [tiny_config(augmentation={"jitter": 0, "hue": hue}) for hue in (0, 0.4)]
    assert key(no_jitter[0]) == key(no_jitter[1])
    assert tiny_config(dataset="folder:/a//b/./c/") == tiny_config(dataset="folder:/a/b/c")


def test_the_parents_outcome_and_the_data_are_part_of_the_key() -> None:
    def child(**parent: object) -> TrialConfig:
        return tiny_config(pairing="neighbors", parent=tiny_config(**parent).fields())

    assert key(child(mu=1)) != key(child(mu=2))
    assert key(child(threads=1)) == key(child(threads=2))
    assert trial_key(tiny_config(), {"digits-m": "other"}) != key(tiny_config())


def test_precision_is_resolved_by_what_pays() -> None:
    amx = frozenset({"amx_bf16"})
    small, resnet = tiny_config(precision="auto"), tiny_config(precision="auto", encoder="resnet18")
    assert resolve_precision(small, gpu=False, cpu_flags=amx).precision == "fp32"
    assert resolve_precision(resnet, gpu=False, cpu_flags=amx).precision == "bf16"
    assert resolve_precision(resnet, gpu=False, cpu_flags=frozenset()).precision == "fp32"
    assert resolve_precision(small, gpu=True, cpu_flags=frozenset()).precision == "bf16"
    child = tiny_config(precision="fp32", pairing="neighbors", parent=resnet.fields())
    resolved = resolve_precision(child, gpu=True, cpu_flags=frozenset())
    assert resolved.precision == "fp32" and resolved.parent is not None and resolved.parent.precision == "bf16"
