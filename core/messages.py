"""Words for messages about wrong input: what pydantic found, without Python's names for things; choices that fit on a line."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

#: A value or a list of choices is cut to about so many characters or entries in a message.
_SHOWN = 200
_LISTED = 40
#: So many errors are said; a file of thousands has one cause.
_ERRORS = 50
#: A name that is longer than this resembles no choice; comparing it would take long.
_COMPARED = 100

#: Control characters but tab and newline, marks that turn the direction of text, and halves of a character.
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x84\x86-\x9f\u202a-\u202e\u2066-\u2069\ufffe\uffff\ud800-\udfff]")

#: Place of a value in nested mappings and lists: keys and indices.
Place = tuple[str | int, ...]

_LIST = "a list is needed"
_MAPPING = "a mapping is needed, e.g. {{key: value}}"
_MESSAGES = {
    "missing": "it is missing",
    **dict.fromkeys(
        ("union_tag_not_found", "union_tag_invalid"), "choices or a range is needed, e.g. [1, 2] or {{low: 1, high: 2}}"
    ),
    "invalid_key": "a key must be a text",
    "string_type": "a text is needed",
    "string_too_short": "a text that is not empty is needed",
    "string_too_long": "at most {max_length} characters are possible",
    "bool_type": "true or false is needed",
    "literal_error": "choose from {expected}",
    "greater_than": "more than {gt} is needed",
    "greater_than_equal": "{ge} or more is needed",
    "less_than": "less than {lt} is needed",
    "less_than_equal": "it must be at most {le}",
    "finite_number": "a finite number is needed",
    "too_short": "at least {min_length} is needed",
    "too_long": "at most {max_length} entries are possible",
    **dict.fromkeys(("tuple_type", "list_type", "iterable_type"), _LIST),
    **dict.fromkeys(("dict_type", "mapping_type", "model_type", "model_attributes_type"), _MAPPING),
}
_EXAMPLES = {
    "projector_dims": "[512, 512, 512]", "anomaly_datasets": "[mnist]", "crop": "[0.2, 1.0]", "crop_ratio": "[0.75, 1.33]",
    "blur": "[0.1, 2.0]", "seeds": "[0, 1, 2]", "claims": '["probe_accuracy: base > my-arm"]',
    "objectives": "[validation_probe_accuracy]",
}  # fmt: skip


@dataclass(frozen=True)
class Fault:
    """Something that a schema refuses.

    Attributes:
        place: the value's place; () for the whole.
        text: what is wrong, without the place; may hold several lines, each an error of its own.
        unknown: whether the key itself is unknown.
    """

    place: Place
    text: str
    unknown: bool = False

    def lines(self, keys: Callable[[Place], Sequence[str]]) -> list[str]:
        """Return the errors, each with its place.

        Args:
            keys: place -> the keys that are possible there.
        """
        path = dotted(self.place)
        if self.unknown:
            choices = list(keys(self.place))
            guess = did_you_mean(str(self.place[-1]), choices)
            return [f"unknown key '{path}'{guess}; the keys are {', '.join(choices)}"]
        return [f"{path}: {line}" if path else line for line in self.text.split("\n")]


def faults_of(error: ValidationError) -> list[Fault]:
    """Return what a schema refused, in plain words."""
    found = [(_fault(raw), raw["type"]) for raw in error.errors(include_url=False)]
    # Of a list with a wrong entry pydantic also says that it is too short.
    places = {fault.place[:n] for fault, _ in found for n in range(len(fault.place))}
    return list(dict.fromkeys(fault for fault, kind in found if kind != "too_short" or fault.place not in places))


def _spelt(limit: Any) -> str:
    return f"{limit:,.15g}" if isinstance(limit, int | float) else str(limit)


def _fault(found: Any) -> Fault:
    kind, place, value, context = found["type"], tuple(found["loc"]), found["input"], found.get("ctx", {})
    if kind == "extra_forbidden":
        return Fault(place, "", unknown=True)
    if kind == "value_error":
        return Fault(place, str(context["error"]))
    if kind == "missing" and place and isinstance(place[-1], int):  # an entry of a list of fixed length
        place, text = place[:-1], _LIST
    elif kind == "missing":
        return Fault(place, _MESSAGES[kind])
    elif kind == "literal_error":
        text = "choose from " + str(context["expected"]).replace("'", "").replace(" or ", ", ")
    else:
        text = (
            _MESSAGES[kind].format(**{key: _spelt(limit) for key, limit in context.items()})
            if kind in _MESSAGES
            else str(found["msg"])
        )
    named = next((str(part) for part in reversed(place) if isinstance(part, str)), "")
    if text.startswith(("a list", "at least", "at most")) and named in _EXAMPLES:
        text += f", e.g. {_EXAMPLES[named]}"
    return Fault(place, f"{text}, not {shown(value)}")


def shown(value: Any) -> str:
    """Return a value as it is shown in a message: as YAML writes it, cut when it is long."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        text = f"[{', '.join(map(shown, value[:_LISTED]))}{', …' if len(value) > _LISTED else ''}]"
    elif isinstance(value, dict):
        text = f"{{{', '.join(f'{key}: {shown(inner)}' for key, inner in list(value.items())[:_LISTED])}}}"
    else:
        text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"


def as_typed(text: str) -> str:
    """Return a text of the command line as it was typed; a long one, or one that acts on the terminal, as :func:`shown`."""
    return text if text.isprintable() and len(text) <= _SHOWN // 2 else shown(text)


def dotted(place: Place) -> str:
    """Return a place as keys and indices with dots between them."""
    return ".".join(as_typed(str(part)) for part in place)


def unseen(text: str) -> str | None:
    """Return the first character that acts on a terminal or is half a one, as U+001B; None if there is none."""
    found = _UNSEEN.search(text)
    return None if found is None else f"U+{ord(found[0]):04X}"


def first_of(errors: Sequence[str]) -> list[str]:
    """Return the errors; of very many only the first, and how many there are."""
    more = [f"and {len(errors) - _ERRORS:,} more errors"] if len(errors) > _ERRORS else []
    return [*errors[:_ERRORS], *more]


def listed(choices: Sequence[str]) -> str:
    """Return the choices, separated by commas; of very many only the first."""
    more = f" and {len(choices) - _LISTED:,} more" if len(choices) > _LISTED else ""
    return ", ".join(choices[:_LISTED]) + more


def did_you_mean(name: str, choices: Sequence[str]) -> str:
    """`` (did you mean 'x'?)`` where a choice resembles the name, else nothing."""
    from difflib import get_close_matches

    close = get_close_matches(name, choices, n=1) if len(name) <= _COMPARED else []
    return f" (did you mean {close[0]!r}?)" if close else ""
