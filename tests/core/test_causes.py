"""What the system's errors are told as."""

from __future__ import annotations

import errno
import os
import pickle
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from core.atomic_files import atomic_write
from core.causes import as_memory_error, explain
from sweeps import run
from tests.conftest import ROOT


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "the file system /.* is full .*B free.*: free some space there"),
        (errno.EDQUOT, "your quota on the file system /.* is used up"),
        (errno.EROFS, "the file system /.* is read-only"),
        (errno.EACCES, r"this user \(\d+\) may not do that"),
        (errno.EIO, "the file system /.* answers with an error"),
        (errno.EMFILE, "too many files are open"),
    ],
)
def test_the_drivers_errors_are_one_line_with_cause_and_remedy(
    number: int, remedy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: object) -> int:
        raise OSError(number, os.strerror(number), str(tmp_path / "table.csv"))

    monkeypatch.setattr(run, "_run_sweep", fails)
    assert run.main(["--grid", "ablations"]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"error: {tmp_path / 'table.csv'}: {os.strerror(number)}; ") and said.count("\n") == 1
    assert re.search(remedy, said) and "continue with: python sweeps/run.py" in said


def test_memory_that_is_used_up_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fails(*_: object) -> int:
        raise MemoryError

    monkeypatch.setattr(run, "_run_sweep", fails)
    assert run.main(["--grid", "ablations"]) == 1 and "the memory is used up: run fewer trials" in capsys.readouterr().err
    assert "the memory is used up" in explain(pickle.loads(pickle.dumps(MemoryError())))


GPU_SAYS = (
    "CUDA out of memory. Tried to allocate 20 GiB.\nmore", "CUDA error: out of memory", "cuDNN error: CUDNN_STATUS_ALLOC_FAILED"
)  # fmt: skip


def test_memory_that_torch_could_not_get_is_a_memory_error() -> None:
    with pytest.raises(RuntimeError) as of_cpu:
        torch.empty(2**60)
    for error in (
        MemoryError("x"),
        of_cpu.value,
        *map(RuntimeError, GPU_SAYS),
    ):
        found = as_memory_error(error)
        assert isinstance(found, MemoryError) and str(found) in str(error) and "\n" not in str(found) and str(found)
    assert as_memory_error(RuntimeError("shapes differ")) is None and as_memory_error(ValueError("DefaultCPUAllocator")) is None


@pytest.mark.parametrize(
    ("library", "write"),
    [
        ("numpy", "numpy.save(path.open('wb'), numpy.zeros(100_000))"),
        pytest.param("torch", "torch.save(torch.zeros(100_000), path)", marks=pytest.mark.slow),
    ],
)
def test_an_error_of_writing_names_the_file_whatever_the_library_says(library: str, write: str, tmp_path: Path) -> None:
    """Torch raises a RuntimeError, numpy an OSError without a number."""
    code = (
        f"import resource, signal, {library}; from pathlib import Path; from core.atomic_files import atomic_write\n"
        "from core.causes import explain\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))\n"
        f"try:\n    with atomic_write(Path('encoder')) as path: {write}\n"
        "except OSError as error: print(error.errno, explain(error))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, encoding="utf-8", timeout=100,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.stdout.startswith(f"{errno.EFBIG} encoder: File too large; no file may become so large"), done.stderr
    assert not list(tmp_path.iterdir()), "nothing half-written is left"


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(KeyError), atomic_write(tmp_path / "a"):
        raise KeyError("x")
    assert not list(tmp_path.iterdir()) and resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 20000
