"""Bad input ends with exit code 2 and one message that names place and remedy; nothing is started or written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sweeps.execution.runner import SweepRunner
from sweeps.run import main
from tests.conftest import ROOT
from tests.sweeps.bad_input import FLAGS, GRIDS

#: Words of Python and of pydantic, which a grid file does not have.
_FOREIGN = ("tuple", "dict", "Input should", "pydantic", "Traceback", "None", "True", "instance of", "valid string")
#: Those that are run as whole commands as well; the same function reads all of them.
COMMANDS = ["alias bomb", "deep flow", "ISO 8859-1", "base 60", "name with escapes", "two names alike"]


def listing(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


def said(arguments: list[str], root: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that must be refused, and return its message."""
    flags = [text.partition("=")[0] for text in arguments]
    defaults = {
        "--grid": "augmentations",
        "--profile": "digits-m",
        "--storage": str(root / "results"),
        "--data": str(root / "d"),
    }
    more = [text for flag, value in defaults.items() if flag not in flags for text in (flag, value)]
    before = listing(root)
    try:
        code = main([*arguments, *more])
    except SystemExit as end:
        code = int(end.code or 0)
    message = capsys.readouterr().err
    assert code == 2, message
    assert listing(root) == before, "nothing is written"
    assert all(line.isprintable() for line in message.splitlines()), "nothing that acts on the terminal"
    assert not [word for word in (*_FOREIGN, "geheimnis99") if word in message], message
    return message


@pytest.fixture(autouse=True)
def nothing_starts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def run(*_: object) -> None:
        raise AssertionError("a sweep was started")

    monkeypatch.setattr(SweepRunner, "run", run)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", GRIDS)
def test_a_bad_grid_file(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content, named = GRIDS[name]
    (tmp_path / "g.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
    message = said(["--grid", "g.yaml"], tmp_path, capsys)
    assert message.startswith("error: g.yaml") or message.startswith("error: grid g"), "the file is named"
    assert all(text in message for text in named), message


@pytest.mark.parametrize(
    ("arguments", "named"), FLAGS, ids=lambda value: " ".join(value)[:40].encode("unicode_escape").decode()
)
def test_bad_flags(arguments: list[str], named: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = said(arguments, tmp_path, capsys)
    assert all(text in message for text in named), message
    assert sum(line.startswith("error: ") or ": error: " in line for line in message.splitlines()) == 1, "one message"


def test_there_are_at_least_a_hundred() -> None:
    assert len(GRIDS) + len(FLAGS) >= 150


def test_a_grid_that_is_no_regular_file_is_not_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "folder.yaml").mkdir()
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "device.yaml").symlink_to("/dev/zero")
    for name in ("folder", "pipe", "device"):
        assert f"--grid {name}.yaml: it is no regular file" in said(["--grid", f"{name}.yaml"], tmp_path, capsys)


def test_a_grid_that_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "g.yaml").write_text("arms: {x: {}}")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    assert "g.yaml: it cannot be read (Permission denied)" in said(["--grid", "g.yaml"], tmp_path, capsys)


def test_all_faults_of_all_stages_come_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "g.yaml").write_text(
        "question: 3\nmargin: x\nbases: {}\narms:\n  x: {mu: -1}\n  y: {nu: [1, off]}\n  ' z': {}\n"
        "claims: [3, 'nmi: base > q']\nprimary: probe\n"
    )
    message = said(["--grid", "g.yaml", "--set", "lamda=3", "--seeds", "x", "--profile", "y"], tmp_path, capsys)
    for text in (
        "line 1: question", "line 2: margin", "line 3: unknown key 'bases'", "line 5: arms.x.mu", "line 6: arms.y.nu.1: off",
        "line 7: arms.' z'", "line 8: claims.0.claim", "line 9: primary", "--set lamda=3", "--seeds x", "--profile y",
    ):  # fmt: skip
        assert text in message


def test_an_error_of_one_stage_hides_none_of_another(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "g.yaml").write_text("arms:\n  x: {mu: -1}\n")
    flags = ["--arms", ",", "--gpus-per-trial", "7", "--until-decided", "--budget", "2gpu-h", "--seeds", "3"]
    message = said(["--grid", "g.yaml", *flags], tmp_path, capsys)
    for text in ("arms.x.mu", "--arms: no arm is named", "--gpus-per-trial 7.0: Ray sees"):
        assert text in message
    (tmp_path / "g.yaml").write_text("arms:\n  x: {schedule: cosine, warmup_epochs: 90}\n")
    message = said(["--grid", "g.yaml", "--arms", "z", "--set", "dataset=folder:/nowhere"], tmp_path, capsys)
    for text in ("warmup_epochs: 90.0 leaves nothing", "--arms z: no such arm", "folder:/nowhere: there is no such folder"):
        assert text in message


def test_a_cluster_that_was_not_asked_is_not_spoken_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--grid", "augmentations", "--address", "10.9.8.7:6379", "--gpus-per-trial", "1", "--set", "epochs=x"]
    message = said(flags, tmp_path, capsys)
    assert "epochs: a number is needed" in message and "GPU(s)" not in message


def test_thousands_of_errors_are_not_all_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "g.yaml").write_text("arms:\n" + "".join(f"  a{i}: {{mu: -1}}\n" for i in range(300)))
    message = said(["--grid", "g.yaml"], tmp_path, capsys)
    assert len(message.splitlines()) == 51 and message.endswith("and 250 more errors\n")


@pytest.mark.slow
@pytest.mark.parametrize("case", [*COMMANDS, 1, 6, 25, 48], ids=str)
def test_bad_commands(case: str | int, tmp_path: Path) -> None:
    if isinstance(case, str):
        content, named = GRIDS[case]
        (tmp_path / "g.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
        arguments = ["--grid", "g.yaml"]
    else:
        arguments, named = FLAGS[case]
        arguments = ["--grid", "augmentations", *arguments]
    before = listing(tmp_path)
    line = [sys.executable, str(ROOT / "sweeps" / "run.py"), *arguments, "--profile", "digits-m", "--data", str(tmp_path / "d")]
    done = subprocess.run(line, capture_output=True, text=True, timeout=100, cwd=tmp_path)
    assert done.returncode == 2 and not done.stdout, done.stderr
    assert all(text in done.stderr for text in named) and "Traceback" not in done.stderr
    assert listing(tmp_path) == before
