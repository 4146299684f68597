"""Muon: its steps are orthogonal, however long or many-dimensional a weight is, and go downhill."""

import pytest
import torch
from torch import nn

from lightfill.export.demo.muon import Muon, orthogonal


@pytest.mark.parametrize("shape", [(8, 8), (8, 40), (40, 8), (16, 12)])
def test_a_matrix_keeps_its_directions_and_loses_its_scales(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    matrix = torch.randn(shape) @ torch.diag(torch.logspace(-0.5, 1, shape[1]))
    made = orthogonal(matrix)
    values = torch.linalg.svdvals(made)
    assert 0.6 < values.min() <= values.max() < 1.3
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    assert (made - left @ right).norm() < 0.3 * made.norm()
    assert torch.allclose(orthogonal(1000 * matrix), made, atol=1e-3)


def test_convolutions_are_learned() -> None:
    torch.manual_seed(0)
    wanted, learned = nn.Conv2d(4, 6, 3), nn.Conv2d(4, 6, 3)
    learned.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = Muon([learned.weight], 0.0)
    x = torch.randn(16, 4, 8, 8)
    losses = []
    for update in range(200):
        learned.zero_grad()
        loss = nn.functional.mse_loss(
            nn.functional.conv2d(x, learned.weight), nn.functional.conv2d(x, wanted.weight.detach())
        )
        loss.backward()  # type: ignore[no-untyped-call]
        losses.append(loss.item())
        optimiser.step(0.05 * (1 - update / 200))
    assert losses[-1] < 0.01 * losses[0]


def test_it_goes_on_where_it_was_and_passes_over_what_has_no_gradient() -> None:
    torch.manual_seed(0)
    one, two = nn.Parameter(torch.randn(3, 5)), nn.Parameter(torch.randn(3, 5))
    two.data.copy_(one)
    unused = nn.Parameter(torch.ones(2, 2))
    first, resumed = Muon([one, unused], 0.1), Muon([two, unused], 0.1)
    for weight in (one, two):
        weight.grad = torch.randn(3, 5, generator=torch.Generator().manual_seed(1))
    first.step(0.1)
    two.data.copy_(one)
    resumed.load_state_dict(first.state_dict())
    for weight in (one, two):
        weight.grad = torch.randn(3, 5, generator=torch.Generator().manual_seed(2))
    first.step(0.1)
    resumed.step(0.1)
    assert torch.equal(one, two)
    assert torch.equal(unused, torch.ones(2, 2))
