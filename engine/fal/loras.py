"""`loras` of a request: a bundle has its LoRAs merged in, so a request can only confirm them."""

from collections.abc import Sequence
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

from ..errors import InvalidInput
from ..manifest import Manifest
from .schema import LoraWeight


def check_merged(loras: Sequence[LoraWeight], manifest: Manifest, steps: int) -> None:
    """Raise InvalidInput unless `loras` is empty or names exactly what the bundle has merged.

    Compared are file names (of a path or URL) and scales with those of the UNet for `steps`.
    """
    if not loras:
        return
    merged = manifest.components[manifest.steps[steps].component].loras
    have = sorted((lora.file, lora.scale) for lora in merged)
    asked = sorted((_file_name(lora.path), lora.scale) for lora in loras)
    if have != asked:
        listed = ", ".join(f"{file} at {scale:g}" for file, scale in have) or "none"
        raise InvalidInput(
            "loras",
            f"this server's model has other LoRAs merged ({listed}); ask for exactly these, leave "
            "`loras` out, or export a bundle with `lightfill export --lora FILE`",
        )


def _file_name(path: str) -> str:
    return PurePosixPath(unquote(urlsplit(path).path)).name
