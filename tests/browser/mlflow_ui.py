"""MLflow's UI in a browser: a server over a database, its compare page, and a sweep's ready view."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mlflow import MlflowClient
from mlflow.entities import Run
from playwright.sync_api import Page, expect

from sweeps.tracking.view import view_path
from tests.servers import free_port, serving

PARAMS, METRIC = ("mu", "lambda", "nu"), "probe_accuracy"

# What a returning visitor has already answered: no assistant panel, and the view for training runs.
_VISITOR = {
    "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": "true",
    "mlflow.assistant.panelOpen_v1": "false",
    "mlflow.workflowType_v1": '"machine_learning"',
}

# The plot, once it is drawn with these axes: of each the title, whether it is numeric, and one value for each run; and how many
# pixels the lines cover. The plot's data change before its drawing does, so that both are looked at.
_PARALLEL = """titles => {
  const same = found => JSON.stringify(found) === JSON.stringify(titles);
  const plot = document.querySelector('.pcp-plot .js-plotly-plot, .pcp-plot.js-plotly-plot');
  const axes = plot?.data[0].dimensions.map(d => ({title: d.label, numeric: !d.ticktext, values: [...d.values]}));
  const drawn = [...document.querySelectorAll('.pcp-plot .axis-title')].map(e => e.textContent);
  if (!axes || !same(axes.map(a => a.title)) || !same(drawn)) return null;
  const lines = document.querySelector('.pcp-plot canvas.gl-canvas-focus');
  const copy = new OffscreenCanvas(lines.width, lines.height).getContext('2d');
  copy.drawImage(lines, 0, 0);
  const inked = copy.getImageData(0, 0, lines.width, lines.height).data.filter((value, i) => i % 4 === 3 && value > 0).length;
  return inked ? {axes, inked} : null;
}"""


@contextmanager
def server(database: Path) -> Iterator[str]:
    """Serve MLflow's UI on loopback for the length of the block; yields its address."""
    address = f"http://127.0.0.1:{(port := free_port())}"
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", f"sqlite:///{database}",
               "--host", "127.0.0.1", "--port", str(port)]  # fmt: skip
    with serving(command, f"{address}/health", database.parent / "ui.log"):
        yield address


def children(address: str, grid: str, sweep: str) -> list[Run]:
    """Ask the server for the trials of a sweep, in the experiment that bears the grid's name."""
    client = MlflowClient(address)
    (experiment,) = (e.experiment_id for e in client.search_experiments() if e.name == grid)
    return list(client.search_runs([experiment], f"tags.sweep = '{sweep}' and tags.role = 'trial'"))


def prepare(page: Page) -> None:
    """Make every address that the page will open believe that its questions for a first visit are answered."""
    page.add_init_script(f"if (location.origin !== 'null') Object.assign(localStorage, {json.dumps(_VISITOR)})")


def open_comparison(page: Page, address: str, runs: Sequence[Run]) -> None:
    """Open the compare page for runs of one experiment, and wait for the plot that it shows first."""
    listed = {"runs": [run.info.run_id for run in runs], "experiments": [runs[0].info.experiment_id]}
    query = "&".join(f"{key}={quote(json.dumps(ids, separators=(',', ':')), safe='')}" for key, ids in listed.items())
    page.goto(f"{address}/#/compare-runs?{query}")
    page.locator(".pcp-plot .parcoords").wait_for()


def open_view(page: Page, address: str, experiment: str, sweep: str) -> None:
    """Open a sweep's ready view, and wait for its charts."""
    page.goto(address + view_path(experiment, sweep))
    expect(page.locator(".js-plotly-plot").nth(3)).to_be_visible()


def parallel_coordinates(page: Page) -> dict[str, Any]:
    """Choose mu, lambda, nu and probe_accuracy as the axes, and return what is drawn: ``axes`` and ``inked``."""
    page.get_by_role("button", name="Clear All").click()
    for kind, keys in (("parameters", PARAMS), ("metrics", (METRIC,))):
        page.locator(".du-bois-light-select").filter(has_text=f"Please select {kind}").click()
        for key in keys:  # only some forty of the options exist at a time: typing brings the wanted one
            page.keyboard.type(key)
            page.locator(".du-bois-light-select-item-option").get_by_text(key, exact=True).click()
            expect(page.locator(".du-bois-light-select-selection-item").get_by_text(key, exact=True)).to_be_visible()
        page.get_by_role("tabpanel").get_by_text(f"{kind.capitalize()}:").click()  # anywhere else: the list closes
    plot: dict[str, Any] = page.wait_for_function(_PARALLEL, arg=[*PARAMS, METRIC]).json_value()
    return plot


def scatter_plot(page: Page, x: str, y: str) -> None:
    """Show the compare page's scatter plot and choose its axes; returns when it is drawn with them."""
    page.get_by_role("tab", name="Scatter Plot").click()
    panel = page.get_by_role("tabpanel", name="Scatter Plot")
    for axis, key in (("x", x), ("y", y)):
        choice = panel.get_by_role("combobox", name=f"{axis}-axis")
        choice.click()
        page.get_by_role("option", name=key, exact=True).click()
        expect(choice).to_have_text(key)
        expect(panel.locator(f".{axis}title")).to_have_text(key)
