"""TensorRT's types: mypy holds our calls against stubs, these tests hold those against the wheel.

So does what the simulation's methods take.
"""

import ast
import inspect
import re
from pathlib import Path
from typing import Any

import pytest
from simulated_gpu import tensorrt as simulated
from tensorrt_names import BUILDS, RUNS, SIMULATED, overridden, used_of_tensorrt

STUBS = ast.parse(
    (Path(__file__).parents[2] / "support" / "stubs" / "tensorrt_rtx.pyi").read_text("utf-8")
)
OWN_OF_STUBS = {"__iter__", "__members__", "__int__", "name"}
"""How Python sees pybind11's enumerations and sequences, which no signature says."""


def stubbed() -> dict[str, ast.ClassDef]:
    return {node.name: node for node in STUBS.body if isinstance(node, ast.ClassDef)}


def test_the_stubs_have_every_name_and_nothing_that_is_not_used() -> None:
    members = {
        (owner, getattr(item, "name", "") or ast.unparse(getattr(item, "target", item)))
        for owner, kind in stubbed().items()
        for item in kind.body
        if isinstance(item, ast.FunctionDef | ast.AnnAssign)
    }
    members = {pair for pair in members if not pair[1].startswith("__") or pair[0] == "module"}
    used = used_of_tensorrt(*RUNS, *BUILDS) | overridden(RUNS[0], "ILogger")
    used |= overridden(BUILDS[0], "IProgressMonitor")
    used = {pair for pair in used if pair[0] != "module" and pair[1] != "__members__"}
    assert members - {("_Enumeration", "name")} == used


def parameters_of(function: ast.FunctionDef) -> list[tuple[str, str]]:
    """Names and types, `self` left out."""
    return [
        (each.arg, ast.unparse(each.annotation).removesuffix(" | None"))
        for each in function.args.args[1:]
        if each.annotation
    ]


def documented(real: Any, name: str) -> list[tuple[list[tuple[str, str]], str]]:
    """Parameters and result of each overload, from what pybind11 writes into docstrings."""
    found = []
    pattern = rf"^(?:\d+\. )?{name}\(self: [\w.]+(?:, )?(.*)\) -> (.+)$"
    for given, result in re.findall(pattern, inspect.getdoc(getattr(real, name)) or "", re.M):
        pairs = [each.partition(" = ")[0].split(": ") for each in given.split(", ") if each]
        found.append(([(own, plain(kind)) for own, kind in pairs], plain(result)))
    return found


def plain(kind: str) -> str:
    """A type without its module: TensorRT's C++ name where pybind11 knew no other."""
    return re.split(r"\.|::", kind)[-1]


def test_the_stubs_are_what_the_real_wheel_documents() -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    compared = 0
    for owner, kind in stubbed().items():
        real = getattr(trt, owner, None)
        for item in kind.body:
            if isinstance(item, ast.AnnAssign) and "ClassVar" in ast.unparse(item.annotation):
                assert owner == "_Enumeration" or hasattr(real, ast.unparse(item.target))
            if not isinstance(item, ast.FunctionDef) or item.name in OWN_OF_STUBS:
                continue
            if item.decorator_list or item.name == "__len__":
                assert hasattr(real, item.name), (owner, item.name)
                continue
            given = [
                (name, plain(re.sub(r"\[.*", "", annotation)))
                for name, annotation in parameters_of(item)
            ]
            returns = item.returns and ast.unparse(item.returns).removesuffix(" | None")
            result = plain(re.sub(r"\[.*", "", returns or "None"))
            real_ones = documented(real, item.name)
            assert (given, result) in real_ones, (owner, item.name, given, result, real_ones)
            compared += 1
    assert compared > 25


def test_the_simulated_tensorrt_takes_what_the_real_one_takes() -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    compared = 0
    for name, kind in vars(simulated).items():
        real = getattr(trt, SIMULATED.get(name, name), None)
        if real is None or not inspect.isclass(kind):
            continue
        for method, function in vars(kind).items():
            if method.startswith("_") or not inspect.isfunction(function):
                continue
            taken = list(inspect.signature(function).parameters)[1:]
            overloads = [
                [own for own, _ in parameters] for parameters, _ in documented(real, method)
            ]
            assert taken in overloads, (name, method, taken, overloads)
            compared += 1
    assert compared > 12
