"""The faults of the chaos script: which one a number means, a few of them done, and by night a hundred."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.fault_injection.chaos import run_fault
from tests.fault_injection.faults import KINDS, Fault, damage, draw_fault
from tests.fault_injection.leftovers import MARK, left_behind, shared_memory
from tests.fault_injection.reference import Reference, reference

POINTS = ["draw k", "epoch k 1", "file sweeps/s/table.csv", "file trials/k/config.json", "stage put_images", "trial k"]
FILES = ["sweeps/s/table.csv", "trials/k/config.json", "trials/k/lock"]


def test_a_number_always_means_the_same_fault_and_every_kind_comes() -> None:
    drawn = [draw_fault(3, number, POINTS, FILES) for number in range(100)]
    assert drawn == [draw_fault(3, number, POINTS, FILES) for number in range(100)]
    assert drawn != [draw_fault(4, number, POINTS, FILES) for number in range(100)]
    assert {fault.kind for fault in drawn[: len(KINDS)]} == set(KINDS)
    assert all(fault.point in POINTS or fault.target in FILES[:2] for fault in drawn)
    assert {fault.point for fault in drawn if fault.kind == "kill worker"} <= {p for p in POINTS if not p.startswith("stage")}


@pytest.mark.parametrize(("kind", "left"), [("flip finished", 8), ("truncate finished", 4)])
def test_damage_is_a_bit_or_a_missing_end(kind: str, left: int, tmp_path: Path) -> None:
    file = tmp_path / "trials" / "k" / "config.json"
    file.parent.mkdir(parents=True)
    file.write_bytes(bytes(8))
    assert damage(Fault(0, kind, "", "trials/k/config.json", 0.5, 3, False), tmp_path) == "trials/k/config.json"
    found = file.read_bytes()
    assert len(found) == left and sum(byte.bit_count() for byte in found) == (1 if kind.startswith("flip") else 0)


_WRITER = """
import errno, os, pathlib, sys
storage, flag = map(pathlib.Path, sys.argv[1:])
def attempts():
    found = []
    for attempt in (
        lambda: (storage / "new").write_text("x"), lambda: (storage / "folder").mkdir(),
        lambda: (storage / "old").rename(storage / "older"), lambda: (storage.parent / "elsewhere").write_text("x"),
        lambda: (storage / "old").read_text(),
    ):
        try:
            attempt()
            found.append("ok")
        except OSError as error:
            found.append(errno.errorcode[error.errno])
    return found
for kind in ("ENOSPC", "EROFS", "EIO once"):
    flag.write_text(kind)
    print(*attempts())
    flag.unlink(missing_ok=True)
    (storage / "old").write_text("x")
"""


def test_the_disk_fails_as_a_full_a_read_only_and_a_broken_one_do(tmp_path: Path) -> None:
    storage, flag = tmp_path / "results", tmp_path / "disk"
    storage.mkdir()
    (storage / "old").touch()
    environment = {
        "PYTHONPATH": str(ROOT / "tests" / "fault_injection" / "audit"),
        "CHAOS_AUDIT": str(tmp_path / "audit.jsonl"),
        "CHAOS_STORAGE": str(storage),
        "CHAOS_DISK": str(flag),
    }
    line = [sys.executable, "-c", _WRITER, str(storage), str(flag)]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["ENOSPC ENOSPC ok ok ENOENT", "EROFS EROFS EROFS ok ok", "EIO ok ok ok ENOENT"]


_LISTENER = "import socket; s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen(); print(s.getsockname()[1]); input()"


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no /dev/shm")
def test_processes_sockets_and_shared_memory_that_are_left_are_found(tmp_path: Path) -> None:
    mark, before = tmp_path.name, shared_memory()
    left = Path("/dev/shm") / f"vicreg-sweeps-test-{os.getpid()}"
    process = subprocess.Popen(
        [sys.executable, "-uc", _LISTENER], env={MARK: mark}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        port = process.stdout.readline().strip()
        left.touch()
        found = left_behind(mark, before, patience=0)
    finally:
        left.unlink(missing_ok=True)
        process.communicate("")
    assert any("lives on" in line and f"listens on [{port}]" in line for line in found)
    assert f"/dev/shm/{left.name} is left" in found
    assert left_behind(mark, shared_memory(), patience=0) == []


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    with reference(tmp_path_factory.mktemp("whole")) as made:
        return made


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "number",
    [
        pytest.param(KINDS.index("kill worker"), marks=pytest.mark.nightly),
        pytest.param(KINDS.index("flip finished"), marks=pytest.mark.slow),
    ],
)
def test_a_sweep_comes_through_a_fault_as_if_there_had_been_none(number: int, whole: Reference) -> None:
    assert run_fault(0, number, whole).wrong == ""


@pytest.mark.nightly
@pytest.mark.timeout(6 * 3600)
def test_a_sweep_comes_through_a_hundred_faults(whole: Reference, tmp_path: Path) -> None:
    table = tmp_path / "faults.csv"
    line = [sys.executable, "-m", "tests.fault_injection.chaos", "--seed", "0", "--count", "100", "--table", str(table)]
    done = subprocess.run([*line, "--folder", str(whole.folder)], cwd=ROOT, capture_output=True, text=True)
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 100 and [row for row in rows if row["verdict"] != "ok"] == [], done.stdout
    assert done.returncode == 0
