"""Damage in a finished storage: noticed, named, set aside, made again, and the numbers are those of before."""

from __future__ import annotations

import base64
import json
import shutil
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from evaluation.baselines import fit
from sweeps.execution import figure_tasks, worker
from sweeps.execution.figure_tasks import draw_figures
from sweeps.execution.weights import load_checkpoint, load_encoder_weights, save_weights
from sweeps.execution.worker import run_trial
from sweeps.planning.trial import Plan, Trial
from sweeps.run import main
from sweeps.storage.check import check_storage
from sweeps.storage.checked_folder import CHECKSUMS, DamagedFileError
from sweeps.storage.image_sets import Images
from sweeps.storage.records import MetricResult
from sweeps.storage.snapshot import StoreSnapshot
from sweeps.storage.trial_state import READOUTS, product_name
from sweeps.storage.trial_store import TrialStore
from tests.sweeps.tiny import arm, record_of, tiny_plan

_PICTURE = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNkYAAAAAYAAjCB0C8AAAAASUVORK5CYII="
)  # fmt: skip
_ARMS: dict[str, Any] = {"n": {"pairing": "neighbors"}, "p": {"method": "pca"}}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, splits: Any) -> tuple[Plan, Path, Images]:
    """A storage with base, its child n, and p, all done and drawn."""
    from tests.conftest import image_set

    sets = Images({("digits-m", None, None): splits}, {"digits-m-patches": image_set(20, seed=5)})
    storage = tmp_path_factory.mktemp("finished")
    plan = tiny_plan(storage, _ARMS)
    for name in ("base", "n", "p"):
        _run(arm(plan, name), sets, storage)
    return plan, storage, sets


def _run(trial: Trial, images: Images, storage: Path) -> list[str]:
    """What a command does with an open trial, with pictures that cost nothing; returns what was damaged."""
    store, found = TrialStore(storage), list[str]()
    if not StoreSnapshot(store).is_done(trial):
        run_trial(trial, images, storage, on_damage=found.append)
    with store.lock(trial.key):
        found += store.mend(trial)
        state = store.read(trial.key)
        missing: dict[str, Any] = dict.fromkeys(state.missing_figures(trial).values(), _PICTURE)
        missing |= {id_: {"test": np.ones(1)} for id_ in state.missing_details(trial, derived=True).values()}
        made = {id_: store.make(trial.key, id_, partial(missing.get, id_)) for id_ in missing}
        late = dict.fromkeys(state.missing_metrics(trial, after_slot=True).values(), MetricResult(0.5, None, time.time()))
        store.save_results(trial.key, made | late)
        if state.has_readouts:
            store.files(trial.key).remove(READOUTS)
    return found


def _content(storage: Path) -> dict[str, Any]:
    """Everything that a trial's numbers rest on, without times."""
    found: dict[str, Any] = {}
    for path in sorted(storage.glob("trials/*/**/*")):
        name = str(path.relative_to(storage))
        if "damaged" in path.parts or not path.is_file():
            continue
        if path.suffix == ".npz":
            with np.load(path) as arrays:
                found[name] = {key: arrays[key].tobytes() for key in arrays.files}
        elif path.suffix == ".safetensors":
            found[name] = path.read_bytes()
        elif path.name.startswith("evaluation-"):
            found |= {id_: result["value"] for id_, result in json.loads(path.read_text()).items()}
    return found


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    "harm", [_flip, pytest.param(_cut, marks=pytest.mark.slow), pytest.param(_empty, marks=pytest.mark.slow)]
)
def test_a_damaged_file_of_every_kind_is_named_and_made_again(
    finished: tuple[Plan, Path, Images], tmp_path: Path, harm: Any
) -> None:  # fmt: skip
    plan, whole, images = finished
    storage, before = tmp_path / "s", _content(whole)
    shutil.copytree(whole, storage)
    harmed = []
    for name in ("base", "p"):
        files = sorted(path for path in TrialStore(storage).folder(arm(plan, name).key).rglob("*") if path.is_file())
        kinds = {f"{path.parent.name}{path.suffix}" if path.parent.name in ("details", "figures") else path.name: path
                 for path in files if path.name not in ("lock", ".checksums.lock", "checkpoint.pt", CHECKSUMS)}  # fmt: skip
        harmed += kinds.values()
    assert len(harmed) >= 11
    for path in harmed:
        harm(path)
    snapshot = StoreSnapshot(TrialStore(storage))
    snapshot.verify(plan.trials.values())
    assert not snapshot.is_done(arm(plan, "base")) and snapshot.is_done(arm(plan, "n"))
    noticed = snapshot.new_damage()
    assert all(any(str(path) in line for line in noticed) for path in harmed) and snapshot.new_damage() == []
    found = [line for name in ("base", "p", "n") for line in _run(arm(plan, name), images, storage)]
    assert all(
        any(line.startswith((f"{path.name}: ", f"{path.parent.name}/{path.name}: ")) for line in found) for path in harmed
    )
    assert _content(storage) == before
    assert not _run(arm(plan, "base"), images, storage), "nothing is found twice"
    assert (TrialStore(storage).folder(arm(plan, "base").key) / "damaged" / "trained.json").exists()


def test_each_file_that_is_damaged_alone_opens_its_trial(finished: tuple[Plan, Path, Images], tmp_path: Path) -> None:
    plan, whole, _ = finished
    trial, storage = arm(plan, "n"), tmp_path / "s"
    shutil.copytree(whole, storage)
    folder = TrialStore(storage).folder(trial.key)
    names = [name for name in TrialStore(whole).read(trial.key).stored_names if name != "checkpoint.pt"]
    assert len({Path(name).parts[0] for name in names}) >= 6
    for name in (*names, CHECKSUMS):
        content = (folder / name).read_bytes()
        _flip(folder / name)
        snapshot = StoreSnapshot(TrialStore(storage))
        snapshot.verify([trial])
        assert not (snapshot.is_done(trial) and snapshot.is_drawn(trial)), name
        (folder / name).write_bytes(content)
    snapshot = StoreSnapshot(TrialStore(storage))
    snapshot.verify([trial])
    assert snapshot.is_done(trial) and snapshot.is_drawn(trial)


def test_check_finds_sets_aside_and_counts(finished: tuple[Plan, Path, Images], tmp_path: Path) -> None:
    plan, whole, images = finished
    storage = tmp_path / "s"
    shutil.copytree(whole, storage)
    said: list[str] = []
    assert check_storage(storage, said.append) and "everything is as it was written" in said
    folder = TrialStore(storage).folder(arm(plan, "base").key)
    said.clear()
    _flip(folder / "checkpoint.pt")
    assert not check_storage(storage, said.append) and any(f"damaged: {folder / 'checkpoint.pt'}: " in line for line in said)
    for name in ("encoder.safetensors", CHECKSUMS):
        _flip(folder / name)
    assert main(["--check", "--storage", str(storage)]) == 1
    assert check_storage(storage, said.append), "what was damaged is aside"
    assert len(list((folder / "damaged").iterdir())) >= 1
    _run(arm(plan, "base"), images, storage)
    assert _content(storage) == _content(whole)


def test_swapped_weights_are_noticed_even_if_their_checksum_was_swapped_too(
    finished: tuple[Plan, Path, Images], tmp_path: Path
) -> None:  # fmt: skip
    plan, whole, _ = finished
    storage = tmp_path / "s"
    shutil.copytree(whole, storage)
    store = TrialStore(storage)
    one, other = (store.files(arm(plan, name).key) for name in ("base", "n"))
    one.write_bytes("encoder.safetensors", other.read("encoder.safetensors") or b"")
    assert "not the file of this training" in store.read(arm(plan, "base").key).verify()["encoder.safetensors"]


@pytest.mark.slow
def test_a_damaged_figure_is_drawn_again(finished: tuple[Plan, Path, Images], tmp_path: Path) -> None:
    plan, whole, images = finished
    storage, trial = tmp_path / "s", arm(plan, "p")
    shutil.copytree(whole, storage)
    folder = TrialStore(storage).folder(trial.key)
    for path in (folder / "figures").iterdir():
        _flip(path)
    for path in folder.glob("details/tsne*"):  # what stands for it cannot be drawn from
        path.unlink()
    found = draw_figures(trial, images, storage)
    assert len(found) == len(trial.figure_ids) and all("figures/" in line for line in found)
    assert StoreSnapshot(TrialStore(storage)).is_drawn(trial) and draw_figures(trial, images, storage) == []


def test_no_figure_is_drawn_from_damaged_arrays(
    finished: tuple[Plan, Path, Images], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    plan, whole, images = finished
    storage, trial, store = tmp_path / "s", arm(plan, "p"), TrialStore(tmp_path / "s")
    shutil.copytree(whole, storage)
    monkeypatch.setattr(figure_tasks, "draw", lambda *_: _PICTURE)
    figures = sorted((store.folder(trial.key) / "figures").iterdir())
    _flip(figures[0])
    (line,) = draw_figures(trial, images, storage)
    assert figures[0].name in line and StoreSnapshot(store).is_drawn(trial), "a damaged figure is drawn again"
    figures[0].unlink()
    _flip(store.folder(trial.key) / product_name(trial.detail_ids["representations"]))
    (line,) = draw_figures(trial, images, storage)
    assert "details/" in line and not figures[0].exists() and not store.read(trial.key).is_done(trial)
    _run(trial, images, storage)
    assert StoreSnapshot(store).is_drawn(trial) and figures[0].exists()


def test_check_of_nothing_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check", "--storage", str(tmp_path / "absent")]) == 2
    assert "no trials and no sweeps there" in capsys.readouterr().err


def test_a_child_of_another_parent_than_the_present_one_is_trained_again(
    finished: tuple[Plan, Path, Images], tmp_path: Path
) -> None:  # fmt: skip
    plan, whole, images = finished
    storage, child, parent = tmp_path / "s", arm(plan, "n"), arm(plan, "base")
    shutil.copytree(whole, storage)
    store = TrialStore(storage)
    weights, _ = load_encoder_weights(store.files(parent.key))
    assert store.read(child.key).training.parent_encoder == store.files(parent.key).digest("encoder.safetensors")  # type: ignore[union-attr]
    other = {name: tensor + 0.01 if tensor.is_floating_point() else tensor for name, tensor in weights.items()}
    save_weights(store.files(parent.key), "encoder.safetensors", other)
    snapshot = StoreSnapshot(store)
    assert not snapshot.is_done(child) and snapshot.record(child).status == "open"
    (line,) = _run(child, images, storage)
    assert "another encoder of its parent" in line
    assert StoreSnapshot(store).is_done(child)
    assert record_of(store, child).training != record_of(TrialStore(whole), child).training
    assert not torch.equal(load_encoder_weights(store.files(child.key))[0]["head.weight"],
                           load_encoder_weights(TrialStore(whole).files(child.key))[0]["head.weight"])  # fmt: skip


def _without_child(
    finished: tuple[Plan, Path, Images], tmp_path: Path
) -> tuple[Path, TrialStore, Trial, Trial, Images]:  # fmt: skip
    """A copy of the finished storage in which n, the child of base, is still to be trained."""
    plan, whole, images = finished
    storage, child = tmp_path / "s", arm(plan, "n")
    shutil.copytree(whole, storage)
    store = TrialStore(storage)
    shutil.rmtree(store.folder(child.key))
    return storage, store, child, arm(plan, "base"), images


def test_a_checkpoint_of_another_parent_than_the_present_one_is_not_continued_from(
    finished: tuple[Plan, Path, Images], tmp_path: Path
) -> None:  # fmt: skip
    storage, store, child, parent, images = _without_child(finished, tmp_path)
    seen: list[float] = []

    def note(record: dict[str, float]) -> None:
        seen.append(record["epoch"])
        if len(seen) == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_trial(child, images, storage, on_epoch=note)
    files = store.files(parent.key)
    other = {
        name: tensor + 0.01 if tensor.is_floating_point() else tensor for name, tensor in load_encoder_weights(files)[0].items()
    }
    save_weights(files, "encoder.safetensors", other)
    run_trial(child, images, storage, on_epoch=note)
    assert seen == [1, 1, 2]


@pytest.mark.parametrize("dies", [False, True], ids=["undisturbed", "died before the record of the training"])
def test_results_of_other_weights_are_computed_again(
    finished: tuple[Plan, Path, Images], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies: bool
) -> None:  # fmt: skip
    """As on a GPU, where weights that are made again may have other bits."""
    plan, whole, images = finished
    storage, trial = tmp_path / "s", arm(plan, "p")
    shutil.copytree(whole, storage)
    store = TrialStore(storage)
    earlier = {id_: result.time for id_, result in store.read(trial.key).results.items()}

    def other_fit(*given: Any) -> dict[str, Any]:
        return {name: array * np.float32(1.01) for name, array in fit(*given).items()}

    monkeypatch.setattr(worker, "fit", other_fit)
    (store.folder(trial.key) / "fitted.npz").unlink()
    if dies:
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(TrialStore, "drop_results_of_other_weights", _interrupt)
            run_trial(trial, images, storage)
    run_trial(trial, images, storage)
    _run(trial, images, storage)  # the figures
    state = store.read(trial.key)
    assert state.training is not None and state.training.weights != record_of(TrialStore(whole), trial).training.weights  # type: ignore[union-attr]
    assert set(earlier) == set(state.results) and state.is_done(trial)
    assert all(result.time > earlier[id_] for id_, result in state.results.items()), "none of the old weights' results is left"
    assert any(path.name.startswith("evaluation-") for path in (store.folder(trial.key) / "damaged").iterdir())


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def test_a_parents_damaged_encoder_opens_the_parent_and_is_never_trained_with(
    finished: tuple[Plan, Path, Images], tmp_path: Path
) -> None:  # fmt: skip
    storage, store, child, parent, images = _without_child(finished, tmp_path)
    encoder = store.folder(parent.key) / "encoder.safetensors"
    _flip(encoder)
    with pytest.raises(Exception, match=r"encoder.safetensors: its content is not what was written"):
        run_trial(child, images, storage)
    encoder.unlink()
    assert not StoreSnapshot(store).is_done(parent), "gone is noticed without reading"
    with pytest.raises(Exception, match=r"encoder.safetensors: it is gone"):
        run_trial(child, images, storage)
    for trial in (parent, child):
        _run(trial, images, storage)
    assert _content(storage) == _content(finished[1])


def test_a_damaged_checkpoint_costs_epochs_and_nothing_else(finished: tuple[Plan, Path, Images], tmp_path: Path) -> None:
    plan, whole, images = finished
    storage, trial = tmp_path / "s", arm(plan, "base")

    def die(record: dict[str, float]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_trial(trial, images, storage, on_epoch=die)
    _cut(TrialStore(storage).folder(trial.key) / "checkpoint.pt")
    seen: list[float] = []
    found: list[str] = []
    run_trial(trial, images, storage, on_epoch=lambda record: seen.append(record["epoch"]), on_damage=found.append)
    assert seen == [1, 2] and len(found) == 1 and "checkpoint.pt" in found[0]
    assert load_encoder_weights(TrialStore(storage).files(trial.key))[1] == load_encoder_weights(
        TrialStore(whole).files(trial.key))[1]  # fmt: skip


def test_a_checkpoint_of_before_gets_a_checksum_when_a_longer_trial_continues_from_it(
    finished: tuple[Plan, Path, Images], tmp_path: Path
) -> None:  # fmt: skip
    plan, whole, images = finished
    storage, shorter = tmp_path / "s", arm(plan, "base")
    shutil.copytree(whole, storage)
    _as_written_before(storage)
    longer = arm(tiny_plan(storage, {"longer": {"epochs": 3}}), "longer")
    epochs: list[float] = []

    def note(record: dict[str, float]) -> None:
        epochs.append(record["epoch"])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_trial(longer, images, storage, on_epoch=note)
    assert epochs == [3] and TrialStore(storage).files(shorter.key).digest("checkpoint.pt") is not None


def test_records_of_another_shape_are_damage(finished: tuple[Plan, Path, Images], tmp_path: Path) -> None:
    plan, whole, _ = finished
    storage, trial = tmp_path / "s", arm(plan, "base")
    for content in ("[]", "3", "{}", '{"history": 3}', '"x"', "null", '{"a": {"value": "x"}}', "[" * 2000, "\udcff"):
        shutil.rmtree(storage, ignore_errors=True)
        shutil.copytree(whole, storage)
        folder = TrialStore(storage).folder(trial.key)
        (folder / CHECKSUMS).unlink()
        for path in folder.glob("*.json"):
            path.write_bytes(content.encode("utf-8", "surrogateescape"))
        state = TrialStore(storage).read(trial.key)
        assert not state.is_done(trial) and state.record(trial).status == "open", content
        assert "trained.json" in state.verify(), content


def test_nothing_is_written_where_damage_is_only_shown(
    finished: tuple[Plan, Path, Images], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    plan, whole, _ = finished
    storage = tmp_path / "s"
    shutil.copytree(whole, storage)
    _flip(TrialStore(storage).folder(arm(plan, "base").key) / "trained.json")
    before = sorted((str(path), path.stat().st_mtime_ns) for path in storage.rglob("*"))
    snapshot = StoreSnapshot(TrialStore(storage))
    assert not snapshot.is_done(arm(plan, "base"))
    Console().print(*snapshot.new_damage())
    assert "trained.json" in capsys.readouterr().out
    assert sorted((str(path), path.stat().st_mtime_ns) for path in storage.rglob("*")) == before


def _as_written_before(storage: Path) -> None:
    """Make a storage what an earlier version of this program wrote: no checksums, encoders in torch's format."""
    for folder in (storage / "trials").iterdir():
        (folder / CHECKSUMS).unlink()
        if (folder / "encoder.safetensors").exists():
            torch.save(load_encoder_weights(TrialStore(storage).files(folder.name))[0], folder / "encoder.pt")
            (folder / "encoder.safetensors").unlink()
            (folder / "projector.safetensors").unlink(missing_ok=True)
        if (folder / "trained.json").exists():
            content = json.loads((folder / "trained.json").read_text())
            del content["weights"], content["parent_encoder"]
            (folder / "trained.json").write_text(json.dumps(content))


def test_a_storage_of_before_is_read_without_a_complaint_and_gets_checksums(
    finished: tuple[Plan, Path, Images], tmp_path: Path
) -> None:  # fmt: skip
    plan, whole, images = finished
    storage = tmp_path / "s"
    shutil.copytree(whole, storage)
    _as_written_before(storage)
    snapshot = StoreSnapshot(TrialStore(storage))
    snapshot.verify(plan.trials.values())
    assert all(snapshot.is_done(trial) and snapshot.is_drawn(trial) for trial in plan.trials.values())
    assert snapshot.new_damage() == []
    for trial in plan.trials.values():
        assert TrialStore(storage).read(trial.key).unrecorded() == []
    shutil.rmtree(TrialStore(storage).folder(arm(plan, "n").key))
    _run(arm(plan, "n"), images, storage)  # with its parent's encoder of before
    child = str(Path("trials") / arm(plan, "n").key / "encoder.safetensors")
    assert _content(storage)[child] == _content(whole)[child]
    said: list[str] = []
    assert check_storage(storage, said.append), said


class _Trap:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return Path.touch, (Path("sprung"),)  # type: ignore[return-value]


def test_a_pickle_in_place_of_weights_is_damage_and_is_not_run(
    finished: tuple[Plan, Path, Images], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    plan, whole, _ = finished
    storage, trial = tmp_path / "s", arm(plan, "base")
    shutil.copytree(whole, storage)
    _as_written_before(storage)
    monkeypatch.chdir(tmp_path)
    for name in ("encoder.pt", "checkpoint.pt"):
        torch.save({"x": _Trap()}, TrialStore(storage).folder(trial.key) / name)
    assert set(TrialStore(storage).read(trial.key).verify(checkpoint=True)) == {"encoder.pt", "checkpoint.pt"}
    files = TrialStore(storage).files(trial.key)
    for load in (load_encoder_weights, lambda there: load_checkpoint(there, torch.device("cpu"), None)):
        with pytest.raises(DamagedFileError, match="it cannot be read"):
            load(files)
    assert not (tmp_path / "sprung").exists()
