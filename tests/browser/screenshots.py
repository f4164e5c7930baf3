"""Take the pictures of docs/compare.md from a storage that holds a sweep.

    python -m tests.browser.screenshots STORAGE docs/images

The newest sweep of the storage is shown. Chromium is needed; nothing is reached beyond loopback.
"""

from __future__ import annotations

import sys
from pathlib import Path
from urllib.parse import quote, urlencode

from PIL import Image
from playwright.sync_api import Browser, Page, expect

from tests.browser.launch import chromium, new_page
from tests.browser.mlflow_ui import children, open_comparison, open_view, parallel_coordinates, prepare, scatter_plot, server


def take(browser: Browser, address: str, report: Path, target: Path) -> None:
    """Take every picture."""
    sweep = report.parent.name
    runs = children(address, sweep.rpartition("-")[0], sweep)
    experiment = runs[0].info.experiment_id

    def fresh() -> Page:  # MLflow's addresses differ after the # only: opened in the same page, one would not load anew
        page = new_page(browser)
        prepare(page)
        return page

    def shoot(page: Page, name: str, settle: float = 0) -> None:
        page.wait_for_timeout(settle * 1000)  # for what moves or comes late; nothing on the page says that all is there
        page.screenshot(path=target / name)

    table = {"workflowType": "machine_learning", "searchFilter": "tags.role = 'trial'",
             "orderByKey": "metrics.`probe_accuracy`", "orderByAsc": "false"}  # fmt: skip
    page = fresh()
    page.goto(f"{address}/#/experiments/{experiment}/runs?{urlencode(table, quote_via=quote)}")
    expect(page.get_by_text(runs[0].info.run_name, exact=True).first).to_be_visible()
    shoot(page, "runs.png", settle=2)
    page = fresh()
    open_view(page, address, experiment, sweep)
    shoot(page, "view.png", settle=4)
    page = fresh()
    open_comparison(page, address, runs)
    parallel_coordinates(page)
    shoot(page, "parallel.png")
    scatter_plot(page, "probe_accuracy", "anomaly_auc")
    shoot(page, "scatter.png", settle=2)
    page = fresh()
    page.goto(report.as_uri())
    shoot(page, "report.png")
    for picture in target.glob("*.png"):
        image = Image.open(picture).convert("RGB")
        image.quantize(128).save(picture, optimize=True)


def main() -> None:
    """Run the command line."""
    storage, target = Path(sys.argv[1]).resolve(), Path(sys.argv[2])
    target.mkdir(parents=True, exist_ok=True)
    report = max(storage.glob("sweeps/*/report.html"), key=lambda path: path.stat().st_mtime)
    with server(storage / "mlflow.db") as address, chromium() as browser:
        take(browser, address, report, target)


if __name__ == "__main__":
    main()
