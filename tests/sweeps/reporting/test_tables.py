"""The tables at the end."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest
from rich.console import Console

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
    console = Console(record=True, width=160, file=(tmp_path / "log").open("w"))
    console.print(tables.table(plan, tables.summarize(records), {"z": "undecided"}))
    assert "0.3000 ± 0.2646" in console.export_text()
