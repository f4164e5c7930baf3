"""Files that are whole or absent, whatever happens to who writes them."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

from core.atomic_files import atomic_write, save_json
from core.locks import file_lock, remove_scratch, scratch_folder

HALF = "import os, signal; from pathlib import Path; from core.atomic_files import atomic_write\n" + (
    "with atomic_write(Path({!r})) as t: t.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
)


def test_what_a_killed_writer_left_vanishes_with_the_next_writing_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a[0].json"
    assert subprocess.run([sys.executable, "-c", HALF.format(str(path))], timeout=60).returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert left.read_text() == "half"
    save_json(tmp_path / "b.json", 1)
    assert left.exists(), "another file's"
    with atomic_write(path) as temporary:
        temporary.write_text("[1]")
        save_json(path, 2)
        assert temporary.exists(), "who lives keeps what it writes"
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"a[0].json": "[1]", "b.json": "1\n"}


def test_a_scratch_folder_vanishes_and_those_of_dead_processes_can_be_removed(tmp_path: Path) -> None:
    for name in ("tune-dead", "tune-unknown", "other"):
        (tmp_path / name).mkdir()
    for name in ("tune-dead", "other"):
        (tmp_path / name / "lock").touch()
    with scratch_folder(tmp_path, "tune-") as alive:
        remove_scratch(tmp_path, "tune-")
        assert {path.name for path in tmp_path.iterdir()} == {"tune-unknown", "other", alive.name}
    assert not alive.exists()


def test_a_lock_of_a_process_that_died_is_free_at_once(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from core.locks import file_lock\n"
        "with file_lock(Path('lock')):\n    print('held', flush=True)\n    time.sleep(600)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    taken = threading.Event()

    def take() -> None:
        with file_lock(tmp_path / "lock"):
            taken.set()

    waiting = threading.Thread(target=take, daemon=True)
    waiting.start()
    assert not taken.wait(0.5), "held by another process"
    holder.kill()
    assert taken.wait(5), "free as soon as it is dead"
    holder.wait()
