"""Reads and checks grid files: all errors of a file at once, each with its line."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from core.config import TrialConfig, field_faults, keys_at
from core.errors import InputError
from core.messages import Fault, Place, as_typed, did_you_mean, dotted, faults_of, first_of, listed, shown
from core.paths import expand_home
from evaluation.evaluate import METRICS
from sweeps.planning.arm_names import folded, name_error
from sweeps.planning.arms import count_arms, expand_arms, expanded_arms, list_axes
from sweeps.planning.claim import parse_claim
from sweeps.planning.factorial import factorial_errors
from sweeps.planning.grid import BASE, MAX_TRIALS, PARENT_OF, POINT, Grid, Published, StatedClaim
from sweeps.planning.search_space import Range, SearchSpec
from sweeps.planning.yaml_reader import Document, NotReadableError, read_yaml

GRIDS = Path(__file__).parents[1] / "grids"
#: The largest grid file that is read, in bytes.
MAX_BYTES = 256 * 1024
#: The longest name of a grid, in bytes: a sweep's folder and files are named after it.
_MAX_NAME = 150

#: What stands for an entry that is refused, so that the others are still checked.
_HARMLESS: dict[str, Any] = {
    "arms": {}, "factorial": {}, "claims": {"claim": "probe_accuracy: base > 0"}, "published": {"values": {}},
}  # fmt: skip

Errors = list[tuple[Place, str]]


def list_grids() -> dict[str, str]:
    """Return the grids that come with the program: name -> question."""
    return {path.stem: load_grid(path.stem).question for path in sorted(GRIDS.glob("*.yaml"))}


def load_grid(name: str) -> Grid:
    """Read a grid by its name, or by the path of a YAML file.

    Raises:
        InputError: with all errors of the file.
    """
    path = _path_of(name)
    try:
        document = read_yaml(_text_of(path))
    except NotReadableError as error:
        raise InputError(f"{path}, {error}") from None
    grid, errors = _grid_of(document, path)
    if errors:
        errors.sort(key=lambda error: document.line(error[0]) or 0)
        lines = [(document.line(place), text) for place, text in errors]
        texts = list(dict.fromkeys(f"{path}{f', line {line}' if line else ''}: {text}" for line, text in lines))
        raise InputError(first_of(texts))
    return grid


def _path_of(name: str) -> Path:
    is_path = name.endswith((".yaml", ".yml"))
    path = Path(expand_home(name)) if is_path else GRIDS / f"{name}.yaml"
    choices = [found.stem for found in sorted(GRIDS.glob("*.yaml"))]
    if not is_path:
        if name in choices:
            return path
        hint = f"{did_you_mean(name, choices)}; there are {', '.join(choices)}, or name a .yaml file"
        raise InputError(f"--grid {as_typed(name)}: no such grid{hint}")
    try:
        exists, is_file = path.exists(), path.is_file()
    except (OSError, ValueError) as error:  # a name that is too long, or holds NUL
        raise InputError(f"--grid {as_typed(name)}: {_reason(error)}") from None
    if not is_file:
        raise InputError(f"--grid {as_typed(name)}: {'it is no regular file' if exists else 'there is no such file'}")
    if not re.fullmatch(r"[\w.+-]+", path.stem) or len(os.fsencode(path.stem)) > _MAX_NAME:
        raise InputError(
            f"--grid {as_typed(name)}: a grid's name, its file's, is made of letters, digits and . _ + - only, "
            f"and of at most {_MAX_NAME} bytes"
        )
    return path


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _text_of(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path}: it cannot be read ({_reason(error)})") from None
    if len(content) > MAX_BYTES:
        raise InputError(f"{path}: it is larger than {MAX_BYTES // 1024} KiB, which no grid file is")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}, line {line}: the bytes there are no UTF-8; save the file in this encoding") from None


# -- the checks ----------------------------------------------------------------------------------------------------------


def _grid_of(document: Document, path: Path) -> tuple[Grid, Errors]:
    """Return the grid, without what is wrong in it, and the errors."""
    content = document.value
    if content is None and not document.errors:
        raise InputError(f"{path}: the file is empty; a grid is a mapping with the keys {', '.join(_grid_keys())}")
    if not isinstance(content, dict):
        raise InputError(f"{path}: a grid is a mapping with the keys {', '.join(_grid_keys())}")
    errors: Errors = [(place, f"{_dotted(place)}{text}") for place, text in document.errors.items()]
    content = {"question": path.stem, **content}
    if "name" in content:
        keys = ", ".join(_grid_keys())
        errors.append((("name",), f"unknown key 'name' (a grid is named after its file); the keys are {keys}"))
    grid, faults, missing = _sound_part(content | {"name": path.stem})
    errors += [(fault.place, line) for fault in faults for line in fault.lines(_keys_at)]
    errors += _content_errors(grid, missing) + _field_errors(grid)
    refused = {fault.place[:2] for fault in faults}  # what stands for these switches sets no field, which is no further error
    of_switches = [(place, text) for place, text in factorial_errors(grid, _list_fields(grid)) if place[:2] not in refused]
    errors += of_switches
    if not missing & {"arms", "search", "factorial"}:
        errors += _name_errors(grid)
        readable = not any(place[:1] in (("arms",), ("factorial",)) for place in document.errors)
        if count_arms(grid) <= MAX_TRIALS and readable and not of_switches:
            errors += _reference_errors(grid)
    # What follows from an error at the same place, or above it, is not an error of its own.
    return grid, [
        (place, text) for place, text in errors
        if not any(place[: len(wrong)] == wrong for wrong in document.errors)
        or text == f"{_dotted(place)}{document.errors.get(place)}"
    ]  # fmt: skip


def _dotted(place: Place) -> str:
    return f"{dotted(place)}: " if place else ""


def _sound_part(content: dict[str, Any]) -> tuple[Grid, list[Fault], set[str]]:
    """Return the grid without what its schema refuses, the refusals, and the keys that were left out whole."""
    faults: list[Fault] = []
    left_out: set[str] = set()
    replaced: set[Place] = set()
    while True:
        try:
            return Grid.model_validate(content), faults, left_out
        except ValidationError as error:
            found = faults_of(error)
        faults += [Fault(_plain(fault.place), fault.text, fault.unknown) for fault in found]
        content = dict(content)
        for fault in found:
            key, *inner = fault.place
            entries, place = content.get(str(key)), fault.place[:2]
            # A place that is refused again is not where the fault is: pydantic 2.11 changes names with halves of characters.
            if inner and key in _HARMLESS and isinstance(entries, dict | list) and place not in replaced:
                replaced.add(place)
                content[str(key)] = type(entries)(entries)
                content[str(key)][inner[0]] = _HARMLESS[str(key)]
            else:
                left_out.add(str(key))
        content = {"question": content["name"]} | {key: value for key, value in content.items() if key not in left_out}


def _plain(place: Place) -> Place:
    """Return a place without the tag that tells a range from choices."""
    return place[:3] + place[4:] if place[:2] == ("search", "space") else place


def _content_errors(grid: Grid, missing: set[str]) -> Errors:
    """Return errors of a grid that its schema cannot find."""
    errors: Errors = []
    if not grid.arms and grid.search is None and grid.factorial is None and not missing & {"arms", "search", "factorial"}:
        errors.append((("arms",), "arms: at least one is needed, or a search, or a factorial"))
    if grid.primary not in METRICS:
        choices = ", ".join(METRICS)
        text = f"primary: {shown(grid.primary)} is no metric{did_you_mean(grid.primary, list(METRICS))}; there are {choices}"
        errors.append((("primary",), text))
    if len(set(grid.seeds)) < len(grid.seeds):
        errors.append((("seeds",), f"seeds: {shown(list(grid.seeds))} holds a seed twice"))
    for arm, content in grid.arms.items():
        axes = list_axes(content or {})
        if arm == BASE and axes:
            text = f"arms.base: {', '.join(axes)}: base is one arm, a list would make several"
            errors.append((("arms", arm, next(iter(axes))), text))
        errors += [
            (("arms", arm, key), f"arms.{as_typed(arm)}: {key}: an empty list makes no arm")
            for key, values in axes.items()
            if not values
        ]
    if (count := count_arms(grid)) > MAX_TRIALS:
        errors.append((("arms",), f"arms: their lists make {count:,} arms; at most {MAX_TRIALS:,} trials are planned"))
    return errors


def _field_errors(grid: Grid) -> Errors:
    """Return errors of the fields of base, of the arms and of the switches, each value of a list by itself."""
    errors: Errors = []
    places: dict[Place, Mapping[str, Any]] = {("base",): grid.base}
    places |= {("arms", arm): content or {} for arm, content in grid.arms.items()}
    lists = _list_fields(grid)
    for switch, content in (grid.factorial or {}).items():
        places["factorial", switch] = {key: value for key, value in content.items() if key not in lists[switch]}
    for place, fields in places.items():
        if "seed" in fields:
            text = f"{_dotted(place)}seed: seeds are chosen with the grid's key seeds, or with --seeds"
            errors.append(((*place, "seed"), text))
        for at, single in _single(fields, with_lists=place[0] == "arms"):
            for fault in field_faults(single):
                where: Place = (*place, *fault.place[:1], *at, *fault.place[1:])
                where = where if not fault.unknown or len(fault.place) > 1 else where[: len(place) + 1]
                errors += [(where, line) for line in Fault(where, fault.text, fault.unknown).lines(_keys_at)]
    return errors


def _list_fields(grid: Grid) -> dict[str, list[str]]:
    """Return switch -> its fields with a list where a single value is needed."""
    return {switch: list(list_axes(fields)) for switch, fields in (grid.factorial or {}).items()}


def _single(fields: Mapping[str, Any], *, with_lists: bool) -> Iterator[tuple[Place, Mapping[str, Any]]]:
    """Yield the fields, and each value of each list that makes arms by itself, with the value's index in the list."""
    axes = list_axes(dict(fields)) if with_lists else {}
    yield (), {key: value for key, value in fields.items() if key not in axes and key != "seed"}
    for key, values in axes.items():
        yield from (((index,), {key: value}) for index, value in enumerate(values[:MAX_TRIALS]) if key != "seed")


def _name_errors(grid: Grid) -> Errors:
    errors: Errors = []
    first: dict[str, str] = {}
    for arm in grid.arms:
        place: Place = ("arms", arm)
        if (wrong := name_error(arm)) is not None:
            errors.append((place, f"arms.{shown(arm)}: {wrong}"))
        elif grid.search and POINT.match(arm):
            errors.append((place, f"arms.{as_typed(arm)}: this name is reserved for a point of the search"))
        elif arm.startswith(PARENT_OF):
            errors.append(
                (place, f"arms.{as_typed(arm)}: names that begin with {PARENT_OF!r} are kept for parents that are added")
            )
        elif (other := first.setdefault(folded(arm), arm)) != arm:
            errors.append((place, f"arms.{as_typed(arm)}: MLflow cannot tell this name from {other!r}; choose another"))
    return errors


def _reference_errors(grid: Grid) -> Errors:
    """Return errors of names: of an arm that comes about twice, and of unknown arms, metrics or fields."""
    names = [name for name, _ in expanded_arms(grid)]
    arms, counts = expand_arms(grid), dict.fromkeys(names, 0)
    for name in names:
        counts[name] += 1
    errors: Errors = [(("arms",), f"arms: {name!r} comes about twice") for name, count in counts.items() if count > 1]
    for index, stated in enumerate(grid.claims):
        try:
            parse_claim(stated.claim, arms)
        except InputError as error:
            errors += [(("claims", index), f"claims: {fault}") for fault in error.errors]
    return errors + _published_errors(grid, list(arms))


def _published_errors(grid: Grid, arms: list[str]) -> Errors:
    """Return errors of published numbers that name an unknown arm, metric or field."""
    errors: Errors = []
    known = list(TrialConfig().fields())
    for who, published in grid.published.items():
        place: Place = ("published", who)
        for name in published.setting:
            if name not in known:
                text = f"{shown(name)} is no field{did_you_mean(name, known)}; there are {', '.join(known)}"
                errors.append(((*place, "setting", name), f"{dotted((*place, 'setting'))}: {text}"))
        for arm, values in published.values.items():
            if arm not in arms:
                text = f"{shown(arm)} is no arm{did_you_mean(arm, arms)}; there are {listed(arms)}"
                errors.append(((*place, "values", arm), f"{dotted(place)}: {text}"))
            for name in values:
                metric = METRICS.get(name.partition("/")[0])
                if metric is None or ("/" in name and not metric.per_anomaly_set):
                    text = f"{shown(name)} is no metric{did_you_mean(name, list(METRICS))}; there are {', '.join(METRICS)}"
                    errors.append(((*place, "values", arm, name), f"{dotted((*place, arm))}: {text}"))
    return errors


def _grid_keys() -> list[str]:
    return [key for key in Grid.model_fields if key != "name"]


def _keys_at(place: Place) -> list[str]:
    """Return the keys that are possible where a grid has an unknown one."""
    if len(place) == 1:
        return _grid_keys()
    if place[0] in ("base", "arms", "factorial"):
        return keys_at(place[1:] if place[0] == "base" else place[2:])
    nested: dict[str, type[BaseModel]] = {
        "claims": StatedClaim,
        "published": Published,
        "search": Range if len(place) > 2 else SearchSpec,
    }
    return list(nested[str(place[0])].model_fields)
