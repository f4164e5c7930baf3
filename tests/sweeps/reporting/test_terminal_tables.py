"""Tables for the terminal: whole numbers and verdicts at every width, and the name of everything that is left out."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest

from sweeps.analysis.arm_summary import summarize
from sweeps.reporting import terminal_tables
from sweeps.reporting.tables import columns_of
from sweeps.reporting.terminal_tables import TextColumn
from sweeps.storage.records import TrialRecord, TrialStatus
from sweeps.terminal import SafeConsole
from tests.sweeps.tiny import tiny_plan

VALUES = {"base": 0.1234, "z": 0.5678, "a-rather-long-name/mu=0.04": 0.9}
VERDICTS = {"z": "equivalent", "a-rather-long-name/mu=0.04": "undecided"}


def shown(columns: list[TextColumn], width: int, encoding: str = "utf-8") -> str:
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    terminal_tables.show(SafeConsole(file=out, width=width, markup=False, emoji=False), "title", columns, "the/table.csv")
    out.seek(0)
    return out.read()


def results(tmp_path: Path, *, lost: bool = False) -> list[TextColumn]:
    plan = tiny_plan(tmp_path, {name: {"mu": i} for i, name in enumerate(VALUES) if name != "base"}, seeds=(0, 1))
    records = []
    for trial in plan.trials.values():
        metrics = dict.fromkeys(columns_of(plan), VALUES[trial.arm] + 0.02 * trial.config.seed)
        if lost and trial.arm == "z":
            records.append(TrialRecord(trial, TrialStatus.FAILED, None, {}, reason="it broke: the loss is not finite"))
        else:
            records.append(TrialRecord(trial, TrialStatus.DONE, None, metrics))
    return terminal_tables.results_columns(plan, summarize(records), VERDICTS)


@pytest.mark.parametrize("lost", [False, True], ids=["all", "one failed"])
@pytest.mark.parametrize("width", [160, 120, 80, 60, 40])
def test_numbers_and_verdicts_are_whole_and_what_is_left_out_is_named(width: int, lost: bool, tmp_path: Path) -> None:
    said = shown(results(tmp_path, lost=lost), width)
    assert "…" not in said
    table = [line for line in said.splitlines() if not line.startswith("not shown")]
    assert max(map(len, table)) <= width
    left_out = re.findall(r"^not shown: (.*): see the/table.csv$", said, re.MULTILINE)
    names = ["arm", "n", "probe_accuracy", "anomaly_auc", "silhouette", "probe_accuracy_study", "projection_std",
             "collapse_indicators", "verdict"]  # fmt: skip
    hidden = left_out[0].split(", ") if left_out else []
    assert not {"arm", "n", "probe_accuracy", "verdict"} & set(hidden) and set(hidden) <= set(names)
    assert bool(hidden) == (width <= 80) or width == 120
    body = "\n".join(table)
    metrics = len(names) - 3 - len(hidden)
    assert body.count("0.1334") == metrics and body.count("± 0.0141") == metrics * (2 if lost else 3)
    assert "undecided" in body and "equivalent" in body
    if width >= 80:
        assert "a-rather-long-name/mu=0.04" in body


def test_a_table_that_fits_is_as_it_was(tmp_path: Path) -> None:
    columns = [TextColumn("arm", "arm", ["base"], needed=True, kind="name"), TextColumn("n", "n", ["3 ± 1"], right=True)]
    assert shown(columns, 160) == (
        "title           \n┏━━━━━━┳━━━━━━━┓\n┃ arm  ┃     n ┃\n┡━━━━━━╇━━━━━━━┩\n│ base │ 3 ± 1 │\n└──────┴───────┘\n"
    )


def test_where_the_console_lacks_characters_columns_stay_in_line(tmp_path: Path) -> None:
    lines = shown(results(tmp_path), 160, "ascii").splitlines()
    assert "+- 0.0141" in "\n".join(lines) and len({len(line) for line in lines[1:]}) == 1


def test_what_would_command_the_terminal_is_shown() -> None:
    said = shown([TextColumn("arm", "arm", ["\x1b[31mred", "x"], needed=True, kind="name")], 80)
    assert "│ \\x1b[31mred │\n│ x           │" in said


@pytest.mark.parametrize("verbose", [False, True])
def test_of_a_long_table_the_first_rows_are_printed_unless_all_are_asked_for(verbose: bool) -> None:
    names = [f"arm-{i}" for i in range(terminal_tables.MAX_ROWS + 3)]
    out = io.StringIO()
    columns = [TextColumn("arm", "arm", names, needed=True, kind="name")]
    terminal_tables.show(SafeConsole(file=out, width=80), "title", columns, verbose=verbose)
    assert re.findall(r"arm-\d+", out.getvalue()) == (names if verbose else names[: terminal_tables.MAX_ROWS])
    assert ("3 more rows: --verbose shows them" in out.getvalue()) != verbose
