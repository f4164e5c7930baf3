"""What differs between a sweep that was disturbed and one that was not, apart from what a clock measured."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from core.atomic_files import load_arrays
from sweeps.storage.trial_store import TrialStore
from tests.fault_injection.sweep_command import Command

TABLES = ("table.csv", "contrasts.csv", "table.tex", "trials.csv")
#: Measured by a clock, so no two runs agree.
_CLOCK = {"time", "seconds", "images_per_second"}
#: Tags that tell of the command or the storage.
_OF_A_COMMAND = {"mlflow.parentRunId", "command", "mlflow.note.content", "git_commit"}
#: Files that hold no instant and no speed.
_TO_THE_BYTE = (".png", ".safetensors", "config.json")


def differences(whole: Command, torn: Command, kills: int) -> list[str]:
    """What differs, or was trained more often than so many kills explain, or is left behind."""
    return [
        *of_results(whole.storage, torn.storage),
        *_of_epochs(whole, torn, kills),
        *of_tracking(database_uri(whole.storage), database_uri(torn.storage)),
        *of_leavings(torn),
    ]


def of_results(whole: Path, torn: Path) -> Iterator[str]:
    """Differences between two storages: tables, weights, arrays, figures, numbers."""
    for name in TABLES:
        texts = [timeless(next(storage.glob(f"sweeps/*/{name}"))) for storage in (whole, torn)]
        if texts[0] != texts[1]:
            yield f"{name} differs"
    keys = TrialStore(whole).trial_keys()
    if TrialStore(torn).trial_keys() != keys:
        yield "the stores hold different trials"
        return
    for key in keys:
        yield from _of_files(key, TrialStore(whole).folder(key), TrialStore(torn).folder(key))
        yield from _of_numbers(key, whole, torn)


def timeless(path: Path) -> Any:
    """What a table says, without what a clock measured."""
    if path.name != "trials.csv":
        return path.read_text(encoding="utf-8")
    with path.open(encoding="utf-8") as file:
        return [{name: value for name, value in row.items() if "seconds" not in name} for row in csv.DictReader(file)]


def _of_files(key: str, one: Path, other: Path) -> Iterator[str]:
    found = ({str(p.relative_to(f)) for p in f.rglob("*") if p.is_file()} for f in (one, other))
    left, right = ({name for name in names if not name.startswith("damaged/")} for names in found)
    for name in sorted(left ^ right):
        # A damaged file alone is made again, and its result gets a file of its own; results are compared by their ids.
        remade = name.startswith("evaluation-") and (other / "damaged").is_dir()
        if not remade and not (is_read_by_other_trials_alone(other / name) and (other / "damaged" / name).exists()):
            yield f"{key}/{name} is in one store alone"
    for name in sorted(left & right):
        try:
            same = _same(one / name, other / name)
        except Exception as error:  # whatever a damaged file does to its reader
            yield f"{key}/{name} cannot be read: {type(error).__name__}"
        else:
            if not same:
                yield f"{key}/{name} differs"


def is_read_by_other_trials_alone(path: Path) -> bool:
    """Whether no command of a finished sweep needs the file: a checkpoint, or the untrained encoder's probe."""
    return path.name == "checkpoint.pt" or (path.name.startswith("evaluation-") and not (path.parent / "config.json").exists())


def _same(one: Path, other: Path) -> bool:
    if one.name.endswith(_TO_THE_BYTE):
        return one.read_bytes() == other.read_bytes()
    if one.suffix == ".npz":
        arrays = [load_arrays(path) or {} for path in (one, other)]
        return arrays[0].keys() == arrays[1].keys() and all(arrays[0][n].tobytes() == arrays[1][n].tobytes() for n in arrays[0])
    if one.suffix == ".pt":
        import torch

        return _equal(*(torch.load(path, weights_only=True) for path in (one, other)))
    return True


def _equal(one: Any, other: Any) -> bool:
    """Whether two nested contents of ``torch.load`` are the same to the bit, without what a clock measured."""
    import torch

    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_equal(one[name], other[name]) for name in one if name not in _CLOCK)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_equal, one, other))
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else bool(one == other)


def _of_numbers(key: str, whole: Path, torn: Path) -> Iterator[str]:
    states = [TrialStore(storage).read(key) for storage in (whole, torn)]
    histories = [
        [{n: v for n, v in record.items() if n not in _CLOCK} for record in state.training.history]
        for state in states
        if state.training is not None
    ]
    if len(histories) == 1 or (len(histories) == 2 and histories[0] != histories[1]):
        yield f"{key}: histories differ"
    numbers = [{id_: (r.value, r.problem) for id_, r in state.results.items()} for state in states]
    untrained = states[0].config is None  # its probe alone is there, which nobody needs again
    if numbers[0] != numbers[1] and not (untrained and (states[1].files.path / "damaged").is_dir()):
        yield f"{key}: results differ"


def repeated_epochs(command: Command) -> int:
    """How many epochs were trained more than once."""
    begun = Counter((event["trial"], event["epoch"]) for event in command.events() if event["what"] == "epoch")
    return sum(times - 1 for times in begun.values())


def _of_epochs(whole: Command, torn: Command, kills: int) -> Iterator[str]:
    """At most one epoch of a trial again for each kill, and only the one that ran."""
    begun = [[(e["trial"], e["epoch"]) for e in c.events() if e["what"] == "epoch"] for c in (whole, torn)]
    if set(begun[0]) != set(begun[1]):
        yield f"other epochs were trained: {set(begun[0]) ^ set(begun[1])}"
    for key in dict(begun[1]):
        epochs = [epoch for trial, epoch in begun[1] if trial == key]
        steps = [b - a for a, b in pairwise(epochs)]
        if not set(steps) <= {0, 1} or steps.count(0) > kills:
            yield f"{key}: epochs trained: {epochs}"


def database_uri(storage: Path) -> str:
    """The URI of the MLflow database in a storage."""
    return f"sqlite:///{storage / 'mlflow.db'}"


def of_tracking(whole: str, torn: str) -> Iterator[str]:
    """Differences between what MLflow holds at two URIs."""
    one, other = contents(whole), contents(torn)
    if one.keys() != other.keys():
        yield f"MLflow has other runs: {one.keys() ^ other.keys()}"
    for name in one.keys() & other.keys():
        for what in one[name]:
            if one[name][what] != other[name][what]:
                yield f"MLflow: {what} of {name} differ: {_difference(one[name][what], other[name][what])}"
        for fault in other[name]["faults"]:
            yield f"MLflow: {name}: {fault}"


def contents(uri: str) -> dict[Any, dict[str, Any]]:
    """What MLflow holds at a URI: (sweep, trial) -> its run's parts, without what a clock measured."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    (experiment,) = [e.experiment_id for e in client.search_experiments() if e.name != "Default"]
    models: dict[str, list[str]] = {}
    for model in client.search_logged_models([experiment]):
        models.setdefault(model.source_run_id, []).append(str(model.status))
    found: dict[Any, dict[str, Any]] = {}
    for run in client.search_runs([experiment]):
        name = run.data.tags.get("sweep"), run.data.tags.get("trial_key")
        parts = _contents(client, run, models.get(run.info.run_id, []))
        if name in found:
            parts["faults"].append("two runs")
        found[name] = parts
    return found


def _contents(client: Any, run: Any, models: list[str]) -> dict[str, Any]:
    points = [point for name in run.data.metrics for point in client.get_metric_history(run.info.run_id, name)]
    folders = [item.path for item in client.list_artifacts(run.info.run_id) if item.is_dir]
    lists = [client.list_artifacts(run.info.run_id, folder) for folder in (None, *folders)]
    timeless = {n: v for n, v in run.data.tags.items() if n not in _OF_A_COMMAND}
    twice = [point for point, n in Counter((p.key, p.step) for p in points).items() if n > 1]
    # An interrupted sweep says its summary at the trials done so far, too.
    metrics = run.data.metrics.items() if "trial_key" not in timeless else ((f"{p.key} {p.step}", p.value) for p in points)
    return {
        "faults": [f"{point} is there more than once" for point in twice]
        + ([] if run.info.status == "FINISHED" else [f"is {run.info.status}"]),
        "metrics": sorted((name, value) for name, value in metrics if name.split()[0] not in _CLOCK),
        "params": dict(run.data.params),
        "tags": timeless,
        "artifacts": sorted(item.path for items in lists for item in items),
        "inputs": sorted(i.dataset.name for i in run.inputs.dataset_inputs),
        "models": (models, len(run.outputs.model_outputs) if run.outputs else 0),
    }


def _difference(one: Any, other: Any) -> str:
    if isinstance(one, dict):
        one, other = sorted(one.items()), sorted(other.items())
    if isinstance(one, list):
        return f"{[x for x in one if x not in other][:5]} / {[x for x in other if x not in one][:5]}"
    return f"{one} / {other}"


def of_leavings(command: Command) -> Iterator[str]:
    """Files and folders that are half-written or of a moment."""
    for path in [*command.folder.rglob(".*.tmp"), *command.data.rglob(".*.tmp"), *command.storage.glob("vicreg-sweeps-*")]:
        yield f"left behind: {path}"
