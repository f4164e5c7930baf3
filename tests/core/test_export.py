"""Encoders as exported graphs: they compute what the encoder computes, on batches of any size."""

from __future__ import annotations

import io
import zipfile

import pytest
import torch

from core.config import TrialConfig
from core.export import export_encoder
from core.models import ENCODERS, build_encoder


@pytest.mark.parametrize("name", list(ENCODERS))
def test_a_graph_computes_what_its_encoder_computes(name: str) -> None:
    config = TrialConfig(encoder=name, representation_dim=8)
    mean, std = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.2, 0.3, 0.1])
    draw = torch.Generator().manual_seed(0)
    for seed in (0, 1):  # the second takes the graph of the first
        encoder = build_encoder(name, 8, seed, mean, std)
        with torch.no_grad():
            encoder(torch.rand(16, 3, 32, 32, generator=draw))  # so that batch norm's statistics are not the initial ones
        before = {key: value.clone() for key, value in encoder.state_dict().items()}
        file = export_encoder(encoder, config)
        assert encoder.training and all(torch.equal(before[key], value) for key, value in encoder.state_dict().items())
        graph = torch.export.load(io.BytesIO(file)).module()
        encoder.eval()
        for n in (1, 2, 7):
            images = torch.rand(n, 3, 32, 32, generator=draw)
            with torch.no_grad():
                torch.testing.assert_close(graph(images), encoder(images), rtol=1e-4, atol=1e-5)


def test_a_graph_holds_no_pickle() -> None:
    encoder = build_encoder("small", 8, 0, torch.zeros(3), torch.ones(3))
    with zipfile.ZipFile(io.BytesIO(export_encoder(encoder, TrialConfig(encoder="small", representation_dim=8)))) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    assert any(name.endswith(".json") for name in contents)
    for name, content in contents.items():
        assert not name.endswith((".pkl", ".pickle"))
        assert not content.startswith((b"\x80", b"PK")), f"{name}: a pickle, or an archive that may hold one"
