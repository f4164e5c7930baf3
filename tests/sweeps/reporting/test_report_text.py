"""Sentences of the report about the probe, and the names of anomaly sets in titles."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from core.datasets import with_nearness
from sweeps.reporting.report_text import probe_note
from tests.sweeps.analysis.test_claim_tests import records
from tests.sweeps.tiny import tiny_plan


@pytest.mark.parametrize(
    ("chosen", "text"),
    [
        ({}, ""),
        ({"base": (1e-2, 0, 1)}, "chosen on validation of 1 to 1e-10: 0.01. Every chosen fit converged."),
        ({"base": (1e-2, 0, 1), "z": (1e-6, 0, 1)}, "of 1 to 1e-10: 1e-06 to 0.01. Every chosen fit converged."),
        (
            {"base": (1e-2, 0, 1), "z": (1e-10, 1, 1)},
            "1e-10 to 0.01. It is the weakest that was fitted, so that a weaker one might be better, for z · seed 0. Every",
        ),
        ({"base": (1e-2, 0, 0), "z": (1e-6, 0, 1)}, "1e-06 to 0.01. The fit did not converge for base · seed 0."),
    ],
)
def test_the_report_says_which_penalties_the_probe_chose(
    chosen: dict[str, tuple[float, float, float]], text: str, tmp_path: Path
) -> None:
    names = ("probe_l2", "probe_at_edge", "probe_converged")
    values = {arm: {name: [value] for name, value in zip(names, found, strict=True)} for arm, found in chosen.items()}
    found = records(tiny_plan(tmp_path, {"z": {"mu": 0}}), values)
    note = probe_note(found)
    assert text in note and bool(note) == bool(text)
    assert probe_note([replace(record, metrics={}) for record in found]) == ""


def test_titles_say_which_anomalies_are_near_and_which_are_far() -> None:
    assert with_nearness("digits-m", "digits-m-patches") == "digits-m-patches (near)"
    assert with_nearness("cifar10", "cifar100") == "cifar100 (near)" and with_nearness("cifar10", "svhn") == "svhn (far)"
    assert with_nearness("folder:birds", "mnist") == "mnist", "of a folder of one's own nothing is known"
