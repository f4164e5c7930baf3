"""The code is in order: lint, format, types, the layers of packages and rooms, and names that shadow nothing."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent


@pytest.mark.parametrize(
    "command", [["ruff", "check", "."], ["ruff", "format", "--check", "."], ["lint-imports"], ["mypy"]], ids=" ".join
)
def test_tools_find_nothing(command: list[str]) -> None:
    done = subprocess.run([str(BIN / command[0]), *command[1:]], cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_file_or_room_of_sweeps_bears_a_modules_name() -> None:
    # `python sweeps/run.py` puts sweeps/ first on the path, where such a file would shadow the module for everybody.
    names = {path.stem for path in (ROOT / "sweeps").iterdir() if path.is_dir() or path.suffix == ".py"} - {"__init__"}
    names -= {"__pycache__", "grids"}
    assert not names & set(sys.stdlib_module_names)
    code = f"import importlib.util as u; print([n for n in {sorted(names)!r} if u.find_spec(n)])"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_core_and_evaluation_run_without_ray_and_mlflow() -> None:
    code = (
        "import sys; sys.modules.update(ray=None, mlflow=None)\n"
        "import core.train, core.folders, evaluation.evaluate, evaluation.baselines"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=120)


def test_every_text_file_is_utf_8_whatever_the_locale() -> None:
    """Ruff's PLW1514 sees files whose type it knows; this sees every call of these names."""
    without = []
    for path in sorted(path for package in ("core", "evaluation", "sweeps") for path in (ROOT / package).rglob("*.py")):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
                continue
            name, places = call.func.attr, {"read_text": 0, "write_text": 1}
            said = any(keyword.arg == "encoding" for keyword in call.keywords)
            if name in places and not said and len(call.args) <= places[name]:
                without.append(f"{path.relative_to(ROOT)}:{call.lineno}")
            if any(keyword.arg in ("text", "universal_newlines") for keyword in call.keywords) and name in ("run", "Popen"):
                without.append(f"{path.relative_to(ROOT)}:{call.lineno}")
    assert not without


def test_the_guarantees_name_tests_that_exist() -> None:
    named = re.findall(r"`(tests/[^`]+)`", (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8"))
    assert len(named) > 15 and [name for name in named if not (ROOT / name).exists()] == []
