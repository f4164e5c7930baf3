"""What was typed, and which code runs."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path


def git_commit() -> str | None:
    """The commit of this code, or None outside of a git checkout."""
    try:
        answer = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None


def command() -> str:
    """What was typed, as it can be typed again."""
    return shlex.join(["python", "sweeps/run.py", *sys.argv[1:]])
