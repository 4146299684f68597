"""Calibration requests: as the pipeline makes them, all different, and what they record is kept."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from lightfill.engine import calibration
from lightfill.engine.bundle import Bundle
from lightfill.engine.calibration import Recording, Run
from lightfill.engine.sessions.residency import AllResident

SIZE = (64, 96)


@pytest.fixture(scope="module")
def components() -> AllResident:
    return AllResident(Bundle.open(), "cpu", None)


@pytest.fixture(scope="module")
def runs(components: AllResident) -> list[Run]:
    return calibration.runs(Bundle.open(), components, [1, 4], SIZE, range(8))


def test_photos_are_pictures_that_repeat_and_differ() -> None:
    photos = [calibration.photo(*SIZE, number) for number in range(12)]
    assert all(photo.shape == (96, 64, 3) and photo.dtype == np.uint8 for photo in photos)
    assert len({photo.tobytes() for photo in photos}) == 12
    assert all(photo.std() > 5 for photo in photos)
    assert_array_equal(photos[3], calibration.photo(*SIZE, 3))


def test_step_counts_and_strengths_take_turns(runs: list[Run]) -> None:
    assert [run.schedule.steps for run in runs] == [1, 1, 4, 3, 1, 1, 4, 3]
    assert len({run.start.tobytes() for run in runs}) == 8
    assert len({run.conditioning.text_embeds.tobytes() for run in runs}) == 8
    assert all(run.start.shape == (1, 4, 12, 8) for run in runs)


def test_known_latents_stay_where_the_mask_is_zero(
    components: AllResident, runs: list[Run]
) -> None:
    run = runs[2]
    clean = run.denoised(components.session("unet"))
    outside = np.broadcast_to(run.known.mask == 0, clean.shape)
    assert 0 < outside.mean() < 1
    assert_array_equal(clean[outside], run.known.clean[outside])
    assert np.abs(clean - run.known.clean)[~outside].max() > 0.1


def test_recording_keeps_copies_of_every_run(components: AllResident, runs: list[Run]) -> None:
    unet = Recording(components.session("unet"))
    runs[2].denoised(unet)
    assert [float(feed["timestep"][0]) for feed in unet.feeds] == [999, 749, 499, 249]
    assert len({feed["sample"].tobytes() for feed in unet.feeds}) == 4
    repeated = components.session("unet").run(unet.feeds[2])["prediction"]
    assert_array_equal(repeated, unet.predictions[2])


def test_painted_is_the_masked_part_of_the_picture(components: AllResident) -> None:
    (painted,) = calibration.painted(Bundle.open(), components, [np.zeros((1, 4, 12, 8), "f4")])
    assert painted.shape == (48 * 32, 3)  # the middle half of 96 by 64 pixels
