"""Claims of a grid file, such as ``probe_accuracy: base > neighbors > no-variance``."""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from dataclasses import dataclass

from core.errors import InputError
from core.messages import did_you_mean
from evaluation.evaluate import METRICS

#: An arm's name or a number.
Term = str | float


@dataclass(frozen=True)
class Claim:
    """A chain of comparisons on one metric.

    Attributes:
        text: as written.
        metric: a metric's name, or ``METRIC/ANOMALY_SET`` for a certain anomaly set.
        terms: arms or numbers; each is claimed to be greater (or less) than the next.
        greater: True for greater, False for less.
    """

    text: str
    metric: str
    terms: tuple[Term, ...]
    greater: bool


def parse_claim(text: str, arms: Collection[str]) -> Claim:
    """Parse a claim.

    Args:
        text: ``metric: a > b > ...`` or with ``<``.
        arms: names of the grid's arms.

    Raises:
        InputError: with all errors of the claim, and the names that exist.
    """
    metric, colon, chain = text.partition(":")
    metric = metric.strip()
    parts = re.split(r"\s+([<>])\s+", chain.strip())
    terms, signs = parts[::2], set(parts[1::2])
    if not colon or len(signs) != 1 or not all(terms):
        raise InputError(f"{text!r} is no claim of the form 'metric: arm > arm > ...' or with '<'")
    bare = metric.partition("/")[0]
    errors = []
    if bare not in METRICS:
        errors.append(f"{text!r}: {bare!r} is no metric{did_you_mean(bare, list(METRICS))}; there are {', '.join(METRICS)}")
    elif "/" in metric and (not METRICS[bare].per_anomaly_set or metric.endswith("/")):
        which = "an anomaly set without a name" if METRICS[bare].per_anomaly_set else "each anomaly set"
        errors.append(f"{text!r}: {bare} has no number for {which}")
    read = [_term(term, arms) for term in terms]
    for term, value in zip(terms, read, strict=True):
        if value is None:
            errors.append(f"{text!r}: {term!r} is no arm{did_you_mean(term, list(arms))}; there are {', '.join(arms)}")
    if not any(isinstance(value, str) for value in read):
        errors.append(f"{text!r} compares no arm")
    if len(set(terms)) < len(terms):
        errors.append(f"{text!r} compares something with itself")
    if errors:
        raise InputError(errors)
    return Claim(text, metric, tuple(value for value in read if value is not None), ">" in signs)


def _term(text: str, arms: Collection[str]) -> Term | None:
    if text in arms:
        return text
    try:
        return float(text) if math.isfinite(float(text)) else None
    except ValueError:
        return None
