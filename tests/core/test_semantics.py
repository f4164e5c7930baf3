"""The golden test of the training semantics.

A trial's key holds TRAINING_SEMANTICS. Whoever changes what a config trains to must raise it (and the values below), or trials
kept from before would be taken for the new ones. The values were made on a CPU; other kinds differ in their last bits.
"""

from __future__ import annotations

import pytest

from core.config import TRAINING_SEMANTICS, trial_key
from core.datasets import Splits
from core.train import train
from tests.conftest import image_set, tiny_config

GOLDEN_SEMANTICS = 1
GOLDEN_KEY = "fcf7885e9bd2b5f36565"
#: pairing -> train and test loss of the last epoch.
GOLDEN = {
    "augment": (32.69116287231445, 46.8447265625),
    "pixel-neighbors": (26.559143829345704, 45.949886322021484),
    "class": (36.982068634033205, 48.35688908894857),
    "random": (38.550299072265624, 48.066060384114586),
}


@pytest.mark.parametrize("pairing", ["augment", "pixel-neighbors", "class", "random"])
def test_a_tiny_run_gives_the_recorded_losses(pairing: str, splits: Splits) -> None:
    history = train(tiny_config(pairing=pairing, pair_purity=0.5), splits).history
    losses = (history[-1]["train/loss"], history[-1]["test/loss"])
    message = "training changed: raise TRAINING_SEMANTICS in core/config.py and record the new values here"
    assert losses == pytest.approx(GOLDEN[pairing], rel=1e-3), message  # kinds of CPU differ by up to 4e-4
    assert TRAINING_SEMANTICS == GOLDEN_SEMANTICS, "record the values of the new semantics here"


def test_the_key_of_a_config_is_the_recorded_one() -> None:
    key = trial_key(tiny_config(), {"digits-m": "digits-m-1"})
    assert key == GOLDEN_KEY, (
        "keys changed: every trial kept so far would be trained again; if that is meant, record the new key"
    )


def test_the_fixture_itself_is_unchanged() -> None:
    assert int(image_set(80).images.astype(int).sum()) == 34356249
