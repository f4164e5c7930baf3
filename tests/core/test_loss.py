"""The loss against an independent float64 writing of its definition (Bardes et al. 2022, eq. 1 to 6; FACTS of other codes)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from core.loss import covariance, invariance, variance, vicreg_loss


def reference(za: Tensor, zb: Tensor, lambda_: float, mu: float, nu: float, gamma: float, epsilon: float) -> dict[str, float]:
    """The paper's formulas, term by term, with loops over dimensions, in float64."""
    a, b = za.double().numpy(), zb.double().numpy()
    n, d = a.shape
    s = sum(((a[i] - b[i]) ** 2).sum() for i in range(n)) / (n * d)
    v = c = 0.0
    for z in (a, b):
        cov = np.cov(z, rowvar=False, ddof=1).reshape(d, d)
        v += sum(max(0.0, gamma - np.sqrt(cov[j, j] + epsilon)) for j in range(d)) / d
        c += sum(cov[i, j] ** 2 for i in range(d) for j in range(d) if i != j) / d
    return {"loss": lambda_ * s + mu * v + nu * c, "invariance": s, "variance": v, "covariance": c}


def batches() -> list[tuple[str, Tensor, Tensor]]:
    draw = np.random.default_rng(0)
    found = []
    for i in range(40):
        n, d = int(draw.integers(2, 300)), int(draw.integers(1, 100))
        scale, offset = 10 ** draw.uniform(-3, 2), draw.normal() * 10 ** draw.uniform(-2, 1)
        z = [torch.tensor(draw.normal(size=(n, d)) * scale + offset, dtype=torch.float32) for _ in range(2)]
        found.append((f"{i}: {n}x{d} scale {scale:.3g} offset {offset:.3g}", z[0], z[1]))
    constant = torch.full((64, 16), 0.7)
    found.append(("collapsed to a point", constant, constant.clone()))
    found.append(("collapsed to zero", torch.zeros(8, 4), torch.zeros(8, 4)))
    found.append(("collapsed to two points", torch.arange(64.0)[:, None].remainder(2).expand(64, 16) * 1e-3, constant))
    return found


@pytest.mark.parametrize(("name", "za", "zb"), batches(), ids=lambda value: value if isinstance(value, str) else "")
def test_loss_equals_its_definition(name: str, za: Tensor, zb: Tensor) -> None:
    weights = {"lambda_": 25.0, "mu": 25.0, "nu": 1.0, "gamma": 1.0, "epsilon": 1e-4}
    expected = reference(za, zb, **weights)
    assert float(vicreg_loss(za, zb, **weights).loss) == pytest.approx(expected["loss"], rel=1e-6)
    in_float64 = vicreg_loss(za.double(), zb.double(), **weights)
    for term, value in expected.items():
        assert float(getattr(in_float64, term)) == pytest.approx(value, rel=1e-9, abs=1e-12), term


@pytest.mark.parametrize(("name", "za", "zb"), batches(), ids=lambda value: value if isinstance(value, str) else "")
def test_gradient_is_finite(name: str, za: Tensor, zb: Tensor) -> None:
    za, zb = za.clone().requires_grad_(), zb.clone().requires_grad_()
    vicreg_loss(za, zb).loss.backward()  # type: ignore[no-untyped-call]
    assert za.grad is not None and zb.grad is not None
    assert bool(za.grad.isfinite().all()) and bool(zb.grad.isfinite().all())


def test_gradient_equals_finite_differences() -> None:
    torch.manual_seed(0)
    za, zb = (torch.randn(6, 4, dtype=torch.float64, requires_grad=True) * 0.7 for _ in range(2))
    assert torch.autograd.gradcheck(lambda a, b: vicreg_loss(a, b).loss, (za, zb))


def authors_loss(x: Tensor, y: Tensor, sim: float, std: float, cov: float) -> Tensor:
    """The authors' code (facebookresearch/vicreg, main_vicreg.py), one process: the variance term is halved."""
    repr_loss = torch.nn.functional.mse_loss(x, y)
    x, y = x - x.mean(dim=0), y - y.mean(dim=0)
    std_x, std_y = torch.sqrt(x.var(dim=0) + 0.0001), torch.sqrt(y.var(dim=0) + 0.0001)
    std_loss = torch.mean(torch.relu(1 - std_x)) / 2 + torch.mean(torch.relu(1 - std_y)) / 2
    cov_loss = torch.zeros((), dtype=x.dtype)
    for z in (x, y):
        matrix = (z.T @ z) / (len(z) - 1)
        off_diagonal = matrix.flatten()[:-1].view(len(matrix) - 1, len(matrix) + 1)[:, 1:].flatten()
        cov_loss = cov_loss + off_diagonal.pow(2).sum() / z.shape[1]
    return sim * repr_loss + std * std_loss + cov * cov_loss


def test_the_authors_convention_is_half_of_mu() -> None:
    torch.manual_seed(0)
    za, zb = (torch.randn(32, 8, dtype=torch.float64) * 0.5 for _ in range(2))
    theirs = authors_loss(za, zb, 25.0, 25.0, 1.0)
    torch.testing.assert_close(vicreg_loss(za, zb, mu=25.0 / 2).loss, theirs, rtol=1e-12, atol=0)
    assert float(vicreg_loss(za, zb, mu=25.0).loss) > float(theirs)


def test_terms_alone_equal_terms_of_the_loss() -> None:
    torch.manual_seed(0)
    za, zb = torch.randn(32, 8), torch.randn(32, 8)
    terms = vicreg_loss(za, zb)
    torch.testing.assert_close(terms.invariance, invariance(za, zb))
    torch.testing.assert_close(terms.variance, variance(za) + variance(zb))
    torch.testing.assert_close(terms.covariance, covariance(za) + covariance(zb))


def test_half_precision_is_lifted_to_float32() -> None:
    za, zb = torch.randn(32, 8).bfloat16(), torch.randn(32, 8).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = vicreg_loss(za, zb).loss
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, vicreg_loss(za.float(), zb.float()).loss)


@pytest.mark.parametrize(("a", "b"), [((4, 3), (4, 2)), ((1, 3), (1, 3)), ((4, 3, 2), (4, 3, 2))])
def test_shapes_that_do_not_fit_are_refused(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="two batches of one shape"):
        vicreg_loss(torch.zeros(a), torch.zeros(b))
