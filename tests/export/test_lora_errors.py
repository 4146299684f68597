"""What cannot be merged is refused, never skipped: messages name the file, the key and the cure."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import random_lora
import torch
from random_lora import write
from torch import Tensor

from lightfill.engine.errors import ExportError
from lightfill.export.lora import Lora, LoraDeltas

A = torch.ones(2, 8)
B = torch.ones(8, 2)
KOHYA = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q"
PEFT = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
WHOLE = {f"{PEFT}.lora_A.weight": A, f"{PEFT}.lora_B.weight": B}


def settings(**given: Any) -> dict[str, str]:
    named = {f"unet.{key}": value for key, value in given.items()}
    return {"lora_adapter_metadata": json.dumps(named)}


def context(width: int) -> dict[str, Tensor]:
    name = PEFT.replace("attn1.to_q", "attn2.to_k")
    return {f"{name}.lora_A.weight": torch.ones(2, width), f"{name}.lora_B.weight": B}


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (WHOLE | {f"{KOHYA}.dora_scale": A}, "is a DoRA .*pass a plain LoRA"),
        (WHOLE | {f"{PEFT}.lora_magnitude_vector": A}, "is a DoRA"),
        ({f"{KOHYA}.hada_w1_a": A, f"{KOHYA}.alpha": torch.ones(())}, "is a LoHa"),
        ({f"{KOHYA}.lokr_w1": A}, "is a LoKr"),
        ({f"{KOHYA}.lora_mid.weight": A}, "is a Tucker-decomposed LoCon"),
        (WHOLE | {f"{PEFT}.lora_B.bias": B[0]}, "lora_B.bias'.* no part of an SDXL LoRA"),
        (WHOLE | {f"{KOHYA}.diff": A}, r"to_q\.diff'.* no part of an SDXL LoRA"),
        (WHOLE | {"emb_params": A}, "'emb_params'.* no part of an SDXL LoRA"),
        (
            WHOLE | {f"{KOHYA}.lora_down.weight": A},
            "to_q twice, as lora_unet_.* and as unet.*; keep one",
        ),
        ({"vae.conv_in.lora_A.weight": A}, "no part of an SDXL LoRA"),
        ({"text_model.encoder.layers.0.mlp.fc1.lora_A.weight": A}, "no part of an SDXL LoRA"),
        ({"lora_unet_input_blocks_x_1_to_q.lora_down.weight": A}, "no part of an SDXL LoRA"),
        ({"lora_unet_input_blocks_4_9_to_q.lora_down.weight": A}, "no part of an SDXL LoRA"),
        ({"lora_unet_input_blocks.lora_down.weight": A}, "no part of an SDXL LoRA"),
        ({"lora_te_text_model_encoder_layers_0_mlp_fc1.alpha": A}, "Stable Diffusion 1.x or 2.x"),
        ({"lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight": A}, "seems to be for Flux"),
        ({"lora_te3_x.lora_down.weight": A}, "seems to be for Stable Diffusion 3"),
        ({"transformer.x.lora_A.weight": A}, "diffusion transformer .*trained for SDXL"),
        ({"lora_controlnet": A}, "seems to be for ControlNet"),
        (context(768), "for Stable Diffusion 1.x: .*width 768, this checkpoint's are 24 wide"),
        (context(1024), "for Stable Diffusion 2.x"),
        (context(1280), "for the SDXL refiner"),
        (context(2048), "for SDXL: .*width 2048"),
        (context(16), "for another model family"),
        ({f"{PEFT}.lora_A.weight": A}, "no up matrix beside .*download it again"),
        ({f"{KOHYA}.lora_up.weight": B}, "no down matrix beside"),
        ({f"{KOHYA}.alpha": torch.ones(())}, "no down and no up matrix beside"),
        (WHOLE | {f"{PEFT}.lora_B.weight": torch.ones(8, 3)}, "whose product is no weight"),
        (WHOLE | {f"{PEFT}.lora_B.weight": torch.ones(8, 2, 1, 1)}, "whose product is no weight"),
        (WHOLE | {f"{PEFT}.lora_A.weight": torch.ones(2)}, "whose product is no weight"),
        (WHOLE | {f"{PEFT}.lora_A.weight": torch.ones(())}, "whose product is no weight"),
        (WHOLE | {f"{PEFT}.lora_B.weight": torch.ones(2)}, "whose product is no weight"),
        (WHOLE | {f"{PEFT}.lora_B.weight": torch.ones(())}, "whose product is no weight"),
        (
            {f"{PEFT}.lora_A.weight": A[:0], f"{PEFT}.lora_B.weight": B[:, :0]},
            "whose product is no weight",
        ),
        (
            {
                f"{PEFT}.lora_A.weight": torch.ones(2, 8, 3, 3),
                f"{PEFT}.lora_B.weight": torch.ones(8, 2, 3, 3),
            },
            "whose product is no weight",
        ),
        (WHOLE | {f"{PEFT}.lora_A.weight": A * torch.inf}, "not finite floating-point"),
        (WHOLE | {f"{PEFT}.lora_A.weight": A * torch.nan}, "not finite floating-point"),
        (WHOLE | {f"{PEFT}.alpha": torch.tensor(torch.nan)}, "not finite floating-point"),
        (WHOLE | {f"{PEFT}.lora_B.weight": B.to(torch.int8)}, "not finite floating-point"),
        (WHOLE | {f"{PEFT}.alpha": torch.ones(2)}, "settings for .* cannot be used"),
        ({}, "holds no LoRA; download it again"),
    ],
)
def test_what_cannot_be_merged_is_refused_by_name(
    tensors: dict[str, Tensor], message: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "wrong.safetensors", tensors)
    with pytest.raises(ExportError, match=message) as caught:
        LoraDeltas.load([Lora(path)], random_lora.UNET)
    assert str(caught.value).startswith(str(path))
    assert "; " in str(caught.value) or ": " in str(caught.value)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (settings(use_dora=True), "the base weights change too"),
        (settings(init_lora_weights="pissa"), "the base weights change too"),
        (settings(lora_alpha="much"), "could not convert"),
        (settings(lora_alpha=None), "cannot be used"),
        ({"lora_adapter_metadata": '{"unet.lora_alpha": NaN}'}, "lora_alpha is nan"),
        (settings(alpha_pattern={"(": 2}), "cannot be used"),
        (settings(alpha_pattern=[2]), "cannot be used"),
        ({"lora_adapter_metadata": "{"}, "are not JSON"),
        ({"lora_adapter_metadata": "[]"}, "holds no LoRA"),
    ],
)
def test_adapter_settings_that_cannot_be_followed_are_refused(
    metadata: dict[str, str], message: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "wrong.safetensors", WHOLE, metadata)
    with pytest.raises(ExportError, match=message):
        LoraDeltas.load([Lora(path)], random_lora.UNET)


def test_the_cause_of_a_refusal_is_kept(tmp_path: Path) -> None:
    path = write(tmp_path / "wrong.safetensors", {f"{KOHYA}.lora_up.bias": A})
    with pytest.raises(ExportError) as caught:
        LoraDeltas.load([Lora(path)], random_lora.UNET)
    assert isinstance(caught.value.__cause__, KeyError)


def test_original_names_need_a_unet_whose_blocks_are_alike(tmp_path: Path) -> None:
    key = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q.lora_down.weight"
    path = write(tmp_path / "lora.safetensors", {key: A})
    with pytest.raises(ExportError, match="no part of an SDXL LoRA"):
        LoraDeltas.load([Lora(path)], {"layers_per_block": [2, 2, 2]})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"cannot be read \(.*check the LoRA's path"),
        (b"", "is not a safetensors file"),
        (b"PK\x03\x04" + bytes(60), r"pickles \(.bin, .ckpt, .pt\) can run code"),
        (struct.pack("<Q", 10) + b"{" * 10, "is not a safetensors file"),
        (struct.pack("<Q", 10**9) + b"{}", "is not a safetensors file"),
    ],
)
def test_files_that_are_not_safetensors(
    content: bytes | None, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "lora.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ExportError, match=message) as caught:
        LoraDeltas.load([Lora(path)], random_lora.UNET)
    assert caught.value.__cause__ is not None


def test_a_directory_and_a_pickle_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="cannot be read"):
        LoraDeltas.load([Lora(tmp_path)], random_lora.UNET)
    torch.save(WHOLE, tmp_path / "lora.bin")
    with pytest.raises(ExportError, match="are not read"):
        LoraDeltas.load([Lora(tmp_path / "lora.bin")], random_lora.UNET)


def test_targets_the_checkpoint_lacks_or_shapes_differently_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "lora.safetensors", WHOLE)
    deltas = LoraDeltas.load([Lora(path)], random_lora.UNET)
    key = f"{PEFT.removeprefix('unet.')}.weight"
    deltas.check_targets("unet", {key: (8, 8), "other.weight": (1,)})
    deltas.check_targets("text_encoder", {})
    with pytest.raises(ExportError, match=rf"lora.safetensors changes {key} of unet .*not have; "):
        deltas.check_targets("unet", {"other.weight": (8, 8)})
    with pytest.raises(ExportError, match=r"its shape were \(8, 8\), but it is \(8, 9\); pass"):
        deltas.check_targets("unet", {key: (8, 9)})
    with pytest.raises(ExportError, match=r"but it is \(1, 8\)"):  # would broadcast
        deltas.merged("unet", key, torch.ones(1, 8))
    with pytest.raises(ExportError, match=r"but it is \(8, 8, 1, 1\)"):
        deltas.merged("unet", key, torch.ones(8, 8, 1, 1))


def test_a_kohya_name_that_no_module_has_is_found_by_the_targets_check(tmp_path: Path) -> None:
    name = "lora_unet_down_blocks_7_attentions_0_proj_in"
    file = {f"{name}.lora_down.weight": A, f"{name}.lora_up.weight": B}
    deltas = LoraDeltas.load([Lora(write(tmp_path / "a.safetensors", file))], random_lora.UNET)
    with pytest.raises(ExportError, match=rf"down_blocks.7.* \(as {name}.lora_down"):
        deltas.check_targets("unet", {"conv_in.weight": (8, 4, 3, 3)})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'' names no file; write PATH"),
        (":0.5", "names no file; write PATH"),
        ("style.safetensors:", "'' is no scale; write PATH or PATH:SCALE"),
        ("style.safetensors:strong", "'strong' is no scale"),
        ("https://example.org/style.safetensors", "names no file, and .* is no scale"),
        ("style:nan", "scale nan; pass a finite number"),
        ("style:inf", "scale inf; pass a finite number"),
        ("style:-inf", "scale -inf"),
        ("x" * 5000 + ":strong", "is no scale"),
    ],
)
def test_what_parse_refuses(text: str, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        Lora.parse(text)


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), float("-inf")])
def test_a_scale_must_be_finite(scale: float) -> None:
    with pytest.raises(ExportError, match=f"scale {scale}; pass a finite number"):
        Lora(Path("style.safetensors"), scale)
