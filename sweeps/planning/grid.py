"""The schema of a grid file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from core.config import MAX_SEED
from core.field_types import Number, Positive, Whole
from sweeps.planning.search_space import SearchSpec

#: Name of the arm that all others are compared with.
BASE = "base"
#: Config fields, name -> value, as in a grid file.
Fields = dict[str, Any]
#: The most seeds, and the most trials of a plan: a slip of the hand is told at once, not after minutes of planning.
MAX_SEEDS, MAX_TRIALS = 1_000, 10_000
#: Names of a search's points; no arm may have such a name.
POINT = re.compile(r"point-\d+$")
#: Begins the names of parents that are no arm of the grid.
PARENT_OF = "parent of "


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
    values: dict[str, dict[str, Number]]


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
        margin: the largest difference that counts as equivalent.
        base: fields of every trial.
        arms: arm -> the fields that it changes; a list of values makes several arms.
        factorial: switch -> the fields that it sets when it is off; every combination makes an arm. None: no switches.
        search: what a search varies; None for a grid of arms alone.
        seeds: the seeds of every arm.
        claims: claims to test.
        published: source -> numbers that it published for arms of the grid.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    question: str = Field(min_length=1, max_length=1000)
    primary: str = "probe_accuracy"
    margin: Positive = 0.01
    base: Fields = Field(default_factory=dict)
    arms: dict[str, Fields | None] = Field(default_factory=dict)
    factorial: dict[str, Fields] | None = None
    search: SearchSpec | None = None
    seeds: tuple[Annotated[Whole, Field(ge=0, le=MAX_SEED)], ...] = Field((0,), min_length=1, max_length=MAX_SEEDS)
    claims: tuple[Annotated[StatedClaim, BeforeValidator(_stated)], ...] = ()
    published: dict[str, Published] = Field(default_factory=dict)
