"""Formats numbers, durations and config values as readable text."""

from __future__ import annotations

import json
from typing import Any


def p_text(p: float) -> str:
    """Return a p-value with two significant digits, or ``< 0.0001``."""
    return f"{p:.2g}" if p >= 1e-4 else "< 0.0001"


def correlation_text(found: tuple[float, float, float] | None) -> str:
    """Return a correlation with its interval, (correlation, low, high), as text."""
    return "not defined" if found is None else f"{found[0]:+.2f} ({found[1]:+.2f} to {found[2]:+.2f})"


def share_text(share: float | None, interval: tuple[float, float] | None) -> str:
    """Return a share with its interval as text, in hundredths; ``-`` for None."""
    return "-" if share is None or interval is None else f"{share:.2f} ({interval[0]:.2f} to {interval[1]:.2f})"


def interval_text(interval: tuple[float, float] | None) -> str:
    """Return an interval of differences as text, with signs and four decimals; ``-`` for None."""
    return "-" if interval is None else f"{interval[0]:+.4f} to {interval[1]:+.4f}"


def text_of(value: Any) -> str:
    """Return a config value as text: numbers with up to six significant digits, lists in brackets, strings unchanged."""
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, int | float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(text_of, value))}]"
    return str(value)


def duration(seconds: float) -> str:
    """Return a duration in seconds as text, such as 45 s, 3 min 20 s or 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
