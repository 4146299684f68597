"""The whole recipe in small: it runs, can be stopped anywhere, and ends in a checkpoint."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLInpaintPipeline
from PIL import Image
from torch import Tensor, nn

from lightfill.export.demo.architecture import new_model
from lightfill.export.demo.checkpoint import Checkpoint
from lightfill.export.demo.loop import Phase, train
from lightfill.export.demo.text import TextLoss, Tokens, sow
from lightfill.export.demo.train import main

NOW, NEVER = 0.0, float("inf")


def phase(updates: int = 12) -> tuple[Phase, nn.Linear]:
    torch.manual_seed(0)
    part = nn.Linear(4, 4)

    def loss(update: int) -> tuple[Tensor, dict[str, float]]:
        draw = np.random.Generator(np.random.PCG64(update))
        x = torch.from_numpy(draw.normal(size=(8, 4)).astype(np.float32))
        found = (part(x) - x.flip(1)).square().mean()
        return found, {"loss": float(found.detach())}

    def picture() -> Image.Image:
        return Image.new("RGB", (8, 8))

    return Phase("small", updates, 0.05, {"part": part}, loss, picture, (part.weight,)), part


def test_a_run_that_is_stopped_after_each_update_ends_as_one_that_is_not(tmp_path: Path) -> None:
    whole, part = phase()
    assert train(whole, Checkpoint(tmp_path / "whole.pt"), tmp_path, until=NEVER)
    pieces = 0
    while True:
        stopped, resumed = phase()
        pieces += 1
        if train(stopped, Checkpoint(tmp_path / "pieces.pt"), tmp_path, until=NOW):
            break
    assert pieces == 12
    for one, other in zip(part.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)
    done, loaded = phase()
    assert train(done, Checkpoint(tmp_path / "pieces.pt"), tmp_path, until=NOW)
    assert torch.equal(part.weight, loaded.weight)
    assert (tmp_path / "small.png").is_file()
    assert not list(tmp_path.glob("*.tmp*"))


def test_the_log_has_a_line_every_fifty_updates(tmp_path: Path) -> None:
    trained, _ = phase(100)
    train(trained, Checkpoint(tmp_path / "c.pt"), tmp_path, until=NEVER)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["update"] for line in lines] == [50, 100]
    assert lines[1]["loss"] < lines[0]["loss"]


def test_text_encoders_learn_to_tell_captions_apart() -> None:
    model = new_model(0)
    tokens = Tokens()
    sow(model, tokens.meaningful())
    loss = TextLoss(model, tokens, batch=16, seed=0)
    parts = nn.ModuleList([model.text_encoder, model.text_encoder_2, loss.readers])
    optimiser = torch.optim.Adam(parts.parameters(), lr=3e-3)
    first, _ = loss(0)
    for update in range(30):
        found, figures = loss(update)
        optimiser.zero_grad()
        found.backward()
        optimiser.step()
    assert found.item() < 0.75 * first.item()
    assert figures["spread"] > 0.3
    table = model.text_encoder.get_input_embeddings().weight
    untrained = torch.ones(len(table), dtype=torch.bool)
    untrained[tokens.meaningful()] = False
    assert not table[untrained].any()


def test_captions_become_the_ids_that_transformers_makes() -> None:
    from transformers import AutoTokenizer

    folder = Path(__file__).parents[3] / "export" / "demo" / "lightfill-demo"
    ours = Tokens()("a photo of a red heart on grass")
    for row, name in enumerate(("tokenizer", "tokenizer_2")):
        theirs = AutoTokenizer.from_pretrained(folder / name)
        ids = theirs("a photo of a red heart on grass", padding="max_length", max_length=77)
        assert ours[row].tolist() == ids["input_ids"]


def test_the_recipe_runs_from_nothing_to_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", "--rehearse", "--folder", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", [*command, "--minutes", "0.001"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 3
    assert "the same command goes on" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", command)
    main()
    for picture in ("autoencoder", "loops-64", "textures-96"):
        with Image.open(tmp_path / f"{picture}.png") as grid:
            assert grid.size[0] >= 256
    made = StableDiffusionXLInpaintPipeline.from_pretrained(tmp_path / "lightfill-demo")
    assert made.vae.config.scaling_factor == 1.0
    assert made.scheduler.config.prediction_type == "v_prediction"
    weights = made.text_encoder.get_input_embeddings().weight
    assert (weights != 0).any(dim=1).sum() <= 40
