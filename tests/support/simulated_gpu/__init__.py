"""A simulated GPU, for tests only: CUDA- and TensorRT-shaped objects over host memory.

Nothing here is a GPU, and nothing here is installed with lightfill. What it is for: the code that
drives a real one (buffers, copies, streams, graphs, shared activations, errors) runs against it on
any machine, and mistakes that a real GPU answers with garbage, or not at all, are faults here:

- memory used after it was freed, before it was written, or beyond its end;
- results read before the stream was synchronised (they are NaN until then), page-locked memory
  rewritten before its copy ran, work queued in the wrong order or on another GPU's stream;
- graphs replayed with addresses that are gone, captured without a warm-up, or around calls that
  cannot be captured; too little activation memory;
- contexts destroyed while their work is queued; anything not freed in the end.

An execution runs the engine's source, the float16 ONNX graph, in ONNX Runtime.
"""

from .bench import Bench
from .feeds import feed_of
from .machine import Machine, SimulatedFault
from .modules import install
from .plans import add_engine, add_engines

__all__ = ["Bench", "Machine", "SimulatedFault", "add_engine", "add_engines", "feed_of", "install"]
