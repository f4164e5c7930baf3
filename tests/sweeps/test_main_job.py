"""``--grid ablations``: every arm, figure, table and artifact. How long it takes is no test's business."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.main_job import MainJob, check_main_job, run_main_job


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.xdist_group("main_job")
def test_the_main_job_with_fewer_epochs(main_job: MainJob) -> None:
    check_main_job(main_job)


@pytest.mark.nightly
@pytest.mark.timeout(2200)
def test_the_main_job_as_it_is(tmp_path: Path) -> None:
    check_main_job(run_main_job(tmp_path))
