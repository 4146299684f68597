"""LoRAs of every layout merge into the weights diffusers and peft fuse, and nothing is skipped."""

import re
import subprocess
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import peft
import pytest
import random_lora
import torch
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
from diffusers.training_utils import _collate_lora_metadata
from peft.utils import get_peft_model_state_dict
from random_lora import ROLES, Pair, write
from torch import Tensor

from lightfill.export.lora import Lora, LoraDeltas

torch.set_num_threads(1)

pytestmark = [
    # peft: loading a second LoRA beside the first is what is compared here
    pytest.mark.filterwarnings("ignore:Already found a `peft_config` attribute:UserWarning"),
]

BOUND = 1e-6
"""Largest error allowed, relative to the largest weight of the tensor."""
ATTENTION = r"to_[qkv]$|to_out|[qkv]_proj|out_proj"
Weights = dict[str, dict[str, Tensor]]
Layout = Callable[[list[Pair]], dict[str, Tensor]]


@pytest.fixture(scope="session")
def model() -> StableDiffusionXLPipeline:
    """For names, shapes and untouched weights; never changed."""
    return random_lora.pipeline()


@pytest.fixture(scope="session")
def base(model: StableDiffusionXLPipeline) -> Weights:
    return weights_of(model)


def weights_of(pipeline: StableDiffusionXLPipeline) -> Weights:
    return {role: getattr(pipeline, role).state_dict() for role in ROLES}


def merged(base: Weights, loras: Sequence[Lora]) -> Weights:
    deltas = LoraDeltas.load(loras, random_lora.UNET)
    found = {}
    for role, weights in base.items():
        deltas.check_targets(role, {key: tuple(value.shape) for key, value in weights.items()})
        found[role] = {key: deltas.merged(role, key, value) for key, value in weights.items()}
    return found


def fused(loras: Sequence[Lora]) -> StableDiffusionXLPipeline:
    """What diffusers makes of them: each adapter scaled by itself, then all added up."""
    pipeline = random_lora.pipeline()
    names = [f"lora{i}" for i in range(len(loras))]
    for name, lora in zip(names, loras, strict=True):
        pipeline.load_lora_weights(lora.path, adapter_name=name)
    pipeline.set_adapters(names, [lora.scale for lora in loras])
    pipeline.fuse_lora(adapter_names=names)
    pipeline.unload_lora_weights()
    return pipeline


def assert_same(ours: Weights, theirs: Weights, base: Weights) -> None:
    changed = 0
    for role in ROLES:
        assert ours[role].keys() == theirs[role].keys()
        for key, wanted in theirs[role].items():
            found = ours[role][key]
            assert found.dtype == torch.float32
            error = (found - wanted).abs().max() / wanted.abs().max().clamp(min=1e-9)
            assert error <= BOUND, (role, key, float(error))
            same = torch.equal(wanted, base[role][key])
            assert same == (found is base[role][key]), (role, key)
            changed += not same
    assert changed > 0, "LoRAs that change nothing would prove nothing"


# --- merging, against diffusers -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("layout", "only", "alpha"),
    [
        (random_lora.kohya_sgm, "", 2.0),
        # diffusers' converter knows add_embedding by its original name alone
        (random_lora.kohya, "^(?!unet.add_embedding)", 2.0),
        (random_lora.diffusers, "", None),
        (random_lora.diffusers_old, "", None),
        (random_lora.peft, "attn|fc|conv_in", None),
        (random_lora.kohya, f"^text_encoder.*({ATTENTION})", None),
    ],
)
def test_every_layer_of_every_layout_merges_as_diffusers_fuses_it(
    layout: Layout,
    only: str,
    alpha: float | None,
    model: StableDiffusionXLPipeline,
    base: Weights,
    tmp_path: Path,
) -> None:
    pairs = random_lora.pairs(model, only=only, alpha=lambda module: alpha)
    lora = Lora(write(tmp_path / "lora.safetensors", layout(pairs)), 0.7)
    assert_same(merged(base, [lora]), weights_of(fused([lora])), base)


def test_the_random_loras_reach_every_kind_of_layer(model: StableDiffusionXLPipeline) -> None:
    pairs = random_lora.pairs(model)
    kernels = {tuple(pair.down.shape[2:]) for pair in pairs}
    assert kernels == {(), (1, 1), (3, 3)}
    assert {pair.role for pair in pairs} == set(ROLES)
    assert "text_projection" in {pair.module for pair in pairs}


def test_several_loras_add_up_each_with_its_scale_as_in_diffusers(
    model: StableDiffusionXLPipeline, base: Weights, tmp_path: Path
) -> None:
    def pairs(only: str, rank: int, alpha: float | None = None) -> list[Pair]:
        return random_lora.pairs(model, only=only, rank=rank, alpha=lambda _: alpha, seed=rank)

    first = random_lora.kohya_sgm(pairs(f"^(unet.*(attn|conv)|text.*({ATTENTION}))", 2, 1.0))
    second = random_lora.peft(pairs("^(unet.*(ff|to_q|conv1)|text_encoder_2.*q_proj)", 4))
    third = random_lora.diffusers_old(pairs("^unet.*attn", 1))
    loras = [
        Lora(write(tmp_path / f"{i}.safetensors", file), scale)
        for i, (file, scale) in enumerate([(first, 0.3), (second, 1.4), (third, -0.6)])
    ]
    ours = merged(base, loras)
    assert_same(ours, weights_of(fused(loras)), base)
    reordered = merged(base, loras[::-1])
    for key, found in ours["unet"].items():
        torch.testing.assert_close(found, reordered["unet"][key])


@torch.no_grad()
def test_a_unet_with_merged_weights_computes_what_diffusers_fused_unet_does(
    model: StableDiffusionXLPipeline, base: Weights, tmp_path: Path
) -> None:
    pairs = random_lora.pairs(model, only="^unet.*(attn|conv1)", alpha=lambda module: 2.0)
    lora = Lora(write(tmp_path / "lora.safetensors", random_lora.kohya_sgm(pairs)), 0.2)
    ours = UNet2DConditionModel(**random_lora.UNET)
    ours.load_state_dict(merged(base, [lora])["unet"])
    torch.manual_seed(2)
    conditions = {
        "text_embeds": torch.randn(1, random_lora.POOLED),
        "time_ids": torch.full((1, 6), 64.0),
    }
    latents, text = torch.randn(1, 4, 8, 8), torch.randn(1, 77, random_lora.CONTEXT)

    def predict(unet: UNet2DConditionModel) -> Tensor:
        return unet(latents, 500.0, text, added_cond_kwargs=conditions).sample

    wanted = predict(fused([lora]).unet)
    torch.testing.assert_close(predict(ours), wanted, rtol=1e-4, atol=1e-5)
    assert (wanted - predict(model.unet)).abs().max() > 0.01


def test_layers_may_differ_in_rank(
    model: StableDiffusionXLPipeline, base: Weights, tmp_path: Path
) -> None:
    few = random_lora.pairs(model, only="to_q|q_proj|conv2", rank=2)
    many = random_lora.pairs(model, only="to_k|k_proj|ff", rank=5)
    lora = Lora(write(tmp_path / "lora.safetensors", random_lora.peft(few + many)))
    assert_same(merged(base, [lora]), weights_of(fused([lora])), base)


def test_layers_may_differ_in_alpha(
    model: StableDiffusionXLPipeline, base: Weights, tmp_path: Path
) -> None:
    # diffusers itself loses such alphas of kohya's files (it names attention layers wrongly in
    # peft's alpha_pattern), so it is given them as settings
    alphas = {"q_proj": 4.0, "to_q": 4.0, "to_out.0": 0.5, "proj": 3.0, "fc1": 1.5, "conv1": 2.5}

    def alpha(module: str) -> float:
        return next((value for end, value in alphas.items() if module.endswith(end)), 1.0)

    pairs = random_lora.pairs(model, only="blocks.1.*(attn1|conv1)|mid|q_proj|fc1", alpha=alpha)
    kohya = Lora(write(tmp_path / "kohya.safetensors", random_lora.kohya_sgm(pairs)), 0.8)
    settings = random_lora.alpha_settings(pairs)
    with_settings = Lora(write(tmp_path / "p.safetensors", random_lora.peft(pairs), settings), 0.8)
    theirs = weights_of(fused([with_settings]))
    assert_same(merged(base, [with_settings]), theirs, base)
    assert_same(merged(base, [kohya]), theirs, base)


def test_without_alpha_a_layer_counts_in_full_whatever_the_others_say(
    model: StableDiffusionXLPipeline, base: Weights, tmp_path: Path
) -> None:
    pairs = random_lora.pairs(
        model, only="^unet.*attn1", rank=4, alpha=lambda module: None if "to_k" in module else 2.0
    )
    lora = Lora(write(tmp_path / "lora.safetensors", random_lora.kohya(pairs)))
    ours = merged(base, [lora])["unet"]
    for pair in pairs:
        key = f"{pair.module}.weight"
        factor = 1.0 if "to_k" in pair.module else 0.5
        torch.testing.assert_close(ours[key], base["unet"][key] + factor * pair.up @ pair.down)


# --- files that diffusers and peft write ----------------------------------------------------------


@torch.no_grad()
def trained(module: Any) -> Any:
    """An adapter as if trained: peft starts with an upper half of zeros."""
    torch.manual_seed(3)
    for name, parameter in module.named_parameters():
        if "lora_B" in name:
            parameter.normal_()
    return module


@pytest.mark.parametrize(
    "settings",
    [
        {"lora_alpha": 6, "rank_pattern": {"to_k": 2}, "alpha_pattern": {"to_k": 3, "fc1": 9}},
        {"lora_alpha": 6, "use_rslora": True},
    ],
    ids=["patterns", "rslora"],
)
def test_a_file_that_diffusers_training_scripts_write(
    settings: dict[str, Any], base: Weights, tmp_path: Path
) -> None:
    pipeline = random_lora.pipeline()
    targets = {
        "unet": ["to_k", "to_q", "to_v", "to_out.0"],
        "text_encoder": ["q_proj", "fc1"],
        "text_encoder_2": ["k_proj", "fc1"],
    }
    trained_modules = {role: getattr(pipeline, role) for role in ROLES}
    for role, module in trained_modules.items():
        patterns = {
            name: {key: value for key, value in given.items() if key in targets[role]}
            for name, given in settings.items()
            if name.endswith("_pattern")
        }
        chosen = {"target_modules": targets[role], "init_lora_weights": "gaussian"}
        module.add_adapter(peft.LoraConfig(r=4, **{**settings, **patterns, **chosen}))
        trained(module)
    StableDiffusionXLPipeline.save_lora_weights(
        tmp_path,
        **{f"{r}_lora_layers": get_peft_model_state_dict(m) for r, m in trained_modules.items()},
        **_collate_lora_metadata(trained_modules),
    )
    lora = Lora(tmp_path / "pytorch_lora_weights.safetensors", 0.9)
    assert_same(merged(base, [lora]), weights_of(fused([lora])), base)


def test_a_file_that_peft_writes_takes_alpha_from_the_settings_beside_it(
    base: Weights, tmp_path: Path
) -> None:
    settings = peft.LoraConfig(r=4, lora_alpha=10, target_modules=["to_q", "conv1", "proj_in"])
    wrapped = trained(peft.get_peft_model(random_lora.pipeline().unet, settings))
    wrapped.save_pretrained(tmp_path)
    lora = Lora(tmp_path / "adapter_model.safetensors")
    ours = merged(base, [lora])
    theirs = {**base, "unet": wrapped.merge_and_unload().state_dict()}
    assert_same(ours, theirs, base)
    before = LoraDeltas.load([lora], random_lora.UNET).fingerprint
    (tmp_path / "adapter_config.json").unlink()
    assert LoraDeltas.load([lora], random_lora.UNET).fingerprint != before


@pytest.mark.parametrize("prefix", ["", "unet.base_model.model.", "base_model.model.unet."])
def test_prefixes_that_name_no_component_or_peft_change_nothing(
    prefix: str, model: StableDiffusionXLPipeline, base: Weights, tmp_path: Path
) -> None:
    pairs = random_lora.pairs(model, only="^unet.*attn2")
    plain = random_lora.peft(pairs)
    renamed = {prefix + key.removeprefix("unet."): value for key, value in plain.items()}
    ours = merged(base, [Lora(write(tmp_path / "ours.safetensors", renamed))])
    wanted = merged(base, [Lora(write(tmp_path / "plain.safetensors", plain))])
    assert_same(ours, wanted, base)


@pytest.mark.parametrize(
    ("layout", "only"), [(random_lora.kohya, "^text.*q_proj"), (random_lora.peft, "^text.*fc")]
)
def test_text_encoder_layers_whose_layout_diffusers_cannot_guess(
    layout: Layout, only: str, model: StableDiffusionXLPipeline, base: Weights, tmp_path: Path
) -> None:
    pairs = random_lora.pairs(model, only=only)
    ours = merged(base, [Lora(write(tmp_path / "lora.safetensors", layout(pairs)))])
    for pair in pairs:
        key = f"{random_lora.built_name(pair.role, pair.module)}.weight"
        wanted = base[pair.role][key] + pair.up @ pair.down
        torch.testing.assert_close(ours[pair.role][key], wanted)


def test_alpha_beside_peft_names_counts(
    model: StableDiffusionXLPipeline, base: Weights, tmp_path: Path
) -> None:
    (pair,) = random_lora.pairs(model, only="^unet.conv_in$", rank=4)
    file = random_lora.peft([pair]) | {"unet.conv_in.alpha": torch.tensor(1)}
    ours = merged(base, [Lora(write(tmp_path / "lora.safetensors", file))])["unet"]
    delta = torch.einsum("or,rihw->oihw", pair.up[:, :, 0, 0], pair.down) / 4
    torch.testing.assert_close(ours["conv_in.weight"], base["unet"]["conv_in.weight"] + delta)


# --- the object -----------------------------------------------------------------------------------


def test_keys_are_those_of_published_checkpoints_and_other_weights_pass_through(
    model: StableDiffusionXLPipeline, tmp_path: Path
) -> None:
    pairs = random_lora.pairs(model, only="q_proj|attn1.to_out|text_projection")
    deltas = LoraDeltas.load(
        [Lora(write(tmp_path / "lora.safetensors", random_lora.diffusers(pairs)))],
        random_lora.UNET,
    )
    for role in ROLES:
        wanted = {f"{pair.module}.weight" for pair in pairs if pair.role == role}
        assert deltas.keys(role) == wanted
    assert deltas.keys("vae") == frozenset()
    other = torch.ones(2, dtype=torch.float16)
    assert deltas.merged("unet", "conv_in.bias", other) is other
    assert deltas.merged("vae", "conv_in.weight", other) is other


def test_half_precision_is_merged_in_float32_and_left_as_it_was(
    model: StableDiffusionXLPipeline, base: Weights, tmp_path: Path
) -> None:
    (pair,) = random_lora.pairs(model, only="^text_encoder.text_model.encoder.layers.0.mlp.fc1")
    half = {key: value.to(torch.bfloat16) for key, value in random_lora.peft([pair]).items()}
    deltas = LoraDeltas.load([Lora(write(tmp_path / "a.safetensors", half), 0.3)], random_lora.UNET)
    key = f"{pair.module}.weight"
    weight = base["text_encoder"][key.removeprefix("text_model.")].half()
    before = weight.clone()
    up, down = pair.up.bfloat16().float(), pair.down.bfloat16().float()
    torch.testing.assert_close(
        deltas.merged("text_encoder", key, weight), before.float() + 0.3 * up @ down
    )
    parameter = torch.nn.Parameter(before.float())
    assert not deltas.merged("text_encoder", key, parameter).requires_grad
    assert torch.equal(weight, before)
    assert torch.equal(parameter, before.float())


def test_fingerprint_sees_content_scale_and_order(
    model: StableDiffusionXLPipeline, tmp_path: Path
) -> None:
    a, b = (
        write(
            tmp_path / f"{seed}.safetensors",
            random_lora.peft(random_lora.pairs(model, only="conv_in", seed=seed)),
        )
        for seed in (1, 2)
    )
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(a.read_bytes())

    def fingerprint(*loras: Lora) -> str:
        return LoraDeltas.load(loras, random_lora.UNET).fingerprint

    same = {fingerprint(Lora(a)), fingerprint(Lora(copy)), fingerprint(Lora(a, 1))}
    others = {
        fingerprint(),
        fingerprint(Lora(b)),
        fingerprint(Lora(a, 0.5)),
        fingerprint(Lora(a), Lora(b)),
        fingerprint(Lora(b), Lora(a)),
    }
    assert len(same) == 1
    assert len(others) == 5
    assert same.isdisjoint(others)
    assert re.fullmatch("[0-9a-f]{64}", same.pop())
    assert fingerprint() == ""


def test_merging_needs_neither_peft_nor_accelerate(
    model: StableDiffusionXLPipeline, tmp_path: Path
) -> None:
    pairs = random_lora.pairs(model, only="to_q|q_proj|conv_in")
    layouts = (
        random_lora.kohya_sgm,
        random_lora.diffusers,
        random_lora.diffusers_old,
        random_lora.peft,
    )
    files = [write(tmp_path / f"{one.__name__}.safetensors", one(pairs)) for one in layouts]
    code = f"""
    import sys
    from pathlib import Path

    sys.modules["peft"] = sys.modules["accelerate"] = None
    from diffusers.utils import is_accelerate_available, is_peft_available

    from lightfill.export.lora import Lora, LoraDeltas

    assert not is_peft_available() and not is_accelerate_available()
    config = {{"layers_per_block": 2, "cross_attention_dim": {random_lora.CONTEXT}}}
    for path in sys.argv[1:]:
        deltas = LoraDeltas.load([Lora(Path(path))], config)
        print(sum(len(deltas.keys(role)) for role in {ROLES!r}))
    """
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(len(pairs))] * len(files)


# --- the command line -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "path", "scale"),
    [
        ("style.safetensors", "style.safetensors", 1.0),
        ("style.safetensors:0.8", "style.safetensors", 0.8),
        ("loras/style:-1", "loras/style", -1.0),
        ("style:1e-1", "style", 0.1),
        ("a:b.safetensors:2", "a:b.safetensors", 2.0),
        (r"C:\loras\style.safetensors", r"C:\loras\style.safetensors", 1.0),
        (r"C:\loras\style.safetensors:0.5", r"C:\loras\style.safetensors", 0.5),
        ("d:/style.safetensors", "d:/style.safetensors", 1.0),
        ("d:/style.safetensors:4", "d:/style.safetensors", 4.0),
    ],
)
def test_parse(text: str, path: str, scale: float) -> None:
    assert Lora.parse(text) == Lora(Path(path), scale)


def test_a_file_named_like_a_scale_is_that_file(tmp_path: Path) -> None:
    colon = tmp_path / "style:2"
    assert Lora.parse(str(colon)) == Lora(tmp_path / "style", 2.0)
    colon.touch()
    assert Lora.parse(str(colon)) == Lora(colon, 1.0)
    assert Lora.parse(f"{colon}:0.5") == Lora(colon, 0.5)
