"""A ready view of a sweep's children for MLflow's runs page: parallel coordinates, bars and scatter plots.

MLflow keeps a named view as a tag of the experiment (``mlflow.sharedViewState.<key>``), whose JSON is the page's own state. The
form is MLflow's and not documented; where another version does not know it, the page shows its usual charts.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

WEIGHTS = ("mu", "lambda", "nu")
_SECTION = "sweep"


def view_tag(sweep: str) -> str:
    """Name of the experiment's tag that holds the view."""
    return f"mlflow.sharedViewState.{sweep}"


def view_path(experiment: str, sweep: str) -> str:
    """The view's address behind the tracking server's."""
    return f"/#/experiments/{experiment}/runs?viewStateShareKey={sweep}&compareRunsMode=CHART&workflowType=machine_learning"


def view(sweep: str, metrics: Sequence[str], created: int) -> str:
    """The tag's value.

    Args:
        sweep: the sweep, whose children are shown.
        metrics: the primary metric first; each gets bars, and the others a scatter plot against it.
        created: in milliseconds since 1970; the same for a sweep whenever it is said.
    """
    primary = {"key": metrics[0], "type": "METRIC"}
    charts: list[dict[str, Any]] = [
        {
            "uuid": "parallel",
            "type": "PARALLEL",
            # With the method first: rows without a VICReg loss have weights of 0.
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
        "searchFilter": f"tags.sweep = '{sweep}' and tags.role = 'trial'",
        # Sorted by date, children fold into their parent, and no chart counts them.
        "orderByKey": f"metrics.`{metrics[0]}`",
        "orderByAsc": False,
        "runsHiddenMode": "SHOW_ALL",
        "runListHidden": True,
        "isAccordionReordered": True,  # our section stays before those that the page makes for every metric
        "compareRunCharts": [chart | card for chart in charts],
        "compareRunSections": [
            {"uuid": _SECTION, "name": sweep, "display": True, "isReordered": True, "deleted": False, "isGenerated": False}
        ],
    }
    return json.dumps({"name": sweep, "createdAt": created, "updatedAt": created, "state": json.dumps(state)})
