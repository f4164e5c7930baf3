"""``python -m tests.sweeps.failing COMMAND...``: sweeps/run.py with workers that do what an arm's name says."""

from __future__ import annotations

import sys
from typing import Any


def odd_trial(trial: Any, *arguments: Any, **options: Any) -> None:
    """``run_trial``, save for arms called ``raises`` and ``hungry``."""
    import time

    from sweeps.execution.worker import run_trial

    if trial.arm == "raises":
        raise KeyError("an odd one")
    if trial.arm == "hungry":
        held = []
        while True:  # until the worker is killed for it
            held.append(b"x" * 2**26)
            time.sleep(0.02)
    run_trial(trial, *arguments, **options)


def main() -> int:
    """Runs the command line with such workers."""
    from ray import cloudpickle

    from sweeps import run
    from sweeps.execution import tune_backend

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    tune_backend.run_trial = odd_trial
    return run.main()


if __name__ == "__main__":
    sys.exit(main())
