"""Names for MLflow: legal ones, and no two arms' as one."""

from __future__ import annotations

from mlflow.utils.validation import MAX_ENTITY_KEY_LENGTH, _validate_metric_name, _validate_tag_name

from sweeps.planning.arm_names import folded
from sweeps.tracking import view
from sweeps.tracking.names import LONGEST, legal_name, shortened

ODD = ["a|b", "a_b", "a?b", "a//b", "a/b", "a/./b", "/a/b", "a/b/", "..", "../a", "a/../b", ".", "", " ", "a\nb", "a\n",
       "e\u0301", "é", "x" * 300, "x" * 301, "\ud800", "=1+1", "a'b", 'a"b', "a%b", "a;b"]  # fmt: skip


def test_every_name_is_one_that_mlflow_takes_and_those_that_the_planner_keeps_apart_stay_different() -> None:
    made = [legal_name(name) for name in ODD]
    for name in made:
        _validate_metric_name(name)
        _validate_tag_name(view.view_tag(name))
    apart = {folded(name): legal for name, legal in zip(ODD, made, strict=True)}
    assert len(set(apart.values())) == len(apart) > 10 and max(map(len, made)) <= LONGEST == MAX_ENTITY_KEY_LENGTH
    assert legal_name("neighbors+augment/n") == "neighbors_augment/n" and legal_name("x/epochs=30") == "x/epochs_30"


def test_names_that_are_legal_stay_as_they_are() -> None:
    for name in (
        "train/loss",
        "no-crop/probe_accuracy",
        "anomaly_auc/folder:/data/birds",
        "moved_by_hue",
        "v1..2",
    ):
        assert legal_name(name) == name
    assert shortened("short") == "short" and len(shortened("x" * 600, 500)) == 500


def test_a_sweep_with_a_quote_in_its_name_can_be_searched_for() -> None:
    assert "tags.sweep LIKE 'it_s-1'" in view.view("it's-1", ["probe_accuracy"], 0)
    assert "%27" not in view.view_path("1", "tiny-1") and "tiny-1" in view.view_path("1", "tiny-1")
