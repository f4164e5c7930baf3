"""Grid files: what varies in a study. Reading them, their arms, and what ``--set`` and ``--arms`` say about them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from core.config import TrialConfig, suggest
from core.errors import InputError
from evaluation.evaluate import METRICS
from sweeps.claims import parse_claim
from sweeps.space import Range, Search, overlap

GRIDS = Path(__file__).parent / "grids"
BASE = "base"
Fields = dict[str, Any]
POINT = re.compile(r"point-\d+$")

#: Fields whose own value is a list: in an arm only a list of lists makes several arms of them.
_LISTS = {"projector_dims", "anomaly_datasets"}


class StatedClaim(BaseModel):
    """A claim of a grid file, and whose it is; a plain text in the file is a claim without a source."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    claim: str
    source: str = ""


class Published(BaseModel):
    """Figures that others published for arms of the grid, shown beside ours and never mixed with them.

    Attributes:
        setting: what they ran, by our config fields where there is one.
        notes: what else differs.
        values: arm -> metric -> number.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    setting: Fields = Field(default_factory=dict)
    notes: str = ""
    values: dict[str, dict[str, Annotated[float, Field(allow_inf_nan=False)]]]


def _stated(claim: Any) -> Any:
    if isinstance(claim, Mapping) and len(claim) == 1 and not set(claim) & set(StatedClaim.model_fields):
        ((metric, chain),) = claim.items()  # YAML read the colon: the text was meant
        return {"claim": f"{metric}: {chain}"}
    return claim if isinstance(claim, Mapping) else {"claim": claim}


class Grid(BaseModel):
    """A grid file. ``name`` is the file's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    question: str = Field(min_length=1)
    primary: str = "probe_accuracy"
    margin: float = Field(0.01, gt=0, allow_inf_nan=False)
    base: Fields = Field(default_factory=dict)
    arms: dict[str, Fields | None] = Field(default_factory=dict)
    search: Search | None = None
    seeds: tuple[int, ...] = Field((0,), min_length=1)
    claims: tuple[Annotated[StatedClaim, BeforeValidator(_stated)], ...] = ()
    published: dict[str, Published] = Field(default_factory=dict)


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
        content = yaml.load(path.read_text(), _Loader)
    except (yaml.YAMLError, ValueError) as error:  # PyYAML raises a plain ValueError for an impossible date
        raise InputError(f"{path}: no valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: a grid is a mapping with the keys {', '.join(_grid_keys())}")
    if not re.fullmatch(r"[\w.+-]+", path.stem):
        raise InputError(f"{path}: a grid's name is made of letters, digits and . _ + - only")
    if "name" in content:
        raise InputError(f"{path}: unknown key 'name' (a grid bears its file's name); the keys are {', '.join(_grid_keys())}")
    try:
        grid = Grid.model_validate({"name": path.stem, **content})
    except ValidationError as error:
        raise InputError([
            f"{path}: {line}" for fault in error.errors() for line in _grid_fault(fault).split("\n")
        ]) from None  # fmt: skip
    faults = []
    if not grid.arms and grid.search is None:
        faults.append("arms: at least one is needed, or a search")
    faults += [
        f"arms.{arm}: that name belongs to a point of the search" for arm in grid.arms if grid.search and POINT.match(arm)
    ]
    if grid.primary not in METRICS:
        faults.append(
            f"primary: {grid.primary!r} is no metric{suggest(grid.primary, list(METRICS))}; there are {', '.join(METRICS)}"
        )
    if min(grid.seeds) < 0 or len(set(grid.seeds)) < len(grid.seeds):
        faults.append(f"seeds: {list(grid.seeds)} holds a seed twice or a negative one")
    places = {"base": grid.base} | {f"arms.{arm}": fields or {} for arm, fields in grid.arms.items()}
    for place, fields in places.items():
        if "seed" in fields:
            faults.append(f"{place}: seed: seeds are chosen with the grid's key seeds, or with --seeds")
    for arm, content_of_arm in grid.arms.items():
        axes = _axes(content_of_arm or {})
        if arm == BASE and axes:
            faults.append(f"arms.base: {', '.join(axes)}: base is one arm, a list would make several")
        faults += [f"arms.{arm}: {key}: an empty list makes no arm" for key, values in axes.items() if not values]
    if not faults:
        names = [name for name, _ in _expanded(grid)]
        faults = [f"arms: {name!r} comes about twice" for name in dict.fromkeys(names) if names.count(name) > 1]
        faults += _reference_faults(grid)
    if faults:
        raise InputError([f"{path}: {fault}" for fault in faults])
    return grid


def _reference_faults(grid: Grid) -> list[str]:
    """Claims and published figures that name no arm or no metric."""
    arms, faults = expand_arms(grid), []
    for stated in grid.claims:
        try:
            parse_claim(stated.claim, arms)
        except InputError as error:
            faults += [f"claims: {fault}" for fault in error.faults]
    known = list(TrialConfig().fields())
    for who, published in grid.published.items():
        faults += [
            f"published.{who}.setting: {name!r} is no field{suggest(name, known)}; there are {', '.join(known)}"
            for name in published.setting
            if name not in known
        ]
        for arm, values in published.values.items():
            if arm not in arms:
                faults.append(f"published.{who}: {arm!r} is no arm{suggest(arm, list(arms))}; there are {', '.join(arms)}")
            faults += [
                f"published.{who}.{arm}: {name!r} is no metric{suggest(name, list(METRICS))}; there are {', '.join(METRICS)}"
                for name in values
                if (metric := METRICS.get(name.partition("/")[0])) is None or ("/" in name and not metric.per_anomaly_set)
            ]
    return faults


class _Loader(yaml.SafeLoader):
    """Refuses a key that is given twice, of which YAML would keep the last without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.YAMLError(f"the key {key!r} is given twice, line {node.start_mark.line + 1}")
        return super().construct_mapping(node, deep)


def _grid_keys() -> list[str]:
    return [key for key in Grid.model_fields if key != "name"]


def _grid_fault(fault: Any) -> str:
    path = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        nested = {
            "claims": list(StatedClaim.model_fields), "published": list(Published.model_fields),
            "search": list((Range if len(fault["loc"]) > 2 else Search).model_fields),
        }  # fmt: skip
        keys = nested.get(str(fault["loc"][0]), _grid_keys())
        return f"unknown key {path!r}{suggest(str(fault['loc'][-1]), keys)}; the keys are {', '.join(keys)}"
    message = str(fault["msg"]).removeprefix("Value error, ")
    return f"{path}: {message[0].lower()}{message[1:]}"


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
        except (yaml.YAMLError, ValueError):
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
    return ({} if BASE in grid.arms else {BASE: {}}) | dict(_expanded(grid))


def _expanded(grid: Grid) -> Iterator[tuple[str, Fields]]:
    for name, content in grid.arms.items():
        fields = content or {}
        axes = _axes(fields)
        for values in itertools.product(*axes.values()):
            point = dict(zip(axes, values, strict=True))
            suffix = "".join(f"/{key}={_short(value)}" for key, value in point.items())
            yield name + suffix, fields | point


def _axes(fields: Fields) -> dict[str, list[Any]]:
    """The fields of an arm whose list makes several arms."""
    return {
        key: value
        for key, value in fields.items()
        if isinstance(value, list) and (key not in _LISTS or (value and all(isinstance(v, list) for v in value)))
    }


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
            yield f"{prefix}{key}"


def settings_faults(grid: Grid, arms: Mapping[str, Fields], settings: Fields) -> list[str]:
    """Faults of ``--set``: a field that an arm varies, or the seed."""
    faults = []
    for key in _leaves(settings):
        if key.split(".")[0] == "seed":
            faults.append("--set seed: seeds are chosen with --seeds")
        varied = [
            arm
            for arm, fields in arms.items()
            if any(overlap(leaf, key) or overlap(leaf.removeprefix("parent."), key) for leaf in _leaves(fields))
        ]
        if varied:
            faults.append(f"--set {key}: grid {grid.name} varies it, in {', '.join(varied)}; set what no arm varies")
    return faults
