"""Types of config fields: numbers that nothing else is silently taken for, and their limits."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, Strict
from pydantic_core import PydanticCustomError

from core.messages import did_you_mean, shown

#: YAML 1.1 reads ``3e-4`` (no point) and ``1.5e3`` (no sign) as texts; these are taken for the numbers that they are.
_EXPONENT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+", re.ASCII)
#: No field needs a larger integer, and a float holds all integers below this.
_LARGEST = 2**53


def is_exponent(text: str) -> bool:
    """Return whether a text is a number with an exponent, which YAML 1.1 may take for a text."""
    return len(text) < 100 and _EXPONENT.fullmatch(text) is not None


def as_number(value: Any) -> Any:
    """Return a number as it is, and a text with an exponent as the float that it means; refuse everything else."""
    if isinstance(value, str) and is_exponent(value):
        return float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise PydanticCustomError("number", "a number is needed")  # true is not 1, and "3" may be meant as a name
    if isinstance(value, int) and abs(value) > _LARGEST:
        raise PydanticCustomError("number", "a smaller number is needed")
    return value


def as_whole_number(value: Any) -> Any:
    """Return a whole number as an int; refuse everything else."""
    number = as_number(value)
    if isinstance(number, float):
        if not number.is_integer():
            raise PydanticCustomError("number", "a whole number is needed")
        return as_number(int(number))
    return number


Number = Annotated[float, BeforeValidator(as_number), Field(allow_inf_nan=False)]
Whole = Annotated[int, BeforeValidator(as_whole_number)]
#: ``true`` or ``false`` alone: not 1, not the text "off".
TrueOrFalse = Annotated[bool, Strict()]
#: -0.0 becomes 0.0, which would otherwise be another key.
Weight = Annotated[Number, Field(ge=0, le=1e9), AfterValidator(abs)]
Positive = Annotated[Number, Field(gt=0, le=1e9)]
Share = Annotated[Number, Field(ge=0, le=1), AfterValidator(abs)]


def one_of(choices: Iterable[str]) -> AfterValidator:
    """A validator of a text that must be one of the choices."""
    names = list(choices)

    def check(name: str) -> str:
        if name not in names:
            raise ValueError(f"{shown(name)} is not one of {', '.join(names)}{did_you_mean(name, names)}")
        return name

    return AfterValidator(check)
