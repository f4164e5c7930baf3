"""Reads and checks grid files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from core.config import TrialConfig, did_you_mean
from core.errors import InputError
from core.paths import expand_home
from evaluation.evaluate import METRICS
from sweeps.planning.arms import expand_arms, expanded_arms, list_axes
from sweeps.planning.claim import parse_claim
from sweeps.planning.grid import BASE, POINT, Grid, Published, StatedClaim
from sweeps.planning.search_space import Range, SearchSpec

GRIDS = Path(__file__).parents[1] / "grids"


def list_grids() -> dict[str, str]:
    """Return the grids that come with the program: name -> question."""
    return {path.stem: load_grid(path.stem).question for path in sorted(GRIDS.glob("*.yaml"))}


def load_grid(name: str) -> Grid:
    """Read a grid by its name, or by the path of a YAML file.

    Raises:
        InputError: with all errors of the file.
    """
    path = _path_of(name)
    content = _read(path)
    try:
        grid = Grid.model_validate({"name": path.stem, **content})
    except ValidationError as error:
        lines = [line for found in error.errors() for line in _schema_error(found).split("\n")]
        raise InputError([f"{path}: {line}" for line in lines]) from None
    errors = _content_errors(grid)
    if not errors:
        names = [name for name, _ in expanded_arms(grid)]
        errors = [f"arms: {name!r} comes about twice" for name in dict.fromkeys(names) if names.count(name) > 1]
        errors += _reference_errors(grid)
    if errors:
        raise InputError([f"{path}: {text}" for text in errors])
    return grid


def _path_of(name: str) -> Path:
    is_path = name.endswith((".yaml", ".yml"))
    path = Path(expand_home(name)) if is_path else GRIDS / f"{name}.yaml"
    if path.is_file():
        return path
    if is_path:
        raise InputError(f"--grid {name}: there is no such file")
    choices = [found.stem for found in sorted(GRIDS.glob("*.yaml"))]
    raise InputError(
        f"--grid {name}: no such grid{did_you_mean(name, choices)}; there are {', '.join(choices)}, or name a .yaml file"
    )


def _read(path: Path) -> dict[Any, Any]:
    try:
        content = yaml.load(path.read_text(), _Loader)
    except (yaml.YAMLError, ValueError) as error:  # PyYAML raises a plain ValueError for an impossible date
        raise InputError(f"{path}: no valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: a grid is a mapping with the keys {', '.join(_grid_keys())}")
    if not re.fullmatch(r"[\w.+-]+", path.stem):
        raise InputError(f"{path}: a grid's name is made of letters, digits and . _ + - only")
    if "name" in content:
        raise InputError(f"{path}: unknown key 'name' (a grid is named after its file); the keys are {', '.join(_grid_keys())}")
    return content


def _content_errors(grid: Grid) -> list[str]:
    """Return errors of a grid that its schema cannot find."""
    errors = []
    if not grid.arms and grid.search is None:
        errors.append("arms: at least one is needed, or a search")
    errors += [
        f"arms.{arm}: this name is reserved for a point of the search" for arm in grid.arms if grid.search and POINT.match(arm)
    ]
    if grid.primary not in METRICS:
        errors.append(
            f"primary: {grid.primary!r} is no metric{did_you_mean(grid.primary, list(METRICS))}; there are {', '.join(METRICS)}"
        )
    if min(grid.seeds) < 0 or len(set(grid.seeds)) < len(grid.seeds):
        errors.append(f"seeds: {list(grid.seeds)} holds a seed twice or a negative one")
    places = {"base": grid.base} | {f"arms.{arm}": fields or {} for arm, fields in grid.arms.items()}
    for place, fields in places.items():
        if "seed" in fields:
            errors.append(f"{place}: seed: seeds are chosen with the grid's key seeds, or with --seeds")
    for arm, content in grid.arms.items():
        axes = list_axes(content or {})
        if arm == BASE and axes:
            errors.append(f"arms.base: {', '.join(axes)}: base is one arm, a list would make several")
        errors += [f"arms.{arm}: {key}: an empty list makes no arm" for key, values in axes.items() if not values]
    return errors


def _reference_errors(grid: Grid) -> list[str]:
    """Return errors of claims and published numbers that name an unknown arm, metric or field."""
    arms, errors = expand_arms(grid), []
    for stated in grid.claims:
        try:
            parse_claim(stated.claim, arms)
        except InputError as error:
            errors += [f"claims: {fault}" for fault in error.errors]
    known = list(TrialConfig().fields())
    for who, published in grid.published.items():
        errors += [
            f"published.{who}.setting: {name!r} is no field{did_you_mean(name, known)}; there are {', '.join(known)}"
            for name in published.setting
            if name not in known
        ]
        for arm, values in published.values.items():
            if arm not in arms:
                errors.append(f"published.{who}: {arm!r} is no arm{did_you_mean(arm, list(arms))}; there are {', '.join(arms)}")
            errors += [
                f"published.{who}.{arm}: {name!r} is no metric{did_you_mean(name, list(METRICS))}; "
                f"there are {', '.join(METRICS)}"
                for name in values
                if (metric := METRICS.get(name.partition("/")[0])) is None or ("/" in name and not metric.per_anomaly_set)
            ]
    return errors


class _Loader(yaml.SafeLoader):
    """Refuses a key that is given twice; PyYAML would silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.YAMLError(f"the key {key!r} is given twice, line {node.start_mark.line + 1}")
        return super().construct_mapping(node, deep)


def _grid_keys() -> list[str]:
    return [key for key in Grid.model_fields if key != "name"]


def _schema_error(fault: Any) -> str:
    path = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        nested = {
            "claims": list(StatedClaim.model_fields), "published": list(Published.model_fields),
            "search": list((Range if len(fault["loc"]) > 2 else SearchSpec).model_fields),
        }  # fmt: skip
        keys = nested.get(str(fault["loc"][0]), _grid_keys())
        return f"unknown key {path!r}{did_you_mean(str(fault['loc'][-1]), keys)}; the keys are {', '.join(keys)}"
    message = str(fault["msg"]).removeprefix("Value error, ")
    return f"{path}: {message[0].lower()}{message[1:]}"
