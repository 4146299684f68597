"""What is asked of every side of a comparison: the same photo, mask, prompt, seed and steps."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from ..engine.atomic_write import write_atomically

PROMPT = "a photo of a green ball on a wooden table"


@dataclass(frozen=True, kw_only=True)
class Workload:
    """One request. batch: pictures a request asks for, which go through the UNet together.

    image, mask: files, as a caller would hand them over; size: (width, height) of the picture.
    """

    image: Path
    mask: Path
    prompt: str = PROMPT
    size: tuple[int, int]
    steps: int
    strength: float
    seed: int = 1
    batch: int = 1

    def as_json(self) -> dict[str, Any]:
        """For the process that runs it, ours or a peer's."""
        return {**asdict(self), "image": str(self.image), "mask": str(self.mask)}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Self:
        """What `as_json` gave."""
        paths = {name: Path(content[name]) for name in ("image", "mask")}
        return cls(**{**content, **paths, "size": tuple(content["size"])})


def sample_files(directory: Path) -> tuple[Path, Path]:
    """A photo-like JPEG of 1024x1024 and a mask with a disc of half its width, made here."""
    from .host_overhead import photo_and_mask

    photo, mask = photo_and_mask(seed=1)
    paths = directory / "photo.jpg", directory / "mask.png"
    for path, content in zip(paths, (photo, mask), strict=True):
        write_atomically(path, content)
    return paths
