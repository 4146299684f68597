"""Whom lightfill is measured against; each has a script in `bench/peers`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..engine.errors import InvalidInput
from .peer_environments import Environment

SCRIPTS = Path(__file__).parent / "peers"
"""Scripts for other environments, no modules of this package: they import PyTorch."""

_DIFFUSERS = Environment(
    name="diffusers",
    requirements=("torch>=2.9", "diffusers>=0.42.1", "transformers>=5.0", "accelerate>=1.0"),
)
_OPTIMUM_ONNX = Environment(
    name="optimum-onnx",
    requirements=("torch>=2.9", "optimum-onnx[onnxruntime]>=0.1", "diffusers"),
)
_OPENVINO = Environment(
    name="openvino",
    requirements=(
        "torch>=2.9", "optimum-intel[openvino]>=2.2", "openvino-genai>=2026.4", "diffusers",
    ),
    # Its ordinary build does not load beside a CPU build of PyTorch, and no peer needs it.
    without=("torchvision",),
)  # fmt: skip
_ONNXRUNTIME_CUDA = Environment(
    name="onnxruntime-cuda",
    requirements=("torch>=2.9", "optimum-onnx[onnxruntime-gpu]>=0.1", "diffusers"),
)


@dataclass(frozen=True, kw_only=True)
class Peer:
    """One way to run the same request. work: what its script is told beside the workload."""

    name: str
    script: str
    environment: Environment
    on: str
    work: Mapping[str, Any] = field(default_factory=dict)
    note: str | None = None


_BF16_NOTE = "computes in bfloat16 where the processor has it"
PEERS = (
    Peer(
        name="diffusers-fp32", script="diffusers_eager.py", environment=_DIFFUSERS, on="cpu",
        work={"dtype": "float32"},
    ),
    Peer(
        name="diffusers-bf16", script="diffusers_eager.py", environment=_DIFFUSERS, on="cpu",
        work={"dtype": "bfloat16"},
    ),
    Peer(
        name="diffusers-compile-fp32", script="diffusers_compile.py", environment=_DIFFUSERS,
        on="cpu", work={"dtype": "float32"},
    ),
    Peer(
        name="diffusers-compile-bf16", script="diffusers_compile.py", environment=_DIFFUSERS,
        on="cpu", work={"dtype": "bfloat16"},
    ),
    Peer(
        name="optimum-onnx", script="optimum_onnx.py", environment=_OPTIMUM_ONNX, on="cpu",
    ),
    Peer(
        name="optimum-intel", script="optimum_openvino.py", environment=_OPENVINO, on="cpu",
        work={"precision": "f32"},
    ),
    Peer(
        name="optimum-intel-default", script="optimum_openvino.py", environment=_OPENVINO,
        on="cpu", note=_BF16_NOTE,
    ),
    Peer(
        name="openvino-genai", script="genai.py", environment=_OPENVINO, on="cpu",
        work={"precision": "f32"},
    ),
    Peer(
        name="openvino-genai-default", script="genai.py", environment=_OPENVINO, on="cpu",
        note=_BF16_NOTE,
    ),
    Peer(
        name="diffusers-cuda", script="diffusers_eager.py", environment=_DIFFUSERS, on="cuda",
        work={"dtype": "float16"},
    ),
    Peer(
        name="diffusers-compile-cuda", script="diffusers_compile.py", environment=_DIFFUSERS,
        on="cuda", work={"dtype": "float16"},
    ),
    Peer(
        name="onnxruntime-cuda", script="onnxruntime_cuda.py", environment=_ONNXRUNTIME_CUDA,
        on="cuda",
    ),
)  # fmt: skip


def chosen(names: str, device: str) -> list[Peer]:
    """The peers of a comma-separated list; "all" are those for the same kind of device.

    Raises InvalidInput that lists the names there are.
    """
    kind = "cpu" if device in {"cpu", "openvino", "null"} else "cuda"
    if names == "all":
        return [peer for peer in PEERS if peer.on == kind]
    by_name = {peer.name: peer for peer in PEERS}
    wanted = [name.strip() for name in names.split(",")]
    if unknown := [name for name in wanted if name not in by_name]:
        raise InvalidInput(
            "peers", f"{', '.join(unknown)} is none; choose all, or of {', '.join(by_name)}"
        )
    return [by_name[name] for name in wanted]
