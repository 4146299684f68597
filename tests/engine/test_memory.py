"""The rule that chooses low memory mode: what a bundle needs, against what the machine has."""

import math
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lightfill.engine import memory
from lightfill.engine.bundle import Bundle
from lightfill.engine.manifest import FileEntry
from lightfill.engine.pipeline import Inpainter

IN_ORDER = ["text_encoder", "text_encoder_2", "vae_encoder", "unet", "vae_decoder"]


def grown(factor: int = 200) -> Bundle:
    """The demo bundle as if its files were `factor` times larger (2.6 GB of weights)."""
    bundle = Bundle.open()
    files = {
        path: FileEntry(bytes=entry.bytes * factor, sha256=entry.sha256)
        for path, entry in bundle.manifest.files.items()
    }
    return Bundle(bundle.root, bundle.manifest.model_copy(update={"files": files}))


def available(amount: int) -> Callable[[], int]:
    return lambda: amount


def never() -> int:
    raise AssertionError("the machine was asked")


def weights(component: str) -> int:
    return (Bundle.open().root / component / "weights.bin").stat().st_size


def with_manifest(**changes: Any) -> Bundle:
    bundle = Bundle.open()
    return Bundle(bundle.root, bundle.manifest.model_copy(update=changes))


def several_unets() -> dict[str, Any]:
    """Two step counts, each with a UNet of its own, equal ones."""
    manifest = Bundle.open().manifest
    second = {"unet-8step": manifest.components["unet"]}
    step = manifest.steps[4]
    return {
        "components": {**manifest.components, **second},
        "steps": {4: step, 8: step.model_copy(update={"component": "unet-8step"})},
    }


def test_components_count_twice_and_the_larger_of_loading_and_computing() -> None:
    total = sum(weights(name) for name in IN_ORDER)
    loading = 2 * weights("unet")
    side = int((loading / 10_000) ** 0.5)  # of a picture whose computing takes less than that
    several = several_unets()
    small = memory.needed_bytes(with_manifest(natural_size=side, **several))
    assert small == 2 * total + loading
    large = memory.needed_bytes(with_manifest(natural_size=2048, **several))
    assert large == 2 * total + 10_000 * 2048**2 > 2 * total + loading


def test_an_only_unet_is_loaded_while_nothing_else_is_there() -> None:
    total, unet = sum(weights(name) for name in IN_ORDER), weights("unet")
    side = int(((4 * unet - 2 * total) / 10_000) ** 0.5)
    assert memory.needed_bytes(with_manifest(natural_size=side)) == 4 * unet
    large = memory.needed_bytes(with_manifest(natural_size=2048))
    assert large == 2 * total + 10_000 * 2048**2


def test_openvino_keeps_weights_twice_but_a_unet_in_int8_little_more_than_once() -> None:
    bundle = with_manifest(natural_size=64)
    unet, computing = weights("unet"), 10_000 * 64**2
    others = sum(weights(name) for name in IN_ORDER) - unet
    for precision in (None, "bf16"):
        needed = memory.needed_bytes(bundle, "openvino", precision)
        assert needed == 4 * (others + unet) + computing
    for precision in ("int8", "int8+bf16"):
        needed = memory.needed_bytes(bundle, "openvino", precision)
        assert needed == 4 * others + round(1.2 * unet) + computing


def test_of_several_unets_the_largest_counts() -> None:
    components = dict(Bundle.open().manifest.components)
    components["unet-1step"] = components["unet"].model_copy(
        update={"weights": components["vae_decoder"].weights}
    )
    both = with_manifest(components=components)
    assert memory.needed_bytes(both) == memory.needed_bytes(Bundle.open())


@pytest.mark.parametrize("device", ["cpu", "openvino"])
@pytest.mark.parametrize(("lacking", "short"), [(2, True), (0, False), (-(10**9), False)])
def test_automatic_choice_compares_need_with_what_is_available(
    device: str, lacking: int, short: bool, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    bundle = grown()
    needed = memory.needed_bytes(bundle, device)
    there = math.ceil(needed / 0.8) - lacking  # a fifth is the system's
    monkeypatch.setattr(memory, "available_bytes", available(there))
    assert memory.chooses_low_memory(bundle, device) is short
    if short:
        assert f"about {needed / 1e9:.1f} GB of memory on {device}" in caplog.text
        assert f"of the {there / 1e9:.1f} GB that are available" in caplog.text
        assert "low_memory=False (--no-low-memory)" in caplog.text
        assert "low_memory=True (--low-memory)" in caplog.text
    else:
        assert not caplog.records


@pytest.mark.parametrize("device", ["cuda", "null", "cpu"])
@pytest.mark.parametrize("wanted", [True, False])
def test_the_caller_decides_without_the_machine_being_asked(
    device: str, wanted: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(memory, "available_bytes", never)
    assert memory.chooses_low_memory(grown(), device, wanted) is wanted
    assert not caplog.records


@pytest.mark.parametrize("device", ["cuda", "null"])
def test_devices_with_memory_of_their_own_or_none_are_not_looked_at(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "available_bytes", never)
    assert memory.chooses_low_memory(grown(), device) is False


def test_the_embedded_model_asks_no_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psutil", None)  # importing it would raise
    with Inpainter.open() as inpainter:
        assert inpainter.low_memory is False


@pytest.mark.parametrize(
    ("content", "limit"),
    [
        (b"2147483648\n", 2**31),
        (b"0", 0),
        (b"max\n", None),
        (b"", None),
        (b"-1", None),
        (b"\xff\xfe garbage", None),
        (b"12 34", None),
        (None, None),
    ],
)
def test_cgroup_limit_is_a_number_or_none(
    content: bytes | None, limit: int | None, tmp_path: Path
) -> None:
    file = tmp_path / "memory.max"
    if content is not None:
        file.write_bytes(content)
    assert memory.cgroup_limit(file) == limit
    assert memory.cgroup_limit(tmp_path) is None, "a directory is no limit either"


@pytest.mark.parametrize(("limit", "expected"), [(None, 5000), (9000, 5000), (3000, 3000)])
def test_the_lower_of_free_memory_and_limit_is_available(
    limit: int | None, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = types.SimpleNamespace(virtual_memory=lambda: types.SimpleNamespace(available=5000))
    monkeypatch.setitem(sys.modules, "psutil", fake)
    monkeypatch.setattr(memory, "cgroup_limit", lambda: limit)
    assert memory.available_bytes() == expected


def test_this_machine_has_memory() -> None:
    assert 2**20 < memory.available_bytes() < 2**50
