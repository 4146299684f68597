"""Which names of TensorRT our modules use, read from their source."""

import ast
from pathlib import Path

from lightfill.engine import sessions

ROOT = Path(sessions.__file__).parents[2]
RUNS = ("engine/sessions/tensorrt_library.py", "engine/sessions/loaded_engine.py")
BUILDS = ("export/engine_build.py", "export/engine_network.py")
TYPES = {
    "engine": "ICudaEngine",
    "self._engine": "ICudaEngine",
    "self._context": "IExecutionContext",
    "self._runtime": "Runtime",
    "self._cache": "IRuntimeCache",
    "found._cache": "IRuntimeCache",
    "strategies": "ExecutionContextAllocationStrategy",
    "compiled": "IHostMemory",
    "network": "INetworkDefinition",
    "layer": "ILayer",
    "tensor": "ITensor",
}
"""Which of TensorRT's types an expression of our modules has."""
CONFIG = {RUNS[0]: "IRuntimeConfig", BUILDS[0]: "IBuilderConfig"}
"""And which one `config` has."""
MODULES = {"self._module", "module", "trt"}
SIMULATED = {"RtxRuntime": "Runtime", "RtxRuntimeConfig": "IRuntimeConfig"}
"""Names of the simulation's classes, where they are not the real ones."""


def used_of_tensorrt(*files: str) -> set[tuple[str, str]]:
    """(type, member) of every use of TensorRT in our modules, types of the module included."""
    found = set()
    for file in files:
        types = TYPES | {"config": CONFIG.get(file, "")}
        for node in ast.walk(ast.parse((ROOT / file).read_text("utf-8"))):
            if isinstance(node, ast.Constant) and str(node.value).startswith("trt."):  # annotations
                found.add(("module", str(node.value).removeprefix("trt.")))
            if not isinstance(node, ast.Attribute) or node.attr in {"__version__", "__init__"}:
                continue
            owner = ast.unparse(node.value)
            if owner in types:
                found.add((types[owner], node.attr))
            elif owner in MODULES:
                found.add(("module", node.attr))
            elif owner.rpartition(".")[0] in MODULES:
                found.add((owner.rpartition(".")[2], node.attr))
    return found


def overridden(file: str, base: str) -> set[tuple[str, str]]:
    """What a class in one of our files defines of TensorRT's interface that it derives from."""
    return {
        (base, item.name)
        for node in ast.walk(ast.parse((ROOT / file).read_text("utf-8")))
        if isinstance(node, ast.ClassDef)
        for parent in node.bases
        if ast.unparse(parent).endswith(f".{base}")
        for item in node.body
        if isinstance(item, ast.FunctionDef) and item.name != "__init__"
    }
