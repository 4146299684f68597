"""Our conditioning of a prompt against that of diffusers' pipeline."""

import numpy as np
import torch
from diffusers import StableDiffusionXLInpaintPipeline

from lightfill.engine.text import Conditioning


def assert_same_conditioning(
    ours: Conditioning, pipeline: StableDiffusionXLInpaintPipeline, prompt: str
) -> float:
    """The largest error, as a share of the largest value; 1e-5 at most."""
    with torch.no_grad():
        hidden, _, pooled, _ = pipeline.encode_prompt(prompt, do_classifier_free_guidance=False)
    worst = 0.0
    for found, wanted in ((ours.hidden_states, hidden), (ours.text_embeds, pooled)):
        expected = wanted.numpy()
        assert found.shape == expected.shape
        worst = max(worst, float(np.abs(found - expected).max() / np.abs(expected).max()))
    assert worst <= 1e-5, prompt
    return worst
