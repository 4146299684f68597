"""Weights for benchmarks and tests without a checkpoint: the same everywhere, and harmless."""

import pytest
import tiny_components
import torch

from lightfill.engine.components import CONTRACTS
from lightfill.export.base import SDXL, read_config
from lightfill.export.graph import example_inputs
from lightfill.export.synthetic import synthetic_configs
from lightfill.export.tensors import SyntheticWeights

torch.set_num_threads(1)

SHAPES = {"a.weight": (300, 500), "b.weight": (64, 32, 3, 3), "norm.weight": (9,), "bias": (9,)}
SIZES = {"batch": 2, "height": 8, "width": 16, "tokens": 7, "past": 3}


def test_a_tensor_depends_on_seed_and_key_alone() -> None:
    weights = SyntheticWeights(SHAPES, "seed")
    first = {key: weights.read(key) for key in SHAPES}
    alone = SyntheticWeights({"b.weight": SHAPES["b.weight"]}, "seed")
    assert torch.equal(alone.read("b.weight"), first["b.weight"])
    for key in reversed(SHAPES):
        assert torch.equal(weights.read(key), first[key])
        assert tuple(first[key].shape) == weights.shapes()[key] == SHAPES[key]
    other_key = SyntheticWeights({"c.weight": SHAPES["a.weight"]}, "seed").read("c.weight")
    other_seed = SyntheticWeights(SHAPES, "other").read("a.weight")
    for other in (other_key, other_seed):
        both = torch.stack([other.flatten(), first["a.weight"].flatten()])
        assert abs(float(torch.corrcoef(both)[0, 1])) < 0.02


def test_the_numbers_are_the_same_on_every_machine() -> None:
    drawn = SyntheticWeights({"a.weight": (2, 2)}, "seed").read("a.weight")
    wanted = [[0.642801821231842, 1.2911385297775269], [0.14178314805030823, -0.29570502042770386]]
    assert drawn.tolist() == wanted


def test_the_fingerprint_tells_seeds_and_shapes_apart() -> None:
    def fingerprint(shape: tuple[int, ...], seed: str) -> str:
        return SyntheticWeights({"a.weight": shape}, seed).fingerprint

    assert fingerprint((2, 2), "seed") == fingerprint((2, 2), "seed")
    assert fingerprint((2, 2), "seed") != fingerprint((2, 3), "seed")
    assert fingerprint((2, 2), "seed") != fingerprint((2, 2), "x")


def test_matrices_keep_the_size_of_what_they_are_given() -> None:
    weights = SyntheticWeights({**SHAPES, "token_embedding.weight": (999, 99)}, "seed")
    for key, fan_in in (("a.weight", 500), ("b.weight", 32 * 9)):
        drawn = weights.read(key)
        assert drawn.dtype == torch.float32
        assert float(drawn.std()) == pytest.approx(fan_in**-0.5, rel=0.02)
        assert abs(float(drawn.mean())) < 0.02 * fan_in**-0.5
    assert float(weights.read("token_embedding.weight").std()) == pytest.approx(0.02, rel=0.02)
    assert torch.equal(weights.read("norm.weight"), torch.ones(9))
    assert torch.equal(weights.read("bias"), torch.zeros(9))


@torch.no_grad()
@pytest.mark.parametrize("role", tiny_components.CONFIGS)
def test_float16_activations_are_finite_and_of_unit_size(role: str) -> None:
    architecture, weights = tiny_components.architecture_of(role), tiny_components.weights_of(role)
    module = architecture.module.to_empty(device="cpu").to(torch.float16)
    for name, parameter in module.named_parameters():
        parameter.copy_(weights.read(architecture.keys[name]))
    found = module(**example_inputs(module, CONTRACTS[role], SIZES, torch.float16))
    for output in (found,) if isinstance(found, torch.Tensor) else found:
        assert output.isfinite().all()
        if role != "safety_checker":  # a score
            assert 0.3 < float(output.float().std()) < 3


def test_the_full_size_is_sdxl_base() -> None:
    configs = synthetic_configs("sdxl")
    for folder in ("unet", "text_encoder", "text_encoder_2", "scheduler"):
        assert configs[folder] == read_config(SDXL, folder)
    assert (
        synthetic_configs("tiny")["unet"]["down_block_types"]
        == (configs["unet"]["down_block_types"])
    )
