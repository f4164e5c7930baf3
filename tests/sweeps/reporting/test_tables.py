"""The tables at the end."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest

from sweeps.reporting import tables
from sweeps.storage.records import TrialRecord, TrialStatus
from tests.sweeps.tiny import tiny_plan


def test_the_table_has_mean_deviation_and_n(tmp_path: Path) -> None:
    plan = tiny_plan(tmp_path, {"z": {"mu": 0}}, seeds=(0, 1, 2))
    values = {"base": [0.1, 0.2, 0.6], "z": [0.5, 0.5, None]}
    records = []
    for trial in plan.trials.values():
        value = values[trial.arm][trial.config.seed]
        metrics = {"probe_accuracy": value} if value is not None else {}
        records.append(
            TrialRecord(
                trial, TrialStatus.DONE if value else TrialStatus.FAILED, None, metrics, reason=None if value else "it broke"
            )
        )
    paths = tables.write_tables(tmp_path, plan, records)
    rows = {row["arm"]: row for row in csv.DictReader(paths[0].open())}
    assert float(rows["base"]["probe_accuracy mean"]) == pytest.approx(0.3)
    assert float(rows["base"]["probe_accuracy sd"]) == pytest.approx(math.sqrt((0.04 + 0.01 + 0.09) / 2))
    assert rows["base"]["probe_accuracy n"] == "3" and rows["z"]["probe_accuracy n"] == "2"
    assert rows["z"]["state"] == "2 done, 1 failed" and rows["z"]["silhouette mean"] == ""
    trials = list(csv.DictReader(paths[1].open()))
    assert [row["status"] for row in trials].count("failed") == 1 and len(trials) == 6


def test_no_cell_is_run_by_a_spreadsheet_and_numbers_stay_numbers(tmp_path: Path) -> None:
    names = ["=cmd|' /C calc'!A0", "+1+1", "-2+3", "@SUM(A1)", "＝1", "plain"]
    plan = tiny_plan(tmp_path, {name: {"mu": i} for i, name in enumerate(names)})
    records = [
        TrialRecord(trial, TrialStatus.DONE, None, {"probe_accuracy": -0.5}, reason="\ttab, and a name: \udcff")
        for trial in plan.trials.values()
    ]
    paths = tables.write_tables(tmp_path, plan, records)
    for path in paths[:2]:
        cells = [cell for row in csv.reader(path.open(encoding="utf-8", newline="")) for cell in row]
        assert "plain" in cells and "-0.5" in cells, "numbers are left alone"
        assert all("'" + name in cells for name in names if name != "plain")
        assert not [cell for cell in cells if cell.startswith(("=", "+", "@", "\t", "＝")) or cell.startswith("-2")]
    assert "'\ttab, and a name: \\udcff" in cells
    assert tables._csv([[-0.1, "-0.1 to 0.2", "-1e-05", "-inf", "-1+1"]]) == "-0.1,-0.1 to 0.2,-1e-05,-inf,'-1+1\n"
