"""Every benchmark runs."""

from __future__ import annotations

import pytest

from tests.benchmarks import bench_core


def test_core_benchmark_runs(capsys: pytest.CaptureFixture[str]) -> None:
    bench_core.main(["--quick"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 7 and all(float(line[32:].split()[0]) > 0 for line in lines)
