"""The key ``factorial`` of a grid file: an arm for every combination of a few switches, each on or off.

A switch is a part of base that can be turned off: the key gives, for each switch, the fields that it sets when it is off. With
all switches on an arm is base itself. This is a full factorial design of two levels (Fisher, The Design of Experiments, 1935);
:mod:`sweeps.analysis.shapley` tells from its results what each part contributes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

from pydantic_core import PydanticCustomError

from core.config import TrialConfig
from core.field_types import as_number
from core.messages import Place, as_typed, listed, shown
from sweeps.planning.arm_names import folded, name_error
from sweeps.planning.fields import leaves, merge
from sweeps.planning.grid import BASE, PARENT_OF, Fields, Grid
from sweeps.planning.search_space import overlap

#: How many switches a grid may have: k switches make 2^k arms.
MIN_SWITCHES, MAX_SWITCHES = 2, 5
#: Name of the arm with all switches off, and what stands between the names of those that are on.
NONE, JOIN = "none", "+"
#: The weights of the loss's three terms.
_WEIGHTS = ("lambda", "mu", "nu")


def subsets(switches: Sequence[str]) -> list[tuple[str, ...]]:
    """Return every set of switches that are on, in the given order, from all of them to none."""
    return [on for size in range(len(switches), -1, -1) for on in combinations(switches, size)]


def arm_name(on: Collection[str], switches: Sequence[str]) -> str:
    """Return the name of the arm with these switches on: ``base`` for all of them, ``none`` for none, else joined by ``+``."""
    names = [switch for switch in switches if switch in on]
    return BASE if len(names) == len(switches) else JOIN.join(names) or NONE


def arms_of_switches(grid: Grid, settings: Mapping[str, Any] | None = None) -> Iterator[tuple[str, Fields]]:
    """Yield name and own fields of every combination of switches but all on, which is base.

    The fields are laid over those of the arm base. A combination whose loss has no term (lambda, mu and nu are 0) trains
    nothing: it is the untrained encoder.

    Args:
        grid: the grid; nothing is yielded if it has no switches, or another number of them than is possible.
        settings: ``--set``, parsed; may take terms from the loss as well.
    """
    switches = grid.factorial or {}
    if not MIN_SWITCHES <= len(switches) <= MAX_SWITCHES:
        return
    of_base = grid.arms.get(BASE) or {}
    for on in subsets(list(switches))[1:]:
        own = of_base
        for switch, fields in switches.items():
            own = own if switch in on else merge(own, fields)
        whole = merge(merge(grid.base, own), settings or {})
        if whole.get("method", "vicreg") == "vicreg" and _has_no_term(whole):
            own = {key: value for key, value in own.items() if key not in _WEIGHTS} | {"method": "untrained"}
        yield arm_name(on, list(switches)), own


def _has_no_term(fields: Mapping[str, Any]) -> bool:
    """Return whether all weights of the loss are zero; False where one is no number, which is refused elsewhere."""
    defaults = TrialConfig().fields()
    try:
        return all(as_number(fields.get(weight, defaults[weight])) == 0 for weight in _WEIGHTS)
    except PydanticCustomError:
        return False


def factorial_errors(grid: Grid, list_fields: Mapping[str, Collection[str]]) -> list[tuple[Place, str]]:
    """Return errors of the key ``factorial``, but for those of single values.

    Args:
        grid: the grid.
        list_fields: switch -> its fields with a list that would make several arms.
    """
    if grid.factorial is None:
        return []
    switches, place = grid.factorial, ("factorial",)
    errors: list[tuple[Place, str]] = []
    if grid.search is not None:
        errors.append((place, "factorial: it does not go with a search; make two grids of it"))
    if not MIN_SWITCHES <= len(switches) <= MAX_SWITCHES:
        errors.append((place, f"factorial: {MIN_SWITCHES} to {MAX_SWITCHES} switches are needed, not {len(switches)}"))
    for switch, fields in switches.items():
        at, where = (*place, switch), f"factorial.{as_typed(switch)}"
        if (wrong := _name_error(switch)) is not None:
            errors.append((at, f"factorial.{shown(switch)}: {wrong}"))
        if not fields:
            errors.append((at, f"{where}: it sets no field, so it changes nothing of base"))
        errors += [
            ((*at, key), f"{where}: {key}: a switch has one value for off, a list would make several arms")
            for key in list_fields.get(switch, ())
        ]
    return errors + _errors_between(switches) + ([] if errors else _arm_errors(grid))


def _name_error(switch: str) -> str | None:
    if switch in (BASE, NONE):
        return f"this name is kept for the arm with {'all' if switch == BASE else 'no'} switches on; choose another"
    if JOIN in switch or "/" in switch:
        return f"a switch's name must hold neither {JOIN} nor /, of which names of arms are made"
    if switch.startswith(PARENT_OF):
        return f"names that begin with {PARENT_OF!r} are kept for parents that are added"
    return name_error(switch)


def _errors_between(switches: Mapping[str, Fields]) -> list[tuple[Place, str]]:
    """Return an error for every field that two switches set."""
    errors: list[tuple[Place, str]] = []
    for one, other in combinations(switches, 2):
        both = [key for key in leaves(switches[other]) if any(overlap(key, taken) for taken in leaves(switches[one]))]
        if both:
            text = f"{listed(both)}: the switch {as_typed(one)} sets it, too; a field belongs to one switch"
            errors.append((("factorial", other), f"factorial.{as_typed(other)}: {text}"))
    return errors


def _arm_errors(grid: Grid) -> list[tuple[Place, str]]:
    """Return errors of the names of the arms that the switches make."""
    errors: list[tuple[Place, str]] = []
    of_file = {folded(arm): arm for arm in grid.arms}
    seen: dict[str, str] = {}
    for name, _ in arms_of_switches(grid):
        if (wrong := name_error(name)) is not None:
            return [(("factorial",), f"factorial: its arm {shown(name)}: {wrong}")]
        if (arm := of_file.get(folded(name))) is not None:
            text = f"the factorial makes an arm {name!r}, and MLflow cannot tell the two names apart; choose another"
            errors.append((("arms", arm), f"arms.{as_typed(arm)}: {text}"))
        if (other := seen.setdefault(folded(name), name)) != name:
            text = f"MLflow cannot tell its arms {other!r} and {name!r} apart; name the switches otherwise"
            errors.append((("factorial",), f"factorial: {text}"))
    return errors
