"""What people look at, in Chromium: the report at two widths, and MLflow's pages over the children of a sweep."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from core.datasets import ImageSet, Splits
from sweeps.execution.figure_tasks import draw_figures
from sweeps.execution.worker import run_trial
from sweeps.planning.trial import Plan
from sweeps.reporting.report_input import ReportInput
from sweeps.storage.image_sets import Images
from sweeps.storage.snapshot import StoreSnapshot
from sweeps.storage.trial_store import TrialStore
from sweeps.tracking.view import view_path
from tests.browser.chromium import Browser
from tests.browser.mlflow_ui import METRIC, PARAMS, choose, open_comparison, parallel_coordinates, prepare, server
from tests.conftest import image_set
from tests.sweeps.tiny import page_of, record_of, tell, tiny_plan

CHROMIUM = next((name for name in ("chromium", "chromium-browser", "google-chrome") if shutil.which(name)), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium or google-chrome on the path"),
]
ARMS = {"no-variance": {"mu": 0}, "no-invariance": {"lambda": 0}, "no-covariance": {"nu": 0}, "raw": {"method": "raw-pixels"}}


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, Path]:
    """A storage with a small sweep: its report, and its MLflow database."""
    storage = tmp_path_factory.mktemp("storage")
    splits = Splits(image_set(80), image_set(16, seed=1), image_set(48, seed=2))
    anomalies: dict[str, ImageSet] = {"digits-m-patches": image_set(20, seed=5)}
    images = Images({("digits-m", None): splits}, anomalies)
    plan, store = tiny_plan(storage, ARMS), TrialStore(storage)
    for trial in plan.trials.values():
        run_trial(trial, images, storage)
        draw_figures(trial, images, storage)
    records = [record_of(store, trial) for trial in plan.trials.values()]
    about = ReportInput(
        plan, records, StoreSnapshot(store), "profile digits-m", "python sweeps/run.py " + "--set x=y " * 20, "0" * 40, ()
    )
    (storage / "report.html").write_text(page_of(about, images))
    tell(plan, storage, f"sqlite:///{storage / 'mlflow.db'}")
    return plan, storage


def browse(visit: Callable[[Browser], Awaitable[Any]]) -> Any:
    async def all_of_it() -> Any:
        async with Browser(CHROMIUM or "") as browser:
            await prepare(browser)
            return await visit(browser)

    return asyncio.run(all_of_it())


@pytest.mark.parametrize("width", [1280, 400])
def test_the_report_has_no_overflow_and_asks_the_network_for_nothing(
    sweep: tuple[Plan, Path], width: int, tmp_path: Path
) -> None:
    async def visit(browser: Browser) -> Any:
        await browser.open((sweep[1] / "report.html").as_uri(), width, 900)
        await browser.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
        await browser.screenshot(tmp_path / "report.png", full_page=True)
        await browser.pdf(tmp_path / "report.pdf")
        return await browser.evaluate("""({
            width: document.documentElement.scrollWidth,
            images: [...document.images].map(i => [i.complete && i.naturalWidth > 0, i.alt.length > 0]),
            resources: performance.getEntriesByType('resource').map(r => r.name).filter(n => !n.startsWith('data:')),
        })""")

    seen = browse(visit)
    assert seen["width"] == width and seen["resources"] == []
    assert len(seen["images"]) > 8 and all(loaded and described for loaded, described in seen["images"])
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")


def test_the_leaderboard_sorts_by_a_press_on_a_head(sweep: tuple[Plan, Path]) -> None:
    column = "[...document.querySelectorAll('table.sortable tbody tr')].map(r => r.cells[2].dataset.value)"

    async def visit(browser: Browser) -> Any:
        await browser.open((sweep[1] / "report.html").as_uri())
        found = [await browser.evaluate(column)]
        for _ in range(2):
            await browser.click("probe accuracy", "table.sortable th button")
            found.append(await browser.evaluate(column))
        return found

    _, down, up = ([float(value) for value in values] for values in browse(visit))
    assert down == sorted(down, reverse=True) and up == sorted(up) and down != up


def test_mlflow_compares_the_children_over_weights_and_probe_accuracy(sweep: tuple[Plan, Path], tmp_path: Path) -> None:
    plan, storage = sweep
    with server(storage / "mlflow.db") as address:
        client = MlflowClient(address)
        (experiment,) = (e.experiment_id for e in client.search_experiments() if e.name == plan.grid.name)
        runs = client.search_runs([experiment], f"tags.sweep = '{plan.sweep_id}' and tags.role = 'trial'")

        async def visit(browser: Browser) -> Any:
            await open_comparison(browser, address, experiment, [run.info.run_id for run in runs])
            plot = await parallel_coordinates(browser)
            await browser.screenshot(tmp_path / "parallel.png")
            await choose(browser, "Scatter Plot", {"x-axis-selector": METRIC, "y-axis-selector": "anomaly_auc"})
            await browser.open(address + view_path(experiment, plan.sweep_id))
            cards = await browser.wait("document.querySelectorAll('.js-plotly-plot').length > 3 && document.body.innerText")
            return plot, cards

        plot, cards = browse(visit)
    assert [axis["title"] for axis in plot["axes"]] == [*PARAMS, METRIC] and plot["inked"] > 100
    for axis in plot["axes"]:
        held = [(run.data.metrics if axis["title"] == METRIC else run.data.params)[axis["title"]] for run in runs]
        assert axis["numeric"] and axis["values"] == [float(value) for value in held], "every child has a number on every axis"
    assert plan.sweep_id in cards and "Parallel Coordinates" in cards
