"""The contract of every model component: tensor names, dtypes and shapes, written once.

Exporters produce graphs with these inputs and outputs, sessions check them, `null` sessions shape
their constant outputs by them. A dimension is a fixed int, a name that varies from call to call, or
None where the model's own width decides (read from the graph). `height` and `width` are in latent
cells: one cell is `PIXELS_PER_LATENT` pixels on a side.

"activation" is the one dtype that follows the graph's arithmetic (float32 or float16); everything
else is fixed: timestep, pooled text and time ids stay float32 because diffusers computes the
sinusoids of a float16 UNet in float32 and casts after concatenating them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

PIXELS_PER_LATENT = 8
LATENT_CHANNELS = 4
TOKENS = 77

Dimension = int | str | None
"""Fixed, varying ("batch", "height", "8*height"), or fixed by the model (None)."""
ElementType = Literal["activation", "float32", "int64"]


@dataclass(frozen=True)
class Tensor:
    """One named input or output: its symbolic shape and its element type."""

    shape: tuple[Dimension, ...]
    element: ElementType = "activation"


@dataclass(frozen=True)
class Contract:
    """Inputs and outputs of one component, in the graph's order."""

    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]


def symbol_of(dimension: str) -> tuple[int, str]:
    """Factor and symbol of a dimension: "8*height" is (8, "height"), "batch" (1, "batch")."""
    factor, _, symbol = dimension.rpartition("*")
    return int(factor or 1), symbol


_LATENTS = Tensor(("batch", LATENT_CHANNELS, "height", "width"))
_PIXELS = Tensor(("batch", 3, "8*height", "8*width"))

TEXT_ENCODER = Contract(
    inputs={"inputs_embeds": Tensor(("batch", TOKENS, None))},
    outputs={"hidden_states": Tensor(("batch", TOKENS, None))},
)
"""First CLIP tower: token embeddings -> penultimate hidden states, no final layer norm."""

TEXT_ENCODER_2 = Contract(
    inputs={
        "inputs_embeds": Tensor(("batch", TOKENS, None)),
        "eos_position": Tensor(("batch",), "int64"),
    },
    outputs={
        "hidden_states": Tensor(("batch", TOKENS, None)),
        "text_embeds": Tensor(("batch", None)),
    },
)
"""Second CLIP tower: also the projected state at the end-of-text token (the pooled vector)."""

UNET = Contract(
    inputs={
        "sample": _LATENTS,
        "timestep": Tensor((1,), "float32"),
        "encoder_hidden_states": Tensor(("batch", TOKENS, None)),
        "text_embeds": Tensor(("batch", None), "float32"),
        "time_ids": Tensor(("batch", 6), "float32"),
    },
    outputs={"prediction": _LATENTS},
)
"""The denoiser; what `prediction` means is the manifest's `prediction` for that step count."""

VAE_ENCODER = Contract(
    inputs={"images": _PIXELS},
    outputs={"moments": Tensor(("batch", 2 * LATENT_CHANNELS, "height", "width"))},
)
"""Pixels in [-1, 1] -> mean and log-variance of the posterior, unscaled, stacked on channels."""

VAE_DECODER = Contract(inputs={"latents": _LATENTS}, outputs={"images": _PIXELS})
"""Unscaled latents -> pixels, nominally in [-1, 1]."""

SAFETY_CHECKER = Contract(
    inputs={"pixel_values": Tensor(("batch", 3, 224, 224), "float32")},
    outputs={"score": Tensor(("batch",), "float32")},
)
"""CLIP-normalised pictures -> one score each; above 0 the picture is not safe for work."""

PROMPT_EXPANDER = Contract(
    inputs={
        "input_ids": Tensor(("batch", "tokens"), "int64"),
        "past": Tensor((None, 2, "batch", None, "past", None)),
    },
    outputs={
        "logits": Tensor(("batch", None)),
        "present": Tensor((None, 2, "batch", None, "present", None)),
    },
)
"""A causal language model with its cache of keys and values, stacked into one tensor.

`past` is (layers, key/value, batch, heads, tokens before, head width), empty at first; `logits`
are those of the last token; `present` is the next call's `past`."""

CONTRACTS: Mapping[str, Contract] = {
    "text_encoder": TEXT_ENCODER,
    "text_encoder_2": TEXT_ENCODER_2,
    "unet": UNET,
    "vae_encoder": VAE_ENCODER,
    "vae_decoder": VAE_DECODER,
    "safety_checker": SAFETY_CHECKER,
    "prompt_expander": PROMPT_EXPANDER,
}
"""Contract by role; the safety checker and the prompt expander are optional.

A bundle may hold several components of role "unet", one per step count."""
