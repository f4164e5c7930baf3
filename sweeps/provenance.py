"""The command that was typed, and the commit of the code."""

from __future__ import annotations

import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

from sweeps.masking import MASK, mask


@cache
def git_commit() -> str | None:
    """Return the commit of this code, or None outside of a git checkout."""
    try:
        answer = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=Path(__file__).parent,
            capture_output=True,
            encoding="utf-8",
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None


def command_line() -> str:
    """Return the command that was typed, ready to be typed again; a password in it is hidden, which a comment then says."""
    return _typed("python", "sweeps/run.py")


def continuing_command() -> str:
    """Return the command as :func:`command_line`, with the interpreter and the script by the paths that were typed."""
    known = sys.argv[0].endswith("run.py") and sys.argv[0] in sys.orig_argv
    return _typed(sys.orig_argv[0], sys.argv[0]) if known else command_line()


def _typed(*program: str) -> str:
    shown = [mask(argument) for argument in sys.argv[1:]]
    hint = f"  # {MASK} stands for the password" if shown != sys.argv[1:] else ""
    return shlex.join([*program, *shown]) + hint
