"""The embedded model still paints what it is asked for: guards engine, scheduler and export."""

import pytest
from demo_quality import SHARES, TOLERANCE, share_of_asked_colours

from lightfill.engine.pipeline import Inpainter


@pytest.mark.parametrize("strength", SHARES)
@pytest.mark.parametrize("device", ["cpu", "openvino"])
def test_the_embedded_model_paints_the_asked_colours(device: str, strength: float) -> None:
    with Inpainter.open(device=device) as inpainter:
        share = share_of_asked_colours(inpainter, strength)
    print(f"{device}, strength {strength}: {share:.3f} of the asked colours")
    assert share >= SHARES[strength] - TOLERANCE


def test_prompts_that_do_not_arrive_are_noticed(
    demo_inpainter: Inpainter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the figure is worth: with every prompt the same it falls to what chance gives."""
    asked = type(demo_inpainter).__call__

    def deaf(self: Inpainter, photo: object, mask: object, prompt: str, **rest: object) -> object:
        return asked(self, photo, mask, "a thing", **rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Inpainter, "__call__", deaf)
    assert share_of_asked_colours(demo_inpainter, 1.0) < 0.4
