"""The YAML reader: values, lines, merge keys, and limits. What is refused is in the corpus of bad input."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from core.errors import InputError
from sweeps.planning.arms import parse_settings
from sweeps.planning.grid_file import GRIDS, list_grids, load_grid
from sweeps.planning.yaml_reader import NotReadableError, read_yaml


@pytest.mark.parametrize("name", list_grids())
def test_grids_are_read_as_pyyaml_reads_them(name: str) -> None:
    text = (GRIDS / f"{name}.yaml").read_text()
    document = read_yaml(text)
    assert document.value == yaml.safe_load(text) and not document.errors


@pytest.mark.parametrize(("text", "value"), [
    ("1e-3", "1e-3"), ("1.0e-3", 0.001), ("0x10", 16), ("1_000", 1000), ("-0", 0), (".5", 0.5), ("~", None), ("", None),
    ("true", True), ("False", False), ("'off'", "off"), ("'010'", "010"), ("y", "y"), ("0o10", "0o10"), ("!!str 3", "3"),
    ("-.inf", -math.inf), ("a b", "a b"), ("|\n  a\n  b\n", "a\nb\n"), ("[a, {b: 1}]", ["a", {"b": 1}]),
])  # fmt: skip
def test_values(text: str, value: Any) -> None:
    document = read_yaml(text)
    assert document.value == value and type(document.value) is type(value) and not document.errors


def test_on_and_off_mean_true_and_false_where_nothing_else_is_possible() -> None:
    assert read_yaml("{joint_forward: [on, off], log: yes}").value == {"joint_forward": [True, False], "log": True}
    assert read_yaml("off", ("joint_forward",)).value is False
    assert list(read_yaml("off", ("pairing",)).errors) == [()]


def test_merge_keys_are_merged_and_own_keys_win() -> None:
    document = read_yaml("a: &a {mu: 1, nu: 2}\nb: &b {mu: 3}\nc: {<<: [*a, *b], nu: 4}\nd:\n  <<: *b\n")
    assert document.value["c"] == {"mu": 1, "nu": 4}, "of several mappings the first counts, as YAML says"
    assert document.value["d"] == {"mu": 3} and not document.errors


def test_of_merged_keys_those_that_count_have_lines_and_errors() -> None:
    document = read_yaml("a: &a\n  mu: 3:4\n  nu: 3:4\nb:\n  mu: 1\n  gamma: 2\n  <<: [*a, {nu: 5, epsilon: 6}]\n")
    assert document.value["b"] == {"nu": "3:4", "epsilon": 6, "mu": 1, "gamma": 2}
    assert set(document.errors) == {("a", "mu"), ("a", "nu"), ("b", "nu")}
    assert [document.line(("b", key)) for key in ("mu", "nu", "gamma", "epsilon")] == [5, 3, 6, 7]


def test_everything_has_a_line() -> None:
    document = read_yaml("a:\n  b: 1\n  c:\n    - x\n    - {d: 2}\n")
    assert [document.line(place) for place in (("a",), ("a", "b"), ("a", "c", 0), ("a", "c", 1, "d"), ("a", "nowhere"))] == [
        1, 2, 4, 5, 1,
    ]  # fmt: skip


def test_windows_and_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "g.yaml"
    path.write_bytes("\ufeffquestion: Größe?\r\narms: {x: {mu: 0}}\r\n".encode())
    assert load_grid(str(path)).question == "Größe?"
    path.write_bytes(b"arms: {x: {mu: 0}}\r\nbases: {}\r\n")
    with pytest.raises(InputError, match="line 2: unknown key 'bases'"):
        load_grid(str(path))


def test_a_grid_without_a_question_is_named_after_its_file(tmp_path: Path) -> None:
    (tmp_path / "my_study.yaml").write_text("arms: {x: {mu: 0}}")
    assert load_grid(str(tmp_path / "my_study.yaml")).question == "my_study"


def test_exactly_so_deep_and_no_deeper() -> None:
    assert read_yaml("[" * 20 + "]" * 20).value is not None
    with pytest.raises(NotReadableError, match="line 1: more than 20"):
        read_yaml("[" * 21 + "]" * 21)


@pytest.mark.parametrize(("setting", "value"), [
    ("anomaly_datasets=mnist", ["mnist"]), ("anomaly_datasets=mnist,svhn", ["mnist", "svhn"]),
    ("anomaly_datasets=mnist, svhn,", ["mnist", "svhn"]), ("anomaly_datasets=[mnist, svhn]", ["mnist", "svhn"]),
    ('anomaly_datasets="folder:/a,b"', ["folder:/a,b"]), ("projector_dims=256", [256]), ("projector_dims=256,128", [256, 128]),
    ("learning_rate=1e-3", "1e-3"), ("joint_forward=off", False), ("train_subset=null", None),
    ("dataset=folder:/a=b", "folder:/a=b"),
])  # fmt: skip
def test_settings(setting: str, value: Any) -> None:
    assert parse_settings([setting]) == {setting.partition("=")[0]: value}


def test_settings_of_inner_lists() -> None:
    settings = ["augmentation.crop=0.4,1.0", "parent.projector_dims=64,64", "augmentation.blur=null"]
    assert parse_settings(settings) == {
        "augmentation": {"crop": [0.4, 1.0], "blur": None},
        "parent": {"projector_dims": [64, 64]},
    }


def test_all_settings_are_checked_at_once() -> None:
    with pytest.raises(InputError) as caught:
        parse_settings(["mu=-1", "nu=2", "lamda=3", "epochs=3:4", "mu"])
    assert len(caught.value.errors) == 4 and "nu" not in [text.split("=")[0] for text in caught.value.errors]
