"""The report: what it shows, that it needs no network, and when it is written again."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sweeps.execution.figure_tasks import draw_figures
from sweeps.execution.worker import run_trial
from sweeps.reporting import html_report, report_figures, tables
from sweeps.reporting.arm_figures import Arm
from sweeps.reporting.report_input import ReportInput
from sweeps.reporting.report_text import markdown, methods
from sweeps.storage.checked_folder import CHECKSUMS
from sweeps.storage.image_sets import Images
from sweeps.storage.snapshot import StoreSnapshot
from sweeps.storage.trial_store import TrialStore
from tests.sweeps.tiny import arm, page_of, record_of, snapshot, tiny_plan


def test_the_page_is_one_file_that_needs_nothing_else(tmp_path: Path, images: Images) -> None:
    plan, store = tiny_plan(tmp_path, {"<b>z</b>": {"mu": 0}, "open": {"nu": 0}, "broken": {"lambda": 0}}), TrialStore(tmp_path)
    for name in ("base", "<b>z</b>"):
        run_trial(arm(plan, name), images, tmp_path)
        draw_figures(arm(plan, name), images, tmp_path)
    store.save_failure(arm(plan, "broken").key, "it broke <badly>")
    records = [record_of(store, trial) for trial in plan.trials.values()]
    sweep = ReportInput(plan, records, StoreSnapshot(store), "profile digits-m", "python sweeps/run.py --grid x", "abc123", ())
    text = page_of(sweep, images)
    assert "<b>z</b>" not in text and "&lt;b&gt;z&lt;/b&gt;" in text and "it broke &lt;badly&gt;" in text
    assert "http" not in text.replace("http-equiv", "") and ' src="data:' in text and "@import" not in text
    for said in ("does it work?", "With one seed nothing is claimed", "Methods, ready to paste", "digits-m (digits-m-1)",
                 "abc123", "80 train images", "python sweeps/run.py --grid x", "The grid states none"):  # fmt: skip
        assert said in text, said
    without = page_of(sweep, None)
    assert "could not be loaded" in without and without.count("<img") < text.count("<img")


def test_the_page_is_written_again_only_when_it_says_something_else(
    tmp_path: Path, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, store = tiny_plan(tmp_path, {"z": {"mu": 0}}), TrialStore(tmp_path)
    monkeypatch.setattr("sweeps.reporting.html_report.load_images", lambda *_: images)
    path = tmp_path / "report.html"
    run_trial(arm(plan, "base"), images, tmp_path)

    def write() -> int:
        records = [record_of(store, trial) for trial in plan.trials.values()]
        html_report.write_report(path, ReportInput(plan, records, StoreSnapshot(store), "p", "c", None, ()), tmp_path)
        return path.stat().st_mtime_ns

    first = write()
    assert write() == first
    run_trial(arm(plan, "z"), images, tmp_path)
    assert write() != first


@pytest.mark.parametrize("known", [True, False], ids=["with its checksum", "of before there were checksums"])
def test_a_damaged_page_is_written_again(known: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, store, path = tiny_plan(tmp_path, {}), TrialStore(tmp_path), tmp_path / "report.html"
    monkeypatch.setattr(html_report, "build_content", lambda *_: argparse.Namespace())
    monkeypatch.setattr(html_report, "render", lambda *_: "the page")
    sweep = ReportInput(plan, [record_of(store, arm(plan, "base"))], StoreSnapshot(store), "p", "c", None, ())
    whole = html_report.write_report(path, sweep, tmp_path).read_bytes()
    if not known:
        (tmp_path / CHECKSUMS).unlink()
    path.write_bytes(b"\xff, which is no UTF-8" + whole)
    assert html_report.write_report(path, sweep, tmp_path).read_bytes() == whole


def test_the_latex_table_escapes_what_latex_would_read(tmp_path: Path, images: Images) -> None:
    plan = tiny_plan(tmp_path, {"50%_a&b": {"mu": 0}}, seeds=(0, 1))
    for trial in plan.trials.values():
        run_trial(trial, images, tmp_path)
    records = [record_of(TrialStore(tmp_path), trial) for trial in plan.trials.values()]
    path = next(p for p in tables.write_tables(tmp_path, plan, records) if p.suffix == ".tex")
    text = path.read_text()
    assert r"50\%\_a\&b & 2 &" in text and r"$\pm$" in text and text.count(r"\\") == 3
    assert text.count("&") - text.count(r"\&") == 3 * (len(tables.COLUMNS) + 1)


def test_one_figure_that_cannot_be_drawn_does_not_take_the_page_with_it(
    tmp_path: Path, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, store = tiny_plan(tmp_path, {"$z": {"mu": 0}}), TrialStore(tmp_path)
    for trial in plan.trials.values():
        run_trial(trial, images, tmp_path)
    records = [record_of(store, trial) for trial in plan.trials.values()]
    sweep = ReportInput(plan, records, StoreSnapshot(store), "p", "c", None, ())
    whole = page_of(sweep, images)
    assert "not drawn" not in whole

    def broken(*_: Any) -> None:
        raise KeyError("oh")

    monkeypatch.setattr("sweeps.reporting.arm_figures.invariances", broken)
    text = page_of(sweep, images)
    assert "invariances by arm: not drawn, KeyError" in text and text.count("<img") == whole.count("<img") - 1


def test_of_too_many_arms_base_and_the_best_are_shown_side_by_side() -> None:
    most = report_figures._SIDE_BY_SIDE
    few = [Arm(f"arm {i}", {"probe_accuracy": [i / most]}, (), {}, baseline=False, collapsed=False) for i in range(most - 1)]
    base = Arm("base", {}, (), {}, baseline=False, collapsed=False)
    assert report_figures._side_by_side([*few, base], "probe_accuracy") == [*few, base]
    shown = report_figures._side_by_side([*few, base, replace(few[-1], name="late")], "probe_accuracy")
    assert len(shown) == most and shown[-2:] == [base, replace(few[-1], name="late")], "in their order"
    assert [arm.name for arm in few if arm not in shown] == ["arm 0"], "the worst is left out"


@pytest.mark.parametrize(("base", "said", "unsaid"), [
    ({}, "with VICReg (Bardes", "The base arm is"),
    ({"method": "supervised"}, "The base arm is the same encoder trained with the labels", "with VICReg (Bardes"),
    ({"method": "pca"}, "The base arm is principal components", "with VICReg (Bardes"),
    ({"pairing": "pixel-neighbors"}, "views: the images as they are", "views: crop"),
])  # fmt: skip
def test_the_methods_describe_the_base_that_there_is(
    base: dict[str, Any], said: str, unsaid: str, tmp_path: Path, images: Images
) -> None:
    plan = tiny_plan(tmp_path, {"base": base, "other": {"method": "untrained"}})
    records = [record_of(TrialStore(tmp_path), trial) for trial in plan.trials.values()]
    text = methods(ReportInput(plan, records, snapshot(tmp_path), "p", "c", None, ()), images)
    assert said in text and unsaid not in text and "80 train images" in text


def test_the_primary_metric_leads_the_tables(tmp_path: Path, images: Images) -> None:
    plan, store = tiny_plan(tmp_path, {"z": {"mu": 0}}), TrialStore(tmp_path)
    plan = replace(plan, grid=plan.grid.model_copy(update={"primary": "nmi", "question": "one\ntwo | <three>"}))
    run_trial(arm(plan, "base"), images, tmp_path)
    records = [record_of(store, trial) for trial in plan.trials.values()]
    assert tables.columns_of(plan)[0] == "nmi" and "base/nmi" in tables.parent_metrics(plan, records)
    text = tables.latex(plan, tables.summarize(records))
    assert all(line.startswith(("%", "\\")) or "&" in line for line in text.splitlines())
    said = markdown(ReportInput(plan, records, StoreSnapshot(store), "p", "c", None, ()))
    assert said.startswith(r"**one two \| \<three\>**") and "| arm | n | nmi |" in said
    many = {f"arm-{i}": {"mu": 1 + i} for i in range(60)}
    plan = tiny_plan(tmp_path, many)
    said = markdown(
        ReportInput(plan, [record_of(store, trial) for trial in plan.trials.values()], StoreSnapshot(store), "p", "c", None, ())
    )
    assert said.count("\n| arm-") == 39 and "The other 21 arms are in `table.csv`." in said, (
        "MLflow cuts notes at 8,000 characters"
    )
