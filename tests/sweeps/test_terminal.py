"""What the command prints, where a console lacks characters, nobody reads, or a text would command the terminal."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.table import Table

from sweeps.terminal import SafeConsole, escaped, readable
from tests.conftest import ROOT

SAYS = (
    "import sys; from sweeps import terminal; terminal.prepare_streams()\n"
    "console = terminal.make_console()\n"
    "console.print('\\xb1 \\xb7 \\u2026 \\u2192 \\xe9 \\udcff', highlight=False)\n"
    "terminal.complain('\\xb1 \\udcff')\n"
)


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [("ascii", "+- - ... -> e \\udcff"), ("iso-8859-1", "± · ... -> é \\udcff"), ("utf-8", "± · … → é \\udcff")],
)
def test_a_character_that_the_console_lacks_is_replaced(
    encoding: str, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    out, complaints = io.BytesIO(), io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(out, encoding))
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(complaints, encoding))
    kept = sys.stdout, sys.stderr
    exec(SAYS, {})
    sys.stdout.flush()
    assert out.getvalue().decode(encoding) == shown + "\n" and kept
    assert complaints.getvalue().decode(encoding) == f"{shown.split(maxsplit=1)[0]} \\udcff\n"


def test_so_it_is_in_the_c_locale() -> None:
    surroundings = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run([sys.executable, "-c", SAYS], capture_output=True, timeout=100, cwd=ROOT, env=surroundings)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"+- - ... -> e \\udcff\n", b"+- \\udcff\n")


def test_control_characters_are_shown_and_not_obeyed() -> None:
    evil = "a\x1b[2Jb\x07\x9b31m\u202ec\r\ud800"
    assert escaped(evil) == "a\\x1b[2Jb\\x07\\x9b31m\\u202ec\\r\\ud800" and escaped("tab\t\nend") == "tab\t\nend"
    out = io.StringIO()
    console = SafeConsole(file=out, width=100, markup=False, force_terminal=True, color_system="standard")
    table = Table("head \x1b]0;title\x07", title="\x1b[31mred")
    table.add_row(evil)
    console.print(table)
    console.print(evil, "bold", style="bold red", soft_wrap=True)
    said = out.getvalue()
    for sequence in ("\x1b[2J", "\x07", "\x9b", "\u202e", "\x1b]0", "\r", "\x1b[31mred"):
        assert sequence not in said, repr(sequence)
    assert "a\\x1b[2Jb" in said and "\x1b[1;31m" in said, "rich's own styles are"
    assert readable(evil, console) == escaped(evil)


def _head(*command: str, lines: int = 1) -> tuple[int, str]:
    """A command whose output is read up to a line and then closed: its exit code and stderr."""
    process = subprocess.Popen(
        [sys.executable, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT, bufsize=0
    )  # fmt: skip
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None
    for _ in range(lines):
        process.stdout.readline()
    process.stdout.close()
    process.stdin.close()
    said = process.stderr.read().decode()
    return process.wait(100), said


@pytest.mark.parametrize(
    "flags", [["--list"], ["--help"], ["--list-fields"], ["--grid", "ablations", "--dry-run", "--profile", "digits-m"]],
    ids=lambda flags: flags[0],
)  # fmt: skip
def test_a_pipe_that_closes_early_is_no_error(flags: list[str], tmp_path: Path) -> None:
    assert _head("sweeps/run.py", *flags, "--storage", str(tmp_path / "results")) == (0, "")


def test_after_the_reader_is_gone_the_command_goes_on(tmp_path: Path) -> None:
    code = SAYS + (
        "terminal.say_when_unread('nobody reads'); sys.stdin.read(1)\n"
        "for n in (100_000, 50, 50): console.print('x' * n, highlight=False)\n"
        f"open({str(tmp_path / 'end')!r}, 'w', encoding='utf-8').close(); sys.exit(0 if terminal.is_complete() else 1)"
    )
    exit_code, said = _head("-c", code)
    assert exit_code == 0 and said.splitlines()[1:] == ["nobody reads"] and (tmp_path / "end").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_output_that_is_lost_for_another_reason_is_told() -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "sweeps/run.py", "--list"], stdout=full, stderr=subprocess.PIPE, timeout=100, cwd=ROOT
        )  # fmt: skip
    assert done.returncode == 1 and b"the output cannot be written (No space left on device" in done.stderr
    assert done.stderr.count(b"\n") == 1


def test_closed_streams_are_no_error() -> None:
    done = subprocess.run(f"{sys.executable} sweeps/run.py --list >&- 2>&-", shell=True, timeout=100, cwd=ROOT)
    assert done.returncode == 0


def test_ray_can_be_started_though_stderr_is_closed(tmp_path: Path) -> None:
    code = "from sweeps import terminal; terminal.prepare_streams(); from sweeps.execution import watch\n" + (
        "with watch.limit(60, 'too slow'), watch.silenced(): open('begun', 'w', encoding='utf-8').close()"
    )
    line = f"{sys.executable} -c '{code.replace(chr(39), chr(34))}' 2>&-"
    done = subprocess.run(line, shell=True, timeout=100, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0 and (tmp_path / "begun").exists()
