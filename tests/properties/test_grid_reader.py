"""A grid file is read, or refused with texts of ours, whatever is in it; and so is what ``--set`` and claims hold."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import yaml
from hypothesis import given
from hypothesis import strategies as st

from core.config import TrialConfig
from core.errors import InputError
from core.pairing import PAIRINGS
from evaluation.evaluate import METRICS
from sweeps.planning.arms import parse_settings
from sweeps.planning.claim import parse_claim
from sweeps.planning.grid_file import load_grid
from sweeps.planning.planner import Planner

FIELDS = [*TrialConfig().fields(), "augmentation.flip", "lamda", "mu/lambda"]
KEYS = st.sampled_from(
    ["question", "base", "arms", "seeds", "claims", "primary", "margin", "published", "factorial", "search", "space", "trials",
     "objectives", "low", "high", "log", "zero", "claim", "source", "values", "setting", *FIELDS]
)  # fmt: skip
#: Texts that YAML or a reader might take for something else.
TRICKY = st.sampled_from(
    ["", "~", "null", "yes", "3:4", "007", "0x1", "1e999", "-.inf", ".nan", "2020-13-45", "2020-01-01", "<<", "*a", "&a",
     "!!python/none", "base", "point-1", "a/b=1", "a: b", "{}", "[]", "'", '"', "\x00", "\ud800", "\u202e", "e\u0301", "\xe9",
     "=1+1", "../x", "~/x", "folder:", "folder:/nowhere", "probe_accuracy: base > a", *METRICS, *PAIRINGS]
)  # fmt: skip
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.sampled_from([0, 1, 2, -1, 10**400, 1.5]), st.floats(), st.text(max_size=8),
    TRICKY, st.dates(), st.binary(max_size=4),
)  # fmt: skip
NAMES = KEYS | st.text(max_size=6) | TRICKY
STRUCTURES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4), max_leaves=12
)
FIELD_VALUES = st.dictionaries(st.sampled_from(FIELDS) | NAMES, STRUCTURES, max_size=4)
#: Contents that come near to a grid, so that what lies behind the first check is met as well.
NEAR = st.fixed_dictionaries(
    {"question": st.just("?") | SCALARS, "arms": st.dictionaries(NAMES, FIELD_VALUES | SCALARS, max_size=3) | STRUCTURES},
    optional={
        "base": FIELD_VALUES | SCALARS,
        "factorial": st.dictionaries(NAMES, FIELD_VALUES | SCALARS, min_size=1, max_size=6) | STRUCTURES,
        "seeds": st.lists(st.integers(-1, 3), max_size=3) | STRUCTURES,
        "claims": st.lists(st.text(max_size=12) | TRICKY | STRUCTURES, max_size=2) | STRUCTURES,
        "published": st.dictionaries(NAMES, STRUCTURES, max_size=2) | STRUCTURES,
        "search": st.fixed_dictionaries({}, optional={"space": FIELD_VALUES, "objectives": STRUCTURES, "trials": SCALARS})
        | STRUCTURES,
        "primary": SCALARS | st.sampled_from(list(METRICS)),
        "margin": SCALARS,
    },
)
TOKENS = st.sampled_from(
    ["arms", "base", "question", ":", ": ", "\n", "\n  ", "\n    ", "- ", "[", "]", "{", "}", ",", "&a ", "*a", "<<: ",
     "!!int ", "!!binary ", "!!timestamp ", "!!set ", "? ", "| ", "> ", "#", "'", '"', "%YAML 1.1", "---", "...", "\t", "mu",
     "epochs", "0", "1", ".inf", "1:2", "null"]
)  # fmt: skip
YAML_LIKE = st.lists(TOKENS, max_size=20).map("".join)


def refused_or(function: Any, *arguments: Any) -> Any:
    """What a function returns; None where it refuses with texts. Anything else that it raises is a traceback for the user."""
    try:
        return function(*arguments)
    except InputError as error:
        assert error.errors and all(isinstance(text, str) and text.strip() for text in error.errors)
        return None


def read(content: bytes) -> None:
    """Reads a file and plans it, as a command does."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "drawn.yaml"
        path.write_bytes(content)
        grid = refused_or(load_grid, str(path))
        if grid is not None:
            planner = Planner("digits-m", {}, Path(folder), gpu=False, cpu_flags=frozenset())
            refused_or(lambda: planner.plan(grid, seeds=grid.seeds[:2]))


@given(st.text() | YAML_LIKE)
def test_any_text(text: str) -> None:
    read(text.encode(errors="surrogatepass"))


@given(st.binary())
def test_any_bytes(content: bytes) -> None:
    read(content)


@given(NEAR | STRUCTURES)
def test_any_structure(content: Any) -> None:
    read(yaml.safe_dump(content, allow_unicode=True).encode(errors="surrogatepass"))


@given(st.lists(st.tuples(st.sampled_from(FIELDS) | NAMES, SCALARS.map(str) | TRICKY | YAML_LIKE), max_size=3))
def test_any_setting(settings: list[tuple[str, str]]) -> None:
    parsed = refused_or(parse_settings, [f"{key}={value}" for key, value in settings])
    if parsed is not None:
        planner = Planner("digits-m", parsed, Path(tempfile.gettempdir()), gpu=False, cpu_flags=frozenset())
        grid = load_grid("epochs")
        refused_or(lambda: planner.plan(grid, seeds=(0,)))


@given(
    st.text()
    | st.lists(st.sampled_from(["base", "a", ">", " > ", " < ", ": ", "1", "nan", "-inf", "/", *METRICS])).map("".join)
)
def test_any_claim(text: str) -> None:
    refused_or(parse_claim, text, ("base", "a"))
