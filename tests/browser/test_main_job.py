"""The main job: its results, and what people look at in Chromium: the report at two widths, MLflow's pages over its trials."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from playwright.sync_api import Page, expect

from tests.browser.launch import MISSING, PROGRAM
from tests.browser.mlflow_ui import (
    METRIC,
    PARAMS,
    children,
    open_comparison,
    open_view,
    parallel_coordinates,
    prepare,
    scatter_plot,
    server,
)
from tests.main_job import MainJob, check_main_job, run_main_job

pytestmark = pytest.mark.timeout(1500)
in_chromium = pytest.mark.skipif(PROGRAM is None, reason=MISSING)


@pytest.fixture(scope="module")
def main_job(tmp_path_factory: pytest.TempPathFactory) -> MainJob:
    """The main job with a third of its epochs."""
    return run_main_job(tmp_path_factory.mktemp("main_job"), "--set", "epochs=5")


@pytest.mark.slow
def test_the_main_job_leaves_every_arm_figure_table_and_artifact(main_job: MainJob) -> None:
    check_main_job(main_job)


@pytest.mark.nightly
@pytest.mark.timeout(2200)
def test_the_main_job_with_all_its_epochs(tmp_path: Path) -> None:
    check_main_job(run_main_job(tmp_path))


class Sweep(NamedTuple):
    """A sweep that is done, and where it is."""

    sweep_id: str
    grid: str
    storage: Path
    report: Path


@pytest.fixture(scope="module")
def sweep(main_job: MainJob) -> Sweep:
    """The main job's sweep."""
    return Sweep(main_job.sweep_folder.name, "ablations", main_job.storage, main_job.report)


@pytest.fixture(scope="module")
def mlflow(sweep: Sweep) -> Iterator[str]:
    """The address of MLflow's UI over the sweep's database."""
    with server(sweep.storage / "mlflow.db") as address:
        yield address


@pytest.mark.slow
@in_chromium
@pytest.mark.parametrize("width", [1280, 400])
def test_the_report_has_no_overflow_and_asks_for_no_other_file(sweep: Sweep, page: Page, width: int, tmp_path: Path) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("websocket", lambda socket: asked.append(socket.url))
    page.set_viewport_size({"width": width, "height": 900})
    page.goto(sweep.report.as_uri())
    details = page.locator("details")
    details.evaluate_all("all => all.forEach(one => { one.open = true; })")
    assert page.locator("details[open]").count() == details.count() > 0
    page.screenshot(path=tmp_path / "report.png", full_page=True)
    page.pdf(path=tmp_path / "report.pdf", print_background=True, prefer_css_page_size=True)
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    images = page.locator("img").evaluate_all("all => all.map(one => [one.complete && one.naturalWidth > 0, one.alt])")
    assert len(images) > 8 and all(loaded and described for loaded, described in images)
    assert [url for url in asked if not url.startswith("data:")] == [sweep.report.as_uri()]


@pytest.mark.slow
@in_chromium
def test_the_leaderboard_sorts_by_a_press_on_a_head(sweep: Sweep, page: Page) -> None:
    page.goto(sweep.report.as_uri())
    table = page.locator("table.sortable")
    head = table.get_by_role("columnheader").filter(has=page.get_by_text("probe accuracy", exact=True))
    column = head.evaluate("head => head.cellIndex")

    def after_a_press(order: str) -> list[float]:
        head.get_by_role("button").click()
        expect(head).to_have_attribute("aria-sort", order, timeout=5000)
        values = table.locator("tbody tr").evaluate_all("(rows, i) => rows.map(row => row.cells[i].dataset.value)", column)
        return [float(value) for value in values]

    down, up = after_a_press("descending"), after_a_press("ascending")
    assert down == sorted(down, reverse=True) and up == sorted(up) and down != up


@pytest.mark.slow
@in_chromium
def test_mlflow_compares_the_children_over_weights_and_probe_accuracy(
    sweep: Sweep, mlflow: str, page: Page, tmp_path: Path
) -> None:
    runs = children(mlflow, sweep.grid, sweep.sweep_id)
    prepare(page)
    open_comparison(page, mlflow, runs)
    plot = parallel_coordinates(page)
    page.screenshot(path=tmp_path / "parallel.png")
    assert [axis["title"] for axis in plot["axes"]] == [*PARAMS, METRIC] and plot["inked"] > 100
    for axis in plot["axes"]:
        held = [(run.data.metrics if axis["title"] == METRIC else run.data.params)[axis["title"]] for run in runs]
        assert axis["numeric"] and axis["values"] == [float(value) for value in held], "every child has a number on every axis"
    scatter_plot(page, METRIC, "anomaly_auc")
    page.screenshot(path=tmp_path / "scatter.png")


@pytest.mark.slow
@in_chromium
def test_mlflow_shows_the_charts_of_the_ready_view(sweep: Sweep, mlflow: str, page: Page, tmp_path: Path) -> None:
    prepare(page)
    open_view(page, mlflow, children(mlflow, sweep.grid, sweep.sweep_id)[0].info.experiment_id, sweep.sweep_id)
    for text in (sweep.sweep_id, "Parallel Coordinates"):
        expect(page.locator("body")).to_contain_text(text, use_inner_text=True)
    page.screenshot(path=tmp_path / "view.png")
