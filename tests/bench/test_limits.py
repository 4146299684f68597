"""What a processor can do, measured in a process of its own; what a GPU can, by its data sheet."""

import sys

import pytest

from lightfill.bench import limits
from lightfill.bench.limits import DeviceLimit
from lightfill.engine.errors import SessionError
from lightfill.engine.gpus import Gpu


def test_the_faster_product_is_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENBLAS_CORETYPE", "no such kernel")  # taken out for the measurement
    found = limits.host_limit(threads=1, edge=128)
    assert found.device == "processor"
    assert found.flops > 1e8
    assert found.bytes > 1e8
    names = [source.rpartition(" GFLOP/s")[0].rpartition(" ")[0] for source in found.sources]
    assert names == ["numpy sgemm", "ONNX Runtime MatMul"]
    figures = [float(source.split()[-2]) for source in found.sources]
    assert max(figures) == pytest.approx(found.flops / 1e9, abs=1)


def test_without_onnx_the_other_product_is_used_and_it_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "lightfill.export.matmul_graph", None)
    monkeypatch.setattr(sys, "argv", ["limits", "1", "64"])
    limits.main()
    printed = capsys.readouterr().out
    assert '"ONNX Runtime MatMul": null' in printed
    assert "ONNX Runtime's MatMul was not measured: " in printed


def test_a_measurement_that_fails_says_how_to_look() -> None:
    with pytest.raises(SessionError, match=r"(?s)cannot be measured: .*run `python -m lightfill"):
        limits.host_limit(threads=-3, edge=64)


def test_a_gpus_limit_is_its_data_sheets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "local_gpu", lambda _: Gpu("sm89", "NVIDIA L4"))
    found = limits.gpu_limit()
    assert (found.device, found.flops, found.bytes) == ("NVIDIA L4", 121e12, 300e9)
    monkeypatch.setattr(limits, "local_gpu", lambda _: Gpu("sm99", "NVIDIA X1"))
    with pytest.raises(SessionError, match="the data sheet of NVIDIA X1 is not known"):
        limits.gpu_limit()
    monkeypatch.setattr(limits, "local_gpu", lambda _: None)
    with pytest.raises(SessionError, match="has no NVIDIA GPU"):
        limits.gpu_limit()


def test_of_two_measurements_the_higher_counts() -> None:
    first = DeviceLimit(device="abacus", flops=2.0, bytes=1.0, sources=["first"])
    last = DeviceLimit(device="abacus", flops=1.0, bytes=3.0, sources=["last"])
    best = DeviceLimit(device="abacus", flops=2.0, bytes=3.0, sources=["first"])
    assert first.higher(last) == last.higher(first) == best
