"""Shapley values keep their axioms for any values of any set of switches."""

from __future__ import annotations

from itertools import chain, combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeps.analysis.shapley import interactions, shapley_values

Game = dict[frozenset[str], float]


@st.composite
def games(draw: st.DrawFn) -> tuple[list[str], Game]:
    names = draw(
        st.lists(st.text(min_size=1, max_size=3).filter(lambda name: name != "same"), min_size=2, max_size=5, unique=True)
    )
    subsets = chain.from_iterable(combinations(names, n) for n in range(len(names) + 1))
    return names, {frozenset(on): draw(st.floats(-100, 100)) for on in subsets}


@given(games(), st.floats(-10, 10))
def test_axioms(drawn: tuple[list[str], Game], worth: float) -> None:
    names, values = drawn
    found = shapley_values(values, names)
    assert sum(found.values()) == pytest.approx(values[frozenset(names)] - values[frozenset()], abs=1e-9), "efficiency"
    assert shapley_values(values, names[::-1]) == pytest.approx(found, abs=1e-9), "the order of the switches does not matter"
    pairs = {frozenset(pair): value for pair, value in interactions(values, names).items()}
    turned = {frozenset(pair): value for pair, value in interactions(values, names[::-1]).items()}
    assert turned == pytest.approx(pairs, abs=1e-9)
    # A switch that always adds the same gets that, changes no other's value and interacts with none.
    more = values | {on | {"same"}: value + worth for on, value in values.items()}
    again = shapley_values(more, [*names, "same"])
    assert again == pytest.approx(found | {"same": worth}, abs=1e-9)
    assert all(
        value == pytest.approx(0, abs=1e-9) for pair, value in interactions(more, [*names, "same"]).items() if "same" in pair
    )
