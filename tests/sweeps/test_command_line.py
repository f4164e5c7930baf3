"""The command line: wrong input gets one message before anything starts, and what can be listed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image

from core.config import TrialConfig
from sweeps.command_line import parse
from sweeps.run import main
from sweeps.sweep_config import check
from tests.conftest import ROOT
from tests.sweeps.tiny import BASE


def folder(root: Path, classes: tuple[str, ...] = ("cat", "dog"), *, broken: bool = False) -> Path:
    for split in ("train", "test"):
        for name in classes:
            (root / split / name).mkdir(parents=True)
            for i in range(4):
                Image.new("RGB", (32, 32), (i * 9, 7, 1)).save(root / split / name / f"{i}.png")
    if broken:
        (root / "train" / "cat" / "2.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    return root


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--grid", "ablations", "--set", "lamda=3"], ["lamda", "did you mean 'lambda'", "projector_dims"]),
        (["--grid", "epochs", "--set", "mu=-1"], ["--set mu=-1: mu: 0 or more is needed, not -1"]),
        (["--grid", "ablations", "--set", "epochs=0"], ["epochs", "0"]),
        (["--grid", "ablations", "--set", "mu=3"], ["--set mu", "varies it", "no-variance"]),
        (["--grid", "ablations", "--arms", "base,neighbour"], ["--arms neighbour", "did you mean 'neighbors'", "random"]),
        (["--grid", "ablation"], ["no such grid", "augmentations, epochs, factorial, learning-rate, loss-weights"]),
        (["--grid", "ablations", "--set", "dataset=folder:/nowhere"], ["folder:/nowhere", "no such folder"]),
        (["--grid", "ablations", "--set", "dataset=folder:{one}"], ["{one}", "at least two class folders", "found cat"]),
        (["--grid", "ablations", "--set", "dataset=folder:{broken}", "--set", "batch_size=2"], ["train/cat/2.png", "broken"]),
        (["--grid", "ablations", "--tracking-uri", "http://127.0.0.1:9"], ["http://127.0.0.1:9", "no MLflow server answers"]),
        (["--grid", "ablations", "--seeds", "none"], ["--seeds none"]),
        (["--grid", "ablations", "--seeds", "0"], ["--seeds 0"]),
        (["--grid", "ablations", "--profile", "imagenet"], ["--profile imagenet", "cifar10, digits-m"]),
        (["--grid", "ablations", "--gpus-per-trial", "99"], ["--gpus-per-trial 99", "wait for ever"]),
        (["--grid", "ablations", "--set", "train_subset=100"], ["batch_size: 256", "90 train images"]),
        (["--grid", "ablations", "--storage", "{file}"], ["--storage", "{file}"]),
        (["--grid", "ablations", "--data", "{file}"], ["--data", "{file}"]),
        (["--grid", "{grid}", "--seeds", "x"], ["--seeds x"]),
        ([], ["--grid is missing", "ablations"]),
        (["--grid", "ablations", "--arms", "x", "--seeds", "-1", "--set", "mu"], ["--arms x", "--seeds -1", "--set mu"]),
    ],
    ids=lambda value: " ".join(value)[:60],
)
def test_wrong_input_gets_one_message_and_starts_nothing(
    arguments: list[str], named: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = {"one": str(tmp_path / "one"), "broken": str(tmp_path / "broken"), "file": str(tmp_path / "file")}
    folder(tmp_path / "one", ("cat",))
    folder(tmp_path / "broken", broken=True)
    (tmp_path / "file").write_text("x")
    paths["grid"] = str(tmp_path / "tiny.yaml")
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump({"question": "?", "base": BASE, "arms": {"[/b]": {}}}))
    monkeypatch.chdir(tmp_path)
    given = [argument.format(**paths) for argument in arguments]
    defaults = {"--storage": str(tmp_path / "results"), "--data": str(tmp_path / "data"), "--profile": "digits-m"}
    more = [text for flag, value in defaults.items() if flag not in given for text in (flag, value)]
    assert main([*given, *more]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and "Traceback" not in said
    for text in named:
        assert text.format(**paths) in said
    assert not (tmp_path / "results").exists(), "nothing is written"


def test_an_unknown_flag_and_wrong_input_end_the_process_with_2(tmp_path: Path) -> None:
    for flags in (["--gird", "ablations"], ["--grid", "ablation"]):
        line = [sys.executable, str(ROOT / "sweeps" / "run.py"), *flags, "--data", str(tmp_path)]
        done = subprocess.run(line, capture_output=True, text=True, timeout=100, cwd=tmp_path)
        assert done.returncode == 2 and not list(tmp_path.iterdir())


def test_lists_grids_and_fields(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    said = capsys.readouterr().out
    assert "ablations" in said and "What" in said
    assert main(["--list-fields"]) == 0
    said = capsys.readouterr().out
    for name in ("lambda = 25.0\n    weight of the invariance term", "augmentation.flip = 0.5", 'anomaly_datasets = ["mnist"]'):
        assert name in said
    fields = [field.alias or name for name, field in TrialConfig.model_fields.items()]
    assert all(f"\n{name} = " in said or f"\n{name}: " in said for name in fields), "every field is there"


@pytest.mark.parametrize("flag", ["--search-trials", "--trials"])
def test_the_old_spelling_of_search_trials_is_accepted(flag: str) -> None:
    assert parse(["--grid", "search", flag, "7"]).search_trials == 7


def test_texts_that_look_like_markup_are_shown_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "marked.yaml"
    path.write_text(yaml.safe_dump({"question": "is [/b] fine?", "arms": {"[/red]": {"mu": 0}}}))
    assert main(["--grid", str(path), "--dry-run", "--profile", "digits-m", "--data", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "is [/b] fine?" in said and "[/red]" in said


def test_workers_elsewhere_get_an_absolute_storage_and_people_see_what_they_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = check(parse(["--grid", "ablations", "--profile", "digits-m", "--data", str(tmp_path)]))
    assert config.storage == Path("results") and config.execution.storage == tmp_path / "results"


def test_a_variable_that_is_not_followed_is_named_without_its_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@there")
    places = ["--storage", str(tmp_path / "results"), "--data", str(tmp_path)]
    assert main(["--grid", "augmentations", "--dry-run", "--profile", "digits-m", *places]) == 0
    said = capsys.readouterr().out
    assert "MLFLOW_TRACKING_URI=http://me:***@there is not followed; give it as --tracking-uri" in said and "secret" not in said


@pytest.mark.parametrize("verbose", [False, True])
def test_a_dry_run_of_many_trials_names_those_it_does_not_show(
    verbose: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "many.yaml"
    path.write_text(
        "question: which?\narms: {rate: {learning_rate: [" + ", ".join(f"{i}.5e-4" for i in range(1, 100)) + "]}}\n"
    )
    places = ["--data", str(tmp_path), "--storage", str(tmp_path / "results")]
    flags = ["--verbose"] if verbose else []
    assert main(["--grid", str(path), "--dry-run", "--profile", "digits-m", *places, *flags]) == 0
    shown = capsys.readouterr().out
    assert "100 trials, 0 done already, 100 to run" in shown
    assert ("60 more rows: --verbose shows them" in shown) != verbose
    assert shown.count("to do") == (100 if verbose else 40)
