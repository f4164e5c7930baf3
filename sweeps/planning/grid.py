"""What a grid file may say: its schema."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from sweeps.planning.search_space import SearchSpec

#: Name of the arm that all others are compared with.
BASE = "base"
#: Config fields, as a grid file gives them.
Fields = dict[str, Any]
#: Names of a search's points, which no arm may bear.
POINT = re.compile(r"point-\d+$")


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
    search: SearchSpec | None = None
    seeds: tuple[int, ...] = Field((0,), min_length=1)
    claims: tuple[Annotated[StatedClaim, BeforeValidator(_stated)], ...] = ()
    published: dict[str, Published] = Field(default_factory=dict)
