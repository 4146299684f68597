"""Captions to conditions, and the text encoders' first lessons.

An untrained CLIP tower tells captions apart by almost nothing, and a UNet that trains beside one
learns to ignore it. So the towers first learn to name colour, shape and ground; of the 49,408 token
rows only those of words that mean something are trained, all others are zero and stay so.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from .architecture import TOKENS, DemoModel
from .scenes import captioned
from .shapes import COLOURS, SHAPES
from .textures import TEXTURES

TOKENIZER = Path(__file__).parent / "lightfill-demo" / "tokenizer" / "tokenizer.json"
_BEGIN, _END = 49406, 49407
_PADDING = (_END, 0)
"""Of the first tower and of the second, as SDXL has them."""
WORDS = (*COLOURS, *SHAPES, *(word for name in TEXTURES for word in name.split()))
"""Those whose rows are trained."""


class Tokens:
    """Captions to the ids of both towers, (2, 77)."""

    def __init__(self) -> None:
        self._tokenizer = Tokenizer.from_file(str(TOKENIZER))

    def __call__(self, caption: str) -> Tensor:
        words = self._words(caption)[: TOKENS - 2]
        ids = torch.tensor([[padding] * TOKENS for padding in _PADDING])
        ids[:, : len(words) + 2] = torch.tensor([_BEGIN, *words, _END])
        return ids

    def meaningful(self) -> list[int]:
        """Ids of the rows that are trained; every word of WORDS is one token."""
        ids = [self._words(word) for word in WORDS]
        assert all(len(each) == 1 for each in ids), WORDS  # noqa: S101
        return sorted({only for (only,) in ids})

    def _words(self, text: str) -> list[int]:
        found: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return found


def sow(model: DemoModel, rows: Sequence[int]) -> None:
    """Give meaningful tokens vectors far apart, all others and the positions next to nothing."""
    for tower in (model.text_encoder, model.text_encoder_2):
        table = tower.get_input_embeddings()
        named = tower.named_modules()
        (positions,) = (layer for name, layer in named if name.endswith("position_embedding"))
        with torch.no_grad():
            table.weight.zero_()
            table.weight[list(rows)] = torch.randn(len(rows), table.weight.shape[1])
            positions.weight.normal_(std=0.02)
            for layer in tower.modules():
                if type(layer).__name__ == "CLIPAttention":
                    nn.init.orthogonal_(layer.v_proj.weight)
                    nn.init.orthogonal_(layer.out_proj.weight)
        _train_rows(table.weight, rows)


def sow_new(model: DemoModel, rows: Sequence[int]) -> None:
    """Give meaningful tokens that trained towers do not know vectors as long as the others'."""
    for tower in (model.text_encoder, model.text_encoder_2):
        table = tower.get_input_embeddings().weight
        with torch.no_grad():
            lengths = table[list(rows)].norm(dim=1)
            usual = lengths[lengths > 0].median()
            new = [row for row, length in zip(rows, lengths, strict=True) if not length]
            vectors = torch.randn(len(new), table.shape[1])
            table[new] = usual * vectors / vectors.norm(dim=1, keepdim=True)
        _train_rows(table, rows)


def _train_rows(table: nn.Parameter, rows: Sequence[int]) -> None:
    """Let gradients through to `rows` alone."""
    kept = torch.zeros(table.shape[0], 1)
    kept[list(rows)] = 1
    table.register_hook(lambda gradient: gradient * kept)  # type: ignore[no-untyped-call]


def conditions(model: DemoModel, ids: Tensor) -> tuple[Tensor, Tensor]:
    """ids: (n, 2, 77). Hidden states (n, 77, 80) and the pooled vector (n, 48)."""
    first = model.text_encoder(ids[:, 0], output_hidden_states=True)
    second = model.text_encoder_2(ids[:, 1], output_hidden_states=True)
    hidden = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1)
    return hidden, second.text_embeds


class TextLoss:
    """Of update i: how badly linear readers name colour, shape and ground, from all that the UNet
    will be told: the pooled vector, and each tower's states on average.
    """

    def __init__(self, model: DemoModel, tokens: Tokens, *, batch: int, seed: int) -> None:
        self._model, self._tokens = model, tokens
        self._batch, self._seed = batch, seed
        counts = {"colour": len(COLOURS) + 1, "shape": len(SHAPES) + 1, "ground": len(TEXTURES) + 1}
        self.readers = nn.ModuleDict(
            {
                f"{name}-{source}": nn.Linear(width, count)
                for name, count in counts.items()
                for source, width in (("pooled", 48), ("first", 32), ("second", 48))
            }
        )

    def __call__(self, update: int) -> tuple[Tensor, dict[str, float]]:
        draw = np.random.Generator(np.random.PCG64([self._seed, 2, update]))
        said = [captioned(draw) for _ in range(self._batch)]
        ids = torch.stack([self._tokens(caption) for caption, _, _ in said])
        hidden, pooled = conditions(self._model, ids)
        sources = {"pooled": pooled, "first": hidden[..., :32].mean(1),
                   "second": hidden[..., 32:].mean(1)}  # fmt: skip
        targets = {
            "colour": [_place(COLOURS, thing and thing[0]) for _, thing, _ in said],
            "shape": [_place(SHAPES, thing and thing[1]) for _, thing, _ in said],
            "ground": [_place(TEXTURES, ground) for _, _, ground in said],
        }
        losses, right = [], []
        for name, reader in self.readers.items():
            what, source = name.split("-")
            scores, wanted = reader(sources[source]), torch.tensor(targets[what])
            losses.append(nn.functional.cross_entropy(scores, wanted))
            right.append((scores.argmax(1) == wanted).float().mean())
        spread = float(pooled.detach().std(dim=0).mean())
        figures = {"right": float(torch.stack(right).mean()), "spread": spread}
        return torch.stack(losses).mean(), figures


def _place(names: Iterable[str], name: str | None) -> int:
    """A name's number, from 1; 0 stands for none."""
    return 0 if name is None else list(names).index(name) + 1
