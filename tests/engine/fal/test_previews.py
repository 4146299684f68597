"""`preview`: small JPEGs in the labels of step logs, and nothing where they are not asked for."""

import base64
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from fal_requests import SMALL, Log, settings_in
from PIL import Image

from lightfill import Inpainter
from lightfill.engine.errors import RequestInvalid
from lightfill.engine.fal.endpoint import Endpoint
from lightfill.engine.fal.previews import MAX_BYTES, small_jpeg


@pytest.fixture
def endpoint(tmp_path: Path, demo_inpainter: Inpainter) -> Endpoint:
    return Endpoint(settings_in(tmp_path), demo_inpainter)


def test_every_step_of_every_picture_has_a_preview(endpoint: Endpoint) -> None:
    log = Log()
    endpoint.run(SMALL | {"preview": True, "num_images": 2, "strength": 1}, on_log=log)
    labels = [labels for line, labels in zip(log, log.labels, strict=True) if "step" in line]
    assert len(labels) == 8
    for each in labels:
        assert set(each) == {"preview", "preview_window"}
        header, _, payload = each["preview"].partition(",")
        assert header == "data:image/jpeg;base64"
        with Image.open(BytesIO(base64.b64decode(payload))) as picture:
            assert (picture.format, picture.size) == ("JPEG", (12, 8))
        assert each["preview_window"].count(",") == 3
    assert len({each["preview"] for each in labels}) > 1


def test_without_it_labels_are_empty_and_the_output_is_the_same(endpoint: Endpoint) -> None:
    log, other = Log(), Log()
    plain = endpoint.run(SMALL | {"sync_mode": True}, on_log=log)
    shown = endpoint.run(SMALL | {"sync_mode": True, "preview": True}, on_log=other)
    assert not any(log.labels)
    assert any(other.labels)
    assert log.steps() == other.steps()
    assert plain["images"] == shown["images"]


def test_what_is_no_boolean_is_refused(endpoint: Endpoint) -> None:
    with pytest.raises(RequestInvalid, match="preview"):
        endpoint.run(SMALL | {"preview": "perhaps"})


@pytest.mark.parametrize("size", [(8, 8), (128, 128), (256, 256), (256, 128)])
def test_even_noise_fits_into_six_kilobytes(size: tuple[int, int]) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3)).astype(np.uint8)
    data = small_jpeg(Image.fromarray(noise))
    assert len(data) <= MAX_BYTES
    with Image.open(BytesIO(data)) as picture:
        assert picture.width / picture.height == size[0] / size[1]
