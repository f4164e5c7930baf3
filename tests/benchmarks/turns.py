"""Timing several ways of doing the same thing in turn, so that a slow moment of the machine meets them all."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any


def in_turn(ways: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Name -> median seconds over rounds, after one round that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for i in range(rounds + 1):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            if i:
                seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}


def rows(what: str, ways: Mapping[str, Callable[[], Any]], rounds: int, *, of: float | None = None) -> Iterator[str]:
    """A line for each way: its figure, and how many times the first way's time it takes.

    Args:
        what: what is done.
        ways: name -> the way.
        rounds: how often each is timed.
        of: so many things are done each time; the figure is then things per second. None: seconds.
    """
    found = in_turn(ways, rounds)
    first = next(iter(found.values()))
    for name, seconds in found.items():
        figure = f"{seconds:10.4g} s" if of is None else f"{of / seconds:10.4g} /s"
        yield f"{what:34} {name:14} {figure:14} {seconds / first:6.2f} times the first one's time"
