"""Requests in fal's words, small enough for the embedded model, and what they answer with."""

import base64
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lightfill.engine.fal.settings import Settings


def data_uri(picture: Image.Image) -> str:
    buffer = BytesIO()
    picture.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def photo() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8))


def mask() -> Image.Image:
    picture = Image.new("L", (90, 70))
    picture.paste(255, (20, 20, 60, 50))
    return picture


SMALL: dict[str, Any] = {
    "image_url": data_uri(photo()),
    "mask_url": data_uri(mask()),
    "prompt": "a red ball",
    "image_size": {"width": 96, "height": 64},
    "seed": 5,
    "format": "png",
}


def opened(output: dict[str, Any], index: int = 0) -> Image.Image:
    """An output's picture, out of its data URI or its file:// URL."""
    url = output["images"][index]["url"]
    if url.startswith("data:"):
        return Image.open(BytesIO(base64.b64decode(url.partition(",")[2])))
    return Image.open(BytesIO(Path(url.removeprefix("file://")).read_bytes()))


def settings_in(folder: Path, **more: Any) -> Settings:
    return Settings(data_dir=folder / "data", **more)


class Log(list[str]):
    """Collects messages as `on_log`, and cancels once it holds `limit` of them."""

    def __init__(self, limit: int | None = None) -> None:
        super().__init__()
        self._limit = limit
        self.labels: list[dict[str, str]] = []

    def __call__(self, message: str, labels: Mapping[str, str] | None = None) -> None:
        self.append(message)
        self.labels.append(dict(labels or {}))

    def cancelled(self) -> bool:
        return self._limit is not None and len(self) >= self._limit

    def steps(self) -> list[str]:
        return [line.partition(" after ")[0] for line in self if line.startswith("step ")]
