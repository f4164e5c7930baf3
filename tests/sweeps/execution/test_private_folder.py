"""Where Ray's files lie during a run on this machine: nobody else reads them, and nothing of another's is removed."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from core import locks
from core.errors import InputError
from core.locks import file_lock
from sweeps.execution import private_folder as module
from sweeps.execution.private_folder import logs, make_token, private_folder, ray_folder, remove_abandoned


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A short folder that RAY_TMPDIR names."""
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="t-") as folder:
        monkeypatch.setenv("RAY_TMPDIR", folder)
        yield Path(folder)


def test_only_the_user_can_enter_it_and_it_is_gone_afterwards(short: Path) -> None:
    with private_folder() as (folder, note):
        token = make_token(folder)
        assert folder.parent == short and note is None and ray_folder(folder).is_dir() and folder in logs(folder).parents
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700 and stat.S_IMODE(token.stat().st_mode) == 0o600
        assert len(token.read_text()) == 64
    assert list(short.iterdir()) == []


def test_the_longest_path_of_a_socket_in_it_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "session_2026-12-31_23-59-59_999999_4194304"
    longest = Path("/tmp") / ("x" * (module._LONGEST - 5))
    socket = ray_folder(longest / "vr-12345678") / name / "sockets" / "plasma_store"
    assert len(str(socket)) == module._SOCKET_PATH


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="Ray follows TMPDIR only on Linux")
def test_a_long_tmpdir_is_not_followed_and_said_and_a_long_ray_tmpdir_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    long = tmp_path / ("x" * 60)
    monkeypatch.setenv("TMPDIR", str(long))
    with private_folder() as (folder, note):
        assert (
            folder.parent == Path("/tmp") and note is not None and f"TMPDIR={long}: too long" in note and "RAY_TMPDIR" in note
        )
    monkeypatch.setenv("RAY_TMPDIR", str(long))
    with pytest.raises(InputError, match=r"RAY_TMPDIR=.*x: too long .* set RAY_TMPDIR to a shorter"), private_folder():
        pass


@pytest.mark.parametrize("variable", ["RAY_TMPDIR", "TMPDIR"])
def test_the_home_may_be_written_as_a_tilde(variable: str, short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_TMPDIR")
    monkeypatch.setenv("HOME", str(short))
    monkeypatch.setenv(variable, "~")
    with private_folder() as (folder, _):
        assert folder.parent == short
    monkeypatch.setenv(variable, "~nobody-here")
    with pytest.raises(InputError, match=f"^{variable}=~nobody-here: there is no user nobody-here"), private_folder():
        pass


@pytest.mark.parametrize("variable", ["RAY_TMPDIR", "TMPDIR"])
def test_a_folder_that_is_missing_or_full_is_named_with_its_variable(
    variable: str, short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_TMPDIR")
    monkeypatch.setenv(variable, "/tmp/nowhere")
    with pytest.raises(InputError, match=f"^{variable}=/tmp/nowhere: .*No such file.*set RAY_TMPDIR"), private_folder():
        pass
    monkeypatch.setenv(variable, str(short))
    usage = type("Usage", (), {"free": 3_000_000})
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(InputError, match=f"^{variable}={short}: .*3 MB are free, 20 MB are needed"), private_folder():
        pass
    assert list(short.iterdir()) == []


def test_a_quota_shows_when_it_is_written_to(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(122, os.strerror(122))

    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(InputError, match=os.strerror(122)), private_folder():
        pass


def test_those_of_dead_commands_are_removed_and_nothing_else(short: Path) -> None:
    def make(name: str, mark: bytes | None = locks._MAGIC) -> Path:
        folder = short / name
        folder.mkdir(mode=0o700)
        if mark is not None:
            (folder / locks._MARK).write_bytes(mark)
        return folder

    dead, users, alike, target = make("vr-dead0000"), make("vr-of-a-user", None), make("vr-alike000", b""), make("elsewhere")
    link = short / "vr-link0000"
    link.symlink_to(target)
    live = make("vr-live0000")
    with file_lock(live / locks._MARK):
        remove_abandoned()
        assert not dead.exists() and all(path.exists() for path in (users, alike, target, link, live))


def test_another_command_that_starts_at_the_same_instant_does_not_remove_it(
    short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    import fcntl

    lock, others = fcntl.flock, list[Path]()

    def flock(file: Any, operation: int) -> None:
        if not others:
            others.append(short)
            remove_abandoned()
            with private_folder() as (other, _):
                others.append(other)
        lock(file, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    with private_folder() as (folder, _):
        assert len(others) == 2 and list(short.iterdir()) == [folder]


def test_logs_of_a_ray_that_did_not_start_are_kept_until_the_next_command(short: Path) -> None:
    with private_folder() as (folder, _):
        locks.keep(folder)
    assert folder.is_dir()
    remove_abandoned()
    assert not folder.exists()


def test_a_place_that_cannot_be_is_said_only_where_ray_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", "~nobody-here")
    remove_abandoned()
