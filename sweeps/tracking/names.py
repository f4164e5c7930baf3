"""Names and conditions as MLflow takes them."""

from __future__ import annotations

import posixpath
import re

from core.config import digest

#: Characters that MLflow takes as the name of a metric, tag or run.
LONGEST = 250


def legal_name(name: str) -> str:
    """Return a name of a metric or tag that MLflow accepts.

    MLflow takes letters, digits and a few signs, and only what is unchanged when it is read as a path. Other characters become
    underscores; the planner refuses two arms or anomaly sets that this would make one. A name that is too long, or no plain
    path, gets a digest of itself.
    """
    plain = re.sub(r"[^\w.\-:/ ]", "_", name)
    path = posixpath.normpath(plain.strip("/"))
    legal = "/".join("_" if part in (".", "..") else part for part in path.split("/"))
    return legal if legal == plain and len(legal) <= LONGEST else _marked(legal, name, LONGEST)


def shortened(text: str, longest: int = LONGEST) -> str:
    """Return a text of at most so many characters; one that had to be cut ends with a digest of itself."""
    return text if len(text) <= longest else _marked(text, text, longest)


def _marked(text: str, whole: str, longest: int) -> str:
    mark = f" {digest(whole)[:8]}"
    return text[: longest - len(mark)] + mark


def matches(tag: str, value: str) -> str:
    """Return a condition of a search: that a tag has a value. A quote in the value also matches any other character."""
    if "'" not in value:
        return f"tags.{tag} = '{value}'"
    return f"tags.{tag} LIKE '{value.replace(chr(39), '_')}'"  # MLflow's searches know no way to write a quote
