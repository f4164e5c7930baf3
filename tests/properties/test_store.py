"""What holds of the store however two writers' file operations interleave, and wherever one of them dies."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeps.planning.trial import Trial
from sweeps.storage.records import MetricResult, TrainingRecord
from sweeps.storage.trial_state import ENCODER, product_name
from sweeps.storage.trial_store import TrialStore
from tests.properties.turns import Death, Turns, install
from tests.sweeps.tiny import arm, tiny_plan

METRICS = ("probe_accuracy@1", "silhouette@2", "anomaly_auc@1+x")
DETAILS = ("detail:predictions@3", "detail:clusters@1")
FIGURES = ("figure:loss@2+ab", "figure:spectrum@2+cd")
TRAINED = TrainingRecord(({"epoch": 1.0, "loss": 0.5},), None, 1.0, 1, "CPU, x", 1, {"torch": "2"}, 5.0)
REASON = "ValueError: one"

#: What a writer does, one after another, in the order in which they are tried first.
OPERATIONS = st.one_of(
    st.sampled_from([("config",), ("train",), ("scratch",)]),
    st.tuples(st.just("results"), st.lists(st.sampled_from(METRICS), min_size=1, max_size=3, unique=True)),
    st.tuples(st.just("make"), st.sampled_from(DETAILS + FIGURES)),
    st.sampled_from([("fail",), ("clear",)]),
)
PROGRAMS = st.lists(OPERATIONS, min_size=1, max_size=4)
#: Who goes on, and for how many operations.
BURSTS = st.lists(st.tuples(st.integers(0, 1), st.integers(1, 12)), min_size=1, max_size=6)
ORDERS = BURSTS.map(lambda bursts: [number for number, length in bursts for _ in range(length)])
DEATHS = st.none() | st.tuples(st.integers(0, 1), st.integers(1, 40))


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Trial:
    return arm(tiny_plan(tmp_path_factory.mktemp("data"), {}), "base")


def value_of(id_: str) -> float:
    return float(len(id_))


def content_of(id_: str) -> Any:
    """The arrays or the bytes of a product: a function of its id, as computations are functions of theirs."""
    return f"PNG {id_}".encode() if id_.startswith("figure:") else {"scores": np.arange(len(id_)), "of": np.ones(3)}


def do(store: TrialStore, trial: Trial, operation: Sequence[Any]) -> None:
    """One thing that a worker or a driver does to the store."""
    what, key = operation[0], trial.key
    if what == "config":
        store.save_config(trial, device="CPU, x")
    elif what == "train":
        store.files(key).write_bytes(ENCODER, b"weights")
        store.save_training(key, TRAINED)
    elif what == "results":
        store.save_results(key, {id_: MetricResult(value_of(id_), None, 1.0) for id_ in operation[1]})
    elif what == "make":
        id_ = operation[1]
        store.save_results(key, {id_: store.make(key, id_, lambda: content_of(id_))})
    elif what == "fail":
        store.save_failure(key, REASON)
    elif what == "clear":
        store.clear_failure(key)
    elif what == "scratch":
        with store.scratch() as folder:
            (folder / "state").write_text("x")
            assert (folder / "state").read_text() == "x", "nobody else's business"
    else:
        store.remove_scratch()


def writer(storage: Path, trial: Trial, program: Sequence[Any], locked: bool) -> Callable[[], None]:
    """A process's life, with its own store."""

    def live() -> None:
        store = TrialStore(storage)
        with store.lock(trial.key) if locked else nullcontext():
            for operation in program:
                do(store, trial, operation)

    return live


def look(storage: Path, trial: Trial) -> None:
    """Whatever can be read is whole and right, at any instant."""
    store = TrialStore(storage)
    state = store.read(trial.key)
    assert state.config is None or state.config["key"] == trial.key
    assert state.training in (None, TRAINED) and (state.training is None or state.is_trained)
    assert state.failure in (None, REASON)
    assert not state.verify(), "nothing counts as damaged"
    for id_, result in state.results.items():
        assert result.problem is None and result.value == (1.0 if ":" in id_ else value_of(id_))
        if ":" in id_:
            assert (store.folder(trial.key) / product_name(id_)).exists(), "a result that names a file comes after the file"
    for id_ in FIGURES:
        path = store.folder(trial.key) / product_name(id_)
        assert not path.exists() or path.read_bytes() == content_of(id_)
    for id_ in DETAILS:
        path = store.folder(trial.key) / product_name(id_)
        if path.exists():
            with np.load(path) as arrays:
                assert {name: arrays[name].tolist() for name in arrays} == {n: a.tolist() for n, a in content_of(id_).items()}


def check_end(storage: Path, trial: Trial, programs: Sequence[Sequence[Any]]) -> None:
    """All that the programs write is there, and nothing else."""
    look(storage, trial)
    store = TrialStore(storage)
    state = store.read(trial.key)
    done = [operation for program in programs for operation in program]
    assert (state.config is not None) == (("config",) in done) and state.is_trained == (("train",) in done)
    ids = {id_ for what, *rest in done if what == "results" for id_ in rest[0]}
    ids |= {rest[0] for what, *rest in done if what == "make"}
    assert set(state.results) == ids
    left = [p.name for p in storage.rglob("*.tmp")]
    # Who dies before the folder is marked leaves it: without the mark nobody may remove it.
    left += [p.name for p in storage.glob("vicreg-sweeps-*") if any(file.stat().st_size for file in p.iterdir())]
    assert not left, "nothing half-written"


@given(first=PROGRAMS, second=PROGRAMS, order=ORDERS, death=DEATHS, locked=st.booleans())
def test_any_interleaving_of_two_writers_leaves_whole_files(
    trial: Trial, first: Any, second: Any, order: list[int], death: tuple[int, int] | None, locked: bool
) -> None:
    install()
    with tempfile.TemporaryDirectory() as folder:
        storage = Path(folder) / "results"
        storage.mkdir()
        turns = Turns(storage, order, death, lambda: look(storage, trial))
        turns.run(writer(storage, trial, first, locked), writer(storage, trial, second, locked))
        errors = {number: error for number, error in turns.errors.items() if not isinstance(error, Death)}
        for error in errors.values():
            raise error
        # The same commands again: what was interrupted is done, what failed succeeds, and scratch of the dead is removed.
        TrialStore(storage).remove_scratch()
        for number in turns.errors:
            writer(storage, trial, (first, second)[number], locked)()
        check_end(storage, trial, (first, second))


def test_a_driver_that_tidies_up_leaves_the_scratch_folders_of_the_living_alone(trial: Trial) -> None:
    install()
    for first, second in product(range(8), range(1, 8)):
        with tempfile.TemporaryDirectory() as folder:
            storage = Path(folder)
            turns = Turns(storage, [0] * first + [1] * second + [0] * 40, None, lambda: None)
            turns.run(writer(storage, trial, [("scratch",)], False), writer(storage, trial, [("remove scratch",)], False))
            assert not turns.errors, f"the other came after {first} operations, for {second}"
            assert not list(storage.glob("vicreg-sweeps-*"))
