"""Names of arms: which are legal, how those of a list's values are made, and what MLflow makes of a name.

Everybody else's rules are met here, once: MLflow takes metric names of at most 250 letters, digits, spaces and ``_ - . : /``
that are normal paths; a run's name has at most 250 characters in a database; a terminal acts on control characters.
"""

from __future__ import annotations

import posixpath
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from core.config import digest

#: The most characters of an arm's name in a grid file, and of a name with values: beside the latter MLflow's 250 leave room
#: for a metric's name, and for the seed in a run's name.
MAX_GIVEN, MAX_NAME = 150, 200
_DIGEST = 6


def name_error(name: str) -> str | None:
    """Return why a name is refused as an arm's; None for a legal name."""
    if not name:
        return "an arm's name must not be empty"
    if not name.isprintable():
        bad = next(character for character in name if not character.isprintable())
        return f"an arm's name must not hold the character U+{ord(bad):04X}, which cannot be seen or acts on a terminal"
    if len(name) > MAX_GIVEN:
        return f"an arm's name has at most {MAX_GIVEN} characters, not {len(name):,}"
    if name != name.strip():
        return "an arm's name must not begin or end with a space"
    if any(part in ("", ".", "..") for part in name.split("/")):
        return "an arm's name is taken for a path by MLflow: each part between / must be there, and be neither . nor .."
    return None


def folded(name: str) -> str:
    """Return what tells one name from another in MLflow and to the eye.

    That is the composed Unicode form, with underscores for all characters that MLflow does not take, normalised as a path.
    """
    return posixpath.normpath(re.sub(r"[^\w.\-:/ ]", "_", unicodedata.normalize("NFC", name)))


def with_values(name: str, texts: Mapping[str, str]) -> str:
    """Return the name of an arm that a list makes: ``NAME/key=value/...``.

    Where values hold what no name may hold, or are too long, it is cleaned and shortened, and ends with a digest.

    Args:
        name: the arm's name in the grid file.
        texts: key -> the value's text (:func:`value_texts`).
    """
    whole = name + "".join(f"/{key}={text}" for key, text in texts.items())
    legal = whole.isprintable() and whole == whole.strip() and not {"", ".", ".."} & set(whole.split("/"))
    return whole if legal and len(whole) <= MAX_NAME else with_digest(whole)


def with_digest(name: str) -> str:
    """Return a legal name that ends with a digest of the given one."""
    printable = "".join(character if character.isprintable() else "_" for character in name)
    clean = "/".join("_" if part in ("", ".", "..") else part for part in printable.split("/"))
    return f"{clean[: MAX_NAME - _DIGEST - 1].rstrip()}-{digest(name)[:_DIGEST]}"


def value_texts(values: Sequence[Any]) -> list[str]:
    """Return a text for each value of a list, for names; mappings are told by the entries in which they differ."""
    entries = [_entries(value) if isinstance(value, Mapping) else None for value in values]
    given = [found for found in entries if found is not None]
    shared = {
        key for key in (given[0] if given else ()) if all(key in found and found[key] == given[0][key] for found in given)
    } if len(given) > 1 else set()  # fmt: skip
    texts = []
    for value, found in zip(values, entries, strict=True):
        if found is None:
            texts.append(_text(value))
        else:  # a mapping that holds nothing but what all share is told by all of it
            own = {key: text for key, text in found.items() if key not in shared} or found
            texts.append(",".join(f"{key}:{text}" for key, text in own.items()))
    return texts


def _entries(mapping: Mapping[Any, Any]) -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in mapping.items():
        if isinstance(value, Mapping) and value:
            found |= {f"{key}:{inner}": text for inner, text in _entries(value).items()}
        else:
            found[str(key)] = _text(value)
    return found


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ""
    return "x".join(map(str, value)) if isinstance(value, list) else str(value)
