"""Takes the pictures of docs/compare.md from a storage that holds a sweep.

    python -m tests.browser.screenshots STORAGE docs/images

The newest sweep of the storage is shown. Chromium is needed; nothing is reached beyond loopback.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from urllib.parse import quote, urlencode

from mlflow import MlflowClient
from PIL import Image

from sweeps.tracking.view import view_path
from tests.browser.chromium import Browser
from tests.browser.mlflow_ui import choose, open_comparison, parallel_coordinates, prepare, server


async def take(address: str, page: Path, target: Path) -> None:
    """Takes every picture."""
    client = MlflowClient(address)
    sweep = page.parent.name
    (experiment,) = (e for e in client.search_experiments() if sweep.startswith(f"{e.name}-"))
    runs = client.search_runs([experiment.experiment_id], f"tags.sweep = '{sweep}' and tags.role = 'trial'")
    async with Browser() as browser:
        await prepare(browser)
        table = {"workflowType": "machine_learning", "searchFilter": "tags.role = 'trial'",
                 "orderByKey": "metrics.`probe_accuracy`", "orderByAsc": "false"}  # fmt: skip
        await browser.open(f"{address}/#/experiments/{experiment.experiment_id}/runs?{urlencode(table, quote_via=quote)}")
        await browser.wait(f"document.body.innerText.includes('{runs[0].info.run_name}')", 90)
        await asyncio.sleep(2)
        await browser.screenshot(target / "runs.png")
        await browser.open(address + view_path(experiment.experiment_id, sweep))
        await browser.wait("document.querySelectorAll('.js-plotly-plot').length > 3", 90)
        await asyncio.sleep(4)
        await browser.screenshot(target / "view.png")
        await open_comparison(browser, address, experiment.experiment_id, [run.info.run_id for run in runs])
        await parallel_coordinates(browser)
        await browser.screenshot(target / "parallel.png")
        await choose(browser, "Scatter Plot", {"x-axis-selector": "probe_accuracy", "y-axis-selector": "anomaly_auc"})
        await asyncio.sleep(2)
        await browser.screenshot(target / "scatter.png")
        await browser.open(page.as_uri())
        await browser.screenshot(target / "report.png")
    for picture in target.glob("*.png"):
        image = Image.open(picture).convert("RGB")
        image.quantize(128).save(picture, optimize=True)


def main() -> None:
    """Runs the command line."""
    storage, target = Path(sys.argv[1]).resolve(), Path(sys.argv[2])
    target.mkdir(parents=True, exist_ok=True)
    page = max(storage.glob("sweeps/*/report.html"), key=lambda path: path.stat().st_mtime)
    with server(storage / "mlflow.db") as address:
        asyncio.run(take(address, page, target))


if __name__ == "__main__":
    main()
