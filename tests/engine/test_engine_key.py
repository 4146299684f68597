"""Keys: whatever invalidates a plan changes the digest, and nothing else does."""

import json
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from lightfill.engine import engine_key
from lightfill.engine.canvas import WORKING_MULTIPLE, pad_to_multiple
from lightfill.engine.components import CONTRACTS
from lightfill.engine.engine_key import (
    SIZE_MULTIPLE,
    EngineKey,
    input_shape,
    installed_version,
    is_built,
    pixels_of,
    sizes_for,
)
from lightfill.engine.errors import InvalidInput

sha256s = st.text("0123456789abcdef", min_size=64, max_size=64)
words = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
names = st.lists(words, min_size=1, max_size=3, unique=True)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "component": words,
    "graph_sha256": sha256s,
    "weights_sha256": sha256s,
    "flavour": st.sampled_from(["tensorrt", "rtx"]),
    "version": words,
    "platform": words,
    "targets": names.map(tuple),
    "sizes": st.dictionaries(
        st.sampled_from(["batch", "height", "width"]), st.integers(1, 512), min_size=1
    ),
    "flags": names.map(tuple),
    "optimization_level": st.none() | st.integers(0, 5),
    "workspace_bytes": st.none() | st.integers(1, 2**40),
}
keys = st.fixed_dictionaries(FIELDS)


def test_every_field_of_a_key_is_changed_by_the_next_test() -> None:
    assert set(FIELDS) == set(EngineKey.model_fields)


@settings(max_examples=200)
@given(keys, st.sampled_from(sorted(FIELDS)), st.data())
def test_a_change_of_any_input_changes_the_digest(
    fields: dict[str, Any], changed: str, data: st.DataObject
) -> None:
    before = EngineKey(**fields)
    value = data.draw(FIELDS[changed])
    assume(value != fields[changed])
    if changed in {"targets", "flags"}:
        assume(set(value) != set(fields[changed]))
    after = EngineKey(**fields | {changed: value})
    assert after.digest != before.digest
    assert after != before


@settings(max_examples=200)
@given(keys, st.randoms())
@example(
    {
        "component": "unet", "graph_sha256": "0" * 64, "weights_sha256": "1" * 64,
        "flavour": "rtx", "version": "1", "platform": "linux-x86_64", "targets": ("b", "a"),
        "sizes": {"width": 1, "batch": 2}, "flags": ("z", "a"), "optimization_level": None,
        "workspace_bytes": None,
    },
    None,
)  # fmt: skip
def test_the_same_inputs_give_the_same_digest_in_any_order(
    fields: dict[str, Any], shuffled: Any
) -> None:
    before = EngineKey(**fields)
    again = dict(reversed(fields.items()))
    again["sizes"] = dict(reversed(fields["sizes"].items()))
    for name in ("targets", "flags"):
        again[name] = tuple(reversed(fields[name]))
    after = EngineKey(**again)
    assert (after, after.digest) == (before, before.digest)
    assert EngineKey.model_validate_json(before.model_dump_json()).digest == before.digest


def test_the_digest_to_the_letter() -> None:
    """It names files on disk: another digest of the same key would build everything again."""
    key = EngineKey(
        component="unet", graph_sha256="0" * 64, weights_sha256="1" * 64, flavour="rtx",
        version="1.7.1.116", platform="linux-x86_64", targets=("sm89",),
        sizes={"batch": 1, "height": 128, "width": 128}, flags=("STRONGLY_TYPED",),
    )  # fmt: skip
    assert key.digest == "6953d2cf1cc48e0f24c916195f1e8ec8c617775ea55f1268de67105b89158280"
    assert key.pixels == (1024, 1024)


@pytest.mark.parametrize(
    "wrong", [{"targets": ()}, {"flavour": "onnx"}, {"graph_sha256": "abc"}, {"more": 1}]
)
def test_a_key_that_says_nothing_or_too_much_is_refused(wrong: dict[str, Any]) -> None:
    fields: dict[str, Any] = {
        "component": "unet", "graph_sha256": "0" * 64, "weights_sha256": "1" * 64,
        "flavour": "rtx", "version": "1", "targets": ("sm89",), "sizes": {},
    }  # fmt: skip
    EngineKey(**fields)
    with pytest.raises(ValidationError):
        EngineKey(**fields | wrong)


@pytest.mark.parametrize(
    ("role", "sizes"),
    [
        ("text_encoder", {"batch": 1}),
        ("text_encoder_2", {"batch": 1}),
        ("safety_checker", {"batch": 1}),
        ("vae_encoder", {"batch": 1, "height": 76, "width": 128}),
        ("vae_decoder", {"batch": 3, "height": 76, "width": 128}),
        ("unet", {"batch": 3, "height": 76, "width": 128}),
    ],
)
def test_sizes_are_those_the_pipeline_runs_each_role_at(role: str, sizes: dict[str, int]) -> None:
    assert sizes_for(role, 1000, 600, 3) == sizes
    assert pixels_of(sizes) == (None if "width" not in sizes else (1024, 608))


def test_the_prompt_expander_is_not_built() -> None:
    assert [role for role in CONTRACTS if not is_built(role)] == ["prompt_expander"]
    with pytest.raises(InvalidInput, match=r"prompt_expander is not built: .* run it on the CPU"):
        sizes_for("prompt_expander", 512, 512)


def test_sides_are_padded_as_the_canvas_pads_them() -> None:
    import numpy as np

    assert SIZE_MULTIPLE == WORKING_MULTIPLE
    for width, height in [(64, 64), (65, 96), (1000, 577), (2048, 2047)]:
        padded = pad_to_multiple(np.zeros((height, width, 3), np.uint8), "edge").shape
        sizes = sizes_for("unet", width, height)
        assert (8 * sizes["height"], 8 * sizes["width"]) == padded[:2]


def test_shapes_of_inputs_leave_open_what_the_model_decides() -> None:
    sizes = sizes_for("unet", 512, 768, 2)
    assert input_shape("unet", "sample", sizes) == (2, 4, 96, 64)
    assert input_shape("unet", "encoder_hidden_states", sizes) == (2, 77, None)
    assert input_shape("unet", "timestep", sizes) == (1,)
    assert input_shape("vae_encoder", "images", sizes) == (2, 3, 768, 512)


def test_the_installed_version_is_found_under_each_name_it_is_distributed_by(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    installed: dict[str, str] = {}

    def version(name: str) -> str:
        if name not in installed:
            raise engine_key.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(engine_key, "version", version)
    assert installed_version("rtx") is None
    assert installed_version("tensorrt") is None
    installed["tensorrt-cu12"] = "10.16.1.11"
    assert installed_version("tensorrt") == "10.16.1.11"
    installed["tensorrt"] = "11.4.0.106"
    assert installed_version("tensorrt") == "11.4.0.106"
    installed["tensorrt-rtx"] = "1.7.1.116"
    assert installed_version("rtx") == "1.7.1.116"


def test_the_version_of_the_wheel_is_the_librarys_own() -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    assert installed_version("rtx") == trt.__version__


def test_a_key_is_spelled_out_in_json() -> None:
    key = EngineKey(
        component="unet", graph_sha256="0" * 64, weights_sha256="1" * 64, flavour="rtx",
        version="1", targets=("sm120", "sm89"), sizes={"batch": 1},
    )  # fmt: skip
    assert set(json.loads(key.model_dump_json())) == set(FIELDS)
