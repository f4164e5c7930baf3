"""Files that are whole or absent, whatever happens to who writes them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from core.atomic_files import atomic_write

HALF = "import os, signal; from pathlib import Path; from core.atomic_files import atomic_write\n" + (
    "with atomic_write(Path({!r})) as t: t.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
)


def write(path: Path, text: str) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(text)


def test_what_a_killed_writer_left_vanishes_with_the_next_writing_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a[0].json"
    assert subprocess.run([sys.executable, "-c", HALF.format(str(path))], timeout=60).returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert left.read_text() == "half"
    write(tmp_path / "b.json", "1")
    assert left.exists(), "another file's"
    with atomic_write(path) as temporary:
        temporary.write_text("[1]")
        write(path, "2")
        assert temporary.exists(), "who lives keeps what it writes"
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"a[0].json": "[1]", "b.json": "1"}


def test_content_name_and_new_folders_are_on_the_disk_when_the_block_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda file: synced.append(os.fstat(file).st_ino))
    path = tmp_path / "trials" / "key" / "x.json"
    write(path, "1")
    folders = [tmp_path / "trials", tmp_path]  # in which the new folders have their names
    assert synced == [there.stat().st_ino for there in (*folders, path, path.parent)], "the name after the content"
    synced.clear()
    write(path, "2")
    assert synced == [path.stat().st_ino, path.parent.stat().st_ino], "nothing more where the folders are there"
