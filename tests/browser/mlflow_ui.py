"""MLflow's UI in a browser: a server over a database, its compare page, and a sweep's ready view."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tests.browser.chromium import Browser
from tests.servers import free_port, serving

PARAMS, METRIC = ("mu", "lambda", "nu"), "probe_accuracy"

# What a returning visitor has already answered: no assistant panel, and the view for training runs.
_VISITOR = {
    "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": "true",
    "mlflow.assistant.panelOpen_v1": "false",
    "mlflow.workflowType_v1": '"machine_learning"',
}

# The axes of the drawn plot: title, numeric or not, one value for each run; and how many pixels have a line's colour.
_PARALLEL = """(() => {
  const plot = document.querySelector('.pcp-plot .js-plotly-plot, .pcp-plot.js-plotly-plot');
  const titles = [...document.querySelectorAll('.pcp-plot .axis-title')].map(e => e.textContent);
  if (!plot || JSON.stringify(titles) !== JSON.stringify(plot.data[0].dimensions.map(d => d.label))) return null;
  const axes = plot.data[0].dimensions.map(d => ({title: d.label, numeric: !d.ticktext, values: [...d.values]}));
  const lines = document.querySelector('.pcp-plot canvas.gl-canvas-focus');
  const copy = new OffscreenCanvas(lines.width, lines.height).getContext('2d');
  copy.drawImage(lines, 0, 0);
  const pixels = copy.getImageData(0, 0, lines.width, lines.height).data;
  let inked = 0;
  for (let i = 3; i < pixels.length; i += 4) inked += pixels[i] > 0;
  return {axes, inked};
})()"""


@contextmanager
def server(database: Path) -> Iterator[str]:
    """MLflow's UI on loopback for the length of the block; yields its address."""
    address = f"http://127.0.0.1:{(port := free_port())}"
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", f"sqlite:///{database}",
               "--host", "127.0.0.1", "--port", str(port)]  # fmt: skip
    with serving(command, f"{address}/health", database.parent / "ui.log"):
        yield address


async def prepare(browser: Browser) -> None:
    """Makes every later page believe that its questions for a first visit are answered."""
    source = f"if (location.origin !== 'null') Object.assign(localStorage, {json.dumps(_VISITOR)})"
    await browser.send("Page.enable")
    await browser.send("Page.addScriptToEvaluateOnNewDocument", source=source)


async def open_comparison(browser: Browser, address: str, experiment: str, runs: Sequence[str]) -> None:
    """Opens the compare page for the runs, and waits for the plot that it shows first."""
    listed = {"runs": list(runs), "experiments": [experiment]}
    query = "&".join(f"{key}={quote(json.dumps(ids, separators=(',', ':')), safe='')}" for key, ids in listed.items())
    await browser.open(f"{address}/#/compare-runs?{query}")
    await browser.wait("!!document.querySelector('.pcp-plot .parcoords')")


async def parallel_coordinates(browser: Browser) -> dict[str, Any]:
    """Chooses mu, lambda, nu and probe_accuracy as the axes, and returns what is drawn: ``axes`` and ``inked``."""
    await browser.click("Clear All", "button")
    for kind, keys in (("parameters", PARAMS), ("metrics", (METRIC,))):
        await browser.click(f"Please select {kind}")
        for key in keys:  # only some forty of the options exist at a time: typing brings the wanted one
            await browser.type(key)
            await browser.click(key, ".du-bois-light-select-item-option")
            await browser.wait(
                "[...document.querySelectorAll('.du-bois-light-select-selection-item')]"
                f".some(e => e.textContent === {json.dumps(key)})"
            )
        await browser.click("Parameters:", "div")  # anywhere else: the list closes
    titles = json.dumps(json.dumps([*PARAMS, METRIC], separators=(",", ":")))
    plot: dict[str, Any] = await browser.wait(
        f"(p => p?.inked && JSON.stringify(p.axes.map(a => a.title)) === {titles} ? p : null)({_PARALLEL})"
    )
    return plot


async def choose(browser: Browser, tab: str, axes: dict[str, str]) -> None:
    """Shows another tab of the compare page and chooses its axes, as ``{"x-axis-selector": "mu"}``."""
    await browser.click(tab, "[role=tab]")
    for selector, key in axes.items():
        place = f"[role=tabpanel][data-state=active] #{selector}"
        await browser.click(None, place)
        await browser.click(key, "[role=option]")
        await browser.wait(f"document.querySelector({json.dumps(place)}).innerText === {json.dumps(key)}")
