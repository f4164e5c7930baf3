"""On the path of every process that :mod:`tests.fault_injection.kill_sweeps` starts: writes down what each of them begins.

A line of JSON to the file that CHAOS_AUDIT names: the trial taken, the figures drawn, the epoch trained, the process and its
parent, which is its node's raylet. Product code is left as it is; its functions are wrapped when their modules are imported.
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.machinery
import json
import os
import sys
import time
from collections.abc import Sequence
from types import ModuleType
from typing import Any

_FILE = os.environ.get("CHAOS_AUDIT")
_taken = [""]  # the key of the trial that this process works on


def _write(what: str, epoch: int = 0, **more: float) -> None:
    about = {"pid": os.getpid(), "parent": os.getppid(), "what": what, "trial": _taken[0], "epoch": epoch}
    line = json.dumps({"time": time.time(), **about, **more}) + "\n"
    descriptor = os.open(str(_FILE), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    os.write(descriptor, line.encode())
    os.close(descriptor)


def _of_a_trial(what: str, function: Any) -> Any:
    @functools.wraps(function)
    def audited(trial: Any, *arguments: Any, **named: Any) -> Any:
        _taken[0] = trial.key
        began = time.time()
        _write(what)
        result = function(trial, *arguments, **named)
        if os.environ.get("CHAOS_AUDIT_ENDS"):
            _write(f"{what} ended", began=began)
        return result

    return audited


def _of_an_epoch(method: Any) -> Any:
    @functools.wraps(method)
    def audited(self: Any, epoch: int) -> Any:
        _write("epoch", epoch)
        return method(self, epoch)

    return audited


def _wrap(module: ModuleType) -> None:
    if module.__name__ == "core.train":
        module._Run.train_epoch = _of_an_epoch(module._Run.train_epoch)  # type: ignore[attr-defined]
    elif module.__name__ == "sweeps.execution.worker":
        module.run_trial = _of_a_trial("trial", module.run_trial)  # type: ignore[attr-defined]
    else:
        module.draw_figures = _of_a_trial("draw", module.draw_figures)  # type: ignore[attr-defined]


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the modules as ever, and wraps their functions once they are loaded."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> Any:
        if name not in ("core.train", "sweeps.execution.worker", "sweeps.execution.figure_tasks"):
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def load_and_wrap(module: ModuleType) -> None:
                load(module)
                _wrap(module)

            spec.loader.exec_module = load_and_wrap  # type: ignore[method-assign]
        return spec


if _FILE:
    sys.meta_path.insert(0, _Finder())
