"""The schema of a grid file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from sweeps.planning.search_space import SearchSpec

#: Name of the arm that all others are compared with.
BASE = "base"
#: Config fields, name -> value, as in a grid file.
Fields = dict[str, Any]
#: Names of a search's points; no arm may have such a name.
POINT = re.compile(r"point-\d+$")


class StatedClaim(BaseModel):
    """A claim of a grid file and its source; a plain string in the file is a claim without a source."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    claim: str
    source: str = ""


class Published(BaseModel):
    """Numbers that others published for arms of the grid, shown beside ours and never mixed with them.

    Attributes:
        setting: their configuration, as config fields of ours where there is one.
        notes: other differences from our setting.
        values: arm -> metric -> number.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    setting: Fields = Field(default_factory=dict)
    notes: str = ""
    values: dict[str, dict[str, Annotated[float, Field(allow_inf_nan=False)]]]


def _stated(claim: Any) -> Any:
    if isinstance(claim, Mapping) and len(claim) == 1 and not set(claim) & set(StatedClaim.model_fields):
        ((metric, chain),) = claim.items()  # an unquoted claim: YAML read its colon as a mapping
        return {"claim": f"{metric}: {chain}"}
    return claim if isinstance(claim, Mapping) else {"claim": claim}


class Grid(BaseModel):
    """A grid file.

    Attributes:
        name: the file's name without its suffix.
        question: the question that the grid answers.
        primary: the one metric that is tested, each arm against base.
        margin: a difference whose interval is within -margin to margin counts as equivalent.
        base: fields of every trial.
        arms: arm -> the fields that it changes; a list of values makes several arms.
        search: what a search varies; None for a grid of arms alone.
        seeds: the seeds of every arm.
        claims: claims to test.
        published: source -> numbers that it published for arms of the grid.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    question: str = Field(min_length=1)
    primary: str = "probe_accuracy"
    margin: float = Field(0.01, gt=0, allow_inf_nan=False)
    base: Fields = Field(default_factory=dict)
    arms: dict[str, Fields | None] = Field(default_factory=dict)
    search: SearchSpec | None = None
    seeds: tuple[int, ...] = Field((0,), min_length=1)
    claims: tuple[Annotated[StatedClaim, BeforeValidator(_stated)], ...] = ()
    published: dict[str, Published] = Field(default_factory=dict)
