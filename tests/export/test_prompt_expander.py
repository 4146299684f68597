"""The expander continues as transformers does, from an empty cache on and in any portions."""

import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from lightfill.export.prompt_expander import (
    PromptExpander,
    canonical_prompt_expander,
    prompt_expander_model,
)

LAYERS, HEADS, HEAD_WIDTH, VOCABULARY = 2, 4, 8, 97
TINY = {
    "model_type": "gpt2",
    "n_layer": LAYERS,
    "n_head": HEADS,
    "n_embd": HEADS * HEAD_WIDTH,
    "n_positions": 64,
    "vocab_size": VOCABULARY,
    "bos_token_id": None,
    "eos_token_id": None,  # generation never stops early
    "initializer_range": 0.5,  # larger than usual: the model does not repeat one token for ever
}
NEW_TOKENS = 30


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """With tensors this small, threads do little but wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def random_model(**settings: Any) -> Any:
    torch.manual_seed(7)
    return prompt_expander_model(TINY | settings).eval().requires_grad_(False)


def random_tokens(batch: int, tokens: int) -> Tensor:
    generator = torch.Generator().manual_seed(11)
    return torch.randint(0, VOCABULARY, (batch, tokens), generator=generator)


def nothing_before(batch: int) -> Tensor:
    return torch.zeros(LAYERS, 2, batch, HEADS, 0, HEAD_WIDTH)


@pytest.mark.parametrize("portions", [[9], [1] * 9, [4, 5], [1, 7, 1]])
@pytest.mark.parametrize("settings", [{}, {"scale_attn_by_inverse_layer_idx": True, "n_inner": 24}])
def test_any_portions_give_the_logits_and_the_cache_of_transformers(
    portions: list[int], settings: dict[str, Any]
) -> None:
    model, tokens = random_model(**settings), random_tokens(3, 9)
    wanted = model(tokens, use_cache=True)
    module, present = PromptExpander(model), nothing_before(3)
    for some in tokens.split(portions, dim=1):
        logits, present = module(some, present)
    torch.testing.assert_close(logits, wanted.logits[:, -1], rtol=0, atol=2e-5)
    for found, layer in zip(present, wanted.past_key_values.layers, strict=True):
        torch.testing.assert_close(
            found, torch.stack([layer.keys, layer.values]), rtol=0, atol=2e-5
        )


def exported(weights: dict[str, Tensor], dtype: torch.dtype) -> onnxruntime.InferenceSession:
    """The graph, traced on fake weights and given these afterwards, in ONNX Runtime."""
    with torch.device("meta"):
        module = PromptExpander(prompt_expander_model(TINY)).eval().to(dtype)
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    example = {
        "input_ids": torch.zeros(2, 5, dtype=torch.int64),
        "past": torch.zeros(LAYERS, 2, 2, HEADS, 3, HEAD_WIDTH, dtype=dtype),
    }
    batch = torch.export.Dim("batch", min=1, max=8)
    tokens = torch.export.Dim("tokens", min=1, max=64)
    past = torch.export.Dim("past", min=0, max=64)
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
                kwargs={name: mode.from_tensor(value) for name, value in example.items()},
                dynamic_shapes={"input_ids": {0: batch, 1: tokens}, "past": {2: batch, 4: past}},
                strict=False,
            )
        program = torch.onnx.export(
            traced,
            dynamo=True,
            opset_version=20,
            input_names=list(example),
            output_names=["logits", "present"],
            optimize=False,
            verbose=False,
        )
    assert program is not None
    assert set(program.model.graph.initializers) == set(weights)
    for name, value in program.model.graph.initializers.items():
        value.const_value = ir.tensor(weights[name].to(dtype).numpy(), name=name)
    data = ir.to_proto(program.model).SerializeToString()
    return onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def session() -> onnxruntime.InferenceSession:
    return exported(dict(PromptExpander(random_model()).named_parameters()), torch.float32)


def greedy(session: onnxruntime.InferenceSession, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
    """The prompt and 30 tokens more, one at a time after the prompt as a whole."""
    present = nothing_before(len(tokens)).numpy()
    feed, every = tokens, tokens
    for _ in range(NEW_TOKENS):
        logits, present = session.run(["logits", "present"], {"input_ids": feed, "past": present})
        feed = logits.argmax(-1)[:, None]
        every = np.concatenate([every, feed], axis=1)
    assert present.shape == (LAYERS, 2, len(tokens), HEADS, every.shape[1] - 1, HEAD_WIDTH)
    return every


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("prompt", [1, 6])
def test_the_graph_generates_what_transformers_generates(
    session: onnxruntime.InferenceSession, batch: int, prompt: int
) -> None:
    tokens = random_tokens(batch, prompt)
    wanted = random_model().generate(
        tokens,
        attention_mask=torch.ones_like(tokens),
        do_sample=False,
        max_new_tokens=NEW_TOKENS,
        pad_token_id=0,
    )
    assert np.array_equal(greedy(session, tokens.numpy()), wanted.numpy())
    assert len(wanted[0, prompt:].unique()) > 5, "a model that repeats itself proves little"


def test_a_float16_graph_computes_in_float16() -> None:
    model, tokens = random_model(), random_tokens(2, 7)
    session = exported(dict(PromptExpander(model).named_parameters()), torch.float16)
    types = {item.name: item.type for item in [*session.get_inputs(), *session.get_outputs()]}
    assert types == {
        "input_ids": "tensor(int64)",
        "past": "tensor(float16)",
        "logits": "tensor(float16)",
        "present": "tensor(float16)",
    }
    present = nothing_before(2).half().numpy()
    for some in tokens.split([6, 1], dim=1):
        logits, present = session.run(None, {"input_ids": some.numpy(), "past": present})
    wanted = model(tokens).logits[:, -1].numpy()
    np.testing.assert_allclose(logits, wanted, rtol=0, atol=0.01 * np.abs(wanted).max())


def test_the_embedding_is_held_once_and_nothing_else_carries_data() -> None:
    model = random_model()
    names = [name for name, _ in model.named_parameters()]
    assert names.count("transformer.wte.weight") == 1
    assert "lm_head.weight" not in names
    module = PromptExpander(model)
    assert len(list(module.named_parameters(remove_duplicate=False))) == len(names)
    assert not dict(module.named_buffers())


def test_widths_are_the_sizes_of_the_cache() -> None:
    assert PromptExpander(random_model()).widths() == {"past": (LAYERS, HEADS, HEAD_WIDTH)}


def old_spelling(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """As transformers 4 saved them: with both names of the embedding, and the causal masks."""
    masks = {
        f"transformer.h.{layer}.attn.{name}": value
        for layer in range(LAYERS)
        for name, value in (
            ("bias", torch.ones(1, 1, 64, 64, dtype=torch.bool).tril()),
            ("masked_bias", torch.tensor(-1e4)),
        )
    }
    return tensors | masks | {"lm_head.weight": tensors["transformer.wte.weight"]}


def without_prefix(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """As the first GPT-2 checkpoints are."""
    old = old_spelling(tensors)
    del old["lm_head.weight"]
    return {name.removeprefix("transformer."): value for name, value in old.items()}


def named_after_its_head(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """As safetensors' save_model leaves it: of two names, the alphabetically first."""
    old = old_spelling(tensors)
    del old["transformer.wte.weight"]
    return old


@pytest.mark.parametrize("spelling", [dict, old_spelling, without_prefix, named_after_its_head])
def test_weights_files_give_back_every_parameter(
    tmp_path: Path, spelling: Callable[[dict[str, Tensor]], dict[str, Tensor]]
) -> None:
    model, tokens = random_model(), random_tokens(1, 5)
    model.save_pretrained(tmp_path)
    found = canonical_prompt_expander(spelling(load_file(tmp_path / "model.safetensors")))
    wanted = dict(model.named_parameters())
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    again = prompt_expander_model(json.loads((tmp_path / "config.json").read_text())).eval()
    again.load_state_dict(found, strict=False)
    before = nothing_before(1)
    assert torch.equal(
        PromptExpander(again)(tokens, before)[0], PromptExpander(model)(tokens, before)[0]
    )


def test_a_configuration_of_transformers_4_makes_gpt_2() -> None:
    config = {
        "activation_function": "gelu_new",
        "architectures": ["GPT2LMHeadModel"],
        "bos_token_id": 50256,
        "eos_token_id": 50256,
        "model_type": "gpt2",
        "n_ctx": 1024,
        "n_embd": 768,
        "n_head": 12,
        "n_inner": None,
        "n_layer": 12,
        "n_positions": 1024,
        "summary_activation": None,
        "summary_type": "cls_index",
        "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
        "torch_dtype": "float32",
        "transformers_version": "4.23.1",
        "use_cache": True,
        "vocab_size": 50257,
    }
    with torch.device("meta"):
        model = prompt_expander_model(config)
    shapes = {name: tuple(value.shape) for name, value in model.named_parameters()}
    assert shapes["transformer.wte.weight"] == (50257, 768)
    assert shapes["transformer.wpe.weight"] == (1024, 768)
    assert shapes["transformer.h.11.mlp.c_fc.weight"] == (768, 3072)
    assert PromptExpander(model).widths() == {"past": (12, 12, 64)}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"model_type": "opt"}, "type opt"),
        ({"tie_word_embeddings": False}, "not tied to its token embedding"),
    ],
)
def test_configurations_of_other_models_are_refused(change: dict[str, Any], reason: str) -> None:
    with torch.device("meta"), pytest.raises(ValueError, match=reason):
        prompt_expander_model(TINY | change)
