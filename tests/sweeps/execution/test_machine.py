"""The surroundings that a command finds: a home that cannot be written to."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import pytest

from sweeps import finish
from sweeps.run import main


@pytest.mark.parametrize("given", [None, "/its/own"])
def test_what_is_drawn_has_caches_though_the_home_cannot_be_written_to(
    given: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[str] = []

    def conclude(*_: object) -> int:
        found.append(os.environ["MPLCONFIGDIR"])
        assert given or Path(found[0]).is_dir()
        return 0

    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setattr(finish, "conclude", conclude)
    monkeypatch.setattr(sys, "setswitchinterval", lambda _: None)
    monkeypatch.setenv("HOME", "/nowhere")
    monkeypatch.delenv("MPLCONFIGDIR", raising=False)
    if given:
        monkeypatch.setenv("MPLCONFIGDIR", given)
    (tmp_path / "results" / "trials").mkdir(parents=True)
    places = ["--storage", str(tmp_path / "results"), "--data", str(tmp_path / "data")]
    assert main(["--grid", "augmentations", "--profile", "digits-m", "--report-only", *places]) == 0
    assert Path(found[0]).parent == temporary if given is None else found == [given]
    assert list(temporary.iterdir()) == [], "and they are gone"
