"""Texts for people."""

from __future__ import annotations

from sweeps.formatting import duration


def test_durations() -> None:
    assert [duration(s) for s in (4.4, 75, 3900)] == ["4 s", "1 min 15 s", "1 h 5 min"]
