"""Every layout gives the same tensors under the same keys, as views, and anything else an error."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import original_layout
import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionXLPipeline, UNet2DConditionModel
from diffusers.loaders.single_file_utils import infer_diffusers_model_type
from safetensors import safe_open
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from lightfill.engine.errors import ExportError
from lightfill.export.single_file import Layout, Role, canonical, layout_of

ROLES: tuple[Role, ...] = get_args(Role)
ORIGINAL_PREFIXES: dict[Role, str] = {
    "unet": "model.diffusion_model.",
    "vae": "first_stage_model.",
    "text_encoder": "conditioner.embedders.0.transformer.",
    "text_encoder_2": "conditioner.embedders.1.model.",
}
OLD_ATTENTION = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Sample:
    """A pipeline, what every file of it must give, and the tensors of its original layout."""

    pipeline: StableDiffusionXLPipeline
    wanted: dict[Role, Tensors]
    config: dict[Role, dict[str, Any]]
    original: Tensors


@pytest.fixture(scope="module")
def sdxl() -> Sample:
    return sample(original_layout.tiny_sdxl())


@pytest.fixture(scope="module", params=[torch.float16, torch.float32], ids=str)
def mapped(
    sdxl: Sample, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Tensors, torch.dtype]:
    """The tensors of an original file as a mapping of it, and their dtype."""
    path = tmp_path_factory.mktemp("original") / "sdxl.safetensors"
    with safe_open(
        original_layout.write_original(sdxl.pipeline, path, request.param), "pt"
    ) as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118, not a dict
    return tensors, request.param


def sample(pipeline: StableDiffusionXLPipeline) -> Sample:
    return Sample(
        pipeline,
        {role: wanted(pipeline, role) for role in ROLES},
        {role: config(pipeline, role) for role in ROLES},
        original_layout.original_tensors(pipeline),
    )


def wanted(pipeline: StableDiffusionXLPipeline, role: Role) -> Tensors:
    tensors: Tensors = getattr(pipeline, role).state_dict()
    if role == "text_encoder":  # transformers 5 keeps the old prefix out of memory
        return {f"text_model.{key.removeprefix('text_model.')}": tensors[key] for key in tensors}
    return tensors


def config(pipeline: StableDiffusionXLPipeline, role: Role) -> dict[str, Any]:
    found = getattr(pipeline, role).config
    return dict(found) if role in {"unet", "vae"} else dict(found.to_dict())


def without(prefix: str, tensors: Mapping[str, Tensor]) -> Tensors:
    return {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}


def check(found: Tensors, expected: Tensors, file: Tensors) -> None:
    """Equal to the last bit, nothing missing, nothing copied out of what the file gave."""
    assert found.keys() - expected.keys() <= {"text_model.embeddings.position_ids"}
    stored = {tensor.untyped_storage().data_ptr() for tensor in file.values()}
    for key, tensor in expected.items():
        assert found[key].dtype == tensor.dtype, key
        assert torch.equal(found[key], tensor), key
        assert found[key].untyped_storage().data_ptr() in stored, key


# Each makes a file's tensors from the sample; those for one role alone come last.


def diffusers_alone(sdxl: Sample, role: Role) -> Tensors:
    return sdxl.wanted[role]


def diffusers_whole(sdxl: Sample, role: Role) -> Tensors:
    return {f"{r}.{key}": t for r in ROLES for key, t in sdxl.wanted[r].items()}


def original_whole(sdxl: Sample, role: Role) -> Tensors:
    return sdxl.original


def original_with_prefix(sdxl: Sample, role: Role) -> Tensors:
    prefix, tensors = ORIGINAL_PREFIXES[role], sdxl.original
    return {key: tensor for key, tensor in tensors.items() if key.startswith(prefix)}


def original_alone(sdxl: Sample, role: Role) -> Tensors:
    return without(ORIGINAL_PREFIXES[role], sdxl.original)


def original_and_averages(sdxl: Sample, role: Role) -> Tensors:
    averages = {
        "model_ema." + key.replace(".", ""): tensor + 1 for key, tensor in sdxl.original.items()
    }
    assert len(averages) > 100  # where diffusers begins to warn
    return averages | original_alone(sdxl, role)


def vae_old_attention(sdxl: Sample, role: Role) -> Tensors:
    renamed = {}
    for key, tensor in sdxl.wanted["vae"].items():
        name = key
        for new, old in OLD_ATTENTION.items():
            name = name.replace(f".{new}.", f".{old}.")
        renamed[name] = tensor
    assert len(renamed.keys() - sdxl.wanted["vae"].keys()) == 16
    return renamed


def vae_old_convolutions(sdxl: Sample, role: Role) -> Tensors:
    return {
        f"vae.{key}": t[:, :, None, None] if t.ndim == 2 else t
        for key, t in vae_old_attention(sdxl, role).items()
    }


def text_flat(sdxl: Sample, role: Role) -> Tensors:
    return {key.removeprefix("text_model."): t for key, t in sdxl.wanted[role].items()}


def text_flat_whole(sdxl: Sample, role: Role) -> Tensors:
    return {f"{r}.{key}": t for r in ROLES[2:] for key, t in text_flat(sdxl, r).items()}


def open_clip_linear_projection(sdxl: Sample, role: Role) -> Tensors:
    tensors = dict(sdxl.original)
    projection = tensors.pop("conditioner.embedders.1.model.text_projection")
    return tensors | {"conditioner.embedders.1.model.text_projection.weight": projection.T}


Make = Callable[[Sample, Role], Tensors]
ANY_ROLE: tuple[Make, ...] = (
    diffusers_alone,
    diffusers_whole,
    original_whole,
    original_with_prefix,
    original_alone,
    original_and_averages,
)
ONE_ROLE: tuple[tuple[Make, Role], ...] = (
    (vae_old_attention, "vae"),
    (vae_old_convolutions, "vae"),
    (text_flat, "text_encoder"),
    (text_flat, "text_encoder_2"),
    (text_flat_whole, "text_encoder"),
    (text_flat_whole, "text_encoder_2"),
    (open_clip_linear_projection, "text_encoder_2"),
)


EVERY_LAYOUT = [
    pytest.param(make, role, id=f"{make.__name__}-{role}")
    for make, role in (*((make, role) for make in ANY_ROLE for role in ROLES), *ONE_ROLE)
]


def test_diffusers_reads_the_same_pipeline_from_the_original_layout(
    sdxl: Sample, tmp_path: Path
) -> None:
    """The judge of tests/support/original_layout.py."""
    file = tmp_path / "sdxl.safetensors"
    original_layout.write_original(sdxl.pipeline, file, torch.float32)
    sdxl.pipeline.save_pretrained(tmp_path)
    loaded = StableDiffusionXLPipeline.from_single_file(
        str(file),
        config=str(tmp_path),
        local_files_only=True,
        tokenizer=sdxl.pipeline.tokenizer,
        tokenizer_2=sdxl.pipeline.tokenizer_2,
    )
    for role in ROLES:
        expected, found = sdxl.wanted[role], wanted(loaded, role)
        assert expected.keys() == found.keys()
        for key, tensor in expected.items():
            assert torch.equal(found[key], tensor), key
    for role in ROLES:  # no two tensors alike: one in the other's place would show
        tensors = list(sdxl.wanted[role].values())
        assert len({(t.shape, *t.flatten()[:8].tolist()) for t in tensors}) == len(tensors)


@pytest.mark.parametrize(("make", "role"), EVERY_LAYOUT)
def test_every_layout_gives_the_modules_own_tensors_as_views(
    sdxl: Sample, make: Make, role: Role
) -> None:
    file = make(sdxl, role)
    check(canonical(file, role, sdxl.config[role], "file"), sdxl.wanted[role], file)


@pytest.mark.parametrize("role", ROLES)
def test_a_mapped_file_is_only_viewed(
    sdxl: Sample, mapped: tuple[Tensors, torch.dtype], role: Role
) -> None:
    file, dtype = mapped
    expected = {key: tensor.to(dtype) for key, tensor in sdxl.wanted[role].items()}
    check(canonical(file, role, sdxl.config[role], "file"), expected, file)


@pytest.mark.parametrize(("make", "role"), EVERY_LAYOUT)
def test_tensors_without_memory_keep_their_shapes(sdxl: Sample, make: Make, role: Role) -> None:
    file = {key: tensor.to("meta") for key, tensor in make(sdxl, role).items()}
    found = canonical(file, role, sdxl.config[role], "file")
    for key, tensor in sdxl.wanted[role].items():
        assert found[key].is_meta
        assert found[key].shape == tensor.shape, key


def test_sdxl_at_full_size() -> None:
    """Two-digit layers and ten transformer blocks in a row; no memory behind it."""
    with torch.device("meta"):
        pipeline = StableDiffusionXLPipeline(
            vae=AutoencoderKL(
                block_out_channels=(128, 256, 512, 512),
                layers_per_block=2,
                latent_channels=4,
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
            ),
            text_encoder=CLIPTextModel(clip_config(768, 12)),
            text_encoder_2=CLIPTextModelWithProjection(clip_config(1280, 32)),
            unet=UNet2DConditionModel(
                block_out_channels=(320, 640, 1280),
                layers_per_block=2,
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
                attention_head_dim=(5, 10, 20),
                cross_attention_dim=2048,
                transformer_layers_per_block=(1, 2, 10),
                use_linear_projection=True,
                addition_embed_type="text_time",
                addition_time_embed_dim=256,
                projection_class_embeddings_input_dim=2816,
            ),
            scheduler=None,
            tokenizer=None,
            tokenizer_2=None,
            add_watermarker=False,
        )
        sdxl = sample(pipeline)
    assert infer_diffusers_model_type(sdxl.original) == "xl_base"
    for role in ROLES:
        found = canonical(sdxl.original, role, sdxl.config[role], "file")
        for key, tensor in sdxl.wanted[role].items():
            assert found[key].shape == tensor.shape, key


def clip_config(width: int, layers: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        projection_dim=width,
    )


@pytest.mark.parametrize("role", ROLES)
def test_the_layout_is_told_with_its_prefix(sdxl: Sample, role: Role) -> None:
    assert layout_of(diffusers_alone(sdxl, role), role) == (Layout.DIFFUSERS, "")
    assert layout_of(diffusers_whole(sdxl, role), role) == (Layout.DIFFUSERS, f"{role}.")
    # CLIP-L has transformers' own names in either layout
    layout = Layout.DIFFUSERS if role == "text_encoder" else Layout.ORIGINAL
    prefix = ORIGINAL_PREFIXES[role]
    assert layout_of(original_whole(sdxl, role), role) == (layout, prefix)
    assert layout_of(original_alone(sdxl, role), role) == (layout, "")


def keyed(*keys: str) -> Tensors:
    return {key: torch.zeros(2, 2) for key in keys}


V1 = keyed(
    "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight",
    "cond_stage_model.transformer.text_model.encoder.layers.0.mlp.fc1.weight",
    "model.diffusion_model.input_blocks.0.0.weight",
    "model.diffusion_model.output_blocks.0.0.in_layers.0.weight",
    "first_stage_model.encoder.down.0.block.0.norm1.weight",
    "first_stage_model.decoder.up.0.block.0.norm1.weight",
)
FOREIGN = {
    "kohya LoRA": (keyed("lora_unet_mid_block_attentions_0_proj_in.lora_up.weight"), "a LoRA"),
    "PEFT LoRA": (keyed("unet.up_blocks.0.attentions.0.proj_in.lora_A.weight"), "a LoRA"),
    "old diffusers LoRA": (keyed("unet.up_blocks.0.to_q.lora.up.weight"), "a LoRA"),
    "Stable Diffusion 1": (V1, "a Stable Diffusion 1 or 2 checkpoint"),
    "refiner": (keyed("conditioner.embedders.0.model.ln_final.bias"), "an SDXL refiner"),
    "SD3": (
        keyed("model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight"),
        r"a transformer \(SD3, FLUX\)",
    ),
    "FLUX": (keyed("double_blocks.0.img_attn.qkv.weight"), r"a transformer \(SD3, FLUX\)"),
    "ControlNet": (keyed("controlnet_cond_embedding.conv_in.weight"), "a ControlNet"),
    "something": (keyed("layers.0.weight"), r"tensors such as 'layers\.0\.weight'"),
    "averages": (keyed("model_ema.decay"), r"tensors such as 'model_ema\.decay'"),
    "nothing": ({}, "no tensors"),
}


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(("file", "what"), FOREIGN.values(), ids=FOREIGN)
def test_what_is_no_sdxl_file_is_refused_for_what_it_is(
    file: Tensors, what: str, role: Role
) -> None:
    message = f"^my.file holds no {role} of SDXL in a known layout, it seems to hold {what}; pass "
    with pytest.raises(ExportError, match=message):
        canonical(file, role, {}, "my.file")


@pytest.mark.parametrize("make", [diffusers_alone, original_alone])
@pytest.mark.parametrize(
    ("asked", "given"), [(a, b) for a in ROLES for b in ROLES if a != b and a != "text_encoder"]
)
def test_another_components_file_is_refused_by_name(
    sdxl: Sample, make: Make, asked: Role, given: Role
) -> None:
    file = make(sdxl, given)
    with pytest.raises(ExportError, match=f"holds no {asked} .* seems to hold {given} weights"):
        canonical(file, asked, sdxl.config[asked], "file")


@pytest.mark.parametrize("make", [diffusers_alone, text_flat, original_alone])
def test_the_second_text_encoder_is_refused_in_the_firsts_place(sdxl: Sample, make: Make) -> None:
    file = make(sdxl, "text_encoder_2")
    message = "is 24 wide, text_encoder is 16; it seems to be the other text encoder, pass each"
    with pytest.raises(ExportError, match=message):
        canonical(file, "text_encoder", sdxl.config["text_encoder"], "file")


@pytest.mark.parametrize("role", ROLES[2:])
@pytest.mark.parametrize("make", [diffusers_whole, original_whole])
def test_a_file_without_text_encoders_is_refused(sdxl: Sample, make: Make, role: Role) -> None:
    left_out = ("text_encoder", "conditioner.")
    file = {key: t for key, t in make(sdxl, role).items() if not key.startswith(left_out)}
    with pytest.raises(ExportError, match="seems to hold unet and vae weights only; pass a file"):
        canonical(file, role, sdxl.config[role], "file")


@pytest.mark.parametrize("make", [diffusers_alone, diffusers_whole, original_whole, original_alone])
def test_an_older_unet_is_refused(sdxl: Sample, make: Make) -> None:
    file = {
        key: tensor
        for key, tensor in make(sdxl, "unet").items()
        if "add_embedding." not in key and "label_emb." not in key
    }
    with pytest.raises(ExportError, match="a UNet other than SDXL's, as of Stable Diffusion 1"):
        canonical(file, "unet", sdxl.config["unet"], "file")


DAMAGED = "cannot be read as original layout .*; copy the file again, or pass "


@pytest.mark.parametrize(
    ("role", "missing"),
    [
        ("unet", "label_emb.0.2.bias"),
        ("unet", "output_blocks.2.2.conv.bias"),
        ("vae", "decoder.up.1.upsample.conv.bias"),
    ],
)
def test_what_the_conversion_misses_is_our_error(sdxl: Sample, role: Role, missing: str) -> None:
    file = original_alone(sdxl, role)
    del file[missing]
    with pytest.raises(ExportError, match=DAMAGED) as raised:
        canonical(file, role, sdxl.config[role], "file")
    assert isinstance(raised.value.__cause__, KeyError)
    assert missing in str(raised.value)


def test_misshapen_projections_are_our_error(sdxl: Sample) -> None:
    file = original_alone(sdxl, "text_encoder_2")
    file["transformer.resblocks.0.attn.in_proj_weight"] = torch.zeros(71, 24)
    with pytest.raises(ExportError, match=DAMAGED) as raised:
        canonical(file, "text_encoder_2", sdxl.config["text_encoder_2"], "file")
    assert isinstance(raised.value.__cause__, RuntimeError)


@pytest.mark.parametrize(
    ("role", "setting"), [("unet", "layers_per_block"), ("vae", "up_block_types")]
)
def test_a_configuration_without_the_settings_is_our_error(
    sdxl: Sample, role: Role, setting: str
) -> None:
    settings = dict(sdxl.config[role])
    del settings[setting]
    with pytest.raises(ExportError, match=f"KeyError: '{setting}'"):
        canonical(original_alone(sdxl, role), role, settings, "file")
