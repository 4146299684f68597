"""The checker's flags are diffusers' own, to the last bit of a threshold; its graph keeps them."""

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from lightfill.export.safety_checker import (
    SafetyChecker,
    canonical_safety_checker,
    safety_checker_model,
)

TINY = {
    "model_type": "clip",
    "projection_dim": 16,
    "vision_config": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "patch_size": 56,
    },
}
NEVER = 2.0  # no cosine is above it
BORDER = 0.0005  # the largest score that rounds to 0


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """With tensors this small, threads do little but wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def random_model() -> Any:
    torch.manual_seed(3)
    model = safety_checker_model(TINY).eval().requires_grad_(False)
    for parameter in model.parameters():
        # Larger than trained weights, so that similarities differ from picture to picture.
        nn.init.normal_(parameter, std=0.3)
    return model


def random_pictures(count: int) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    colours = torch.randn(count, 3, 1, 1, generator=generator)
    return colours + torch.randn(count, 3, 224, 224, generator=generator)


def similarities(model: Any, pictures: Tensor, concepts: Tensor) -> Tensor:
    embeddings = model.visual_projection(model.vision_model(pictures)[1])
    return nn.functional.normalize(embeddings) @ nn.functional.normalize(concepts).t()


def flags_of_diffusers(model: Any, pictures: Tensor) -> list[bool]:
    flags: list[bool] = model(pictures, torch.zeros(len(pictures), 1))[1]
    return flags


def flags_of(model: Any, pictures: Tensor) -> list[bool]:
    flags: list[bool] = (SafetyChecker(model)(pictures) > 0).tolist()
    return flags


@pytest.fixture(scope="module")
def model_and_pictures() -> tuple[Any, Tensor]:
    """A checker that flags some of the pictures, some only because of a special-care concept."""
    model, pictures = random_model(), random_pictures(32)
    concept = similarities(model, pictures, model.concept_embeds)
    special = similarities(model, pictures, model.special_care_embeds)
    model.concept_embeds_weights.copy_(concept.quantile(0.97, dim=0))
    model.special_care_embeds_weights.copy_(special.quantile(0.8, dim=0))
    return model, pictures


def test_flags_are_diffusers_flags(model_and_pictures: tuple[Any, Tensor]) -> None:
    model, pictures = model_and_pictures
    for shift in np.linspace(-0.1, 0.1, 7, dtype=np.float32):
        thresholds = model.concept_embeds_weights.clone()
        model.concept_embeds_weights += shift
        assert flags_of(model, pictures) == flags_of_diffusers(model, pictures), shift
        model.concept_embeds_weights.copy_(thresholds)
    assert set(flags_of(model, pictures)) == {True, False}


def test_special_care_decides_about_some_pictures(model_and_pictures: tuple[Any, Tensor]) -> None:
    model, pictures = model_and_pictures
    with_care = flags_of(model, pictures)
    thresholds = model.special_care_embeds_weights.clone()
    model.special_care_embeds_weights.fill_(NEVER)
    without_care = flags_of(model, pictures)
    assert without_care == flags_of_diffusers(model, pictures)
    model.special_care_embeds_weights.copy_(thresholds)
    assert sum(with_care) > sum(without_care) > 0


def neighbours(middle: float, reach: int) -> np.ndarray:
    """The float32 numbers around `middle`, one after the other."""
    bits = np.float32(middle).view(np.int32)
    return np.arange(bits - reach, bits + reach + 1, dtype=np.int32).view(np.float32)


@pytest.mark.parametrize("border", ["a concept's", "a concept's with special care", "special care"])
def test_scores_on_the_border_round_as_in_diffusers(border: str) -> None:
    model, picture = random_model(), random_pictures(1)
    concept = similarities(model, picture, model.concept_embeds)[0, 4].item()
    special = similarities(model, picture, model.special_care_embeds)[0, 1].item()
    model.concept_embeds_weights.fill_(NEVER)
    model.special_care_embeds_weights.fill_(NEVER)
    if border == "special care":
        model.concept_embeds_weights[4] = concept + 0.005  # only the adjustment lifts it
        threshold, middle = model.special_care_embeds_weights[1:2], special - BORDER
    else:
        adjustment = 0.01 if "special care" in border else 0
        model.special_care_embeds_weights[1] = special - adjustment
        threshold, middle = model.concept_embeds_weights[4:5], concept + adjustment - BORDER
    outcomes = []
    for value in neighbours(middle, 8):
        threshold.fill_(float(value))
        outcomes += flags_of(model, picture)
        assert outcomes[-1:] == flags_of_diffusers(model, picture), value
    assert set(outcomes) == {True, False}


def exported(weights: dict[str, Tensor], dtype: torch.dtype) -> onnxruntime.InferenceSession:
    """The graph, traced on fake weights and given these afterwards, in ONNX Runtime."""
    with torch.device("meta"):
        module = SafetyChecker(safety_checker_model(TINY)).eval().to(dtype)
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own
        with mode:
            for child in module.modules():
                for name, value in child._parameters.items():
                    if value is not None:
                        fake = torch.empty(value.shape, dtype=dtype)
                        child._parameters[name] = nn.Parameter(fake, requires_grad=False)
            traced = torch.export.export(
                module,
                (),
                kwargs={"pixel_values": mode.from_tensor(torch.zeros(2, 3, 224, 224))},
                dynamic_shapes={"pixel_values": {0: torch.export.Dim("batch", min=1, max=8)}},
                strict=False,
            )
        program = torch.onnx.export(
            traced,
            dynamo=True,
            opset_version=20,
            input_names=["pixel_values"],
            output_names=["score"],
            optimize=False,
            verbose=False,
        )
    assert program is not None
    assert set(program.model.graph.initializers) == set(weights)
    for name, value in program.model.graph.initializers.items():
        value.const_value = ir.tensor(weights[name].to(dtype).numpy(), name=name)
    data = ir.to_proto(program.model).SerializeToString()
    return onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    # Scores are multiples of 0.001: one apart if rounded from two sides of a border.
    [(torch.float32, 0.0011), (torch.float16, 0.011)],
)
def test_the_graph_scores_as_the_module(
    model_and_pictures: tuple[Any, Tensor], dtype: torch.dtype, tolerance: float
) -> None:
    model, pictures = model_and_pictures
    wanted = SafetyChecker(model)(pictures).numpy()
    sure = np.abs(wanted) > tolerance
    session = exported(dict(SafetyChecker(model).named_parameters()), dtype)
    assert [(item.name, item.type) for item in session.get_inputs()] == [
        ("pixel_values", "tensor(float)")
    ]
    for batch in (1, 3, 8):
        found = np.concatenate(
            [
                session.run(["score"], {"pixel_values": some.numpy()})[0]
                for some in pictures.split(batch)
            ]
        )
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance)
        assert np.array_equal(found[sure] > 0, wanted[sure] > 0)
    assert set(wanted[sure] > 0) == {True, False}


def test_tower_computes_in_its_weights_type_and_the_rest_in_float32() -> None:
    half = random_model().half()
    seen = []
    half.visual_projection.register_forward_hook(lambda *call: seen.append(call[2].dtype))
    assert SafetyChecker(half)(random_pictures(2)).dtype == torch.float32
    assert seen == [torch.float16]


def test_only_parameters_carry_data() -> None:
    module = SafetyChecker(random_model())
    assert not dict(module.named_buffers())
    assert module.widths() == {}


def old_spelling(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """As transformers 4 named them, with the buffer it saved."""
    old = {
        name.replace("vision_model.", "vision_model.vision_model."): tensors[name]
        for name in tensors
    }
    old["vision_model.vision_model.embeddings.position_ids"] = torch.arange(17)[None]
    return old


@pytest.mark.parametrize("spelling", [dict, old_spelling])
def test_weights_files_give_back_every_parameter(tmp_path: Path, spelling: Any) -> None:
    model = random_model()
    model.save_pretrained(tmp_path)
    found = canonical_safety_checker(spelling(load_file(tmp_path / "model.safetensors")))
    wanted = dict(model.named_parameters())
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    again = safety_checker_model(json.loads((tmp_path / "config.json").read_text()))
    again.load_state_dict(found, strict=False)
    pictures = random_pictures(2)
    assert torch.equal(SafetyChecker(again.eval())(pictures), SafetyChecker(model)(pictures))


LARGE_TOWER = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_attention_heads": 16,
    "num_hidden_layers": 24,
    "patch_size": 14,
}
PUBLISHED = {
    "architectures": ["StableDiffusionSafetyChecker"],
    "initializer_factor": 1.0,
    "logit_scale_init_value": 2.6592,
    "model_type": "clip",
    "projection_dim": 768,
    "text_config": {"hidden_size": 768, "bos_token_id": 0, "eos_token_id": 2, "max_length": 20},
    "text_config_dict": {"hidden_size": 768, "num_attention_heads": 12},
    "torch_dtype": "float16",
    "transformers_version": None,
    "vision_config": {
        **LARGE_TOWER,
        "bad_words_ids": None,
        "do_sample": False,
        "id2label": {"0": "LABEL_0", "1": "LABEL_1"},
        "image_size": 224,
        "label2id": {"LABEL_0": 0, "LABEL_1": 1},
        "max_length": 20,
        "model_type": "clip_vision_model",
        "pruned_heads": {},
        "torch_dtype": None,
        "transformers_version": "4.22.0.dev0",
        "use_bfloat16": False,
    },
    "vision_config_dict": LARGE_TOWER,
}
"""CompVis/stable-diffusion-safety-checker's config.json, shortened."""


@pytest.mark.parametrize("left_out", ["", "vision_config", "vision_config_dict"])
def test_the_published_configuration_makes_the_published_model(left_out: str) -> None:
    config = {key: value for key, value in PUBLISHED.items() if key != left_out}
    with torch.device("meta"):
        model = safety_checker_model(config)
    shapes = {name: tuple(value.shape) for name, value in model.named_parameters()}
    assert shapes["visual_projection.weight"] == (768, 1024)
    assert shapes["concept_embeds"] == (17, 768)
    assert shapes["vision_model.embeddings.position_embedding.weight"] == (257, 1024)
    assert shapes["vision_model.encoder.layers.23.mlp.fc1.weight"] == (4096, 1024)
    assert not any("layers.24." in name for name in shapes)
    assert {value.dtype for value in model.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"model_type": "vit", "hidden_size": 32}, "not a CLIP safety checker"),
        ({"model_type": "clip", "projection_dim": 16}, "not a CLIP safety checker"),
        ({"vision_config": {"image_size": 336, "patch_size": 14}}, "336 pixels, not 224"),
    ],
)
def test_configurations_of_other_models_are_refused(config: Any, reason: str) -> None:
    with torch.device("meta"), pytest.raises(ValueError, match=reason):
        safety_checker_model(config)
