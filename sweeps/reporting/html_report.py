"""``report.html``: the results of a sweep on one page, in a single file that needs no network."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path

from core.config import digest
from core.errors import InputError
from sweeps.execution.callbacks import SweepCallback
from sweeps.reporting.rendering import TEMPLATES, render
from sweeps.reporting.report_content import build_content
from sweeps.reporting.report_input import ReportInput
from sweeps.storage.checked_folder import CheckedFolder, DamagedFileError
from sweeps.storage.image_sets import Images, load_images
from sweeps.storage.records import TrialStatus

_ROOT = Path(__file__).parents[2]
#: The code that decides what the page shows.
_CODE = ("sweeps/**/*.py", "evaluation/*.py")


class ReportPreloader(SweepCallback):
    """Imports the packages that the report needs while the last figures are drawn: the driver waits for some seconds anyway."""

    def on_all_trials_end(self) -> None:
        """Import the packages."""
        import jinja2  # noqa: F401
        import scipy.stats  # noqa: F401

        from evaluation import plot_style  # noqa: F401
        from sweeps.reporting import arm_figures  # noqa: F401


def write_report(path: Path, sweep: ReportInput, data_dir: Path, images: Images | None = None) -> Path:
    """Write the page, whole or not at all; an existing page with the same content is left unchanged.

    Args:
        path: the page's file.
        sweep: what the report is about.
        data_dir: where the images are; if they cannot be loaded, figures that show images are left out.
        images: the images, if they are loaded already.

    Returns:
        ``path``.
    """
    mark = f"<!-- {_fingerprint(sweep)} -->"
    files = CheckedFolder(path.parent)
    with suppress(DamagedFileError):
        if (files.read(path.name) or b"").startswith(mark.encode()):
            return path
    done = [record.trial for record in sweep.records if record.status == TrialStatus.DONE]
    if images is None or not images.cover(done):
        try:
            images = load_images(done, data_dir)
        except InputError:
            images = None
    text = render("report.html.j2", **vars(build_content(sweep, images)))
    # If images are missing the page has no mark, so that the next command writes it again.
    files.write_bytes(path.name, (f"{mark}\n{text}" if images is not None else text).encode())
    return path


def _fingerprint(sweep: ReportInput) -> str:
    """A digest of everything that the page shows, and of the code that makes it."""
    shown = [
        [
            r.trial.key, r.trial.title, r.trial.aliases, r.status, r.reason, dict(r.metrics),
            sorted(sweep.snapshot.state(r.trial.key).figures(r.trial)),
        ]
        for r in sweep.records
    ]  # fmt: skip
    code = [*TEMPLATES.iterdir(), *(path for pattern in _CODE for path in _ROOT.glob(pattern))]
    result = sweep.search_result
    return digest([
        shown, sweep.plan.grid.model_dump(mode="json"), sweep.introduction, sweep.commit, sweep.problems,
        [vars(contrast) for contrast in sweep.contrasts], sweep.test.name, sweep.provisional, vars(sweep.looks),
        None if result is None else [result.rows(), result.importances],
        [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(code)],
    ])  # fmt: skip
