"""The arms of a grid: expands lists, selects by ``--arms``, and parses and checks ``--set``."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from core.config import did_you_mean
from core.errors import InputError
from sweeps.planning.grid import BASE, Fields, Grid
from sweeps.planning.search_space import overlap

#: Fields whose own value is a list: for these only a list of lists makes several arms.
_LISTS = {"projector_dims", "anomaly_datasets"}


def parse_settings(settings: Sequence[str]) -> Fields:
    """Parse ``key=value`` texts into a nested mapping.

    Args:
        settings: the texts; a dotted key sets an entry of a mapping (``augmentation.flip=0``), values are YAML.

    Raises:
        InputError: with every text that cannot be parsed.
    """
    parsed: Fields = {}
    errors = []
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key.strip():
            errors.append(f"--set {setting}: not of the form key=value")
            continue
        try:
            value = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError):
            errors.append(f"--set {setting}: {text!r} is no valid YAML value")
            continue
        nested: Any = value
        for part in reversed(key.strip().split(".")):
            nested = {part: nested}
        parsed = merge(parsed, nested)
    if errors:
        raise InputError(errors)
    return parsed


def merge(under: Mapping[str, Any], over: Mapping[str, Any]) -> Fields:
    """Return ``under`` updated by ``over``: mappings are merged recursively, all other values are replaced."""
    merged = dict(under)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = merge(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged


def expand_arms(grid: Grid) -> dict[str, Fields]:
    """Return every arm's own fields, by name; lists make an arm for each value, and ``base`` is added if missing."""
    return ({} if BASE in grid.arms else {BASE: {}}) | dict(expanded_arms(grid))


def expanded_arms(grid: Grid) -> Iterator[tuple[str, Fields]]:
    """Yield name and own fields of every arm of the grid file, lists expanded; a name may occur twice."""
    for name, content in grid.arms.items():
        fields = content or {}
        axes = list_axes(fields)
        for values in itertools.product(*axes.values()):
            point = dict(zip(axes, values, strict=True))
            suffix = "".join(f"/{key}={_short(value)}" for key, value in point.items())
            yield name + suffix, fields | point


def list_axes(fields: Fields) -> dict[str, list[Any]]:
    """Return the fields of an arm whose lists make several arms of it."""
    return {
        key: value
        for key, value in fields.items()
        if isinstance(value, list) and (key not in _LISTS or (value and all(isinstance(v, list) for v in value)))
    }


def _short(value: Any) -> str:
    if isinstance(value, Mapping):
        return ",".join(f"{key}:{_short(inner)}" for key, inner in value.items())
    return "x".join(map(str, value)) if isinstance(value, list) else str(value)


def select_arms(arms: Mapping[str, Fields], requested: Sequence[str]) -> dict[str, Fields]:
    """Return the named arms; the name of an arm with lists stands for all arms that these make.

    Raises:
        InputError: with every name that is no arm.
    """
    chosen: dict[str, Fields] = {}
    errors = []
    families = list(dict.fromkeys([name.split("/")[0] for name in arms] + list(arms)))
    for name in requested:
        members = {arm: fields for arm, fields in arms.items() if arm == name or arm.startswith(f"{name}/")}
        if not members:
            errors.append(f"--arms {name}: no such arm{did_you_mean(name, families)}; there are {', '.join(families)}")
        chosen |= members
    if errors:
        raise InputError(errors)
    return {name: fields for name, fields in arms.items() if name in chosen}


def _leaves(fields: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in fields.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def settings_errors(grid: Grid, arms: Mapping[str, Fields], settings: Fields) -> list[str]:
    """Return errors of ``--set``: it must set neither the seed nor a field that an arm varies."""
    errors = []
    for key in _leaves(settings):
        if key.split(".")[0] == "seed":
            errors.append("--set seed: seeds are chosen with --seeds")
        varied = [
            arm
            for arm, fields in arms.items()
            if any(overlap(leaf, key) or overlap(leaf.removeprefix("parent."), key) for leaf in _leaves(fields))
        ]
        if varied:
            errors.append(f"--set {key}: grid {grid.name} varies it, in {', '.join(varied)}; set what no arm varies")
    return errors
