"""What each part contributes: the report's section, the CSV file and the table for the terminal."""

from __future__ import annotations

import csv
import re
from dataclasses import replace
from pathlib import Path

import pytest

from sweeps.analysis.arm_summary import summarize
from sweeps.analysis.shapley import of_sweep
from sweeps.planning.trial import Plan
from sweeps.reporting import tables, terminal_tables
from sweeps.reporting.factorial_section import factorial_section
from sweeps.reporting.report_input import ReportInput
from sweeps.storage.records import TrialRecord, TrialStatus
from tests.sweeps.analysis.test_shapley import hand, plan_of, records_of
from tests.sweeps.tiny import page_of, snapshot, tiny_plan


def sweep_of(tmp_path: Path, seeds: int = 3, *, failed: tuple[str, int] | None = None) -> ReportInput:
    plan = plan_of(tmp_path, seeds)

    def values(arm: str, seed: int) -> dict[str, float] | None:
        value = hand(arm, seed)["probe_accuracy"] / 100
        return None if (arm, seed) == failed else {"probe_accuracy": value, "anomaly_auc": -value, "silhouette": value}

    return input_of(tmp_path, plan, records_of(plan, values))


def input_of(tmp_path: Path, plan: Plan, records: list[TrialRecord]) -> ReportInput:
    found = of_sweep(plan, summarize(records))
    return ReportInput(plan, records, snapshot(tmp_path), "p", "c", None, (), decompositions=found)


def section_of(page: str) -> str:
    found = re.search(r'<section id="contributions">.*?</section>', page, re.DOTALL)
    assert found is not None
    return found[0]


def test_the_page_says_what_each_part_contributes(tmp_path: Path) -> None:
    page = page_of(sweep_of(tmp_path), None)
    text = section_of(page)
    # By hand in tests/sweeps/analysis/test_shapley.py, in hundredths; a gains 1 in the mean of the seeds 0, 1, 2.
    assert '<td>a</td><td class="text">lambda 0</td><td>+0.1467 (+0.1218 to +0.1715)</td><td>+0.2700 (' in text
    assert '<td>b</td><td class="text">mu 0</td><td>+0.2267</td><td>+0.3600</td><td>+0.1000</td>' in text
    assert "base minus none: +0.4300 (" in text and "<td>+0.4300</td><td>+0.7500</td><td>+0.1300</td>" in text
    assert "<td>a and b</td><td>+0.1900</td>" in text
    assert "<td>anomaly_auc</td><td>higher</td><td>3</td><td>-0.1467 (-0.1715 to -0.1218)</td>" in text
    assert "none (the untrained encoder)" in text and "no verdict is drawn from them" in text and text.count("<img") == 1
    assert "provisional" not in text and "left out, because" not in text and 'href="#contributions"' in page


def test_what_is_missing_or_provisional_is_said(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, failed=("b", 1))
    text = section_of(page_of(replace(sweep, provisional=True), None))
    assert "probe accuracy (provisional)" in text and "these values and intervals are provisional" in text
    assert "has no value: 1 (no result of b)." in text and "n = 2 seeds" in text and "<td>+0.2267</td>" in text
    one = section_of(page_of(sweep_of(tmp_path, 1), None))
    assert "With one seed there are no intervals" in one and "<td>+0.1367</td>" in one
    nothing = section_of(page_of(sweep_of(tmp_path, 1, failed=("none", 0)), None))
    assert "No seed has a result for every combination" in nothing and "0 (no result of none)" in nothing
    assert "<table" not in nothing and "<img" not in nothing


def test_a_grid_without_switches_has_no_section(tmp_path: Path) -> None:
    plan = tiny_plan(tmp_path, {"z": {"mu": 0}})
    sweep = input_of(tmp_path, plan, [TrialRecord(t, TrialStatus.PENDING) for t in plan.trials.values()])
    assert factorial_section(sweep) is None and "contributions" not in page_of(sweep, None)


def test_a_figure_that_cannot_be_drawn_does_not_take_the_page_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise KeyError("oh")

    monkeypatch.setattr("sweeps.reporting.factorial_figures.contributions", broken)
    text = section_of(page_of(sweep_of(tmp_path), None))
    assert "what each part contributes: not drawn, KeyError" in text and "+0.1467" in text


def test_contributions_are_written_as_csv(tmp_path: Path) -> None:
    found = sweep_of(tmp_path, failed=("b", 1)).decompositions
    path = tables.write_contributions(tmp_path / "contributions.csv", found)
    rows = list(csv.DictReader(path.open()))
    assert len(rows) == 3 * (3 * 3 + 3 + 1), "three metrics; three numbers of three parts, three pairs, and the total"
    by_name = {(row["metric"], row["quantity"], row["of"]): row for row in rows}
    a = by_name["probe_accuracy", "shapley", "a"]
    assert float(a["value"]) == pytest.approx(0.82 / 6 + 0.01) and a["n"] == "2" and a["missing"] == "1"
    assert re.fullmatch(r"0: 0\.13\d+; 2: 0\.15\d+", a["seeds"]) and " to " in a["interval"]
    assert float(by_name["probe_accuracy", "interaction", "a & b"]["value"]) == pytest.approx(0.19)
    assert float(by_name["silhouette", "total", "all"]["value"]) == pytest.approx(0.43)
    empty = sweep_of(tmp_path, 1, failed=("none", 0)).decompositions
    (row,) = csv.DictReader(tables.write_contributions(tmp_path / "contributions.csv", empty).open())
    assert (row["quantity"], row["n"], row["value"], row["missing"]) == ("no result", "0", "", "0")


def test_the_terminals_table_has_parts_and_sums(tmp_path: Path) -> None:
    found = sweep_of(tmp_path, failed=("b", 1)).decompositions[0]
    columns = {column.name: column.cells for column in terminal_tables.contributions_columns(found)}
    assert columns["part"] == ["a", "b", "c", "sum"] and columns["Shapley value"] == [
        "+0.1467",
        "+0.2267",
        "+0.0567",
        "+0.4300",
    ]
    assert columns["left out"][-1] == "+0.7500" and columns["alone"][-1] == "+0.1300"
    title = terminal_tables.contributions_title(found, provisional=True)
    assert title.startswith("provisional: ") and "n = 2 (without seed 1)" in title
