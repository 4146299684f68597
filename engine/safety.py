"""Safety checkers: which finished pictures are not safe for work, and what replaces those.

fal knows two versions. v1 is the CompVis checker that a bundle may hold (role `safety_checker`), v2
a classifier (`nsfw_classifier`), which also stands in for v1 where the bundle has none. A checker
that was asked for and cannot run is an error: pictures are never passed unchecked in silence.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .bundle import Bundle
from .checks import flag
from .errors import ComponentMissing, InvalidInput, SessionError
from .nsfw_classifier import THRESHOLD, is_installed, nsfw_probability, open_classifier
from .sessions import Session, SessionOptions
from .sessions.residency import Residency

Version = Literal["v1", "v2"]
VERSIONS: tuple[str, ...] = get_args(Version)
COMPONENT = "safety_checker"

_SIDE = 224
_MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
_STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)
"""CLIP's preprocessing constants (Radford et al. 2021; openai/CLIP)."""


@dataclass(frozen=True)
class Checker:
    """One way of checking an RGB picture: the version that it is, and its verdict."""

    version: Version
    session: Session
    is_unsafe: Callable[[Image.Image], bool]


class SafetyCheckers:
    """The checkers of an Inpainter, each loaded when it is first needed. Thread-safe."""

    def __init__(
        self, components: Residency, *, in_bundle: bool, options: SessionOptions | None = None
    ) -> None:
        self._components = components
        self._in_bundle = in_bundle
        self._options = options
        self._lock = threading.Lock()
        self._classifier: Session | None = None
        self._closed = False

    def chosen(self, enabled: Any, version: Any) -> Checker | None:
        """The checker for a request's two options, ready to run; None where none is wanted.

        enabled: False skips the check, True demands it; None checks where a version is named, and
            else if the bundle has a checker of its own.
        version: "v1", "v2" or None (v1). A bundle without v1 is checked by v2.

        Raises InvalidInput, SessionError, or ComponentMissing that says how to get a checker.
        """
        known = isinstance(version, str) and version in VERSIONS
        if version is not None and not known:
            raise InvalidInput("safety_checker_version", f"{version!r} is not v1 or v2")
        if enabled is not None and not flag("enable_safety_checker", enabled):
            return None
        if enabled is None and version is None and not self._in_bundle:
            return None
        if self._in_bundle and version != "v2":
            checker = self._components.session(COMPONENT)
            return Checker("v1", checker, lambda picture: shows_concept(checker, picture))
        classifier = self._loaded_classifier(version)
        return Checker(
            "v2", classifier, lambda picture: nsfw_probability(classifier, picture) >= THRESHOLD
        )

    def close(self) -> None:
        """Free the classifier; the bundle's checker is freed with its other components."""
        with self._lock:
            self._closed = True
            classifier, self._classifier = self._classifier, None
        if classifier is not None:
            classifier.close()

    def _loaded_classifier(self, version: str | None) -> Session:
        with self._lock:
            if self._closed:
                raise SessionError("this Inpainter is closed; open a new one")
            if self._classifier is None:
                try:
                    self._classifier = open_classifier(self._options)
                except ComponentMissing as error:
                    if version == "v2":
                        raise
                    raise ComponentMissing(f"the bundle has no {COMPONENT}, and {error}") from error
            return self._classifier


def version_for(bundle: Bundle) -> Version | None:
    """The checker that a request which does not name one gets; None where none is installed."""
    if COMPONENT in bundle.manifest.components:
        return "v1"
    return "v2" if is_installed() else None


def shows_concept(checker: Session, picture: Image.Image) -> bool:
    """Whether the CompVis checker scores an RGB picture above its threshold."""
    score = checker.run({"pixel_values": clip_pixels(picture)})["score"]
    return bool(score[0] > 0)


def blacked_out(picture: Image.Image) -> Image.Image:
    """What replaces a flagged picture: the same size, black, as fal's SDK toolkit does."""
    return Image.new("RGB", picture.size)


def clip_pixels(picture: Image.Image) -> NDArray[np.float32]:
    """CLIP's input: short side to 224 (bicubic), centre crop, normalised; (1, 3, 224, 224)."""
    scale = _SIDE / min(picture.size)
    size = (max(_SIDE, round(picture.width * scale)), max(_SIDE, round(picture.height * scale)))
    picture = picture.resize(size, Image.Resampling.BICUBIC)
    left, top = (size[0] - _SIDE) // 2, (size[1] - _SIDE) // 2
    square = np.asarray(picture.crop((left, top, left + _SIDE, top + _SIDE)), np.float32)
    normalised: NDArray[np.float32] = (square / np.float32(255) - _MEAN) / _STD
    return np.ascontiguousarray(normalised.transpose(2, 0, 1))[None]
