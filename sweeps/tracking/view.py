"""A prepared view of a sweep's child runs for MLflow's runs page: parallel coordinates, bars and scatter plots.

MLflow stores a named view as a tag of the experiment (``mlflow.sharedViewState.<key>``); its value is the state of the page as
JSON. MLflow does not document the format. If another version does not understand it, the page shows its usual charts.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from sweeps.tracking.names import legal_name, matches

WEIGHTS = ("mu", "lambda", "nu")
_SECTION = "sweep"


def view_tag(sweep: str) -> str:
    """Return the name of the experiment's tag that holds the view."""
    return f"mlflow.sharedViewState.{legal_name(sweep)}"


def view_path(experiment: str, sweep: str) -> str:
    """Return the view's address, relative to the tracking server's."""
    key = quote(legal_name(sweep), safe="")
    return f"/#/experiments/{experiment}/runs?viewStateShareKey={key}&compareRunsMode=CHART&workflowType=machine_learning"


def view(sweep: str, metrics: Sequence[str], created: int) -> str:
    """Return the tag's value.

    Args:
        sweep: id of the sweep whose children are shown.
        metrics: the primary metric first. Each gets a bar chart; the others also get a scatter plot against the primary one.
        created: time of creation, in milliseconds since 1970; always the same for a sweep, so that the tag does not change.
    """
    primary = {"key": metrics[0], "type": "METRIC"}
    charts: list[dict[str, Any]] = [
        {
            "uuid": "parallel",
            "type": "PARALLEL",
            # The method comes first, because arms without a VICReg loss have weights of 0.
            "selectedParams": ["method", *WEIGHTS],
            "selectedMetrics": [metrics[0]],
            "showAllRuns": True,
        },
        *({"uuid": f"bar-{name}", "type": "BAR", "metricKey": name} for name in metrics),
        *(
            {"uuid": f"against-{name}", "type": "SCATTER", "xaxis": primary, "yaxis": {"key": name, "type": "METRIC"}}
            for name in metrics[1:]
        ),
    ]
    card = {"deleted": False, "isGenerated": False, "metricSectionId": _SECTION}
    state = {
        "searchFilter": f"{matches('sweep', sweep)} and tags.role = 'trial'",
        # Sorted by a metric: when sorted by date, children are folded into their parent, and the charts leave them out.
        "orderByKey": f"metrics.`{metrics[0]}`",
        "orderByAsc": False,
        "runsHiddenMode": "SHOW_ALL",
        "runListHidden": True,
        "isAccordionReordered": True,  # keeps our section before those that the page makes for every metric
        "compareRunCharts": [chart | card for chart in charts],
        "compareRunSections": [
            {"uuid": _SECTION, "name": sweep, "display": True, "isReordered": True, "deleted": False, "isGenerated": False}
        ],
    }
    return json.dumps({"name": sweep, "createdAt": created, "updatedAt": created, "state": json.dumps(state)})
