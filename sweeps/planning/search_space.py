"""The search space: a grid file's key ``search`` and its checks. Independent of Optuna."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, field_validator, model_validator

from core.config import TrialConfig
from core.field_types import TrueOrFalse, Whole, as_number, is_exponent
from core.messages import did_you_mean
from evaluation.evaluate import METRICS

#: A range with ``zero`` is extended below ``low`` by this share of its width (on a logarithmic scale if ``log``); a number
#: drawn from the extension means zero.
ZERO_SHARE = 0.15
#: The most points of a search, and choices of a field.
MAX_POINTS, MAX_CHOICES = 5_000, 100
_RATIO = "/lambda"
_FIXED = ("dataset", "train_subset", "split", "anomaly_datasets", "threads")
_OF_PARENTS = ("encoder", "representation_dim", "precision")


class Range(BaseModel):
    """Numbers from ``low`` to ``high``; integers if both are integers.

    Attributes:
        log: whether to draw on a logarithmic scale.
        zero: whether zero is a choice as well (a loss term that is left out).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    low: Annotated[int | float, BeforeValidator(as_number)]
    high: Annotated[int | float, BeforeValidator(as_number)]
    log: TrueOrFalse = False
    zero: TrueOrFalse = False

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if not (abs(self.low) < 1e12 and abs(self.high) < 1e12 and self.low < self.high):
            raise ValueError(f"low {self.low} and high {self.high} make no range")
        if self.log and 0 < self.low < 1e-12:
            raise ValueError(f"low {self.low} is too small to be told from zero")
        if self.log and self.low <= 0:
            raise ValueError(f"low {self.low}: a logarithm needs a number above 0 (zero: true adds zero)")
        if self.zero and self.low <= 0:
            raise ValueError(f"low {self.low}: with zero: true a number above 0 is needed")
        if self.zero and self.whole:
            raise ValueError("zero: true is for numbers that need not be whole")
        return self

    @property
    def whole(self) -> bool:
        """Whether the numbers are integers."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def bottom(self) -> float:
        """The lowest number to draw: ``low``, or with ``zero`` the end of the extension below it (see ZERO_SHARE)."""
        if not self.zero:
            return self.low
        return self.low * (self.low / self.high) ** ZERO_SHARE if self.log else self.low - ZERO_SHARE * (self.high - self.low)

    def decode(self, drawn: float) -> int | float:
        """Return the value that a number from ``bottom`` to ``high`` encodes: zero, an integer, or itself to four digits."""
        if self.zero and drawn < self.low:
            return 0.0
        return int(drawn) if self.whole else min(max(float(f"{drawn:.4g}"), self.low), self.high)

    def encode(self, value: float) -> float | None:
        """Return a number that encodes the value; None if the range does not contain it."""
        if self.zero and value == 0:
            return self.bottom
        if self.whole and value != int(value):
            return None
        return value if self.low <= value <= self.high else None


def _kind(values: Any) -> str | None:
    if isinstance(values, Range | Mapping):
        return "range"
    return "choices" if isinstance(values, list) else None


_Choices = Annotated[list[Any], Field(max_length=MAX_CHOICES), Tag("choices")]


class SearchSpec(BaseModel):
    """The key ``search`` of a grid file.

    Attributes:
        space: field, dotted field, or ``FIELD/lambda`` (its ratio to lambda) -> choices or a range.
        trials: number of points to try.
        objectives: metrics that look at no test image; each has its own direction (:func:`objective_directions`).
        early_stopping: whether unpromising trials are stopped early (ASHA).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    space: dict[str, Annotated[Annotated[Range, Tag("range")] | _Choices, Discriminator(_kind)]] = Field(
        min_length=1, max_length=MAX_CHOICES
    )
    trials: Whole = Field(20, ge=1, le=MAX_POINTS)
    objectives: tuple[str, ...] = ("validation_probe_accuracy",)
    early_stopping: TrueOrFalse = False

    @field_validator("space", mode="before")
    @classmethod
    def _numbers_of_ratios(cls, space: Any) -> Any:
        """Take texts with an exponent, such as 1e-1, for numbers, as fields of a trial do."""
        if not isinstance(space, Mapping):
            return space
        return {
            key: [float(v) if isinstance(v, str) and is_exponent(v) else v for v in values]
            if str(key).endswith(_RATIO) and isinstance(values, list) else values
            for key, values in space.items()
        }  # fmt: skip

    @model_validator(mode="after")
    def _hangs_together(self) -> Self:
        errors: list[str] = []
        choices = objective_directions()
        for name in self.objectives:
            if name not in choices:
                errors.append(
                    f"objectives: {name!r} cannot be searched for{did_you_mean(name, list(choices))}; "
                    f"those that look at no test image are {', '.join(choices)}"
                )
        if not self.objectives or len(set(self.objectives)) < len(self.objectives):
            errors.append("objectives: at least one, none twice")
        if set(self.objectives) == {"silhouette"}:
            errors.append("objectives: silhouette alone rewards collapse; add validation_probe_accuracy or another")
        if self.early_stopping and len(self.objectives) > 1:
            errors.append("early_stopping: it compares trials by one objective, so there must be only one")
        fields = [field.alias or name for name, field in TrialConfig.model_fields.items() if name not in ("parent", "seed")]
        for key, values in self.space.items():
            name = key.removesuffix(_RATIO).split(".")[0]
            if name not in fields:
                errors.append(f"space: {key!r} is no field{did_you_mean(name, fields)}; there are {', '.join(fields)}")
            if name in _FIXED:
                errors.append(f"space: {name} cannot vary in a search, whose points share images and threads")
            if key.endswith(_RATIO) and name not in ("mu", "nu"):
                errors.append(f"space: {key!r}: only mu and nu have a ratio to lambda")
            if key.endswith(_RATIO) and isinstance(values, list) and not all(_is_number(value) for value in values):
                errors.append(f"space.{key}: a ratio's choices are numbers")
            if any(overlap(key.removesuffix(_RATIO), other.removesuffix(_RATIO)) for other in self.space if other != key):
                errors.append(f"space: {key!r} and another key set the same field")
            if self.early_stopping and name in _OF_PARENTS:
                errors.append(f"space: {name} cannot vary with early_stopping: a stopped point may then be another's parent")
            if isinstance(values, list) and len({(type(value).__name__, str(value)) for value in values}) < len(values):
                errors.append(f"space.{key}: a choice is given twice")
            if isinstance(values, list) and (len(values) < 2 or not all(_is_plain(value) for value in values)):
                errors.append(f"space.{key}: at least two choices are needed, each a text, a number, true, false or null")
            if key.endswith(_RATIO) and "lambda" in self.space:
                errors.append(f"space: {key!r} and lambda both; a ratio needs a lambda that stays")
        if self.early_stopping and "epochs" in self.space:
            errors.append("space: epochs cannot vary with early_stopping, which compares trials at the same epoch")
        if errors:
            raise ValueError("\n".join(errors))
        return self

    @property
    def identity(self) -> dict[str, Any]:
        """The fields that identify the search: all but the number of trials."""
        return self.model_dump(mode="json", exclude={"trials"})

    @staticmethod
    def minimizes(objective: str) -> bool:
        """Return whether a lower value of the objective is better."""
        return objective_directions()[objective] == "minimize"

    def decoded(self, drawn: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values that a drawn point encodes, by the keys of the space."""
        return {
            key: choices.decode(drawn[key]) if isinstance(choices, Range) else drawn[key]
            for key, choices in self.space.items()
            if key in drawn
        }

    def shown(self, drawn: Mapping[str, Any]) -> list[str]:
        """Return the values that a drawn point encodes as texts, in the space's order; "" for a key that was not drawn."""
        values = self.decoded(drawn)
        texts = {key: f"{value:g}" if isinstance(value, float) else str(value) for key, value in values.items()}
        return [texts.get(key, "") for key in self.space]

    def fields(self, drawn: Mapping[str, Any], base: TrialConfig) -> dict[str, Any]:
        """Return the config fields that a drawn point encodes, nested; a ratio is multiplied by base's lambda."""
        fields: dict[str, Any] = {}
        for key, value in self.decoded(drawn).items():
            scaled = float(f"{value * base.lambda_:.6g}") if key.endswith(_RATIO) else value
            *path, last = key.removesuffix(_RATIO).split(".")
            target = fields
            for part in path:
                target = target.setdefault(part, {})
            target[last] = scaled
        return fields

    def extremes(self) -> list[dict[str, Any]]:
        """Return every extreme and choice of every key, one key at a time, for checking that a config accepts it."""
        found: list[dict[str, Any]] = []
        for key, values in self.space.items():
            ends = values if isinstance(values, list) else [values.low, values.high, *([values.bottom] if values.zero else [])]
            found += [{key: end} for end in ends]
        return found

    def point_of(self, config: TrialConfig) -> dict[str, Any] | None:
        """Return the drawn point that encodes a config's own values; None if the space does not contain them."""
        point: dict[str, Any] = {}
        for key, choices in self.space.items():
            value: Any = config.fields()
            for part in key.removesuffix(_RATIO).split("."):
                value = value.get(part) if isinstance(value, Mapping) else None
            if key.endswith(_RATIO):
                value = value / config.lambda_ if config.lambda_ else None
            if isinstance(choices, Range):
                value = None if value is None else choices.encode(value)
                if value is None:
                    return None
            elif value not in choices:
                return None
            point[key] = value
        return point


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, str | bool) or _is_number(value)


def overlap(one: str, other: str) -> bool:
    """Return whether two dotted keys are the same, or one is an entry of the other."""
    return f"{one}.".startswith(f"{other}.") or f"{other}.".startswith(f"{one}.")


def objective_directions() -> dict[str, Literal["maximize", "minimize"]]:
    """Return the metrics that can be objectives, each with its direction."""
    return {
        name: "minimize" if metric.better == "lower" else "maximize"
        for name, metric in METRICS.items()
        if metric.usable_for_selection
    }
