"""What the simulation of verdicts counts as an error, and that it counts the errors of a test that errs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sweeps.analysis.contrasts import Contrast, ContrastVerdict, contrasts
from sweeps.analysis.significance import PAIRED_T_TEST
from tests.benchmarks.simulate_verdicts import MARGIN, METRIC, Sweeps, false_statement, once


@pytest.mark.parametrize(
    ("verdict", "shift", "false"),
    [
        ("higher", 0.0, True), ("lower", 0.0, True), ("equivalent", 0.0, False), ("undecided", 0.0, False),
        ("higher", 0.02, False), ("lower", 0.02, True), ("equivalent", 0.02, True),
        ("higher", -0.02, True), ("lower", -0.02, False), ("equivalent", MARGIN, True), ("equivalent", MARGIN / 2, False),
    ],
)  # fmt: skip
def test_what_is_a_false_statement(verdict: ContrastVerdict, shift: float, false: bool) -> None:
    assert false_statement(Contrast("a", 5, 0.1, verdict=verdict), shift) == false


def test_false_differences_are_counted() -> None:
    sweeps = Sweeps(seed=1)

    def wrong(found: list[Contrast]) -> bool:
        return any(false_statement(contrast, 0.0) for contrast in found)

    draws = [sweeps.draw([0.0] * 13, 0.02) for _ in range(60)]
    looks = [once(PAIRED_T_TEST, 5)(sweeps, values)[0] for values in draws]
    assert sum(wrong(found) for found in looks) <= 9, "about 5 % of 60 sweeps"
    uncorrected = [
        [replace(c, verdict="higher" if c.p is not None and c.p < 0.05 else "undecided") for c in found] for found in looks
    ]
    assert sum(wrong(found) for found in uncorrected) > 15, "without correction about half of them"
    assert contrasts(sweeps.summaries(draws[0], 5), METRIC, MARGIN)[0].n == 5
