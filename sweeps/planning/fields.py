"""Nested mappings of config fields: how one is laid over another, and the dotted keys that one sets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sweeps.planning.grid import Fields


def merge(under: Mapping[str, Any], over: Mapping[str, Any]) -> Fields:
    """Return ``under`` updated by ``over``: mappings are merged recursively, all other values are replaced."""
    merged = dict(under)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = merge(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged


def leaves(fields: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield the dotted keys that a mapping sets."""
    for key, value in fields.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"
