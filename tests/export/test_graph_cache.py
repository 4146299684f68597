"""A trace is kept, found again by all that decides it, and never trusted when it is damaged."""

import dataclasses
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest
from onnx import TensorProto, helper
from tiny_components import architecture_of
from tiny_exports import request
from torch import nn

from lightfill.engine.manifest import Arithmetic
from lightfill.export import graph_cache
from lightfill.export.architecture import Architecture
from lightfill.export.graph import trace
from lightfill.export.graph_cache import traced
from lightfill.export.plan import make_plan

SMALL = Architecture("unet", nn.Identity(), {}, {}, {"width": 8, "heads": [1, 2]})


def small_graph() -> ir.Model:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    made = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "small", [value], [made])
    return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]))


def content(model: ir.Model) -> bytes:
    return ir.to_proto(model).SerializeToString(deterministic=True)


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this test's cache keeps graphs; nothing is there yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "lightfill" / "graphs"


@pytest.fixture
def traces(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Arithmetic]]:
    """Role and arithmetic of every trace that was made; all of them give the small graph."""
    made: list[tuple[str, Arithmetic]] = []

    def quick(component: Architecture, arithmetic: Arithmetic) -> ir.Model:
        made.append((component.role, arithmetic))
        return small_graph()

    monkeypatch.setattr(graph_cache, "trace", quick)
    return made


def graphs_in(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.onnx"))


def test_what_comes_from_the_cache_is_the_trace_byte_for_byte(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[bytes] = []

    def traced_here(component: Architecture, arithmetic: Arithmetic) -> ir.Model:
        model = trace(component, arithmetic)
        made.append(content(model))
        return model

    monkeypatch.setattr(graph_cache, "trace", traced_here)
    first = traced(architecture_of("text_encoder"), "float16")
    second = traced(architecture_of("text_encoder"), "float16")
    assert made == [content(first)] == [content(second)]
    (kept,) = graphs_in(directory)
    assert kept.read_bytes() == made[0]
    assert len(made[0]) < 100_000, "a graph without weights"


def test_a_graph_is_traced_once_and_each_caller_has_a_copy_of_its_own(
    traces: list[tuple[str, Arithmetic]],
) -> None:
    first = traced(SMALL, "float32")
    first.graph.inputs.clear()
    second = traced(SMALL, "float32")
    second.graph.inputs.clear()
    assert content(traced(SMALL, "float32")) == content(small_graph())
    assert traces == [("unet", "float32")]


class TestWhatDecidesAGraph:
    @pytest.mark.parametrize(
        ("component", "arithmetic"),
        [
            (dataclasses.replace(SMALL, role="vae_encoder"), "float32"),
            (dataclasses.replace(SMALL, config={"width": 9, "heads": [1, 2]}), "float32"),
            (dataclasses.replace(SMALL, config={"width": 8, "heads": [2, 1]}), "float32"),
            (dataclasses.replace(SMALL, config={"width": 8}), "float32"),
            (SMALL, "float16"),
        ],
        ids=["role", "setting", "order of numbers", "setting left out", "arithmetic"],
    )
    def test_component_and_arithmetic(
        self, traces: list[tuple[str, Arithmetic]], component: Any, arithmetic: Arithmetic
    ) -> None:
        traced(SMALL, "float32")
        traced(component, arithmetic)
        assert traces == [("unet", "float32"), (component.role, arithmetic)]

    def test_not_the_order_of_settings(self, traces: list[tuple[str, Arithmetic]]) -> None:
        traced(SMALL, "float32")
        turned = dict(reversed(SMALL.config.items()))
        traced(dataclasses.replace(SMALL, config=turned), "float32")
        assert len(traces) == 1

    @pytest.mark.parametrize("package", graph_cache.EXPORTER_PACKAGES)
    def test_the_release_of_a_package(
        self, package: str, traces: list[Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = graph_cache.version

        def another(name: str) -> str:
            return real(name) + (".1" if name == package else "")

        self.check_that_it_matters(traces, monkeypatch, "version", another)

    def test_this_package_s_code(
        self, traces: list[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        for module in graph_cache._CODE:
            edited = tmp_path / "edited.py"
            edited.write_bytes(Path(str(module.__file__)).read_bytes() + b"\n")
            traces.clear()
            with monkeypatch.context() as patch:
                patch.setattr(module, "__file__", str(edited))
                graph_cache.exporter_fingerprint.cache_clear()
                traced(SMALL, "float32")
            assert len(traces) == 1, module
        graph_cache.exporter_fingerprint.cache_clear()

    def test_the_opset(self, traces: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
        self.check_that_it_matters(traces, monkeypatch, "OPSET", 21)

    def check_that_it_matters(
        self, traces: list[Any], monkeypatch: pytest.MonkeyPatch, name: str, value: object
    ) -> None:
        traced(SMALL, "float32")
        graph_cache.exporter_fingerprint.cache_clear()
        with monkeypatch.context() as patch:
            patch.setattr(graph_cache, name, value)
            traced(SMALL, "float32")
        graph_cache.exporter_fingerprint.cache_clear()
        traced(SMALL, "float32")
        assert len(traces) == 2

    def test_not_the_weights_nor_where_they_come_from(
        self, traces: list[Any], random_folder: Path, tmp_path: Path
    ) -> None:
        """Two step counts of one kind and a checkpoint's folder: one graph."""
        synthetic = make_plan(request(tmp_path / "a", steps=(2, 4)))
        folder = make_plan(request(tmp_path / "b", synthetic=None, base=random_folder))
        unets = [part for plan in (synthetic, folder) for part in plan.parts if part.role == "unet"]
        assert len({part.made_from("float16") for part in unets}) == len(unets) == 3
        for part in unets:
            traced(part.architecture(), "float32")
        assert traces == [("unet", "float32")]


class TestDamage:
    @pytest.mark.parametrize("damage", ["empty", "half", "a bit", "longer", "digest", "no text"])
    def test_is_found_said_and_repaired(
        self, damage: str, traces: list[Any], directory: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        traced(SMALL, "float32")
        (path,) = graphs_in(directory)
        whole = path.read_bytes()
        if damage in {"digest", "no text"}:
            path.with_suffix(".sha256").write_bytes(b"\xff" if damage == "no text" else b"0" * 64)
        else:
            flipped = whole.replace(b"Neg", b"Oeg")
            path.write_bytes(
                {"empty": b"", "half": whole[: len(whole) // 2], "a bit": flipped}.get(
                    damage, whole + b"\n"
                )
            )
        assert content(traced(SMALL, "float32")) == content(small_graph())
        (record,) = caplog.records
        assert str(path) in record.getMessage()
        assert record.getMessage().endswith("tracing again")
        assert len(traces) == 2
        assert path.read_bytes() == whole
        traced(SMALL, "float32")
        assert len(traces) == 2

    def test_a_kill_between_graph_and_digest_is_no_damage(
        self, traces: list[Any], directory: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        traced(SMALL, "float32")
        (path,) = graphs_in(directory)
        path.with_suffix(".sha256").unlink()
        traced(SMALL, "float32")
        assert len(traces) == 2
        assert not caplog.records


class TestACacheThatCannotBeWritten:
    def test_is_said_and_the_graph_is_traced_each_time(
        self, traces: list[Any], directory: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        directory.parents[1].write_text("a file where the cache would be")
        for _ in range(2):
            assert content(traced(SMALL, "float32")) == content(small_graph())
        assert len(traces) == 2
        said = [record.getMessage() for record in caplog.records]
        assert any("cannot be written" in message for message in said)
        assert all(str(directory) in message for message in said)

    def test_leaves_no_half_file(
        self, traces: list[Any], directory: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("os.fsync", full)
        traced(SMALL, "float32")
        assert list(directory.iterdir()) == []
