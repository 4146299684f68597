"""A synthetic checkpoint loads in diffusers, and its numbers are those of a synthetic export."""

from pathlib import Path

import torch
from diffusers import StableDiffusionXLInpaintPipeline

from lightfill.export.base import SyntheticBase
from lightfill.export.synthetic import synthetic_configs
from lightfill.export.synthetic_checkpoint import write_checkpoint


def test_it_loads_whole_and_its_weights_are_the_exports(tmp_path: Path) -> None:
    write_checkpoint("tiny", tmp_path)
    pipeline = StableDiffusionXLInpaintPipeline.from_pretrained(tmp_path)
    base = SyntheticBase("tiny", synthetic_configs("tiny"))
    for folder, key in (
        ("unet", "mid_block.attentions.0.proj_in.weight"),
        ("vae", "decoder.conv_in.weight"),
        ("text_encoder_2", "text_model.encoder.layers.1.mlp.fc1.weight"),
    ):
        found = getattr(pipeline, folder).state_dict()
        expected = base.weights(folder, {key: tuple(found[key].shape)}).read(key)
        assert torch.equal(found[key].float(), expected.to(torch.float16).float()), key
    table = pipeline.text_encoder.get_input_embeddings().weight.detach()
    assert len(table) == len(pipeline.tokenizer) == 49408
    assert table.float().std() > 0
