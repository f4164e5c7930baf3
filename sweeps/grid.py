"""Grid files: what varies in a study. Reading them, their arms, and what ``--set`` and ``--arms`` say about them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from core.config import suggest
from core.errors import InputError
from evaluation.evaluate import METRICS

GRIDS = Path(__file__).parent / "grids"
BASE = "base"
Fields = dict[str, Any]

#: Fields whose own value is a list: in an arm only a list of lists makes several arms of them.
_LISTS = {"projector_dims", "anomaly_datasets"}


class Grid(BaseModel):
    """A grid file. ``name`` is the file's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    question: str = Field(min_length=1)
    primary: str = "probe_accuracy"
    base: Fields = Field(default_factory=dict)
    arms: dict[str, Fields | None] = Field(min_length=1)
    seeds: tuple[int, ...] = Field((0,), min_length=1)
    claims: tuple[str, ...] = ()


def list_grids() -> dict[str, str]:
    """The grids that come with the program: name -> question."""
    return {path.stem: load_grid(path.stem).question for path in sorted(GRIDS.glob("*.yaml"))}


def load_grid(name: str) -> Grid:
    """Reads a grid by its name, or by the path of a YAML file.

    Raises:
        InputError: with all faults of the file.
    """
    is_path = name.endswith((".yaml", ".yml"))
    path = Path(name) if is_path else GRIDS / f"{name}.yaml"
    if not path.is_file():
        choices = [found.stem for found in sorted(GRIDS.glob("*.yaml"))]
        raise InputError(
            f"--grid {name}: there is no such file"
            if is_path
            else f"--grid {name}: no such grid{suggest(name, choices)}; there are {', '.join(choices)}, or name a .yaml file"
        )
    try:
        content = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: no valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: a grid is a mapping with the keys {', '.join(_grid_keys())}")
    try:
        grid = Grid.model_validate({"name": path.stem, **content})
    except ValidationError as error:
        raise InputError([f"{path}: {_grid_fault(fault)}" for fault in error.errors()]) from None
    if grid.primary not in METRICS:
        raise InputError(
            f"{path}: primary: {grid.primary!r} is no metric{suggest(grid.primary, list(METRICS))}; "
            f"there are {', '.join(METRICS)}"
        )
    return grid


def _grid_keys() -> list[str]:
    return [key for key in Grid.model_fields if key != "name"]


def _grid_fault(fault: Any) -> str:
    path = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        return f"unknown key {path!r}{suggest(path, _grid_keys())}; the keys are {', '.join(_grid_keys())}"
    return f"{path}: {fault['msg'][0].lower()}{fault['msg'][1:]}"


def parse_settings(settings: Sequence[str]) -> Fields:
    """``key=value`` texts as a nested mapping; a dotted key reaches into one (``augmentation.flip=0``); values are YAML."""
    parsed: Fields = {}
    faults = []
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key.strip():
            faults.append(f"--set {setting}: not of the form key=value")
            continue
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            faults.append(f"--set {setting}: {text!r} is no valid YAML value")
            continue
        nested: Any = value
        for part in reversed(key.strip().split(".")):
            nested = {part: nested}
        parsed = merge(parsed, nested)
    if faults:
        raise InputError(faults)
    return parsed


def merge(under: Mapping[str, Any], over: Mapping[str, Any]) -> Fields:
    """``over`` laid over ``under``; mappings are merged, everything else is replaced."""
    merged = dict(under)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = merge(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged


def expand_arms(grid: Grid) -> dict[str, Fields]:
    """Every arm's own fields, by name: ``base`` is added where it is missing, lists make an arm for each value."""
    arms: dict[str, Fields] = {} if BASE in grid.arms else {BASE: {}}
    for name, content in grid.arms.items():
        fields = content or {}
        axes = {
            key: value
            for key, value in fields.items()
            if isinstance(value, list) and (key not in _LISTS or (value and all(isinstance(v, list) for v in value)))
        }
        for values in itertools.product(*axes.values()):
            point = dict(zip(axes, values, strict=True))
            suffix = "".join(f"/{key}={_short(value)}" for key, value in point.items())
            arms[name + suffix] = fields | point
    return arms


def _short(value: Any) -> str:
    if isinstance(value, Mapping):
        return ",".join(f"{key}:{_short(inner)}" for key, inner in value.items())
    return "x".join(map(str, value)) if isinstance(value, list) else str(value)


def select_arms(arms: Mapping[str, Fields], wanted: Sequence[str]) -> dict[str, Fields]:
    """The named arms; the name of a list's family stands for all of its arms."""
    chosen: dict[str, Fields] = {}
    faults = []
    families = list(dict.fromkeys([name.split("/")[0] for name in arms] + list(arms)))
    for name in wanted:
        members = {arm: fields for arm, fields in arms.items() if arm == name or arm.startswith(f"{name}/")}
        if not members:
            faults.append(f"--arms {name}: no such arm{suggest(name, families)}; there are {', '.join(families)}")
        chosen |= members
    if faults:
        raise InputError(faults)
    return {name: fields for name, fields in arms.items() if name in chosen}


def _leaves(fields: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in fields.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key


def settings_faults(grid: Grid, arms: Mapping[str, Fields], settings: Fields) -> list[str]:
    """Faults of ``--set``: a field that an arm varies, or the seed."""
    faults = []
    for key in _leaves(settings):
        if key == "seed":
            faults.append("--set seed: seeds are chosen with --seeds")
        varied = [
            arm
            for arm, fields in arms.items()
            if any(leaf == key or leaf.startswith(f"{key}.") or key.startswith(f"{leaf}.") for leaf in _leaves(fields))
        ]
        if varied:
            faults.append(f"--set {key}: grid {grid.name} varies it, in {', '.join(varied)}; set what no arm varies")
    return faults
