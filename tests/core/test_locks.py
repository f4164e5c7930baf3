"""Locks and scratch folders: free when their process dies, and nothing is removed that is not ours."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from upath import UPath

from core.errors import InputError
from core.locks import file_lock, held, remove_abandoned, remove_scratch, scratch_folder, user_folder

DIES = (
    "import os, signal, sys; from pathlib import Path; from core.locks import scratch_folder\n"
    "with scratch_folder(Path(sys.argv[1]), 'tune'):\n    os.kill(os.getpid(), signal.SIGKILL)"
)


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of temporary files."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path / f"vicreg-sweeps-{os.geteuid()}"


def test_a_scratch_folder_vanishes_with_its_block_or_after_its_process(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", DIES, str(tmp_path)], check=False, timeout=60)
    (dead,) = tmp_path.iterdir()
    with scratch_folder(tmp_path, "tune") as alive:
        remove_scratch(tmp_path, "mlflow")
        assert dead.exists(), "another kind"
        remove_scratch(tmp_path, "tune")
        assert list(tmp_path.iterdir()) == [alive]
    assert not alive.exists()


def test_what_could_not_be_removed_is_removed_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, **_: bool) -> None:
        """A disk that became read-only while the folder was removed."""
        for file in Path(path).glob(".*"):
            file.unlink()

    with scratch_folder(tmp_path, "tune") as folder:
        (folder / "state").mkdir()
        monkeypatch.setattr(shutil, "rmtree", refuse)
    assert folder.exists()
    monkeypatch.undo()
    remove_scratch(tmp_path, "tune")
    assert not folder.exists()


def test_a_scratch_folder_is_its_process_own_though_another_looks_at_it_when_it_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    import fcntl

    lock, looking = fcntl.flock, list[int]()

    def flock(file: Any, operation: int) -> None:
        if not looking:
            (mark,) = tmp_path.glob("*/.*")
            looking.append(os.open(mark, os.O_RDWR))
            lock(looking[0], fcntl.LOCK_EX)
            threading.Timer(0.2, os.close, looking).start()
        lock(file, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    with scratch_folder(tmp_path, "tune") as folder:
        threads = [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]
        for thread in threads:
            thread.join()
        remove_scratch(tmp_path, "tune")
        assert looking and folder.exists()


def test_only_folders_with_our_mark_are_removed(tmp_path: Path) -> None:
    """Of earlier versions, every folder tune-* with an unlocked file named lock was, whatever it held."""
    (tmp_path / "elsewhere").mkdir()
    subprocess.run([sys.executable, "-c", DIES, str(tmp_path / "elsewhere")], check=False, timeout=60)
    (real,) = (tmp_path / "elsewhere").iterdir()
    mark = next(real.iterdir())
    storage = tmp_path / "storage"
    names = ("tune-results", "vicreg-sweeps-tune-empty", "vicreg-sweeps-tune-other", "vicreg-sweeps-tune-link")
    for name in names:
        (storage / name).mkdir(parents=True)
        (storage / name / "lock").touch()
    (storage / names[2] / mark.name).write_text("something else")
    (storage / names[3] / mark.name).symlink_to(mark)
    (storage / "vicreg-sweeps-tune-whole").symlink_to(real)
    remove_scratch(storage, "tune")
    assert {path.name for path in storage.iterdir()} == {*names, "vicreg-sweeps-tune-whole"} and mark.exists()
    with pytest.raises(OSError), held(storage / "vicreg-sweeps-tune-whole" / mark.name):
        pass
    real.rename(storage / real.name)
    remove_scratch(storage, "tune")
    assert not (storage / real.name).exists(), "a real one is"


def test_what_another_user_left_is_not_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subprocess.run([sys.executable, "-c", DIES, str(tmp_path)], check=False, timeout=60)
    (dead,) = tmp_path.iterdir()
    user = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: user + 1)
    remove_scratch(tmp_path, "tune")
    assert dead.exists()


@pytest.mark.parametrize("theirs", [stat.S_ISDIR, stat.S_ISREG], ids=["folder", "mark"])
def test_what_belongs_to_another_user_in_part_is_not_removed(
    theirs: Callable[[int], bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subprocess.run([sys.executable, "-c", DIES, str(tmp_path)], check=False, timeout=60)
    (dead,) = tmp_path.iterdir()
    fstat = os.fstat

    def of_another(file: int) -> os.stat_result:
        found = fstat(file)
        return os.stat_result((*found[:4], found.st_uid + theirs(found.st_mode), *found[5:10]))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fstat", of_another)
        remove_scratch(tmp_path, "tune")
        assert dead.exists()
    remove_scratch(tmp_path, "tune")
    assert not dead.exists()


def test_a_pipe_in_the_place_of_a_file_is_not_held(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x")
    with pytest.raises(PermissionError, match="not ours"), held(tmp_path / "x"):
        pass
    remove_abandoned(tmp_path / "x")
    assert (tmp_path / "x").exists()


def test_the_users_folder_is_this_users_alone(temporary: Path) -> None:
    assert user_folder() == temporary and temporary.stat().st_mode & 0o777 == 0o700
    assert user_folder() == temporary, "and is used again"


@pytest.mark.parametrize("trap", ["link", "open", "file", "another's"])
def test_a_trap_in_the_folder_of_temporary_files_is_named(trap: str, temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CWE-379: the name can be foreseen, and anyone may write where temporary files are."""
    if trap == "link":
        (temporary.parent / "elsewhere").mkdir(mode=0o700)
        temporary.symlink_to(temporary.parent / "elsewhere")
    elif trap == "file":
        temporary.touch(mode=0o600)
    else:
        temporary.mkdir(mode=0o700 if trap == "another's" else 0o777)
        temporary.chmod(0o700 if trap == "another's" else 0o777)
    if trap == "another's":
        user = os.geteuid()
        monkeypatch.setattr(os, "geteuid", lambda: user + 1)
        temporary.rename(temporary.with_name(f"vicreg-sweeps-{user + 1}"))
    with pytest.raises(InputError, match="TMPDIR"):
        user_folder()


def test_what_belongs_to_a_url_is_in_the_users_folder_or_nowhere(temporary: Path) -> None:
    url: Any = UPath("memory://results")
    with file_lock(url / "lock"), scratch_folder(url, "tune") as folder:
        assert folder.parent == temporary and len(list(temporary.glob("*.lock"))) == 1
    temporary.chmod(0o777)
    for open_to_all in (file_lock(url / "lock"), scratch_folder(url, "tune")):
        with pytest.raises(InputError, match="TMPDIR"), open_to_all:
            pass


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


def test_a_lock_whose_file_is_removed_before_it_is_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    import fcntl

    locked, removed = fcntl.flock, []

    def flock(file: Any, operation: int) -> None:
        if not removed:
            removed.append((tmp_path / "x").unlink())  # by who takes it for abandoned
        locked(file, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    with file_lock(tmp_path / "x"):
        remove_abandoned(tmp_path / "x")
        assert removed and (tmp_path / "x").exists()
