"""The arms of a grid: expands lists, selects by ``--arms``, and parses and checks ``--set``."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from core.config import field_faults, keys_at
from core.errors import InputError
from core.messages import as_typed, did_you_mean, first_of, listed
from sweeps.planning.arm_names import folded, value_texts, with_digest, with_values
from sweeps.planning.factorial import arms_of_switches
from sweeps.planning.fields import leaves, merge
from sweeps.planning.grid import BASE, Fields, Grid
from sweeps.planning.search_space import overlap
from sweeps.planning.yaml_reader import MAX_DEPTH, NotReadableError, read_yaml

#: Fields whose own value is a list: for these only a list of lists makes several arms.
_LISTS = {"projector_dims", "anomaly_datasets"}
#: A name with values holds at most so many commas.
_MAX_PIECES = 50
#: The same, with those of the augmentation list.
LISTS = _LISTS | {"crop", "crop_ratio", "blur"}


def parse_settings(settings: Sequence[str]) -> Fields:
    """Parse ``key=value`` texts into a nested mapping.

    Args:
        settings: the texts; a dotted key sets an entry of a mapping (``augmentation.flip=0``), values are YAML. Where a list is
            needed, a single value stands for a list of one, and commas separate several (``anomaly_datasets=mnist,svhn``).

    Raises:
        InputError: with every text that cannot be parsed, or sets what no trial can have.
    """
    parsed: Fields = {}
    errors = []
    for setting in settings:
        key, equals, text = setting.partition("=")
        parts = tuple(key.strip().split("."))
        if not equals or not all(parts) or len(parts) > MAX_DEPTH:
            errors.append(f"--set {as_typed(setting)}: not of the form key=value")
            continue
        try:
            nested: Any = _value(parts, text)
        except NotReadableError as error:
            errors.append(f"--set {as_typed(setting)}: {str(error).removeprefix('line 1: ')}")
            continue
        for part in reversed(parts):
            nested = {part: nested}
        faults = field_faults(nested)
        errors += [f"--set {as_typed(setting)}: {line}" for fault in faults for line in fault.lines(keys_at)]
        parsed = parsed if faults else merge(parsed, nested)
    if errors:
        raise InputError(errors)
    return parsed


def _value(key: tuple[str, ...], text: str) -> Any:
    document = read_yaml(text, key)
    if document.errors:
        raise NotReadableError("; ".join(document.errors.values()))
    value = document.value
    if key[-1] not in LISTS or isinstance(value, list | Mapping) or value is None:
        return value
    if isinstance(value, str) and "," in value and not text.lstrip().startswith(("'", '"')):
        return [_value((*key, str(index)), part) for index, part in enumerate(value.removesuffix(",").split(","))]
    return [value]


def expand_arms(grid: Grid, settings: Fields | None = None) -> dict[str, Fields]:
    """Return every arm's own fields, by name; lists and switches make several arms, and ``base`` is added if missing.

    Args:
        grid: the grid.
        settings: ``--set``, parsed: on it depends which combinations of switches have a loss (:func:`arms_of_switches`).
    """
    arms: dict[str, Fields] = ({} if BASE in grid.arms else {BASE: {}}) | dict(expanded_arms(grid))
    return arms | dict(arms_of_switches(grid, settings))


def expanded_arms(grid: Grid) -> Iterator[tuple[str, Fields]]:
    """Yield name and own fields of every arm of the key ``arms``, lists expanded; a name may occur twice.

    Of two names that MLflow would take for one, the later one gets a digest, if it is made of values.
    """
    known = {folded(name): name for name in grid.arms}
    for name, content in grid.arms.items():
        fields = content or {}
        axes = list_axes(fields)
        texts = {key: value_texts(values) for key, values in axes.items()}
        for indices in itertools.product(*(range(len(values)) for values in axes.values())):
            point = {key: axes[key][index] for key, index in zip(axes, indices, strict=True)}
            own = with_values(name, {key: texts[key][index] for key, index in zip(axes, indices, strict=True)})
            if axes and known.setdefault(folded(own), own) != own:
                own = with_digest(own)
            yield own, fields | point


def count_arms(grid: Grid) -> int:
    """Return how many arms the grid has with base, without making them."""
    products = [math.prod(len(values) for values in list_axes(content or {}).values()) for content in grid.arms.values()]
    return sum(products) + (BASE not in grid.arms) + sum(1 for _ in arms_of_switches(grid))


def list_axes(fields: Fields) -> dict[str, list[Any]]:
    """Return the fields of an arm whose lists make several arms of it."""
    return {
        key: value
        for key, value in fields.items()
        if isinstance(value, list) and (key not in _LISTS or (value and all(isinstance(v, list) for v in value)))
    }


def select_arms(arms: Mapping[str, Fields], requested: Sequence[str]) -> dict[str, Fields]:
    """Return the named arms; the name of an arm with lists stands for all arms that these make.

    Raises:
        InputError: with every name that is no arm.
    """
    chosen: dict[str, Fields] = {}
    errors = []
    families = list(dict.fromkeys([name.split("/")[0] for name in arms] + list(arms)))
    waiting = list(requested)
    while waiting:
        # A name may hold commas, at which --arms was cut: as many pieces as make a name belong together.
        tried = {n: ",".join(waiting[:n]).strip() for n in range(min(len(waiting), _MAX_PIECES), 0, -1)}
        n = next((n for n, name in tried.items() if name in arms), 1)
        name, waiting = tried[n], waiting[n:]
        members = {arm: fields for arm, fields in arms.items() if arm == name or arm.startswith(f"{name}/")}
        if not members and name:
            errors.append(f"--arms {as_typed(name)}: no such arm{did_you_mean(name, families)}; there are {listed(families)}")
        chosen |= members
    if errors:
        raise InputError(first_of(list(dict.fromkeys(errors))))
    return {name: fields for name, fields in arms.items() if name in chosen}


def settings_errors(grid: Grid, arms: Mapping[str, Fields], settings: Fields) -> list[str]:
    """Return errors of ``--set``: it must set neither the seed nor a field that an arm varies."""
    errors = []
    for key in leaves(settings):
        if key.split(".")[0] == "seed":
            errors.append("--set seed: seeds are chosen with --seeds")
        varied = [
            arm
            for arm, fields in arms.items()
            if any(overlap(leaf, key) or overlap(leaf.removeprefix("parent."), key) for leaf in leaves(fields))
        ]
        if varied:
            errors.append(f"--set {key}: grid {grid.name} varies it, in {listed(varied)}; set what no arm varies")
    return errors
