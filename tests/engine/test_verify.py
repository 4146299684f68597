"""`lightfill verify`: what agrees passes, what does not fails, and the exit status says which."""

import json
import sys
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
from simulated_gpu import Bench, add_engines
from simulated_gpu import tensorrt as simulated

from lightfill.engine import cli
from lightfill.engine import verify as verification
from lightfill.engine.agreement import agreement
from lightfill.engine.bundle import Bundle
from lightfill.engine.errors import EngineNotBuilt
from lightfill.engine.sessions import SessionOptions

PARTS = ["text_encoder", "text_encoder_2", "vae_encoder", "unet", "vae_decoder", "picture"]


class Ran(NamedTuple):
    status: int
    out: str
    err: str


Run = Callable[..., Ran]


@pytest.fixture
def verify(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """`lightfill verify ARGS` in this process."""

    def run(*options: object) -> Ran:
        arguments = ["lightfill", "verify", *options]
        monkeypatch.setattr(sys, "argv", [str(argument) for argument in arguments])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        captured = capfd.readouterr()
        return Ran(int(stopped.value.code or 0), captured.out, captured.err)

    return run


def test_the_cpu_agrees_with_itself_part_by_part(verify: Run) -> None:
    ran = verify("--image-size", "64x64")
    assert ran.status == 0, ran.err
    lines = [line.split() for line in ran.out.splitlines()]
    assert [line[0] for line in lines[1:-1]] == PARTS
    assert all(line[1:3] == ["0", "equal"] and line[-1] == "yes" for line in lines[1:-1])
    assert ran.out.splitlines()[-1] == "cpu agrees with the CPU"


def test_a_device_that_answers_zeros_differs_and_fails(verify: Run) -> None:
    ran = verify("--image-size", "64x64", "--device", "null")
    assert ran.status == 1
    assert "DIFFERS" in ran.out.splitlines()[-1]
    assert ran.out.count("NO") == len(PARTS)


def test_a_simulated_gpu_agrees_at_every_size_asked_for(bench: Bench, verify: Run) -> None:
    for size in ((64, 64), (96, 64)):
        add_engines(bench.store, bench.runtime, size)
    ran = verify(
        "--device", bench.flavour, "--engines", bench.store.root, "--json",
        "--image-size", "64x64", "--image-size", "96x64",
    )  # fmt: skip
    assert ran.status == 0, ran.err
    report = json.loads(ran.out)
    assert (report["device"], report["passed"]) == (bench.flavour, True)
    assert list(report["sizes"]) == ["64x64", "96x64"]
    for parts in report["sizes"].values():
        assert [part["part"] for part in parts] == PARTS
        print([f"{part['part']} {part['psnr_db']:.1f}" for part in parts])
        assert all(part["passed"] and part["max_abs_error"] > 0 for part in parts[:-1])
    assert report["versions"]["lightfill"]


@pytest.mark.parametrize("wrong", ["unet", "vae_decoder"])
def test_a_component_that_is_off_is_named(
    bench: Bench, verify: Run, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    add_engines(bench.store, bench.runtime, (64, 64))
    run = simulated._run

    def off(graph: str, *arguments: object) -> dict[str, np.ndarray]:
        results = run(graph, *arguments)  # type: ignore[arg-type]
        if f"/{wrong}/" in graph:
            results = {name: array * np.float16(1.1) for name, array in results.items()}
        return results

    monkeypatch.setattr(simulated, "_run", off)
    ran = verify("--device", bench.flavour, "--engines", bench.store.root, "--image-size", "64x64")
    assert ran.status == 1
    failed = [line.split()[0] for line in ran.out.splitlines() if line.rstrip().endswith("NO")]
    assert wrong in failed
    assert set(failed) <= {wrong, "picture"}


def test_missing_engines_are_refused_before_the_cpu_begins(
    bench: Bench, verify: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verification, "reference_cases", None)
    options = SessionOptions(engines=bench.store.root)
    with pytest.raises(EngineNotBuilt, match=r"--image-size 64x64"):
        verification.verify(Bundle.open(), bench.flavour, (64, 64), options)
    ran = verify("--device", bench.flavour, "--engines", bench.store.root, "--image-size", "64x64")
    assert ran.status == 1
    assert "--image-size 64x64" in ran.err


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        (["--device", "tpu"], 1, "there is no device 'tpu'"),
        (["--image-size", "source"], 2, "image_size: 'source' has no size of its own"),
        (["--image-size", "1x1"], 2, "image_size: must be from 64 to 2048"),
        (["nowhere"], 1, "nowhere is not a bundle"),
    ],
)
def test_wrong_arguments_end_with_a_sentence(
    verify: Run, options: list[str], status: int, words: str
) -> None:
    ran = verify(*options)
    assert (ran.status, words in ran.err) == (status, True), ran.err


def test_agreement_is_of_the_worst_output() -> None:
    reference = {"a": np.array([1.0, -2.0]), "b": np.array([4.0])}
    found = agreement("x", {"a": np.array([1.0, -2.0]), "b": np.array([4.4])}, reference, 30)
    assert found.max_abs_error == pytest.approx(0.4)
    assert found.psnr_db == pytest.approx(20.0)
    assert not found.passed
    assert agreement("x", reference, reference, 30) == agreement("x", reference, reference, 30.0)
    assert agreement("x", reference, reference, 30).passed


def test_another_shape_never_agrees() -> None:
    assert not agreement("x", {"a": np.zeros(3)}, {"a": np.zeros(4)}, -1000).passed


def test_rounded_outputs_may_be_one_step_apart() -> None:
    one, other = {"score": np.array([0.001])}, {"score": np.array([0.0])}
    assert agreement("x", one, other, 40, step=0.001).passed
    assert not agreement("x", {"score": np.array([0.002])}, other, 40, step=0.001).passed
