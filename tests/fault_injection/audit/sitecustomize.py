"""On the path of every process of a disturbed sweep: writes down what each of them begins, and holds one at a chosen point.

A line of JSON to the file that CHAOS_AUDIT names: the trial taken, the figures drawn, the epoch trained, the process and its
parent, which is its node's raylet. With CHAOS_STORAGE also every file below that folder that is about to be renamed into place,
and the stages of the driver. Product code is left as it is; its functions are wrapped when their modules are imported.

With CHAOS_POINT (``what name``) and CHAOS_GATE (a folder): the first process that comes to the point says so in the file
``reached`` and waits for the file ``go``. Whatever is done to it or to others meanwhile is done at that point of the work.
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

import injected_disk

_FILE = os.environ.get("CHAOS_AUDIT")
_STORAGE = os.environ.get("CHAOS_STORAGE")
_POINT = os.environ.get("CHAOS_POINT")
_PATIENCE = 300.0  # seconds at the gate
_taken = [""]  # the key of the trial that this process works on
#: Methods and functions of the driver: module -> (class or "", name). Points lie before and after each call.
_STAGES = {
    "sweeps.execution.runner": [("SweepRunner", "_start"), ("SweepRunner", "close")],
    "sweeps.execution.cluster": [("", "put_images")],
    "sweeps.tracking.runs": [("RunWriter", "open"), ("RunWriter", "end_trial"), ("RunWriter", "close")],
    "sweeps.finish": [("", "conclude")],
}
_WORK = ("core.train", "sweeps.execution.worker", "sweeps.execution.figure_tasks")


def _write(what: str, epoch: int = 0, **more: Any) -> None:
    about = {"pid": os.getpid(), "parent": os.getppid(), "what": what, "trial": _taken[0], "epoch": epoch}
    line = json.dumps({"time": time.time(), **about, **more}) + "\n"
    descriptor = os.open(str(_FILE), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    os.write(descriptor, line.encode())
    os.close(descriptor)
    _gate(f"{what} {more.get('name') or ' '.join(filter(None, (_taken[0], str(epoch or ''))))}")


def _gate(point: str) -> None:
    if point != _POINT:
        return
    gate = os.environ["CHAOS_GATE"]
    try:
        descriptor = os.open(f"{gate}/reached", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:
        return
    os.write(descriptor, f"{os.getpid()}\n".encode())
    os.close(descriptor)
    until = time.monotonic() + _PATIENCE
    while not os.path.exists(f"{gate}/go") and time.monotonic() < until:  # noqa: PTH110
        time.sleep(0.01)


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


def _of_a_stage(name: str, function: Any) -> Any:
    @functools.wraps(function)
    def audited(*arguments: Any, **named: Any) -> Any:
        _write("stage", name=name)
        result = function(*arguments, **named)
        _write("stage", name=f"{name} over")
        return result

    return audited


def _wrap(module: ModuleType) -> None:
    if module.__name__ == "core.train":
        module._Run.train_epoch = _of_an_epoch(module._Run.train_epoch)  # type: ignore[attr-defined]
    elif module.__name__ == "sweeps.execution.worker":
        module.run_trial = _of_a_trial("trial", module.run_trial)  # type: ignore[attr-defined]
    elif module.__name__ == "sweeps.execution.figure_tasks":
        module.draw_figures = _of_a_trial("draw", module.draw_figures)  # type: ignore[attr-defined]
    elif module.__name__ == "sweeps.command_line":
        _write("stage", name="first line")
    for inner, name in _STAGES.get(module.__name__, ()):
        where = getattr(module, inner) if inner else module
        setattr(where, name, _of_a_stage(f"{inner}.{name}".strip("."), getattr(where, name)))


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "os.rename":
        try:
            name = os.path.relpath(os.fspath(arguments[1]), _STORAGE)
        except TypeError:
            return
        if not name.startswith(os.pardir) and "artifacts/" not in name and not name.startswith("vicreg-sweeps-"):
            _write("file", name=name)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the modules as ever, and wraps their functions once they are loaded."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> Any:
        # The command, or its process that writes to MLflow.
        is_driver = _STORAGE and any(part.endswith("run.py") or "writer_process" in part for part in sys.orig_argv)
        if name not in _WORK and not (is_driver and (name in _STAGES or name == "sweeps.command_line")):
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
    if _STORAGE:
        sys.addaudithook(_audit)
        injected_disk.install(_STORAGE)
