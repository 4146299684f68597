"""Architectures have every setting, shape and checkpoint key of a component, and no numbers."""

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_components
from safetensors import safe_open

from lightfill.engine.components import CONTRACTS
from lightfill.engine.errors import ExportError
from lightfill.export.architecture import TABLE_KEY, build
from lightfill.export.synthetic import synthetic_configs

FOLDERS = {"vae_encoder": "vae", "vae_decoder": "vae"}
PARTS = {"vae_encoder": ("encoder.", "quant_conv."), "vae_decoder": ("decoder.", "post_quant")}
SDXL_PARAMETERS = {
    # What the checkpoints hold, without token tables; the first encoder's last layer is not run.
    "unet": 2_567_463_684,
    "vae_encoder": 34_163_664,
    "vae_decoder": 83_653_863 - 34_163_664,
    "text_encoder": 123_060_480 - 49_408 * 768 - 7_087_872 - 2 * 768,
    "text_encoder_2": 694_659_840 - 49_408 * 1280,
}


@pytest.mark.parametrize("role", CONTRACTS)
def test_no_parameter_takes_memory_or_is_trained(role: str) -> None:
    found = tiny_components.architecture_of(role)
    parameters = list(found.module.parameters())
    assert parameters
    assert all(value.is_meta and not value.requires_grad for value in parameters)
    assert not list(found.module.buffers()), "no weights file fills them"
    assert not any(child.training for child in found.module.modules())


@pytest.mark.parametrize("role", SDXL_PARAMETERS)
def test_sdxl_at_full_size_has_its_parameters(role: str) -> None:
    config = synthetic_configs("sdxl")[FOLDERS.get(role, role)]
    assert build(role, config, "sdxl").parameters == SDXL_PARAMETERS[role]


@pytest.mark.parametrize("role", SDXL_PARAMETERS)
def test_keys_and_shapes_are_a_checkpoint_s(role: str, random_folder: Path) -> None:
    folder = random_folder / FOLDERS.get(role, role)
    found = build(role, json.loads((folder / "config.json").read_text()), "here")
    (path,) = folder.glob("*.safetensors")
    with safe_open(path, "pt") as file:
        shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    if role == "text_encoder":
        # transformers 5 writes no prefix; every SDXL checkpoint has it.
        shapes = {f"text_model.{key}": shape for key, shape in shapes.items()}
        shapes = {
            key: shape
            for key, shape in shapes.items()
            if "layers.2." not in key and "final_layer_norm" not in key  # what is not run
        }
    shapes.pop(TABLE_KEY, None)
    part = PARTS.get(role, "")
    assert found.shapes == {key: shapes[key] for key in shapes if key.startswith(part)}
    assert found.keys.keys() == dict(found.module.named_parameters()).keys()
    assert set(found.keys.values()) == found.shapes.keys()


@pytest.mark.parametrize(
    ("role", "setting", "value"),
    [
        ("text_encoder", "hidden_act", "gelu"),
        ("text_encoder_2", "layer_norm_eps", 1e-6),
        ("unet", "norm_eps", 1e-6),
        ("vae_decoder", "norm_num_groups", 4),
        ("prompt_expander", "scale_attn_by_inverse_layer_idx", True),
    ],
)
def test_settings_that_change_no_shape_change_the_config(
    role: str, setting: str, value: Any
) -> None:
    usual = tiny_components.architecture_of(role)
    other = build(role, {**tiny_components.CONFIGS[role], setting: value}, "here")
    assert other.shapes == usual.shapes
    assert other.config != usual.config


@pytest.mark.parametrize("role", CONTRACTS)
def test_the_config_has_every_default_and_nothing_a_graph_does_not_depend_on(role: str) -> None:
    usual = tiny_components.architecture_of(role)
    described = {
        **usual.config,
        "_name_or_path": "elsewhere",
        "architectures": ["Other"],
        "torch_dtype": "float16",
        "transformers_version": "4.1",
        "eos_token_id": 2,
    }
    assert len(usual.config) > len(tiny_components.CONFIGS[role])
    if role != "safety_checker":  # whose two configurations in one have names of their own
        assert build(role, described, "here").config == usual.config
    assert json.dumps(usual.config, sort_keys=True, default=str)


@pytest.mark.parametrize(
    ("role", "config"),
    [
        ("text_encoder", {"hidden_size": 30, "num_attention_heads": 7}),
        ("text_encoder_2", {"hidden_act": "loud"}),
        ("unet", {"block_out_channels": [8], "down_block_types": ["NoBlock"]}),
        ("vae_encoder", {"block_out_channels": "many"}),
        ("vae_decoder", {"norm_num_groups": 0}),
        ("safety_checker", {"model_type": "vit"}),
        ("prompt_expander", {"n_embd": 30, "n_head": 7}),
    ],
)
def test_another_configuration_is_an_error_that_names_it(role: str, config: Any) -> None:
    with pytest.raises(ExportError, match=rf"(?s)^some/where: .* no {role} .*pass another"):
        build(role, config, "some/where")
