"""Where results and data are: paths as users write them, and folders that cannot be written."""

from __future__ import annotations

import argparse
import errno
import os
import tempfile
from pathlib import Path

import pytest

from core.datasets import load, normal_name
from core.errors import InputError, UnwritableError
from core.paths import expand_home
from sweeps.command_line import parse
from sweeps.planning.grid_file import load_grid
from sweeps.storage.location import check_folder, folder_path, storage_path
from sweeps.tracking.uri import resolve_uri


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's home folder."""
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_a_home_folder_is_expanded_in_every_path(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "~/elsewhere")
    assert parse([]).data_dir == home / "elsewhere" / "vicreg-sweeps"
    (home / "mine.yaml").write_text("arms: {z: {mu: 0}}\nquestion: is it found?\n", encoding="utf-8")
    command = parse(["--grid", "~/mine.yaml", "--storage", "~/results", "--data", "~/data"])
    assert (command.storage, command.data_dir) == (home / "results", home / "data")
    assert load_grid("~/mine.yaml").question == "is it found?"
    assert normal_name("folder:~//images/") == f"folder:{home}/images" and normal_name("folder:/a/~b") == "folder:/a/~b"
    assert resolve_uri("sqlite:///~/mlflow.db", home) == f"sqlite:///{home}/mlflow.db"
    assert storage_path("file://~/results") == home / "results"
    assert expand_home("a/~/b") == "a/~/b"


def test_no_home_is_an_error_only_where_one_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(self: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", none)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert parse(["--list"]).data_dir == Path("/.cache/vicreg-sweeps"), "as if HOME were /"
    with pytest.raises(argparse.ArgumentTypeError, match="this user has no home folder, and HOME is not set"):
        folder_path("~/results")
    with pytest.raises(argparse.ArgumentTypeError, match="there is no user nobody-here with a home"):
        folder_path("~nobody-here/results")


def test_a_file_url_is_decoded_and_paths_that_are_none_are_refused() -> None:
    assert storage_path("file:///a%20b/c%3Fd") == Path("/a b/c?d") and storage_path("/a%20b#c") == Path("/a%20b#c")
    assert storage_path("file://localhost/a") == Path("/a") and storage_path("file://a/b") == Path("a/b")
    for text, why in (
        ("", "names no place"),
        ("a\nb", "line end"),
        ("a\0b", "control"),
        ("file:///a?b", "%3F"),
        ("file:///a#b", "%3F"),
    ):
        with pytest.raises(argparse.ArgumentTypeError, match=why):
            storage_path(text)


@pytest.mark.parametrize("name", ["who?", "a%20b"])
def test_a_storage_whose_database_mlflow_would_look_for_elsewhere_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="MLflow would look for its database elsewhere; name another folder"):
        resolve_uri(None, tmp_path / name)
    assert resolve_uri("sqlite:////elsewhere.db", tmp_path / name) == "sqlite:////elsewhere.db"


@pytest.mark.parametrize("name", ["a b", "100%", "a#1", "it's", "x=1&y", "ünï"])
def test_other_names_are_taken(name: str, tmp_path: Path) -> None:
    from sqlalchemy.engine import make_url

    uri = resolve_uri(None, storage_path(str(tmp_path / name)))
    assert make_url(uri).database == str(tmp_path / name / "mlflow.db")


def test_a_folder_that_cannot_be_written_is_named_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sweeps").mkdir()
    may = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK or not str(path).endswith("sweeps"))
    check_folder("--storage", tmp_path, write=False)
    with pytest.raises(InputError, match=r"--storage .*sweeps cannot be written \(it belongs to user \d+, with mode 755"):
        check_folder("--storage", tmp_path)
    read_only = type("Mounted", (), {"f_flag": os.ST_RDONLY})
    monkeypatch.setattr(os, "statvfs", lambda _: read_only)
    with pytest.raises(InputError, match=r"--storage .*sweeps cannot be written \(its file system is read-only\)"):
        check_folder("--storage", tmp_path)
    monkeypatch.setattr(os, "access", may)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is no folder"):
        check_folder("--data", tmp_path / "file" / "below", write=False)


def test_data_that_may_only_be_read_serve_where_nothing_has_to_be_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = load("digits-m-black", tmp_path, "test")

    def refused(path: Path, *_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("core.data_cache.save_arrays", refused)
    assert (load("digits-m-black", tmp_path, "test").images == there.images).all()
    with pytest.raises(UnwritableError, match=f"--data {tmp_path}: digits-m-black is not kept there yet, and cannot be"):
        load("digits-m-black", tmp_path, "train")


def test_a_folder_in_which_no_file_can_be_made_is_refused_even_to_root() -> None:
    with pytest.raises(InputError, match="--storage /proc/x: /proc cannot be written"):
        check_folder("--storage", Path("/proc/x"))


def test_a_full_disk_is_no_reason_against_a_command_that_may_only_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [errno.ENOSPC, errno.EDQUOT, errno.EROFS]

    def refuse(**_: object) -> None:
        number = answers.pop(0)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    for _ in range(2):
        check_folder("--storage", tmp_path)
    with pytest.raises(InputError, match=r"cannot be written \(Read-only file system\)"):
        check_folder("--storage", tmp_path)
